"""The search for what has got another name in a session root, known by its inode."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterator
from contextlib import suppress
import stat
from typing import Final

from pytest_tempres.primitives._system import System
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import WorkerRoot
from pytest_tempres.workspace.root import children

__all__ = ["find"]

#: The bound of a walk.
_MOST_ITEMS: Final = 10_000


def find(
    root: SessionRoot, worker: WorkerRoot, inodes: Collection[int]
) -> Iterator[tuple[int, str]]:
    """Yield which of *inodes* stand in *root*, and their paths, the nearest first.

    :param worker: The worker whose they are: in what belongs to others an inode that was given
        back may have been used again.
    """
    with suppress(OSError):
        device = System.lstat(root.path).st_dev
        # It grows while it is gone through.
        pending = _not_of_others(root, worker)
        for number, path in enumerate(pending):
            if number == _MOST_ITEMS:
                return
            with suppress(OSError):
                status = System.lstat(path)
                if status.st_ino in inodes and status.st_dev == device:
                    yield status.st_ino, path
                elif stat.S_ISDIR(status.st_mode):
                    pending += children(path)


def _not_of_others(root: SessionRoot, worker: WorkerRoot) -> list[str]:
    there = children(root.path)
    others = {path for path in there if path.endswith(".d") or f"{path}.d" in there}
    others -= {worker.path, worker.given}
    return [path for path in there if path not in others]
