"""Which line created it? The session that is active listens to audit events.

An audit event comes before the deed and cannot be taken back, so what is
recorded here is a hint; only a look at the disk makes an entry of it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Container
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
import os
import sys
from types import CodeType
from types import FrameType
from typing import TYPE_CHECKING
from typing import Any
from typing import Final
from typing import NamedTuple

from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Phase
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.model import Work
from pytest_tempres.leaks.processes import EVENTS as _PROCESSES
from pytest_tempres.leaks.processes import Processes
from pytest_tempres.leaks.temp.scan import exists
from pytest_tempres.leaks.threads import EVENTS as _STARTS
from pytest_tempres.leaks.threads import Threads
from pytest_tempres.primitives._process import AUDIT_HOOK
from pytest_tempres.primitives._process import listen
from pytest_tempres.primitives._process import stop_listening
from pytest_tempres.primitives._system import System

if TYPE_CHECKING:
    from pytest_tempres.leaks.model import Detector

__all__ = [
    "EVENTS",
    "Announced",
    "Hint",
    "Origins",
    "RawFrame",
    "absolute",
    "activate",
    "announced",
    "current_phase",
    "current_stack",
    "current_work",
    "deactivate",
]

#: A code object and a line: what a frame costs least to remember by.
RawFrame = tuple[CodeType, int]

_DEPTH: Final = 100
#: So long a thread may take from its hint to its deed.
_OVERTAKEN_SECONDS: Final = 1.0
_PHASES: Final[dict[str, Phase]] = {"(setup)": "setup", "(call)": "call", "(teardown)": "teardown"}
#: Where pytest starts to run what others wrote; all that lies further is pytest's own way there.
_ENTRANCES: Final = (
    os.path.join(os.sep, "_pytest", "runner.py"),
    os.path.join(os.sep, "_pytest", "main.py"),
    os.path.join(os.sep, "_pytest", "config", "__init__.py"),
)
#: Whether a file is one of these, by its name: every event asks this of some twenty frames.
_entrances: Final[dict[str, bool]] = {}
_getframe = sys._getframe  # noqa: SLF001 -- the one way to a stack; CPython alone is supported


class Hint(NamedTuple):
    """Who was about to create something, and where in the code."""

    owner: Owner
    test: str | None
    phase: Phase | None
    stack: tuple[RawFrame, ...]
    #: The name that the entry had before it was renamed.
    renamed: str | None = None


def _opened(args: tuple[Any, ...]) -> object:
    return args[0] if isinstance(args[2], int) and args[2] & os.O_CREAT else None


def _directory(args: tuple[Any, ...]) -> object:
    # A path relative to a descriptor (anything but -1) cannot be told from here.
    return args[0] if len(args) < 3 or args[2] in (-1, None) else None


def _target(args: tuple[Any, ...]) -> object:
    return args[1] if all(fd in (-1, None) for fd in args[3:]) else None


def _link_target(args: tuple[Any, ...]) -> object:
    return args[1] if len(args) < 3 or args[2] in (-1, None) else None


def _removed(args: tuple[Any, ...]) -> object:
    return args[0] if args[1] in (-1, None) else None


def _database(args: tuple[Any, ...]) -> object:
    # Python 3.10 tells it as bytes.
    name = System.fsdecode(args[0])
    if name.startswith("file:"):
        # A URI, which may name a host before the path.
        name = name[len("file:") :].partition("?")[0]
        return name[name.find("/", 2) :] if name.startswith("//") else name
    return name


def _first(args: tuple[Any, ...]) -> object:
    return args[0]


def _address(args: tuple[Any, ...]) -> object:
    return args[1] if isinstance(args[1], (str, bytes)) else None


#: Which argument of an event is the path that is about to exist, or to go.
_PATHS: Final[dict[str, Callable[[tuple[Any, ...]], object]]] = {
    "open": _opened,
    "os.mkdir": _directory,
    "os.rename": _target,
    "os.link": _target,
    "os.remove": _removed,
    "os.rmdir": _removed,
    "os.symlink": _link_target,
    "socket.bind": _address,
    "sqlite3.connect": _database,
    "tempfile.mkdtemp": _first,
    "tempfile.mkstemp": _first,
}
_TEMPORARY: Final = frozenset({"tempfile.mkdtemp", "tempfile.mkstemp"})
_REMOVALS: Final = frozenset({"os.remove", "os.rmdir"})
_EVENTS: Final = frozenset({*_PATHS, *_STARTS, *_PROCESSES})


class Origins:
    """The hints of one session, by the name that stands in its worker root.

    :param prefixes: The worker root as the code under test may spell it, each
        with a separator at its end.
    :param inside: Below these nothing is foreign.
    :param known: Entries found already; what happens below them needs no hint.
    :param running: Who is running.
    """

    def __init__(
        self,
        prefixes: tuple[str, ...],
        inside: tuple[str, ...],
        known: Container[str],
        running: Running,
    ) -> None:
        self.hints: dict[str, Hint] = {}
        #: Known entries about to go: file systems give the inode of one to the next.
        self.going: set[str] = set()
        #: Temporary paths outside the worker root, by their full path.
        self.outside: dict[str, Hint] = {}
        #: Called when something temporary is to be made in a worker root that is gone.
        self.recreate: Callable[[], object] | None = None
        #: All events that this session wants to hear of; those of detectors come before it starts.
        self.events: AbstractSet[str] = _EVENTS
        self._detectors: list[Detector] = []
        self._prefixes = prefixes
        self._root = prefixes[0][:-1] if prefixes else ""
        self._inside = inside
        self._known = known
        self._running = running
        self.threads = Threads(running)
        self.processes = Processes()
        running.thread_work = self.threads.here
        running.likely_creator = self.processes.likely_creator
        #: The last hints of threads whose starter does not run now, and until when each counts.
        self._unready: dict[str, tuple[Hint, float]] = {}

    @property
    def error(self) -> Exception | None:
        """What went wrong while an owner was looked for."""
        return self.threads.error or self.processes.error

    def goes_on(self) -> bool:
        """Whether something may go on that was started by who is over."""
        return self.threads.going_on() or self.processes.going_on()

    def forget(self) -> None:
        """Drop the hints that the last look has used."""
        self.hints.clear()
        self.going.clear()
        if self._unready:
            self._keep_unready()

    def _keep_unready(self) -> None:
        """Keep the hints of threads that a look may have overtaken, between the hint and the deed.

        Nobody waits for such a thread, and what it makes must not look like somebody else's.
        """
        now = System.monotonic()
        for name, (hint, until) in list(self._unready.items()):
            if name in self._known or until < now:
                self._unready.pop(name, None)
            else:
                self.hints[name] = hint

    def exclude(self, directory: str) -> None:
        """Take everything below *directory* for somebody else's."""
        self._inside += (System.join(directory, ""),)

    def add(self, detector: Detector) -> None:
        """Let *detector* hear of its events too."""
        self._detectors.append(detector)
        self.events |= detector.events

    def on_event(self, event: str, args: tuple[Any, ...]) -> None:
        """Remember what *event* announces, if it concerns this session."""
        for detector in self._detectors:
            if event in detector.events:
                detector.on_event(event, args)
        if event in _PROCESSES:
            self.processes.on_event(args, current_work(self._running))
            return
        if event in _STARTS:
            self.threads.on_event(args, current_work(self._running))
            return
        if event not in _PATHS:
            return
        given = _PATHS[event](args)
        if given is None or isinstance(given, int):
            return
        path = absolute(given)
        if not path.startswith(self._prefixes):
            if event in _TEMPORARY and not path.startswith(self._inside):
                self.outside[path] = self._hint()
            return
        if event in _TEMPORARY and self.recreate is not None and not exists(self._root):
            self.recreate()
        self._inner(event, args, path)

    def _inner(self, event: str, args: tuple[Any, ...], path: str) -> None:
        name, below = self._name(path)
        if event in _REMOVALS:
            if not below and name in self._known:
                self.going.add(name)
            if not below:
                self._unready.pop(name, None)
            return
        if not name or (below and (name in self.hints or name in self._known)):
            return
        if event != "os.rename" and name in self.hints and exists(path):
            # Opening what stands there makes nothing, though it would have: a named temporary
            # file opens its directory so, and a database the file that it was given.
            return
        if event == "os.rename":
            source, deeper = self._name(absolute(args[0]))
            if source and not deeper:
                hint = self.hints.get(source) or self._hint()
                self._keep(name, hint._replace(renamed=hint.renamed or source))
                return
        self._keep(name, self._hint())

    def _keep(self, name: str, hint: Hint) -> None:
        self.hints[name] = hint
        if hint.owner != self._running.owner:
            self._unready[name] = hint, System.monotonic() + _OVERTAKEN_SECONDS

    def _name(self, path: str) -> tuple[str, bool]:
        """Split *path* into the entry's name and whether it lies below that entry."""
        for prefix in self._prefixes:
            if path.startswith(prefix):
                name, separator, _ = path[len(prefix) :].partition(os.sep)
                return name, bool(separator)
        return "", False

    def _hint(self) -> Hint:
        return Hint(*current_work(self._running), current_stack())


