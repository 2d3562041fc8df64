"""What is told of a worker that may yet die before anybody cleans up? Nothing that accuses."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from typing import Final

from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.temp_root import exists
from pytest_tempres.leaks.verdict import is_deferred
from pytest_tempres.primitives._system import System

__all__ = ["Provisional"]

#: Asking who will clean up takes longer the more promises there are: this many seconds, and this
#: share of the session's time, may go into it.
_FREE_SECONDS: Final = 0.5
_SHARE: Final = 0.01


class Provisional:
    """The entries that somebody may still remove.

    A worker that dies takes its fixtures and exit handlers with it, so such an entry travels
    as evidence, and once more, as it is, when nobody is left who will remove it.

    :param promised: Returns the paths that exit handlers will remove.
    """

    def __init__(self, promised: Callable[[], set[str]]) -> None:
        self._promised = promised
        #: What its owner may still remove, and what an exit handler or an object may.
        self._in_use: dict[Owner, list[Entry]] = {}
        self._open: list[Entry] = []
        #: The paths that no report has told of yet, and whose wider owners are over.
        self._over: set[str] = set()
        #: Whether some of `_open` were not asked about when it was their turn.
        self._is_behind = False
        self._started = System.monotonic()
        self._spent = 0.0

    def told(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return what to tell now, as it may stand if nothing more is heard of this process.

        :param entries: What nobody was told of before.
        :returns: These, and those of before whom nobody will remove any more.
        """
        told, doubtful = [], []
        for entry in entries:
            if entry.evidence or entry.ignored:
                told.append(entry)
            elif _is_wide(entry.owner) and entry.path not in self._over:
                self._in_use.setdefault(entry.owner, []).append(entry)
                told.append(entry._replace(evidence=True))
            else:
                doubtful.append(entry)
        self._over.clear()
        if doubtful or self._is_behind:
            told += self._judged(doubtful)
        return told

    def over(self, owner: Owner, untold: Iterable[Entry]) -> None:
        """Know that *owner* has had every chance to remove what it left.

        :param untold: The entries that have not been told yet.
        """
        if not _is_wide(owner):
            return
        self._over.update(entry.path for entry in untold if entry.owner == owner)
        due = self._in_use.pop(owner, [])
        if due:
            self._open += due
            self._is_behind = True

    def rest(self) -> list[Entry]:
        """Return what is still there at the end of a process that has not died."""
        rest = [*chain.from_iterable(self._in_use.values()), *self._open]
        return [entry for entry in rest if exists(entry.path)]

    def _judged(self, entries: list[Entry]) -> list[Entry]:
        """Return what to tell of *entries*, and of those that were open before; in doubt they are.

        Who is not asked for now, because asking has taken too long, is asked later.
        """
        before = System.monotonic()
        self._is_behind = self._spent > _FREE_SECONDS + _SHARE * (before - self._started)
        if self._is_behind:
            self._open += entries
            return [entry._replace(evidence=True) for entry in entries]
        is_open = self._judge()
        were_open, self._open = self._open, []
        told = []
        for entry in entries:
            told.append(entry._replace(evidence=is_open(entry)))
            if told[-1].evidence:
                self._open.append(entry)
        for entry in were_open:
            if exists(entry.path):
                (self._open if is_open(entry) else told).append(entry)
        self._spent += System.monotonic() - before
        return told

    def _judge(self) -> Callable[[Entry], bool]:
        """Return what tells whether an exit handler or an open file may still remove an entry."""
        promises, inodes = self._promised(), _open_inodes()
        return lambda entry: is_deferred(entry, promises) or _inode(entry) in inodes


def _is_wide(owner: Owner) -> bool:
    """Whether *owner* goes on when the test's report is made."""
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
    with suppress(OSError):
        for name in System.listdir("/dev/fd"):
            with suppress(OSError, ValueError):
                status = System.fstat(int(name))
                found.add((status.st_dev, status.st_ino))
    return found
