"""The server of `session_server`: a process that has imported pytest, and forks on request."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from types import ModuleType
from typing import NamedTuple

from _pytest.config import default_plugins
from forked_worker import start_variables
import pytest  # noqa: F401


class Child(NamedTuple):
    """A forked process, and the connection to the caller that waits for its exit status."""

    pid: int
    ended: int
    connection: socket.socket


class Request(NamedTuple):
    """A process to fork: `arguments` are "pytest" and its own, or those of Python with `-c`."""

    arguments: list[str]
    cwd: str
    umask: int
    env: dict[str, str]
    fds: list[int]


def serve(address: str) -> Request | None:
    """Fork on request; return the request in each child, and None at the end of the server."""
    with selectors.DefaultSelector() as selector, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{address}")
        listener.listen(64)
        selector.register(listener, selectors.EVENT_READ)
        # Standard input ends when the process that started the server ends.
        selector.register(sys.stdin, selectors.EVENT_READ)
        os.write(1, b"ready\n")
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return None
                if key.fileobj is not listener:
                    finish(selector, key.data)
                elif (request := fork(selector, listener.accept()[0])) is not None:
                    return request


def fork(selector: selectors.BaseSelector, connection: socket.socket) -> Request | None:
    """Read a request and fork; return the request in the child."""
    fds = socket.recv_fds(connection, 1, 3)[1]
    with connection.makefile("rb") as file:
        request = Request(*json.loads(file.readline()), fds)
    pid = os.fork()
    if pid == 0:
        connection.close()
        for child in {key.data for key in selector.get_map().values()} - {None}:
            os.close(child.ended)
            child.connection.close()
        return request
    for fd in fds:
        os.close(fd)
    child = Child(pid, os.pidfd_open(pid), connection)
    selector.register(child.ended, selectors.EVENT_READ, child)
    selector.register(connection, selectors.EVENT_READ, child)
    return None


def finish(selector: selectors.BaseSelector, child: Child) -> None:
    """Send the exit status of a child that has ended; kill one if its caller has gone."""
    if child.ended not in selector.get_map():
        return
    selector.unregister(child.ended)
    selector.unregister(child.connection)
    # Without effect on a child that has ended, whose number is not free before the next line.
    os.kill(child.pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    os.close(child.ended)
    with child.connection, contextlib.suppress(OSError):
        child.connection.sendall(str(status).encode())


def become(request: Request) -> None:
    """Do what Python does when it is started with these arguments."""
    for number, fd in enumerate(request.fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request.cwd)
    os.umask(request.umask)
    if start_variables(request.env) != start_variables(os.environ):
        # A worker; for a session `session_server` has compared them.
        os.execve(sys.executable, [sys.executable, *request.arguments], request.env)
    os.environ.clear()
    os.environ.update(request.env)
    paths = request.env.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [path for path in paths if path and path not in sys.path]
    if request.arguments[0] == "pytest":
        sys.path.insert(0, request.cwd)
        sys.argv[1:] = request.arguments[1:]
        # As `python -m` does: the module stays `__main__` until the last exit handler has run.
        runpy._run_module_as_main("pytest")
    else:
        sys.path.insert(0, "")
        sys.argv[:] = ["-c"]
        # Without a file, which a process that multiprocessing spawns would run.
        sys.modules["__main__"] = ModuleType("__main__")
        exec(request.arguments[-1], vars(sys.modules["__main__"]))


if __name__ == "__main__":
    # No plugin is imported, because pytest could not rewrite its assertions any more.
    for name in default_plugins:
        importlib.import_module(f"_pytest.{name}")
    with contextlib.suppress(ImportError):
        importlib.import_module("execnet")
    gc.collect()
    gc.freeze()
    asked = serve(sys.argv[1])
    if asked is not None:
        become(asked)
