"""The ledger: which owner created each path that appeared in the temp location."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
import os
from typing import TYPE_CHECKING

from pytest_tempres.leaks.frames import FrameFilter
from pytest_tempres.leaks.frames import Hint
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Phase
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.model import Work
from pytest_tempres.leaks.temp.audit import Origins
from pytest_tempres.leaks.temp.scan import BESIDE_DATABASE
from pytest_tempres.leaks.temp.scan import Scan
from pytest_tempres.leaks.temp.scan import exists
from pytest_tempres.leaks.temp.scan import has_audit_event
from pytest_tempres.leaks.temp.scan import identity
from pytest_tempres.primitives._system import System

if TYPE_CHECKING:
    from pytest_tempres.leaks.deferred import Provisional
    from pytest_tempres.leaks.model import Detector

__all__ = ["Ledger"]


class Ledger:
    """The current owner of a session, and the entries that its owners created.

    :param worker: The name of this worker in reports.
    :param prefixes: Other spellings of the worker root, for example with links resolved.
    :param inside: Directories whose contents are not reported as outside the worker root.
    :param ignored: Returns whether the ini file says to ignore a path.
    :param temp: Whether to report what is in the worker root, and temporary paths outside it.
    :param plugins: Returns the plugins that pytest has registered.
    """

    def __init__(
        self,
        worker_root: str,
        *,
        worker: str,
        rootdir: str,
        prefixes: tuple[str, ...],
        inside: tuple[str, ...],
        ignored: Callable[[str], bool],
        temp: bool = True,
        plugins: Callable[[], Iterable[object]] = tuple,
    ) -> None:
        self.running = Running()
        #: Entries that have not been sent with a report yet.
        self.not_yet_sent: list[Entry] = []
        self.frame_filter = FrameFilter(rootdir, plugins)
        self.worker_root = worker_root
        self._worker = worker
        self._ignored = ignored
        self._root_scan = Scan(worker_root)
        self._inodes: dict[str, int] = {}
        self._entries: dict[str, Entry] = {}
        #: The contents of a worker root that was moved or removed, by name and inode.
        self._of_moved_root: dict[tuple[str, int], Entry | None] = {}
        self._found_outside: list[str] = []
        self._last_test: Owner | None = None
        #: Whether the last scan skipped the listing because earlier ones took too long.
        self._skipped_listing = False
        self._temp = temp
        #: By node id, for tests whose threads or processes may still run: whether the test's
        #: marker allows a path.
        self.allowed: dict[str, Callable[[str], bool]] = {}
        #: Owners that failed or were interrupted: detectors report their leaks as left by a
        #: failed test.
        self.failed_owners: set[Owner] = set()
        #: How to send entries that may still be removed, on workers of a controller.
        self.provisional: Provisional | None = None
        #: The detectors besides the scan of the worker root.
        self.detectors: list[Detector] = []
        self.origins = Origins(
            tuple(System.join(path, "") for path in (worker_root, *prefixes)),
            inside,
            self._inodes,
            self.running,
        )

    def add(self, detector: Detector) -> None:
        """Run *detector* whenever the owner changes, and pass audit events to it."""
        self.detectors.append(detector)
        self.origins.add(detector)

    def enter(self, owner: Owner, *, test: str | None, phase: Phase | None = None) -> Work:
        """Make *owner* the current owner, and return what to pass to :meth:`leave`."""
        before = self.running.work
        self.leave(Work(owner, test, phase))
        if owner.kind == "test":
            self._last_test = owner
            self.origins.threads.assign_to_current_owner()
        return before

    def leave(self, before: Work) -> None:
        """Make the owner of *before* the current owner again."""
        running = self.running
        running.owner, running.test, running.phase = before

    def scan(self, *, final: bool = False) -> list[Entry]:
        """Record what has appeared since the last scan.

        An entry without a hint belongs to the current owner or, after a skipped listing,
        to the last test.

        :param final: List the directory even if earlier listings took too long.
        :returns: The new entries, which are added to `not_yet_sent` too.
        :raises FileNotFoundError: When the worker root is gone.
        :raises PermissionError: When a test has removed the permissions of the worker root.
        """
        self.origins.threads.scan()
        for detector in self.detectors:
            detector.scan()
        found = self._find(final=final)
        # Processes that have ended by now cannot create anything for the next owner.
        self.origins.processes.scan()
        return found

    def _find(self, *, final: bool) -> list[Entry]:
        found: list[Entry] = []
        if self._temp and (self._root_scan.changed() or final):
            found = self._scan_root(final=final)
        outside, self.origins.outside = self.origins.outside, {}
        if self._temp and outside:
            existing = [path for path in outside if exists(path)]
            found += [self._from_hint(path, outside[path]) for path in existing]
            self._found_outside += existing
        self.origins.forget()
        self.not_yet_sent += found
        return found

    def _scan_root(self, *, final: bool) -> list[Entry]:
        if self._root_scan.was_replaced():
            self._save_moved_root()
        complete = final or self._root_scan.is_within_budget()
        names = self._root_scan.names() if complete else self._names_with_hint()
        found = self._record(names, complete=complete)
        self._skipped_listing = not complete
        if not complete:
            self._root_scan.invalidate()
        return found

    def remaining(self) -> list[Entry]:
        """Return the entries that no report has sent in their final form."""
        provisional = self.provisional.remaining() if self.provisional is not None else []
        return [*self.not_yet_sent, *provisional]

    def paths(self) -> list[str]:
        """Return the paths of all entries as of the last scan."""
        return [*(entry.path for entry in self._entries.values()), *self._found_outside]

    def left_by(self, test: str) -> list[str]:
        """Return the paths that *test* has left so far, as of the last scan."""
        return [
            entry.path
            for entry in (*self._entries.values(), *self.not_yet_sent)
            if entry.test == test and entry.owner.is_of_one_test
        ]

    def mark_as_from_failed(self, entries: list[Entry]) -> None:
        """Mark those of *entries* that were not sent yet as left by a failed owner."""
        self.not_yet_sent = [
            e._replace(from_failed=True) if e in entries else e for e in self.not_yet_sent
        ]

    def mark_as_ignored(self, paths: AbstractSet[str]) -> None:
        """Mark the entries at *paths*, which were reported already."""

        def marked(entry: Entry) -> Entry:
            return entry._replace(ignored=True) if entry.path in paths else entry

        self.not_yet_sent = [marked(entry) for entry in self.not_yet_sent]
        # For an entry that is renamed later.
        self._entries.update({name: marked(entry) for name, entry in self._entries.items()})

    def adopt(self, entries: list[Entry]) -> None:
        """Add *entries*, which a forked child found, so that no scan reports them again."""
        for entry in entries:
            parent, _, name = entry.path.rpartition(os.sep)
            inode = identity(entry.path) if parent == self.worker_root else None
            if inode is not None:
                self._inodes[name] = inode
                self._entries[name] = entry

    def forget(self) -> None:
        """Forget all names, because the worker root was removed and created again."""
        self._save_moved_root()
        self.origins.forget()

    def _save_moved_root(self) -> None:
        """Forget all names until the directory that contained them is moved back."""
        being_removed = self.origins.being_removed
        left = ((name, inode) for name, inode in self._inodes.items() if name not in being_removed)
        self._of_moved_root.update(((name, inode), self._entries.get(name)) for name, inode in left)
        self._inodes.clear()
        self._entries.clear()

    def _names_with_hint(self) -> dict[str, int]:
        """Return the inodes of the existing names that have a hint, without a listing."""
        # A copy, because threads of the code under test may change it at the same time.
        names = ((name, System.join(self.worker_root, name)) for name in list(self.origins.hints))
        inodes = ((name, identity(path)) for name, path in names)
        return {name: inode for name, inode in inodes if inode is not None}

    def _record(self, names: dict[str, int], *, complete: bool) -> list[Entry]:
        known = self._inodes
        hints, being_removed = self.origins.hints, self.origins.being_removed
        found = []
        for name, inode in names.items():
            if known.get(name) == inode and not (name in being_removed and name in hints):
                continue
            if name not in hints and (name, inode) in self._of_moved_root:
                earlier = self._of_moved_root.pop((name, inode))
                if earlier is not None:
                    self._entries[name] = earlier
            else:
                self._entries[name] = self._entry(name, inode, hints.get(name))
                found.append(self._entries[name])
        if complete:
            for name in known.keys() - names.keys():
                del known[name]
                self._entries.pop(name, None)
        known.update(names)
        return found

    def _entry(self, name: str, inode: int, hint: Hint | None) -> Entry:
        path = System.join(self.worker_root, name)
        if hint is not None:
            source = hint.renamed
            if source in self._entries and self._inodes.get(source) == inode:
                return self._entries[source]._replace(path=path)
            return self._from_hint(path, hint)
        work = self.running.work
        if self._skipped_listing and self._last_test is not None:
            work = Work(self._last_test, self._last_test.id)
        processes = self.origins.processes
        started_one = processes.started_by(work)
        work, others = processes.likely_creator(work, self._may_lack_event(name))
        return Entry(
            path,
            *work,
            command=processes.last_command if started_one or not others else None,
            ignored=self._is_allowed(path, work.owner, work.test),
            worker=self._worker,
            seen=self.running.seconds(),
            processes=others,
        )

    def _may_lack_event(self, name: str) -> bool:
        """Whether Python code may have created *name* without an audit event at that time."""
        beside = next((name.removesuffix(s) for s in BESIDE_DATABASE if name.endswith(s)), None)
        if self._skipped_listing or beside in self._entries or beside in self.origins.hints:
            return True
        return not has_audit_event(System.join(self.worker_root, name))

    def _from_hint(self, path: str, hint: Hint) -> Entry:
        ignored = self._is_allowed(path, hint.owner, hint.test)
        return self.frame_filter.entry(
            path, hint, worker=self._worker, ignored=ignored, seen=self.running.seconds()
        )

    def _is_allowed(self, path: str, owner: Owner, test: str | None) -> bool:
        if self._ignored(path):
            return True
        allowed = self.allowed.get(test or "") if self.allowed else None
        return allowed is not None and owner.is_of_one_test and allowed(path)
