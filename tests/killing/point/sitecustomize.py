"""A module that kills its own process at an exact point, or logs the points.

Python imports it at start-up when its directory is on the path; the environment variable
`KILLING_PLAN` says what to do. A point is a file operation of pytest-tempres, recognized by its
audit event. Python raises the event before the operation, so there is one operation between two
points. There is also a point after each write.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from types import FrameType

_PACKAGE = "pytest_tempres."
_SWEEP = "pytest_tempres.workspace.sweep"
_EVENTS = frozenset(
    (
        *("open", "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.chmod"),
        *("os.scandir", "os.listdir", "os.utime", "fcntl.flock"),
        *("before os.write", "after os.write"),
    )
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class _Watch:
    """Counts the points that this process reaches."""

    def __init__(self, plan: dict[str, object], role: str) -> None:
        self._plan = plan
        self._role = role
        self._left = int(plan.get("count", 0)) if plan.get("role") == role else 0
        self._busy = False
        self._log = None
        if "log" in plan:
            # Opened at start-up, so that the detector of descriptors does not report it.
            name = f"{plan['log']}.{os.getpid()}"
            self._log = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if event not in _EVENTS or self._busy:
            return
        if event == "open" and not int(args[2] or 0) & _WRITES:
            return
        self._busy = True
        try:
            point = _point(event, sys._getframe(1))
            if point is not None:
                self._reach(point)
        finally:
            self._busy = False

    def _reach(self, point: str) -> None:
        if self._log is not None:
            os.write(self._log, f"{self._role}\t{point}\n".encode())
        if self._left and point == self._plan["point"]:
            self._left -= 1
            if not self._left and self._is_first():
                self._die()

    def _is_first(self) -> bool:
        # Several workers reach the same point, and only one of them must be killed.
        try:
            os.close(os.open(str(self._plan["token"]), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def _die(self) -> None:
        if self._plan["all"]:
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def _point(event: str, frame: FrameType | None) -> str | None:
    """Return the operation with the plugin's function that does it; None for other operations."""
    nearest = None
    sweeps = False
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_PACKAGE):
            nearest = nearest or f"{module.removeprefix(_PACKAGE)}.{frame.f_code.co_name}"
            sweeps = sweeps or module == _SWEEP
        frame = frame.f_back
    # Ignore what an import does.
    if nearest is None or nearest.endswith(">"):
        return None
    return f"{nearest} {event}{' in a sweep' if sweeps else ''}"


def _start() -> None:
    plan = os.environ.get("KILLING_PLAN")
    if plan is None:
        return
    role = os.environ.get("KILLING_ROLE", "controller")
    # The children of the controller are workers; their children are not killed.
    os.environ["KILLING_ROLE"] = "worker" if role == "controller" else "other"
    sys.addaudithook(_Watch(json.loads(plan), role))
    _audit_writes()


def _audit_writes() -> None:
    """Raise audit events for `os.write`, which has none, to kill between two writes."""
    write = os.write

    def audited(fd: int, data: bytes) -> int:
        sys.audit("before os.write", fd)
        written = write(fd, data)
        sys.audit("after os.write", fd)
        return written

    os.write = audited


_start()
