"""Replaces the Python that execnet starts: requests a forked worker, and ends together with it."""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
import socket
import sys

__all__ = ["request", "start_variables"]

#: The variables that are read only when Python starts.
_READ_AT_START = ("PYTHON", "LC_", "LANG", "COVERAGE_")


def start_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return those of *env* that a forked interpreter would not read."""
    names = [name for name in env if name.startswith(_READ_AT_START) and name != "PYTHONPATH"]
    return {name: env[name] for name in names}


def request(
    address: str, arguments: list[str], env: dict[str, str], fds: list[int]
) -> socket.socket:
    """Ask the server for a Python with these arguments; the answer will be its exit status."""
    connection = socket.socket(socket.AF_UNIX)
    # The null character is for Linux's abstract namespace, where no file is left behind.
    connection.connect(f"\0{address}")
    socket.send_fds(connection, [b" "], fds)
    umask = os.umask(0o077)
    os.umask(umask)
    connection.sendall(json.dumps([arguments, os.getcwd(), umask, env]).encode() + b"\n")
    return connection


if __name__ == "__main__":
    connection = request(sys.argv[1], sys.argv[2:], dict(os.environ), [0, 1, 2])
    # Only the worker may hold these, because the controller notices its end when they close.
    os.closerange(0, 2)
    sys.exit(int(connection.recv(16) or b"1") & 255)
