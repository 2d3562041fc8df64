"""Kills its own process at an exact point, or writes down which points there are.

Python imports this at its start wherever the directory is on the path, and
`KILLING_PLAN` says what to do. A point is a deed on the file system that
pytest-tempres is about to do, seen through its audit event: the event comes
before the deed, so between two points lies one deed. After a write there is one too.
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
    """Counts the points that this process comes to."""

    def __init__(self, plan: dict[str, object], role: str) -> None:
        self._plan = plan
        self._role = role
        self._left = int(plan.get("count", 0)) if plan.get("role") == role else 0
        self._busy = False
        self._log = None
        if "log" in plan:
            # Out of the way of whoever counts descriptors.
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
                self._arrive(point)
        finally:
            self._busy = False

    def _arrive(self, point: str) -> None:
        if self._log is not None:
            os.write(self._log, f"{self._role}\t{point}\n".encode())
        if self._left and point == self._plan["point"]:
            self._left -= 1
            if not self._left and self._is_first():
                self._die()

    def _is_first(self) -> bool:
        # Two workers come to the same points, and one of them is to die.
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
    """Name the deed after the function of ours that does it; None when it is not ours."""
    nearest = None
    sweeps = False
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_PACKAGE):
            nearest = nearest or f"{module.removeprefix(_PACKAGE)}.{frame.f_code.co_name}"
            sweeps = sweeps or module == _SWEEP
        frame = frame.f_back
    # What an import does is no deed of ours.
    if nearest is None or nearest.endswith(">"):
        return None
    return f"{nearest} {event}{' in a sweep' if sweeps else ''}"


def _start() -> None:
    plan = os.environ.get("KILLING_PLAN")
    if plan is None:
        return
    role = os.environ.get("KILLING_ROLE", "controller")
    # The controller's children are workers, and theirs are nobody.
    os.environ["KILLING_ROLE"] = "worker" if role == "controller" else "nobody"
    sys.addaudithook(_Watch(json.loads(plan), role))
    _announce_writes()


def _announce_writes() -> None:
    """Raise the events that Python has not: what is half written is a state of its own."""
    write = os.write

    def announced(fd: int, data: bytes) -> int:
        sys.audit("before os.write", fd)
        written = write(fd, data)
        sys.audit("after os.write", fd)
        return written

    os.write = announced


_start()
