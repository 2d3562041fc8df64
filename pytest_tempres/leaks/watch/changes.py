"""Who is known to have done what? Found in this process, or told by others."""

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

#: So many are kept before it is asked whether what they tell of is still so.
_PRUNE_AT: Final = 1_000
#: On the wire: what was told before is not so any more.
_UNDONE: Final = "undone"


class Change(NamedTuple):
    """Somebody did something to a path, and a look found it done."""

    deed: Modification
    #: What stood there before.
    original: State | None
    entry: Entry


class Changes:
    """One trace for each path that is not what it was.

    :param worker: The name by which reports call this process.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._traces: dict[str, Change] = {}
        self._prune_at = _PRUNE_AT
        self._reported: set[str] = set()
        #: In the order of time, which a set would lose.
        self._untold: dict[str, None] = {}
        self._adopted: dict[tuple[str, str], Entry] = {}

    def get(self, path: str) -> Change | None:
        """Return what this process knows of *path*."""
        return self._traces.get(path)

    def of(self, test: str) -> list[Change]:
        """Return what happened while *test* ran, whoever did it."""
        return [trace for trace in list(self._traces.values()) if trace.entry.test == test]

    def keep(self, path: str, trace: Change) -> None:
        """Know *trace* of *path*, in place of what was known."""
        self._traces[path] = trace
        self._untold[path] = None

    def drop(self, path: str) -> None:
        """Forget *path*, which is what it was."""
        self._traces.pop(path, None)
        if path in self._reported:
            self._untold[path] = None
        else:
            self._untold.pop(path, None)

    def prune(self) -> None:
        """Drop what was undone unseen, now and then.

        A suite that cleans up by other means than Python's needs no more memory so.
        """
        if len(self._traces) <= self._prune_at:
            return
        for path, trace in list(self._traces.items()):
            with suppress(OSError):
                if state(path) == trace.original:
                    self.drop(path)
        self._prune_at = _PRUNE_AT + 2 * len(self._traces)

    def travelling(self) -> list[Any]:
        """Return what is new since the last call, in the form that JSON keeps."""
        untold, self._untold = self._untold, {}
        told: list[Any] = []
        for path in untold:
            trace = self._traces.get(path)
            if trace is not None:
                told.append([trace.deed, trace.entry])
                self._reported.add(path)
            else:
                told.append([_UNDONE, Entry(path, SESSION, worker=self._worker)])
                self._reported.discard(path)
        return told

    def adopt(self, told: Iterable[Any]) -> None:
        """Know what another process told by :meth:`travelling`.

        Where two tell the same of one path the first to arrive is believed.

        :raises ValueError, TypeError: When it is something else.
        """
        for deed, plain in told:
            entry = entry_from_plain(plain)
            for each in ("created", "changed", "deleted"):
                known = self._adopted.get((each, entry.path))
                if known is not None and known.worker == entry.worker:
                    del self._adopted[each, entry.path]
            if deed != _UNDONE:
                self._adopted.setdefault((deed, entry.path), entry)

    def explain(self, path: str, deed: Modification) -> Entry:
        """Return who did it; the session where that cannot be told for sure."""
        found = self._exactly(path, deed)
        if found is None and deed == "changed":
            # It had gone unseen before it was made anew.
            found = self._exactly(path, "created")
        if found is not None:
            return found
        inside = list(self._inside(System.join(path, ""), deed))
        if len({(entry.owner, entry.test) for entry in inside}) == 1:
            return inside[0]._replace(path=path)
        return Entry(path, SESSION, worker=self._worker)

    def _exactly(self, path: str, deed: Modification) -> Entry | None:
        trace = self._traces.get(path)
        if trace is not None and trace.deed == deed:
            return trace.entry
        return self._adopted.get((deed, path))

    def _inside(self, prefix: str, deed: Modification) -> Iterator[Entry]:
        for path, trace in self._traces.items():
            if path.startswith(prefix) and trace.deed == deed:
                yield trace.entry
        for (told, path), entry in self._adopted.items():
            if path.startswith(prefix) and told == deed:
                yield entry
