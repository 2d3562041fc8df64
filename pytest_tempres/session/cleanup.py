"""The cleanup at the end of the session and at exit, and the sweep of dead sessions."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from contextlib import closing
from contextlib import suppress
from dataclasses import replace
from typing import Final

from pytest_tempres.leaks import deferred
from pytest_tempres.leaks.model import MODIFICATIONS
from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.temp.scan import measure
from pytest_tempres.leaks.verdict import parents
from pytest_tempres.primitives import _process
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.escape import escaped
from pytest_tempres.reports.summary import Summary
from pytest_tempres.session.messages import Progress
from pytest_tempres.session.messages import write_late
from pytest_tempres.session.report_files import write_files
from pytest_tempres.session.state import SessionState
from pytest_tempres.workspace import journal
from pytest_tempres.workspace.dirfd import children
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.sweep import Reclaimed
from pytest_tempres.workspace.sweep import remove_expired
from pytest_tempres.workspace.sweep import sweep

__all__ = ["remove_leftovers", "sweep_dead_sessions"]


def remove_leftovers(state: SessionState) -> None:
    """Empty the session root, except for kept paths and those that exit handlers will remove."""
    kept_paths = {each.path for each in state.retention.kept}
    kept = set().union(*map(parents, kept_paths))
    root = state.workspace.root.path
    left = [path for path in _contents(root, kept_paths) if path not in kept]
    summary = state.result.summary
    reported = summary.leaks if summary is not None else ()
    if not {leak.path for leak in reported}.issuperset(left):
        # These paths were created after the verdict, or there was none.
        state.leaks.at_exit.find()
    leaks = _correctable_paths(summary) if summary is not None else set()
    # Other plugins may have removed reported paths after the verdict.
    _correct(state, leaks)
    if left and not state.leaks.is_exit_handler_pending():
        with _progress(state, "leftover files") as progress:
            _remove_all(state, left, progress)
    leaks = {path for path in leaks if System.lexists(path)}
    left = [path for path in left if System.lexists(path)]
    if left or leaks:
        _process.call_at_exit(lambda: _at_exit(state, leaks, left, keeps=bool(kept)))
    else:
        _end_session(state)


def _progress(state: SessionState, what: str) -> closing[Progress]:
    return closing(Progress(state.config, what, silent=not state.settings.prints_report))


def _remove_all(
    state: SessionState, paths: list[str], tick: Callable[[], object] | None = None
) -> None:
    for path in paths:
        if path not in state.leaks.at_exit.paths:
            state.workspace.remove(CreatedPath(path), tick)
    if state.retention.index_failed:
        # The disk may have been full.
        state.retention.write_index()


def _at_exit(state: SessionState, leaks: set[str], left: list[str], *, keeps: bool) -> None:
    """Finish the cleanup after all other exit handlers have run."""
    _correct(state, leaks)
    _remove_all(state, [path for path in left if System.lexists(path)])
    if not keeps:
        deferred.delete_open_files(state.workspace.root.path)
    _end_session(state)


def _end_session(state: SessionState) -> None:
    """End the session: remove its root if it is empty, or else leave it to a later sweep."""
    state.retention.journal.close()
    if state.retention.kept and not state.retention.index_failed:
        # Without this record the session counts as one that still runs.
        with suppress(OSError):
            journal.end(state.workspace.root)
    state.workspace.root.remove_if_empty()
    if state.retention.kept or state.result.any_kept:
        # With this one, there may be more stored sessions than should be kept.
        remove_expired(
            System.dirname(state.workspace.root.path),
            rootdir=str(state.config.rootpath),
            keep_sessions=state.settings.keep_sessions,
            seconds=_SECONDS,
        )


def _contents(root: str, kept: Collection[str]) -> list[str]:
    """Return what is in the worker roots, and in directories that a test created next to them."""
    workers = [path for path in children(root) if path not in kept and System.isdir(path)]
    return [path for worker in workers for path in children(worker)]


def _correctable_paths(summary: Summary) -> set[str]:
    """Return the paths of reported leaks that may still be removed at exit.

    Paths on another host cannot be checked. A leak that is a modification, or
    that has no path, may exist without its path.
    """
    return {
        leak.path
        for leak in summary.leaks
        if leak.status == "leak"
        and leak.kind not in (*MODIFICATIONS, *WITHOUT_PATH)
        and summary.is_here(leak)
    }


def _correct(state: SessionState, paths: Collection[str]) -> None:
    """Report which of *paths* have been removed since the report, and correct the report files."""
    summary = state.result.summary
    gone = {path for path in paths if not System.lexists(path)}
    if summary is None or not gone:
        return
    leaks = (
        leak._replace(status="deferred") if leak.path in gone else leak for leak in summary.leaks
    )
    state.result.summary = replace(summary, leaks=tuple(leaks))
    write_files(state, state.result.summary, again=True)
    lines = "".join(f"  {escaped(path, controls=True)}\n" for path in sorted(gone))
    write_late(f"pytest-tempres: reported as leaks, but removed at exit:\n{lines}")


#: The time budget of the sweep of dead sessions, in seconds.
_SECONDS: Final = 2.0


def sweep_dead_sessions(state: SessionState) -> Reclaimed:
    """Remove what dead sessions left next to this one, once in each session."""
    if state.result.swept or state.workspace.joined or state.workspace.is_forked:
        return Reclaimed()
    state.result.swept = True
    with _progress(state, "files of dead sessions") as progress:
        found = sweep(
            System.dirname(state.workspace.root.path),
            rootdir=str(state.config.rootpath),
            keep_sessions=state.settings.keep_sessions,
            seconds=_SECONDS,
            run=str(state.workspace.metadata["run"] or state.workspace.root.path),
            measure=_measure,
            tick=progress,
        )
    state.result.any_kept = found.any_kept
    if found.failure is not None:
        path, error = found.failure
        text = f"could not remove {path} of a dead session: {error.strerror or error}"
        state.messages.warn("sweep", text)
    return found


def _measure(path: str, until: float) -> tuple[int, bool]:
    found = measure(path, until)
    return (0, True) if found is None else (found.bytes, found.complete)
