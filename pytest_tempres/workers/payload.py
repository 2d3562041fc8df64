"""The payload of test reports: packed where a test runs, unpacked where its report arrives."""

from __future__ import annotations

from collections.abc import Iterable
from json import dumps
from json import loads
from typing import Any
from typing import Final

import pytest

from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.leaks import model
from pytest_tempres.leaks.temp.scan import exists
from pytest_tempres.leaks.verdict import judge
from pytest_tempres.reports.escape import escaped
from pytest_tempres.session import runtest
from pytest_tempres.session.messages import Messages
from pytest_tempres.session.retention import Retention
from pytest_tempres.session.state import CurrentTest
from pytest_tempres.session.state import SessionState
from pytest_tempres.workers import xdist
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import created_from_plain
from pytest_tempres.workspace.retention import reason_to_keep

__all__ = ["pack", "receive", "record_failure"]

_SECTION: Final = "temporary resources"


def pack(state: SessionState, item: pytest.Item, report: pytest.TestReport) -> None:
    """Add the findings about a test to its report, if that is sent to another process."""
    current = state.current
    if current is None or current.item is not item or not state.is_sent:
        return
    if report.outcome == "failed":
        current.failed = True
        _add_section(state, current, report)
    xdist.set_node_name(state, report)
    if report.when == "teardown":
        runtest.record_attempt(state, current)
        found = _findings(state, current)
        if any(found.values()):
            if state.is_remote:
                # No other process can find them if this worker crashes.
                found["root"] = state.workspace.root.path
                found["leaks"] = _leaks_so_far(found["entries"])
            setattr(report, runtest.FINDINGS, dumps(found))


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


def _entries_to_send(state: SessionState) -> list[model.Entry]:
    """Return the entries to send to the controller, or to the parent of a forked child."""
    ledger = state.leaks.ledger
    # The exit handlers of a forked child never run, so nothing that it leaves is removed later.
    if ledger.provisional is None or state.workspace.is_forked:
        return ledger.not_yet_sent
    return ledger.provisional.to_send(ledger.not_yet_sent)


def _leaks_so_far(entries: list[model.Entry]) -> list[model.Leak]:
    not_ignored = [entry for entry in entries if not entry.ignored]
    return judge(not_ignored, deferred=set(), failed=(), is_ignored_by_hook=lambda _: False)


def _created_by_factories(state: SessionState, current: CurrentTest) -> list[CreatedPath]:
    """Return the paths created by factories of wider scopes that must be sent with this report.

    A forked child can only send them now. A worker sends them now if the test has failed, or else
    when it ends; if it crashes, the controller attributes them to the test that was running.
    """
    created: list[CreatedPath] = []
    if state.workspace.is_forked:
        for factory in state.retention.factories():
            created += factory.created[factory.sent_count :]
            factory.sent_count = len(factory.created)
    elif current.failed:
        for factory in state.retention.used_by(current.item):
            created += factory.created
    return created


def record_failure(state: SessionState, report: pytest.CollectReport | pytest.TestReport) -> None:
    """Record a failure in this process, as soon as pytest reports it."""
    current = state.current
    if current is not None and isinstance(report, pytest.TestReport):
        current.failed = True
        if not current.started and _is_crash(report):
            runtest.recover_created(state, current)
        _add_section(state, current, report)


def receive(state: SessionState, report: pytest.TestReport) -> None:
    """Record the outcome and the payload of a report that arrives in this process."""
    data = _read(state.messages, report)
    if state.current is not None:
        state.current.reports.append(report)
    elif report.outcome == "failed" and not _is_interrupt(report):
        if not data.get("leak_reported"):
            state.reported.failed.add(report.nodeid)
        worker = xdist.sender(report)
        if worker is not None and _is_crash(report):
            _record_crash(state, worker, report)
    if report.outcome == "failed":
        xdist.add_host(state.reported, report, _SECTION)
    if data:
        _unpack(state, report, data)
    if state.current is None:
        runtest.remove_findings(report)


def _read(messages: Messages, report: pytest.TestReport) -> dict[str, Any]:
    """Return the payload of a report; empty if it has none."""
    text = report.__dict__.get(runtest.FINDINGS)
    try:
        data: dict[str, Any] = dict(loads(text)) if text is not None else {}
    except (ValueError, TypeError) as problem:
        _warn_unreadable(messages, report, problem)
        return {}
    return data


def _warn_unreadable(messages: Messages, report: pytest.TestReport, problem: Exception) -> None:
    text = f"could not read the leak data in the report of {report.nodeid}: {problem}"
    messages.warn("payload", text, TempresLeakWarning)


