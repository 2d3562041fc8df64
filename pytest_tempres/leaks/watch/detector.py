"""The detector of changes in watched directories, with two walks and the audit events."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
import gc
import os
from typing import Any
from typing import Final

from pytest_tempres.leaks.frames import FrameFilter
from pytest_tempres.leaks.frames import Hint
from pytest_tempres.leaks.frames import new_hint
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.temp.audit import EVENTS
from pytest_tempres.leaks.temp.audit import path_events
from pytest_tempres.leaks.temp.scan import measure
from pytest_tempres.leaks.watch.changes import Change
from pytest_tempres.leaks.watch.changes import Changes
from pytest_tempres.leaks.watch.tree import Children
from pytest_tempres.leaks.watch.tree import Difference
from pytest_tempres.leaks.watch.tree import Modification
from pytest_tempres.leaks.watch.tree import Scope
from pytest_tempres.leaks.watch.tree import State
from pytest_tempres.leaks.watch.tree import Tree
from pytest_tempres.leaks.watch.tree import state
from pytest_tempres.primitives._system import System

__all__ = ["Watched"]


#: With events for this many paths, which hold large stacks, those without an effect are dropped.
_MAX_PATHS: Final = 200


class _PathEvents:
    """The audit events for one path since the last scan, and its state before them."""

    __slots__ = ("awaits_creation", "before", "created_by", "removed_by", "top")

    def __init__(self, top: str, before: State | None) -> None:
        self.top = top
        self.before = before
        #: The first event since its last removal; an entry if it was renamed.
        self.created_by: Hint | Entry | None = None
        self.awaits_creation = True
        #: The last event that removed it.
        self.removed_by: Hint | None = None


class Watched:
    """New, changed and deleted paths in directories that the user named.

    The owner of a change is known if an audit event named the path and the next scan confirmed
    it, and for direct children of the watched directories where these are listed. A change that
    only the final walk finds belongs to the session.

    :param directories: Absolute paths of directories that exist.
    :param ignored: Returns whether the ini file says to ignore an absolute path and everything
        in it.
    :param worker: The name of this worker in reports.
    :param attributes_mtimes: Whether paths that appear in or disappear from a watched directory
        without an event belong to the current owner: only if no other process runs tests.
    :param walks: Whether this process walks the directories and reports leaks. The workers of a
        controller do not; they only send changes, by :meth:`take_changes`.
    :param exclude: Directories and files to leave out.
    :param collect: Collects garbage before leaks are reported.
    """

    events: AbstractSet[str] = EVENTS

    def __init__(
        self,
        directories: Iterable[str],
        *,
        running: Running,
        frame_filter: FrameFilter,
        ignored: Callable[[str], bool],
        worker: str,
        attributes_mtimes: bool,
        walks: bool,
        exclude: Iterable[str] = (),
        collect: Callable[[], object] = gc.collect,
    ) -> None:
        self._running = running
        self._frame_filter = frame_filter
        self._worker = worker
        self._pid = System.getpid()
        self._collect = collect
        directories = tuple(dict.fromkeys(map(System.normpath, directories)))
        self._tops = tuple(_spellings(directories))
        self._scope = Scope(map(self._spelled, exclude), ignored)
        self._pending: dict[str, _PathEvents] = {}
        self.changes = Changes(worker)
        listed = directories if attributes_mtimes else ()
        self._children = {directory: Children(directory) for directory in listed}
        self._tree = Tree(directories if walks else (), self._scope)

    def exclude(self, path: str) -> None:
        """Leave out *path*, a directory or a file, and everything in it."""
        self._scope.exclude(self._spelled(path))

    # -- audit events

    def on_event(self, event: str, args: tuple[Any, ...]) -> None:
        """Record *event* until the next scan if it may change a watched directory."""
        actor: Hint | Entry | None = None
        for path, is_removed in path_events(event, args):
            located = self._locate(path)
            if located is None:
                continue
            if event == "os.rename" and is_removed:
                actor = self._creator(located[1])
            self._add_event(*located, is_removed, actor)

    def _spelled(self, path: str) -> str:
        """Return *path* with the watched directory spelled as the user did."""
        path = System.normpath(path)
        for prefix, top in self._tops:
            if path.startswith(prefix):
                return System.join(top, path[len(prefix) :])
        return path

    def _locate(self, path: str) -> tuple[str, str] | None:
        """Return the watched directory of *path*, and the path as a walk spells it."""
        for prefix, top in self._tops:
            if path.startswith(prefix):
                below = path[len(prefix) :]
                if not self._scope.excludes_below(top, below):
                    return top, System.join(top, below)
            elif path + os.sep == prefix:
                return top, top
        return None

    def _add_event(self, top: str, path: str, is_removed: bool, actor: Hint | Entry | None) -> None:
        if any(self._creator(parent) is not None for parent in _between(top, path)):
            # The new directory is reported, not its contents.
            return
        events = self._pending.get(path)
        if events is None:
            if len(self._pending) >= _MAX_PATHS:
                self._process_events()
            events = self._pending.setdefault(path, _PathEvents(top, state(path)))
        if is_removed:
            events.awaits_creation = True
            # Removing what was created in this session leaves nothing to report.
            events.removed_by = new_hint(self._running) if events.before is not None else None
        elif events.awaits_creation:
            events.created_by = actor or new_hint(self._running)
            events.awaits_creation = False

    def _creator(self, path: str) -> Hint | Entry | None:
        """Return the event or the entry for the creation of *path* in this session, if any."""
        events, change = self._pending.get(path), self.changes.get(path)
        if change is not None and change.modification == "created":
            return change.entry
        return events.created_by if events is not None and events.before is None else None

    # -- scans

    def scan(self) -> None:
        """Record the effects of the events since the last scan, for the owners at that time."""
        if System.getpid() != self._pid:
            return
        if self._pending:
            self._process_events()
        for directory, children in self._children.items():
            appeared, disappeared = children.changes()
            for name in appeared:
                self._on_listed(System.join(directory, name), "created", "deleted")
            for name in disappeared:
                self._on_listed(System.join(directory, name), "deleted", "created")
        self.changes.prune()

    def _process_events(self) -> None:
        # Threads of the code under test may add some at the same time.
        pending, self._pending = self._pending, {}
        for path, events in pending.items():
            # Do not report a path whose state is unknown.
            with suppress(OSError):
                self._record(path, events)

    def _record(self, path: str, events: _PathEvents) -> None:
        now = state(path)
        known = self.changes.get(path)
        if known is not None:
            original = known.original
        else:
            # A path that is created may have existed before, and been removed without an event.
            original = events.before or self._tree.recorded(path)
        if now == original:
            self.changes.drop(path)
            return
        modification: Modification = "created" if original is None else "changed"
        actor: Hint | Entry | None = events.created_by
        if now is None:
            modification, actor = "deleted", events.removed_by
        elif events.before is not None and known is not None and known.modification == modification:
            # The owner of the first change is reported.
            return
        if actor is not None and self._is_reportable(events.top, path):
            self.changes.keep(path, Change(modification, original, self._entry(path, actor)))

    def _is_reportable(self, top: str, path: str) -> bool:
        """Whether a walk would reach *path*: not through a link, and not ignored."""
        if self._scope.ignores(path):
            return False
        for parent in _between(top, path):
            found = state(parent)
            if self._scope.ignores(parent) or (found is not None and found[0] == "symlink"):
                return False
        return True

    def _entry(self, path: str, actor: Hint | Entry) -> Entry:
        if isinstance(actor, Entry):
            return actor._replace(path=path)
        return self._frame_filter.entry(path, actor, worker=self._worker)

    def _on_listed(self, path: str, done: Modification, undone: Modification) -> None:
        """Record that *path* has appeared or disappeared, for the current owner."""
        known, original = self.changes.get(path), self._tree.recorded(path)
        modification = None if known is None else known.modification
        if (original is None) == (done == "deleted"):
            if modification == undone:
                self.changes.drop(path)
        elif modification != done and not (
            self._scope.excludes(path, System.basename(path)) or self._scope.ignores(path)
        ):
            work, others = self._running.likely_creator(self._running.work, False)
            entry = Entry(path, *work, worker=self._worker, processes=others)
            self.changes.keep(path, Change(done, original, entry))

    def take_changes(self) -> list[Any]:
        """Return the changes since the last call, as JSON data.

        Works in a forked child too, for the changes made there.
        """
        self._process_events()
        return self.changes.take_changes()

    # -- leaks

    def leaks_of(self, test: str) -> list[Leak]:
        """Return the lasting changes by events of *test* and its function-scoped fixtures.

        Works in a forked child too, for the changes made there.
        """
        self._process_events()
        found = [
            Difference(change.entry.path, change.modification, change.original)
            for change in self.changes.of(test)
            if change.entry.owner.is_of_one_test and change.entry.made_by == "python"
        ]
        return self._leaks(self._topmost(found))

    def judge(self) -> list[Leak]:
        """Walk once more and return the differences; none if this process took no snapshot."""
        if System.getpid() != self._pid:
            return []
        self._process_events()
        return self._leaks(list(self._tree.differences()))

    def _topmost(self, found: list[Difference]) -> list[Difference]:
        """Return the topmost of *found*, without directories in which everything is ignored."""
        paths = {each.path for each in found}
        return [
            each
            for each in found
            if paths.isdisjoint(_between("", each.path))
            and self._locate(each.path) is not None
            and not (each.modification == "created" and self._scope.ignores_all_in(each.path))
        ]

    def _leaks(self, differences: list[Difference]) -> list[Leak]:
        if differences:
            # An object in a reference cycle may remove its path when it is collected.
            self._collect()
        leaks = (self._leak(each) for each in sorted(differences) if _still_differs(each))
        return [leak for leak in leaks if leak is not None]

    def _leak(self, difference: Difference) -> Leak | None:
        path, modification, _, items = difference
        entry = self.changes.entry_of(path, modification)
        if modification == "deleted":
            return Leak(modification, path, 0, items, complete=True, status="leak", entry=entry)
        found = measure(path)
        if found is None:
            return None
        kind = found.kind if modification == "created" else modification
        return Leak(kind, path, *found[1:], "leak", entry)


def _spellings(directories: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each spelling of *directories*, with a separator at its end, and the original path."""
    for directory in directories:
        for spelling in dict.fromkeys((directory, System.realpath(directory))):
            yield System.join(spelling, ""), directory


def _between(top: str, path: str) -> Iterator[str]:
    """Yield the directories between *top* and *path*, deepest first, without either."""
    end = path.rfind(os.sep)
    while end > len(top):
        path = path[:end]
        yield path
        end = path.rfind(os.sep)


def _still_differs(difference: Difference) -> bool:
    try:
        return state(difference.path) != difference.before
    except OSError:
        return False