_active: Final[list[Origins]] = []


def activate(origins: Origins) -> None:
    """Forward audit events to *origins*, and to nobody else until it is deactivated.

    A session inside another one (`pytest.main` in a test) takes over for its time.
    """
    _active.append(origins)
    listen(origins.events, _forward)


def deactivate(origins: Origins) -> None:
    """Stop forwarding to *origins*."""
    if origins in _active:
        _active.remove(origins)
    if not _active:
        stop_listening(_forward)


def _forward(event: str, args: tuple[Any, ...]) -> None:
    if _active:
        # Raising here would break the call under test.
        with suppress(Exception):
            _active[-1].on_event(event, args)


def absolute(path: Any) -> str:
    """Return the normal form of the path that an event gave, seen from the working directory."""
    text = System.fsdecode(path)
    if not System.isabs(text):
        text = System.join(System.getcwd(), text)
    # Most paths are plain, and a look at them costs less than taking them apart.
    plain = os.altsep is None and "/." not in text and "//" not in text
    return text if plain else System.normpath(text)


def current_phase() -> Phase | None:
    """Return the phase that pytest says the current test is in."""
    return _PHASES.get(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[2])


def current_work(running: Running) -> Work:
    """Return for whom the code that raised the event works: who started its thread, or who runs."""
    work = running.thread_work()
    if work is None or (work.owner, work.test) == (running.owner, running.test):
        return Work(running.owner, running.test, running.phase or current_phase())
    return work


