"""The hooks and the data exchange of a controller and its workers under pytest-xdist."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from json import dumps
from json import loads
import os
import re
import sys
from typing import TYPE_CHECKING
from typing import Any
from typing import Final

import pytest

from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import entry_from_plain
from pytest_tempres.leaks.model import leak_from_plain
from pytest_tempres.leaks.verdict import as_from_failed
from pytest_tempres.primitives._system import System
from pytest_tempres.session.messages import warn_user
from pytest_tempres.session.state import Membership
from pytest_tempres.session.state import RemoteWorker
from pytest_tempres.session.state import SessionState
from pytest_tempres.session.state import at
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import attach
from pytest_tempres.workspace.root import worker_directory

if TYPE_CHECKING:
    from types import FrameType


__all__ = [
    "ControllerHooks",
    "add_host",
    "membership",
    "remote_worker_of",
    "send",
    "sender",
    "set_node_name",
]

_getframe: Final = sys._getframe  # noqa: SLF001 -- the only way to the stack; only CPython is supported
#: The environment variable with the controller's session root, set in workers only.
_SESSION: Final = "PYTEST_TEMPRES_SESSION"
_OUTPUT: Final = "tempres"
#: The attribute of a report from a remote worker: the name of its host.
_NODE: Final = "tempres_node"
_KEPT_LINE: Final = re.compile("^kept: ", re.MULTILINE)


def membership(config: pytest.Config) -> Membership:
    """Return the role of this process under pytest-xdist."""
    announced, root = _shared_root(config)
    worker = announced is not None
    return Membership(
        announced,
        root,
        name=os.environ.get("PYTEST_XDIST_WORKER", "main") if worker else "main",
        # A session that a test of a worker starts inherits the variable, but is a separate run.
        run=os.environ.get("PYTEST_XDIST_TESTRUNUID", "") if worker else "",
        host=_node_name() if worker and root is None else "",
        has_workers=_has_workers(config.known_args_namespace),
    )


def _shared_root(config: pytest.Config) -> tuple[str | None, SessionRoot | None]:
    """Return the value of the environment variable, and the session root if it exists here.

    The variable is removed from the environment, since a pytest that a test starts is a separate
    session. It is ignored unless pytest-xdist has started this process: a worker prints no report
    and does not fail the run because of leaks.
    """
    announced = os.environ.pop(_SESSION, None)
    if announced is None:
        return None, None
    if not _is_started_by_xdist():
        text = f"{_SESSION} is set ({announced[:100]!r}), and no pytest-xdist has started this"
        warn_user(config, TempresLeakWarning(f"{text} process: it is ignored"))
        return None, None
    path = _path_in(announced)
    return announced, None if path is None else attach(path)


def _is_started_by_xdist() -> bool:
    """Whether this process is a worker. Its child processes inherit the variables too."""
    if not {"PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"} <= os.environ.keys():
        return False
    # `config.workerinput` is set too late. execnet documents this name for the code that it runs.
    frame: FrameType | None = _getframe()
    while frame is not None:
        name = frame.f_globals.get("__name__")
        if name in ("__channelexec__", "_pytest.runner"):
            # A session that a test of a worker starts in process is separate too.
            return bool(name == "__channelexec__")
        frame = frame.f_back
    return False


def _path_in(announced: str) -> str | None:
    """Return the path that a controller has announced; None if the text is not such a path."""
    try:
        path = loads(announced) if announced.startswith('"') else announced
        # Not every string that JSON can express can be encoded as a path.
        System.fsencode(path)
    except ValueError:
        return None
    return path if System.isabs(path) and "\0" not in path else None


def _has_workers(namespace: argparse.Namespace) -> bool:
    """Whether the command line has an option for workers; their number may still be 0."""
    options = ("numprocesses", "tx", "distload", "looponfail")
    named = any(getattr(namespace, name, None) for name in options)
    return named or getattr(namespace, "dist", "no") != "no"


def sender(report: Any) -> str | None:
    """Return the directory name of the worker that a report came from; None if from no worker."""
    node = getattr(report, "node", None)
    return None if node is None else worker_directory(node.gateway.id)


def send(state: SessionState, deferred: set[str], leaks: Sequence[Leak] = ()) -> None:
    """Put what no test's report contains into `workeroutput`, which the controller receives.

    :param deferred: The paths that this worker removes at exit.
    :param leaks: The leaks that a remote worker has found itself.
    """
    output = getattr(state.config, "workeroutput", None)
    if output is None:
        return
    entries = state.leaks.ledger.remaining() if state.leaks.ledger is not None else []
    output[_OUTPUT] = dumps(
        {
            "entries": [as_from_failed(entry, state.reported.failed) for entry in entries],
            "deferred": sorted(deferred),
            "kept": state.retention.kept,
            "failed_owners": list(state.leaks.ledger.failed_owners)
            if state.leaks.ledger is not None
            else [],
            "root": None if state.workspace.joined else state.workspace.root.path,
            "node": None if state.workspace.joined else _node_name(),
            "leaks": leaks,
            "changed": state.leaks.watched.take_changes()
            if state.leaks.watched is not None
            else [],
            "collected": state.result.tally.collected,
            "narrowed": state.result.tally.narrowed,
        }
    )


def _node_name() -> str:
    from pytest_tempres.workers.remote import node_name  # noqa: PLC0415 -- few are on other hosts

    return node_name()


def set_node_name(state: SessionState, report: pytest.TestReport) -> None:
    """Store the name of this host in *report*, if this is a remote worker."""
    if state.is_remote:
        setattr(report, _NODE, _node_name())


def remote_worker_of(state: SessionState, report: pytest.TestReport) -> RemoteWorker | None:
    """Return the remote worker that *report* comes from; None if it is from another process."""
    name = getattr(report, _NODE, None)
    # Reports have the attribute `node` in the controller only.
    return _remote_worker(state, report.node, name) if name and hasattr(report, "node") else None


def add_host(state: SessionState, report: pytest.TestReport, section: str) -> None:
    """Add the host to the paths in *section* of a failed report, if it is from a remote worker."""
    worker = remote_worker_of(state, report) if report.outcome != "passed" else None
    if worker is not None:
        line = at(f"kept: {worker.host}", "")
        report.sections = [
            (name, _KEPT_LINE.sub(lambda _: line, text) if name == section else text)
            for name, text in report.sections
        ]


def _remote_worker(state: SessionState, node: Any, name: str) -> RemoteWorker:
    from pytest_tempres.workers.remote import host_of  # noqa: PLC0415 -- few are on other hosts

    worker, spec = node.gateway.id, node.gateway.spec
    if worker not in state.reported.remote_workers:
        host = host_of(ssh=spec.ssh or spec.vagrant_ssh, socket=spec.socket, node=name)
        state.reported.remote_workers[worker] = RemoteWorker(worker, host)
    return state.reported.remote_workers[worker]


class ControllerHooks:
    """The hooks of a controller for its workers."""

    def __init__(self, state: SessionState) -> None:
        self._state = state
        #: Workers that have not ended.
        self._nodes: list[Any] = []

    @pytest.hookimpl
    def pytest_xdist_setupnodes(self, specs: list[Any]) -> None:
        """Set the environment variable with the session root, before a worker starts."""
        path = self._state.workspace.root.path
        try:
            path.encode()
        except UnicodeEncodeError:
            # execnet sends UTF-8 only. JSON starts with a quote, an absolute path never does.
            path = dumps(path)
        for spec in specs:
            spec.env[_SESSION] = path

    @pytest.hookimpl
    def pytest_configure_node(self, node: Any) -> None:
        """Remember the worker."""
        self._nodes.append(node)

    @pytest.hookimpl
    def pytest_testnodedown(self, node: Any) -> None:
        """Receive what a worker has sent at its end; a crashed worker has sent nothing."""
        # A worker may have created the session root again, with a lock that ends with the worker.
        self._state.workspace.root = self._state.workspace.root.hold()
        # After an interrupt pytest-xdist calls this twice.
        if node in self._nodes:
            self._nodes.remove(node)
            self._receive_output(node)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Receive from the workers for which pytest-xdist calls no hook, as after `-x`."""
        while self._nodes:
            self._receive_output(self._nodes.pop(0))

    def _receive_output(self, node: Any) -> None:
        output = getattr(node, "workeroutput", None) or {}
        text = output.get(_OUTPUT)
        name = node.gateway.id
        if name not in self._state.reported.workers:
            self._state.reported.workers.append(name)
        if text is None:
            return
        self._state.reported.ended.add(worker_directory(name))
        try:
            _receive(self._state, node, loads(text))
        except (ValueError, TypeError, KeyError) as problem:
            self._state.messages.warn(
                "workeroutput",
                f"the findings of worker {name} could not be read: {problem}",
                TempresLeakWarning,
            )


def _receive(state: SessionState, node: Any, data: dict[str, Any]) -> None:
    leaks = [leak_from_plain(record) for record in data["leaks"]]
    kept = [Kept(*record) for record in data["kept"]]
    if state.leaks.ledger is not None:
        state.leaks.ledger.failed_owners.update(Owner(*owner) for owner in data["failed_owners"])
    # Every worker collects the same tests.
    state.result.tally.collected |= Counter(data["collected"])
    state.result.tally.narrowed |= data["narrowed"]
    if data["root"] is not None:
        _remote_worker(state, node, data["node"]).judge(data["root"], leaks, kept)
        return
    for record in data["entries"]:
        entry: Entry = entry_from_plain(record)
        state.leaks.entries[entry.path] = entry
    state.leaks.deferred.update(data["deferred"])
    state.retention.kept.extend(kept)
    if state.leaks.watched is not None:
        state.leaks.watched.changes.adopt(data["changed"])
    state.reported.remote_leaks.extend(leaks)
