"""What was kept is copied to where it outlives the machine: which copy is whose?"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import suppress
import os
from typing import Any
from typing import Final
from typing import NamedTuple

from pytest_tempres.artifacts.manifest import Manifest
from pytest_tempres.artifacts.portable_names import free_name
from pytest_tempres.artifacts.portable_names import numbered
from pytest_tempres.artifacts.portable_names import safe_nodeid
from pytest_tempres.artifacts.tree_copy import Limits
from pytest_tempres.artifacts.tree_copy import TreeCopy
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace.dirfd import Directory
from pytest_tempres.workspace.retention import Artifacts
from pytest_tempres.workspace.retention import Kept

__all__ = ["Exported", "export"]

#: Only who may read a kept path may read its copy, so what it stood in is closed here too.
_PRIVATE: Final = 0o700


class Exported(NamedTuple):
    """What has become of an export."""

    #: The records that were given, in their order, with what there is a copy of.
    kept: tuple[Kept, ...]
    #: None when there is nothing at all.
    artifacts: Artifacts | None
    #: What could not be written, in words.
    failure: str | None


class _Copy(NamedTuple):
    """One kept path, and where its copy is below the directory of artifacts."""

    artifact: str | None
    tree: TreeCopy | None
    #: Why there is nothing to copy.
    reason: str | None = None


def export(
    kept: Iterable[Kept],
    directory: str,
    *,
    max_size: int,
    session: str,
    other_roots: Iterable[str] = (),
) -> Exported:
    """Copy *kept* into *directory*, and add to the manifest there what was copied and what not.

    Nothing in *directory* is overwritten or removed but what this call has made, and the
    manifest, which keeps all that earlier sessions wrote.

    :param directory: An absolute path; made with its parents when it is not there.
    :param max_size: The most bytes to copy.
    :param session: The name of this session.
    :param other_roots: Session roots that may be on other hosts.
    """
    kept = tuple(kept)
    try:
        System.makedirs(directory, exist_ok=True)
        folder = Directory.at(directory)
    except OSError as error:
        return Exported(kept, None, f"{directory}: {error.strerror}")
    with folder:
        work = _Export(folder, max_size, tuple(other_roots))
        name = work.copy_and_list(kept, session)
    return Exported(
        tuple(each._replace(artifact=work.where(each)) for each in kept),
        work.total(name),
        work.limits.failure,
    )


class _Export:
    """The copies of one session."""

    def __init__(self, folder: Directory, max_size: int, other_roots: tuple[str, ...]) -> None:
        status = folder.status()
        self.limits = Limits(max_size, (status.st_dev, status.st_ino))
        self._folder = folder
        self._other_roots = other_roots
        self._copies: dict[str, _Copy] = {}
        #: The directory of each test, and the names in it that are taken.
        self._directories: dict[str, str] = {}
        self._taken: dict[str, set[str]] = {}

    def copy_and_list(self, kept: tuple[Kept, ...], session: str) -> str | None:
        """Copy what is kept and list it; return the name of the manifest if it could be written."""
        with Manifest(self._folder) as manifest:
            self.copy(kept)
            records = [self.record(each, session) for each in kept]
            try:
                return manifest.add(records)
            except OSError as error:
                self.limits.fail(System.join(self._folder.path, "manifest.json"), error)
        return None

    def copy(self, kept: tuple[Kept, ...]) -> None:
        """Copy each path once: what lies in another one is copied with that."""
        paths = {each.path for each in kept}
        inner: list[str] = []
        for each in kept:
            if not paths.isdisjoint(_above(each.path)):
                inner.append(each.path)
            elif each.path not in self._copies:
                self._copies[each.path] = self._copy(each)
        for path in inner:
            self._copies[path] = self._find(path)

    def _copy(self, kept: Kept) -> _Copy:
        reason = self._missing(kept.path)
        if reason is None:
            try:
                return self._copy_tree(kept)
            except OSError as error:
                path = System.join(self._folder.path, safe_nodeid(kept.nodeid))
                reason = self.limits.fail(path, error)
        return _Copy(None, None, reason)

    def _missing(self, path: str) -> str | None:
        if System.isabs(path) and System.lexists(path):
            return self.limits.stopped
        remote_workers = any(path.startswith(System.join(root, "")) for root in self._other_roots)
        return "on another host" if remote_workers or not System.isabs(path) else "it is gone"

    def _copy_tree(self, kept: Kept) -> _Copy:
        directory = self._directory(kept.nodeid)
        parent, name = System.split(kept.path)
        try:
            source = Directory.at(parent)
        except OSError as error:
            return _Copy(None, None, error.strerror)
        with source, self._folder.below((directory,)) as target:
            safe = free_name(name, self._taken[directory])
            tree = TreeCopy(source, name, target, safe, self.limits)
            tree.run()
        there = tree.is_directory or tree.files
        return _Copy(f"{directory}/{safe}" if there else None, tree)

    def _directory(self, nodeid: str) -> str:
        """Return the directory of a test, which is made when it is first needed."""
        if nodeid not in self._directories:
            name = self._make_free(safe_nodeid(nodeid))
            self._directories[nodeid] = name
            self._taken[name] = set()
        return self._directories[nodeid]

    def _make_free(self, wanted: str) -> str:
        for name in numbered(wanted):
            # The same test of an earlier run has its own.
            with suppress(FileExistsError):
                self._folder.make_directory(name, _PRIVATE)
                return name
        raise AssertionError(wanted)

    def _find(self, path: str) -> _Copy:
        """Return where the copy of *path* is, which lies in another kept one."""
        top = next(above for above in reversed(list(_above(path))) if above in self._copies)
        copy = self._copies[top]
        if copy.tree is not None and copy.artifact is not None:
            parts = tuple(path[len(top) :].strip(os.sep).split(os.sep))
            artifact = "/".join((copy.artifact, *copy.tree.place(parts)))
            if System.lexists(self._path(artifact)):
                return _Copy(artifact, None)
        return _Copy(None, None, f"it lies in {_text(top)}, and was skipped there")

    def where(self, kept: Kept) -> str | None:
        """Return the absolute path of the copy."""
        artifact = self._copies[kept.path].artifact
        return artifact and self._path(artifact)

    def _path(self, artifact: str) -> str:
        return System.join(self._folder.path, *artifact.split("/"))

    def record(self, kept: Kept, session: str) -> dict[str, Any]:
        """Return what the manifest says of a kept path."""
        copy = self._copies[kept.path]
        tree = copy.tree
        skipped = list(tree.skipped) if tree is not None else []
        if tree is not None and tree.more_skipped:
            skipped.append(((), f"... and {tree.more_skipped} more"))
        if copy.reason is not None:
            skipped = [((), copy.reason)]
        renamed = tree.renamed if tree is not None else {}
        return {
            "nodeid": _text(kept.nodeid),
            "path": _text(kept.path),
            "artifact": copy.artifact,
            "reason": kept.reason,
            "worker": kept.worker,
            "session": session,
            "bytes": tree.bytes if tree is not None else 0,
            "files": tree.files if tree is not None else 0,
            "skipped": [{"path": _joined(parts), "reason": reason} for parts, reason in skipped],
            "renamed": {_joined(parts): _joined(safe) for parts, safe in renamed.items()},
        }

    def total(self, manifest: str | None) -> Artifacts:
        """Return what was copied in all."""
        trees = [copy.tree for copy in self._copies.values() if copy.tree is not None]
        return Artifacts(
            directory=self._folder.path,
            directories=sum(tree.is_directory for tree in trees),
            files=sum(tree.files for tree in trees),
            bytes=sum(tree.bytes for tree in trees),
            skipped=sum(len(tree.skipped) + tree.more_skipped for tree in trees)
            + sum(copy.reason is not None for copy in self._copies.values()),
            manifest=manifest,
        )


def _above(path: str) -> Iterator[str]:
    """Yield the directories that *path* lies in, the nearest first."""
    parent = System.dirname(path)
    while parent != path:
        yield parent
        path, parent = parent, System.dirname(parent)


def _joined(parts: Iterable[str]) -> str:
    return _text("/".join(parts)) or "."


def _text(text: str) -> str:
    r"""Return *text* with bytes that are not UTF-8 as ``\xNN``, as the reports have it."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "backslashreplace")
