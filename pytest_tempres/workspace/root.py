"""The session root and its worker roots: creation, use and removal."""

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

# With six bytes we add 24 to the system temp path, so that AF_UNIX paths (104 bytes on macOS)
# still fit below a worker root.
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
    """Return the directory name of the worker *name*."""
    return safe_name(name, _WORKER_NAME_BYTES)


class WorkerRoot(NamedTuple):
    """The two directories of one worker."""

    name: str
    #: The temp location; only the code under test creates files here.
    path: str
    #: The directory for what fixtures create, so that only the code under test changes `path`.
    fixture_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRoot:
    """The directory of a test session, alive as long as one of the session's processes is."""

    path: str
    uid: int
    pid: int
    #: The descriptor that holds the lock.
    lock_fd: int
    #: Device and inode of the directory: its path may come to lead to another one.
    identity: tuple[int, int]
    #: Whether another process created it, and will remove it.
    joined: bool = False
    #: Device and inode of the worker roots that this process created in it.
    created: set[tuple[int, int]] = field(default_factory=set, compare=False, repr=False)

    @contextlib.contextmanager
    def opened(self) -> Iterator[int | None]:
        """Keep the directory open; yield its descriptor, or None without ``dir_fd`` support.

        :raises NotOurDirectoryError: When the path leads to another directory.
        :raises OSError: When the operating system refuses.
        """
        with open_directory(self.path) as fd:
            self._check_identity(fd)
            yield fd

    def inside(self, name: str, fd: int | None) -> str:
        """Return the path of *name* in this root, relative to *fd* from :meth:`opened`."""
        return name if fd is not None else System.join(self.path, name)

    def _check_identity(self, fd: int | None) -> None:
        status = System.lstat(self.path) if fd is None else System.fstat(fd)
        if status.st_uid != self.uid or identity_of(status) != self.identity:
            raise NotOurDirectoryError(self.path, "another directory has taken its place")

    def add_worker(self, name: str, mode: int) -> WorkerRoot:
        """Create the worker root *name* and the directory for what fixtures create.

        :param name: The worker's name; shortened and sanitized.
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
        """Restore the modes of this root and its worker roots after a test has changed them.

        :param mode: Permission bits of the worker roots.
        :returns: Whether a mode had to be restored, and was.
        """
        root_mode = mode & 0o711
        with suppress(OSError):
            if identity_of(System.lstat(self.path)) != self.identity:
                return False
        restored = restore_modes(self.path, root_mode, self.uid)
        for path in children(self.path):
            restored |= restore_modes(path, root_mode if path.endswith(".d") else mode, self.uid)
        return restored

    def remove(self, path: str, tick: Callable[[], object] | None = None) -> list[Failure]:
        """Remove *path*, which must be inside this root, without following a link.

        :param path: A file or directory; a missing one counts as removed.
        :param tick: As in `remove_tree`.
        :returns: The paths that could not be removed, with the errors.
        :raises NotOurDirectoryError: When the root is not proved to be ours.
        """
        inside = System.join(self.path, "")
        parts = path[len(inside) :].split(os.sep)
        if not path.startswith(inside) or not {"", os.curdir, os.pardir}.isdisjoint(parts):
            raise NotOurDirectoryError(path, f"it is not inside {self.path}")
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
            self._prove(fd)
            for part in parts[:-1]:
                inner = self._open_below(part, fd)
                System.close(fd)
                fd = inner
            return remove_tree(parts[-1], dir_fd=fd, tick=tick)
        finally:
            System.close(fd)

    @contextlib.contextmanager
    def proved(self) -> Iterator[int | None]:
        """Keep the directory open as :meth:`opened` does, and check the breadcrumb too."""
        with open_directory(self.path) as fd:
            self._prove(fd)
            yield fd

    def _prove(self, fd: int | None) -> None:
        self._check_identity(fd)
        prove(self.path, self.uid, fd)

    def _open_below(self, name: str, fd: int) -> int:
        """Open a parent of the path to remove; refuse a link and a mount point."""
        inner = System.open(name, System.to_hold, dir_fd=fd)
        # This runs for each test's directory, and the check for mounts costs as much as the rest.
        if identity_of(System.fstat(inner)) in self.created or mount_of(inner) == mount_of(fd):
            return inner
        System.close(inner)
        raise OSError(errno.EXDEV, "another file system is mounted on the way")

    def restore(self, worker: WorkerRoot, mode: int, metadata: dict[str, object]) -> SessionRoot:
        """Recreate the parts of this root that a test has removed.

        :param metadata: As in :func:`create`.
        :returns: The root as it is now; it may hold another lock.
        :raises OSError: When the operating system refuses.
        """
        System.makedirs(System.dirname(self.path), exist_ok=True)
        with suppress(FileExistsError):
            make_with_mode(self.path, mode & 0o711)
        # The name is no secret any more: in a shared directory another user may have taken it.
        with open_directory(self.path) as fd:
            root = self._with_current_identity(fd, new=True)
            lock_fd = self._restore_markers(fd, metadata)
            for name, bits in ((worker.name, mode), (f"{worker.name}.d", mode & 0o711)):
                if not _is_directory(self.inside(name, fd), fd):
                    self._make(name, bits, fd)
        return replace(root, lock_fd=lock_fd)

    def _restore_markers(self, fd: int | None, metadata: dict[str, object]) -> int:
        crumb, lock_file = (self.inside(name, fd) for name in (BREADCRUMB, LOCK))
        proved = BREADCRUMB in System.listdir(self.path if fd is None else fd)
        lock_fd = lock.renew(self.lock_fd, lock_file, fd, proved=proved)
        # Another process of the session may be doing the same.
        with suppress(FileExistsError):
            write_breadcrumb(crumb, {**metadata, "root": System.basename(self.path)}, fd)
        return lock_fd

    def hold(self) -> SessionRoot:
        """Return this root with its lock held; another process may have recreated both."""
        with suppress(OSError), open_directory(self.path) as fd:
            root = self._with_current_identity(fd)
            lock_fd = lock.hold(self.lock_fd, self.inside(LOCK, fd), fd)
            return root if lock_fd is self.lock_fd else replace(root, lock_fd=lock_fd)
        return self

    def _with_current_identity(self, fd: int | None, *, new: bool = False) -> SessionRoot:
        """Return this root with the identity that its directory has now.

        :param new: Whether the directory may still be without its breadcrumb.
        :raises NotOurDirectoryError: When no process of the session recreated the directory.
        """
        status = System.lstat(self.path) if fd is None else System.fstat(fd)
        identity = identity_of(status)
        if status.st_uid != self.uid or not (
            identity == self.identity or self._was_recreated(fd, new=new)
        ):
            raise NotOurDirectoryError(self.path, "another directory has taken its place")
        return self if identity == self.identity else replace(self, identity=identity)

    def _was_recreated(self, fd: int | None, *, new: bool) -> bool:
        names = System.listdir(self.path if fd is None else fd)
        if new and all(name == BREADCRUMB or name.startswith(LOCK) for name in names):
            return True
        metadata, _ = read_record(self.inside(BREADCRUMB, fd), fd, self.uid)
        return metadata.get("root") == System.basename(self.path)

    def remove_if_empty(self) -> bool:
        """Remove empty worker roots, and the root if nothing else is left in it.

        :returns: Whether the root is gone. The lock is released in either case, so that a later
            session sweeps what is left.
        """
        if self.pid != System.getpid() or self.joined:
            return False
        with suppress(OSError):
            self._remove_empty()
        self.release()
        return not System.lexists(self.path)

    def release(self) -> None:
        """Release the lock: for this process the session is over."""
        lock.release(self.lock_fd)

    def _remove_empty(self) -> None:
        with self.proved() as fd:
            self._remove_contents(fd)
        System.rmdir(self.path)

    def _remove_contents(self, fd: int | None) -> None:
        here = self.path if fd is None else ""
        failure = None
        for name in System.listdir(self.path if fd is None else fd):
            if name not in (BREADCRUMB, LOCK, JOURNAL):
                try:
                    System.rmdir(System.join(here, name), dir_fd=fd)
                except OSError as error:
                    failure = error
        if failure is not None:
            raise failure
        # A recreated root may have no lock file.
        _remove_markers(here, fd, self.lock_fd, despite=FileNotFoundError)


def _is_directory(path: str, dir_fd: int | None) -> bool:
    try:
        status = System.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode)


def remove_created(path: str, identity: tuple[int, int]) -> list[Failure]:
    """Remove a path that this process created outside any session root.

    :param identity: Its device and inode, recorded when it was created: another process may have
        replaced it since.
    :returns: The paths that could not be removed, with the errors.
    :raises NotOurDirectoryError: When the path leads to another file or directory now.
    """
    parent, name = System.split(path)
    # The parent was chosen by the user, and may be a link (/tmp is, on macOS).
    try:
        with open_directory(parent, System.to_reach) as fd:
            where = name if fd is not None else path
            status = System.stat(where, dir_fd=fd, follow_symlinks=False)
            if identity_of(status) != identity:
                raise NotOurDirectoryError(path, "it has been replaced since it was created")
            return remove_tree(where, dir_fd=fd, identity=identity)
    except FileNotFoundError:
        return []


def identity_of_new(path: str) -> tuple[int, int]:
    """Return device and inode of the empty directory that was just created at *path*.

    :returns: An identity that no directory has, when it is unknown: in a shared directory another
        user may have replaced the new directory, and that one must not be removed.
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
    """Return the paths of the entries of the directory *path*; none if it cannot be read."""
    try:
        with System.scandir(path) as entries:
            return [entry.path for entry in entries]
    except OSError:
        return []


