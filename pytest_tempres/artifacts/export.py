"""The export: copies of kept paths in the artifacts directory, one directory for each test."""

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

#: The mode of each test's directory: the kept paths were in a private directory too.
_PRIVATE: Final = 0o700


class Exported(NamedTuple):
    """The result of an export."""

    #: The records that were passed in, in their order, with the paths of their copies.
    kept: tuple[Kept, ...]
    #: None when the artifacts directory could not be opened.
    artifacts: Artifacts | None
    #: A message about the first path that could not be written.
    failure: str | None


class _Copy(NamedTuple):
    """The copy of one kept path; `artifact` is its path in the artifacts directory."""

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
    """Copy *kept* into *directory*, and record in its manifest what was copied and what was not.

    Nothing in *directory* is overwritten or removed except for what this call has created and the
    manifest, which keeps the entries of earlier sessions.

    :param directory: An absolute path; created with its parents if it does not exist.
    :param max_size: The maximum number of bytes to copy.
    :param session: The name of this session.
    :param other_roots: Session roots that may be on other hosts.
    """
    kept = tuple(kept)
    try:
        System.makedirs(directory, exist_ok=True)
        target = Directory.at(directory, follow=True)
    except OSError as error:
        return Exported(kept, None, f"{directory}: {error.strerror}")
    with target:
        work = _Export(target, max_size, tuple(other_roots))
        name = work.copy_and_list(kept, session)
    return Exported(
        tuple(each._replace(artifact=work.copy_path(each)) for each in kept),
        work.totals(name),
        work.limits.failure,
    )


class _Export:
    """The copies of one session."""

    def __init__(self, target: Directory, max_size: int, other_roots: tuple[str, ...]) -> None:
        status = target.status()
        self.limits = Limits(max_size, (status.st_dev, status.st_ino))
        self._target = target
        self._other_roots = other_roots
        self._copies: dict[str, _Copy] = {}
        #: The directory of each test, and the names that are used in each of these directories.
        self._directories: dict[str, str] = {}
        self._taken: dict[str, set[str]] = {}

    def copy_and_list(self, kept: tuple[Kept, ...], session: str) -> str | None:
        """Copy *kept* and write the manifest; return its name, or None if that failed."""
        with Manifest(self._target) as manifest:
            self.copy(kept)
            records = [self.record(each, session) for each in kept]
            try:
                return manifest.add(records)
            except OSError as error:
                self.limits.fail(System.join(self._target.path, "manifest.json"), error)
        return None

    def copy(self, kept: tuple[Kept, ...]) -> None:
        """Copy each path once: a path inside another kept path is copied with the other one."""
        paths = {each.path for each in kept}
        inner: list[str] = []
        for each in kept:
            if not paths.isdisjoint(_parents(each.path)):
                inner.append(each.path)
            elif each.path not in self._copies:
                self._copies[each.path] = self._copy(each)
        for path in inner:
            self._copies[path] = self._find(path)

    def _copy(self, kept: Kept) -> _Copy:
        reason = self._reason_to_skip(kept.path)
        if reason is None:
            try:
                return self._copy_tree(kept)
            except OSError as error:
                path = System.join(self._target.path, safe_nodeid(kept.nodeid))
                reason = self.limits.fail(path, error)
        return _Copy(None, None, reason)

    def _reason_to_skip(self, path: str) -> str | None:
        if System.isabs(path) and System.lexists(path):
            return self.limits.stopped
        is_remote = any(path.startswith(System.join(root, "")) for root in self._other_roots)
        return "on another host" if is_remote or not System.isabs(path) else "it no longer exists"

    def _copy_tree(self, kept: Kept) -> _Copy:
        directory = self._directory(kept.nodeid)
        parent, name = System.split(kept.path)
        try:
            source = Directory.at(parent, follow=True)
        except OSError as error:
            return _Copy(None, None, error.strerror)
        with source, self._target.subdirectory((directory,)) as target:
            safe = free_name(name, self._taken[directory])
            tree = TreeCopy(source, name, target, safe, self.limits)
            tree.run()
        exists = tree.is_directory or tree.files
        return _Copy(f"{directory}/{safe}" if exists else None, tree)

    def _directory(self, nodeid: str) -> str:
        """Return the directory of a test, which is created on the first call."""
        if nodeid not in self._directories:
            name = self._make_directory(safe_nodeid(nodeid))
            self._directories[nodeid] = name
            self._taken[name] = set()
        return self._directories[nodeid]

    def _make_directory(self, base: str) -> str:
        for name in numbered(base):
            # The directory of the same test may exist from an earlier run.
            with suppress(FileExistsError):
                self._target.make_directory(name, _PRIVATE)
                return name
        raise AssertionError(base)

    def _find(self, path: str) -> _Copy:
        """Return the copy of *path*, which is inside another kept path."""
        top = next(parent for parent in reversed(list(_parents(path))) if parent in self._copies)
        copy = self._copies[top]
        if copy.tree is not None and copy.artifact is not None:
            parts = tuple(path[len(top) :].strip(os.sep).split(os.sep))
            artifact = "/".join((copy.artifact, *copy.tree.path_in_copy(parts)))
            if System.lexists(self._path(artifact)):
                return _Copy(artifact, None)
        return _Copy(None, None, f"it is inside {_text(top)}, and was skipped there")

    def copy_path(self, kept: Kept) -> str | None:
        """Return the absolute path of the copy."""
        artifact = self._copies[kept.path].artifact
        return artifact and self._path(artifact)

    def _path(self, artifact: str) -> str:
        return System.join(self._target.path, *artifact.split("/"))

    def record(self, kept: Kept, session: str) -> dict[str, Any]:
        """Return the manifest's entry for a kept path."""
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

    def totals(self, manifest: str | None) -> Artifacts:
        """Return the totals of all copies."""
        trees = [copy.tree for copy in self._copies.values() if copy.tree is not None]
        return Artifacts(
            directory=self._target.path,
            directories=sum(tree.is_directory for tree in trees),
            files=sum(tree.files for tree in trees),
            bytes=sum(tree.bytes for tree in trees),
            skipped=sum(len(tree.skipped) + tree.more_skipped for tree in trees)
            + sum(copy.reason is not None for copy in self._copies.values()),
            manifest=manifest,
        )


def _parents(path: str) -> Iterator[str]:
    """Yield the parent directories of *path*, the nearest first."""
    parent = System.dirname(path)
    while parent != path:
        yield parent
        path, parent = parent, System.dirname(parent)


def _joined(parts: Iterable[str]) -> str:
    return _text("/".join(parts)) or "."


def _text(text: str) -> str:
    r"""Return *text* with bytes that are not UTF-8 as ``\xNN``, as in the reports."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "backslashreplace")