def current_stack() -> tuple[RawFrame, ...]:
    """Return the stack of the code that raised the event, nearest frame first, without pytest's."""
    frame: FrameType | None = _getframe(2)
    stack: list[RawFrame] = []
    here = __file__
    while frame is not None and len(stack) < _DEPTH:
        # To read it is an audit event of its own.
        code = frame.f_code
        filename = code.co_filename
        if filename.startswith("<doctest"):
            stack.append(_in_docstring(frame))
        elif filename != here and code.co_name != AUDIT_HOOK:
            if _is_entrance(filename):
                break
            stack.append((code, frame.f_lineno or 0))
        frame = frame.f_back
    return tuple(stack)


def _is_entrance(filename: str) -> bool:
    known = _entrances.get(filename)
    if known is None:
        known = _entrances[filename] = filename.endswith(_ENTRANCES)
    return known


def _in_docstring(frame: FrameType) -> RawFrame:
    """Return where the example stands that runs in *frame*: doctest, which runs it, knows."""
    code, line = frame.f_code, frame.f_lineno or 0
    known = frame.f_back.f_locals if frame.f_back is not None else {}
    test: Any = known.get("test")
    example: Any = known.get("example")
    try:
        # Both lines are counted from 0.
        return code.replace(co_filename=test.filename), test.lineno + example.lineno + line
    except (AttributeError, TypeError):
        return code, line


_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

#: Which arguments of an event are paths, the descriptors they may start from, and what goes.
_ROLES: Final[dict[str, tuple[tuple[int, int | None, bool], ...]]] = {
    "open": ((0, None, False),),
    "os.link": ((1, 3, False),),
    "os.mkdir": ((0, 2, False),),
    "os.remove": ((0, 1, True),),
    "os.rename": ((0, 2, True), (1, 3, False)),
    "os.rmdir": ((0, 1, True),),
    "os.symlink": ((1, 2, False),),
    "os.truncate": ((0, None, False),),
    # What `Path.touch` does to a file that exists.
    "os.utime": ((0, 3, False),),
    # It removes relative to descriptors, which no later event can tell.
    "shutil.rmtree": ((0, 1, True),),
    "socket.bind": ((1, None, False),),
    "sqlite3.connect": ((0, None, False),),
    "tempfile.mkdtemp": ((0, None, False),),
    "tempfile.mkstemp": ((0, None, False),),
}

EVENTS: Final = frozenset(_ROLES)


class Announced(NamedTuple):
    """A path that an event tells of."""

    path: str
    #: It is removed or renamed, and not made or written.
    goes: bool


def announced(event: str, args: tuple[Any, ...]) -> Iterator[Announced]:
    """Yield what *event*, one of `EVENTS`, is about to make, to write or to remove.

    Reading announces nothing, and a path relative to a descriptor cannot be told.
    """
    if event == "open" and not (isinstance(args[2], int) and args[2] & _WRITING):
        return
    for path_at, start_at, goes in _ROLES[event]:
        given = args[path_at]
        start = args[start_at] if start_at is not None and start_at < len(args) else None
        if start in (None, -1) and isinstance(given, (str, bytes, os.PathLike)):
            yield Announced(absolute(given).rstrip(os.sep), goes)
