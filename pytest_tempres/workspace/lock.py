"""The lock that says a session is alive: the kernel gives it up when the process dies.

Every process of a session holds it in common, and a sweep needs it alone: so what a worker uses
outlives a controller that was killed, until the worker has ended too.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final

__all__ = ["acquire", "forget_in_child", "is_in_common", "join", "release", "take"]

_FLAGS: Final = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)

#: What is in the file of a session that could not lock it: nobody can tell whether it lives.
_UNLOCKED: Final = b"not locked"

# A forked child inherits the descriptor and with it the lock; it must let go
# without unlocking, so a process has to know its own lock descriptors.
_held: Final[set[int]] = set()

if sys.platform == "win32":
    import msvcrt

    def _share(fd: int) -> None:
        # There is no lock in common here: the first who comes holds it for all.
        with contextlib.suppress(OSError):
            _lock(fd)

    def _lock(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _share(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def acquire(path: str, dir_fd: int | None = None) -> int:
    """Make the lock file *path* and hold it as a member of the session.

    A file system without locks leaves the session unlocked: nobody can prove
    it dead then. The file says so, since locks may come back in its life (NFS).

    :param dir_fd: The descriptor of the directory that a relative *path* starts from.
    :returns: The descriptor that holds the lock, close-on-exec.
    :raises OSError: When the file cannot be made.
    """
    fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=dir_fd)
    _held.add(fd)
    try:
        _share(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.write(fd, _UNLOCKED)
    except BaseException:
        release(fd)
        raise
    return fd


def join(path: str) -> int | None:
    """Hold the existing lock file *path* as one more member of its session.

    :returns: The descriptor that holds the lock, or None when a sweep has it: its
        session is dead then.
    :raises OSError: When the file cannot be opened.
    """
    fd = os.open(path, _FLAGS)
    try:
        _share(fd)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        # A file system without locks: nobody can sweep here.
        pass
    _held.add(fd)
    return fd


def release(fd: int) -> None:
    """Give up the lock and its descriptor; a second call does nothing."""
    if fd in _held:
        _held.discard(fd)
        with contextlib.suppress(OSError):
            os.close(fd)


def take(path: str) -> int | None:
    """Lock the existing lock file of a session that may be dead.

    :returns: The descriptor that holds the lock, or None when somebody else
        holds it or it cannot be told: in doubt a session is alive.
    """
    try:
        fd = os.open(path, _FLAGS)
    except OSError:
        return None
    _held.add(fd)
    try:
        _lock(fd)
        if os.fstat(fd).st_size == 0:
            return fd
    except OSError:
        pass
    release(fd)
    return None


def is_in_common(path: str) -> bool:
    """Whether those who hold the lock file *path* are members of its session, and no sweep."""
    try:
        fd = join(path)
    except OSError:
        return False
    if fd is not None:
        release(fd)
    return fd is not None


def forget_in_child() -> None:
    """Close the inherited descriptors in a forked child, which never unlocks.

    `flock` belongs to the open file, which parent and child share: closing one
    descriptor leaves the parent's lock alone (POSIX; ``flock(2)``).
    """
    for fd in list(_held):
        release(fd)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_in_child)
