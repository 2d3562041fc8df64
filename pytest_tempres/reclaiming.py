"""What goes of sessions that died?"""

from __future__ import annotations

from typing import Final

from pytest_tempres.leaks.temp_root import measure
from pytest_tempres.primitives._system import System
from pytest_tempres.progress import Progress
from pytest_tempres.state import SessionState
from pytest_tempres.workspace import sweep as sweeping
from pytest_tempres.workspace.sweep import Reclaimed
from pytest_tempres.workspace.sweep import sweep

__all__ = ["reclaim", "retire"]

#: How long a session looks after dead ones, in seconds.
_SECONDS: Final = 2.0


def reclaim(state: SessionState) -> Reclaimed:
    """Remove what dead sessions left beside ours, once in each session."""
    if state.swept or state.joined or System.getpid() != state.pid:
        return Reclaimed()
    state.swept = True
    progress = Progress(state.config, "what dead sessions left", silent=not state.settings.prints)
    try:
        found = sweep(
            System.dirname(state.root.path),
            rootdir=str(state.config.rootpath),
            keep_sessions=state.settings.keep_sessions,
            seconds=_SECONDS,
            run=str(state.about["run"] or state.root.path),
            measure=_measured,
            tick=progress,
        )
    finally:
        progress.close()
    state.any_kept = found.any_kept
    if found.failure is not None:
        path, error = found.failure
        state.warn(
            "sweep", f"{path} of a dead session could not be removed: {error.strerror or error}"
        )
    return found


def retire(state: SessionState) -> None:
    """See to it that no more kept sessions stay than should, once this one has ended."""
    if state.kept or state.any_kept:
        sweeping.retire(
            System.dirname(state.root.path),
            rootdir=str(state.config.rootpath),
            keep_sessions=state.settings.keep_sessions,
            seconds=_SECONDS,
        )


def _measured(path: str, until: float) -> tuple[int, bool]:
    found = measure(path, until)
    return (0, True) if found is None else (found.bytes, found.complete)
