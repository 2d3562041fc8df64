"""Which permissions has a directory of ours, and how does it get them back?"""

from __future__ import annotations

import os
import stat
import sys

from pytest_tempres.primitives._system import System
from pytest_tempres.workspace.folder import held

__all__ = ["make_with_mode", "open_again"]


def make_with_mode(path: str, mode: int, dir_fd: int | None = None) -> None:
    """Make the directory *path* with the permission bits *mode*, whatever the umask is.

    :param dir_fd: The descriptor of the directory that a relative *path* starts from.
    :raises OSError: When the operating system refuses.
    """
    System.mkdir(path, 0o700, dir_fd=dir_fd)
    # The umask cuts bits off a mode given to mkdir.
    with held(path, dir_fd=dir_fd) as fd:
        System.chmod(path if fd is None else fd, mode)


def open_again(path: str, mode: int, uid: int) -> bool:
    """Give our directory *path* its mode back if its owner may not use it; no link is followed.

    :param mode: The permission bits that it was made with.
    :param uid: Whose it is if it is ours.
    :returns: Whether there was something to give back, and that was possible.
    """
    try:
        status = System.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or _is_open(status):
            return False
        if sys.platform == "linux":
            fd = System.open(path, os.O_PATH | System.to_hold)
            try:
                # Nothing else opens it now, and a second look-up of the name could be tricked.
                System.chmod(f"/proc/self/fd/{fd}", mode)
            finally:
                System.close(fd)
        elif System.chmod in os.supports_follow_symlinks:
            System.chmod(path, mode, follow_symlinks=False)
        return _is_open(System.lstat(path))
    except OSError:
        return False


def _is_open(status: os.stat_result) -> bool:
    return status.st_mode & 0o700 == 0o700
