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
from pytest_tempres.primitives._rmtree import remove_tree
from pytest_tempres.primitives._system import System
from pytest_tempres.primitives._system import mount_of
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.dirfd import Directory
from pytest_tempres.workspace.dirfd import children
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import JOURNAL
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.proof import PREFIX
from pytest_tempres.workspace.proof import check_new
from pytest_tempres.workspace.proof import identity_of
from pytest_tempres.workspace.proof import make_directory_with_mode
from pytest_tempres.workspace.proof import own_uid
from pytest_tempres.workspace.proof import prove
from pytest_tempres.workspace.proof import read_record
from pytest_tempres.workspace.proof import restore_modes
from pytest_tempres.workspace.proof import write_breadcrumb

__all__ = [
    "SessionRoot",
    "WorkerRoot",
    "attach",
    "create",
    "safe_name",
    "take",
    "worker_directory",
]

# A worker root adds at most 24 bytes to the temp path, because AF_UNIX paths are limited (to 104
# bytes on macOS).
_WORKER_NAME_BYTES: Final = 6


def safe_name(text: str, limit: int) -> str:
    """Return *text* as a file name that is safe on every platform, of at most *limit* bytes.

    :returns: ASCII letters, digits, ``_``, ``.`` and ``-`` only; never empty, no leading dot.
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[:limit].lstrip(".") or "_"


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
    #: The descriptor that holds the lock.
    lock_fd: int
    #: Device and inode of the directory, since another one may replace it.
    identity: tuple[int, int]
    #: Whether another process created it, and will remove it.
    joined: bool = False
    pid: int = field(default_factory=System.getpid)
    #: Device and inode of the worker roots that this process created in it.
    created: set[tuple[int, int]] = field(default_factory=set, compare=False, repr=False)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Directory]:
        """Keep the directory open for a block.

        :raises NotOurDirectoryError: When the path leads to another directory.
        :raises OSError: When the operating system refuses.
        """
        with Directory.at(self.path) as directory:
            self._check_identity(directory.status())
            yield directory

    @contextlib.contextmanager
    def proved(self) -> Iterator[Directory]:
        """Keep the directory open as :meth:`opened` does, and check the breadcrumb too."""
        with Directory.at(self.path) as directory:
            self._prove(directory)
            yield directory

    def _prove(self, directory: Directory) -> None:
        self._check_identity(prove(directory, self.uid))

    def _check_identity(self, status: os.stat_result) -> None:
        if status.st_uid != self.uid or identity_of(status) != self.identity:
            raise NotOurDirectoryError(self.path, "another directory has taken its place")

    def add_worker(self, name: str, mode: int) -> WorkerRoot:
        """Create the directories of the worker *name*, whose name is shortened and sanitized.

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
        with self.opened() as directory:
            self._make(name, mode, directory)
            self._make(f"{name}.d", mode & 0o711, directory)
        path = System.join(self.path, name)
        return WorkerRoot(name, path, f"{path}.d")

    def _make(self, name: str, mode: int, directory: Directory) -> None:
        make_directory_with_mode(directory.path_of(name), mode, directory.fd)
        self.created.add(identity_of(directory.lstat(name)))

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
        """Remove *path*, which must be inside this root and may be missing; follow no link.

        :param tick: As in `remove_tree`.
        :returns: The paths that could not be removed, with the errors.
        :raises NotOurDirectoryError: When the root is not proved to be ours.
        """
        inside = System.join(self.path, "")
        parts = path[len(inside) :].split(os.sep)
        if not path.startswith(inside) or not {"", os.curdir, os.pardir}.isdisjoint(parts):
            raise NotOurDirectoryError(path, f"it is not inside {self.path}")
        try:
            with Directory.at(self.path) as directory:
                self._prove(directory)
                if directory.fd is None:
                    return remove_tree(path, tick=tick)
                for part in parts[:-1]:
                    inner = self._open_below(part, directory.fd)
                    System.close(directory.fd)
                    directory.fd = inner
                return remove_tree(parts[-1], dir_fd=directory.fd, tick=tick)
        except FileNotFoundError:
            return []
        except NotOurDirectoryError:
            raise
        except OSError as error:
            return [Failure(path, error)]

    def _open_below(self, name: str, fd: int) -> int:
        """Open a parent of the path to remove; refuse a link and a mount point."""
        inner = System.open(name, System.nofollow_directory_flags, dir_fd=fd)
        # This runs for each test's directory, and the check for mounts costs as much as the rest.
        if identity_of(System.fstat(inner)) in self.created or mount_of(inner) == mount_of(fd):
            return inner
        System.close(inner)
        raise OSError(errno.EXDEV, "another file system is mounted on a parent directory")

    def restore(self, worker: WorkerRoot, mode: int, metadata: dict[str, object]) -> SessionRoot:
        """Recreate the parts of this root that a test has removed.

        :param metadata: As in :func:`create`.
        :returns: The root as it is now; it may hold another lock.
        :raises OSError: When the operating system refuses.
        """
        System.makedirs(System.dirname(self.path), exist_ok=True)
        with suppress(FileExistsError):
            make_directory_with_mode(self.path, mode & 0o711)
        # The name is no longer secret: in a shared directory another user may have used it.
        with Directory.at(self.path) as directory:
            root = self._with_current_identity(directory, may_be_new=True)
            proved = BREADCRUMB in directory.names()
            lock_fd = lock.renew(self.lock_fd, directory.path_of(LOCK), directory.fd, proved=proved)
            # Another process of the session may be doing the same.
            with suppress(FileExistsError):
                write_breadcrumb(directory, metadata)
            for name, bits in ((worker.name, mode), (f"{worker.name}.d", mode & 0o711)):
                try:
                    self._make(name, bits, directory)
                except FileExistsError:
                    if not stat.S_ISDIR(directory.lstat(name).st_mode):
                        raise
        return replace(root, lock_fd=lock_fd)

    def hold(self) -> SessionRoot:
        """Return this root with its lock held; another process may have recreated both."""
        with suppress(OSError), Directory.at(self.path) as directory:
            root = self._with_current_identity(directory)
            lock_fd = lock.hold(self.lock_fd, directory.path_of(LOCK), directory.fd)
            return root if lock_fd is self.lock_fd else replace(root, lock_fd=lock_fd)
        return self

    def _with_current_identity(
        self, directory: Directory, *, may_be_new: bool = False
    ) -> SessionRoot:
        """Return this root with the identity of *directory*, if our session recreated it.

        :param may_be_new: Whether it may have no breadcrumb yet.
        :raises NotOurDirectoryError: When no process of the session recreated it.
        """
        status = directory.status()
        if identity_of(status) == self.identity and status.st_uid == self.uid:
            return self
        metadata, _ = read_record(directory, BREADCRUMB, self.uid)
        named = metadata.get("root") == System.basename(self.path)
        if not named and may_be_new:
            named = all(n == BREADCRUMB or n.startswith(LOCK) for n in directory.names())
        if status.st_uid != self.uid or not named:
            raise NotOurDirectoryError(self.path, "another directory has taken its place")
        return replace(self, identity=identity_of(status))

    def remove_if_empty(self) -> bool:
        """Remove empty worker roots, and the root if it is empty then; return whether it is gone.

        The lock is released in either case, so that a later session sweeps what is left.
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
        with self.proved() as directory:
            failure = None
            for name in directory.names():
                if name not in (BREADCRUMB, LOCK, JOURNAL):
                    try:
                        directory.rmdir(name)
                    except OSError as error:
                        failure = error
            if failure is not None:
                raise failure
            # A recreated root may have no lock file.
            _remove_markers(directory, self.lock_fd, despite=FileNotFoundError)
        System.rmdir(self.path)


def create(parent: str, *, mode: int, metadata: dict[str, object]) -> SessionRoot:
    """Create a session root in the existing directory *parent*, lock it, write its breadcrumb.

    This order lets a sweep distinguish a root that is being created from an abandoned one.

    :param mode: Permission bits of the root.
    :param metadata: The content of the breadcrumb: information on the session, never proof.
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
    with Directory.at(path) as directory:
        identity = check_new(directory)
        lock_fd = None
        try:
            directory.chmod(mode)
            lock_fd = lock.acquire(directory.path_of(LOCK), directory.fd)
            write_breadcrumb(directory, metadata)
            root = SessionRoot(path=path, uid=own_uid(path), lock_fd=lock_fd, identity=identity)
            # The path must still lead to this directory.
            with root.proved():
                return root
        except BaseException:
            _remove_markers(directory, lock_fd, despite=OSError)
            raise


