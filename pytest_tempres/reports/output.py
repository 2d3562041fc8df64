"""Writes the text of a report to its destination."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
import errno
import os
import stat
from typing import Final
from typing import NamedTuple

from pytest_tempres.primitives._system import System

__all__ = ["Appended", "append", "replace", "size"]

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
#: A pipe without a reader is an error; without this flag it would block the end of the session.
_DIRECT: Final = (
    os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
)
_FLAGS: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
#: The errors after which a file can be written although it cannot be replaced: a file that is a
#: mount point, in a directory of another user, or on the file system of one.
_CANNOT_REPLACE: Final = (errno.EACCES, errno.EBUSY, errno.EPERM, errno.EROFS, errno.EXDEV)


def replace(path: str, text: str, *, again: bool = False) -> None:
    """Write *text* to the file at *path*, all of it or nothing.

    A file that exists keeps its mode and its owner. What is not a regular file, and the file that
    standard output or standard error is redirected to, is written to directly.

    :param again: Whether this replaces an earlier text of this session. It cannot where the text
        was written directly; then nothing happens.
    :raises OSError: If it cannot be written; a file that existed is unchanged then.
    """
    content = text.encode("utf-8")
    # Replace the target of a link, not the link.
    real = System.realpath(path)
    status = _status(path)
    stream = None if status is None else _stream_to(status)
    if status is not None and (stream is not None or not stat.S_ISREG(status.st_mode)):
        if not again:
            # pytest may have ended its output in the middle of a line.
            start = b"" if stream is None else b"\n"
            _write_directly(path, start + content, stream)
        return
    _create_directory(System.dirname(real))
    try:
        _replace(real, content, status)
    except OSError as error:
        if status is None or error.errno not in _CANNOT_REPLACE:
            raise
        with System.open_file(real, "r+b") as file:
            file.write(content)
            file.truncate()


def _create_directory(path: str) -> None:
    if not System.isdir(path):
        System.makedirs(path, exist_ok=True)


def _status(path: str) -> os.stat_result | None:
    try:
        return System.stat(path)
    except OSError:
        return None


def _stream_to(status: os.stat_result) -> int | None:
    """Return the descriptor of standard output or error if it is the file with this *status*."""
    for descriptor in (1, 2):
        with suppress(OSError):
            stream = System.fstat(descriptor)
            if (stream.st_dev, stream.st_ino) == (status.st_dev, status.st_ino):
                return descriptor
    return None


def _write_directly(path: str, content: bytes, stream: int | None) -> None:
    # A file that was opened again would have an offset of its own, and lose what is written next.
    descriptor = System.open(path, _DIRECT | _FLAGS) if stream is None else System.dup(stream)
    if stream is None and System.set_blocking is not None:
        System.set_blocking(descriptor, True)
    with System.open_file(descriptor, "wb") as file:
        file.write(content)


def _replace(path: str, content: bytes, status: os.stat_result | None) -> None:
    mode = 0o666 if status is None else stat.S_IMODE(status.st_mode)
    with _new_file(System.dirname(path), mode) as (descriptor, name):
        with System.open_file(descriptor, "wb") as file:
            if status is not None:
                _copy_owner(descriptor, status)
            file.write(content)
        System.replace(name, path)


@contextmanager
def _new_file(directory: str, mode: int) -> Iterator[tuple[int, str]]:
    """Create a file, which is removed if the block raises."""
    name = System.join(directory, f".tempres-{System.getpid()}-{System.time_ns():x}.new")
    descriptor = System.open(name, _CREATE | _FLAGS, mode)
    try:
        yield descriptor, name
    except BaseException:
        # Do not leave a partial file in the user's repository.
        with suppress(OSError):
            System.unlink(name)
        raise


def _copy_owner(descriptor: int, status: os.stat_result) -> None:
    """Give the file the owner and mode of *status*; chown removes special bits, so mode is last."""
    if System.fchown is None or System.fchmod is None:
        return
    new = System.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (status.st_uid, status.st_gid):
        System.fchown(descriptor, status.st_uid, status.st_gid)
    System.fchmod(descriptor, stat.S_IMODE(status.st_mode))


class Appended(NamedTuple):
    """The part of a file that this session has written."""

    start: int
    #: The size of the file afterwards.
    end: int


def size(path: str) -> int:
    """Return the size of the file at *path*; 0 if it is no regular file."""
    status = _status(path)
    return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else 0


def append(path: str, text: str, earlier: Appended | None = None) -> Appended | None:
    """Add *text* to the end of the file at *path*, in place of what this session added *earlier*.

    :returns: The part that was added; None if the file is a pipe or a device.
    :raises OSError: If it cannot be written.
    """
    status = _status(path)
    content = text.encode("utf-8")
    if status is not None and not stat.S_ISREG(status.st_mode):
        _write_directly(path, content, None)
        return None
    _create_directory(System.dirname(System.realpath(path)))
    with System.open_file(path, "ab") as file:
        if earlier is not None:
            file.truncate(earlier.start)
        start = file.seek(0, os.SEEK_END)
        file.write(content)
        return Appended(start, start + len(content))
