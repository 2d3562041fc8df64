"""The line of code that opened a descriptor: audit events, matched with the next scan."""

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
from pytest_tempres.leaks.frames import Hint
from pytest_tempres.leaks.frames import current_phase
from pytest_tempres.leaks.frames import current_stack
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.temp.audit import absolute
from pytest_tempres.leaks.temp.scan import BESIDE_DATABASE
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

#: How many events are kept between two scans: each holds a large stack.
_MAX_EVENTS: Final = 200
_UNNAMED: Final = getattr(os, "O_TMPFILE", 0)
#: The flags of `open` that the kernel keeps and that do not change later.
_FIXED_FLAGS: Final = os.O_RDONLY | os.O_WRONLY | os.O_RDWR | os.O_APPEND


class _Opening(NamedTuple):
    """An audit event that may open a descriptor."""

    #: A path, a descriptor that is being wrapped in a file object, or a new socket.
    what: str | int | weakref.ref[socket.socket]
    #: None if the event does not have them.
    flags: int | None
    hint: Hint


class Openings:
    """The audit events since the last scan that may have opened a descriptor."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._events: deque[_Opening] = deque(maxlen=_MAX_EVENTS)
        self._thread = _get_ident()
        self._threads: dict[int | None, Owner | None] = {}

    def on_event(self, event: str, args: tuple[Any, ...]) -> None:
        """Record *event*."""
        what, flags = args[0], None
        if event == "open":
            flags = args[2]
            # An import opens these files, and always closes them.
            if isinstance(what, str) and what.endswith(".pyc"):
                return
        elif event == "socket.__new__":
            if not isinstance(what, _Socket):
                return
            # A strong reference would keep an unreferenced socket from being closed.
            what = weakref.ref(what)
        elif event == "os.scandir":
            if isinstance(what, int):
                # It duplicates the descriptor, whose origin the event does not name.
                return
            what = os.curdir if what is None else what
        if not isinstance(what, (int, weakref.ref)):
            what = absolute(what)
        owner, test, phase = self._running.work
        if _get_ident() != self._thread:
            owner = self._threads.get(_get_native_id()) or owner
        hint = Hint(owner, test, phase or current_phase(), current_stack())
        self._events.append(_Opening(what, flags, hint))

    def is_full(self) -> bool:
        """Whether a scan is needed: the next event replaces the oldest. False in other threads."""
        return len(self._events) == _MAX_EVENTS and _get_ident() == self._thread

    def take(self) -> list[_Opening]:
        """Return the recorded events, and forget them."""
        # Threads of the code under test may add some at the same time.
        recorded, self._events = self._events, deque(maxlen=_MAX_EVENTS)
        return list(recorded)

    def scan(self) -> None:
        """Record the owner of new threads, which owns the descriptors that they open later.

        A thread that a test leaves running has no owner: it opens descriptors for later tests.
        """
        threads = {thread.native_id for thread in _enumerate()}
        if threads != self._threads.keys():
            running = self._running.owner
            wide = None if running.is_of_one_test else running
            before = self._threads
            self._threads = {thread: before.get(thread, wide) for thread in threads}


class Matches:
    """Finds the audit event that opened a descriptor.

    Call it for descriptors from the highest number to the lowest: the kernel assigns the lowest
    number that is free, so the highest number was opened last.

    :param openings: The recorded events, oldest first.
    """

    def __init__(self, openings: list[_Opening], frame_filter: FrameFilter) -> None:
        self._openings = openings
        self._frame_filter = frame_filter

    def certain(self, number: int, target: str) -> Hint | None:
        """Return the hint of the event that opened *number*, whose target is *target*."""
        if System.isabs(target):
            return self._file(number, target)
        return next((each.hint for each in self._sockets() if _number(each) == number), None)

    def likely(self, number: int, target: str) -> Hint | None:
        """Return the hint of an event that may have opened *number*."""
        openings = self._of_path(target) if System.isabs(target) else None
        hint = openings[-1].hint if openings else self._wrapped(number)
        if hint is None and target.startswith("socket:"):
            return self._detached()
        return hint

    def _file(self, number: int, target: str) -> Hint | None:
        openings = self._of_path(target)
        flags = names.mode(number) & _FIXED_FLAGS
        fitting = [
            each for each in openings if each.flags is None or each.flags & _FIXED_FLAGS == flags
        ]
        # Keep the last one, because duplicates raise no event.
        if len(fitting) > 1:
            openings.remove(fitting[-1])
        return fitting[-1].hint if fitting else None

    def _of_path(self, target: str) -> list[_Opening]:
        target = target.removesuffix(names.DELETED)
        openings = self._paths.get(target) or self._real_paths.get(target)
        if not openings:
            # An unnamed file (O_TMPFILE) is opened with the path of its directory.
            directory = System.dirname(target)
            within = self._paths.get(directory) or self._real_paths.get(directory) or ()
            openings = [each for each in within if (each.flags or 0) & _UNNAMED == _UNNAMED != 0]
        return openings

    @functools.cached_property
    def _paths(self) -> dict[str, list[_Opening]]:
        return _by_path(self._openings, str)

    @functools.cached_property
    def _real_paths(self) -> dict[str, list[_Opening]]:
        return _by_path(self._openings, System.realpath)

    def _wrapped(self, number: int) -> Hint | None:
        """Return the hint of a file object for *number*, as `subprocess` creates for its pipes."""
        return next((each.hint for each in reversed(self._openings) if each.what == number), None)

    def _detached(self) -> Hint | None:
        """Return the hint of a detached socket, if all such sockets have the same line."""
        hints = [each.hint for each in self._sockets() if _number(each) == -1]
        lines = {self._frame_filter.origin(hint.stack)[:1] for hint in hints}
        return hints[-1] if len(lines) == 1 else None

    def _sockets(self) -> Iterator[_Opening]:
        return (each for each in self._openings if isinstance(each.what, weakref.ref))


def _by_path(
    openings: list[_Opening], normalize: Callable[[str], str]
) -> dict[str, list[_Opening]]:
    found: dict[str, list[_Opening]] = {}
    for opening in openings:
        if isinstance(opening.what, str):
            suffixes = ("", *BESIDE_DATABASE) if opening.flags is None else ("",)
            path = normalize(opening.what)
            for suffix in suffixes:
                found.setdefault(path + suffix, []).append(opening)
    return found


def _number(opening: _Opening) -> int:
    """Return the descriptor of a socket; -1 if it is closed, detached or deallocated."""
    created = opening.what() if isinstance(opening.what, weakref.ref) else None
    return _fileno(created) if created is not None else -1
