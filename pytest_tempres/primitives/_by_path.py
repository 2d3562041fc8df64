"""How does a tree disappear where directories have no descriptors (Windows)?"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TYPE_CHECKING
from typing import Any
from typing import Final

from pytest_tempres.primitives._system import System

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["remove_by_path"]


_JUNCTION: Final = getattr(stat, "FILE_ATTRIBUTE_REPARSE_POINT", 0)


def remove_by_path(
    path: str, tick: Callable[[], object] | None = None
) -> list[tuple[str, OSError]]:
    """Remove *path* as ``shutil`` does; it knows the links and junctions of Windows.

    :param path: A directory with all it holds, a file or a link, which is not followed.
    :param tick: As `remove_tree` takes it.
    :returns: The paths that are left, and why.
    """
    import shutil  # noqa: PLC0415 - its own imports are dear, and it is rarely needed

    failures: list[tuple[str, OSError]] = []

    def note(function: Callable[[str], None], at: str, caught: Any) -> None:
        error = caught if isinstance(caught, OSError) else caught[1]
        if isinstance(error, PermissionError) and function in {os.unlink, os.rmdir}:
            error = _force(function, at)
        if error is not None and not isinstance(error, FileNotFoundError):
            failures.append((at, error))

    if os.path.islink(path) or not os.path.isdir(path):
        note(os.unlink, path, PermissionError())
        return failures
    # It would not say how far it has come, nor stop.
    if tick is not None and _thin_out(path, tick):
        return failures
    handler: Any = {"onexc" if sys.version_info >= (3, 12) else "onerror": note}
    shutil.rmtree(path, **handler)
    return failures


def _thin_out(path: str, tick: Callable[[], object]) -> bool:
    """Remove what is easily removed of a tree, item by item; return whether that was all."""
    directories: list[str] = []
    with contextlib.suppress(OSError):
        if _is_directory(os.lstat(path)):
            directories.append(path)
    for directory in directories:
        for entry in _entries(directory):
            tick()
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if _is_directory(status):
                    directories.append(entry.path)
                elif not stat.S_ISDIR(status.st_mode):
                    _unlink(entry.path)
    for directory in reversed(directories):
        with contextlib.suppress(OSError):
            System.rmdir(directory)
    return not os.path.lexists(path)


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with System.scandir(directory) as entries:
            return list(entries)
    except OSError:
        return []


def _is_directory(status: os.stat_result) -> bool:
    attributes: int = getattr(status, "st_file_attributes", 0)
    return stat.S_ISDIR(status.st_mode) and not attributes & _JUNCTION


def _unlink(path: str) -> None:
    try:
        System.unlink(path)
    except PermissionError:
        _force(System.unlink, path)


def _force(function: Callable[[str], None], path: str) -> OSError | None:
    """Try again without the read-only attribute, which keeps Windows from removing a file."""
    try:
        if not os.path.islink(path):
            System.chmod(path, 0o700)
        function(path)
    except OSError as error:
        return error
    return None