def create(parent: str, *, mode: int, metadata: dict[str, object]) -> SessionRoot:
    """Create a session root in *parent*, lock it and write its breadcrumb.

    The order (directory, lock, breadcrumb) allows a sweep to tell a root that is being created
    from one that was abandoned.

    :param parent: An existing, writable directory.
    :param mode: Permission bits of the root.
    :param metadata: The content of the breadcrumb; information on the session, never proof.
    :raises WorkspaceCreationError: When the operating system refuses.
    """
    try:
        path = make_directory(System.abspath(parent), PREFIX, "")
    except OSError as error:
        raise WorkspaceCreationError(parent, error) from error
    try:
        return _initialize(path, mode, metadata)
    except BaseException as error:
        with suppress(OSError):
            System.rmdir(path)
        if isinstance(error, OSError):
            raise WorkspaceCreationError(parent, error) from error
        raise


def _initialize(path: str, mode: int, metadata: dict[str, object]) -> SessionRoot:
    """Lock the new directory *path* and write its breadcrumb; leave it empty on an error.

    All changes go through the descriptor: where other users may rename our directory (a shared
    directory without the sticky bit), its path may lead elsewhere at any moment.
    """
    with open_directory(path) as fd:
        here, lock_fd = path if fd is None else "", None
        identity = _identity_of_new(path, fd)
        try:
            System.chmod(path if fd is None else fd, mode)
            lock_fd = lock.acquire(System.join(here, LOCK), fd)
            metadata = {**metadata, "root": System.basename(path)}
            write_breadcrumb(System.join(here, BREADCRUMB), metadata, fd)
            root = SessionRoot(
                path=path,
                uid=own_uid(path),
                pid=System.getpid(),
                lock_fd=lock_fd,
                identity=identity,
            )
            # The path must still lead to this directory.
            with root.proved():
                return root
        except BaseException:
            _remove_markers(here, fd, lock_fd, despite=OSError)
            raise


