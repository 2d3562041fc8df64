"""What came of a test? From its reports to what stays on disk."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import os
from typing import Final

import pytest

from pytest_tempres import markers
from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.leaks.ignore import Ignore
from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import entry_from_plain
from pytest_tempres.owners import look
from pytest_tempres.primitives._rmtree import Failure
from pytest_tempres.state import Attempt
from pytest_tempres.state import CurrentTest
from pytest_tempres.state import Lending
from pytest_tempres.state import SessionState
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import Made
from pytest_tempres.workspace.retention import reason_to_keep
from pytest_tempres.workspace.root import remove_made

__all__ = ["begin", "made_report", "received", "remove", "settle", "settle_due"]

#: The attribute of a teardown report that carries findings to another process.
_CARRIED: Final = "tempres"
_SECTION: Final = "temporary resources"


def begin(state: SessionState, item: pytest.Item) -> None:
    """Start to note what comes of *item*."""
    state.current = CurrentTest(item.nodeid)


def made_report(state: SessionState, item: pytest.Item, report: pytest.TestReport) -> None:
    """Note what a phase came to; at the end of an attempt, book what it left."""
    current = state.current
    if current is None or current.nodeid != item.nodeid:
        return
    if report.when == "setup" and current.attempt().ended:
        current.attempts.append(Attempt())
        current.failed = False
    attempt = current.attempt()
    if report.outcome == "failed":
        attempt.failed = True
        _add_section(state, item, attempt, report)
    if report.when == "teardown" and not attempt.ended:
        attempt.ended = True
        _book(state, item, attempt, report)


def _add_section(
    state: SessionState, item: pytest.Item, attempt: Attempt, report: pytest.TestReport
) -> None:
    lendings = [lending.made for lending in _used(state, item)]
    made = [each for group in (attempt.made, *lendings) for each in group]
    policy = state.settings.keep
    kept = [m.path for m in made if reason_to_keep(policy, failed=True, asked=m.keep)]
    if kept:
        report.sections.append((_SECTION, "\n".join(f"kept: {path}" for path in kept)))


def _used(state: SessionState, item: pytest.Item) -> list[Lending]:
    """Return the wider factories that *item* asked for, directly or through a fixture."""
    names = getattr(item, "fixturenames", ())
    return [
        lending
        for lending in (*state.lent, *state.due)
        if lending.fixture in names or lending.nodeid == item.nodeid
    ]


def _book(
    state: SessionState, item: pytest.Item, attempt: Attempt, report: pytest.TestReport
) -> None:
    ledger = state.ledger
    if ledger is not None:
        look(state, ledger)
        if ledger.unsent:
            _judge_attempt(ledger, item, attempt)
            if not state.travels:
                state.entries.update((entry.path, entry) for entry in ledger.unsent)
                ledger.unsent.clear()
    if state.travels:
        made = [*attempt.made, *_newly_lent(state)]
        entries = ledger.unsent if ledger is not None else []
        if made or entries:
            setattr(report, _CARRIED, json.dumps({"made": made, "entries": entries}))


def _newly_lent(state: SessionState) -> Iterator[Made]:
    for lending in (*state.lent, *state.due):
        yield from lending.made[lending.carried :]
        lending.carried = len(lending.made)


def _judge_attempt(ledger: Ledger, item: pytest.Item, attempt: Attempt) -> None:
    """Mark what this attempt left as evidence if it failed, and as ignored if a marker says so."""
    ignore = Ignore(ledger.worker_root, markers.ignored_patterns(item))

    def marked(entry: Entry) -> Entry:
        if entry.test != item.nodeid or entry.owner.scope not in (None, "function"):
            return entry
        return entry._replace(
            evidence=entry.evidence or attempt.failed,
            ignored=entry.ignored or ignore.matches(entry.path),
        )

    ledger.unsent = [marked(entry) for entry in ledger.unsent]


def received(state: SessionState, report: pytest.TestReport) -> None:
    """Take what a report tells, in whichever process it arrives."""
    current = state.current
    here = current is not None and current.nodeid == report.nodeid
    if here and current is not None:
        current.reports.append(report)
    if report.outcome == "failed":
        state.failed.add(report.nodeid)
        if here and current is not None:
            current.failed = True
        node = getattr(report, "node", None)
        if node is not None and str(report.when) == "???":
            state.crashed[node.gateway.id] = report.nodeid
    carried = getattr(report, _CARRIED, None)
    if carried is not None:
        _unpack(state, report, carried, current if here else None)


def _unpack(
    state: SessionState, report: pytest.TestReport, carried: str, current: CurrentTest | None
) -> None:
    try:
        data = json.loads(carried)
        made = [Made(*record) for record in data["made"]]
        entries = [entry_from_plain(record) for record in data["entries"]]
    except (ValueError, TypeError, KeyError) as problem:
        text = f"the findings of {report.nodeid} could not be read: {problem}"
        state.warn("carried", text, TempresLeakWarning)
        return
    if current is not None:
        if current.attempts and current.attempts[-1].ended:
            # A worker sees its own report leave for the controller.
            if state.ledger is not None:
                state.ledger.unsent.clear()
            if not state.joined:
                state.entries.update((entry.path, entry) for entry in entries)
            return
        # The attempt ran in a forked child, and only its report came back.
        attempt = current.attempt()
        attempt.made += made
        attempt.ended = True
        if state.ledger is not None:
            state.ledger.adopt(entries)
    worker = getattr(getattr(report, "node", None), "gateway", None)
    name = worker.id if worker is not None else state.worker.name
    state.entries.update((entry.path, entry) for entry in entries)
    for each in made:
        state.made.setdefault(each.path, Kept(report.nodeid, each.path, "failed", name))


def settle(state: SessionState, item: pytest.Item) -> None:
    """Remove what a test was given, or keep it: after its last report, outside all teardown."""
    current, state.current = state.current, None
    if current is None:
        return
    for lending in _used(state, item) if current.failed else ():
        lending.failed, lending.nodeid = True, current.nodeid
    if current.failed and not current.attempts:
        _after_crash(state, current)
    *earlier, last = current.attempts or [Attempt()]
    for attempt in earlier:
        for made in attempt.made:
            remove(state, made)
    if current.attempts and not last.ended:
        # Interrupted: its fixtures are torn down at the end of the session.
        state.due.append(Lending("", last.made, current.nodeid, current.failed))
        return
    if last.made:
        policy = _policy(state, item, current)
        _dispose(state, current.nodeid, last.made, failed=current.failed, policy=policy)
    settle_due(state)


def _after_crash(state: SessionState, current: CurrentTest) -> None:
    """Find what a forked child left that died before it could report."""
    known = {made.path for lending in (*state.lent, *state.due) for made in lending.made}
    known.update(kept.path for kept in state.kept)
    with contextlib.suppress(OSError), os.scandir(state.worker.given) as entries:
        current.attempt().made += [Made(e.path) for e in entries if e.path not in known]
    if state.ledger is not None:
        for entry in look(state, state.ledger):
            state.entries[entry.path] = entry._replace(evidence=True)


def _policy(state: SessionState, item: pytest.Item, current: CurrentTest) -> str:
    answers = item.ihook.pytest_tempres_keep(item=item, reports=tuple(current.reports))
    return "hook" if any(answers) else state.settings.keep


def settle_due(state: SessionState) -> None:
    """Remove or keep what factories gave whose scope has ended."""
    while state.due:
        due = state.due.pop()
        _dispose(state, due.nodeid, due.made, failed=due.failed, policy=state.settings.keep)


def _dispose(
    state: SessionState, nodeid: str, made: list[Made], *, failed: bool, policy: str
) -> None:
    for each in made:
        reason = reason_to_keep(policy, failed=failed, asked=each.keep)
        if reason is None:
            remove(state, each)
        elif os.path.lexists(each.path):
            state.kept.append(Kept(nodeid, each.path, reason, state.worker.name))


def remove(state: SessionState, made: Made) -> None:
    """Remove what a fixture gave, or what was left; what cannot go becomes one warning."""
    path, _, identity = made
    if os.getpid() != state.pid:
        return
    _leave(state, path)
    try:
        failures = state.root.remove(path) if identity is None else remove_made(path, identity)
    except OSError as refusal:
        state.warn("remove", f"could not remove {path}: {refusal}")
        return
    if failures:
        state.warn("remove", _remaining(path, failures))


def _remaining(path: str, failures: list[Failure]) -> str:
    first = failures[0]
    more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    return f"could not remove {path}: {first.path}: {first.error.strerror}{more}"


def _leave(state: SessionState, path: str) -> None:
    """Leave *path* if a test made it the working directory: its removal would leave us nowhere."""
    with contextlib.suppress(OSError):
        here = os.getcwd()
        if here == path or here.startswith(os.path.join(path, "")):
            os.chdir(state.config.invocation_params.dir)
