"""What is left when the tests are over, and what stays of it?"""

from __future__ import annotations

from collections.abc import Callable
import gc
from typing import TYPE_CHECKING
from typing import TypeVar

import pytest

from pytest_tempres import distributed
from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.keeping import given_by_crashed
from pytest_tempres.keeping import index
from pytest_tempres.keeping import settle_due
from pytest_tempres.leaks.deferred import promised
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.temp_root import exists
from pytest_tempres.leaks.verdict import is_deferred
from pytest_tempres.leaks.verdict import is_evidence
from pytest_tempres.leaks.verdict import judge
from pytest_tempres.leaks.verdict import parents
from pytest_tempres.leaks.verdict import suspects
from pytest_tempres.owners import look
from pytest_tempres.pardon import excused
from pytest_tempres.pardon import pardoned
from pytest_tempres.primitives._system import System
from pytest_tempres.state import SessionState
from pytest_tempres.workspace.retention import Kept

if TYPE_CHECKING:
    from typing import Concatenate
    from typing import ParamSpec

    _P = ParamSpec("_P")

_T = TypeVar("_T")

__all__ = ["finish"]


def finish(state: SessionState, session: pytest.Session) -> None:
    """Judge what is left once all fixtures are torn down and all local workers have exited."""
    if System.getpid() != state.pid:
        return
    try:
        _finish(state, session)
    finally:
        # Nobody knows how far this came when somebody pressed Ctrl-C.
        _index(state)


def _finish(state: SessionState, session: pytest.Session) -> None:
    _attempt(state, settle_due)
    _attempt(state, _keep_reported)
    # Before anything else is looked at: what goes wrong from here on costs no kept directory.
    _index(state)
    _attempt(state, _look_for_the_last_time)
    detected = _attempt(state, _detected) or []
    if state.joined:
        promised_here = _attempt(state, _promised_by_worker) or set()
        distributed.send(state, promised_here, detected)
        return
    # The root of a worker that crashed, for instance.
    _attempt(state, SessionState.open_again)
    leaks = _attempt(state, _judge, _is_broken(session)) or []
    leaks += _attempt(state, excused, detected) or []
    _attempt(state, _keep_evidence, leaks)
    _index(state)
    _copy_kept(state)
    if state.is_worker:
        distributed.send(state, set(), leaks)
    elif leaks or state.remote_leaks or state.elsewhere or state.kept or _is_wanted(state):
        _conclude(state, session, leaks)


def _attempt(
    state: SessionState,
    function: Callable[Concatenate[SessionState, _P], _T],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> _T | None:
    """Call *function*; its failure becomes a warning, and the rest of the end goes on."""
    try:
        return function(state, *args, **kwargs)
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is ours
        name = function.__name__.strip("_")
        state.warn_of(error, name, f"internal error in {name}: {error!r}")
        return None


def _index(state: SessionState) -> None:
    """Write down what is kept, if there is more than was written."""
    if not state.joined and len(state.kept) > state.indexed:
        state.indexed = len(state.kept)
        # Where it is not an `OSError`: a test's audit hook raises what it likes.
        state.unindexed = True
        _attempt(state, index)


def _look_for_the_last_time(state: SessionState) -> None:
    if state.ledger is not None:
        # A worker may end while a test in another one still removes the session's directory.
        look(state, state.ledger, final=True, needed=not state.joined)


def _is_broken(session: pytest.Session) -> bool:
    """Whether the session ended before its controller had read all reports."""
    return session.exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)


def _copy_kept(state: SessionState) -> None:
    wanted = state.settings.artifacts is not None and not state.is_worker
    if wanted and (state.kept or any(each.kept for each in state.elsewhere.values())):
        from pytest_tempres import exporting  # noqa: PLC0415 -- most sessions want no copies

        exporting.export(state)


def _conclude(state: SessionState, session: pytest.Session, leaks: list[Leak]) -> None:
    from pytest_tempres import conclusion  # noqa: PLC0415 -- most sessions leave nothing

    leaks += excused(state, state.remote_leaks)
    for each in state.elsewhere.values():
        leaks += excused(state, each.found(state.failed))
    conclusion.conclude(state, session, tuple(leaks))


def _is_wanted(state: SessionState) -> bool:
    """Whether somebody wants to be told even that nothing was left."""
    asked = any(target.type != "term" for target in state.settings.reports)
    asked = asked or bool(state.baseline) or state.settings.update_baseline is not None
    return asked or bool(state.config.hook.pytest_tempres_summary.get_hookimpls())


