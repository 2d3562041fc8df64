"""The only module that knows pytest-xdist."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
import json
import os
from typing import Any
from typing import Final

import pytest

from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import entry_from_plain
from pytest_tempres.leaks.model import leak_from_plain
from pytest_tempres.state import SessionState
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import attach

__all__ = ["ControllerHooks", "has_workers", "send", "shared_root", "worker_name"]

#: Set in a worker's environment alone; whoever finds it is a worker.
_SESSION: Final = "PYTEST_TEMPRES_SESSION"
_OUTPUT: Final = "tempres"


def shared_root() -> tuple[str | None, SessionRoot | None]:
    """Return the controller's session root: its path as announced, and the root if it is seen.

    The announcement is taken out of the environment, since a pytest that a test
    starts is a session of its own.
    """
    announced = os.environ.pop(_SESSION, None)
    return announced, attach(announced) if announced else None


def worker_name(*, worker: bool) -> str:
    """Return the name of this process among the workers."""
    return os.environ.get("PYTEST_XDIST_WORKER", "main") if worker else "main"


def has_workers(namespace: argparse.Namespace) -> bool:
    """Whether the command line asks for workers; it may still turn out to be for none."""
    options = ("numprocesses", "tx", "distload", "looponfail")
    named = any(getattr(namespace, name, None) for name in options)
    return named or getattr(namespace, "dist", "no") != "no"


def send(state: SessionState, deferred: set[str], leaks: Sequence[Leak] = ()) -> None:
    """Hand the controller what no test's report could carry.

    :param deferred: What this worker will remove at its exit.
    :param leaks: The verdict of a worker whose disk the controller does not see.
    """
    output = getattr(state.config, "workeroutput", None)
    if output is None:
        return
    output[_OUTPUT] = json.dumps(
        {
            "entries": state.ledger.unsent if state.ledger is not None else [],
            "deferred": sorted(deferred),
            "kept": state.kept,
            "stumbled": list(state.ledger.stumbled) if state.ledger is not None else [],
            "root": None if state.joined else state.root.path,
            "leaks": leaks,
            "changed": state.watched.travelling() if state.watched is not None else [],
            "collected": state.course.collected,
            "narrowed": state.course.narrowed,
        }
    )


class ControllerHooks:
    """What a controller does for its workers."""

    def __init__(self, state: SessionState) -> None:
        self._state = state

    @pytest.hookimpl
    def pytest_xdist_setupnodes(self, specs: list[Any]) -> None:
        """Tell each worker where the session root is, before it starts."""
        path = self._state.root.path
        try:
            path.encode()
        except UnicodeEncodeError:
            # execnet carries UTF-8 alone; such workers make roots of their own.
            return
        for spec in specs:
            spec.env[_SESSION] = path

    @pytest.hookimpl
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker sends at its end; one that crashed sends nothing."""
        output = getattr(node, "workeroutput", None) or {}
        # One that was interrupted comes here twice.
        text = output.pop(_OUTPUT, None)
        name = node.gateway.id
        if name not in self._state.workers:
            self._state.workers.append(name)
        if text is None:
            return
        try:
            _receive(self._state, json.loads(text))
        except (ValueError, TypeError, KeyError) as problem:
            self._state.warn(
                "workeroutput",
                f"the findings of worker {name} could not be read: {problem}",
                TempresLeakWarning,
            )


def _receive(state: SessionState, data: dict[str, Any]) -> None:
    for record in data["entries"]:
        entry: Entry = entry_from_plain(record)
        state.entries[entry.path] = entry
    state.deferred.update(data["deferred"])
    state.kept.extend(Kept(*record) for record in data["kept"])
    if state.ledger is not None:
        state.ledger.stumbled.update(Owner(*owner) for owner in data["stumbled"])
    if data["root"] is not None:
        state.other_roots.append(data["root"])
    if state.watched is not None:
        state.watched.adopt(data["changed"])
    # Every worker collects the same tests.
    state.course.collected |= Counter(data["collected"])
    state.course.narrowed |= data["narrowed"]
    state.remote_leaks.extend(leak_from_plain(record) for record in data["leaks"])
