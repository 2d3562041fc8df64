"""What has an attempt at a test left, and what of it is booked?"""

from __future__ import annotations

from contextlib import suppress

from pytest_tempres import markers
from pytest_tempres.leaks.ignore import Ignore
from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.verdict import as_evidence
from pytest_tempres.owners import look
from pytest_tempres.primitives._system import System
from pytest_tempres.state import CurrentTest
from pytest_tempres.state import SessionState
from pytest_tempres.workspace.retention import Made

__all__ = ["after_crash", "begin_attempt", "book", "own_entries"]


def begin_attempt(state: SessionState) -> None:
    """Start an attempt; an earlier one of the same test is over then, reported or not."""
    current = state.current
    if current is None:
        return
    if current.started:
        book(state, current)
        _supersede(state, current)
        current.earlier += current.made
        current.made = []
        current.failed = current.accused = False
    current.started = True


def _supersede(state: SessionState, current: CurrentTest) -> None:
    """Note what attempts have left that were not the last: it is evidence, but not kept."""
    ledger = state.ledger
    if ledger is not None:
        current.superseded = ledger.left_by(current.item.nodeid)
        state.superseded.update(current.superseded)


def own_entries(state: SessionState, ledger: Ledger, current: CurrentTest) -> list[Entry]:
    """Return what the attempt that is just over has left and may not leave."""
    _look_and_judge(state, ledger, current)
    nodeid = current.item.nodeid
    return [
        entry
        for entry in ledger.unsent
        if entry.test == nodeid and entry.owner.scope in (None, "function") and not entry.ignored
    ]


def book(state: SessionState, current: CurrentTest) -> None:
    """Book what the attempt that is over has left."""
    ledger = state.ledger
    if ledger is None:
        return
    _look_and_judge(state, ledger, current)
    if ledger.unsent and not state.travels:
        state.entries.update((entry.path, entry) for entry in ledger.unsent)
        ledger.unsent.clear()


def _look_and_judge(state: SessionState, ledger: Ledger, current: CurrentTest) -> None:
    look(state, ledger)
    if ledger.detectors:
        _allow(state, current)
    if ledger.origins.goes_on():
        _allow_later(ledger, current)
    if ledger.unsent:
        _judge_attempt(state, ledger, current)


def _allow(state: SessionState, current: CurrentTest) -> None:
    """Note what a test's markers let detectors find, for when they judge."""
    patterns = markers.ignored_patterns(current.item)
    if patterns:
        state.allowed[current.item.nodeid] = patterns


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

    failed_itself = current.failed and not current.accused

    def marked(entry: Entry) -> Entry:
        if entry.test != nodeid or entry.owner.scope not in (None, "function"):
            return as_evidence(entry, state.failed)
        return entry._replace(
            evidence=entry.evidence or failed_itself,
            ignored=entry.ignored or ignore.matches(entry.path),
        )

    ledger.unsent = [marked(entry) for entry in ledger.unsent]


def after_crash(state: SessionState, current: CurrentTest) -> None:
    """Find what a forked child left that died before it could report."""
    known = {made.path for lending in (*state.lent, *state.due) for made in lending.made}
    known.update(kept.path for kept in state.kept)
    known.update(made.path for made in current.made)
    with suppress(OSError), System.scandir(state.worker.given) as entries:
        current.made += [Made(entry.path) for entry in entries if entry.path not in known]
