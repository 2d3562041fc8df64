"""Starts inner sessions by fork, from a process that has imported pytest already.

Three quarters of the CPU time of a short session are for imports of Python, pytest and execnet.
A forked session has its own environment, working directory, exit handlers and exit status like
any other, and nothing of this project is imported before the fork.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
import secrets
import socket
import subprocess
import sys

from forked_worker import request
from forked_worker import start_variables

__all__ = ["Server", "Session"]

_HERE = Path(__file__).parent


class Server:
    """The process that forks sessions; it ends together with the process that started it."""

    def __init__(self) -> None:
        self._address = f"tempres-tests-{os.getpid()}-{secrets.token_hex(4)}"
        self._start_variables = start_variables(os.environ)
        self._process = subprocess.Popen(
            [sys.executable, str(_HERE / "fork_server.py"), self._address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def start(self, command: Sequence[str], env: dict[str, str], fds: list[int]) -> Session | None:
        """Start a session with these standard streams; None if a fork could not be the same."""
        for module in (("-mpytest",), ("-m", "pytest")):
            if tuple(command[: len(module) + 1]) == (sys.executable, *module):
                arguments = ["pytest", *command[len(module) + 1 :]]
                if start_variables(env) == self._start_variables:
                    return Session(request(self._address, arguments, env, fds))
        return None

    @property
    def worker_spec(self) -> str:
        """The value of `--tx` for a worker that is forked too."""
        return f"popen//python={sys.executable} -IS {_HERE / 'forked_worker.py'} {self._address}"

    def close(self) -> None:
        """End the server."""
        self._process.communicate()


class Session:
    """A forked session, with the methods of `subprocess.Popen` that pytester calls."""

    stdin = None

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, which is negative after a signal."""
        self._connection.settimeout(timeout)
        try:
            status = self._connection.recv(16)
        except TimeoutError:
            raise subprocess.TimeoutExpired("pytest", timeout or 0) from None
        self._connection.close()
        return int(status)

    def kill(self) -> None:
        """Kill the session: the server does so when a caller closes the connection."""
        self._connection.shutdown(socket.SHUT_WR)
