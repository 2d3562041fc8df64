"""A session with the detector of watched directories, for its tests."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path

from pytest_tempres.leaks.frames import FrameFilter
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.temp.audit import Origins
from pytest_tempres.leaks.temp.audit import activate
from pytest_tempres.leaks.temp.audit import deactivate
from pytest_tempres.leaks.watch.detector import Watched

__all__ = ["ONE", "TESTS", "TWO", "WatchSuite", "by_path"]

ONE = Owner("test", "t.py::one", None, "t.py:1")
TWO = Owner("test", "t.py::two", None, "t.py:2")
TESTS = str(Path(__file__).parent.parent / "leaks" / "watch")


class WatchSuite:
    """Runs code for owners, with a scan before each change, as a session does."""

    def __init__(self, top: Path, **options) -> None:
        self.running = Running()
        self.watched = Watched(
            options.pop("directories", (str(top),)),
            running=self.running,
            frame_filter=FrameFilter(TESTS),
            ignored=options.pop("ignored", lambda path: False),
            worker=options.pop("worker", "main"),
            attributes_mtimes=options.pop("attributes_mtimes", False),
            walks=options.pop("walks", True),
            **options,
        )
        self.top = top

    @contextlib.contextmanager
    def run(self, owner: Owner, test: str | None = None) -> Iterator[None]:
        """Make *owner* the current owner."""
        running = self.running
        self.watched.scan()
        origins = Origins((), (), {}, running)
        origins.add(self.watched)
        running.owner, running.test, running.phase = owner, test or owner.id, "call"
        activate(origins)
        try:
            yield
        finally:
            deactivate(origins)
            self.watched.scan()
            running.owner, running.test, running.phase = SESSION, None, None

    def judged(self) -> dict[str, tuple[str, str]]:
        """Return kind and owner of each leak, by path relative to the watched directory."""
        return by_path(self.watched.judge(), self.top)

    def leaks_of(self, owner: Owner) -> dict[str, tuple[str, str]]:
        """Return the same for the leaks at the end of the test *owner*."""
        return by_path(self.watched.leaks_of(owner.id), self.top)


def by_path(leaks: list[Leak], top: Path) -> dict[str, tuple[str, str]]:
    """Return kind and owner of each of *leaks* by path."""
    assert all(leak.path == leak.entry.path and leak.status == "leak" for leak in leaks)
    return {os.path.relpath(leak.path, top): (leak.kind, leak.owner.id) for leak in leaks}
