"""How are a session root and its worker roots made, used and removed?"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
import errno
import os
import re
import stat
from typing import Final
from typing import NamedTuple

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.exceptions import WorkspaceCreationError
from pytest_tempres.primitives._create import make_directory
from pytest_tempres.primitives._location import random_name
from pytest_tempres.primitives._rmtree import Failure
from pytest_tempres.primitives._rmtree import mount_of
from pytest_tempres.primitives._rmtree import remove_tree
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.dirfd import open_directory
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import JOURNAL
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.proof import PREFIX
from pytest_tempres.workspace.proof import identity_of
from pytest_tempres.workspace.proof import make_with_mode
from pytest_tempres.workspace.proof import own_uid
from pytest_tempres.workspace.proof import prove
from pytest_tempres.workspace.proof import read_record
from pytest_tempres.workspace.proof import restore_modes
from pytest_tempres.workspace.proof import write_breadcrumb

__all__ = [
    "SessionRoot",
    "WorkerRoot",
    "attach",
    "children",
    "create",
    "identity_of_new",
    "remove_created",
    "safe_name",
    "worker_directory",
]

# Six bytes keep what we add to the system temp path at 24, so that AF_UNIX
# paths (104 bytes on macOS) still fit below a worker root.
_WORKER_NAME_BYTES: Final = 6
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
    fixture_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRoot:
    """The one directory of a test session, alive as long as one of its processes is."""

    path: str
    uid: int
    pid: int
    #: Holds the lock.
    lock_fd: int
    #: Device and inode of the directory: its path may come to lead to another one.
    identity: tuple[int, int]
    #: Whether another process made it, which will remove it too.
    joined: bool = False
    #: Device and inode of the worker roots that this process made in it.
    created: set[tuple[int, int]] = field(default_factory=set, compare=False, repr=False)

    @contextlib.contextmanager
    def opened(self) -> Iterator[int | None]:
        """Hold the directory open; give None where names are not looked up in descriptors.

        :raises NotOurDirectoryError: When another one stands in its place.
        :raises OSError: When the operating system refuses.
        """
        with open_directory(self.path) as fd:
            self._compare(fd)
            yield fd

    def inside(self, name: str, fd: int | None) -> str:
        """Return how *name* in this root is called where *fd* came from :meth:`opened`."""
        return name if fd is not None else System.join(self.path, name)

    def _compare(self, fd: int | None) -> None:
        status = System.lstat(self.path) if fd is None else System.fstat(fd)
        if status.st_uid != self.uid or identity_of(status) != self.identity:
            raise NotOurDirectoryError(self.path, "another directory has taken its place")

    def add_worker(self, name: str, mode: int) -> WorkerRoot:
        """Make the worker root *name* and the directory for what fixtures give.

        :param name: The worker's name; cut and cleaned to fit the path budget.
        :param mode: Permission bits of the worker root.
        :raises WorkspaceCreationError: When the operating system refuses.
        """
        short = worker_directory(name)
        try:
            with suppress(FileExistsError):
                return self._make_worker(short, mode)
            return self._make_worker(random_name()[:_WORKER_NAME_BYTES], mode)
        except OSError as error:
            raise WorkspaceCreationError(self.path, error) from error

    def _make_worker(self, name: str, mode: int) -> WorkerRoot:
        with self.opened() as fd:
            self._make(name, mode, fd)
            self._make(f"{name}.d", mode & 0o711, fd)
        path = System.join(self.path, name)
        return WorkerRoot(name, path, f"{path}.d")

    def _make(self, name: str, mode: int, fd: int | None) -> None:
        where = self.inside(name, fd)
        make_with_mode(where, mode, fd)
        self.created.add(identity_of(System.stat(where, dir_fd=fd, follow_symlinks=False)))

    def restore_modes(self, mode: int) -> bool:
        """Give back to this root and its worker roots the modes that a test has taken away.

        :param mode: Permission bits of the worker roots.
        :returns: Whether there was something to give back, and that was possible.
        """
        given = mode & 0o711
        with suppress(OSError):
            if identity_of(System.lstat(self.path)) != self.identity:
                return False
        found = restore_modes(self.path, given, self.uid)
        for path in children(self.path):
            found |= restore_modes(path, given if path.endswith(".d") else mode, self.uid)
        return found

    def remove(self, path: str, tick: Callable[[], object] | None = None) -> list[Failure]:
        """Remove *path*, which must lie inside this root, without following a link.

        :param path: A file or directory; one that is gone already counts as removed.
        :param tick: As `remove_tree` takes it.
        :returns: What is still there and why.
        :raises NotOurDirectoryError: When nothing proves that the root is ours.
        """
        inside = System.join(self.path, "")
        parts = path[len(inside) :].split(os.sep)
        if not path.startswith(inside) or not {"", os.curdir, os.pardir}.isdisjoint(parts):
            raise NotOurDirectoryError(path, f"it does not lie inside {self.path}")
        try:
            if System.by_descriptor:
                return self._remove_relative(parts, tick)
            with self.proved():
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
        fd = System.open(self.path, System.to_hold)
        try:
            self._compare(fd)
            prove(self.path, self.uid, fd)
            for part in parts[:-1]:
                inner = self._open_below(part, fd)
                System.close(fd)
                fd = inner
            return remove_tree(parts[-1], dir_fd=fd, tick=tick)
        finally:
            System.close(fd)

    @contextlib.contextmanager
    def proved(self) -> Iterator[int | None]:
        """Hold the directory open as :meth:`opened` does, where its breadcrumb says it is ours."""
        with self.opened() as fd:
            prove(self.path, self.uid, fd)
            yield fd

    def _open_below(self, name: str, fd: int) -> int:
        """Open a directory on the way to what is to be removed: neither a link nor a mount."""
        inner = System.open(name, System.to_hold, dir_fd=fd)
        # Each test's directory comes this way, and to ask for mounts costs as much as all the rest.
        if identity_of(System.fstat(inner)) in self.created or mount_of(inner) == mount_of(fd):
            return inner
        System.close(inner)
        raise OSError(errno.EXDEV, "another file system is mounted on the way")

    def restore(self, worker: WorkerRoot, mode: int, about: dict[str, object]) -> SessionRoot:
        """Make again what a test has removed of this root.

        :param about: As :func:`create` takes it.
        :returns: The root as it is now; it may hold another lock.
        :raises OSError: When the operating system refuses.
        """
        System.makedirs(System.dirname(self.path), exist_ok=True)
        with suppress(FileExistsError):
            make_with_mode(self.path, mode & 0o711)
        # The name is known by now: in a shared directory anything may have come to stand there.
        with open_directory(self.path) as fd:
            root = self._recognise(fd, new=True)
            lock_fd = self._mark_again(fd, about)
            for name, bits in ((worker.name, mode), (f"{worker.name}.d", mode & 0o711)):
                if not _is_directory(self.inside(name, fd), fd):
                    self._make(name, bits, fd)
        return replace(root, lock_fd=lock_fd)

    def _mark_again(self, fd: int | None, about: dict[str, object]) -> int:
        crumb, lock_file = (self.inside(name, fd) for name in (BREADCRUMB, LOCK))
        proved = BREADCRUMB in System.listdir(self.path if fd is None else fd)
        lock_fd = lock.renew(self.lock_fd, lock_file, fd, proved=proved)
        # Another member may be doing the same.
        with suppress(FileExistsError):
            write_breadcrumb(crumb, {**about, "root": System.basename(self.path)}, fd)
        return lock_fd

    def hold(self) -> SessionRoot:
        """Return this root, held by its lock, where another member may have made both again."""
        with suppress(OSError), open_directory(self.path) as fd:
            root = self._recognise(fd)
            lock_fd = lock.hold(self.lock_fd, self.inside(LOCK, fd), fd)
            return root if lock_fd is self.lock_fd else replace(root, lock_fd=lock_fd)
        return self

    def _recognise(self, fd: int | None, *, new: bool = False) -> SessionRoot:
        """Return this root with the identity that it has now.

        :param new: Whether it may be one that has nothing in it yet.
        :raises NotOurDirectoryError: When it is not one that a member of the session made again.
        """
        status = System.lstat(self.path) if fd is None else System.fstat(fd)
        identity = identity_of(status)
        if status.st_uid != self.uid or not (
            identity == self.identity or self._was_made_again(fd, new=new)
        ):
            raise NotOurDirectoryError(self.path, "another directory has taken its place")
        return self if identity == self.identity else replace(self, identity=identity)

    def _was_made_again(self, fd: int | None, *, new: bool) -> bool:
        names = System.listdir(self.path if fd is None else fd)
        if new and all(name == BREADCRUMB or name.startswith(LOCK) for name in names):
            return True
        about, _ = read_record(self.inside(BREADCRUMB, fd), fd, self.uid)
        return about.get("root") == System.basename(self.path)

    def remove_if_empty(self) -> bool:
        """Remove empty worker roots, and the root if nothing else is left in it.

        :returns: Whether the root is gone. When it is not, the lock is given up, so
            that a later session sweeps it.
        """
        if self.pid != System.getpid() or self.joined:
            return False
        with suppress(OSError):
            self._remove_empty()
        self.release()
        return not System.lexists(self.path)

    def release(self) -> None:
        """Give up the lock: as far as this process goes, the session is over."""
        lock.release(self.lock_fd)

    def _remove_empty(self) -> None:
        with self.proved() as fd:
            self._remove_what_is_ours(fd)
        System.rmdir(self.path)

    def _remove_what_is_ours(self, fd: int | None) -> None:
        here = self.path if fd is None else ""
        problem = None
        for name in System.listdir(self.path if fd is None else fd):
            if name not in (BREADCRUMB, LOCK, JOURNAL):
                try:
                    System.rmdir(System.join(here, name), dir_fd=fd)
                except OSError as error:
                    problem = error
        if problem is not None:
            raise problem
        # A root that was made again has no lock.
        _unmark(here, fd, self.lock_fd, despite=FileNotFoundError)


def _is_directory(path: str, dir_fd: int | None) -> bool:
    try:
        status = System.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode)


def remove_created(path: str, identity: tuple[int, int]) -> list[Failure]:
    """Remove a path that this process made outside any session root.

    :param identity: Its device and inode, noted when it was made: what stands
        there now may be somebody else's.
    :returns: What is still there and why.
    :raises NotOurDirectoryError: When it is not the same any more.
    """
    parent, name = System.split(path)
    # The parent is what the user named, and may be a link (/tmp is, on macOS).
    try:
        with open_directory(parent, System.to_reach) as fd:
            where = name if fd is not None else path
            status = System.stat(where, dir_fd=fd, follow_symlinks=False)
            if identity_of(status) != identity:
                raise NotOurDirectoryError(path, "it is not what was made there")
            return remove_tree(where, dir_fd=fd, identity=identity)
    except FileNotFoundError:
        return []


def identity_of_new(path: str) -> tuple[int, int]:
    """Return device and inode of the empty directory that was made at *path* a moment ago.

    :returns: What no directory has, where that cannot be told: in a shared directory somebody may
        have put another one there in the meantime, which is not removed then.
    """
    with suppress(OSError), open_directory(path) as fd:
        return _identity_of_new(path, fd)
    return (-1, -1)


def _identity_of_new(path: str, fd: int | None) -> tuple[int, int]:
    where = path if fd is None else fd
    status = System.stat(where)
    if status.st_uid != own_uid(path) or System.listdir(where):
        raise NotOurDirectoryError(path, "another directory has taken its place")
    return identity_of(status)


def children(path: str) -> list[str]:
    """Return the paths of what is in the directory *path*; nothing where it cannot be read."""
    try:
        with System.scandir(path) as entries:
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
        path = make_directory(System.abspath(parent), PREFIX, "")
    except OSError as error:
        raise WorkspaceCreationError(parent, error) from error
    try:
        return _furnish(path, mode, about)
    except BaseException as error:
        with suppress(OSError):
            System.rmdir(path)
        if isinstance(error, OSError):
            raise WorkspaceCreationError(parent, error) from error
        raise


def _furnish(path: str, mode: int, about: dict[str, object]) -> SessionRoot:
    """Lock the new directory *path* and leave the breadcrumb in it, or nothing at all.

    All is done in the directory itself: where others may rename what is ours (a
    shared directory that is not sticky), its path may lead elsewhere at any moment.
    """
    with open_directory(path) as fd:
        here, lock_fd = path if fd is None else "", None
        identity = _identity_of_new(path, fd)
        try:
            System.chmod(path if fd is None else fd, mode)
            lock_fd = lock.acquire(System.join(here, LOCK), fd)
            about = {**about, "root": System.basename(path)}
            write_breadcrumb(System.join(here, BREADCRUMB), about, fd)
            root = SessionRoot(
                path=path,
                uid=own_uid(path),
                pid=System.getpid(),
                lock_fd=lock_fd,
                identity=identity,
            )
            # The path must lead there still.
            with root.proved():
                return root
        except BaseException:
            _unmark(here, fd, lock_fd, despite=OSError)
            raise


def _unmark(here: str, fd: int | None, lock_fd: int | None, despite: type[OSError]) -> None:
    """Remove from a directory what makes it a session root."""
    # What it names is gone.
    with suppress(FileNotFoundError):
        System.unlink(System.join(here, JOURNAL), dir_fd=fd)
    # The breadcrumb goes before the lock: a directory that holds nothing but
    # an unlocked lock can be recognised as the remains of a creation.
    for name in (BREADCRUMB, LOCK):
        # Windows removes no file that is open, and NFS keeps one under another name.
        if name == LOCK and lock_fd is not None:
            lock.release(lock_fd)
        with suppress(despite):
            System.unlink(System.join(here, name), dir_fd=fd)


def attach(path: str) -> SessionRoot | None:
    """Return the session root that a controller made at *path*, if this process sees it.

    :returns: None when it is not here (another host or mount namespace), not ours, or dead.
    """
    if not System.access(path, os.W_OK | os.X_OK):
        return None
    with suppress(OSError), open_directory(path) as fd:
        return _root_at(path, fd, _join_living, joined=True)
    return None


def _join_living(path: str, dir_fd: int | None) -> int | None:
    return None if lock.is_free(path, dir_fd) else lock.join(path, dir_fd)


def take(path: str) -> SessionRoot | None:
    """Return the session root *path*, locked for this process alone, if its session is dead.

    :returns: None too when it is not ours, or nobody can tell whether it is dead.
    """
    with suppress(OSError), open_directory(path) as fd:
        return _root_at(path, fd, lock.take, joined=False)
    return None


def _root_at(
    path: str,
    fd: int | None,
    locked: Callable[[str, int | None], int | None],
    *,
    joined: bool,
) -> SessionRoot | None:
    uid = own_uid(path)
    prove(path, uid, fd)
    status = System.lstat(path) if fd is None else System.fstat(fd)
    lock_fd = locked(System.join("" if fd is not None else path, LOCK), fd)
    if lock_fd is None:
        return None
    return SessionRoot(
        path=path,
        uid=uid,
        pid=System.getpid(),
        lock_fd=lock_fd,
        identity=identity_of(status),
        joined=joined,
    )
