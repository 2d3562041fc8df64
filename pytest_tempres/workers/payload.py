"""The payload of test reports: packed where a test runs, unpacked where its report arrives."""

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
from pytest_tempres.session.retention import created_by_crashed
from pytest_tempres.session.retention import renamed
from pytest_tempres.session.retention import used
from pytest_tempres.session.runtest import FINDINGS
from pytest_tempres.session.runtest import after_crash
from pytest_tempres.session.runtest import record_attempt
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
    """Put the findings about a test into its report, if that goes to another process."""
    current = state.tests.current
    if current is None or current.item is not item or not state.is_sent:
        return
    if report.outcome == "failed":
        current.failed = True
        _add_section(state, current, report)
        xdist.set_node_name(state, report)
    if report.when == "teardown":
        record_attempt(state, current)
        found = _findings(state, current)
        if any(found.values()):
            if state.is_remote:
                xdist.set_node_name(state, report)
                found.update(root=state.workspace.root.path, leaks=_leaks_so_far(found["entries"]))
            setattr(report, FINDINGS, dumps(found))


def _findings(state: SessionState, current: CurrentTest) -> dict[str, Any]:
    """Return the findings about a finished test, as plain data."""
    return {
        "created": current.created,
        "created_by_factories": _created_by_factories(state, current),
        "failed": current.failed,
        "from_earlier_attempts": current.from_earlier_attempts,
        "entries": _entries_to_send(state),
        "changed": state.leaks.watched.take_changes() if state.leaks.watched is not None else [],
        "allowed": state.leaks.allowed.get(current.item.nodeid, []),
        "leak_reported": current.leak_reported,
    }


def _entries_to_send(state: SessionState) -> list[Entry]:
    """Return the entries to send to the controller, or to the parent of a forked child."""
    ledger = state.leaks.ledger
    if ledger is None:
        return []
    # The exit handlers of a forked child never run, so nothing that it leaves is removed later.
    if ledger.provisional is None or System.getpid() != state.workspace.pid:
        return ledger.not_yet_sent
    return ledger.provisional.to_send(ledger.not_yet_sent)


def _leaks_so_far(entries: list[Entry]) -> list[Leak]:
    """Return the leaks among *entries*: no other process can find them if this worker crashes."""
    not_ignored = [entry for entry in entries if not entry.ignored]
    return judge(not_ignored, deferred=set(), failed=(), is_ignored_by_hook=lambda _: False)


def _created_by_factories(state: SessionState, current: CurrentTest) -> list[CreatedPath]:
    """Return the paths created by factories of wider scopes that must be sent with this report.

    A forked child can only send them now. A worker sends them now if the test has failed, or else
    when it ends; if it crashes, the controller attributes them to the test that was running.
    """
    if System.getpid() != state.workspace.pid:
        return list(_newly_created_by_factories(state))
    wider = used(state, current.item) if current.failed else []
    return [created for factory in wider for created in factory.created]


def _newly_created_by_factories(state: SessionState) -> Iterator[CreatedPath]:
    for factory in (*state.tests.open_factories, *state.tests.expired_factories):
        yield from factory.created[factory.sent_count :]
        factory.sent_count = len(factory.created)


def failed(state: SessionState, report: pytest.CollectReport | pytest.TestReport) -> None:
    """Record a failure in this process, as soon as pytest reports it."""
    current = state.tests.current
    if current is not None and isinstance(report, pytest.TestReport):
        current.failed = True
        if not current.started and _is_crash(report):
            after_crash(state, current)
        _add_section(state, current, report)


def received(state: SessionState, report: pytest.TestReport) -> None:
    """Record the outcome and the payload of a report that arrives in this process."""
    data = _read(state, report)
    if state.tests.current is not None:
        state.tests.current.reports.append(report)
    elif report.outcome == "failed" and not _is_interrupt(report):
        if not data.get("leak_reported"):
            state.reported.failed.add(report.nodeid)
        worker = xdist.sender(report)
        if worker is not None and _is_crash(report):
            _record_crash(state, worker, report)
    if report.outcome == "failed":
        xdist.add_host(state, report, _SECTION)
    if data:
        _unpack(state, report, data)
    if state.tests.current is None:
        unload(report)


def _read(state: SessionState, report: pytest.TestReport) -> dict[str, Any]:
    """Return the payload of a report; empty if it has none."""
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
    _warn_unreadable(state, report, problem)
    return {}


def _warn_unreadable(state: SessionState, report: pytest.TestReport, problem: Exception) -> None:
    text = f"the findings of {report.nodeid} could not be read: {problem}"
    state.messages.warn("carried", text, TempresLeakWarning)