def _remove_markers(here: str, fd: int | None, lock_fd: int | None, despite: type[OSError]) -> None:
    """Remove the files that make a directory a session root."""
    # The paths in the journal are gone.
    with suppress(FileNotFoundError):
        System.unlink(System.join(here, JOURNAL), dir_fd=fd)
    # The breadcrumb is removed before the lock file: a sweep recognises a directory with nothing
    # but an unlocked lock file as unfinished.
    for name in (BREADCRUMB, LOCK):
        # Windows cannot remove an open file, and NFS only renames it.
        if name == LOCK and lock_fd is not None:
            lock.release(lock_fd)
        with suppress(despite):
            System.unlink(System.join(here, name), dir_fd=fd)


def attach(path: str) -> SessionRoot | None:
    """Return the session root that a controller created at *path*, with its lock shared.

    :returns: None when this process cannot access it (another host or mount namespace), when it
        is not ours, or when its session is dead.
    """
    if not System.access(path, os.W_OK | os.X_OK):
        return None
    with suppress(OSError), open_directory(path) as fd:
        return _root_at(path, fd, _join_if_alive, joined=True)
    return None


def _join_if_alive(path: str, dir_fd: int | None) -> int | None:
    return None if lock.is_free(path, dir_fd) else lock.join(path, dir_fd)


def take(path: str) -> SessionRoot | None:
    """Return the session root *path*, locked exclusively, if its session is dead.

    :returns: None when the session is alive or that is unknown, or when the root is not ours.
    """
    with suppress(OSError), open_directory(path) as fd:
        return _root_at(path, fd, lock.take, joined=False)
    return None


def _root_at(
    path: str,
    fd: int | None,
    acquire_lock: Callable[[str, int | None], int | None],
    *,
    joined: bool,
) -> SessionRoot | None:
    uid = own_uid(path)
    prove(path, uid, fd)
    status = System.lstat(path) if fd is None else System.fstat(fd)
    lock_fd = acquire_lock(System.join("" if fd is not None else path, LOCK), fd)
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