def _remove_markers(directory: Directory, lock_fd: int | None, despite: type[OSError]) -> None:
    """Remove the files that make a directory a session root."""
    # The paths in the journal have been removed.
    with suppress(FileNotFoundError):
        directory.unlink(JOURNAL)
    # The breadcrumb is removed before the lock file: a sweep recognises a directory with nothing
    # but an unlocked lock file as unfinished.
    with suppress(despite):
        directory.unlink(BREADCRUMB)
    # Windows cannot remove an open file, and NFS only renames it.
    if lock_fd is not None:
        lock.release(lock_fd)
    with suppress(despite):
        directory.unlink(LOCK)


def attach(path: str) -> SessionRoot | None:
    """Return the session root that a controller created at *path*, holding its shared lock.

    :returns: None when it cannot be accessed here (another host or mount namespace), is not ours,
        or its session is dead.
    """
    if not System.access(path, os.W_OK | os.X_OK):
        return None
    return _existing(path, _join_if_alive, joined=True)


def _join_if_alive(path: str, dir_fd: int | None) -> int | None:
    return None if lock.is_free(path, dir_fd) else lock.join(path, dir_fd)


def take(path: str) -> SessionRoot | None:
    """Return the session root *path*, locked exclusively, if its session is dead.

    :returns: None when the session is alive or that is unknown, or when the root is not ours.
    """
    return _existing(path, lock.take, joined=False)


def _existing(
    path: str, acquire_lock: Callable[[str, int | None], int | None], *, joined: bool
) -> SessionRoot | None:
    with suppress(OSError), Directory.at(path) as directory:
        uid = own_uid(path)
        identity = identity_of(prove(directory, uid))
        lock_fd = acquire_lock(directory.path_of(LOCK), directory.fd)
        if lock_fd is not None:
            return SessionRoot(
                path=path, uid=uid, lock_fd=lock_fd, identity=identity, joined=joined
            )
    return None
