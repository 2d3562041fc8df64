"""Directories opened by descriptor, and private files in them.

Names are looked up relative to the descriptor and never contain a separator, so another process
cannot redirect us by swapping a directory for a link. Where the platform has no ``dir_fd``
(Windows), the path is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
from contextlib import suppress
import errno
import os
import stat
from typing import TYPE_CHECKING
from typing import Any
from typing import Final

from pytest_tempres.primitives._rmtree import remove_tree
from pytest_tempres.primitives._system import System

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Directory",
    "is_directory",
    "make_private",
    "open_directory",
    "read_private",
    "replace_private",
]

#: The largest file of ours that is read, in bytes: a test may have filled it.
_MAX_BYTES: Final = 1 << 26
#: The errors of opening a path that has no file, or a link, a directory or a socket.
_NO_FILE: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO})

_UTIME_ON_LINKS: Final = os.utime in os.supports_follow_symlinks

_DIRECTORY: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_FILE: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | _NOFOLLOW
# The file may have been replaced by a fifo, and opening that would wait for a writer.
_READ: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | _FILE
# O_EXCL refuses an existing name, also that of a dangling link.
_CREATE: Final = os.O_CREAT | os.O_EXCL | _FILE
_JUNCTION: Final = getattr(stat, "FILE_ATTRIBUTE_REPARSE_POINT", 0)


class Directory:
    """An open directory; a context manager that closes its descriptor.

    :param path: Its path, for messages and where there is no descriptor.
    :param fd: Its descriptor, which the object owns from now on.

    Every method raises OSError when the operating system refuses.
    """

    __slots__ = ("fd", "path")

    def __init__(self, path: str, fd: int | None) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def at(cls, path: str) -> Directory:
        """Open the directory *path*; links are followed, since the user gave the path."""
        if System.by_descriptor:
            return cls(path, System.open(path, _DIRECTORY))
        if not stat.S_ISDIR(System.stat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, System.strerror(errno.ENOTDIR), path)
        return cls(path, None)

    def __enter__(self) -> Self:
        """Return the directory itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the descriptor."""
        if self.fd is not None:
            System.close(self.fd)
            self.fd = None

    def below(self, parts: Iterable[str]) -> Directory:
        """Open a directory further down; no link on the way is followed."""
        parts = tuple(parts)
        path = System.join(self.path, *parts)
        if self.fd is None:
            self._refuse_links(parts)
            return Directory(path, None)
        fd = System.dup(self.fd)
        for part in parts:
            try:
                inner = System.open(part, _DIRECTORY | _NOFOLLOW, dir_fd=fd)
            finally:
                System.close(fd)
            fd = inner
        return Directory(path, fd)

    def _refuse_links(self, parts: tuple[str, ...]) -> None:
        for number in range(1, len(parts) + 1):
            path = System.join(self.path, *parts[:number])
            if not is_directory(System.lstat(path)):
                raise NotADirectoryError(errno.ENOTDIR, System.strerror(errno.ENOTDIR), path)

    def _where(self, name: str) -> str:
        return System.join(self.path, name) if self.fd is None else name

    def status(self) -> os.stat_result:
        """Return the status of the directory itself."""
        return System.stat(self.path if self.fd is None else self.fd)

    def names(self) -> list[str]:
        """Return the names of its entries, sorted."""
        return sorted(System.listdir(self.path if self.fd is None else self.fd))

    def lstat(self, name: str) -> os.stat_result:
        """Return the status of *name*, without following a link."""
        return System.stat(self._where(name), dir_fd=self.fd, follow_symlinks=False)

    def read(self, name: str) -> int:
        """Open the file *name* for reading; a fifo does not block, and a link is refused."""
        return System.open(self._where(name), _READ, dir_fd=self.fd)

    def make_file(self, name: str, mode: int) -> int:
        """Create and open the file *name*, which must not exist."""
        return System.open(self._where(name), os.O_WRONLY | _CREATE, mode, dir_fd=self.fd)

    def make_private(self, name: str) -> int:
        """Create and open the file *name* as :func:`make_private` does."""
        return make_private(self._where(name), self.fd)

    def make_directory(self, name: str, mode: int) -> None:
        """Create the directory *name*, which must not exist."""
        System.mkdir(self._where(name), mode, dir_fd=self.fd)

    def readlink(self, name: str) -> str:
        """Return the target of the link *name*, as it is written in it."""
        return System.readlink(self._where(name), dir_fd=self.fd)

    def make_link(self, name: str, text: str, *, to_directory: bool) -> None:
        """Create the link *name* with the target *text*; *to_directory* matters on Windows only."""
        System.symlink(text, self._where(name), to_directory, dir_fd=self.fd)

    def replace(self, name: str, new: str) -> None:
        """Rename *name* to *new* atomically, replacing what has that name."""
        System.replace(self._where(name), self._where(new), src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def remove(self, name: str) -> None:
        """Remove *name*, which we created, if it exists."""
        remove_tree(self._where(name), dir_fd=self.fd)

    def copy_times(self, name: str, like: os.stat_result) -> None:
        """Set the times of *name* to those of *like*, where the file system supports that."""
        safe: dict[str, Any] = {"follow_symlinks": False} if _UTIME_ON_LINKS else {}
        if stat.S_ISLNK(like.st_mode) and not _UTIME_ON_LINKS:
            return
        times = (like.st_atime_ns, like.st_mtime_ns)
        with suppress(OSError, OverflowError):
            System.utime(self._where(name), ns=times, dir_fd=self.fd, **safe)


def is_directory(status: os.stat_result) -> bool:
    """Whether *status* is that of a directory and not of a junction (Windows)."""
    attributes: int = getattr(status, "st_file_attributes", 0)
    return stat.S_ISDIR(status.st_mode) and not attributes & _JUNCTION


@contextlib.contextmanager
def open_directory(
    path: str, flags: int = System.to_hold, *, dir_fd: int | None = None
) -> Iterator[int | None]:
    """Keep the directory *path* open; yield its descriptor, or None without ``dir_fd`` support.

    :param dir_fd: The descriptor of the directory that *path* is relative to.
    :raises OSError: When the operating system refuses.
    """
    fd = System.open(path, flags, dir_fd=dir_fd) if System.by_descriptor else None
    try:
        yield fd
    finally:
        if fd is not None:
            System.close(fd)


def make_private(path: str, dir_fd: int | None, flags: int = os.O_WRONLY) -> int:
    """Create and open a file with mode 0600, whatever the umask is.

    :param path: Its path, which must not exist, not even as a link.
    :param dir_fd: The descriptor of the directory that *path* is relative to.
    :param flags: How to open it.
    :raises OSError: When the operating system refuses.
    """
    fd = System.open(path, flags | _CREATE, 0o600, dir_fd=dir_fd)
    if System.fchmod is not None:
        # A file system without modes may refuse.
        with suppress(OSError):
            System.fchmod(fd, 0o600)
    return fd


def replace_private(path: str, dir_fd: int | None, content: bytes) -> None:
    """Write *content* to the file *path* atomically, with mode 0600.

    :param dir_fd: As in :func:`make_private`.
    :raises OSError: When that fails; an existing file is unchanged then.
    """
    draft = f"{path}.new"
    with suppress(FileNotFoundError):
        System.unlink(draft, dir_fd=dir_fd)
    try:
        _write_all(make_private(draft, dir_fd), content)
        System.replace(draft, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except OSError:
        # A partial file is useless, and the disk may be full.
        with suppress(OSError):
            System.unlink(draft, dir_fd=dir_fd)
        raise


def _write_all(fd: int, content: bytes) -> None:
    try:
        while content:
            content = content[System.write(fd, content) :]
        # A file that is renamed before its content is on the disk is empty after a power cut.
        with suppress(OSError):
            System.fsync(fd)
    finally:
        System.close(fd)


def read_private(path: str, dir_fd: int | None, uid: int) -> tuple[bytes, float] | None:
    """Return the content of a file of ours, and its modification time.

    :param dir_fd: As in :func:`make_private`.
    :param uid: The owner that it must have.
    :returns: None when *path* is not a regular file of that user.
    :raises OSError: When it cannot be read, or is too large to be one of ours.
    """
    try:
        fd = System.open(path, _READ, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    try:
        status = System.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != uid:
            return None
        return _read_all(fd, path), status.st_mtime
    finally:
        System.close(fd)


def _read_all(fd: int, path: str) -> bytes:
    parts, size = [], 0
    while part := System.read(fd, 1 << 20):
        parts.append(part)
        size += len(part)
        if size > _MAX_BYTES:
            raise OSError(errno.EFBIG, System.strerror(errno.EFBIG), path)
    return b"".join(parts)
