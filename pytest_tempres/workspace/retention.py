"""The retention policy, the records of created and kept paths, and the index of kept paths."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import suppress
from json import dumps
import stat
from typing import Any
from typing import Final
from typing import NamedTuple

from pytest_tempres.primitives._system import System
from pytest_tempres.workspace.dirfd import children
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import WorkerRoot

__all__ = [
    "POLICIES",
    "Artifacts",
    "CreatedPath",
    "Kept",
    "created_from_plain",
    "find_by_inode",
    "reason_to_keep",
    "write_index",
]

#: The values of ``--tempres-keep``.
POLICIES: Final = ("none", "failed", "all")


class CreatedPath(NamedTuple):
    """A path that a fixture created for a test or a wider scope."""

    path: str
    #: The `keep` argument of the marker or the call; None leaves it to the policy.
    keep: bool | None = None
    #: Device and inode of a path outside the session root, where no breadcrumb can prove that it
    #: is ours.
    identity: tuple[int, int] | None = None
    #: The inode, to find the path in the session root again if a test renames it.
    inode: int | None = None


def created_from_plain(data: Iterable[Any]) -> CreatedPath:
    """Rebuild a record from its JSON form."""
    created = CreatedPath(*data)
    return created._replace(
        identity=created.identity and (created.identity[0], created.identity[1])
    )


class Kept(NamedTuple):
    """A path that is kept on disk on purpose."""

    nodeid: str
    path: str
    #: ``failed``, ``all``, ``asked`` (by marker or call), ``hook`` or ``crashed``.
    reason: str
    worker: str
    #: The path of its copy among the artifacts, if there is one.
    artifact: str | None = None


class Artifacts(NamedTuple):
    """The totals of the copies of kept paths."""

    directory: str
    #: The number of kept paths that are directories.
    directories: int
    #: Files and links, in those directories and outside them.
    files: int
    bytes: int
    #: The number of files and directories that were not copied.
    skipped: int
    #: The name of the manifest in `directory`; None when it could not be written.
    manifest: str | None


def reason_to_keep(policy: str, *, failed: bool, asked: bool | None) -> str | None:
    """Return why a path is kept, or None when it is removed.

    :param policy: One of :data:`POLICIES`, or ``hook`` when a hook implementation asked for it.
    :param failed: Whether a test that used the path failed in its last attempt.
    :param asked: The `keep` argument of the marker or call, which overrides the policy.
    """
    if policy == "hook":
        return "hook"
    if asked is not None:
        return "asked" if asked else None
    if policy == "all":
        return "all"
    return "failed" if failed and policy == "failed" else None


def write_index(
    root: SessionRoot, kept: Iterable[Kept], *, rootdir: str | None = None, run: str | None = None
) -> None:
    """Write the map of node ids to kept paths, atomically.

    :param rootdir: The project; it is in the breadcrumb too, which may be damaged.
    :param run: The id that the session roots of one run share.
    :raises OSError: When it cannot be written; the session keeps its paths, but a later sweep
        does not know of them.
    """
    paths: dict[str, list[str]] = {}
    for item in kept:
        paths.setdefault(item.nodeid, []).append(item.path)
    index = {"version": 1, "rootdir": rootdir, "run": run, "kept": paths}
    with root.opened() as directory:
        directory.write_private(INDEX, dumps(index, indent=1).encode("ascii"))


#: The maximum number of paths that a search visits.
_MAX_ITEMS: Final = 10_000


def find_by_inode(
    root: SessionRoot, worker: WorkerRoot, inodes: Collection[int]
) -> Iterator[tuple[int, str]]:
    """Yield those of *inodes* that are in *root*, with their paths, breadth first.

    :param worker: The worker that created them. The directories of other workers are not
        searched: an inode that was freed may be in use again there.
    """
    with suppress(OSError):
        device = System.lstat(root.path).st_dev
        # The list grows during the iteration.
        pending = _without_other_workers(root, worker)
        for number, path in enumerate(pending):
            if number == _MAX_ITEMS:
                return
            with suppress(OSError):
                status = System.lstat(path)
                if status.st_ino in inodes and status.st_dev == device:
                    yield status.st_ino, path
                elif stat.S_ISDIR(status.st_mode):
                    pending += children(path)


def _without_other_workers(root: SessionRoot, worker: WorkerRoot) -> list[str]:
    paths = children(root.path)
    others = {path for path in paths if path.endswith(".d") or f"{path}.d" in paths}
    others -= {worker.path, worker.fixture_dir}
    return [path for path in paths if path not in others]
