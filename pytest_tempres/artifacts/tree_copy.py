"""How is a tree copied that may hold anything, while others may still change it?"""

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
from pytest_tempres.workspace.dirfd import Directory
from pytest_tempres.workspace.dirfd import is_directory

__all__ = ["Limits", "TreeCopy"]

#: Where nothing more can be written, whatever it is.
_FULL: Final = frozenset({errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)})
_SPECIAL: Final = {
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
_CHUNK: Final = 1 << 18
#: No other program that handles the copy could go that deep, and each step is opened anew.
_DEEPEST: Final = 256

#: Millions of empty files fill a disk too: so many bytes of the limit allow one more item.
_ITEM: Final = 512
#: How many items any limit allows.
_FEW: Final = 1000
#: How much of what was skipped is named for each kept path.
_NAMED: Final = 100

_Parts = tuple[str, ...]


class Limits:
    """What all the copies of a session share.

    :param max_size: How many bytes may be copied, and by that how many items.
    :param avoid: Device and inode of the directory that the copies go to.
    """

    __slots__ = ("avoid", "failure", "items_left", "left", "stopped")

    def __init__(self, max_size: int, avoid: tuple[int, int]) -> None:
        self.left = max_size
        #: How many files, links and directories may still be made.
        self.items_left = max(max_size // _ITEM, _FEW)
        self.avoid = avoid
        #: Why nothing is copied any more.
        self.stopped: str | None = None
        #: The first thing that could not be written.
        self.failure: str | None = None

    def fail(self, path: str, error: OSError) -> str:
        """Note that *path* could not be written; return the reason."""
        reason = _reason(error)
        self.failure = self.failure or f"{path}: {reason}"
        if error.errno in _FULL:
            self.stopped = reason
        return reason


class _SkipError(Exception):
    """Something is not copied, and nothing is wrong with where the copy goes."""


class TreeCopy:
    """The copy of one file or directory, with all that is in it.

    :param source: The directory that it stands in, which is never changed.
    :param name: Its name there.
    :param target: The directory that the copy is made in.
    :param safe: The name of the copy, which nothing has there yet.
    """

    def __init__(
        self, source: Directory, name: str, target: Directory, safe: str, limits: Limits
    ) -> None:
        self._source = source
        self._target = target
        self._limits = limits
        self._start = ((name,), (safe,))
        self._pending: list[tuple[_Parts, _Parts]] = []
        self._made: list[tuple[_Parts, os.stat_result]] = []
        self._device = -1
        #: How many bytes, files and links were copied.
        self.bytes = 0
        self.files = 0
        #: The first of what was not copied, as parts of its path below the start, and why.
        self.skipped: list[tuple[_Parts, str]] = []
        #: How much else was not copied.
        self.more_skipped = 0
        #: What has another name in the copy, both as parts below the start.
        self.renamed: dict[_Parts, _Parts] = {}

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory of which there is a copy."""
        return bool(self._made)

    def place(self, parts: _Parts) -> _Parts:
        """Return where the copy of something below the start is, if there is one."""
        safe: _Parts = ()
        for number, part in enumerate(parts, 1):
            safe = self.renamed.get(parts[:number], (*safe, part))
        return safe

    def run(self) -> None:
        """Copy all that can be copied, and note the rest."""
        parts, safe = self._start
        self._device = self._source.status().st_dev
        self._try(self._copy, parts, safe, self._source, self._target)
        while self._pending:
            self._try(self._fill, *self._pending.pop())
        for created, status in reversed(self._made):
            # What is written into a directory changes its times, so they come last.
            with suppress(OSError), self._target.below(created[:-1]) as parent:
                parent.copy_times(created[-1], status)

    def _try(self, deed: Callable[..., None], parts: _Parts, safe: _Parts, *args: Any) -> None:
        try:
            deed(parts, safe, *args)
        except _SkipError as skip:
            self._note(parts, str(skip))
        except OSError as error:
            # What reading raises has become a skip already.
            path = System.join(self._target.path, *safe)
            self._note(parts, self._limits.fail(path, error))

    def _note(self, parts: _Parts, reason: str) -> None:
        if len(self.skipped) < _NAMED:
            self.skipped.append((parts[1:], reason))
        else:
            self.more_skipped += 1

    def _fill(self, parts: _Parts, safe: _Parts) -> None:
        with _reading():
            source = self._source.below(parts)
        with source, self._target.below(safe) as target:
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
        # Files are not asked: on layered file systems their device is that of a layer.
        if status.st_dev != self._device or not is_directory(status):
            _skip("a mount point")
        if (status.st_dev, status.st_ino) == self._limits.avoid:
            _skip("the artifacts directory itself")
        if len(parts) > _DEEPEST:
            _skip(f"more than {_DEEPEST} directories deep")
        target.make_directory(safe[-1], status.st_mode & 0o777 | 0o700)
        self._made.append((safe, status))
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
                opened = source.read(name)
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
                # A file that grows all the time has an end here.
                return _pour(opened, file.fileno(), status.st_size)
        except BaseException:
            target.remove(new)
            raise


def _pour(source: int, target: int, amount: int) -> int:
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
    """Make a skip of what the source refuses: only what is written can fail for good."""
    try:
        yield
    except OSError as error:
        raise _SkipError(_reason(error)) from error


def _skip(reason: str) -> NoReturn:
    raise _SkipError(reason)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
