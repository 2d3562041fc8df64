"""File operations relative to an open directory.

Names are looked up relative to the descriptor and never contain a separator, so another process
cannot redirect us by swapping a directory for a link. Where the platform has no ``dir_fd``
(Windows), the path is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
import errno
import os
import stat
from typing import TYPE_CHECKING
from typing import Any
from typing import Final

from pytest_tempres.primitives._rmtree import remove_tree
from pytest_tempres.primitives._system import System
from pytest_tempres.primitives._windows import is_directory

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SAFE_FLAGS", "Directory", "children", "make_private", "write_all"]

#: The maximum size of a file of ours that is read, in bytes: a test may have written to it.
_MAX_BYTES: Final = 1 << 26
#: The errors of opening a path that does not exist, or is a link, a directory or a socket.
_NOT_A_FILE: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO})

_UTIME_ON_LINKS: Final = os.utime in os.supports_follow_symlinks

_FILE_FLAGS: Final = (
    getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
)
#: The flags to open a file that may have been replaced by a link, which must not be followed, or by
#: a fifo, on which opening would wait.
SAFE_FLAGS: Final = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | _FILE_FLAGS
# O_EXCL refuses an existing name, also that of a dangling link.
_CREATE_FLAGS: Final = os.O_CREAT | os.O_EXCL | _FILE_FLAGS


class Directory:
    """An open directory; a context manager that closes its descriptor.

    :param path: Its path, for messages and where there is no descriptor.
    :param fd: Its descriptor, which the object owns from now on; None without ``dir_fd`` support.
    :param follow: Whether the path may be a link.

    Every method raises OSError when the operating system refuses.
    """

    __slots__ = ("_follow", "fd", "path")

    def __init__(self, path: str, fd: int | None, *, follow: bool = False) -> None:
        self.path = path
        self.fd = fd
        self._follow = follow

    @classmethod
    def at(cls, path: str, *, follow: bool = False, dir_fd: int | None = None) -> Directory:
        """Open the directory *path*.

        :param follow: Whether *path* may be a link; true for a directory that the user chose.
        :param dir_fd: The descriptor of the directory that *path* is relative to.
        """
        if System.supports_dir_fd:
            flags = System.directory_flags if follow else System.nofollow_directory_flags
            return cls(path, System.open(path, flags, dir_fd=dir_fd))
        opened = cls(path, None, follow=follow)
        _check_directory(path, opened.status())
        return opened

    def __enter__(self) -> Self:
        """Return the directory itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the descriptor."""
        if self.fd is not None:
            System.close(self.fd)
            self.fd = None

    def subdirectory(self, parts: Iterable[str]) -> Directory:
        """Open the directory at the relative path *parts*, and follow no link."""
        path = self.path
        fd = self.fd if self.fd is None else System.dup(self.fd)
        for part in parts:
            path = System.join(path, part)
            if fd is None:
                _check_directory(path, System.lstat(path))
                continue
            try:
                inner = System.open(part, System.nofollow_directory_flags, dir_fd=fd)
            finally:
                System.close(fd)
            fd = inner
        return Directory(path, fd)

    def path_of(self, name: str) -> str:
        """Return the path of *name*, relative to the descriptor if there is one."""
        return System.join(self.path, name) if self.fd is None else name

    def status(self) -> os.stat_result:
        """Return the status of the directory itself."""
        if self.fd is None:
            return System.stat(self.path, follow_symlinks=self._follow)
        return System.fstat(self.fd)

    def names(self) -> list[str]:
        """Return the names of its entries, sorted."""
        return sorted(System.listdir(self.path if self.fd is None else self.fd))

    def chmod(self, mode: int) -> None:
        """Set the permission bits of the directory itself."""
        System.chmod(self.path if self.fd is None else self.fd, mode)

    def lstat(self, name: str) -> os.stat_result:
        """Return the status of *name*, without following a link."""
        return System.stat(self.path_of(name), dir_fd=self.fd, follow_symlinks=False)

    def open_for_reading(self, name: str) -> int:
        """Open the file *name* for reading; a fifo does not block, and a link is refused."""
        return System.open(self.path_of(name), os.O_RDONLY | SAFE_FLAGS, dir_fd=self.fd)

    def read_private(self, name: str, uid: int) -> tuple[bytes, float] | None:
        """Return the content of a file of ours, and its modification time.

        :param uid: The owner that it must have.
        :returns: None when *name* is not a regular file of that user.
        :raises OSError: When it cannot be read, or is too large to be one of ours.
        """
        try:
            fd = self.open_for_reading(name)
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                return None
            raise
        try:
            status = System.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != uid:
                return None
            return _read_all(fd, name), status.st_mtime
        finally:
            System.close(fd)

    def make_file(self, name: str, mode: int) -> int:
        """Create and open the file *name*, which must not exist."""
        return System.open(self.path_of(name), os.O_WRONLY | _CREATE_FLAGS, mode, dir_fd=self.fd)

    def make_private(self, name: str) -> int:
        """Create and open the file *name* as :func:`make_private` does."""
        return make_private(self.path_of(name), self.fd)

    def write_private(self, name: str, content: bytes) -> None:
        """Write *content* to the file *name* atomically, with mode 0600.

        :raises OSError: When that fails; an existing file is unchanged then.
        """
        draft = f"{name}.new"
        with suppress(FileNotFoundError):
            self.unlink(draft)
        try:
            write_all(self.make_private(draft), content)
            self.replace(draft, name)
        except OSError:
            # A partial file is useless, and the disk may be full.
            with suppress(OSError):
                self.unlink(draft)
            raise

    def make_directory(self, name: str, mode: int) -> None:
        """Create the directory *name*, which must not exist."""
        System.mkdir(self.path_of(name), mode, dir_fd=self.fd)

    def readlink(self, name: str) -> str:
        """Return the target of the link *name*, as it is written in it."""
        return System.readlink(self.path_of(name), dir_fd=self.fd)

    def make_link(self, name: str, target: str, *, to_directory: bool) -> None:
        """Create the link *name* to *target*; *to_directory* matters on Windows only."""
        System.symlink(target, self.path_of(name), to_directory, dir_fd=self.fd)

    def replace(self, name: str, new: str) -> None:
        """Rename *name* to *new* atomically, replacing an existing file."""
        System.replace(
            self.path_of(name), self.path_of(new), src_dir_fd=self.fd, dst_dir_fd=self.fd
        )

    def unlink(self, name: str) -> None:
        """Remove the file *name*."""
        System.unlink(self.path_of(name), dir_fd=self.fd)

    def rmdir(self, name: str) -> None:
        """Remove the empty directory *name*."""
        System.rmdir(self.path_of(name), dir_fd=self.fd)

    def remove(self, name: str) -> None:
        """Remove *name*, which we created, with its contents if it exists."""
        remove_tree(self.path_of(name), dir_fd=self.fd)

    def set_times(self, name: str, ns: tuple[int, int]) -> None:
        """Set the access and modification times of *name*, in nanoseconds."""
        safe: dict[str, Any] = {"follow_symlinks": False} if _UTIME_ON_LINKS else {}
        System.utime(self.path_of(name), ns=ns, dir_fd=self.fd, **safe)

    def copy_times(self, name: str, status: os.stat_result) -> None:
        """Set the times of *name* to those in *status*, where the file system supports that."""
        if _UTIME_ON_LINKS or not stat.S_ISLNK(status.st_mode):
            with suppress(OSError, OverflowError):
                self.set_times(name, (status.st_atime_ns, status.st_mtime_ns))


def _check_directory(path: str, status: os.stat_result) -> None:
    if not is_directory(status):
        raise NotADirectoryError(errno.ENOTDIR, System.strerror(errno.ENOTDIR), path)


def children(path: str) -> list[str]:
    """Return the paths of the entries of the directory *path*; none if it cannot be read."""
    try:
        with System.scandir(path) as entries:
            return [entry.path for entry in entries]
    except OSError:
        return []


def make_private(path: str, dir_fd: int | None, flags: int = os.O_WRONLY) -> int:
    """Create and open a file with mode 0600, whatever the umask is.

    :param path: Its path, which must not exist, not even as a link.
    :param dir_fd: The descriptor of the directory that *path* is relative to.
    :param flags: How to open it.
    :raises OSError: When the operating system refuses.
    """
    fd = System.open(path, flags | _CREATE_FLAGS, 0o600, dir_fd=dir_fd)
    if System.fchmod is not None:
        # A file system without modes may refuse.
        with suppress(OSError):
            System.fchmod(fd, 0o600)
    return fd


def write_all(fd: int, content: bytes, *, sync: bool = True) -> None:
    """Write *content* to a new file and close its descriptor."""
    try:
        while content:
            content = content[System.write(fd, content) :]
        # A file that is renamed before its content is on the disk is empty after a power cut.
        if sync:
            with suppress(OSError):
                System.fsync(fd)
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
