"""What came of a test? From its attempts and reports to what is booked and what stays."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import json
import os
from typing import Any
from typing import Final

import pytest

from pytest_tempres import distributed
from pytest_tempres import markers
from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.keeping import dispose
from pytest_tempres.keeping import given_by_crashed
from pytest_tempres.keeping import remove
from pytest_tempres.keeping import settle_due
from pytest_tempres.keeping import used
from pytest_tempres.leaks.ignore import Ignore
from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import entry_from_plain
from pytest_tempres.leaks.model import leak_from_plain
from pytest_tempres.leaks.temp_root import exists
from pytest_tempres.leaks.verdict import judge
from pytest_tempres.owners import end_test
from pytest_tempres.owners import look
from pytest_tempres.reports.shown import shown
from pytest_tempres.state import CurrentTest
from pytest_tempres.state import Lending
from pytest_tempres.state import SessionState
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import Made
from pytest_tempres.workspace.retention import reason_to_keep

__all__ = ["begin_attempt", "failed", "own_entries", "pack", "received", "settle"]

#: The attribute of a teardown report that carries findings to another process.
_CARRIED: Final = "tempres"
_SECTION: Final = "temporary resources"


def begin_attempt(state: SessionState) -> None:
    """Start an attempt; an earlier one of the same test is over then, reported or not."""
    current = state.current
    if current is None:
        return
    if current.started:
        _book(state, current)
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


def pack(state: SessionState, item: pytest.Item, report: pytest.TestReport) -> None:
    """Let a report carry to another process what stands only in this one."""
    current = state.current
    if current is None or current.item is not item or not state.travels:
        return
    if report.outcome == "failed":
        current.failed = True
        _add_section(state, current, report)
        distributed.tell_host(state, report)
    if report.when == "teardown":
        _book(state, current)
        entries = _told(state)
        found: dict[str, Any] = {
            "made": current.made,
            "lent": list(_newly_lent(state)),
            "superseded": current.superseded,
            "entries": entries,
            "changed": state.watched.travelling() if state.watched is not None else [],
            "allowed": state.allowed.get(item.nodeid, []),
            "accused": current.accused,
        }
        if any(found.values()):
            if state.is_elsewhere:
                distributed.tell_host(state, report)
                found.update(root=state.root.path, left=_left_so_far(entries))
            setattr(report, _CARRIED, json.dumps(found))


def _told(state: SessionState) -> list[Entry]:
    """Return what a controller, or the parent of a forked child, is told of."""
    ledger = state.ledger
    if ledger is None:
        return []
    # What a forked child leaves open nobody closes: its exit handlers never run.
    if not ledger.unsent or ledger.provisional is None or os.getpid() != state.pid:
        return ledger.unsent
    return ledger.provisional.told(ledger.unsent)


def _left_so_far(entries: list[Entry]) -> list[Leak]:
    """Return what is left of *entries*, which nobody can look after once this worker crashes."""
    there = [entry for entry in entries if not entry.ignored]
    return judge(there, deferred=set(), failed=(), pardoned=lambda _: False)


def _newly_lent(state: SessionState) -> Iterator[Made]:
    for lending in (*state.lent, *state.due):
        yield from lending.made[lending.carried :]
        lending.carried = len(lending.made)


def _add_section(state: SessionState, current: CurrentTest, report: pytest.TestReport) -> None:
    """Name in a failure's own section what will be kept because of it."""
    if any(name == _SECTION for name, _ in report.sections):
        return
    lendings = [lending.made for lending in used(state, current.item)]
    made = [each for group in (current.made, *lendings) for each in group]
    policy = state.settings.keep
    kept = [m.path for m in made if reason_to_keep(policy, failed=True, asked=m.keep)]
    _name_in(report, kept)


def _name_in(report: pytest.TestReport, paths: Iterable[str]) -> None:
    """Name *paths* in a failure's own section, but for those that the test has removed."""
    # A lone surrogate would kill the channel on which xdist sends the report.
    lines = [f"kept: {shown(path, controls=True)}" for path in paths if exists(path)]
    if lines:
        report.sections.append((_SECTION, "\n".join(lines)))