def _is_crash(report: pytest.TestReport) -> bool:
    """Whether pytest-xdist or pytest-forked created this report because the process died."""
    return str(report.when) == "???"


def _is_interrupt(report: pytest.TestReport) -> bool:
    """Whether pytest-xdist reports an interrupt as a crash: the worker has sent its output."""
    node = getattr(report, "node", None)
    return _is_crash(report) and getattr(node, "workeroutput", None) is not None


def _record_crash(state: SessionState, worker: str, report: pytest.TestReport) -> None:
    """Attribute the paths that a crashed worker has not decided on to the test that was running."""
    state.reported.crashed[worker] = report.nodeid
    if state.settings.keep != "none":
        _add_kept_paths(state, report, created_by_crashed(state, worker))


def _add_section(state: SessionState, current: CurrentTest, report: pytest.TestReport) -> None:
    """Add a section to a failed report that lists the paths kept because of the failure."""
    if any(name == _SECTION for name, _ in report.sections):
        return
    # Before the index is written, so that it has the current names.
    groups = [current.created, *(factory.created for factory in used(state, current.item))]
    for group in groups:
        group.extend(renamed(state, group))
    created = [each for group in groups for each in group]
    policy = state.settings.keep
    kept = [m.path for m in created if reason_to_keep(policy, failed=True, asked=m.keep)]
    _add_kept_paths(state, report, kept)


def _add_kept_paths(state: SessionState, report: pytest.TestReport, paths: Iterable[str]) -> None:
    """List those of *paths* that still exist in a section of a failed report."""
    existing = [path for path in paths if exists(path)]
    if not existing:
        return
    state.retention.write_down(report.nodeid, existing)
    from pytest_tempres.session.listing import deadline  # noqa: PLC0415 -- few tests fail
    from pytest_tempres.session.listing import list_files  # noqa: PLC0415 -- as above

    lines: list[str] = []
    until = deadline()
    for path in existing:
        # execnet cannot encode a lone surrogate: the connection to the worker would end.
        lines += [f"kept: {escaped(path, controls=True)}", *list_files(path, until)]
    report.sections.append((_SECTION, "\n".join(lines)))


def _unpack(state: SessionState, report: pytest.TestReport, data: dict[str, Any]) -> None:
    try:
        created = [created_from_plain(record) for record in data["created"]]
        by_factories = [created_from_plain(record) for record in data["created_by_factories"]]
        entries = [entry_from_plain(record) for record in data["entries"]]
        remote_worker = xdist.remote_worker_of(state, report)
        if remote_worker is not None:
            leaks = [leak_from_plain(record) for record in data["leaks"]]
            remote_worker.left(data["root"], leaks)
            return
        if state.leaks.watched is not None and not state.is_worker:
            state.leaks.watched.adopt(data["changed"])
            state.leaks.allowed[report.nodeid] = data["allowed"]
    except (ValueError, TypeError, KeyError) as problem:
        _warn_unreadable(state, report, problem)
        return
    if not state.workspace.joined:
        state.leaks.entries.update((entry.path, entry) for entry in entries)
    state.tests.from_earlier_attempts.update(data["from_earlier_attempts"])
    if state.tests.current is None:
        # With the same node id, the report of another worker may be the one that failed.
        failed = report.nodeid in state.reported.failed and data["failed"]
        failed = failed or report.outcome == "failed"
        has_hook = bool(state.config.hook.pytest_tempres_keep.get_hookimpls())
        _record_kept(state, report, created, failed=failed, default="hook" if has_hook else None)
        # The hook decides for one test; these paths belong to the tests of a wider scope.
        _record_kept(state, report, by_factories, failed=failed)
    else:
        _record_sent_or_returned(state, state.tests.current, [*created, *by_factories], entries)


def _record_kept(
    state: SessionState,
    report: pytest.TestReport,
    created: list[CreatedPath],
    *,
    failed: bool,
    default: str | None = None,
) -> None:
    """Record which paths a worker keeps, for the case that it crashes before it sends them.

    :param default: The reason to keep a path that neither the policy nor the call keeps.
    """
    worker = xdist.sender(report) or state.workspace.worker.name
    for each in created:
        reason = reason_to_keep(state.settings.keep, failed=failed, asked=each.keep) or default
        if reason is not None:
            state.reported.created[each.path] = Kept(report.nodeid, each.path, reason, worker)


def _record_sent_or_returned(
    state: SessionState, current: CurrentTest, created: list[CreatedPath], entries: list[Entry]
) -> None:
    """Record what a worker has sent to the controller, or what a forked child has sent back."""
    ledger = state.leaks.ledger
    if current.started:
        if ledger is not None:
            ledger.not_yet_sent.clear()
        return
    current.created = created
    current.started = True
    if ledger is not None:
        ledger.adopt(entries)
