"""A session with the detector of file descriptors, for its tests."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import importlib
import os
from pathlib import Path
import sys

import pytest

from pytest_tempres.leaks.fds.detector import Descriptors
from pytest_tempres.leaks.frames import FrameFilter
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.temp.audit import Origins
from pytest_tempres.leaks.temp.audit import activate
from pytest_tempres.leaks.temp.audit import deactivate

__all__ = [
    "IMPORT",
    "NARROW",
    "ONE",
    "TESTS",
    "TWO",
    "WIDE",
    "FdsSuite",
    "close",
    "lines",
    "native",
    "on_linux",
    "texts",
]

ONE = Owner("test", "t.py::one", None, "t.py:1")
TWO = Owner("test", "t.py::two", None, "t.py:2")
WIDE = Owner("fixture", "server", "module", "t.py:3")
NARROW = Owner("fixture", "log", "function", "t.py:4")
IMPORT = Owner("collection", "t.py")

TESTS = str(Path(__file__).parent.parent / "leaks" / "fds")

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux has these")


class FdsSuite:
    """Runs code for owners, with a scan before each change, as a session does."""

    def __init__(self, patterns: tuple[str, ...] = ()) -> None:
        self.asked: list[str] = []
        self.running = Running()
        self.detector = Descriptors(
            running=self.running,
            frame_filter=FrameFilter(TESTS),
            ignored=lambda target: self.asked.append(target) or target in patterns,
            worker="gw0",
        )
        self.origins = Origins((), (), {}, self.running)
        self.origins.add(self.detector)
        activate(self.origins)

    @staticmethod
    def silent() -> Descriptors:
        """Return a detector that receives no events."""
        suite = FdsSuite()
        suite.close()
        return suite.detector

    @contextlib.contextmanager
    def run(self, owner: Owner = ONE, test: str | None = None) -> Iterator[None]:
        """Make *owner* the current owner."""
        self.detector.scan()
        running = self.running
        before = (running.owner, running.test, running.phase)
        running.owner, running.test, running.phase = owner, test or owner.id, "call"
        try:
            yield
        finally:
            self.detector.scan()
            running.owner, running.test, running.phase = before

    def close(self) -> None:
        """Stop receiving events."""
        deactivate(self.origins)


def close(number: int) -> None:
    """Close a descriptor that may be closed already."""
    with contextlib.suppress(OSError):
        os.close(number)


def texts(leaks: list[Leak]) -> list[str]:
    """Return the descriptions of *leaks*, without numbers."""
    return [leak.path.partition(": ")[2] for leak in leaks]


def lines(leaks: list[Leak]) -> list[str]:
    """Return the nearest function in the origin of each of *leaks*."""
    return [leak.entry.origin[0].function if leak.entry.origin else "" for leak in leaks]


def native(name: str, *args: object) -> int:
    """Call a C function, as a library does, without an audit event."""
    ctypes = importlib.import_module("ctypes")
    return ctypes.CDLL(None, use_errno=True)[name](*args)
