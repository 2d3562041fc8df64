"""One test: its attempts, what each has left, and what happens after its last report."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import pytest

from pytest_tempres import markers
from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.verdict import Ignore
from pytest_tempres.leaks.verdict import as_from_failed
from pytest_tempres.primitives._system import System
from pytest_tempres.session.ownership import end_test
from pytest_tempres.session.ownership import scan
from pytest_tempres.session.retention import apply_policy
from pytest_tempres.session.retention import finish_expired
from pytest_tempres.session.retention import remove
from pytest_tempres.session.retention import used
from pytest_tempres.session.state import CurrentTest
from pytest_tempres.session.state import ScopedFactory
from pytest_tempres.session.state import SessionState
from pytest_tempres.workspace.retention import CreatedPath

__all__ = [
    "FINDINGS",
    "after_crash",
    "begin_attempt",
    "finish_test",
    "own_entries",
    "record_attempt",
    "unload",
]


#: The attribute of a teardown report that sends findings to another process.
FINDINGS: Final = "tempres"


def begin_attempt(state: SessionState) -> None:
    """Start an attempt, which ends any earlier attempt of the same test."""
    current = state.tests.current
    if current is None:
        return
    if current.started:
        record_attempt(state, current)
        _record_earlier_attempts(state, current)
        current.earlier += current.created
        current.created = []
        current.failed = current.leak_reported = False
    current.started = True


def _record_earlier_attempts(state: SessionState, current: CurrentTest) -> None:
    """Record what earlier attempts left: it counts as left by a failed test, but is not kept."""
    ledger = state.leaks.ledger
    if ledger is not None:
        current.from_earlier_attempts = ledger.left_by(current.item.nodeid)
        state.tests.from_earlier_attempts.update(current.from_earlier_attempts)


def own_entries(state: SessionState, ledger: Ledger, current: CurrentTest) -> list[Entry]:
    """Return what the attempt that has just ended left, except for ignored paths."""
    _scan_and_judge(state, ledger, current)
    nodeid = current.item.nodeid
    return [
        entry
        for entry in ledger.not_yet_sent
        if entry.test == nodeid and entry.owner.scope in (None, "function") and not entry.ignored
    ]


def record_attempt(state: SessionState, current: CurrentTest) -> None:
    """Record what the attempt that has just ended left."""
    ledger = state.leaks.ledger
    if ledger is None:
        return
    _scan_and_judge(state, ledger, current)
    if ledger.not_yet_sent and not state.is_sent:
        state.leaks.entries.update((entry.path, entry) for entry in ledger.not_yet_sent)
        ledger.not_yet_sent.clear()


def _scan_and_judge(state: SessionState, ledger: Ledger, current: CurrentTest) -> None:
    scan(state, ledger)
    if ledger.detectors:
        _allow_for_detectors(state, current)
    if ledger.origins.any_running():
        _allow_for_threads(ledger, current)
    if ledger.not_yet_sent:
        _judge_attempt(state, ledger, current)


def _allow_for_detectors(state: SessionState, current: CurrentTest) -> None:
    """Store the ignore patterns of a test's markers for the findings of detectors."""
    patterns = markers.ignored_patterns(current.item)
    if patterns:
        state.leaks.allowed[current.item.nodeid] = patterns


def _allow_for_threads(ledger: Ledger, current: CurrentTest) -> None:
    """Store the ignore patterns of a test's markers for what its threads create after its end."""
    patterns = markers.ignored_patterns(current.item)
    if patterns:
        ledger.allowed[current.item.nodeid] = Ignore(ledger.worker_root, patterns).matches


def _judge_attempt(state: SessionState, ledger: Ledger, current: CurrentTest) -> None:
    """Mark what an attempt left as left by a failed test, or as ignored by a marker.

    The scan may also have found what earlier tests left.
    """
    nodeid = current.item.nodeid
    ignore = Ignore(ledger.worker_root, markers.ignored_patterns(current.item))

    failed_itself = current.failed and not current.leak_reported

    def marked(entry: Entry) -> Entry:
        if entry.test != nodeid or entry.owner.scope not in (None, "function"):
            return as_from_failed(entry, state.reported.failed)
        return entry._replace(
            from_failed=entry.from_failed or failed_itself,
            ignored=entry.ignored or ignore.matches(entry.path),
        )

    ledger.not_yet_sent = [marked(entry) for entry in ledger.not_yet_sent]


def after_crash(state: SessionState, current: CurrentTest) -> None:
    """Add what fixtures created in a forked child that died before it could report."""
    known = {
        created.path
        for factory in (*state.tests.open_factories, *state.tests.expired_factories)
        for created in factory.created
    }
    known.update(kept.path for kept in state.retention.kept)
    known.update(created.path for created in current.created)
    with suppress(OSError), System.scandir(state.workspace.worker.fixture_dir) as entries:
        current.created += [CreatedPath(entry.path) for entry in entries if entry.path not in known]


def finish_test(state: SessionState, completed: bool) -> None:
    """Finish a test after its last report: record leaks and apply the retention policy.

    :param completed: False if the test was interrupted. Its fixtures are torn down at the
        end of the session then, and the policy is applied after that.
    """
    current, state.tests.current = state.tests.current, None
    if current is None:
        return
    current.failed = current.item.session.testsfailed != current.failures
    for report in current.reports:
        unload(report)
    if current.failed:
        _record_failure(state, current)
    if not completed and state.leaks.ledger is not None:
        # The interrupted test or fixture could not clean up.
        state.leaks.ledger.failed_owners.add(state.leaks.ledger.running.owner)
        state.leaks.ledger.mark_as_from_failed(scan(state, state.leaks.ledger))
    if not state.is_sent:
        record_attempt(state, current)
    for created in current.earlier:
        remove(state, created)
    if current.created and completed:
        policy = _policy(state, current)
        nodeid = current.item.nodeid
        apply_policy(state, nodeid, current.created, failed=current.failed, policy=policy)
    elif current.created:
        state.tests.expired_factories.append(
            ScopedFactory("", current.created, current.item.nodeid, current.failed)
        )
    if state.tests.expired_factories and completed:
        finish_expired(state)
    end_test(state)


def _record_failure(state: SessionState, current: CurrentTest) -> None:
    nodeid = current.item.nodeid
    if not current.leak_reported:
        state.reported.failed.add(nodeid)
    if not current.started:
        after_crash(state, current)
    for factory in used(state, current.item):
        factory.failed, factory.nodeid = True, nodeid


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


def unload(report: pytest.TestReport) -> None:
    """Delete the findings from a report: pytest keeps all reports until the session ends."""
    report.__dict__.pop(FINDINGS, None)
