"""What does a test's report tell, here and in the process that it arrives in?"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from json import dumps
from json import loads
from typing import Any
from typing import Final

import pytest

from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import entry_from_plain
from pytest_tempres.leaks.model import leak_from_plain
from pytest_tempres.leaks.temp.scan import exists
from pytest_tempres.leaks.verdict import judge
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.summary import escaped
from pytest_tempres.session.retention import given_by_crashed
from pytest_tempres.session.retention import renamed
from pytest_tempres.session.retention import used
from pytest_tempres.session.runtest import FINDINGS
from pytest_tempres.session.runtest import after_crash
from pytest_tempres.session.runtest import book
from pytest_tempres.session.runtest import unload
from pytest_tempres.session.state import CurrentTest
from pytest_tempres.session.state import SessionState
from pytest_tempres.workers import xdist
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import created_from_plain
from pytest_tempres.workspace.retention import reason_to_keep

__all__ = ["failed", "pack", "received"]

_SECTION: Final = "temporary resources"


def pack(state: SessionState, item: pytest.Item, report: pytest.TestReport) -> None:
    """Let a report carry to another process what stands only in this one."""
    current = state.tests.current
    if current is None or current.item is not item or not state.is_sent:
        return
    if report.outcome == "failed":
        current.failed = True
        _add_section(state, current, report)
        xdist.tell_host(state, report)
    if report.when == "teardown":
        book(state, current)
        found = _findings(state, current)
        if any(found.values()):
            if state.is_remote:
                xdist.tell_host(state, report)
                found.update(root=state.workspace.root.path, left=_left_so_far(found["entries"]))
            setattr(report, FINDINGS, dumps(found))


def _findings(state: SessionState, current: CurrentTest) -> dict[str, Any]:
    """Return what another process is told of the test that is over."""
    return {
        "made": current.created,
        "lent": _created_by_factories(state, current),
        "failed": current.failed,
        "superseded": current.from_earlier_attempts,
        "entries": _reported(state),
        "changed": state.leaks.watched.travelling() if state.leaks.watched is not None else [],
        "allowed": state.leaks.allowed.get(current.item.nodeid, []),
        "accused": current.leak_reported,
    }


def _reported(state: SessionState) -> list[Entry]:
    """Return what a controller, or the parent of a forked child, is told of."""
    ledger = state.leaks.ledger
    if ledger is None:
        return []
    # What a forked child leaves open nobody closes: its exit handlers never run.
    if ledger.provisional is None or System.getpid() != state.workspace.pid:
        return ledger.not_yet_sent
    return ledger.provisional.told(ledger.not_yet_sent)


def _left_so_far(entries: list[Entry]) -> list[Leak]:
    """Return what is left of *entries*, which nobody can look after once this worker crashes."""
    there = [entry for entry in entries if not entry.ignored]
    return judge(there, deferred=set(), failed=(), is_ignored_by_hook=lambda _: False)


def _created_by_factories(state: SessionState, current: CurrentTest) -> list[CreatedPath]:
    """Return what factories of wider scopes gave that the receiver has to know of by now.

    A parent does not know what its forked child was given; a controller hears of the rest when
    the worker ends, or takes it for the crashed test's.
    """
    if System.getpid() != state.workspace.pid:
        return list(_newly_created_by_factories(state))
    wider = used(state, current.item) if current.failed else []
    return [created for factory in wider for created in factory.created]


def _newly_created_by_factories(state: SessionState) -> Iterator[CreatedPath]:
    for factory in (*state.tests.open_factories, *state.tests.expired_factories):
        yield from factory.created[factory.carried :]
        factory.carried = len(factory.created)


def failed(state: SessionState, report: pytest.CollectReport | pytest.TestReport) -> None:
    """Take note of a failure in this process, as soon as pytest knows of it."""
    current = state.tests.current
    if current is not None and isinstance(report, pytest.TestReport):
        current.failed = True
        if not current.started and _is_crash(report):
            after_crash(state, current)
        _add_section(state, current, report)


def received(state: SessionState, report: pytest.TestReport) -> None:
    """Take what a report tells, in whichever process it arrives."""
    data = _read(state, report)
    if state.tests.current is not None:
        state.tests.current.reports.append(report)
    elif report.outcome == "failed" and not _is_interrupt(report):
        if not data.get("accused"):
            state.reported.failed.add(report.nodeid)
        worker = xdist.sender(report)
        if worker is not None and _is_crash(report):
            _crashed(state, worker, report)
    if report.outcome == "failed":
        xdist.name_host(state, report, _SECTION)
    if data:
        _unpack(state, report, data)
    if state.tests.current is None:
        unload(report)


def _read(state: SessionState, report: pytest.TestReport) -> dict[str, Any]:
    """Return what a report carries, if anything."""
    text = report.__dict__.get(FINDINGS)
    if text is None:
        return {}
    try:
        data = loads(text)
        if isinstance(data, dict):
            return data
        problem: Exception = TypeError(f"not a record: {data!r}")
    except (ValueError, TypeError) as error:
        problem = error
    _unreadable(state, report, problem)
    return {}


def _unreadable(state: SessionState, report: pytest.TestReport, problem: Exception) -> None:
    text = f"the findings of {report.nodeid} could not be read: {problem}"
    state.messages.warn("carried", text, TempresLeakWarning)


def _is_crash(report: pytest.TestReport) -> bool:
    """Whether the process died that ran the test: pytest-xdist and pytest-forked say it so."""
    return str(report.when) == "???"


def _is_interrupt(report: pytest.TestReport) -> bool:
    """Whether pytest-xdist calls a crash what was an interrupt: the worker has come to its end."""
    node = getattr(report, "node", None)
    return _is_crash(report) and getattr(node, "workeroutput", None) is not None


def _crashed(state: SessionState, worker: str, report: pytest.TestReport) -> None:
    """Attribute what a worker had given, and nobody decided on, to the test that it crashed in."""
    state.reported.crashed[worker] = report.nodeid
    if state.settings.keep != "none":
        _name_in(state, report, given_by_crashed(state, worker))


def _add_section(state: SessionState, current: CurrentTest, report: pytest.TestReport) -> None:
    """Name in a failure's own section what will be kept because of it."""
    if any(name == _SECTION for name, _ in report.sections):
        return
    # Here, so that it is written down by the name that it has now.
    groups = [current.created, *(factory.created for factory in used(state, current.item))]
    for group in groups:
        group.extend(renamed(state, group))
    created = [each for group in groups for each in group]
    policy = state.settings.keep
    kept = [m.path for m in created if reason_to_keep(policy, failed=True, asked=m.keep)]
    _name_in(state, report, kept)


