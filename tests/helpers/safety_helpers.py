"""Helpers of the safety tests: trees that must not change, and a sweep."""

from __future__ import annotations

import os
from pathlib import Path
import stat

from pytest_tempres.workspace import sweep as sweep_module
from pytest_tempres.workspace.dirfd import Directory
from pytest_tempres.workspace.proof import own_uid
from pytest_tempres.workspace.proof import prove

__all__ = [
    "LONG_AGO",
    "NOBODY",
    "is_ours",
    "lowest_descriptor",
    "make_old",
    "make_tree",
    "snapshot",
    "sweep",
]

#: The uid of a second user, which has no rights.
NOBODY = 65534
LONG_AGO = 1_000_000_000


def sweep(place: object, keep: int = 0) -> int:
    """Sweep *place* as a session does, with enough time; return how many roots were removed."""
    before = len(os.listdir(str(place)))
    sweep_module.sweep(
        str(place),
        rootdir="/p",
        keep_sessions=keep,
        seconds=60,
        run="",
        measure=lambda path, until: (0, True),
        tick=lambda: None,
    )
    return before - len(os.listdir(str(place)))


def is_ours(path: object) -> bool:
    """Whether *path* is proved to be a session root of this user."""
    try:
        with Directory.at(str(path)) as directory:
            prove(directory, own_uid(str(path)))
    except OSError:
        return False
    return True


def make_old(place: Path) -> None:
    """Make the entries of *place* older than a session root in creation can be."""
    for path in place.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)


def snapshot(path: Path) -> dict[str, tuple[object, ...]]:
    """Return everything about a tree that a removal could have changed."""
    found = {}
    for each in (path, *path.rglob("*")):
        status = each.lstat()
        content = each.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[str(each)] = (status.st_mode, status.st_uid, status.st_mtime_ns, content)
    return found


def make_tree(path: Path) -> Path:
    """Create a tree of two levels with files in both."""
    for directory in (path, path / "deep", path / "deep" / "deeper"):
        directory.mkdir()
        (directory / "file").write_text(str(directory))
    return path


def lowest_descriptor() -> int:
    """Return the number that the next open file will have."""
    fd = os.dup(0)
    os.close(fd)
    return fd
