"""How does a tree disappear where directories have no descriptors (Windows)?"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING
from typing import Any

from pytest_tempres.primitives._system import System

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["remove_by_path"]


def remove_by_path(path: str) -> list[tuple[str, OSError]]:
    """Remove *path* as ``shutil`` does; it knows the links and junctions of Windows.

    :param path: A directory with all it holds, a file or a link, which is not followed.
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
    handler: Any = {"onexc" if sys.version_info >= (3, 12) else "onerror": note}
    shutil.rmtree(path, **handler)
    return failures


def _force(function: Callable[[str], None], path: str) -> OSError | None:
    """Try again without the read-only attribute, which keeps Windows from removing a file."""
    try:
        if not os.path.islink(path):
            System.chmod(path, 0o700)
        function(path)
    except OSError as error:
        return error
    return None