def _promised_by_worker(state: SessionState) -> set[str]:
    if state.ledger is None or not state.ledger.paths():
        return set()
    gc.collect()
    return promised(state.callbacks)


def _detected(state: SessionState) -> list[Leak]:
    """Return what the other detectors found in this process."""
    ledger = state.ledger
    if ledger is None:
        return []
    leaks = []
    for detector in ledger.detectors:
        try:
            leaks += detector.judge()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is ours
            name = type(detector).__name__
            state.warn(name, f"internal error in {name}: {error!r}", TempresLeakWarning)

    def stands(leak: Leak) -> Leak:
        failed = leak.owner in ledger.stumbled or is_evidence(leak.entry, state.failed)
        return leak._replace(status="failed-test") if failed else leak

    return [stands(leak) for leak in leaks if not state.may_stay(leak)]


def _judge(state: SessionState, broken: bool) -> list[Leak]:
    ledger = state.ledger
    if ledger is None or "temp" not in state.settings.detect:
        return []
    state.entries.update((entry.path, entry) for entry in ledger.remaining())
    ledger.unsent.clear()
    for entry in _unreported(state, broken=broken):
        state.entries.setdefault(entry.path, entry)
    kept = {kept.path for kept in state.kept}
    # What lies in a directory that a fixture gave is kept with it.
    there = [
        e
        for e in suspects(state.entries.values(), state.garbage.collect)
        if kept.isdisjoint(parents(e.path))
    ]
    if there:
        state.deferred |= promised(state.callbacks)
    return judge(
        there,
        deferred=state.deferred,
        # What came from workers is marked: where each runs all tests, a name says too little.
        failed=() if state.workers else state.failed,
        pardoned=lambda leak: pardoned(state, leak),
        known=state.baseline,
    )


def _unreported(state: SessionState, *, broken: bool) -> list[Entry]:
    """Return what lies in the roots of workers that did not tell of it.

    :param broken: Whether it may have been told in a report that nobody has read.
    """
    found = []
    for worker in _names(state.root.path):
        path = System.join(state.root.path, worker)
        if worker == state.worker.name or worker.endswith(".d") or not System.isdir(path):
            continue
        test = state.crashed.get(worker)
        owner = SESSION if test is None else Owner("test", test)
        # A worker that was killed had no chance to clean up.
        died = broken or worker not in state.ended
        found += [
            Entry(System.join(path, name), owner, test, evidence=died, worker=worker)
            for name in _names(path)
        ]
    return found


def _names(path: str) -> list[str]:
    try:
        return sorted(System.listdir(path))
    except OSError:
        return []


def _keep_reported(state: SessionState) -> None:
    """Add what workers kept that did not come to their end, as their reports say."""
    if state.joined:
        return
    known = {kept.path for kept in state.kept}
    state.kept += [
        kept
        for path, kept in state.made.items()
        # A worker that came to its end has told what it kept.
        if path not in known and kept.worker not in state.ended and System.lexists(path)
    ]


def _keep_evidence(state: SessionState, leaks: list[Leak]) -> None:
    """Complete the list of what is kept: what failed tests left, and what crashed ones had."""
    if state.settings.keep == "none":
        return
    inside = System.join(state.root.path, "")
    left = [leak.entry for leak in leaks if leak.status == "failed-test"]
    state.kept += [
        Kept(entry.test, entry.path, "failed", entry.worker)
        for entry in (*left, *_ignored_evidence(state))
        if entry.test in state.failed
        and entry.path not in state.superseded
        and entry.path.startswith(inside)
    ]
    known = {kept.path for kept in state.kept}
    for worker, test in state.crashed.items():
        paths = (path for path in given_by_crashed(state, worker) if path not in known)
        state.kept += [Kept(test, path, "crashed", worker) for path in paths]


def _ignored_evidence(state: SessionState) -> list[Entry]:
    """Return what failed tests left that is no leak by its name, such as what a nested pytest kept.

    The path of that may have been printed.
    """
    failed = () if state.workers else state.failed
    kept = {kept.path for kept in state.kept}
    there = [
        entry
        for entry in state.entries.values()
        if entry.ignored
        and is_evidence(entry, failed)
        and exists(entry.path)
        and kept.isdisjoint(parents(entry.path))
    ]
    if there:
        state.deferred |= promised(state.callbacks)
    return [entry for entry in there if not is_deferred(entry, state.deferred)]
