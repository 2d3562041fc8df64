"""The lock that says a session is alive: the kernel gives it up when the process dies.

Every process of a session holds it in common, and a sweep needs it alone: so what a worker uses
outlives a controller that was killed, until the worker has ended too.
"""

from __future__ import annotations

from contextlib import suppress
import errno
import os
import stat
import sys
from typing import Final

from pytest_tempres.primitives._location import random_name
from pytest_tempres.primitives._process import after_fork_in_child
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace.dirfd import make_private
from pytest_tempres.workspace.proof import identity_of
from pytest_tempres.workspace.proof import is_own

__all__ = [
    "acquire",
    "forget_in_child",
    "guard",
    "hold",
    "is_free",
    "is_held",
    "join",
    "release",
    "renew",
    "take",
]

# What stands there may be a link or a fifo by now.
_FLAGS: Final = (
    os.O_RDWR
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
)

#: What is in the file of a session that could not lock it: nobody can tell whether it lives.
_UNLOCKED: Final = b"not locked"


class _Held(int):
    """A descriptor that holds a lock: a test may have closed it, and its number be another's."""

    identity: tuple[int, int]


# A forked child inherits the descriptor and with it the lock; it must let go
# without unlocking, so a process has to know its own lock descriptors.
_held: Final[set[_Held]] = set()

if sys.platform == "win32":
    import msvcrt

    def _share(fd: int) -> None:
        # There is no lock in common here: the first who comes holds it for all.
        with suppress(OSError):
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
    fd = _note(make_private(path, dir_fd, os.O_RDWR))
    try:
        _share(fd)
    except OSError:
        with suppress(OSError):
            System.write(fd, _UNLOCKED)
    except BaseException:
        release(fd)
        raise
    return fd


def join(path: str, dir_fd: int | None = None) -> int | None:
    """Hold the existing lock file *path* as one more member of its session.

    :param dir_fd: As :func:`acquire` takes it.
    :returns: The descriptor that holds the lock, or None when a sweep has it: its
        session is dead then.
    :raises OSError: When the file cannot be opened.
    """
    fd = _note(System.open(path, _FLAGS, dir_fd=dir_fd))
    try:
        _share(fd)
    except BlockingIOError:
        release(fd)
        return None
    except OSError:
        # A file system without locks: nobody can sweep here.
        pass
    return fd


def hold(fd: int, path: str, dir_fd: int | None = None) -> int:
    """Hold the lock file *path* as it stands there now, whoever of the session made it again.

    :param fd: What held the one that was there; it is released when there is another one.
    :param dir_fd: As :func:`acquire` takes it.
    :returns: The descriptor that holds the lock; *fd* when that is still the one.
    :raises OSError: When there is none, or a sweep has it.
    """
    there = identity_of(System.stat(path, dir_fd=dir_fd, follow_symlinks=False))
    if isinstance(fd, _Held) and fd.identity == there and is_held(fd):
        return fd
    now = join(path, dir_fd)
    if now is None:
        raise BlockingIOError(errno.EWOULDBLOCK, "it is being swept", path)
    release(fd)
    return now


def renew(fd: int, path: str, dir_fd: int | None = None, *, proved: bool) -> int:
    """Hold the lock file *path* as it stands there now; make it if it is gone.

    :param fd: As :func:`hold` takes it.
    :param dir_fd: As :func:`acquire` takes it.
    :param proved: Whether a sweep may find the file at any moment, and take it for a dead
        session's: it gets its name when it is locked then.
    :returns: The descriptor that holds the lock.
    :raises OSError: When it cannot be made, or a sweep has it.
    """
    with suppress(FileNotFoundError):
        return hold(fd, path, dir_fd)
    try:
        created = _acquire_whole(path, dir_fd) if proved else acquire(path, dir_fd)
    except FileExistsError:
        # Another member was faster.
        return hold(fd, path, dir_fd)
    release(fd)
    return created


def _acquire_whole(path: str, dir_fd: int | None) -> int:
    draft = f"{path}.{random_name()}"
    fd = acquire(draft, dir_fd)
    try:
        System.link(draft, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException as error:
        release(fd)
        if not isinstance(error, OSError) or isinstance(error, FileExistsError):
            raise
        # A disk without hard links has no better way.
        return acquire(path, dir_fd)
    finally:
        with suppress(OSError):
            System.unlink(draft, dir_fd=dir_fd)
    return fd


def release(fd: int) -> None:
    """Give up the lock and its descriptor; a second call does nothing."""
    mine = next((each for each in _held if each is fd), None)
    if mine is None:
        return
    _held.discard(mine)
    with suppress(OSError):
        if identity_of(System.fstat(mine)) == mine.identity:
            System.close(mine)


def is_held(fd: int) -> bool:
    """Whether *fd* is open and still what it was: a test may have closed it."""
    try:
        return isinstance(fd, _Held) and identity_of(System.fstat(fd)) == fd.identity
    except OSError:
        return False


def guard(number: int) -> int:
    """Hold another descriptor as a lock's: closed in forked children, and never once too often.

    :returns: The descriptor, for :func:`release`.
    """
    return _note(number)


def _note(number: int) -> _Held:
    fd = _Held(number)
    try:
        fd.identity = identity_of(System.fstat(number))
    except BaseException:
        System.close(number)
        raise
    # An equal one is there if a test has closed that.
    _held.discard(fd)
    _held.add(fd)
    return fd


def take(path: str, dir_fd: int | None = None) -> int | None:
    """Lock the existing lock file of a session that may be dead.

    :param dir_fd: As :func:`acquire` takes it.
    :returns: The descriptor that holds the lock, or None when somebody else
        holds it or it cannot be told: in doubt a session is alive.
    """
    try:
        fd = _note(System.open(path, _FLAGS, dir_fd=dir_fd))
    except OSError:
        return None
    try:
        status = System.fstat(fd)
        if stat.S_ISREG(status.st_mode) and is_own(status):
            _lock(fd)
            if System.fstat(fd).st_size == 0:
                return fd
    except OSError:
        pass
    release(fd)
    return None


def is_free(path: str, dir_fd: int | None = None) -> bool:
    """Whether nobody holds the lock file *path*: its session is dead.

    :param dir_fd: As :func:`acquire` takes it.
    """
    fd = take(path, dir_fd)
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


after_fork_in_child(forget_in_child)
