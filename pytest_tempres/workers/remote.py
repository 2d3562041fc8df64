"""The host of a remote worker: its paths are reported as `host:path` and never touched."""

from __future__ import annotations

from typing import Final

from pytest_tempres.primitives._system import uname

__all__ = ["host_of", "node_name"]

#: The options of ssh(1) that take an argument, of OpenSSH 10.
_WITH_ARGUMENT: Final = frozenset("BbcDEeFIiJLlmOoPpQRSWw")


def node_name() -> str:
    """Return the name of this host."""
    return uname()[1]


def host_of(*, ssh: object, socket: object, node: str) -> str:
    """Return the host of a worker, as the user wrote it on the command line.

    :param ssh: The value of ``--tx ssh=``: options of ssh and the host, in any order.
    :param socket: The value of ``--tx socket=``, ``host:port``.
    :param node: The name that the worker's host has for itself, for a command line without a host.
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
