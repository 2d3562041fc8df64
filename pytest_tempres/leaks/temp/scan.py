"""What is in the worker root? Looks at it, and measures what it finds."""

from __future__ import annotations

import errno
import math
import stat
from typing import Final
from typing import NamedTuple

from pytest_tempres.primitives._system import System

__all__ = ["Measure", "Scan", "exists", "has_audit_event", "identity", "measure"]

#: A file system that counts in clock ticks can hide a change this long (nanoseconds).
_TICK_NS: Final = 10_000_000
#: Listings may take this share of the session, and this many seconds in any case.
_SHARE: Final = 0.01
_FREE_SECONDS: Final = 0.05
#: What the owner of a directory needs to use it.
_OWNERS: Final = 0o700
#: The bound of a walk.
_MOST_ITEMS: Final = 10_000

_KINDS: Final = {
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "fifo",
}


class Measure(NamedTuple):
    """What a bounded walk found."""

    kind: str
    bytes: int
    items: int
    complete: bool


class Scan:
    """Looks at a directory: one `stat`, and a listing only when that moved.

    :param path: The worker root.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._inode = self._asked = 0
        self._again = True
        self._rights = _OWNERS
        self._started = System.monotonic()
        self._listing = 0.0

    def changed(self) -> bool:
        """Whether a listing could show something new.

        :raises FileNotFoundError: When the directory is gone.
        :raises PermissionError: Once, when its owner may not use it any more.
        """
        status = System.stat(self._path)
        if status.st_mode & _OWNERS != self._rights:
            self._rights = status.st_mode & _OWNERS
            if self._rights != _OWNERS:
                raise PermissionError(errno.EACCES, "its owner may not use it", self._path)
        self._inode = status.st_ino
        now = (status.st_mtime_ns, status.st_nlink, status.st_size)
        if now == self._seen and not self._again:
            return False
        self._seen = now
        self._again = System.time_ns() - status.st_mtime_ns < _TICK_NS
        return True

    def is_another(self) -> bool:
        """Whether another directory stands there than when this was asked before."""
        before, self._asked = self._asked, self._inode
        return before not in (0, self._asked)

    def affordable(self) -> bool:
        """Whether listings have kept within their share of the session's time."""
        return self._listing < _FREE_SECONDS + _SHARE * (System.monotonic() - self._started)

    def put_off(self) -> None:
        """Make the next :meth:`changed` true whatever the directory looks like."""
        self._seen = None

    def names(self) -> dict[str, int]:
        """Return the direct children by name, with the inode of each."""
        before = System.monotonic()
        try:
            with System.scandir(self._path) as entries:
                return {entry.name: entry.inode() for entry in entries}
        except OSError:
            self.put_off()
            raise
        finally:
            self._listing += System.monotonic() - before


def exists(path: str) -> bool:
    """Whether something, if only a dangling link, stands at *path*."""
    return identity(path) is not None


def identity(path: str) -> int | None:
    """Return the inode at *path*, or None when nothing can be seen there."""
    try:
        return System.lstat(path).st_ino
    except (OSError, ValueError):
        return None


def has_audit_event(path: str) -> bool:
    """Whether Python makes what stands at *path* with an audit event: not fifos and devices."""
    try:
        kind = stat.S_IFMT(System.lstat(path).st_mode)
    except OSError:
        return True
    return kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFSOCK)


def measure(path: str, until: float = math.inf) -> Measure | None:
    """Return kind and size of *path*, or None when it is gone.

    Directories are walked without following links, up to 10,000 items.

    :param until: When the walk ends at the latest, by `time.monotonic`.
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
                    if seen == _MOST_ITEMS or System.monotonic() > until:
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
