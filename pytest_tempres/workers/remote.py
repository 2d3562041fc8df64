"""Whose disk does it lie on? Another host's is told as `host:path`, and never touched."""

from __future__ import annotations

from typing import Final

from pytest_tempres.primitives._system import uname

__all__ = ["host_of", "node_name"]

#: The options of ssh(1) that take an argument, of OpenSSH 10.
_WITH_ARGUMENT: Final = frozenset("BbcDEeFIiJLlmOoPpQRSWw")


def node_name() -> str:
    """Return what this host calls itself."""
    return uname()[1]


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
