"""The end of a session: leaks, kept paths, exit status, summary and report files."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import gc
import sys
from typing import TYPE_CHECKING
from typing import TypeVar

import pytest

from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.leaks import baseline
from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.deferred import removed_at_exit
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.temp.scan import exists
from pytest_tempres.leaks.verdict import drop_ignored
from pytest_tempres.leaks.verdict import is_deferred
from pytest_tempres.leaks.verdict import is_from_failed
from pytest_tempres.leaks.verdict import judge
from pytest_tempres.leaks.verdict import parents
from pytest_tempres.leaks.verdict import suspects
from pytest_tempres.primitives._system import System
from pytest_tempres.primitives._system import uname
from pytest_tempres.reports.registry import FORMATS
from pytest_tempres.reports.summary import SessionFacts
from pytest_tempres.reports.summary import Summary
from pytest_tempres.session.baseline_tally import has_searched
from pytest_tempres.session.baseline_tally import stale_leaks
from pytest_tempres.session.ownership import scan
from pytest_tempres.session.report_files import find_repository
from pytest_tempres.session.report_files import write_files
from pytest_tempres.session.retention import created_by_crashed
from pytest_tempres.session.retention import finish_expired
from pytest_tempres.session.retention import index
from pytest_tempres.session.state import SessionState
from pytest_tempres.workspace.retention import Kept

if TYPE_CHECKING:
    from typing import Concatenate
    from typing import ParamSpec

    _P = ParamSpec("_P")

__all__ = [
    "finish",
    "is_ignored_by_hook",
    "must_fail",
    "without_ignored",
    "write_summary",
]

_T = TypeVar("_T")


def finish(state: SessionState, session: pytest.Session) -> None:
    """Give the verdict, once all fixtures are torn down and all local workers have exited."""
    if System.getpid() != state.workspace.pid:
        return
    try:
        _finish(state, session)
    finally:
        # Ctrl-C may have interrupted this at any point.
        _update_index(state)


def _finish(state: SessionState, session: pytest.Session) -> None:
    _run_step(state, finish_expired)
    _run_step(state, _keep_reported)
    # Before the scan, so that a failure in any later step loses no kept directory.
    _update_index(state)
    _run_step(state, _final_scan)
    detected = _run_step(state, _run_detectors) or []
    if state.workspace.joined:
        at_exit = _run_step(state, _removed_at_exit_by_worker) or set()
        if state.reported.send is not None:
            state.reported.send(state, at_exit, detected)
        return
    # For example of the root of a worker that crashed.
    _run_step(state, _restore_modes)
    leaks = _run_step(state, _judge, _is_broken(session)) or []
    leaks += _run_step(state, without_ignored, detected) or []
    _run_step(state, _keep_left_by_failed, leaks)
    _update_index(state)
    _copy_kept(state)
    if state.reported.send is not None:
        state.reported.send(state, set(), leaks)
    elif (
        leaks
        or state.reported.remote_leaks
        or state.reported.remote_workers
        or state.retention.kept
        or _is_summary_needed(state)
    ):
        _summarize(state, session, leaks)


def _run_step(
    state: SessionState,
    function: Callable[Concatenate[SessionState, _P], _T],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> _T | None:
    """Call *function*; if it raises, warn and return None, so that the next steps still run."""
    try:
        return function(state, *args, **kwargs)
    except Exception as error:  # noqa: BLE001 -- an internal error becomes a warning
        name = function.__name__.strip("_")
        state.messages.warn_of(error, name, f"internal error in {name}: {error!r}")
        return None


def _update_index(state: SessionState) -> None:
    """Write the index of kept paths if it lacks some of them."""
    if not state.workspace.joined and len(state.retention.kept) > state.retention.indexed:
        state.retention.indexed = len(state.retention.kept)
        # For exceptions other than `OSError`: an audit hook of a test may raise anything.
        state.retention.unindexed = True
        _run_step(state, index)


def _final_scan(state: SessionState) -> None:
    if state.leaks.ledger is not None:
        # A worker may end while a test in another one is removing the session root.
        scan(state, state.leaks.ledger, final=True, needed=not state.workspace.joined)


def _restore_modes(state: SessionState) -> None:
    state.workspace.restore_modes()


def _is_broken(session: pytest.Session) -> bool:
    """Whether the session ended before its controller had read all reports."""
    return session.exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)


def _copy_kept(state: SessionState) -> None:
    is_asked_for = state.settings.artifacts is not None and not state.is_worker
    if is_asked_for and (
        state.retention.kept or any(each.kept for each in state.reported.remote_workers.values())
    ):
        from pytest_tempres.session import retention  # noqa: PLC0415 -- few sessions copy artifacts

        retention.export(state)


def _summarize(state: SessionState, session: pytest.Session, leaks: list[Leak]) -> None:
    leaks += without_ignored(state, state.reported.remote_leaks)
    for each in state.reported.remote_workers.values():
        leaks += without_ignored(state, each.found(state.reported.failed))
    write_summary(state, session, tuple(leaks))


def _is_summary_needed(state: SessionState) -> bool:
    """Whether a report, a baseline or another plugin needs a summary without leaks too."""
    needed = any(target.type in FORMATS for target in state.settings.reports)
    needed = needed or bool(state.leaks.baseline) or state.settings.update_baseline is not None
    return needed or bool(state.config.hook.pytest_tempres_summary.get_hookimpls())


def _removed_at_exit_by_worker(state: SessionState) -> set[str]:
    if state.leaks.ledger is None or not state.leaks.ledger.paths():
        return set()
    gc.collect()
    return removed_at_exit(state.leaks.callbacks)


def _run_detectors(state: SessionState) -> list[Leak]:
    """Return what the optional detectors found in this process."""
    ledger = state.leaks.ledger
    if ledger is None:
        return []
    leaks = []
    for detector in ledger.detectors:
        try:
            leaks += detector.judge()
        except Exception as error:  # noqa: BLE001 -- an internal error becomes a warning
            name = type(detector).__name__
            state.messages.warn(name, f"internal error in {name}: {error!r}", TempresLeakWarning)

    def with_status(leak: Leak) -> Leak:
        failed = leak.owner in ledger.failed_owners or is_from_failed(
            leak.entry, state.reported.failed
        )
        return leak._replace(status="failed-test") if failed else leak

    return [with_status(leak) for leak in leaks if not state.leaks.is_allowed(leak)]


def _judge(state: SessionState, broken: bool) -> list[Leak]:
    ledger = state.leaks.ledger
    if ledger is None or "temp" not in state.settings.detect:
        return []
    state.leaks.entries.update((entry.path, entry) for entry in ledger.remaining())
    ledger.not_yet_sent.clear()
    for entry in _unreported(state, broken=broken):
        state.leaks.entries.setdefault(entry.path, entry)
    kept = {kept.path for kept in state.retention.kept}
    # What is in a kept directory is kept with it.
    there = [
        e
        for e in suspects(state.leaks.entries.values(), state.leaks.gc_budget.collect)
        if kept.isdisjoint(parents(e.path))
    ]
    if there:
        state.leaks.deferred |= removed_at_exit(state.leaks.callbacks)
    return judge(
        there,
        deferred=state.leaks.deferred,
        # Workers mark their entries themselves: if each runs all tests, a node id is ambiguous.
        failed=() if state.reported.workers else state.reported.failed,
        is_ignored_by_hook=lambda leak: is_ignored_by_hook(state, leak),
        known=state.leaks.baseline,
    )


def _unreported(state: SessionState, *, broken: bool) -> list[Entry]:
    """Return what is in the roots of workers and was not reported.

    :param broken: Whether the controller may not have read all reports.
    """
    found = []
    for worker in _list_names(state.workspace.root.path):
        path = System.join(state.workspace.root.path, worker)
        if worker == state.workspace.worker.name or worker.endswith(".d") or not System.isdir(path):
            continue
        test = state.reported.crashed.get(worker)
        owner = SESSION if test is None else Owner("test", test)
        # A worker that was killed had no chance to clean up.
        died = broken or worker not in state.reported.ended
        found += [
            Entry(System.join(path, name), owner, test, from_failed=died, worker=worker)
            for name in _list_names(path)
        ]
    return found


def _list_names(path: str) -> list[str]:
    try:
        return sorted(System.listdir(path))
    except OSError:
        return []


def _keep_reported(state: SessionState) -> None:
    """Add the kept paths of workers that did not finish, as their reports say."""
    if state.workspace.joined:
        return
    known = {kept.path for kept in state.retention.kept}
    state.retention.kept += [
        kept
        for path, kept in state.reported.created.items()
        # A worker that finished has sent its kept paths.
        if path not in known and kept.worker not in state.reported.ended and System.lexists(path)
    ]


def _keep_left_by_failed(state: SessionState, leaks: list[Leak]) -> None:
    """Add to the kept paths what failed tests left, and what fixtures created for crashed ones."""
    if state.settings.keep == "none":
        return
    inside = System.join(state.workspace.root.path, "")
    left = [leak.entry for leak in leaks if leak.status == "failed-test"]
    state.retention.kept += [
        Kept(entry.test, entry.path, "failed", entry.worker)
        for entry in (*left, *_ignored_from_failed(state))
        if entry.test in state.reported.failed
        and entry.path not in state.tests.from_earlier_attempts
        and entry.path.startswith(inside)
    ]
    known = {kept.path for kept in state.retention.kept}
    for worker, test in state.reported.crashed.items():
        paths = (path for path in created_by_crashed(state, worker) if path not in known)
        state.retention.kept += [Kept(test, path, "crashed", worker) for path in paths]


def _ignored_from_failed(state: SessionState) -> list[Entry]:
    """Return the ignored paths that failed tests left, such as those that a nested pytest kept.

    The nested pytest may have printed these paths.
    """
    failed = () if state.reported.workers else state.reported.failed
    kept = {kept.path for kept in state.retention.kept}
    there = [
        entry
        for entry in state.leaks.entries.values()
        if entry.ignored
        and is_from_failed(entry, failed)
        and exists(entry.path)
        and kept.isdisjoint(parents(entry.path))
    ]
    if there:
        state.leaks.deferred |= removed_at_exit(state.leaks.callbacks)
    return [entry for entry in there if not is_deferred(entry, state.leaks.deferred)]


def without_ignored(state: SessionState, leaks: Iterable[Leak]) -> list[Leak]:
    """Return *leaks* without those that a hook ignores, and mark the known ones."""
    return drop_ignored(
        leaks,
        is_ignored_by_hook=lambda leak: is_ignored_by_hook(state, leak),
        known=state.leaks.baseline,
    )


def is_ignored_by_hook(state: SessionState, leak: Leak) -> bool:
    """Whether another plugin ignores *leak*; if its hook fails, the leak is reported."""
    try:
        return bool(state.config.hook.pytest_tempres_ignore_leak(leak=leak))
    except Exception as error:  # noqa: BLE001 -- another plugin's code
        state.messages.warn("ignore_leak", f"pytest_tempres_ignore_leak failed: {error!r}")
        return False


def write_summary(state: SessionState, session: pytest.Session, leaks: tuple[Leak, ...]) -> None:
    """Set the exit status, write the report files and call `pytest_tempres_summary`."""
    gate = session.exitstatus == pytest.ExitCode.OK and must_fail(state, leaks)
    # This reads the exit status before the gate changes it.
    stale = stale_leaks(state, session, leaks)
    if gate:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    summary = _summary(state, session, leaks, stale, gate=gate)
    state.result.summary = summary
    if state.settings.update_baseline is not None:
        _update_baseline(state, summary)
    write_files(state, summary)
    state.config.hook.pytest_tempres_summary(config=state.config, summary=summary)


def must_fail(state: SessionState, leaks: Iterable[Leak]) -> bool:
    """Whether a session with these leaks must not end with status 0."""
    return (
        state.settings.leaks in ("fail", "strict")
        and state.settings.update_baseline != "all"
        and any(leak.status == "leak" for leak in leaks)
    )


def _summary(
    state: SessionState,
    session: pytest.Session,
    leaks: tuple[Leak, ...],
    stale: list[Known],
    *,
    gate: bool,
) -> Summary:
    remote_workers = state.reported.remote_workers.values()
    return Summary(
        session=_session_facts(state, int(session.exitstatus)),
        root=state.workspace.root.path,
        leaks=leaks,
        kept=(*state.retention.kept, *(kept for each in remote_workers for kept in each.kept)),
        artifacts=state.retention.artifacts,
        stale=tuple(stale),
        hosts={each.worker: each.host for each in remote_workers},
        other_roots=tuple(each.root for each in remote_workers if each.root),
        abandoned=tuple(each.root for each in remote_workers if each.root and not each.judged),
        gate_failed=gate,
        leaks_fail=must_fail(state, leaks),
        repository=find_repository(str(state.config.rootpath)),
    )


def _session_facts(state: SessionState, status: int) -> SessionFacts:
    return SessionFacts(
        id=System.basename(state.workspace.root.path),
        rootdir=str(state.config.rootpath),
        started=state.result.started,
        seconds=round(System.monotonic() - state.result.began, 3),
        exit_status=status,
        python=sys.version.split(maxsplit=1)[0],
        pytest=pytest.__version__,
        platform=_platform(),
        workers=tuple(state.reported.workers) or (state.workspace.worker.name,),
    )


def _platform() -> str:
    """Return the operating system, its release and the machine, in one word."""
    system, _, release, machine = uname()
    return "-".join(part for part in (system, release, machine) if part)


def _update_baseline(state: SessionState, summary: Summary) -> None:
    found = {
        leak.fingerprint: baseline.Known.of(leak)
        for leak in summary.leaks
        if leak.status in ("leak", "known")
    }
    if state.settings.update_baseline == "shrink":
        gone = {known.fingerprint for known in summary.stale}
        found = {key: known for key, known in state.leaks.baseline.items() if key not in gone}
    path = state.settings.baseline or ""
    if not has_searched(state):
        state.messages.warn(
            "baseline", f"the baseline {path} was not written: nothing was looked for"
        )
        return
    try:
        baseline.write(path, found.values())
    except OSError as error:
        state.messages.warn("baseline", f"the baseline {path} was not written: {error}")
