"""The hooks of a controller for pytest-xdist, and the data that its workers send at their end."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from json import dumps
from json import loads
import os
import re
import sys
from types import FrameType
from typing import Any
from typing import Final

import pytest

from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.leaks import model
from pytest_tempres.leaks.verdict import as_from_failed
from pytest_tempres.primitives._system import System
from pytest_tempres.primitives._system import uname
from pytest_tempres.session.messages import warn_user
from pytest_tempres.session.state import Membership
from pytest_tempres.session.state import RemoteWorker
from pytest_tempres.session.state import Reported
from pytest_tempres.session.state import SessionState
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.root import attach
from pytest_tempres.workspace.root import worker_directory

__all__ = [
    "ControllerHooks",
    "add_host",
    "membership",
    "remote_worker_of",
    "send",
    "sender",
    "set_node_name",
]

_getframe: Final = sys._getframe  # noqa: SLF001 -- the only way to get a stack; only CPython has to work
#: The environment variable with the controller's session root, set in workers only.
_SESSION: Final = "PYTEST_TEMPRES_SESSION"
_OUTPUT: Final = "tempres"
#: The attribute of a report from a remote worker: the name of its host.
_NODE: Final = "tempres_node"
#: The options of ssh(1) that take an argument, of OpenSSH 10.
_WITH_ARGUMENT: Final = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
_KEPT_LINE: Final = re.compile("^kept: ", re.MULTILINE)


def membership(config: pytest.Config) -> Membership:
    """Return the role of this process under pytest-xdist."""
    controller_root = _controller_root(config)
    path = None if controller_root is None else _decoded(controller_root)
    root = None if path is None else attach(path)
    worker = controller_root is not None
    return Membership(
        controller_root,
        root,
        name=os.environ["PYTEST_XDIST_WORKER"] if worker else "main",
        run=os.environ["PYTEST_XDIST_TESTRUNUID"] if worker else "",
        host=uname()[1] if worker and root is None else "",
        has_workers=_has_workers(config.known_args_namespace),
    )


def _controller_root(config: pytest.Config) -> str | None:
    """Return the value of the environment variable, if this is a worker.

    The variable is removed from the environment, since a pytest that a test starts is a separate
    session. It is ignored unless pytest-xdist has started this process: a worker prints no report
    and does not fail the run because of leaks.
    """
    value = os.environ.pop(_SESSION, None)
    if value is None or _is_started_by_xdist():
        return value
    text = f"{_SESSION} ({value[:100]!r}) is ignored: pytest-xdist did not start this process"
    warn_user(config, TempresLeakWarning(text))
    return None


def _is_started_by_xdist() -> bool:
    """Whether this process is a worker. Its child processes inherit the variables too."""
    if not {"PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"} <= os.environ.keys():
        return False
    # `config.workerinput` is set later. execnet documents this module name for the code it runs.
    frame: FrameType | None = _getframe()
    while frame is not None:
        name = frame.f_globals.get("__name__")
        if name in ("__channelexec__", "_pytest.runner"):
            # A session that a test starts in the process of a worker is separate too.
            return bool(name == "__channelexec__")
        frame = frame.f_back
    return False


def _decoded(value: str) -> str | None:
    """Return the path in the value of the environment variable; None if it is not a valid one."""
    try:
        path = loads(value) if value.startswith('"') else value
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


def send(state: SessionState, deferred: set[str], leaks: Sequence[model.Leak]) -> None:
    """Put what no test report contains into `workeroutput`, which the controller receives.

    :param deferred: The paths that this worker removes at exit.
    :param leaks: The leaks that a remote worker has found itself.
    """
    output = getattr(state.config, "workeroutput", None)
    if output is None:
        return
    ledger, watched, failed = state.leaks.ledger, state.leaks.watched, state.reported.failed
    output[_OUTPUT] = dumps(
        {
            "entries": [as_from_failed(entry, failed) for entry in ledger.remaining()],
            "deferred": sorted(deferred),
            "kept": state.retention.kept,
            "failed_owners": list(ledger.failed_owners),
            "root": None if state.workspace.joined else state.workspace.root.path,
            "node": None if state.workspace.joined else uname()[1],
            "leaks": leaks,
            "changed": watched.take_changes() if watched is not None else [],
            "collected": state.result.tally.collected,
            "deselected": state.result.tally.deselected,
        }
    )


def set_node_name(state: SessionState, report: pytest.TestReport) -> None:
    """Store the name of this host in *report*, if this is a remote worker."""
    if state.is_remote:
        setattr(report, _NODE, uname()[1])


def remote_worker_of(reported: Reported, report: pytest.TestReport) -> RemoteWorker | None:
    """Return the remote worker that *report* comes from; None if it is from another process."""
    name = getattr(report, _NODE, None)
    # Reports have the attribute `node` in the controller only.
    return _remote_worker(reported, report.node, name) if name and hasattr(report, "node") else None


def add_host(reported: Reported, report: pytest.TestReport, section: str) -> None:
    """Add the host to the paths in *section* of a failed report, if it is from a remote worker."""
    worker = remote_worker_of(reported, report) if report.outcome != "passed" else None
    if worker is not None:
        start = f"kept: {worker.host}:"
        report.sections = [
            (name, _KEPT_LINE.sub(lambda _: start, text) if name == section else text)
            for name, text in report.sections
        ]


def _remote_worker(reported: Reported, node: Any, name: str) -> RemoteWorker:
    worker, spec = node.gateway.id, node.gateway.spec
    if worker not in reported.remote_workers:
        host = host_of(ssh=spec.ssh or spec.vagrant_ssh, socket=spec.socket, node=name)
        reported.remote_workers[worker] = RemoteWorker(worker, host)
    return reported.remote_workers[worker]


def host_of(*, ssh: object, socket: object, node: str) -> str:
    """Return the host of a worker, as the user wrote it on the command line.

    :param ssh: The value of ``--tx ssh=``: options of ssh and the host, in any order.
    :param socket: The value of ``--tx socket=``, ``host:port``.
    :param node: The worker's own name for its host, for a command line without a host.
    """
    if isinstance(ssh, str):
        return _host_in(ssh.split()) or node
    if isinstance(socket, str):
        return socket.rpartition(":")[0] or node
    return node


def _host_in(words: list[str]) -> str | None:
    """Return the first word that is neither an option nor the argument of one."""
    remaining = iter(words)
    for word in remaining:
        if not word.startswith("-"):
            return word
        # `-vp22` is `-v -p 22`: the argument of an option may follow in the same word.
        position = next((i for i, letter in enumerate(word) if letter in _WITH_ARGUMENT), None)
        if position == len(word) - 1:
            next(remaining, None)
    return None


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
        """Record that a worker starts."""
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
        self._state.reported.finished.add(worker_directory(name))
        try:
            _receive(self._state, node, loads(text))
        except (ValueError, TypeError, KeyError) as problem:
            text = f"could not read the leak data of worker {name}: {problem}"
            self._state.messages.warn("workeroutput", text, TempresLeakWarning)


def _receive(state: SessionState, node: Any, data: dict[str, Any]) -> None:
    leaks = [model.leak_from_plain(record) for record in data["leaks"]]
    kept = [Kept(*record) for record in data["kept"]]
    state.leaks.ledger.failed_owners.update(model.Owner(*owner) for owner in data["failed_owners"])
    # Every worker collects the same tests.
    state.result.tally.collected |= Counter(data["collected"])
    state.result.tally.deselected |= data["deselected"]
    if data["root"] is not None:
        _remote_worker(state.reported, node, data["node"]).judge(data["root"], leaks, kept)
        return
    state.leaks.add(model.entry_from_plain(record) for record in data["entries"])
    state.leaks.at_exit.paths.update(data["deferred"])
    state.retention.kept.extend(kept)
    if state.leaks.watched is not None:
        state.leaks.watched.changes.adopt(data["changed"])
    state.reported.leaks.extend(leaks)
