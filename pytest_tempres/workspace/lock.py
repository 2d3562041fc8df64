"""The lock that shows whether a session is alive; the kernel releases it when a process dies.

Every process of a session holds it shared, and a sweep needs it exclusively. So the directories of
a worker outlive a controller that was killed, until the worker has ended too.
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
from pytest_tempres.workspace.dirfd import SAFE_FLAGS
from pytest_tempres.workspace.dirfd import make_private
from pytest_tempres.workspace.proof import identity_of
from pytest_tempres.workspace.proof import is_own

__all__ = [
    "acquire",
    "hold",
    "is_free",
    "is_held",
    "join",
    "release",
    "renew",
    "take",
    "track",
]

_FLAGS: Final = os.O_RDWR | SAFE_FLAGS

#: The content of a lock file that its session could not lock: whether it is alive is unknown.
_UNLOCKED: Final = b"not locked"


class _Held(int):
    """A descriptor that holds a lock, with the identity of its file.

    A test may have closed it, and another file may have been opened under the same number.
    """

    identity: tuple[int, int]


# A forked child inherits the descriptors and with them the locks. It must close them
# without unlocking, so a process has to know its lock descriptors.
_held: Final[set[_Held]] = set()

if sys.platform == "win32":
    import msvcrt

    def _lock_shared(fd: int) -> None:
        # `msvcrt` has no shared locks: the first process holds the lock for all.
        with suppress(OSError):
            _lock_exclusive(fd)

    def _lock_exclusive(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock_shared(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _lock_exclusive(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def acquire(path: str, dir_fd: int | None = None) -> int:
    """Create the lock file *path* and take the shared lock.

    A file system without locks leaves the session unlocked, so that no sweep can prove it dead.
    This is recorded in the file, since locks may work again later (NFS).

    :param dir_fd: The descriptor of the directory that *path* is relative to, here and below.
    :returns: The descriptor that holds the lock, close-on-exec.
    :raises OSError: When the file cannot be created.
    """
    fd = track(make_private(path, dir_fd, os.O_RDWR))
    try:
        _lock_shared(fd)
    except OSError:
        with suppress(OSError):
            System.write(fd, _UNLOCKED)
    except BaseException:
        release(fd)
        raise
    return fd


def join(path: str, dir_fd: int | None = None) -> int | None:
    """Take the shared lock of the existing lock file *path*.

    :returns: The descriptor that holds the lock, or None when a sweep has it: the session is dead.
    :raises OSError: When the file cannot be opened.
    """
    fd = track(System.open(path, _FLAGS, dir_fd=dir_fd))
    try:
        _lock_shared(fd)
    except BlockingIOError:
        release(fd)
        return None
    except OSError:
        # A file system without locks: no sweep can take the lock either.
        pass
    return fd


def hold(fd: int, path: str, dir_fd: int | None = None) -> int:
    """Hold the lock of the file that is at *path* now; another process may have recreated it.

    :param fd: The descriptor that holds the lock so far; released if the file was recreated.
    :returns: The descriptor that holds the lock; *fd* if the file is the same.
    :raises OSError: When there is no file, or a sweep has the lock.
    """
    current = identity_of(System.stat(path, dir_fd=dir_fd, follow_symlinks=False))
    if isinstance(fd, _Held) and fd.identity == current and is_held(fd):
        return fd
    new = join(path, dir_fd)
    if new is None:
        raise BlockingIOError(errno.EWOULDBLOCK, "the session root is being swept", path)
    release(fd)
    return new


def renew(fd: int, path: str, dir_fd: int | None = None, *, proved: bool) -> int:
    """Hold the lock of the file that is at *path* now; create the file if it is gone.

    :param fd: As in :func:`hold`.
    :param proved: Whether the session root has a breadcrumb. If so, a sweep may try to take the
        lock at any moment, so the file gets its name only when it is locked.
    :returns: The descriptor that holds the lock.
    :raises OSError: When the file cannot be created, or a sweep has the lock.
    """
    with suppress(FileNotFoundError):
        return hold(fd, path, dir_fd)
    try:
        created = _acquire_atomically(path, dir_fd) if proved else acquire(path, dir_fd)
    except FileExistsError:
        # Another process of the session was faster.
        return hold(fd, path, dir_fd)
    release(fd)
    return created


def _acquire_atomically(path: str, dir_fd: int | None) -> int:
    draft = f"{path}.{random_name()}"
    fd = acquire(draft, dir_fd)
    try:
        System.link(draft, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException as error:
        release(fd)
        if not isinstance(error, OSError) or isinstance(error, FileExistsError):
            raise
        # Without hard links there is no atomic way.
        return acquire(path, dir_fd)
    finally:
        with suppress(OSError):
            System.unlink(draft, dir_fd=dir_fd)
    return fd


def release(fd: int) -> None:
    """Release the lock and close its descriptor; a second call does nothing."""
    held = next((each for each in _held if each is fd), None)
    if held is None:
        return
    _held.discard(held)
    with suppress(OSError):
        if identity_of(System.fstat(held)) == held.identity:
            System.close(held)


def is_held(fd: int) -> bool:
    """Whether *fd* is open and still the same file: a test may have closed it."""
    try:
        return isinstance(fd, _Held) and identity_of(System.fstat(fd)) == fd.identity
    except OSError:
        return False


def track(number: int) -> int:
    """Record a descriptor, so that forked children close it and :func:`release` closes it once.

    :param number: The descriptor of a lock or of another file; it is closed on an error.
    :returns: The descriptor, for :func:`release`.
    """
    fd = _Held(number)
    try:
        fd.identity = identity_of(System.fstat(number))
    except BaseException:
        System.close(number)
        raise
    # The set contains an equal number if a test has closed that descriptor.
    _held.discard(fd)
    _held.add(fd)
    return fd


def take(path: str, dir_fd: int | None = None) -> int | None:
    """Take the exclusive lock of a session that may be dead.

    :returns: The descriptor that holds the lock, or None when another process holds it or that
        is unknown: in doubt a session is alive.
    """
    try:
        fd = track(System.open(path, _FLAGS, dir_fd=dir_fd))
    except OSError:
        return None
    try:
        status = System.fstat(fd)
        if stat.S_ISREG(status.st_mode) and is_own(status):
            _lock_exclusive(fd)
            if System.fstat(fd).st_size == 0:
                return fd
    except OSError:
        pass
    release(fd)
    return None


def is_free(path: str, dir_fd: int | None = None) -> bool:
    """Whether no process holds the lock file *path*, which means that the session is dead."""
    fd = take(path, dir_fd)
    if fd is not None:
        release(fd)
    return fd is not None


def _release_in_child() -> None:
    # A `flock` belongs to the open file description, which parent and child share: closing the
    # child's descriptor does not release the parent's lock (POSIX; ``flock(2)``).
    for fd in list(_held):
        release(fd)


after_fork_in_child(_release_in_child)
