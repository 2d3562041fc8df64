"""Who owns what has appeared? Owners come and go; each look books what is new."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import os
from typing import TYPE_CHECKING
from typing import Final

from pytest_tempres.leaks.frames import Folder
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Phase
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.model import Work
from pytest_tempres.leaks.temp.audit import Hint
from pytest_tempres.leaks.temp.audit import Origins
from pytest_tempres.leaks.temp.scan import Scan
from pytest_tempres.leaks.temp.scan import identity
from pytest_tempres.leaks.temp.scan import is_announced
from pytest_tempres.primitives._system import System

if TYPE_CHECKING:
    from pytest_tempres.leaks.deferred import Provisional
    from pytest_tempres.leaks.model import Detector

__all__ = ["Ledger", "State"]

#: What :meth:`Ledger.enter` returns and :meth:`Ledger.leave` takes.
State = tuple[Owner, str | None, Phase | None]

#: SQLite makes these beside a database, and no event tells of it.
_BESIDE_DATABASE: Final = ("-journal", "-wal", "-shm")


class Ledger:
    """The owners of one session and the entries that they made.

    :param worker_root: The directory that is looked at.
    :param worker: The name by which reports call this worker.
    :param rootdir: The directory that source files are named relative to.
    :param prefixes: Other spellings of the worker root, resolved links for instance.
    :param inside: Directories in which nothing is foreign.
    :param ignored: Tells whether the ini file lets a path stay.
    :param temp: Whether the worker root is looked at at all.
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
        #: Entries that no report has carried away yet.
        self.not_yet_sent: list[Entry] = []
        self.folder = Folder(rootdir, plugins)
        self.worker_root = worker_root
        self._worker = worker
        self._ignored = ignored
        self._look = Scan(worker_root)
        self._inodes: dict[str, int] = {}
        self._entries: dict[str, Entry] = {}
        #: What was in the worker root when that was moved or removed, by name and inode.
        self._aside: dict[tuple[str, int], Entry | None] = {}
        self._found_outside: list[str] = []
        self._last_test: Owner | None = None
        self._behind = False
        self._temp = temp
        #: Whether a test's marker lets a path stay, of tests that something of may go on after.
        self.allowed: dict[str, Callable[[str], bool]] = {}
        #: Who failed, or was interrupted: what other detectors find of them is evidence.
        self.failed_owners: set[Owner] = set()
        #: What a controller is told of entries that somebody may still remove.
        self.provisional: Provisional | None = None
        #: What is looked at besides the worker root.
        self.detectors: list[Detector] = []
        self.origins = Origins(
            tuple(System.join(path, "") for path in (worker_root, *prefixes)),
            inside,
            self._inodes,
            self.running,
        )

    def add(self, detector: Detector) -> None:
        """Let *detector* look whenever the owner changes."""
        self.detectors.append(detector)
        self.origins.add(detector)

    def enter(self, owner: Owner, *, test: str | None, phase: Phase | None = None) -> State:
        """Make *owner* the one who is running, and return who was."""
        running = self.running
        before = (running.owner, running.test, running.phase)
        running.owner, running.test, running.phase = owner, test, phase
        if owner.kind == "test":
            self._last_test = owner
            self.origins.threads.release()
        return before

    def leave(self, before: State) -> None:
        """Give the floor back to who ran before."""
        running = self.running
        running.owner, running.test, running.phase = before

    def scan(self, *, final: bool = False) -> list[Entry]:
        """Book what has appeared since the last look.

        Without a hint it belongs to who is running, or, where listings had to be
        spaced out, to the last test.

        :param final: List the directory whatever it costs.
        :returns: The new entries, which stand in `not_yet_sent` too.
        :raises FileNotFoundError: When the worker root is gone.
        :raises PermissionError: When a test has closed it.
        """
        self.origins.threads.scan()
        for detector in self.detectors:
            detector.scan()
        found = self._find(final=final)
        # Who runs next has nothing to do with what has ended by now.
        self.origins.processes.scan()
        return found

    def _find(self, *, final: bool) -> list[Entry]:
        found: list[Entry] = []
        if not self._temp:
            self.origins.outside.clear()
            self.origins.forget()
            return found
        if self._look.changed() or final:
            if self._look.is_another():
                self._set_aside()
            if final or self._look.affordable():
                found = self._book(self._look.names(), complete=True)
                self._behind = False
            else:
                found = self._book(self._hinted(), complete=False)
                self._look.put_off()
                self._behind = True
        if self.origins.outside:
            found += self._outside()
        self.origins.forget()
        self.not_yet_sent += found
        return found

    def remaining(self) -> list[Entry]:
        """Return what no report has told of for good, at the end of a process that has not died."""
        rest = self.provisional.rest() if self.provisional is not None else []
        return [*self.not_yet_sent, *rest]

    def paths(self) -> list[str]:
        """Return the paths of all entries that the last look knew."""
        return [*(entry.path for entry in self._entries.values()), *self._found_outside]

    def left_by(self, test: str) -> list[str]:
        """Return the paths of what *test* left so far, as the last look knew it."""
        return [
            entry.path
            for entry in (*self._entries.values(), *self.not_yet_sent)
            if entry.test == test and entry.owner.scope in (None, "function")
        ]

    def mark_as_from_failed(self, entries: list[Entry]) -> None:
        """Book *entries*, found just now by who is over, as left by something that failed."""
        self.not_yet_sent = [
            e._replace(from_failed=True) if e in entries else e for e in self.not_yet_sent
        ]

    def adopt(self, entries: list[Entry]) -> None:
        """Know *entries*, which a forked child found, so that no look finds them again."""
        for entry in entries:
            parent, _, name = entry.path.rpartition(os.sep)
            inode = identity(entry.path) if parent == self.worker_root else None
            if inode is not None:
                self._inodes[name] = inode
                self._entries[name] = entry

    def forget(self) -> None:
        """Forget all names, since the worker root is gone and made anew."""
        self._set_aside()
        self.origins.forget()

    def _set_aside(self) -> None:
        """Forget all names until the directory comes back that they were in."""
        going = self.origins.going
        left = ((name, inode) for name, inode in self._inodes.items() if name not in going)
        self._aside.update(((name, inode), self._entries.get(name)) for name, inode in left)
        self._inodes.clear()
        self._entries.clear()

    def _hinted(self) -> dict[str, int]:
        """Return the inodes of the hinted names that exist, without listing."""
        # A copy, since threads of the code under test go on.
        names = ((name, System.join(self.worker_root, name)) for name in list(self.origins.hints))
        inodes = ((name, identity(path)) for name, path in names)
        return {name: inode for name, inode in inodes if inode is not None}

    def _book(self, names: dict[str, int], *, complete: bool) -> list[Entry]:
        known = self._inodes
        hints, going = self.origins.hints, self.origins.going
        found = []
        for name, inode in names.items():
            if known.get(name) != inode or (name in going and name in hints):
                if name not in hints and (name, inode) in self._aside:
                    self._take_back(name, inode)
                    continue
                entry = self._entry(name, inode, hints.get(name))
                self._entries[name] = entry
                found.append(entry)
        if complete:
            for name in known.keys() - names.keys():
                del known[name]
                self._entries.pop(name, None)
        known.update(names)
        return found

    def _take_back(self, name: str, inode: int) -> None:
        entry = self._aside.pop((name, inode))
        if entry is not None:
            self._entries[name] = entry

    def _entry(self, name: str, inode: int, hint: Hint | None) -> Entry:
        path = System.join(self.worker_root, name)
        if hint is not None:
            source = hint.renamed
            if source in self._entries and self._inodes.get(source) == inode:
                return self._entries[source]._replace(path=path)
            return self._from_hint(path, hint)
        running = self.running
        work = Work(running.owner, running.test, running.phase)
        if self._behind and self._last_test is not None:
            work = Work(self._last_test, self._last_test.id)
        processes = self.origins.processes
        started_one = processes.started_by(work)
        (owner, test, phase), others = processes.maker(work, self._is_unannounced(name))
        return Entry(
            path,
            owner,
            test,
            phase,
            command=processes.last_command if started_one or not others else None,
            ignored=self._is_allowed(path, owner, test),
            worker=self._worker,
            processes=others,
        )

    def _is_unannounced(self, name: str) -> bool:
        """Whether nobody can tell what made *name*: an event of ours would not, nor the time."""
        beside = next((name.removesuffix(s) for s in _BESIDE_DATABASE if name.endswith(s)), None)
        if self._behind or beside in self._entries or beside in self.origins.hints:
            return True
        return not is_announced(System.join(self.worker_root, name))

    def _from_hint(self, path: str, hint: Hint) -> Entry:
        return Entry(
            path,
            hint.owner,
            hint.test,
            hint.phase,
            self.folder.fold(hint.stack),
            made_by="python",
            ignored=self._is_allowed(path, hint.owner, hint.test),
            worker=self._worker,
        )

    def _is_allowed(self, path: str, owner: Owner, test: str | None) -> bool:
        if self._ignored(path):
            return True
        allowed = self.allowed.get(test or "") if self.allowed else None
        return allowed is not None and owner.scope in (None, "function") and allowed(path)

    def _outside(self) -> list[Entry]:
        outside, self.origins.outside = self.origins.outside, {}
        found = [
            self._from_hint(path, hint)
            for path, hint in outside.items()
            if identity(path) is not None
        ]
        self._found_outside += [entry.path for entry in found]
        return found
