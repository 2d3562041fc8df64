"""The scan of the worker root, and the kind and size of a path."""

from __future__ import annotations

import errno
import math
import stat
from typing import Final
from typing import NamedTuple

from pytest_tempres.primitives._system import System

__all__ = ["BESIDE_DATABASE", "Measure", "Scan", "exists", "has_audit_event", "identity", "measure"]

#: Suffixes of the files that SQLite creates next to a database, without an audit event.
BESIDE_DATABASE: Final = ("-journal", "-wal", "-shm")

#: Two changes within this time can have the same mtime: file systems take it from a clock tick.
_TICK_NS: Final = 10_000_000
#: The budget for listings: a share of the session's time, and seconds.
_SHARE: Final = 0.01
_FREE_SECONDS: Final = 0.05
#: How many items a walk visits at most.
_MAX_ITEMS: Final = 10_000

_KINDS: Final = {
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "fifo",
}


class Measure(NamedTuple):
    """The kind and size of a path, with the fields of a `Leak`."""

    kind: str
    bytes: int
    items: int
    complete: bool


class Scan:
    """Scans a directory: one `stat`, and a listing only if the result has changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._inode = self._previous_inode = 0
        self._again = True
        self._permissions = stat.S_IRWXU
        self._started = System.monotonic()
        self._listing = 0.0

    def changed(self) -> bool:
        """Whether a listing could show something new.

        :raises FileNotFoundError: When the directory is gone.
        :raises PermissionError: Once, when its owner has lost the permission to use it.
        """
        status = System.stat(self._path)
        if status.st_mode & stat.S_IRWXU != self._permissions:
            self._permissions = status.st_mode & stat.S_IRWXU
            if self._permissions != stat.S_IRWXU:
                raise PermissionError(
                    errno.EACCES, "its owner has no permission to use it", self._path
                )
        self._inode = status.st_ino
        now = (status.st_mtime_ns, status.st_nlink, status.st_size)
        if now == self._seen and not self._again:
            return False
        self._seen = now
        self._again = System.time_ns() - status.st_mtime_ns < _TICK_NS
        return True

    def was_replaced(self) -> bool:
        """Whether the path is another directory than at the previous call."""
        before, self._previous_inode = self._previous_inode, self._inode
        return before not in (0, self._inode)

    def is_within_budget(self) -> bool:
        """Whether listings are within their time budget."""
        return self._listing < _FREE_SECONDS + _SHARE * (System.monotonic() - self._started)

    def invalidate(self) -> None:
        """Make the next :meth:`changed` return True."""
        self._seen = None

    def names(self) -> dict[str, int]:
        """Return the direct children by name, with the inode of each."""
        before = System.monotonic()
        try:
            with System.scandir(self._path) as entries:
                return {entry.name: entry.inode() for entry in entries}
        except OSError:
            self.invalidate()
            raise
        finally:
            self._listing += System.monotonic() - before


def exists(path: str) -> bool:
    """Whether *path* exists; a dangling link does."""
    return identity(path) is not None


def identity(path: str) -> int | None:
    """Return the inode at *path*, or None if there is none or it is inaccessible."""
    try:
        return System.lstat(path).st_ino
    except (OSError, ValueError):
        return None


def has_audit_event(path: str) -> bool:
    """Whether Python raises an audit event for this kind of path: not for fifos and devices."""
    try:
        kind = stat.S_IFMT(System.lstat(path).st_mode)
    except OSError:
        return True
    return kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFSOCK)


def measure(path: str, until: float = math.inf) -> Measure | None:
    """Return kind and size of *path*, or None when it is gone.

    A walk follows no links; it stops at 10,000 items, or at *until* (a `time.monotonic` time).
    """
    try:
        status = System.lstat(path)
    except OSError:
        return None
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "file")
    if kind != "directory":
        return Measure(kind, status.st_size if kind == "file" else 0, 1, complete=True)
    return _walk(path, until)


def _walk(path: str, until: float) -> Measure:
    size = files = seen = 0
    complete = True
    pending = [path]
    while pending:
        try:
            with System.scandir(pending.pop()) as entries:
                for entry in entries:
                    if seen == _MAX_ITEMS or System.monotonic() > until:
                        return Measure("directory", size, files, complete=False)
                    seen += 1
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        files += 1
                        size += entry.stat(follow_symlinks=False).st_size
        except OSError:
            complete = False
    return Measure("directory", size, files, complete)
