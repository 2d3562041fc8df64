"""What is told of a worker that may yet die before anybody cleans up? Nothing that accuses."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import contextlib
from typing import Final

from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.system import System
from pytest_tempres.leaks.temp_root import exists
from pytest_tempres.leaks.verdict import is_deferred

__all__ = ["Provisional"]

#: Asking who will clean up takes longer the more promises there are: this many seconds, and this
#: share of the session's time, may go into it.
_FREE_SECONDS: Final = 0.5
_SHARE: Final = 0.01


class Provisional:
    """The entries that somebody may still remove.

    A worker that dies takes its fixtures and exit handlers with it, so such an entry travels
    as evidence, and once more, as it is, when its owner is over or the worker ends well.

    :param promised: Returns the paths that exit handlers will remove.
    """

    def __init__(self, promised: Callable[[], set[str]]) -> None:
        self._promised = promised
        self._open: list[Entry] = []
        self._started = System.monotonic()
        self._spent = 0.0

    def told(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return *entries* as they may stand if nothing more is heard of this process."""
        is_open = self._judge()
        told = []
        for entry in entries:
            if entry.evidence or entry.ignored or not is_open(entry):
                told.append(entry)
            else:
                self._open.append(entry)
                told.append(entry._replace(evidence=True))
        return told

    def over(self, owner: Owner) -> list[Entry]:
        """Return what is still there of *owner*, who has had every chance to remove it."""
        due = [entry for entry in self._open if entry.owner == owner]
        if due:
            self._open = [entry for entry in self._open if entry.owner != owner]
        return [entry for entry in due if exists(entry.path)]

    def rest(self) -> list[Entry]:
        """Return what is still there at the end of a process that has not died."""
        return [entry for entry in self._open if exists(entry.path)]

    def _judge(self) -> Callable[[Entry], bool]:
        """Return what tells whether somebody may still remove an entry; in doubt it is so."""
        before = System.monotonic()
        if self._spent > _FREE_SECONDS + _SHARE * (before - self._started):
            return lambda _: True
        promises, inodes = self._promised(), _open_inodes()
        self._spent += System.monotonic() - before

        def is_open(entry: Entry) -> bool:
            return _is_in_use(entry) or is_deferred(entry, promises) or _inode(entry) in inodes

        return is_open


def _is_in_use(entry: Entry) -> bool:
    """Whether its owner is not over yet: a test is, when its report is made."""
    owner = entry.owner
    return owner.kind in ("collection", "session") or owner.scope not in (None, "function")


def _inode(entry: Entry) -> tuple[int, int] | None:
    try:
        status = System.lstat(entry.path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open_inodes() -> set[tuple[int, int]]:
    """Return the files that this process has open: an object may hold one and remove it."""
    found = set()
    with contextlib.suppress(OSError):
        for name in System.listdir("/dev/fd"):
            with contextlib.suppress(OSError, ValueError):
                status = System.fstat(int(name))
                found.add((status.st_dev, status.st_ino))
    return found
