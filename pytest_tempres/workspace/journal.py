"""What is named as kept, written down before it is named.

The index is written at the end of the session. Whatever ends the process before that (a kill,
`os._exit`) leaves the journal, and the next session keeps what it names.
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

__all__ = ["Journal", "end", "read"]

# No link is followed, and a fifo in its place does not block.
_SAFELY: Final = (
    getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
)
_TO_ADD: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _SAFELY
_SAFE_TIMES: Final = os.utime in os.supports_follow_symlinks


class Journal:
    """The journal of a session root, open in one of the processes that write to it."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        #: Closed as long as it is negative.
        self._fd = -1

    def open(self, root: SessionRoot) -> None:
        """Open it early: a test may use up all descriptors.

        :raises OSError: When the operating system refuses, or something else stands there.
        """
        with root.opened() as at:
            path = root.inside(JOURNAL, at)
            self._fd = lock.guard(System.open(path, _TO_ADD, 0o600, dir_fd=at))
        if not _is_a_file_of(System.fstat(self._fd), root.uid):
            self.close()
            raise FileExistsError(errno.EEXIST, "something else stands there", path)
        if System.fchmod is not None:
            # A test may have left any umask.
            System.fchmod(self._fd, 0o600)

    def add(self, root: SessionRoot, nodeid: str, paths: Iterable[str]) -> None:
        """Write down that *paths* are kept; several processes may do so at the same time.

        :raises OSError: When it cannot be written.
        """
        lines = [dumps({"test": nodeid, "path": path}) for path in paths]
        if not lines:
            return
        if not _is_at(self._fd, System.join(root.path, JOURNAL)):
            self.close()
            self.open(root)
        # Each line begins with its end of line: the one before it may have been cut short.
        text = "".join(f"\n{line}" for line in lines).encode("ascii")
        if System.write(self._fd, text) != len(text):
            raise OSError(errno.ENOSPC, System.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close it in this process; a second call does nothing."""
        fd, self._fd = self._fd, -1
        lock.release(fd)


def end(root: SessionRoot) -> None:
    """Note that a session which kept something ends now, and remove its journal.

    The index says all by then. Whoever finds it without a journal knows that nothing more comes,
    and from its time which sessions were the last to end.

    :raises OSError: When the operating system refuses.
    """
    with root.opened() as at:
        now = System.time_ns()
        safe: dict[str, Any] = {"follow_symlinks": False} if _SAFE_TIMES else {}
        System.utime(root.inside(INDEX, at), ns=(now, now), dir_fd=at, **safe)
        with suppress(FileNotFoundError):
            System.unlink(root.inside(JOURNAL, at), dir_fd=at)


def _is_at(fd: int, path: str) -> bool:
    """Whether *fd* is still open, and what stands at *path*: a test may have removed that."""
    if not lock.is_held(fd):
        return False
    try:
        return identity_of(System.lstat(path)) == identity_of(System.fstat(fd))
    except OSError:
        return False


def _is_a_file_of(status: os.stat_result, uid: int) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_uid == uid


def read(path: str, dir_fd: int | None, uid: int) -> tuple[frozenset[str], float]:
    """Return the paths that the journal *path* names, and when the last came.

    A line that is torn, or no record of ours, is passed over.

    :param dir_fd: The descriptor of the directory that a relative *path* starts from.
    :param uid: Whose file it must be.
    :raises OSError: When it cannot be read, and so nobody knows what it names.
    """
    found = read_private(path, dir_fd, uid)
    if found is None:
        return frozenset(), 0.0
    return frozenset(_paths(found[0])), found[1]


def _paths(content: bytes) -> Iterable[str]:
    for line in content.split(b"\n"):
        with suppress(ValueError, RecursionError):
            record = loads(line)
            if isinstance(record, dict) and isinstance(record.get("path"), str):
                yield record["path"]
