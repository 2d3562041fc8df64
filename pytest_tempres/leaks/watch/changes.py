"""The recorded changes in watched directories, of this process and of workers."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from typing import Final
from typing import NamedTuple

from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import entry_from_plain
from pytest_tempres.leaks.watch.tree import Modification
from pytest_tempres.leaks.watch.tree import State
from pytest_tempres.leaks.watch.tree import state
from pytest_tempres.primitives._system import System

__all__ = ["Change", "Changes"]

#: With more changes than this, those that have been undone are dropped.
_PRUNE_AT: Final = 1_000
#: In a payload: a change that was sent before was undone.
_UNDONE: Final = "undone"


class Change(NamedTuple):
    """A change of a path, named by an audit event or found by a listing."""

    modification: Modification
    #: The state of the path before the change.
    original: State | None
    entry: Entry


class Changes:
    """The changed paths, with one change for each."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._changes: dict[str, Change] = {}
        self._prune_at = _PRUNE_AT
        self._sent: set[str] = set()
        #: A dict, because a set would lose the order.
        self._not_yet_sent: dict[str, None] = {}
        self._adopted: dict[tuple[str, str], Entry] = {}

    def get(self, path: str) -> Change | None:
        """Return the change of *path* that this process has recorded."""
        return self._changes.get(path)

    def of(self, test: str) -> list[Change]:
        """Return the changes recorded during *test*, by any owner."""
        return [change for change in list(self._changes.values()) if change.entry.test == test]

    def keep(self, path: str, change: Change) -> None:
        """Record *change* of *path*, in place of an earlier one."""
        self._changes[path] = change
        self._not_yet_sent[path] = None

    def drop(self, path: str) -> None:
        """Forget *path*, which is in its original state again."""
        self._changes.pop(path, None)
        if path in self._sent:
            self._not_yet_sent[path] = None
        else:
            self._not_yet_sent.pop(path, None)

    def prune(self) -> None:
        """Drop changes that were undone without an audit event, which bounds memory."""
        if len(self._changes) <= self._prune_at:
            return
        for path, change in list(self._changes.items()):
            with suppress(OSError):
                if state(path) == change.original:
                    self.drop(path)
        self._prune_at = _PRUNE_AT + 2 * len(self._changes)

    def take_changes(self) -> list[Any]:
        """Return the changes since the last call, as JSON data."""
        not_yet_sent, self._not_yet_sent = self._not_yet_sent, {}
        payload: list[Any] = []
        for path in not_yet_sent:
            change = self._changes.get(path)
            if change is not None:
                payload.append([change.modification, change.entry])
                self._sent.add(path)
            else:
                payload.append([_UNDONE, Entry(path, SESSION, worker=self._worker)])
                self._sent.discard(path)
        return payload

    def adopt(self, payload: Iterable[Any]) -> None:
        """Add what :meth:`take_changes` returned in another process; the first change counts.

        :raises ValueError, TypeError: When *payload* is malformed.
        """
        for modification, plain in payload:
            entry = entry_from_plain(plain)
            for each in ("created", "changed", "deleted"):
                known = self._adopted.get((each, entry.path))
                if known is not None and known.worker == entry.worker:
                    del self._adopted[each, entry.path]
            if modification != _UNDONE:
                self._adopted.setdefault((modification, entry.path), entry)

    def entry_of(self, path: str, modification: Modification) -> Entry:
        """Return the entry for a change; it belongs to the session if the owner is uncertain."""
        found = self._find(path, modification)
        if found is None and modification == "changed":
            # It was removed without an event, and then created again.
            found = self._find(path, "created")
        if found is not None:
            return found
        inside = list(self._find_inside(System.join(path, ""), modification))
        if len({(entry.owner, entry.test) for entry in inside}) == 1:
            return inside[0]._replace(path=path)
        return Entry(path, SESSION, worker=self._worker)

    def _find(self, path: str, modification: Modification) -> Entry | None:
        change = self._changes.get(path)
        if change is not None and change.modification == modification:
            return change.entry
        return self._adopted.get((modification, path))

    def _find_inside(self, prefix: str, modification: Modification) -> Iterator[Entry]:
        for path, change in self._changes.items():
            if path.startswith(prefix) and change.modification == modification:
                yield change.entry
        for (known, path), entry in self._adopted.items():
            if path.startswith(prefix) and known == modification:
                yield entry
