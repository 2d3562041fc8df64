"""The end of a session: leaks, kept paths, exit status, summary and report files."""

from __future__ import annotations

from collections.abc import Iterable
import gc
import sys

import pytest

from pytest_tempres.leaks import verdict
from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.deferred import removed_at_exit
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.temp.scan import exists
from pytest_tempres.options import Settings
from pytest_tempres.primitives._system import System
from pytest_tempres.primitives._system import uname
from pytest_tempres.reports.summary import SessionFacts
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.targets import FORMATS
from pytest_tempres.session.baseline_tally import stale_leaks
from pytest_tempres.session.baseline_tally import update_baseline
from pytest_tempres.session.detection import LeakDetection
from pytest_tempres.session.report_files import find_repository
from pytest_tempres.session.report_files import write_files
from pytest_tempres.session.retention import Retention
from pytest_tempres.session.state import SessionState
from pytest_tempres.workspace.retention import Kept

__all__ = ["finish", "must_fail"]


def finish(state: SessionState, session: pytest.Session) -> None:
    """Judge leaks and write the reports, when teardown is over and local workers have exited."""
    try:
        _finish(state, session)
    finally:
        # Ctrl-C may have interrupted this at any point.
        state.messages.call_safely(state.retention.update_index)


def _finish(state: SessionState, session: pytest.Session) -> None:
    """Run each step even if an earlier one fails."""
    run_step, retention, detection = state.messages.call_safely, state.retention, state.leaks
    joined = state.workspace.joined
    run_step(retention.finish_expired)
    run_step(_keep_reported, state)
    # Before the scan, so that a failure in any later step loses no kept directory.
    run_step(retention.update_index)
    # A worker may end while a test in another one is removing the session root.
    run_step(detection.scan, final=True, needed=not joined)
    leaks = run_step(detection.run_detectors, state.reported.failed) or []
    at_exit: set[str] = set()
    if joined:
        at_exit = run_step(_removed_at_exit_by_worker, detection) or set()
    else:
        # For example that of the root of a crashed worker.
        run_step(state.workspace.restore_modes)
        found = run_step(_judge, state, session) or []
        leaks = found + (run_step(detection.without_ignored, leaks) or [])
        run_step(_keep_left_by_failed, state, leaks)
        run_step(retention.update_index)
        _copy_kept(state)
    if state.send is not None:
        state.send(state, at_exit, leaks)
    elif not joined and _is_summary_needed(state, leaks):
        _summarize(state, session, leaks)


def _copy_kept(state: SessionState) -> None:
    settings, reported = state.settings, state.reported
    if settings.artifacts is None or state.is_worker:
        return
    remote_kept = reported.remote_kept()
    if state.retention.kept or remote_kept:
        roots = [each.root for each in reported.remote_workers.values() if each.root]
        state.retention.export(settings.artifacts, settings.artifacts_max_size, remote_kept, roots)


def _is_summary_needed(state: SessionState, leaks: list[Leak]) -> bool:
    """Whether there is anything to report, or a report or hook needs the summary in any case."""
    return bool(
        leaks
        or state.reported.leaks
        or state.reported.remote_workers
        or state.retention.kept
        or any(target.type in FORMATS for target in state.settings.reports)
        or state.leaks.baseline
        or state.settings.update_baseline is not None
        or state.config.hook.pytest_tempres_summary.get_hookimpls()
    )


def _removed_at_exit_by_worker(leaks: LeakDetection) -> set[str]:
    if not leaks.ledger.paths():
        return set()
    gc.collect()
    return removed_at_exit(leaks.at_exit.callbacks)


def _judge(state: SessionState, session: pytest.Session) -> list[Leak]:
    """Return the leaks in the temp locations of this process and of its local workers."""
    leaks, workspace = state.leaks, state.workspace
    if not leaks.is_on or "temp" not in state.settings.detect:
        return []
    leaks.add(leaks.ledger.remaining())
    leaks.ledger.not_yet_sent.clear()
    # Then the controller may not have read all reports.
    broken = session.exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
    for entry in state.reported.unreported_entries(
        workspace.root.path, workspace.worker.name, broken=broken
    ):
        leaks.entries.setdefault(entry.path, entry)
    suspects = verdict.suspects(leaks.entries.values(), leaks.gc_budget.collect)
    suspects = _without_kept(state.retention, suspects)
    if suspects:
        leaks.at_exit.find()
    return leaks.judge(suspects, state.reported.failed_here())