def _book(state: SessionState, current: CurrentTest) -> None:
    """Book what the attempt that is over has left."""
    ledger = state.ledger
    if ledger is None:
        return
    look(state, ledger)
    if ledger.detectors:
        _allow(state, current)
    if ledger.unsent:
        _judge_attempt(ledger, current)
        if not state.travels:
            state.entries.update((entry.path, entry) for entry in ledger.unsent)
            ledger.unsent.clear()


def _allow(state: SessionState, current: CurrentTest) -> None:
    """Note what a test's markers let detectors find, for when they judge."""
    patterns = markers.ignored_patterns(current.item)
    if patterns:
        state.allowed[current.item.nodeid] = patterns


def _judge_attempt(ledger: Ledger, current: CurrentTest) -> None:
    """Mark what an attempt left as evidence if it failed, as ignored if a marker says so."""
    nodeid = current.item.nodeid
    ignore = Ignore(ledger.worker_root, markers.ignored_patterns(current.item))

    failed_itself = current.failed and not current.accused

    def marked(entry: Entry) -> Entry:
        if entry.test != nodeid or entry.owner.scope not in (None, "function"):
            return entry
        return entry._replace(
            evidence=entry.evidence or failed_itself,
            ignored=entry.ignored or ignore.matches(entry.path),
        )

    ledger.unsent = [marked(entry) for entry in ledger.unsent]


def own_entries(state: SessionState, ledger: Ledger, current: CurrentTest) -> list[Entry]:
    """Return what the attempt that is just over has left and may not leave."""
    look(state, ledger)
    if ledger.detectors:
        _allow(state, current)
    if ledger.unsent:
        _judge_attempt(ledger, current)
    nodeid = current.item.nodeid
    return [
        entry
        for entry in ledger.unsent
        if entry.test == nodeid and entry.owner.scope in (None, "function") and not entry.ignored
    ]


def failed(state: SessionState, report: pytest.CollectReport | pytest.TestReport) -> None:
    """Take note of a failure in this process, as soon as pytest knows of it."""
    current = state.current
    if current is not None and isinstance(report, pytest.TestReport):
        current.failed = True
        if not current.started and _is_crash(report):
            _after_crash(state, current)
        _add_section(state, current, report)


def received(state: SessionState, report: pytest.TestReport) -> None:
    """Take what a report tells, in whichever process it arrives."""
    if state.current is not None:
        state.current.reports.append(report)
    elif report.outcome == "failed" and not _is_interrupt(report):
        if not _is_accusation(report):
            state.failed.add(report.nodeid)
        worker = distributed.sender(report)
        if worker is not None and _is_crash(report):
            _crashed(state, worker, report)
    distributed.name_host(state, report, _SECTION)
    if _CARRIED in report.__dict__:
        _unpack(state, report)


def _is_crash(report: pytest.TestReport) -> bool:
    """Whether the process died that ran the test: pytest-xdist and pytest-forked say it so."""
    return str(report.when) == "???"


def _is_interrupt(report: pytest.TestReport) -> bool:
    """Whether pytest-xdist calls a crash what was an interrupt: the worker has come to its end."""
    node = getattr(report, "node", None)
    return _is_crash(report) and getattr(node, "workeroutput", None) is not None


def _crashed(state: SessionState, worker: str, report: pytest.TestReport) -> None:
    """Attribute what a worker had given, and nobody decided on, to the test that it crashed in."""
    state.crashed[worker] = report.nodeid
    if state.settings.keep != "none":
        _name_in(report, given_by_crashed(state, worker))


def _is_accusation(report: pytest.TestReport) -> bool:
    """Whether a report that came from a worker failed only because of what the test left."""
    try:
        return bool(json.loads(report.__dict__.get(_CARRIED, "{}")).get("accused"))
    except (ValueError, AttributeError):
        return False