def _is_crash(report: pytest.TestReport) -> bool:
    """Whether pytest-xdist or pytest-forked created this report because the process died."""
    return str(report.when) == "???"


def _is_interrupt(report: pytest.TestReport) -> bool:
    """Whether pytest-xdist reports an interrupt as a crash: the worker has sent its output."""
    node = getattr(report, "node", None)
    return _is_crash(report) and getattr(node, "workeroutput", None) is not None


def _record_crash(state: SessionState, worker: str, report: pytest.TestReport) -> None:
    """Attribute what fixtures created in a crashed worker to the test that was running."""
    state.reported.crashed[worker] = report.nodeid
    if state.settings.keep != "none":
        paths = state.reported.created_by_crashed(worker, state.workspace.root.path)
        _add_kept_paths(state.retention, report, paths)


def _add_section(state: SessionState, current: CurrentTest, report: pytest.TestReport) -> None:
    """Add a section to a failed report that lists the paths kept because of the failure."""
    if any(name == _SECTION for name, _ in report.sections):
        return
    retention = state.retention
    kept = []
    for created in (current.created, *(each.created for each in retention.used_by(current.item))):
        # Before the index is written, so that it has the current names.
        created.extend(retention.renamed(created))
        kept += retention.kept_after_failure(created)
    text = _add_kept_paths(retention, report, kept)
    # The results of Allure have what was captured, and no other section of a report.
    allure: Any = state.config.pluginmanager.get_plugin("allure_listener")
    if text and allure is not None:
        allure.attach_data(text, name=_SECTION, attachment_type="text/plain", extension="txt")


def _add_kept_paths(retention: Retention, report: pytest.TestReport, paths: Iterable[str]) -> str:
    """List those of *paths* that still exist in a section of a failed report; return its text."""
    existing = [path for path in paths if exists(path)]
    if not existing:
        return ""
    retention.add_to_journal(report.nodeid, existing)
    from pytest_tempres.session.listing import deadline  # noqa: PLC0415 -- few tests fail
    from pytest_tempres.session.listing import list_files  # noqa: PLC0415 -- as above

    lines: list[str] = []
    until = deadline()
    for path in existing:
        # execnet cannot encode a lone surrogate: the connection to the worker would end.
        lines += [f"kept: {escaped(path, controls=True)}", *list_files(path, until)]
    text = "\n".join(lines)
    report.sections.append((_SECTION, text))
    return text


def _unpack(state: SessionState, report: pytest.TestReport, data: dict[str, Any]) -> None:
    try:
        created = [created_from_plain(record) for record in data["created"]]
        by_factories = [created_from_plain(record) for record in data["created_by_factories"]]
        entries = [model.entry_from_plain(record) for record in data["entries"]]
        remote_worker = xdist.remote_worker_of(state.reported, report)
        if remote_worker is not None:
            leaks = [model.leak_from_plain(record) for record in data["leaks"]]
            remote_worker.record(data["root"], leaks)
            return
        if state.leaks.watched is not None and not state.is_worker:
            state.leaks.watched.changes.adopt(data["changed"])
            state.leaks.allowed[report.nodeid] = data["allowed"]
    except (ValueError, TypeError, KeyError) as problem:
        _warn_unreadable(state.messages, report, problem)
        return
    if not state.workspace.joined:
        state.leaks.add(entries)
    state.reported.from_earlier_attempts.update(data["from_earlier_attempts"])
    if state.current is None:
        _record_kept(state, report, created, by_factories, failed=data["failed"])
        return
    if state.current.started:
        # A worker has sent them to the controller.
        state.leaks.ledger.not_yet_sent.clear()
    else:
        # A forked child has sent them back.
        state.current.started = True
        state.current.created = [*created, *by_factories]
        state.leaks.ledger.adopt(entries)


def _record_kept(
    state: SessionState,
    report: pytest.TestReport,
    created: list[CreatedPath],
    by_factories: list[CreatedPath],
    *,
    failed: bool,
) -> None:
    """Record which paths a worker keeps, in case it crashes before it sends them."""
    # With the same node id, the report of another worker may be the one that failed.
    failed = (failed and report.nodeid in state.reported.failed) or report.outcome == "failed"
    worker = xdist.sender(report) or state.workspace.worker.name
    # The hook decides for one test; factories of a wider scope have other tests too.
    has_hook = bool(state.config.hook.pytest_tempres_keep.get_hookimpls())
    for paths, default in ((created, "hook" if has_hook else None), (by_factories, None)):
        for each in paths:
            reason = reason_to_keep(state.settings.keep, failed=failed, asked=each.keep) or default
            if reason is not None:
                state.reported.created[each.path] = Kept(report.nodeid, each.path, reason, worker)