def _without_kept(retention: Retention, entries: Iterable[Entry]) -> list[Entry]:
    """Return *entries* without those that are kept, or are in a kept directory."""
    kept = {each.path for each in retention.kept}
    return [entry for entry in entries if kept.isdisjoint(verdict.parents(entry.path))]


def _keep_reported(state: SessionState) -> None:
    """Add the kept paths of workers that did not finish, as their reports say."""
    if state.workspace.joined:
        return
    known = {kept.path for kept in state.retention.kept}
    state.retention.kept += [
        kept
        for path, kept in state.reported.created.items()
        # A worker that finished has sent its kept paths.
        if path not in known and kept.worker not in state.reported.finished and System.lexists(path)
    ]


def _keep_left_by_failed(state: SessionState, leaks: list[Leak]) -> None:
    """Add to the kept paths what failed tests left, and what fixtures created for crashed ones."""
    if state.settings.keep == "none":
        return
    reported, root = state.reported, state.workspace.root.path
    inside = System.join(root, "")
    left = [leak.entry for leak in leaks if leak.status == "failed-test"]
    state.retention.kept += [
        Kept(entry.test, entry.path, "failed", entry.worker)
        for entry in (*left, *_ignored_from_failed(state))
        if entry.test in reported.failed
        and entry.path not in reported.from_earlier_attempts
        and entry.path.startswith(inside)
    ]
    known = {kept.path for kept in state.retention.kept}
    state.retention.kept += [
        Kept(test, path, "crashed", worker)
        for worker, test in reported.crashed.items()
        for path in reported.created_by_crashed(worker, root)
        if path not in known
    ]


def _ignored_from_failed(state: SessionState) -> list[Entry]:
    """Return the ignored paths that failed tests left: a nested pytest may have printed them."""
    failed = state.reported.failed_here()
    existing = _without_kept(
        state.retention,
        (
            entry
            for entry in state.leaks.entries.values()
            if entry.ignored and verdict.is_from_failed(entry, failed) and exists(entry.path)
        ),
    )
    if existing:
        state.leaks.at_exit.find()
    return [
        entry for entry in existing if not verdict.is_deferred(entry, state.leaks.at_exit.paths)
    ]


def _summarize(state: SessionState, session: pytest.Session, found: list[Leak]) -> None:
    """Set the exit status, write the report files and call `pytest_tempres_summary`."""
    reported = list(state.reported.leaks)
    for each in state.reported.remote_workers.values():
        reported += each.found(state.reported.failed)
    leaks = (*found, *state.leaks.without_ignored(reported))
    gate = session.exitstatus == pytest.ExitCode.OK and must_fail(state.settings, leaks)
    # This reads the exit status before the gate changes it.
    stale = stale_leaks(state, session, leaks)
    if gate:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    summary = _summary(state, session, leaks, stale, gate=gate)
    state.result.summary = summary
    if state.settings.update_baseline is not None:
        update_baseline(state, summary)
    write_files(state, summary)
    state.config.hook.pytest_tempres_summary(config=state.config, summary=summary)


def must_fail(settings: Settings, leaks: Iterable[Leak]) -> bool:
    """Whether a session with these leaks must not end with status 0."""
    return (
        settings.leaks in ("fail", "strict")
        and settings.update_baseline != "all"
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
        kept=(*state.retention.kept, *state.reported.remote_kept()),
        artifacts=state.retention.artifacts,
        stale=tuple(stale),
        hosts={each.worker: each.host for each in remote_workers},
        other_roots=tuple(each.root for each in remote_workers if each.root),
        abandoned=tuple(each.root for each in remote_workers if each.root and not each.judged),
        gate_failed=gate,
        leaks_fail=must_fail(state.settings, leaks),
        repository=find_repository(str(state.config.rootpath)),
    )


def _session_facts(state: SessionState, status: int) -> SessionFacts:
    system, _, release, machine = uname()
    return SessionFacts(
        id=System.basename(state.workspace.root.path),
        rootdir=str(state.config.rootpath),
        started=state.result.started,
        seconds=round(System.monotonic() - state.result.monotonic_start, 3),
        exit_status=status,
        python=sys.version.split(maxsplit=1)[0],
        pytest=pytest.__version__,
        platform="-".join(filter(None, (system, release, machine))),
        workers=tuple(state.reported.workers) or (state.workspace.worker.name,),
    )
