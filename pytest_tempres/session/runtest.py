"""What has an attempt at a test left, and what of it is booked?"""

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

__all__ = ["FINDINGS", "after_crash", "begin_attempt", "book", "own_entries", "settle", "unload"]


#: The attribute of a teardown report that carries findings to another process.
FINDINGS: Final = "tempres"


def begin_attempt(state: SessionState) -> None:
    """Start an attempt; an earlier one of the same test is over then, reported or not."""
    current = state.tests.current
    if current is None:
        return
    if current.started:
        book(state, current)
        _supersede(state, current)
        current.earlier += current.created
        current.created = []
        current.failed = current.leak_reported = False
    current.started = True


def _supersede(state: SessionState, current: CurrentTest) -> None:
    """Note what attempts have left that were not the last: it is evidence, but not kept."""
    ledger = state.leaks.ledger
    if ledger is not None:
        current.from_earlier_attempts = ledger.left_by(current.item.nodeid)
        state.tests.from_earlier_attempts.update(current.from_earlier_attempts)


def own_entries(state: SessionState, ledger: Ledger, current: CurrentTest) -> list[Entry]:
    """Return what the attempt that is just over has left and may not leave."""
    _look_and_judge(state, ledger, current)
    nodeid = current.item.nodeid
    return [
        entry
        for entry in ledger.not_yet_sent
        if entry.test == nodeid and entry.owner.scope in (None, "function") and not entry.ignored
    ]


def book(state: SessionState, current: CurrentTest) -> None:
    """Book what the attempt that is over has left."""
    ledger = state.leaks.ledger
    if ledger is None:
        return
    _look_and_judge(state, ledger, current)
    if ledger.not_yet_sent and not state.is_sent:
        state.leaks.entries.update((entry.path, entry) for entry in ledger.not_yet_sent)
        ledger.not_yet_sent.clear()


def _look_and_judge(state: SessionState, ledger: Ledger, current: CurrentTest) -> None:
    scan(state, ledger)
    if ledger.detectors:
        _allow(state, current)
    if ledger.origins.goes_on():
        _allow_later(ledger, current)
    if ledger.not_yet_sent:
        _judge_attempt(state, ledger, current)


def _allow(state: SessionState, current: CurrentTest) -> None:
    """Note what a test's markers let detectors find, for when they judge."""
    patterns = markers.ignored_patterns(current.item)
    if patterns:
        state.leaks.allowed[current.item.nodeid] = patterns


def _allow_later(ledger: Ledger, current: CurrentTest) -> None:
    """Note what a test's markers let stay, for what its threads make when it is over."""
    patterns = markers.ignored_patterns(current.item)
    if patterns:
        ledger.allowed[current.item.nodeid] = Ignore(ledger.worker_root, patterns).matches


def _judge_attempt(state: SessionState, ledger: Ledger, current: CurrentTest) -> None:
    """Mark what an attempt left as evidence if it failed, as ignored if a marker says so.

    What tests before it have left may have been found only now.
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
    """Find what a forked child left that died before it could report."""
    known = {
        created.path
        for factory in (*state.tests.open_factories, *state.tests.expired_factories)
        for created in factory.created
    }
    known.update(kept.path for kept in state.retention.kept)
    known.update(created.path for created in current.created)
    with suppress(OSError), System.scandir(state.workspace.worker.fixture_dir) as entries:
        current.created += [CreatedPath(entry.path) for entry in entries if entry.path not in known]


def settle(state: SessionState, completed: bool) -> None:
    """Remove what a test was given, or keep it: after its last report, outside all teardown.

    :param completed: False when the test was interrupted: its fixtures are torn
        down at the end of the session then, and what it was given has to wait.
    """
    current, state.tests.current = state.tests.current, None
    if current is None:
        return
    current.failed = current.item.session.testsfailed != current.failures
    for report in current.reports:
        unload(report)
    if current.failed:
        _settle_failure(state, current)
    if not completed and state.leaks.ledger is not None:
        # It had no chance to clean up.
        state.leaks.ledger.failed_owners.add(state.leaks.ledger.running.owner)
        state.leaks.ledger.mark_as_from_failed(scan(state, state.leaks.ledger))
    if not state.is_sent:
        book(state, current)
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


def _settle_failure(state: SessionState, current: CurrentTest) -> None:
    nodeid = current.item.nodeid
    if not current.leak_reported:
        state.reported.failed.add(nodeid)
    if not current.started:
        after_crash(state, current)
    for factory in used(state, current.item):
        factory.failed, factory.nodeid = True, nodeid


def _policy(state: SessionState, current: CurrentTest) -> str:
    if not current.reports:
        # They are collected only where somebody wants to decide.
        return state.settings.keep
    item = current.item
    try:
        answers = item.ihook.pytest_tempres_keep(item=item, reports=tuple(current.reports))
    except Exception as error:  # noqa: BLE001 -- it is somebody else's code
        state.messages.warn("keep", f"pytest_tempres_keep failed: {error!r}")
        answers = []
    return "hook" if any(answers) else state.settings.keep


def unload(report: pytest.TestReport) -> None:
    """Take from a report what it carried: pytest keeps each one to the end of the session."""
    report.__dict__.pop(FINDINGS, None)