def _unpack(state: SessionState, report: pytest.TestReport) -> None:
    try:
        data = json.loads(getattr(report, _CARRIED))
        made = [Made(*record) for record in data["made"]]
        lent = [Made(*record) for record in data["lent"]]
        entries = [entry_from_plain(record) for record in data["entries"]]
        there = distributed.elsewhere(state, report)
        if there is not None:
            left = [leak_from_plain(record) for record in data["left"]]
            there.left(data["root"], left)
            return
        if state.watched is not None and not state.is_worker:
            state.watched.adopt(data["changed"])
            state.allowed[report.nodeid] = data["allowed"]
    except (ValueError, TypeError, KeyError) as problem:
        text = f"the findings of {report.nodeid} could not be read: {problem}"
        state.warn("carried", text, TempresLeakWarning)
        return
    if not state.joined:
        state.entries.update((entry.path, entry) for entry in entries)
    state.superseded.update(data["superseded"])
    if state.current is None:
        _note(state, report, made)
    else:
        _take_back(state, state.current, [*made, *lent], entries)


def _note(state: SessionState, report: pytest.TestReport, made: list[Made]) -> None:
    """Note what a worker keeps by now: should it crash, it will never say so itself."""
    worker = distributed.sender(report) or state.worker.name
    failed = report.outcome == "failed" or report.nodeid in state.failed
    for each in made:
        reason = reason_to_keep(state.settings.keep, failed=failed, asked=each.keep)
        if reason is None and state.config.hook.pytest_tempres_keep.get_hookimpls():
            reason = "hook"
        if reason is not None:
            state.made.setdefault(each.path, Kept(report.nodeid, each.path, reason, worker))


def _take_back(
    state: SessionState, current: CurrentTest, made: list[Made], entries: list[Entry]
) -> None:
    """Take a report that leaves for the controller, or that came back from a forked child."""
    ledger = state.ledger
    if current.started:
        if ledger is not None:
            ledger.unsent.clear()
        return
    current.made = made
    current.started = True
    if ledger is not None:
        ledger.adopt(entries)


def settle(state: SessionState, completed: bool) -> None:
    """Remove what a test was given, or keep it: after its last report, outside all teardown.

    :param completed: False when the test was interrupted: its fixtures are torn
        down at the end of the session then, and what it was given has to wait.
    """
    current, state.current = state.current, None
    if current is None:
        return
    current.failed = current.item.session.testsfailed != current.failures
    if current.failed:
        _settle_failure(state, current)
    if not completed and state.ledger is not None:
        # It had no chance to clean up.
        state.ledger.stumbled.add(state.ledger.running.owner)
        state.ledger.mark_as_evidence(look(state, state.ledger))
    if not state.travels:
        _book(state, current)
    for made in current.earlier:
        remove(state, made)
    if current.made and completed:
        policy = _policy(state, current)
        nodeid = current.item.nodeid
        dispose(state, nodeid, current.made, failed=current.failed, policy=policy)
    elif current.made:
        state.due.append(Lending("", current.made, current.item.nodeid, current.failed))
    if state.due and completed:
        settle_due(state)
    end_test(state)


def _settle_failure(state: SessionState, current: CurrentTest) -> None:
    nodeid = current.item.nodeid
    if not current.accused:
        state.failed.add(nodeid)
    if not current.started:
        _after_crash(state, current)
    for lending in used(state, current.item):
        lending.failed, lending.nodeid = True, nodeid


def _policy(state: SessionState, current: CurrentTest) -> str:
    if not current.reports:
        # They are collected only where somebody wants to decide.
        return state.settings.keep
    item = current.item
    try:
        answers = item.ihook.pytest_tempres_keep(item=item, reports=tuple(current.reports))
    except Exception as error:  # noqa: BLE001 -- it is somebody else's code
        state.warn("keep", f"pytest_tempres_keep failed: {error!r}")
        answers = []
    return "hook" if any(answers) else state.settings.keep


def _after_crash(state: SessionState, current: CurrentTest) -> None:
    """Find what a forked child left that died before it could report."""
    known = {made.path for lending in (*state.lent, *state.due) for made in lending.made}
    known.update(kept.path for kept in state.kept)
    known.update(made.path for made in current.made)
    with contextlib.suppress(OSError), os.scandir(state.worker.given) as entries:
        current.made += [Made(entry.path) for entry in entries if entry.path not in known]