def _name_in(state: SessionState, report: pytest.TestReport, paths: Iterable[str]) -> None:
    """Name *paths* in a failure's own section, but for those that the test has removed."""
    there = [path for path in paths if exists(path)]
    # A lone surrogate would kill the channel on which xdist sends the report.
    lines = [f"kept: {escaped(path, controls=True)}" for path in there]
    if lines:
        state.retention.write_down(report.nodeid, there)
        report.sections.append((_SECTION, "\n".join(lines)))


def _unpack(state: SessionState, report: pytest.TestReport, data: dict[str, Any]) -> None:
    try:
        created = [created_from_plain(record) for record in data["made"]]
        open_factories = [created_from_plain(record) for record in data["lent"]]
        entries = [entry_from_plain(record) for record in data["entries"]]
        there = xdist.remote_workers(state, report)
        if there is not None:
            left = [leak_from_plain(record) for record in data["left"]]
            there.left(data["root"], left)
            return
        if state.leaks.watched is not None and not state.is_worker:
            state.leaks.watched.adopt(data["changed"])
            state.leaks.allowed[report.nodeid] = data["allowed"]
    except (ValueError, TypeError, KeyError) as problem:
        _unreadable(state, report, problem)
        return
    if not state.workspace.joined:
        state.leaks.entries.update((entry.path, entry) for entry in entries)
    state.tests.from_earlier_attempts.update(data["superseded"])
    if state.tests.current is None:
        # Of reports by the same name, another worker's may be the one that failed.
        failed = report.nodeid in state.reported.failed and data["failed"]
        failed = failed or report.outcome == "failed"
        asks = bool(state.config.hook.pytest_tempres_keep.get_hookimpls())
        _note(state, report, created, failed=failed, otherwise="hook" if asks else None)
        # No single test decides on what was lent, so nobody is asked about it.
        _note(state, report, open_factories, failed=failed)
    else:
        _take_back(state, state.tests.current, [*created, *open_factories], entries)


def _note(
    state: SessionState,
    report: pytest.TestReport,
    created: list[CreatedPath],
    *,
    failed: bool,
    otherwise: str | None = None,
) -> None:
    """Note what a worker keeps by now: should it crash, it will never say so itself.

    :param otherwise: The reason to keep what neither the policy nor the call keeps.
    """
    worker = xdist.sender(report) or state.workspace.worker.name
    for each in created:
        reason = reason_to_keep(state.settings.keep, failed=failed, asked=each.keep) or otherwise
        if reason is not None:
            state.reported.created[each.path] = Kept(report.nodeid, each.path, reason, worker)


def _take_back(
    state: SessionState, current: CurrentTest, created: list[CreatedPath], entries: list[Entry]
) -> None:
    """Take a report that leaves for the controller, or that came back from a forked child."""
    ledger = state.leaks.ledger
    if current.started:
        if ledger is not None:
            ledger.not_yet_sent.clear()
        return
    current.created = created
    current.started = True
    if ledger is not None:
        ledger.adopt(entries)
