"""The session root and its worker roots: made, recognised, removed."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
import errno
import json
import os
import re
import stat
import sys
from typing import Final
from typing import NamedTuple

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.exceptions import WorkspaceCreationError
from pytest_tempres.primitives._create import make_directory
from pytest_tempres.primitives._names import random_name
from pytest_tempres.primitives._rmtree import Failure
from pytest_tempres.primitives._rmtree import mount_of
from pytest_tempres.primitives._rmtree import remove_tree
from pytest_tempres.workspace import lock

__all__ = [
    "BREADCRUMB",
    "INDEX",
    "LOCK",
    "PREFIX",
    "SessionRoot",
    "WorkerRoot",
    "attach",
    "bears_our_name",
    "children",
    "create",
    "is_ours",
    "own_uid",
    "remove_made",
    "safe_name",
    "worker_directory",
]

PREFIX: Final = "tempres-"
BREADCRUMB: Final = ".tempres.json"
LOCK: Final = ".lock"
INDEX: Final = "index.json"

#: How many characters :func:`random_name` has.
_RANDOM_LENGTH: Final = 8
# Six bytes keep what we add to the system temp path at 24, so that AF_UNIX
# paths (104 bytes on macOS) still fit below a worker root.
_WORKER_NAME_BYTES: Final = 6

# Captured because a test may replace them while we clean up after another one.
_chmod = os.chmod
_close = os.close
_fstat = os.fstat
_listdir = os.listdir
_lstat = os.lstat
_open = os.open
_rmdir = os.rmdir
_stat = os.stat
_unlink = os.unlink
_geteuid = getattr(os, "geteuid", None)
_BY_DESCRIPTOR: Final = {_open, _stat, _unlink, _rmdir} <= os.supports_dir_fd
_PARENT_FLAGS: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_DIRECTORY_FLAGS: Final = _PARENT_FLAGS | getattr(os, "O_NOFOLLOW", 0)
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


def safe_name(text: str, limit: int) -> str:
    """Return *text* as a file name that is safe on every platform.

    :param text: Anything, such as a test's name.
    :param limit: The most bytes that the result may have.
    :returns: ASCII letters, digits, ``_``, ``.`` and ``-`` alone; never empty, no leading dot.
    """
    return _UNSAFE.sub("_", text)[:limit].lstrip(".") or "_"


def worker_directory(name: str) -> str:
    """Return how the directory of the worker *name* is called."""
    return safe_name(name, _WORKER_NAME_BYTES)


class WorkerRoot(NamedTuple):
    """The two directories of one worker."""

    name: str
    #: The temp location: only foreign code creates here.
    path: str
    #: What fixtures give lies here, so that `path` changes for foreign code alone.
    given: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRoot:
    """The one directory of a test session, alive as long as one of its processes is."""

    path: str
    uid: int
    pid: int
    #: Holds the lock.
    lock_fd: int
    #: Whether another process made it, which will remove it too.
    joined: bool = False
    #: Device and inode of the worker roots that this process made in it.
    made: set[tuple[int, int]] = field(default_factory=set, compare=False, repr=False)

    def add_worker(self, name: str, mode: int) -> WorkerRoot:
        """Make the worker root *name* and the directory for what fixtures give.

        :param name: The worker's name; cut and cleaned to fit the path budget.
        :param mode: Permission bits of the worker root.
        :raises WorkspaceCreationError: When the operating system refuses.
        """
        short = worker_directory(name)
        try:
            with contextlib.suppress(FileExistsError):
                return self._make_worker(short, mode)
            return self._make_worker(random_name()[:_WORKER_NAME_BYTES], mode)
        except OSError as error:
            raise WorkspaceCreationError(self.path, error) from error

    def _make_worker(self, name: str, mode: int) -> WorkerRoot:
        worker = WorkerRoot(
            name, os.path.join(self.path, name), os.path.join(self.path, f"{name}.d")
        )
        _make_with_mode(worker.path, mode)
        _make_with_mode(worker.given, mode & 0o711)
        self.made.update(_identity(_lstat(path)) for path in worker[1:])
        return worker

    def reopen(self, mode: int) -> bool:
        """Give back to this root and its worker roots the modes that a test has taken away.

        :param mode: Permission bits of the worker roots.
        :returns: Whether there was something to give back, and that was possible.
        """
        given = mode & 0o711
        found = _open_again(self.path, given, self.uid)
        for path in children(self.path):
            found |= _open_again(path, given if path.endswith(".d") else mode, self.uid)
        return found

    def remove(self, path: str, tick: Callable[[], object] | None = None) -> list[Failure]:
        """Remove *path*, which must lie inside this root, without following a link.

        :param path: A file or directory; one that is gone already counts as removed.
        :param tick: As `remove_tree` takes it.
        :returns: What is still there and why.
        :raises NotOurDirectoryError: When nothing proves that the root is ours.
        """
        inside = os.path.join(self.path, "")
        parts = path[len(inside) :].split(os.sep)
        if not path.startswith(inside) or not {"", os.curdir, os.pardir}.isdisjoint(parts):
            raise NotOurDirectoryError(path, f"it does not lie inside {self.path}")
        try:
            if _BY_DESCRIPTOR:
                return self._remove_relative(parts, tick)
            _prove(self.path, self.uid, None)
            return remove_tree(path, tick=tick)
        except FileNotFoundError:
            return []
        except NotOurDirectoryError:
            raise
        except OSError as error:
            return [Failure(path, error)]

    def _remove_relative(
        self, parts: list[str], tick: Callable[[], object] | None
    ) -> list[Failure]:
        fd = _open(self.path, _DIRECTORY_FLAGS)
        try:
            _prove(self.path, self.uid, fd)
            for part in parts[:-1]:
                inner = self._open_below(part, fd)
                _close(fd)
                fd = inner
            return remove_tree(parts[-1], dir_fd=fd, tick=tick)
        finally:
            _close(fd)

    def _open_below(self, name: str, fd: int) -> int:
        """Open a directory on the way to what is to be removed: neither a link nor a mount."""
        inner = _open(name, _DIRECTORY_FLAGS, dir_fd=fd)
        # Each test's directory comes this way, and to ask for mounts costs as much as all the rest.
        if _identity(_fstat(inner)) in self.made or mount_of(inner) == mount_of(fd):
            return inner
        _close(inner)
        raise OSError(errno.EXDEV, "another file system is mounted on the way")

    def restore(self, worker: WorkerRoot, mode: int, about: dict[str, object]) -> SessionRoot:
        """Make again what a test has removed of this root.

        :param about: As :func:`create` takes it.
        :returns: The root as it is now; it may hold another lock.
        :raises OSError: When the operating system refuses.
        """
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            _make_with_mode(self.path, mode & 0o711)
        # The name is known by now: in a shared directory somebody may have put a link there.
        status = _lstat(self.path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != self.uid:
            raise FileExistsError(errno.EEXIST, "somebody else's file stands there", self.path)
        now = self._prove_again(about)
        for path, bits in ((worker.path, mode), (worker.given, mode & 0o711)):
            if not os.path.isdir(path):
                _make_with_mode(path, bits)
        return now

    def _prove_again(self, about: dict[str, object]) -> SessionRoot:
        now = self
        lock_file = os.path.join(self.path, LOCK)
        # A worker may end before its session does, so its lock may not speak for all.
        if not self.joined and not os.path.lexists(lock_file):
            self.release()
            now = replace(self, lock_fd=lock.acquire(lock_file))
        crumb = os.path.join(self.path, BREADCRUMB)
        if not os.path.lexists(crumb):
            _write_breadcrumb(crumb, about)
        return now

    def dissolve(self) -> bool:
        """Remove empty worker roots, and the root if nothing else is left in it.

        :returns: Whether the root is gone. When it is not, the lock is given up, so
            that a later session sweeps it.
        """
        if self.pid != os.getpid() or self.joined:
            return False
        try:
            self._remove_empty()
        except OSError:
            gone = not os.path.lexists(self.path)
        else:
            gone = True
        self.release()
        return gone

    def release(self) -> None:
        """Give up the lock: as far as this process goes, the session is over."""
        lock.release(self.lock_fd)

    def _remove_empty(self) -> None:
        fd = _open(self.path, _DIRECTORY_FLAGS) if _BY_DESCRIPTOR else None
        try:
            _prove(self.path, self.uid, fd)
            self._remove_what_is_ours(fd)
        finally:
            if fd is not None:
                _close(fd)
        _rmdir(self.path)

    def _remove_what_is_ours(self, fd: int | None) -> None:
        here = self.path if fd is None else ""
        problem = None
        for name in _listdir(self.path if fd is None else fd):
            if name not in (BREADCRUMB, LOCK):
                try:
                    _rmdir(os.path.join(here, name), dir_fd=fd)
                except OSError as error:
                    problem = error
        if problem is not None:
            raise problem
        # The breadcrumb goes before the lock: a directory that holds nothing but
        # an unlocked lock can be recognised as the remains of a creation.
        for name in (BREADCRUMB, LOCK):
            # Windows removes no file that is open, and NFS keeps one under another name.
            if name == LOCK:
                self.release()
            # A root that was made again has no lock.
            with contextlib.suppress(FileNotFoundError):
                _unlink(os.path.join(here, name), dir_fd=fd)


def remove_made(path: str, identity: tuple[int, int]) -> list[Failure]:
    """Remove a path that this process made outside any session root.

    :param identity: Its device and inode, noted when it was made: what stands
        there now may be somebody else's.
    :returns: What is still there and why.
    :raises NotOurDirectoryError: When it is not the same any more.
    """
    parent, name = os.path.split(path)
    # The parent is what the user named, and may be a link (/tmp is, on macOS).
    try:
        fd = _open(parent, _PARENT_FLAGS) if _BY_DESCRIPTOR else None
    except FileNotFoundError:
        return []
    try:
        where = name if fd is not None else path
        status = _stat(where, dir_fd=fd, follow_symlinks=False)
        if _identity(status) != identity:
            raise NotOurDirectoryError(path, "it is not what was made there")
        return remove_tree(where, dir_fd=fd)
    except FileNotFoundError:
        return []
    finally:
        if fd is not None:
            _close(fd)


def children(path: str) -> list[str]:
    """Return the paths of what is in the directory *path*; nothing where it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries]
    except OSError:
        return []


