"""The proof that a session root is ours: its breadcrumb file and the owner of both.

The name of a directory alone proves nothing.
"""

from __future__ import annotations

from contextlib import suppress
from json import dumps
from json import loads
import os
import stat
import sys
from typing import Final

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.primitives._location import is_random_name
from pytest_tempres.primitives._rmtree import Failure
from pytest_tempres.primitives._rmtree import remove_tree
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace.dirfd import Directory

__all__ = [
    "BREADCRUMB",
    "INDEX",
    "JOURNAL",
    "LOCK",
    "PREFIX",
    "check_new",
    "has_root_name",
    "identity_of",
    "identity_of_new",
    "is_own",
    "make_directory_with_mode",
    "own_uid",
    "prove",
    "read_record",
    "remove_created",
    "restore_modes",
    "write_breadcrumb",
]

PREFIX: Final = "tempres-"
BREADCRUMB: Final = ".tempres.json"
LOCK: Final = ".lock"
INDEX: Final = "index.json"
JOURNAL: Final = ".kept.jsonl"


def has_root_name(name: str) -> bool:
    """Whether *name* has the form of a session root's name, which proves nothing."""
    return name.startswith(PREFIX) and is_random_name(name[len(PREFIX) :])


def own_uid(path: str) -> int:
    """Return the owner of the files that this process creates.

    Where there are no uids (Windows), return the owner of *path* itself: the access rights of the
    user's temp directory are the proof there.
    """
    if System.geteuid is not None:
        return System.geteuid()
    try:
        return System.lstat(path).st_uid
    except OSError:
        return -1


def prove(directory: Directory, uid: int) -> os.stat_result:
    """Return the status of *directory* if it has our breadcrumb and both belong to *uid*.

    :raises NotOurDirectoryError: With the reason.
    :raises OSError: When the operating system refuses.
    """
    try:
        breadcrumb = directory.lstat(BREADCRUMB)
    except FileNotFoundError as error:
        raise NotOurDirectoryError(directory.path, f"it has no {BREADCRUMB}") from error
    if not stat.S_ISREG(breadcrumb.st_mode):
        raise NotOurDirectoryError(directory.path, f"its {BREADCRUMB} is not a regular file")
    status = directory.status()
    if status.st_uid != uid or breadcrumb.st_uid != uid:
        raise NotOurDirectoryError(directory.path, "it belongs to another user")
    return status


def is_own(status: os.stat_result) -> bool:
    """Whether the owner is the user of this process; true where there are no uids (Windows)."""
    return System.geteuid is None or status.st_uid == System.geteuid()


def identity_of(status: os.stat_result) -> tuple[int, int]:
    """Return the device and inode, which identify a file among all that exist now."""
    return status.st_dev, status.st_ino


def write_breadcrumb(directory: Directory, metadata: dict[str, object]) -> None:
    """Write the breadcrumb, the file that marks *directory* as ours; it must not exist.

    :param metadata: As in :func:`~pytest_tempres.workspace.root.create`.
    :raises OSError: When the operating system refuses.
    """
    own = {"pid": System.getpid(), "platform": sys.platform}
    text = dumps({**own, **metadata, "root": System.basename(directory.path)})
    fd = directory.make_private(BREADCRUMB)
    try:
        System.write(fd, text.encode("ascii"))
    finally:
        System.close(fd)


def read_record(directory: Directory, name: str, uid: int) -> tuple[dict[str, object], float]:
    """Return the JSON object in a file of ours, and the file's modification time.

    :param uid: The owner that it must have.
    :returns: An empty record when there is no such file, or it is damaged.
    :raises OSError: When it cannot be read.
    """
    found = directory.read_private(name, uid)
    if found is None:
        return {}, 0.0
    try:
        record = loads(found[0].decode("ascii"))
    except (ValueError, RecursionError):
        return {}, found[1]
    return record if isinstance(record, dict) else {}, found[1]


def make_directory_with_mode(path: str, mode: int, dir_fd: int | None = None) -> None:
    """Create the directory *path* with the permission bits *mode*, whatever the umask is.

    :param dir_fd: The descriptor of the directory that *path* is relative to.
    :raises OSError: When the operating system refuses.
    """
    System.mkdir(path, 0o700, dir_fd=dir_fd)
    # The umask clears bits of a mode that is passed to mkdir.
    with Directory.at(path, dir_fd=dir_fd) as directory:
        directory.chmod(mode)


def check_new(directory: Directory) -> tuple[int, int]:
    """Return device and inode of *directory*, which was just created and is still empty.

    :raises NotOurDirectoryError: In a shared directory, another user has replaced it.
    """
    status = directory.status()
    if status.st_uid != own_uid(directory.path) or directory.names():
        raise NotOurDirectoryError(directory.path, "another directory has taken its place")
    return identity_of(status)


def identity_of_new(path: str) -> tuple[int, int]:
    """Return device and inode of the empty directory that was just created at *path*.

    :returns: An identity that no directory has, if the directory cannot be identified. Then it is
        never removed.
    """
    with suppress(OSError), Directory.at(path) as directory:
        return check_new(directory)
    return (-1, -1)


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
        with Directory.at(parent, follow=True) as directory:
            if identity_of(directory.lstat(name)) != identity:
                raise NotOurDirectoryError(path, "it has been replaced since it was created")
            return remove_tree(directory.path_of(name), dir_fd=directory.fd, identity=identity)
    except FileNotFoundError:
        return []


def restore_modes(path: str, mode: int, uid: int) -> bool:
    """Restore the mode of our directory *path* if its owner has no access; follow no link.

    :param mode: The permission bits that it was created with.
    :param uid: The owner that it must have.
    :returns: Whether the mode had to be restored, and was.
    """
    try:
        status = System.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or _is_usable(status):
            return False
        if sys.platform == "linux":
            fd = System.open(path, os.O_PATH | System.nofollow_directory_flags)
            try:
                # The mode may forbid any other way to open it, and a second look-up of the name
                # could be redirected by a link.
                System.chmod(f"/proc/self/fd/{fd}", mode)
            finally:
                System.close(fd)
        elif System.chmod in os.supports_follow_symlinks:
            System.chmod(path, mode, follow_symlinks=False)
        return _is_usable(System.lstat(path))
    except OSError:
        return False


def _is_usable(status: os.stat_result) -> bool:
    return status.st_mode & 0o700 == 0o700
