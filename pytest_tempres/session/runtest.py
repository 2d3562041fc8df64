"""One test: its attempts, what each left, and what happens after its last report."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import pytest

from pytest_tempres import markers
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.verdict import Ignore
from pytest_tempres.leaks.verdict import as_from_failed
from pytest_tempres.primitives._system import System
from pytest_tempres.session.retention import ScopedFactory
from pytest_tempres.session.state import CurrentTest
from pytest_tempres.session.state import SessionState
from pytest_tempres.workspace.retention import CreatedPath

__all__ = [
    "FINDINGS",
    "begin_attempt",
    "begin_test",
    "finish_test",
    "journal_created_paths",
    "own_entries",
    "record_attempt",
    "recover_created",
    "remove_findings",
]

#: The attribute of a teardown report with the findings for another process.
FINDINGS: Final = "tempres"


def begin_test(state: SessionState, item: pytest.Item) -> None:
    """Make *item* the current owner."""
    state.current = CurrentTest(item)
    state.workspace.hold_lock()
    state.leaks.scan(needed=True)
    file, line, _ = item.location
    location = file if line is None else f"{file}:{line + 1}"
    state.leaks.ledger.enter(Owner("test", item.nodeid, None, location), test=item.nodeid)


def begin_attempt(state: SessionState) -> None:
    """Start an attempt, which ends any earlier attempt of the same test."""
    current = state.current
    if current is None:
        return
    if current.started:
        record_attempt(state, current)
        # What it left counts as left by a failed test, but is not kept.
        current.from_earlier_attempts = state.leaks.ledger.left_by(current.nodeid)
        state.reported.from_earlier_attempts.update(current.from_earlier_attempts)
        current.created_earlier += current.created
        current.created = []
        current.failed = current.leak_reported = False
    current.started = True


def own_entries(state: SessionState, current: CurrentTest) -> list[Entry]:
    """Return what the attempt that has just ended left, except for ignored paths."""
    _scan_and_mark(state, current)
    return [
        entry
        for entry in state.leaks.ledger.not_yet_sent
        if not entry.ignored and _is_own(entry, current.nodeid)
    ]


def _is_own(entry: Entry, nodeid: str) -> bool:
    """Whether the test *nodeid* or a function-scoped fixture of it left *entry*."""
    return entry.test == nodeid and entry.owner.scope in (None, "function")


def record_attempt(state: SessionState, current: CurrentTest) -> None:
    """Record what the attempt that has just ended left."""
    _scan_and_mark(state, current)
    if not state.is_sent:
        state.leaks.take_unsent()


def _scan_and_mark(state: SessionState, current: CurrentTest) -> None:
    """Scan, and mark what a failed test left, and what a marker of the test ignores."""
    state.leaks.scan()
    ledger = state.leaks.ledger
    if not (ledger.not_yet_sent or ledger.detectors or ledger.origins.any_running()):
        return
    patterns = markers.ignored_patterns(current.item)
    ignore = Ignore(ledger.worker_root, patterns)
    if patterns:
        # For the findings of detectors.
        state.leaks.allowed[current.nodeid] = patterns
        # For what the threads and processes of the test create after its end.
        ledger.allowed[current.nodeid] = ignore.matches
    failed_itself = current.failed and not current.leak_reported

    def marked(entry: Entry) -> Entry:
        if not _is_own(entry, current.nodeid):
            # The scan may also have found what earlier tests left.
            return as_from_failed(entry, state.reported.failed)
        return entry._replace(
            from_failed=entry.from_failed or failed_itself,
            ignored=entry.ignored or ignore.matches(entry.path),
        )

    ledger.not_yet_sent = [marked(entry) for entry in ledger.not_yet_sent]


def recover_created(state: SessionState, current: CurrentTest) -> None:
    """Add what fixtures created in a forked child that died before it could report."""
    known = state.retention.known_paths().union(each.path for each in current.created)
    with suppress(OSError), System.scandir(state.workspace.worker.fixture_dir) as entries:
        current.created += [CreatedPath(entry.path) for entry in entries if entry.path not in known]


def journal_created_paths(state: SessionState) -> None:
    """Add created paths to the journal from now on: the current test may end the process."""
    retention, current = state.retention, state.current
    retention.journal.adds_created = True
    if current is not None:
        retention.add_created_to_journal(current.nodeid, current.created)
        for factory in retention.used_by(current.item):
            retention.add_created_to_journal(factory.nodeid, factory.created)


def finish_test(state: SessionState, completed: bool) -> None:
    """Finish a test after its last report: record leaks and apply the retention policy.

    :param completed: False if the test was interrupted. Then its fixtures are torn down at the end
        of the session, and the policy is applied after that.
    """
    current, state.current = state.current, None
    if current is None:
        return
    current.failed = current.item.session.testsfailed != current.failures_before
    for report in current.reports:
        remove_findings(report)
    if current.failed:
        _record_failure(state, current)
    ledger = state.leaks.ledger
    if not completed:
        # The interrupted test or fixture could not clean up.
        ledger.failed_owners.add(ledger.running.owner)
        ledger.mark_as_from_failed(state.leaks.scan())
    if not state.is_sent:
        record_attempt(state, current)
    _finish_created(state, current, completed=completed)
    ledger.enter(SESSION, test=None)


def _record_failure(state: SessionState, current: CurrentTest) -> None:
    if not current.leak_reported:
        state.reported.failed.add(current.nodeid)
    if not current.started:
        recover_created(state, current)
    for factory in state.retention.used_by(current.item):
        factory.failed, factory.nodeid = True, current.nodeid


def _finish_created(state: SessionState, current: CurrentTest, *, completed: bool) -> None:
    """Apply the retention policy to what fixtures created for a test, and for ended scopes."""
    retention, created = state.retention, current.created
    for each in current.created_earlier:
        state.workspace.remove(each)
    if created and completed:
        policy = _policy(state, current)
        retention.apply_policy(current.nodeid, created, failed=current.failed, policy=policy)
    elif created:
        factory = ScopedFactory("", created, current.nodeid, current.failed)
        retention.expired_factories.append(factory)
    if completed:
        retention.finish_expired()


def _policy(state: SessionState, current: CurrentTest) -> str:
    if not current.reports:
        # Reports are collected only if a plugin implements `pytest_tempres_keep`.
        return state.settings.keep
    item = current.item
    try:
        answers = item.ihook.pytest_tempres_keep(item=item, reports=tuple(current.reports))
    except Exception as error:  # noqa: BLE001 -- another plugin's code
        state.messages.warn("keep", f"pytest_tempres_keep failed: {error!r}")
        answers = []
    return "hook" if any(answers) else state.settings.keep


def remove_findings(report: pytest.TestReport) -> None:
    """Remove the findings from a report: pytest keeps all reports until the session ends."""
    report.__dict__.pop(FINDINGS, None)
