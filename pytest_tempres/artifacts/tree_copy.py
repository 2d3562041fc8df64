"""The copy of a directory tree that may contain anything and may still change."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
from contextlib import suppress
import errno
import os
import stat
from typing import Any
from typing import Final
from typing import NoReturn

from pytest_tempres.artifacts.portable_names import safe_names
from pytest_tempres.primitives._system import System
from pytest_tempres.primitives._windows import is_directory
from pytest_tempres.workspace.dirfd import Directory

__all__ = ["Limits", "TreeCopy"]

#: The errors after which nothing more can be written.
_FULL: Final = frozenset({errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)})
_SPECIAL: Final = {
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
_CHUNK: Final = 1 << 18
#: The maximum depth: few programs can handle deeper trees, and each level is opened again.
_MAX_DEPTH: Final = 256

#: Millions of empty files fill a disk too, so one item is allowed per this many bytes of the limit.
_BYTES_PER_ITEM: Final = 512
#: The number of items that every limit allows.
_MIN_ITEMS: Final = 1000
#: The maximum number of skipped paths that are listed for each kept path.
_MAX_SKIPPED: Final = 100

_Parts = tuple[str, ...]


class Limits:
    """The limits and failures that all copies of a session share.

    :param max_size: The maximum number of bytes, from which the maximum number of items follows.
    :param excluded: Device and inode of the directory that the copies go to, which is not copied.
    """

    __slots__ = ("excluded", "failure", "items_left", "left", "stopped")

    def __init__(self, max_size: int, excluded: tuple[int, int]) -> None:
        self.left = max_size
        #: The number of files, links and directories that may still be created.
        self.items_left = max(max_size // _BYTES_PER_ITEM, _MIN_ITEMS)
        self.excluded = excluded
        #: Why copying has stopped; None while it continues.
        self.stopped: str | None = None
        #: The first path that could not be written, with the reason.
        self.failure: str | None = None

    def fail(self, path: str, error: OSError) -> str:
        """Record that *path* could not be written; return the reason."""
        reason = _reason(error)
        self.failure = self.failure or f"{path}: {reason}"
        if error.errno in _FULL:
            self.stopped = reason
        return reason


class _SkipError(Exception):
    """A path is not copied for a reason that is not a failure to write."""


class TreeCopy:
    """The copy of one file or directory, with its content.

    :param source: The directory that contains it, which is never changed.
    :param name: Its name there.
    :param target: The directory for the copy.
    :param safe: The name of the copy, which must not exist there.
    """

    def __init__(
        self, source: Directory, name: str, target: Directory, safe: str, limits: Limits
    ) -> None:
        self._source = source
        self._target = target
        self._limits = limits
        self._start = ((name,), (safe,))
        self._pending: list[tuple[_Parts, _Parts]] = []
        self._created: list[tuple[_Parts, os.stat_result]] = []
        self._device = -1
        #: The number of bytes, and of files and links, that were copied.
        self.bytes = 0
        self.files = 0
        #: The first paths that were not copied, as parts below the start, with the reasons.
        self.skipped: list[tuple[_Parts, str]] = []
        #: The number of further paths that were not copied.
        self.more_skipped = 0
        #: The paths with another name in the copy, both as parts below the start.
        self.renamed: dict[_Parts, _Parts] = {}

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory, and was copied."""
        return bool(self._created)

    def path_in_copy(self, parts: _Parts) -> _Parts:
        """Return the path of *parts* in the copy, both below the start; it may not exist."""
        safe: _Parts = ()
        for number, part in enumerate(parts, 1):
            safe = self.renamed.get(parts[:number], (*safe, part))
        return safe

    def run(self) -> None:
        """Copy what can be copied, and record the rest as skipped."""
        parts, safe = self._start
        self._device = self._source.status().st_dev
        self._try(self._copy, parts, safe, self._source, self._target)
        while self._pending:
            self._try(self._copy_content, *self._pending.pop())
        for created, status in reversed(self._created):
            # Writing into a directory changes its times, so they are copied last.
            with suppress(OSError), self._target.subdirectory(created[:-1]) as parent:
                parent.copy_times(created[-1], status)

    def _try(self, step: Callable[..., None], parts: _Parts, safe: _Parts, *args: Any) -> None:
        try:
            step(parts, safe, *args)
        except _SkipError as skip:
            self._record_skip(parts, str(skip))
        except OSError as error:
            # An error of the source would be a _SkipError, so this is a failure to write.
            path = System.join(self._target.path, *safe)
            self._record_skip(parts, self._limits.fail(path, error))

    def _record_skip(self, parts: _Parts, reason: str) -> None:
        if len(self.skipped) < _MAX_SKIPPED:
            self.skipped.append((parts[1:], reason))
        else:
            self.more_skipped += 1

    def _copy_content(self, parts: _Parts, safe: _Parts) -> None:
        with _reading():
            source = self._source.subdirectory(parts)
        with source, self._target.subdirectory(safe) as target:
            with _reading():
                names = source.names()
                if source.status().st_dev != self._device:
                    _skip("a mount point")
            for name, new in safe_names(names).items():
                self._try(self._copy, (*parts, name), (*safe, new), source, target)

    def _copy(self, parts: _Parts, safe: _Parts, source: Directory, target: Directory) -> None:
        if self._limits.stopped is not None:
            _skip(self._limits.stopped)
        if not self._limits.items_left:
            _skip("over the size limit: too many files")
        with _reading():
            status = source.lstat(parts[-1])
        if stat.S_ISDIR(status.st_mode):
            self._copy_directory(parts, safe, status, target)
        elif stat.S_ISLNK(status.st_mode):
            self._copy_link(parts[-1], safe[-1], status, source, target)
        elif stat.S_ISREG(status.st_mode):
            self._copy_file(parts[-1], safe[-1], source, target)
        else:
            _skip(_SPECIAL.get(stat.S_IFMT(status.st_mode), "a special file"))
        self._limits.items_left -= 1
        if parts[-1] != safe[-1] and parts[1:]:
            self.renamed[parts[1:]] = safe[1:]

    def _copy_directory(
        self, parts: _Parts, safe: _Parts, status: os.stat_result, target: Directory
    ) -> None:
        # Only directories are checked: on overlay file systems a file has the device of a layer.
        if status.st_dev != self._device or not is_directory(status):
            _skip("a mount point")
        if (status.st_dev, status.st_ino) == self._limits.excluded:
            _skip("the artifacts directory itself")
        if len(parts) > _MAX_DEPTH:
            _skip(f"more than {_MAX_DEPTH} directories deep")
        target.make_directory(safe[-1], status.st_mode & 0o777 | 0o700)
        self._created.append((safe, status))
        self._pending.append((parts, safe))

    def _copy_link(
        self, name: str, new: str, status: os.stat_result, source: Directory, target: Directory
    ) -> None:
        with _reading():
            text = source.readlink(name)
        attributes: int = getattr(status, "st_file_attributes", 0)
        to_directory = bool(attributes & getattr(stat, "FILE_ATTRIBUTE_DIRECTORY", 0))
        target.make_link(new, text, to_directory=to_directory)
        target.copy_times(new, status)
        self.files += 1

    def _copy_file(self, name: str, new: str, source: Directory, target: Directory) -> None:
        with contextlib.ExitStack() as stack:
            with _reading():
                opened = source.open_for_reading(name)
                stack.callback(System.close, opened)
                status = System.fstat(opened)
            if not stat.S_ISREG(status.st_mode):
                _skip("no longer a file")
            if status.st_size > self._limits.left:
                _skip(f"over the size limit: {status.st_size} bytes")
            amount = self._write(opened, status, new, target)
        target.copy_times(new, status)
        self._limits.left -= amount
        self.bytes += amount
        self.files += 1

    def _write(self, opened: int, status: os.stat_result, new: str, target: Directory) -> int:
        created = target.make_file(new, status.st_mode & 0o777 | 0o600)
        try:
            with System.open_file(created, "wb", buffering=0) as file:
                # Stop at this size: the file may grow during the copy.
                return _copy_bytes(opened, file.fileno(), status.st_size)
        except BaseException:
            target.remove(new)
            raise


def _copy_bytes(source: int, target: int, amount: int) -> int:
    left = amount
    while left:
        with _reading():
            chunk = System.read(source, min(left, _CHUNK))
        if not chunk:
            break
        left -= len(chunk)
        while chunk:
            chunk = chunk[System.write(target, chunk) :]
    return amount - left


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Turn an OSError of the source into a skip; only failures to write count as failures."""
    try:
        yield
    except OSError as error:
        raise _SkipError(_reason(error)) from error


def _skip(reason: str) -> NoReturn:
    raise _SkipError(reason)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
