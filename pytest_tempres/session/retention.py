"""The retention policy for what fixtures created, the index of kept paths, and artifacts."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

import pytest

from pytest_tempres.artifacts.portable_names import is_safe_nodeid
from pytest_tempres.leaks.temp.scan import identity
from pytest_tempres.leaks.verdict import parents
from pytest_tempres.primitives._system import System
from pytest_tempres.session.workspace import Workspace
from pytest_tempres.workspace import retention
from pytest_tempres.workspace.journal import Journal
from pytest_tempres.workspace.retention import Artifacts
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import reason_to_keep

__all__ = ["ArtifactsHooks", "Retention", "ScopedFactory"]


@dataclass(eq=False, repr=False)
class ScopedFactory:
    """What a factory fixture of wider scope created."""

    fixture: str
    created: list[CreatedPath] = field(default_factory=list)
    #: The first test that used it; after a failure, the test that failed.
    nodeid: str = ""
    failed: bool = False
    #: The test whose setup ended it, because that test uses another parameter.
    replaced_for: str = ""
    #: How many of `created` were sent to another process in reports.
    sent_count: int = 0


@dataclass(eq=False, repr=False)
class Retention:
    """What fixtures of wider scopes created, the kept paths, and where they are recorded."""

    workspace: Workspace
    #: The value of ``--tempres-keep``.
    policy: str
    #: Factories whose scope has not ended, and those whose scope has.
    open_factories: list[ScopedFactory] = field(default_factory=list)
    expired_factories: list[ScopedFactory] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)
    kept: list[Kept] = field(default_factory=list)
    artifacts: Artifacts | None = None
    #: Whether the index could not be written.
    index_failed: bool = False
    #: How many paths were kept when the index was written.
    _indexed: int = 0
    #: The kept paths of this process, and every directory above them.
    _protected: set[str] = field(default_factory=set)

    def factories(self) -> Iterator[ScopedFactory]:
        """Yield the factories of wider scopes whose paths are neither kept nor removed yet."""
        yield from self.open_factories
        yield from self.expired_factories

    def used_by(self, item: pytest.Item) -> list[ScopedFactory]:
        """Return the factories of wider scopes that *item* uses, directly or through a fixture."""
        names = getattr(item, "fixturenames", ())
        return [
            factory
            for factory in self.factories()
            if factory.nodeid == item.nodeid
            or (factory.fixture in names and factory.replaced_for != item.nodeid)
        ]

    def known_paths(self) -> set[str]:
        """Return the kept paths, and what the factories of wider scopes created."""
        known = {created.path for each in self.factories() for created in each.created}
        return known.union(each.path for each in self.kept)

    def apply_policy(
        self, nodeid: str, created: Iterable[CreatedPath], *, failed: bool, policy: str
    ) -> None:
        """Remove each path, or record that it is kept.

        :param nodeid: The test that the index names for the kept paths.
        :param failed: Whether a test that used them failed.
        """

        def reason(each: CreatedPath) -> str | None:
            return reason_to_keep(policy, failed=failed, asked=each.keep)

        to_keep: list[CreatedPath] = []
        to_remove: list[CreatedPath] = []
        for each in created:
            (to_remove if reason(each) is None else to_keep).append(each)
        for each in (*to_keep, *self.renamed(to_keep)):
            why = reason(each)
            if why is not None and System.lexists(each.path):
                self.kept.append(Kept(nodeid, each.path, why, self.workspace.worker.name))
                self._protected |= parents(each.path)
        for each in to_remove:
            # With `dir=`, a kept path may be inside a path that would be removed.
            if each.path not in self._protected:
                self.workspace.remove(each)

    def finish_expired(self) -> None:
        """Apply the policy to the factories whose scope has ended."""
        while self.expired_factories:
            each = self.expired_factories.pop()
            self.apply_policy(each.nodeid, each.created, failed=each.failed, policy=self.policy)

    def renamed(self, created: list[CreatedPath]) -> list[CreatedPath]:
        """Return, with their new paths, those of *created* that a test has renamed."""
        unchanged = {each.inode for each in created if each.inode == identity(each.path)}
        by_inode = {each.inode: each for each in created if each.inode is not None}
        inodes = by_inode.keys() - unchanged
        if not inodes:
            return []
        # A path with a record of its own is not a renamed one: its inode number was reused.
        known = self.known_paths().union(each.path for each in created)
        return [
            by_inode[inode]._replace(path=path, identity=None)
            for inode, path in retention.find_by_inode(
                self.workspace.root, self.workspace.worker, inodes
            )
            if path not in known
        ]

    def open_journal(self) -> None:
        """Open the journal early, before a test may use up all descriptors."""
        try:
            self.journal.open(self.workspace.root)
        except OSError as error:
            self._warn_of_journal(error)

    def add_to_journal(self, nodeid: str, paths: Iterable[str]) -> bool:
        """Record now that *paths* are kept, in case the process ends early.

        :returns: Whether they were recorded.
        """
        try:
            self.journal.add(self.workspace.root, nodeid, paths)
        except OSError as error:
            self._warn_of_journal(error)
            return False
        return True

    def add_created_to_journal(self, nodeid: str, created: Iterable[CreatedPath]) -> None:
        """Record now which of *created* are kept if the test fails."""
        self.add_to_journal(nodeid, self.kept_after_failure(created))

    def kept_after_failure(self, created: Iterable[CreatedPath]) -> list[str]:
        """Return the paths of *created* that are kept if a test that used them fails."""
        return [
            each.path
            for each in created
            if reason_to_keep(self.policy, failed=True, asked=each.keep)
        ]

    def _warn_of_journal(self, error: OSError) -> None:
        consequence = "if this session is killed, the next one removes what failed tests left"
        text = f"the journal of kept paths could not be written: {error}; {consequence}"
        self.workspace.messages.warn_of(error, "journal", text)

    def update_index(self) -> None:
        """Write the index of kept paths if it lacks some of them."""
        if not self.workspace.joined and len(self.kept) > self._indexed:
            self._indexed = len(self.kept)
            self.write_index()

    def write_index(self) -> None:
        """Write the index of kept paths; if the disk is full, `cleanup` tries again later."""
        # Stays so after other exceptions too: an audit hook of a test may raise anything.
        self.index_failed = True
        metadata = self.workspace.metadata
        try:
            retention.write_index(
                self.workspace.root,
                self.kept,
                rootdir=str(metadata["rootdir"]),
                run=str(metadata["run"]),
            )
        except OSError as error:
            self._warn_of_index(error)
        else:
            self.index_failed = False

    def _warn_of_index(self, error: OSError) -> None:
        consequence = "unless it can be written later, the next session removes the kept paths"
        if all(self.add_to_journal(each.nodeid, [each.path]) for each in self.kept):
            consequence = "the journal contains the kept paths"
        self.workspace.messages.warn_of(
            error, "index", f"the index could not be written: {error}; {consequence}"
        )

    def export(
        self, directory: str, max_size: int, remote_kept: Iterable[Kept], other_roots: list[str]
    ) -> None:
        """Copy the kept paths to the artifacts directory; a failure becomes a warning.

        :param remote_kept: What remote workers have kept, in *other_roots*: it cannot be copied.
        """
        from pytest_tempres.artifacts import export  # noqa: PLC0415 -- few sessions keep paths

        messages = self.workspace.messages
        try:
            done = export.export(
                [*self.kept, *remote_kept],
                directory,
                max_size=max_size,
                session=System.basename(self.workspace.root.path),
                other_roots=other_roots,
            )
        except Exception as error:  # noqa: BLE001 -- the reports must still be written
            messages.warn("artifacts", f"internal error while copying artifacts: {error!r}")
            return
        self.kept[:] = done.kept[: len(self.kept)]
        self.artifacts = done.artifacts
        if done.failure is not None:
            messages.warn("artifacts", f"some artifacts could not be copied: {done.failure}")


class ArtifactsHooks:
    """The hook that keeps pytest from collecting artifacts.

    :param directory: The absolute path of the artifacts directory.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Ignore artifacts: copies of what tests created may look like tests."""
        directory, name = System.split(collection_path)
        # The artifacts directory may contain the tests of the project too.
        return True if directory == self._directory and is_safe_nodeid(name) else None