def create(parent: str, *, mode: int, about: dict[str, object]) -> SessionRoot:
    """Make a session root in *parent*, lock it and leave the breadcrumb in it.

    The order (directory, lock, breadcrumb) is what lets a sweep tell a root that
    is being made from one that was abandoned.

    :param parent: An existing, writable directory.
    :param mode: Permission bits of the root.
    :param about: What the breadcrumb says of the session; advice, never proof.
    :raises WorkspaceCreationError: When the operating system refuses.
    """
    try:
        path = make_directory(os.path.abspath(parent), PREFIX, "")
    except OSError as error:
        raise WorkspaceCreationError(parent, error) from error
    try:
        return _furnish(path, mode, about)
    except BaseException as error:
        with contextlib.suppress(OSError):
            _rmdir(path)
        if isinstance(error, OSError):
            raise WorkspaceCreationError(parent, error) from error
        raise


def _furnish(path: str, mode: int, about: dict[str, object]) -> SessionRoot:
    """Lock the new directory *path* and leave the breadcrumb in it, or nothing at all.

    All is done in the directory itself: where others may rename what is ours (a
    shared directory that is not sticky), its path may lead elsewhere at any moment.
    """
    fd = _open(path, _DIRECTORY_FLAGS) if _BY_DESCRIPTOR else None
    here, lock_fd = path if fd is None else "", None
    try:
        if mode != 0o700:
            os.chmod(path if fd is None else fd, mode)
        lock_fd = lock.acquire(os.path.join(here, LOCK), fd)
        _write_breadcrumb(os.path.join(here, BREADCRUMB), about, fd)
        uid = _lstat(path).st_uid
        _prove(path, uid, None)
        return SessionRoot(path=path, uid=uid, pid=os.getpid(), lock_fd=lock_fd)
    except BaseException:
        for name in (BREADCRUMB, LOCK):
            if name == LOCK and lock_fd is not None:
                lock.release(lock_fd)
            with contextlib.suppress(OSError):
                _unlink(os.path.join(here, name), dir_fd=fd)
        raise
    finally:
        if fd is not None:
            _close(fd)


