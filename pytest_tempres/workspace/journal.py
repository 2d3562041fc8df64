"""The journal of kept paths, written before they are reported as kept.

The index is written at the end of the session. When the process ends before that (a kill,
`os._exit`), the journal is left, and the next session keeps the paths in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
import errno
from json import dumps
from json import loads
import os
import stat
from typing import Any
from typing import Final

from pytest_tempres.primitives._system import System
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.dirfd import read_private
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import JOURNAL
from pytest_tempres.workspace.proof import identity_of
from pytest_tempres.workspace.root import SessionRoot

__all__ = ["Journal", "end", "read", "records"]

# A link is not followed, and a fifo does not block.
_SAFE: Final = (
    getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
)
_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _SAFE
_UTIME_ON_LINKS: Final = os.utime in os.supports_follow_symlinks


class Journal:
    """The journal of a session root, open in one of the processes that write to it."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        #: Negative while the journal is closed.
        self._fd = -1

    def open(self, root: SessionRoot) -> None:
        """Open it, early in the session: a test may use up all descriptors.

        :raises OSError: When the operating system refuses, or the path is not a file of ours.
        """
        with root.opened() as at:
            path = root.inside(JOURNAL, at)
            self._fd = lock.guard(System.open(path, _APPEND, 0o600, dir_fd=at))
        if not _is_file_of(System.fstat(self._fd), root.uid):
            self.close()
            raise FileExistsError(errno.EEXIST, "the path is not a file of ours", path)
        if System.fchmod is not None:
            # A test may have changed the umask.
            System.fchmod(self._fd, 0o600)

    def add(self, root: SessionRoot, nodeid: str, paths: Iterable[str]) -> None:
        """Record that *paths* are kept; several processes may do so at the same time.

        :raises OSError: When it cannot be written.
        """
        lines = [dumps({"test": nodeid, "path": path}) for path in paths]
        if not lines:
            return
        if not _is_at(self._fd, System.join(root.path, JOURNAL)):
            self.close()
            self.open(root)
        # Each record begins with a newline: the one before it may be incomplete.
        text = "".join(f"\n{line}" for line in lines).encode("ascii")
        if System.write(self._fd, text) != len(text):
            raise OSError(errno.ENOSPC, System.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close it in this process; a second call does nothing."""
        fd, self._fd = self._fd, -1
        lock.release(fd)


def end(root: SessionRoot) -> None:
    """Record that a session that kept something ends now, and remove its journal.

    The index is complete by then. An index without a journal means that the session has ended,
    and the modification time of the index is when.

    :raises OSError: When the operating system refuses.
    """
    with root.opened() as at:
        now = System.time_ns()
        safe: dict[str, Any] = {"follow_symlinks": False} if _UTIME_ON_LINKS else {}
        System.utime(root.inside(INDEX, at), ns=(now, now), dir_fd=at, **safe)
        with suppress(FileNotFoundError):
            System.unlink(root.inside(JOURNAL, at), dir_fd=at)


def _is_at(fd: int, path: str) -> bool:
    """Whether *fd* is still open and is the file at *path*: a test may have removed that."""
    if not lock.is_held(fd):
        return False
    try:
        return identity_of(System.lstat(path)) == identity_of(System.fstat(fd))
    except OSError:
        return False


def _is_file_of(status: os.stat_result, uid: int) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_uid == uid


def read(path: str, dir_fd: int | None, uid: int) -> tuple[frozenset[str], float]:
    """Return the paths in the journal *path*, and when the last was added.

    An incomplete or foreign line is skipped.

    :param dir_fd: The descriptor of the directory that *path* is relative to.
    :param uid: The owner that it must have.
    :raises OSError: When it cannot be read, so that its paths are unknown.
    """
    found = read_private(path, dir_fd, uid)
    if found is None:
        return frozenset(), 0.0
    return frozenset(path for path, _ in records(found[0])), found[1]


def records(content: bytes) -> Iterable[tuple[str, object]]:
    """Yield the paths in the *content* of a journal, each with its test."""
    for line in content.split(b"\n"):
        with suppress(ValueError, RecursionError):
            record = loads(line)
            if isinstance(record, dict) and isinstance(record.get("path"), str):
                yield record["path"], record.get("test")
