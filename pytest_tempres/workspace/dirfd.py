"""How is a directory used so that nobody can lead us out of it?

By its descriptor, and by names that have no separator in them; by its path where the platform
knows nothing else (Windows).
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
    "Folder",
    "held",
    "is_directory",
    "make_private",
    "read_private",
    "replace_private",
]

#: More bytes than these are not read from a file of ours: a test may have filled it.
_MOST: Final = 1 << 26
#: What opening a file says where there is none, or a link, a directory or a socket.
_NO_FILE: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO})

_SAFE_TIMES: Final = os.utime in os.supports_follow_symlinks

_DIRECTORY: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NOT_A_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
_PLAIN: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | _NOT_A_LINK
# What was a file a moment ago may be a fifo now, and opening that would wait for a writer.
_TO_READ: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | _PLAIN
# To make a file that nothing stands for yet, not even a link.
_TO_MAKE: Final = os.O_CREAT | os.O_EXCL | _PLAIN
_JUNCTION: Final = getattr(stat, "FILE_ATTRIBUTE_REPARSE_POINT", 0)


class Folder:
    """A directory in which names are looked up, open until the end of a ``with`` block.

    :param path: Where it is; told to people, and used where there is no descriptor.
    :param fd: Its descriptor, which belongs to the object from now on.

    Every method raises OSError when the operating system refuses.
    """

    __slots__ = ("fd", "path")

    def __init__(self, path: str, fd: int | None) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def at(cls, path: str) -> Folder:
        """Open the directory *path*; links are followed, since the user named it so."""
        if System.by_descriptor:
            return cls(path, System.open(path, _DIRECTORY))
        if not stat.S_ISDIR(System.stat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, System.strerror(errno.ENOTDIR), path)
        return cls(path, None)

    def __enter__(self) -> Self:
        """Return the folder itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the descriptor."""
        if self.fd is not None:
            System.close(self.fd)
            self.fd = None

    def below(self, parts: Iterable[str]) -> Folder:
        """Open a directory further down; no link on the way is followed."""
        parts = tuple(parts)
        path = System.join(self.path, *parts)
        if self.fd is None:
            self._refuse_links(parts)
            return Folder(path, None)
        fd = System.dup(self.fd)
        for part in parts:
            try:
                inner = System.open(part, _DIRECTORY | _NOT_A_LINK, dir_fd=fd)
            finally:
                System.close(fd)
            fd = inner
        return Folder(path, fd)

    def _refuse_links(self, parts: tuple[str, ...]) -> None:
        for number in range(1, len(parts) + 1):
            path = System.join(self.path, *parts[:number])
            if not is_directory(System.lstat(path)):
                raise NotADirectoryError(errno.ENOTDIR, System.strerror(errno.ENOTDIR), path)

    def _where(self, name: str) -> str:
        return System.join(self.path, name) if self.fd is None else name

    def status(self) -> os.stat_result:
        """Return what the system knows of the directory itself."""
        return System.stat(self.path if self.fd is None else self.fd)

    def names(self) -> list[str]:
        """Return the names of all that is in it, sorted."""
        return sorted(System.listdir(self.path if self.fd is None else self.fd))

    def lstat(self, name: str) -> os.stat_result:
        """Return what the system knows of *name*, not of what a link leads to."""
        return System.stat(self._where(name), dir_fd=self.fd, follow_symlinks=False)

    def read(self, name: str) -> int:
        """Open the file *name*; a fifo does not block, and a link is refused."""
        return System.open(self._where(name), _TO_READ, dir_fd=self.fd)

    def make_file(self, name: str, mode: int) -> int:
        """Make and open the file *name*, which nothing stands for yet."""
        return System.open(self._where(name), os.O_WRONLY | _TO_MAKE, mode, dir_fd=self.fd)

    def make_private(self, name: str) -> int:
        """Make and open the file *name* as :func:`make_private` does."""
        return make_private(self._where(name), self.fd)

    def make_directory(self, name: str, mode: int) -> None:
        """Make the directory *name*, which nothing stands for yet."""
        System.mkdir(self._where(name), mode, dir_fd=self.fd)

    def readlink(self, name: str) -> str:
        """Return the text of the link *name*."""
        return System.readlink(self._where(name), dir_fd=self.fd)

    def make_link(self, name: str, text: str, *, to_directory: bool) -> None:
        """Make the link *name*; only Windows wants to know where it leads."""
        System.symlink(text, self._where(name), to_directory, dir_fd=self.fd)

    def replace(self, name: str, new: str) -> None:
        """Give *name* the name *new* at one stroke, whatever has that now."""
        System.replace(self._where(name), self._where(new), src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def remove(self, name: str) -> None:
        """Remove *name*, which we made, if it is there."""
        remove_tree(self._where(name), dir_fd=self.fd)

    def stamp(self, name: str, like: os.stat_result) -> None:
        """Give *name* the times of *like*, where the disk can."""
        safe: dict[str, Any] = {"follow_symlinks": False} if _SAFE_TIMES else {}
        if stat.S_ISLNK(like.st_mode) and not _SAFE_TIMES:
            return
        times = (like.st_atime_ns, like.st_mtime_ns)
        with suppress(OSError, OverflowError):
            System.utime(self._where(name), ns=times, dir_fd=self.fd, **safe)


def is_directory(status: os.stat_result) -> bool:
    """Whether it is a directory and not a junction, which on Windows looks like one."""
    attributes: int = getattr(status, "st_file_attributes", 0)
    return stat.S_ISDIR(status.st_mode) and not attributes & _JUNCTION


@contextlib.contextmanager
def held(
    path: str, flags: int = System.to_hold, *, dir_fd: int | None = None
) -> Iterator[int | None]:
    """Hold the directory *path* open; give None where names are not looked up in descriptors.

    :param dir_fd: The descriptor of the directory that a relative *path* starts from.
    :raises OSError: When the operating system refuses.
    """
    fd = System.open(path, flags, dir_fd=dir_fd) if System.by_descriptor else None
    try:
        yield fd
    finally:
        if fd is not None:
            System.close(fd)


def make_private(path: str, dir_fd: int | None, flags: int = os.O_WRONLY) -> int:
    """Make a file that its user alone may use, whatever the umask, and open it.

    :param path: Where; nothing may stand there, not even a link.
    :param dir_fd: The descriptor of the directory that a relative *path* starts from.
    :param flags: How to open it.
    :raises OSError: When the operating system refuses.
    """
    fd = System.open(path, flags | _TO_MAKE, 0o600, dir_fd=dir_fd)
    if System.fchmod is not None:
        # A disk without modes may refuse.
        with suppress(OSError):
            System.fchmod(fd, 0o600)
    return fd


def replace_private(path: str, dir_fd: int | None, content: bytes) -> None:
    """Put a file with *content* at *path* at one stroke; its user alone may use it.

    :param dir_fd: As :func:`make_private` takes it.
    :raises OSError: When that fails; what stood there stands there still.
    """
    draft = f"{path}.new"
    with suppress(FileNotFoundError):
        System.unlink(draft, dir_fd=dir_fd)
    try:
        _fill(make_private(draft, dir_fd), content)
        System.replace(draft, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except OSError:
        # A part of it is of no use, and takes room where there may be none.
        with suppress(OSError):
            System.unlink(draft, dir_fd=dir_fd)
        raise


def _fill(fd: int, content: bytes) -> None:
    try:
        while content:
            content = content[System.write(fd, content) :]
        # Renamed before it is on the disk, it would be empty after a power cut.
        with suppress(OSError):
            System.fsync(fd)
    finally:
        System.close(fd)


def read_private(path: str, dir_fd: int | None, uid: int) -> tuple[bytes, float] | None:
    """Return what stands in a file of ours, and when it was last written.

    :param dir_fd: As :func:`make_private` takes it.
    :param uid: Whose file it must be.
    :returns: None where there is no file of that user, whatever stands there.
    :raises OSError: When it cannot be read, or is too large to be one of ours.
    """
    try:
        fd = System.open(path, _TO_READ, dir_fd=dir_fd)
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
        if size > _MOST:
            raise OSError(errno.EFBIG, System.strerror(errno.EFBIG), path)
    return b"".join(parts)
