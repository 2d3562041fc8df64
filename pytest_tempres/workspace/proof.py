"""The proof that a session root is ours: its breadcrumb file and the owner of both.

The name of a directory alone proves nothing.
"""

from __future__ import annotations

from json import dumps
from json import loads
import os
import stat
import sys
from typing import Final

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.primitives._location import is_random_name
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace.dirfd import make_private
from pytest_tempres.workspace.dirfd import open_directory
from pytest_tempres.workspace.dirfd import read_private

__all__ = [
    "BREADCRUMB",
    "INDEX",
    "JOURNAL",
    "LOCK",
    "PREFIX",
    "has_root_name",
    "identity_of",
    "is_own",
    "make_with_mode",
    "own_uid",
    "prove",
    "read_record",
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


def prove(path: str, uid: int, fd: int | None) -> None:
    """Raise unless the directory has our breadcrumb and belongs to *uid*.

    :param path: The directory.
    :param fd: Its descriptor; if given, *path* is for messages only.
    :raises NotOurDirectoryError: With the reason.
    :raises OSError: When the operating system refuses.
    """
    root = System.lstat(path) if fd is None else System.fstat(fd)
    if not stat.S_ISDIR(root.st_mode):
        raise NotOurDirectoryError(path, "it is not a directory")
    where = System.join(path, BREADCRUMB) if fd is None else BREADCRUMB
    try:
        crumb = System.stat(where, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError as error:
        raise NotOurDirectoryError(path, f"it has no {BREADCRUMB}") from error
    if not stat.S_ISREG(crumb.st_mode):
        raise NotOurDirectoryError(path, f"its {BREADCRUMB} is not a regular file")
    if root.st_uid != uid or crumb.st_uid != uid:
        raise NotOurDirectoryError(path, "it belongs to another user")


def is_own(status: os.stat_result) -> bool:
    """Whether the owner is the user of this process; true where there are no uids (Windows)."""
    return System.geteuid is None or status.st_uid == System.geteuid()


def identity_of(status: os.stat_result) -> tuple[int, int]:
    """Return the device and inode, which identify a file among all that exist now."""
    return status.st_dev, status.st_ino


def write_breadcrumb(path: str, metadata: dict[str, object], dir_fd: int | None = None) -> None:
    """Write the breadcrumb, the file that marks a directory as ours.

    :param path: Its path, which must not exist, not even as a link.
    :param metadata: As in :func:`~pytest_tempres.workspace.root.create`.
    :param dir_fd: The descriptor of the directory that *path* is relative to.
    :raises OSError: When the operating system refuses.
    """
    text = dumps({"pid": System.getpid(), "platform": sys.platform, **metadata})
    fd = make_private(path, dir_fd)
    try:
        System.write(fd, text.encode("ascii"))
    finally:
        System.close(fd)


def read_record(path: str, dir_fd: int | None, uid: int) -> tuple[dict[str, object], float]:
    """Return the JSON object in a file of ours, and the file's modification time.

    :param dir_fd: As in :func:`write_breadcrumb`.
    :param uid: The owner that it must have.
    :returns: An empty record when there is no such file, or it is damaged.
    :raises OSError: When it cannot be read.
    """
    found = read_private(path, dir_fd, uid)
    if found is None:
        return {}, 0.0
    try:
        record = loads(found[0].decode("ascii"))
    except (ValueError, RecursionError):
        return {}, found[1]
    return record if isinstance(record, dict) else {}, found[1]


def make_with_mode(path: str, mode: int, dir_fd: int | None = None) -> None:
    """Create the directory *path* with the permission bits *mode*, whatever the umask is.

    :param dir_fd: The descriptor of the directory that *path* is relative to.
    :raises OSError: When the operating system refuses.
    """
    System.mkdir(path, 0o700, dir_fd=dir_fd)
    # The umask clears bits of a mode that is passed to mkdir.
    with open_directory(path, dir_fd=dir_fd) as fd:
        System.chmod(path if fd is None else fd, mode)


def restore_modes(path: str, mode: int, uid: int) -> bool:
    """Restore the mode of our directory *path* if its owner may not use it; follow no link.

    :param mode: The permission bits that it was created with.
    :param uid: The owner that it has if it is ours.
    :returns: Whether the mode had to be restored, and was.
    """
    try:
        status = System.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or _is_usable(status):
            return False
        if sys.platform == "linux":
            fd = System.open(path, os.O_PATH | System.to_hold)
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
