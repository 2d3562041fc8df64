"""Whose disk does it lie on? Another host's is told as `host:path`, and never touched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
import os
import sys
from typing import Final

from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.verdict import is_evidence
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace.retention import Kept

__all__ = ["Elsewhere", "at", "host_of", "node_name", "platform_name"]

#: The options of ssh(1) that take an argument, of OpenSSH 10.
_WITH_ARGUMENT: Final = frozenset("BbcDEeFIiJLlmOoPpQRSWw")


@dataclass(eq=False, repr=False)
class Elsewhere:
    """A worker with a session root of its own, and what it has told."""

    worker: str
    host: str
    #: The session root, as `host:path`.
    root: str = ""
    #: The leaks by their paths there: the verdict, or before that what single tests left.
    leaks: dict[str, Leak] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    #: Whether the verdict has come; nobody clears up after a worker that crashed before.
    judged: bool = False

    def left(self, root: str, leaks: Iterable[Leak]) -> None:
        """Note what a test left, in case no verdict comes.

        :param root: The session root, as the worker calls it.
        """
        self.root = at(self.host, root)
        self.leaks.update((leak.path, self._from_there(leak)) for leak in leaks)

    def judge(self, root: str, leaks: Iterable[Leak], kept: Iterable[Kept]) -> None:
        """Take the verdict in place of what was noted before."""
        self.judged = True
        self.leaks.clear()
        self.left(root, leaks)
        self.kept = [
            each._replace(path=at(self.host, each.path), worker=self.worker) for each in kept
        ]

    def found(self, failed: Iterable[str]) -> list[Leak]:
        """Return what is known to have been left there.

        :param failed: The tests that have failed: what they left is evidence.
        """
        if self.judged:
            return list(self.leaks.values())
        failed = set(failed)
        return [
            leak._replace(status="failed-test") if is_evidence(leak.entry, failed) else leak
            for leak in self.leaks.values()
        ]

    def _from_there(self, leak: Leak) -> Leak:
        entry = leak.entry._replace(worker=self.worker)
        if leak.kind in WITHOUT_PATH:
            return leak._replace(entry=entry)
        path = at(self.host, leak.path)
        return leak._replace(path=path, entry=entry._replace(path=path))


def at(host: str, path: str) -> str:
    """Return how *path* on another host is written, as for scp(1)."""
    return f"{host}:{path}"


def node_name() -> str:
    """Return what this host calls itself."""
    return _uname()[1]


def platform_name() -> str:
    """Return the operating system, its release and the machine, in one word."""
    system, _, release, machine = _uname()
    return "-".join(part for part in (system, release, machine) if part)


def _uname() -> tuple[str, str, str, str]:
    """Return system, host, release and machine; `platform` may start a program to find out."""
    if System.uname is not None:
        found = System.uname()
        return found.sysname, found.nodename, found.release, found.machine
    import socket  # noqa: PLC0415 -- on Windows alone

    return sys.platform, socket.gethostname(), "", os.environ.get("PROCESSOR_ARCHITECTURE", "")


def host_of(*, ssh: object, socket: object, node: str) -> str:
    """Return the host of a worker, as the user wrote it.

    :param ssh: What ``--tx ssh=`` was given: ssh's options and the host, in any order.
    :param socket: What ``--tx socket=`` was given, ``host:port``.
    :param node: What the worker's host calls itself, where the user named none.
    """
    if isinstance(ssh, str):
        return _destination(ssh.split()) or node
    if isinstance(socket, str):
        return socket.rpartition(":")[0] or node
    return node


def _destination(words: list[str]) -> str | None:
    """Return the first word that is no option, and no option's argument."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            return word
        # Letters may stand together, and the first that takes an argument takes all that follows.
        taker = next((i for i, letter in enumerate(word) if letter in _WITH_ARGUMENT), None)
        if taker == len(word) - 1:
            next(rest, None)
    return None
