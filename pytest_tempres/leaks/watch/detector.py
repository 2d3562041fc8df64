"""What has become of the directories that the user named? Events tell who, two walks tell what."""

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
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.model import Work
from pytest_tempres.leaks.temp.audit import EVENTS
from pytest_tempres.leaks.temp.audit import Hint
from pytest_tempres.leaks.temp.audit import current_stack
from pytest_tempres.leaks.temp.audit import current_work
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


#: Stacks are large: so many notes are taken before the disk is asked which still matter.
_MOST_NOTES: Final = 200


class _Note:
    """What events announced for one path since the last look."""

    __slots__ = ("before", "created", "gone", "remade", "top")

    def __init__(self, top: str, before: State | None) -> None:
        self.top = top
        #: What stood there before the first of them.
        self.before = before
        #: Who made or wrote it, the first since it last went; an entry where it was renamed.
        self.created: Hint | Entry | None = None
        self.remade = True
        #: Who removed it last.
        self.gone: Hint | None = None


class Watched:
    """New, changed and deleted paths in directories that the user named.

    Who did it is known where an audit event announced it and the next look found
    it done, and for the direct children of the named directories where they are
    listed. What only the walk at the end finds belongs to the session.

    :param directories: Absolute paths of directories that exist.
    :param running: Who is running.
    :param folder: Shows the frames of stacks.
    :param ignored: Tells whether the ini file lets an absolute path stay, with
        all that is in it.
    :param worker: The name by which reports call this process.
    :param attributes_mtimes: Whether what comes to a named directory or goes
        without an event is the doing of who is running: no other process runs tests.
    :param walks: Whether this process judges. Others, the workers of a
        controller, only collect what they hand over by :meth:`travelling`.
    :param exclude: Directories and files in which others keep their own order.
    :param collect: Collects garbage, before something is called left.
    """

    events: AbstractSet[str] = EVENTS

    def __init__(
        self,
        directories: Iterable[str],
        *,
        running: Running,
        folder: FrameFilter,
        ignored: Callable[[str], bool],
        worker: str,
        attributes_mtimes: bool,
        walks: bool,
        exclude: Iterable[str] = (),
        collect: Callable[[], object] = gc.collect,
    ) -> None:
        self._running = running
        self._folder = folder
        self._worker = worker
        self._pid = System.getpid()
        self._collect = collect
        directories = tuple(dict.fromkeys(map(System.normpath, directories)))
        self._tops = tuple(_spellings(directories))
        self._scope = Scope(map(self._spelled, exclude), ignored)
        self._notes: dict[str, _Note] = {}
        self._traces = Changes(worker)
        listed = directories if attributes_mtimes else ()
        self._children = {directory: Children(directory) for directory in listed}
        self._tree = Tree(directories if walks else (), self._scope)

    def exclude(self, path: str) -> None:
        """Leave out *path*, a directory or a file, and all that is in it."""
        self._scope.exclude(self._spelled(path))

    # -- what events say

    def on_event(self, event: str, args: tuple[Any, ...]) -> None:
        """Note what *event* announces, if it may change what is watched."""
        maker: Hint | Entry | None = None
        for path, goes in path_events(event, args):
            placed = self._place(path)
            if placed is None:
                continue
            if event == "os.rename" and goes:
                maker = self._maker(placed[1])
            self._note(*placed, goes, maker)

    def _spelled(self, path: str) -> str:
        """Return *path* below a named directory as that was named, others as they are."""
        path = System.normpath(path)
        for prefix, top in self._tops:
            if path.startswith(prefix):
                return System.join(top, path[len(prefix) :])
        return path

    def _place(self, path: str) -> tuple[str, str] | None:
        """Return the named directory that *path* is in, and the path as a walk spells it."""
        for prefix, top in self._tops:
            if path.startswith(prefix):
                below = path[len(prefix) :]
                if not self._scope.leaves_out_below(top, below):
                    return top, System.join(top, below)
            elif path + os.sep == prefix:
                return top, top
        return None

    def _note(self, top: str, path: str, goes: bool, maker: Hint | Entry | None) -> None:
        if self._is_in_something_new(top, path):
            return
        note = self._notes.get(path)
        if note is None:
            if len(self._notes) >= _MOST_NOTES:
                self._settle()
            note = self._notes.setdefault(path, _Note(top, state(path)))
        if goes:
            note.remade = True
            # Who removes what was made in this session leaves nothing to explain.
            note.gone = self._hint() if note.before is not None else None
        elif note.remade:
            note.created, note.remade = maker or self._hint(), False

    def _is_in_something_new(self, top: str, path: str) -> bool:
        """Whether *path* is part of a directory that was made in this session."""
        for parent in _between(top, path):
            note, trace = self._notes.get(parent), self._traces.get(parent)
            if note is not None and note.before is None:
                return True
            if trace is not None and trace.deed == "created":
                return True
        return False

    def _maker(self, path: str) -> Hint | Entry | None:
        """Return who made *path*, which is about to be renamed, in this session."""
        note, trace = self._notes.get(path), self._traces.get(path)
        if trace is not None and trace.deed == "created":
            return trace.entry
        return note.created if note is not None and note.before is None else None

    def _hint(self) -> Hint:
        return Hint(*current_work(self._running), current_stack())

    # -- what looks find

    def scan(self) -> None:
        """Book what has come of the events since the last look, for those who were running then."""
        if System.getpid() != self._pid:
            return
        if self._notes:
            self._settle()
        for directory, children in self._children.items():
            came, went = children.changes()
            for name in came:
                self._came(System.join(directory, name))
            for name in went:
                self._went(System.join(directory, name))
        self._traces.prune()

    def _settle(self) -> None:
        # Threads of the code under test go on taking notes.
        notes, self._notes = self._notes, {}
        for path, note in notes.items():
            # Where nobody can look, nobody can accuse.
            with suppress(OSError):
                self._book(path, note)

    def _book(self, path: str, note: _Note) -> None:
        now = state(path)
        known = self._traces.get(path)
        # What is made may have gone unseen before, and is made anew then.
        original = known.original if known is not None else note.before or self._tree.recorded(path)
        if now == original:
            self._traces.drop(path)
            return
        deed: Modification = (
            "created" if original is None else "deleted" if now is None else "changed"
        )
        if known is not None and known.deed == deed and None not in (note.before, now):
            return
        maker = note.gone if now is None else note.created
        if maker is not None and self._counts(note.top, path):
            self._traces.keep(path, Change(deed, original, self._entry(path, maker)))

    def _counts(self, top: str, path: str) -> bool:
        """Whether a walk would come to *path*: no link leads there, and it may not stay."""
        if self._scope.ignores(path):
            return False
        for parent in _between(top, path):
            found = state(parent)
            if self._scope.ignores(parent) or (found is not None and found[0] == "symlink"):
                return False
        return True

    def _entry(self, path: str, maker: Hint | Entry) -> Entry:
        if isinstance(maker, Entry):
            return maker._replace(path=path)
        return Entry(
            path,
            maker.owner,
            maker.test,
            maker.phase,
            self._folder.origin(maker.stack),
            made_by="python",
            worker=self._worker,
        )

    def _came(self, path: str) -> None:
        known, original = self._traces.get(path), self._tree.recorded(path)
        if original is not None:
            if known is not None and known.deed == "deleted":
                self._traces.drop(path)
        elif known is None:
            self._keep_unseen("created", path, None)

    def _went(self, path: str) -> None:
        known, original = self._traces.get(path), self._tree.recorded(path)
        if original is None:
            self._traces.drop(path)
        elif known is None or known.deed != "deleted":
            self._keep_unseen("deleted", path, original)

    def _keep_unseen(self, deed: Modification, path: str, original: State | None) -> None:
        """Book what no event told of for who is running."""
        if self._scope.leaves_out(path, System.basename(path)) or self._scope.ignores(path):
            return
        running = self._running
        work = Work(running.owner, running.test, running.phase)
        (owner, test, phase), others = running.likely_creator(work, False)
        entry = Entry(path, owner, test, phase, worker=self._worker, processes=others)
        self._traces.keep(path, Change(deed, original, entry))

    # -- what is handed over

    def travelling(self) -> list[Any]:
        """Return what has been found since the last call, in the form that JSON keeps.

        It works in a forked child too, for what happened there.
        """
        self._settle()
        return self._traces.travelling()

    def adopt(self, told: Iterable[Any]) -> None:
        """Know what another process told by :meth:`travelling`.

        :raises ValueError, TypeError: When it is something else.
        """
        self._traces.adopt(told)

    # -- what is judged

    def due(self, test: str) -> list[Leak]:
        """Return what events of *test* and its function-scoped fixtures have changed for good.

        It works in a forked child too, for what happened there.
        """
        self._settle()
        done = [
            Difference(trace.entry.path, trace.deed, trace.original)
            for trace in self._traces.of(test)
            if trace.entry.owner.scope in (None, "function") and trace.entry.made_by == "python"
        ]
        return self._leaks(self._countable(done))

    def judge(self) -> list[Leak]:
        """Walk once more and return what is not as it was; nothing where nobody walked before."""
        if System.getpid() != self._pid:
            return []
        self._settle()
        return self._leaks(list(self._tree.differences()))

    def _countable(self, done: list[Difference]) -> list[Difference]:
        """Return the topmost of what was *done*, without what may stay."""
        paths = {each.path for each in done}
        return [
            each
            for each in done
            if paths.isdisjoint(_between("", each.path))
            and self._place(each.path) is not None
            and not (each.deed == "created" and self._scope.ignores_all_in(each.path))
        ]

    def _leaks(self, differences: list[Difference]) -> list[Leak]:
        if differences:
            # Objects in a reference cycle may have promised to remove it.
            self._collect()
        leaks = (self._leak(each) for each in sorted(differences) if _is_still_so(each))
        return [leak for leak in leaks if leak is not None]

    def _leak(self, difference: Difference) -> Leak | None:
        path, deed, _, items = difference
        entry = self._traces.explain(path, deed)
        if deed == "deleted":
            return Leak(deed, path, 0, items, complete=True, status="leak", entry=entry)
        found = measure(path)
        if found is None:
            return None
        kind = found.kind if deed == "created" else deed
        return Leak(kind, path, found.bytes, found.items, found.complete, "leak", entry)


def _spellings(directories: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each way to spell one of *directories*, a separator at its end, with its given name."""
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


def _is_still_so(difference: Difference) -> bool:
    try:
        return state(difference.path) != difference.before
    except OSError:
        return False
