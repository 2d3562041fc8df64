"""What goes of a session's directory when the session is over, and what has to wait?"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from contextlib import suppress

from pytest_tempres import reclaiming
from pytest_tempres.keeping import index
from pytest_tempres.keeping import remove
from pytest_tempres.leaks import deferred
from pytest_tempres.leaks.verdict import parents
from pytest_tempres.primitives._system import System
from pytest_tempres.progress import Progress
from pytest_tempres.state import SessionState
from pytest_tempres.workspace import custody
from pytest_tempres.workspace import journal
from pytest_tempres.workspace.retention import Made
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import children

__all__ = ["clear"]


def clear(state: SessionState) -> None:
    """Remove all of our root but what is kept, and what others have promised to remove."""
    whole = {each.path for each in state.kept}
    kept = set().union(*map(parents, whole))
    left = [path for path in _contents(state.root, whole) if path not in kept]
    judged = {leak.path for leak in state.summary.leaks} if state.summary is not None else set()
    if not judged.issuperset(left):
        # Made after the verdict, or in a session that had none.
        state.deferred |= deferred.promised(state.callbacks)
    accused = _accused(state)
    if accused:
        # Other plugins clean up after the verdict too.
        _correct(state, accused)
    if left and not _somebody_may_come(state):
        progress = Progress(state.config, "what was left", silent=not state.settings.prints)
        try:
            _remove_all(state, left, progress)
        finally:
            progress.close()
    accused = {path for path in accused if System.lexists(path)}
    waiting = [path for path in left if System.lexists(path)]
    if waiting or accused:
        custody.hand_over(lambda: _at_exit(state, accused, waiting, kept))
    else:
        _end(state)


def _somebody_may_come(state: SessionState) -> bool:
    """Whether an exit handler may know a path in ways that nobody can tell, and want it there."""
    callbacks, ledger = state.callbacks, state.ledger
    return callbacks is not None and ledger is not None and callbacks.pending(ledger.folder)


def _accused(state: SessionState) -> set[str]:
    """Return the paths that were reported as leaks."""
    if state.summary is None:
        return set()
    from pytest_tempres import correction  # noqa: PLC0415 -- most sessions leave nothing

    return correction.open_to_correction(state.summary)


def _correct(state: SessionState, accused: set[str]) -> None:
    from pytest_tempres import correction  # noqa: PLC0415 -- as above

    correction.correct(state, accused)


def _remove_all(
    state: SessionState, paths: list[str], tick: Callable[[], object] | None = None
) -> None:
    for path in paths:
        if path not in state.deferred:
            remove(state, Made(path), tick)
    if state.unindexed:
        # There may be room for it now.
        index(state)


def _at_exit(
    state: SessionState, accused: set[str], waiting: list[str], kept: Collection[str]
) -> None:
    """Do after all exit handlers what could not be done before them."""
    if accused:
        _correct(state, accused)
    _remove_all(state, [path for path in waiting if System.lexists(path)])
    if not kept:
        deferred.settle(state.root.path)
    _end(state)


def _end(state: SessionState) -> None:
    """Let go of the root; it is gone then, or dead like any other."""
    state.journal.close()
    if state.kept and not state.unindexed:
        # It counts as one that still runs, if that cannot be noted.
        with suppress(OSError):
            journal.end(state.root)
    state.root.dissolve()
    reclaiming.retire(state)


def _contents(root: SessionRoot, kept: Collection[str]) -> list[str]:
    """Return what is in all the worker roots, and in what a test has put beside them.

    :param kept: What stays as a whole.
    """
    found = []
    for worker in children(root.path):
        if worker not in kept and System.isdir(worker):
            found += children(worker)
    return found
