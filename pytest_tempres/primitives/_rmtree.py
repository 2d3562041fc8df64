"""The removal of a file or a directory tree, whatever its contents.

This is the one removal routine of the package. It works relative to directory descriptors and
follows no link, so another process cannot lead it out of the tree by swapping a directory for a
link (CVE-2023-6597, gh-157579). It descends and ascends one level at a time, so neither the depth
nor the length of paths is limited, and it holds at most three descriptors.
"""

from __future__ import annotations

import errno
import os
from os import fsdecode
from os.path import join
from os.path import split
import sys
from typing import TYPE_CHECKING
from typing import Final
from typing import NamedTuple
from typing import TypeVar

from pytest_tempres.primitives._system import System
from pytest_tempres.primitives._system import mount_of
from pytest_tempres.primitives._windows import remove_by_path

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Failure", "remove_tree"]

_T = TypeVar("_T")


class Failure(NamedTuple):
    """A path that could not be removed, and the error."""

    path: str
    error: OSError


_LINUX: Final = sys.platform == "linux"
_CHMOD_AT: Final = os.chmod in os.supports_dir_fd and os.chmod in os.supports_follow_symlinks

_DIRECTORY_FLAGS: Final = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_LIST_FLAGS: Final = os.O_RDONLY | _DIRECTORY_FLAGS | getattr(os, "O_NOFOLLOW", 0)
# Only O_PATH can open a directory that may be searched but not read.
_SEARCH_FLAGS: Final = _DIRECTORY_FLAGS | getattr(os, "O_PATH", os.O_RDONLY)
_HOLD_FLAGS: Final = _SEARCH_FLAGS | getattr(os, "O_NOFOLLOW", 0)

# Errors caused by another process that changes the tree: the removal is repeated, up to a limit.
_RETRIED: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ESTALE})
_MAX_ATTEMPTS: Final = 5
# The errors that rmdir reports only after it has checked that nothing is mounted there.
_NOT_MOUNTED: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})