def attach(path: str) -> SessionRoot | None:
    """Return the session root that a controller made at *path*, if this process sees it.

    :returns: None when it is not here (another host or mount namespace) or not ours.
    """
    if not is_ours(path) or not os.access(path, os.W_OK | os.X_OK):
        return None
    try:
        fd = lock.join(os.path.join(path, LOCK))
    except OSError:
        return None
    if fd is None:
        return None
    return SessionRoot(path=path, uid=own_uid(path), pid=os.getpid(), lock_fd=fd, joined=True)


def bears_our_name(name: str) -> bool:
    """Whether a directory's name is one that a session root may have; it proves nothing."""
    return name.startswith(PREFIX) and len(name) == len(PREFIX) + _RANDOM_LENGTH


def is_ours(path: str) -> bool:
    """Whether *path* is a session root that this user made."""
    try:
        _prove(path, own_uid(path), None)
    except OSError:
        return False
    return True


def own_uid(path: str) -> int:
    """Return the uid that what this process makes belongs to.

    Where there are no uids (Windows), that of *path* itself: the access rights
    of the user's temp directory are the proof there.
    """
    if _geteuid is not None:
        return int(_geteuid())
    try:
        return _lstat(path).st_uid
    except OSError:
        return -1


def _prove(path: str, uid: int, fd: int | None) -> None:
    """Raise unless the directory has our breadcrumb and belongs to *uid*."""
    root = _lstat(path) if fd is None else _fstat(fd)
    if not stat.S_ISDIR(root.st_mode):
        raise NotOurDirectoryError(path, "it is not a directory")
    where = os.path.join(path, BREADCRUMB) if fd is None else BREADCRUMB
    try:
        crumb = _stat(where, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError as error:
        raise NotOurDirectoryError(path, f"it has no {BREADCRUMB}") from error
    if not stat.S_ISREG(crumb.st_mode):
        raise NotOurDirectoryError(path, f"its {BREADCRUMB} is not a regular file")
    if root.st_uid != uid or crumb.st_uid != uid:
        raise NotOurDirectoryError(path, "it belongs to another user")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _make_with_mode(path: str, mode: int) -> None:
    os.mkdir(path, 0o700)
    if mode == 0o700:
        return
    # The umask would have cut the bits off a mode given to mkdir.
    if not _BY_DESCRIPTOR:
        os.chmod(path, mode)
        return
    fd = _open(path, _DIRECTORY_FLAGS)
    try:
        os.chmod(fd, mode)
    finally:
        _close(fd)


def _open_again(path: str, mode: int, uid: int) -> bool:
    """Give our directory *path* its mode back if its owner may not use it; no link is followed."""
    try:
        status = _lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or _is_open(status):
            return False
        if sys.platform == "linux":
            fd = _open(path, os.O_PATH | _DIRECTORY_FLAGS)
            try:
                # Nothing else opens it now, and a second look-up of the name could be tricked.
                _chmod(f"/proc/self/fd/{fd}", mode)
            finally:
                _close(fd)
        elif _chmod in os.supports_follow_symlinks:
            _chmod(path, mode, follow_symlinks=False)
        return _is_open(_lstat(path))
    except OSError:
        return False


def _is_open(status: os.stat_result) -> bool:
    return status.st_mode & 0o700 == 0o700


def _write_breadcrumb(path: str, about: dict[str, object], dir_fd: int | None = None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    text = {"pid": os.getpid(), "platform": sys.platform, **about}
    with open(_open(path, flags, 0o600, dir_fd=dir_fd), "w", encoding="ascii") as file:
        json.dump(text, file)
