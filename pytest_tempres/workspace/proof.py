"""What proves that a directory is ours?

The files that a session root has, and whom they belong to; its name alone proves nothing.
"""

from __future__ import annotations

from json import dumps
from json import loads
import os
import stat
import sys
from typing import Final

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.primitives._names import is_random_name
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace.folder import make_private
from pytest_tempres.workspace.folder import read_private

__all__ = [
    "BREADCRUMB",
    "INDEX",
    "JOURNAL",
    "LOCK",
    "PREFIX",
    "bears_our_name",
    "identity_of",
    "is_own",
    "own_uid",
    "prove",
    "read_record",
    "write_breadcrumb",
]

PREFIX: Final = "tempres-"
BREADCRUMB: Final = ".tempres.json"
LOCK: Final = ".lock"
INDEX: Final = "index.json"
JOURNAL: Final = ".kept.jsonl"


def bears_our_name(name: str) -> bool:
    """Whether a directory's name is one that a session root may have; it proves nothing."""
    return name.startswith(PREFIX) and is_random_name(name[len(PREFIX) :])


def own_uid(path: str) -> int:
    """Return the uid that what this process makes belongs to.

    Where there are no uids (Windows), that of *path* itself: the access rights
    of the user's temp directory are the proof there.
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
    :param fd: Its descriptor; what *path* leads to is not looked at then.
    :raises NotOurDirectoryError: It does not; the error says why.
    :raises OSError: When the operating system refuses to tell.
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
    """Whether it belongs to the user of this process; true where there are no uids (Windows)."""
    return System.geteuid is None or status.st_uid == System.geteuid()


def identity_of(status: os.stat_result) -> tuple[int, int]:
    """Return the device and inode, which tell a file from all others that are there now."""
    return status.st_dev, status.st_ino


def write_breadcrumb(path: str, about: dict[str, object], dir_fd: int | None = None) -> None:
    """Write the file that says of a directory that it is ours.

    :param path: Where; nothing may stand there, not even a link.
    :param about: As :func:`~pytest_tempres.workspace.root.create` takes it.
    :param dir_fd: The descriptor of the directory that a relative *path* starts from.
    :raises OSError: When the operating system refuses.
    """
    text = dumps({"pid": System.getpid(), "platform": sys.platform, **about})
    fd = make_private(path, dir_fd)
    try:
        System.write(fd, text.encode("ascii"))
    finally:
        System.close(fd)


def read_record(path: str, dir_fd: int | None, uid: int) -> tuple[dict[str, object], float]:
    """Return what a file of ours says, and when it was last written.

    :param dir_fd: As :func:`write_breadcrumb` takes it.
    :param uid: Whose file it must be.
    :returns: An empty record where there is no such file, or a broken one.
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