def remove_tree(
    name: str | bytes,
    *,
    dir_fd: int | None = None,
    tick: Callable[[], object] | None = None,
    identity: tuple[int, int] | None = None,
) -> list[Failure]:
    """Remove *name*: a directory with its contents, a file, a link, a fifo or a socket.

    :param name: A path. A missing path is no error; a link is removed, never followed.
    :param dir_fd: The descriptor of the directory to which a relative *name* refers.
    :param tick: Called for each item in the tree; an exception that it raises stops the removal.
    :param identity: Device and inode: no other directory is emptied, even if another process
        replaces *name* at any moment.
    :returns: The paths that could not be removed, and why; empty after a complete removal.

    Directories in the tree whose mode prevents the removal get mode 0700. Mount points are not
    removed or entered, and BSD file flags are not cleared: both are failures. Where the platform
    has no functions relative to descriptors (Windows), the removal uses paths.
    """
    try:
        System.rmdir(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        pass
    except OSError:
        return _remove_contents(name, dir_fd, tick, identity)
    else:
        return []
    try:
        System.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return []
    except OSError:
        return _remove_contents(name, dir_fd, tick, identity)
    return []


def _remove_contents(
    name: str | bytes,
    dir_fd: int | None,
    tick: Callable[[], object] | None,
    identity: tuple[int, int] | None,
) -> list[Failure]:
    path = fsdecode(name)
    if not System.supports_dir_fd:
        return [Failure(*each) for each in remove_by_path(path, tick)]
    parent, name = split(path.rstrip("/"))
    if not name:
        return [Failure(path, OSError(errno.EBUSY, os.strerror(errno.EBUSY), path))]
    failures: list[Failure] = []
    for _ in range(_MAX_ATTEMPTS):
        try:
            base = System.open(parent or ".", _SEARCH_FLAGS, dir_fd=dir_fd)
        except FileNotFoundError:
            return []
        except OSError as error:
            return [Failure(path, error)]
        try:
            failures = _Removal(base, parent, name, tick, identity).run()
        finally:
            System.close(base)
        if not any(failure.error.errno in _RETRIED for failure in failures):
            break
    return failures


class _Level:
    """A directory between the top of the tree and the current directory of the removal."""

    __slots__ = ("failed", "identity", "name", "pending")

    def __init__(self, name: str, identity: tuple[int, int] | None, pending: list[str]) -> None:
        self.name = name
        self.identity = identity
        self.pending = pending
        self.failed = False


class _Removal:
    """One walk through a tree; the first level is the parent directory of the tree."""

    def __init__(
        self,
        base: int,
        parent: str,
        name: str,
        tick: Callable[[], object] | None,
        identity: tuple[int, int] | None,
    ) -> None:
        self._tick = tick
        self._identity = identity
        self._base = base
        self._here = base
        self._device: int | None = None
        self._levels = [_Level(parent, None, [name])]
        self._failures: list[Failure] = []

    def run(self) -> list[Failure]:
        try:
            while self._levels:
                if self._levels[-1].pending:
                    self._remove(self._levels[-1].pending.pop())
                else:
                    self._ascend()
        finally:
            self._change_to(self._base)
        return self._failures

    def _remove(self, name: str) -> None:
        try:
            System.rmdir(name, dir_fd=self._here)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in _NOT_MOUNTED or not self._may_be_mounted(name, error):
                self._descend(name)
            else:
                self._fail(name, error)

    def _may_be_mounted(self, name: str, error: OSError) -> bool:
        """Whether something may be mounted on *name*, which could not be removed.

        rmdir reports a directory without write permission, or a read-only file system, before it
        reports a mount.
        """
        if error.errno == errno.EBUSY:
            return True
        try:
            held = System.open(name, _HOLD_FLAGS, dir_fd=self._here)
        except OSError:
            # Opening it to remove its contents will fail with the same error.
            return False
        try:
            return mount_of(held) != mount_of(self._here)
        finally:
            System.close(held)

    def _descend(self, name: str) -> None:
        try:
            below = self._open(name)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                self._remove_or_fail(System.unlink, name)
            else:
                self._fail(name, error)
            return
        status = System.fstat(below)
        if self._device is None:
            self._device = status.st_dev
        self._change_to(below)
        self._levels.append(_Level(name, (status.st_dev, status.st_ino), []))
        try:
            self._levels[-1].pending = self._unlink_files()
        except OSError as error:
            self._fail("", error)

    def _open(self, name: str) -> int:
        try:
            below = System.open(name, _LIST_FLAGS, dir_fd=self._here)
        except PermissionError as error:
            below = self._open_denied(name, error)
        try:
            self._check_identity(System.fstat(below), name)
        except OSError:
            System.close(below)
            raise
        return below

    def _check_identity(self, status: os.stat_result, name: str) -> None:
        if self._device not in {None, status.st_dev}:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
        # The first directory that is opened is the one to be removed.
        if self._device is None and self._identity not in {None, (status.st_dev, status.st_ino)}:
            raise OSError(errno.ESTALE, "another directory has taken its place", name)

    def _open_denied(self, name: str, error: PermissionError) -> int:
        """Give the directory *name* mode 0700 and open it; links are never followed."""
        if not _LINUX:
            if not _CHMOD_AT:
                raise error
            here = System.stat(name, dir_fd=self._here, follow_symlinks=False)
            self._check_identity(here, name)
            System.chmod(name, 0o700, dir_fd=self._here, follow_symlinks=False)
            return System.open(name, _LIST_FLAGS, dir_fd=self._here)
        held = System.open(name, _HOLD_FLAGS, dir_fd=self._here)
        try:
            self._check_identity(System.fstat(held), name)
            # fchmod accepts no O_PATH descriptor, and another process could replace the name.
            System.chmod(f"/proc/self/fd/{held}", 0o700)
            return System.open(f"/proc/self/fd/{held}", os.O_RDONLY | _DIRECTORY_FLAGS)
        except FileNotFoundError:
            raise error from None
        finally:
            System.close(held)

    def _unlink_files(self) -> list[str]:
        """Unlink all but the directories in this directory; return the names that are left."""
        left, denied = self._unlink_each(System.listdir(self._here))
        if denied and self._make_writable():
            left, _ = self._unlink_each(left)
        return left

    def _unlink_each(self, names: list[str]) -> tuple[list[str], bool]:
        here, unlink, tick = self._here, System.unlink, self._tick
        left: list[str] = []
        denied = False
        for name in names:
            if tick is not None:
                tick()
            try:
                unlink(name, dir_fd=here)
            except FileNotFoundError:
                pass
            except PermissionError:
                denied = True
                left.append(name)
            except OSError:
                left.append(name)
        return left, denied

    def _ascend(self) -> None:
        done = self._levels.pop()
        if not self._levels:
            return
        if len(self._levels) == 1:
            self._change_to(self._base)
        else:
            above = self._parent()
            if above is None:
                self._levels.append(done)
                self._fail("", OSError(errno.ESTALE, "moved while it was being removed", done.name))
                self._levels.clear()
                return
            self._change_to(above)
        if done.failed:
            self._levels[-1].failed = True
        else:
            self._remove_or_fail(System.rmdir, done.name)

    def _parent(self) -> int | None:
        """Open the parent directory; return None if the current directory was moved."""
        try:
            above = self._with_write_access(System.open, "..", _LIST_FLAGS)
        except OSError:
            return None
        status = System.fstat(above)
        if (status.st_dev, status.st_ino) == self._levels[-1].identity:
            return above
        System.close(above)
        return None

    def _with_write_access(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call *function*; if this directory denies that, make it writable and call it again."""
        try:
            return function(*arguments, dir_fd=self._here)
        except PermissionError:
            if not self._make_writable():
                raise
            return function(*arguments, dir_fd=self._here)

    def _remove_or_fail(self, remove: Callable[..., None], name: str) -> None:
        try:
            self._with_write_access(remove, name)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._fail(name, error)

    def _make_writable(self) -> bool:
        """Make this directory writable, unless it is the parent of the tree."""
        if self._here == self._base:
            return False
        try:
            System.chmod(self._here, 0o700)
        except OSError:
            return False
        return True

    def _change_to(self, directory: int) -> None:
        here, self._here = self._here, directory
        if here != self._base:
            System.close(here)

    def _fail(self, name: str, error: OSError) -> None:
        self._levels[-1].failed = True
        path = join(*(level.name for level in self._levels), name)
        self._failures.append(Failure(path.rstrip("/") or path, error))
