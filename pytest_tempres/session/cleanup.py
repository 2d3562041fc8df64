"""The removal of what is left at the end of the session and at exit, and of dead sessions."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from typing import Final

from pytest_tempres.leaks import deferred
from pytest_tempres.leaks.model import MODIFICATIONS
from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.temp.scan import measure
from pytest_tempres.leaks.verdict import parents
from pytest_tempres.primitives import _process
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.summary import escaped
from pytest_tempres.session.messages import Progress
from pytest_tempres.session.messages import write_late
from pytest_tempres.session.report_files import write_files
from pytest_tempres.session.retention import index
from pytest_tempres.session.retention import remove
from pytest_tempres.session.state import SessionState
from pytest_tempres.workspace import journal
from pytest_tempres.workspace import sweep as sweeping
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import children
from pytest_tempres.workspace.sweep import Reclaimed
from pytest_tempres.workspace.sweep import sweep

__all__ = ["clear", "correct", "correctable_paths", "reclaim", "retire"]


def clear(state: SessionState) -> None:
    """Empty the session root, except for kept paths and paths that exit handlers will remove."""
    kept_paths = {each.path for each in state.retention.kept}
    kept = set().union(*map(parents, kept_paths))
    left = [path for path in _contents(state.workspace.root, kept_paths) if path not in kept]
    reported = (
        {leak.path for leak in state.result.summary.leaks}
        if state.result.summary is not None
        else set()
    )
    if not reported.issuperset(left):
        # These paths were created after the verdict, or there was none.
        state.leaks.deferred |= deferred.removed_at_exit(state.leaks.callbacks)
    leak_reported = _reported_leaks(state)
    if leak_reported:
        # Other plugins may have removed reported paths after the verdict.
        correct(state, leak_reported)
    if left and not _is_exit_handler_pending(state):
        progress = Progress(state.config, "what was left", silent=not state.settings.prints)
        try:
            _remove_all(state, left, progress)
        finally:
            progress.close()
    leak_reported = {path for path in leak_reported if System.lexists(path)}
    waiting = [path for path in left if System.lexists(path)]
    if waiting or leak_reported:
        _process.call_at_exit(lambda: _at_exit(state, leak_reported, waiting, kept))
    else:
        _end_session(state)


def _is_exit_handler_pending(state: SessionState) -> bool:
    """Whether an exit handler that we cannot inspect may need some of the paths."""
    callbacks, ledger = state.leaks.callbacks, state.leaks.ledger
    return callbacks is not None and ledger is not None and callbacks.pending(ledger.folder)


def _reported_leaks(state: SessionState) -> set[str]:
    """Return the paths that were reported as leaks."""
    if state.result.summary is None:
        return set()
    return correctable_paths(state.result.summary)


def _remove_all(
    state: SessionState, paths: list[str], tick: Callable[[], object] | None = None
) -> None:
    for path in paths:
        if path not in state.leaks.deferred:
            remove(state, CreatedPath(path), tick)
    if state.retention.unindexed:
        # The disk may have been full.
        index(state)


def _at_exit(
    state: SessionState, leak_reported: set[str], waiting: list[str], kept: Collection[str]
) -> None:
    """Finish the cleanup after all other exit handlers have run."""
    if leak_reported:
        correct(state, leak_reported)
    _remove_all(state, [path for path in waiting if System.lexists(path)])
    if not kept:
        deferred.delete_open_files(state.workspace.root.path)
    _end_session(state)


def _end_session(state: SessionState) -> None:
    """End the session: remove its root if it is empty, else leave it as a dead session."""
    state.retention.journal.close()
    if state.retention.kept and not state.retention.unindexed:
        # Without this record the session counts as one that still runs.
        with suppress(OSError):
            journal.end(state.workspace.root)
    state.workspace.root.remove_if_empty()
    retire(state)


def _contents(root: SessionRoot, kept: Collection[str]) -> list[str]:
    """Return what is in the worker roots, and in directories that a test created beside them.

    :param kept: Paths that are kept with all that is in them.
    """
    found = []
    for worker in children(root.path):
        if worker not in kept and System.isdir(worker):
            found += children(worker)
    return found


def correctable_paths(summary: Summary) -> set[str]:
    """Return the reported paths that may turn out to be removed at exit after all.

    Paths on another host cannot be checked. A missing path says nothing about a leak
    that is a modification or that has no path.
    """
    return {
        leak.path
        for leak in summary.leaks
        if leak.status == "leak"
        and leak.kind not in (*MODIFICATIONS, *WITHOUT_PATH)
        and summary.is_here(leak)
    }


def correct(state: SessionState, paths: Collection[str]) -> None:
    """Report which of *paths* have been removed since, and correct the report files.

    :param paths: The result of :func:`correctable_paths`, before this plugin removes any.
    """
    summary = state.result.summary
    if summary is None:
        return
    gone = {path for path in paths if not System.lexists(path)}
    if not gone:
        return
    state.result.summary = replace(
        summary, leaks=tuple(_corrected(leak, gone) for leak in summary.leaks)
    )
    write_files(state, state.result.summary, again=True)
    lines = "".join(f"  {escaped(path, controls=True)}\n" for path in sorted(gone))
    write_late(f"pytest-tempres: reported as left, but removed at the end:\n{lines}")


def _corrected(leak: Leak, gone: Collection[str]) -> Leak:
    return leak._replace(status="deferred") if leak.path in gone else leak


#: The time budget of the sweep of dead sessions, in seconds.
_SECONDS: Final = 2.0


def reclaim(state: SessionState) -> Reclaimed:
    """Remove what dead sessions left beside this one; only the first call does anything."""
    if state.result.swept or state.workspace.joined or System.getpid() != state.workspace.pid:
        return Reclaimed()
    state.result.swept = True
    progress = Progress(state.config, "what dead sessions left", silent=not state.settings.prints)
    try:
        found = sweep(
            System.dirname(state.workspace.root.path),
            rootdir=str(state.config.rootpath),
            keep_sessions=state.settings.keep_sessions,
            seconds=_SECONDS,
            run=str(state.workspace.metadata["run"] or state.workspace.root.path),
            measure=_measure,
            tick=progress,
        )
    finally:
        progress.close()
    state.result.any_kept = found.any_kept
    if found.failure is not None:
        path, error = found.failure
        state.messages.warn(
            "sweep", f"{path} of a dead session could not be removed: {error.strerror or error}"
        )
    return found


def retire(state: SessionState) -> None:
    """Remove the oldest stored sessions if there are too many, now that this one has ended."""
    if state.retention.kept or state.result.any_kept:
        sweeping.retire(
            System.dirname(state.workspace.root.path),
            rootdir=str(state.config.rootpath),
            keep_sessions=state.settings.keep_sessions,
            seconds=_SECONDS,
        )


def _measure(path: str, until: float) -> tuple[int, bool]:
    found = measure(path, until)
    return (0, True) if found is None else (found.bytes, found.complete)
