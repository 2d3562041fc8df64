"""Which line opened a descriptor? Events come before the deed; a look tells what came of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
import functools
import os
import socket
import threading
from typing import Any
from typing import Final
from typing import NamedTuple
import weakref

from pytest_tempres.leaks.fds import names
from pytest_tempres.leaks.frames import FrameFilter
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.temp.audit import Hint
from pytest_tempres.leaks.temp.audit import absolute
from pytest_tempres.leaks.temp.audit import current_phase
from pytest_tempres.leaks.temp.audit import current_stack
from pytest_tempres.primitives._system import System

__all__ = ["EVENTS", "Matches", "Openings"]

EVENTS: Final[AbstractSet[str]] = frozenset(
    {"open", "os.scandir", "socket.__new__", "sqlite3.connect"}
)

# Captured because tests replace these functions.
_enumerate = threading.enumerate
_get_ident = threading.get_ident
_get_native_id = threading.get_native_id
_Socket = socket.socket
_fileno = socket.socket.fileno

#: Stacks are large, and of so many openings between two looks most are closed again.
_MOST: Final = 200
#: What an import opens and always closes.
_COMPILED: Final = ".pyc"
#: SQLite opens these beside a database, without a word.
_BESIDE_DATABASE: Final = ("", "-journal", "-wal", "-shm")
_UNNAMED: Final = getattr(os, "O_TMPFILE", 0)
#: Of the flags that a file was opened with, those that the kernel keeps and nobody changes.
_KEPT: Final = os.O_RDONLY | os.O_WRONLY | os.O_RDWR | os.O_APPEND


class _Opening(NamedTuple):
    """What an event announced."""

    #: A path, a number that is being wrapped, or a socket that is being made.
    what: str | int | weakref.ref[socket.socket]
    #: None where the event does not tell.
    flags: int | None
    hint: Hint


class Openings:
    """What events have announced since the last look.

    :param running: Who is running.
    """

    def __init__(self, running: Running) -> None:
        self._running = running
        self._noted: deque[_Opening] = deque(maxlen=_MOST)
        self._thread = _get_ident()
        self._threads: dict[int | None, Owner | None] = {}

    def on_event(self, event: str, args: tuple[Any, ...]) -> None:
        """Note what *event* announces."""
        what, flags = args[0], None
        if event == "open":
            flags = args[2]
            if isinstance(what, str) and what.endswith(_COMPILED):
                return
        elif event == "socket.__new__":
            if not isinstance(what, _Socket):
                return
            # To hold the socket itself would keep a forgotten one from being closed.
            what = weakref.ref(what)
        elif event == "os.scandir":
            if isinstance(what, int):
                # It makes a duplicate, and says nothing of where the original came from.
                return
            what = os.curdir if what is None else what
        if not isinstance(what, (int, weakref.ref)):
            what = absolute(what)
        running = self._running
        owner, test, phase = running.owner, running.test, running.phase
        if _get_ident() != self._thread:
            owner = self._threads.get(_get_native_id()) or owner
        stack = current_stack()
        self._noted.append(
            _Opening(what, flags, Hint(owner, test, phase or current_phase(), stack))
        )

    def full(self) -> bool:
        """Whether it is time to look, from a thread that can: others forget the oldest."""
        return len(self._noted) == _MOST and _get_ident() == self._thread

    def take(self) -> list[_Opening]:
        """Return what was noted, and forget it."""
        # Threads of the code under test go on taking notes.
        noted, self._noted = self._noted, deque(maxlen=_MOST)
        return list(noted)

    def scan(self) -> None:
        """Note for whom the threads work that are new: what they open later is that owner's.

        What one test starts and leaves running works for whoever comes next.
        """
        threads = {thread.native_id for thread in _enumerate()}
        if threads != self._threads.keys():
            running = self._running.owner
            wide = running if running.kind != "test" and running.scope != "function" else None
            before = self._threads
            self._threads = {thread: before.get(thread, wide) for thread in threads}


class Matches:
    """Finds the announcement that a descriptor came of.

    Descriptors have to be asked for from the highest number to the lowest: the
    kernel gives the lowest that is free, so the highest is the last one opened.

    :param openings: What was announced, oldest first.
    :param folder: Shows the frames of stacks.
    """

    def __init__(self, openings: list[_Opening], folder: FrameFilter) -> None:
        self._openings = openings
        self._folder = folder

    def announced(self, number: int, target: str) -> Hint | None:
        """Return what was announced of *number*, which leads to *target*."""
        if System.isabs(target):
            return self._file(number, target)
        return self._socket(number)

    def guessed(self, number: int, target: str) -> Hint | None:
        """Return what was announced of something that may have been *number*."""
        noted = self._of_path(target) if System.isabs(target) else None
        hint = noted[-1].hint if noted else self._wrapped(number)
        if hint is None and target.startswith("socket:"):
            return self._detached()
        return hint

    def _file(self, number: int, target: str) -> Hint | None:
        noted = self._of_path(target)
        flags = names.mode(number) & _KEPT
        fitting = [each for each in noted if each.flags is None or each.flags & _KEPT == flags]
        # A duplicate has none of its own.
        if len(fitting) > 1:
            noted.remove(fitting[-1])
        return fitting[-1].hint if fitting else None

    def _of_path(self, target: str) -> list[_Opening]:
        target = target.removesuffix(names.DELETED)
        noted = self._paths.get(target) or self._real_paths.get(target)
        if not noted:
            # Without a name it was opened by that of its directory.
            directory = System.dirname(target)
            within = self._paths.get(directory) or self._real_paths.get(directory) or ()
            noted = [each for each in within if (each.flags or 0) & _UNNAMED == _UNNAMED != 0]
        return noted

    @functools.cached_property
    def _paths(self) -> dict[str, list[_Opening]]:
        return _by_path(self._openings, str)

    @functools.cached_property
    def _real_paths(self) -> dict[str, list[_Opening]]:
        return _by_path(self._openings, System.realpath)

    def _wrapped(self, number: int) -> Hint | None:
        """Return who made a file object of *number*, as `subprocess` does of its pipes."""
        return next((each.hint for each in reversed(self._openings) if each.what == number), None)

    def _socket(self, number: int) -> Hint | None:
        return next((each.hint for each in self._sockets if _number(each) == number), None)

    def _detached(self) -> Hint | None:
        """Return who made a socket and kept nothing but its number, if only one can have."""
        hints = [each.hint for each in self._sockets if _number(each) == -1]
        lines = {self._folder.origin(hint.stack)[:1] for hint in hints}
        return hints[-1] if len(lines) == 1 else None

    @property
    def _sockets(self) -> Iterator[_Opening]:
        return (each for each in self._openings if isinstance(each.what, weakref.ref))


def _by_path(openings: list[_Opening], spelled: Callable[[str], str]) -> dict[str, list[_Opening]]:
    found: dict[str, list[_Opening]] = {}
    for opening in openings:
        if isinstance(opening.what, str):
            beside = _BESIDE_DATABASE if opening.flags is None else ("",)
            path = spelled(opening.what)
            for suffix in beside:
                found.setdefault(path + suffix, []).append(opening)
    return found


def _number(opening: _Opening) -> int:
    """Return the descriptor of a socket; -1 when it is closed, detached or forgotten."""
    created = opening.what() if isinstance(opening.what, weakref.ref) else None
    return _fileno(created) if created is not None else -1
