"""The audit hook: which line of code created a path.

An audit event is raised before the operation, which may still fail. So an event
is recorded as a hint, and becomes an entry only when a scan finds the path.
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
from pytest_tempres.leaks.processes import EVENTS as _PROCESS_EVENTS
from pytest_tempres.leaks.processes import Processes
from pytest_tempres.leaks.temp.scan import exists
from pytest_tempres.leaks.threads import EVENTS as _THREAD_EVENTS
from pytest_tempres.leaks.threads import Threads
from pytest_tempres.primitives._process import AUDIT_HOOK
from pytest_tempres.primitives._process import listen
from pytest_tempres.primitives._process import stop_listening
from pytest_tempres.primitives._system import System

if TYPE_CHECKING:
    from pytest_tempres.leaks.model import Detector

__all__ = [
    "EVENTS",
    "Hint",
    "Origins",
    "PathEvent",
    "RawFrame",
    "absolute",
    "activate",
    "current_phase",
    "current_stack",
    "current_work",
    "deactivate",
    "path_events",
]

#: A code object and a line: the cheapest record of a frame.
RawFrame = tuple[CodeType, int]

_DEPTH: Final = 100
#: How long a thread may take from the audit event to the operation.
_OVERTAKEN_SECONDS: Final = 1.0
_PHASES: Final[dict[str, Phase]] = {"(setup)": "setup", "(call)": "call", "(teardown)": "teardown"}
#: The files of pytest that call hooks and tests; frames beyond them are pytest's own.
_ENTRY_POINTS: Final = (
    os.path.join(os.sep, "_pytest", "runner.py"),
    os.path.join(os.sep, "_pytest", "main.py"),
    os.path.join(os.sep, "_pytest", "config", "__init__.py"),
)
#: By file name: every event checks some twenty frames.
_entry_point_cache: Final[dict[str, bool]] = {}
_getframe = sys._getframe  # noqa: SLF001 -- the one way to a stack; CPython alone is supported


class Hint(NamedTuple):
    """The owner, the phase and the stack at an audit event."""

    owner: Owner
    test: str | None
    phase: Phase | None
    stack: tuple[RawFrame, ...]
    #: The name that the entry had before it was renamed.
    renamed: str | None = None


def _opened(args: tuple[Any, ...]) -> object:
    return args[0] if isinstance(args[2], int) and args[2] & os.O_CREAT else None


def _directory(args: tuple[Any, ...]) -> object:
    # A path relative to a descriptor (anything but -1) cannot be resolved here.
    return args[0] if len(args) < 3 or args[2] in (-1, None) else None


def _target(args: tuple[Any, ...]) -> object:
    return args[1] if all(fd in (-1, None) for fd in args[3:]) else None


def _link_target(args: tuple[Any, ...]) -> object:
    return args[1] if len(args) < 3 or args[2] in (-1, None) else None


def _removed(args: tuple[Any, ...]) -> object:
    return args[0] if args[1] in (-1, None) else None


def _database(args: tuple[Any, ...]) -> object:
    # Python 3.10 passes bytes.
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


#: Returns the path that an event is about to create or to remove, from its arguments.
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
_EVENTS: Final = frozenset({*_PATHS, *_THREAD_EVENTS, *_PROCESS_EVENTS})


class Origins:
    """The hints of one session, by name in its worker root.

    :param prefixes: The spellings of the worker root that the code under test may use, each
        with a separator at its end.
    :param inside: Prefixes whose contents are not recorded as outside the worker root.
    :param known: Names of known entries; events below them need no hint.
    :param running: The current owner.
    """

    def __init__(
        self,
        prefixes: tuple[str, ...],
        inside: tuple[str, ...],
        known: Container[str],
        running: Running,
    ) -> None:
        self.hints: dict[str, Hint] = {}
        #: Known entries that are about to be removed: file systems reuse their inodes at once.
        self.being_removed: set[str] = set()
        #: Temporary paths outside the worker root, by their full path.
        self.outside: dict[str, Hint] = {}
        #: Called before a temporary path is created in a worker root that was removed.
        self.recreate: Callable[[], object] | None = None
        #: The events that this session handles. Detectors add theirs before it is activated.
        self.events: AbstractSet[str] = _EVENTS
        self._detectors: list[Detector] = []
        self._prefixes = prefixes
        self._root = prefixes[0][:-1] if prefixes else ""
        self._inside = inside
        self._known = known
        self._running = running
        self.threads = Threads(running)
        self.processes = Processes()
        running.thread_work = self.threads.current_work
        running.likely_creator = self.processes.likely_creator
        #: Hints from threads of another owner, and until when each is kept.
        self._overtaken: dict[str, tuple[Hint, float]] = {}

    @property
    def error(self) -> Exception | None:
        """The last error while the owner of an event was determined."""
        return self.threads.error or self.processes.error

    def any_running(self) -> bool:
        """Whether threads or processes of an owner that has finished may still run."""
        return self.threads.any_running() or self.processes.any_running()

    def forget(self) -> None:
        """Drop the hints that the last scan has used."""
        self.hints.clear()
        self.being_removed.clear()
        if self._overtaken:
            self._keep_overtaken()

    def _keep_overtaken(self) -> None:
        """Keep the hints of threads where a scan may have run between the event and the operation.

        Otherwise the next scan would attribute the path to the owner that is running then.
        """
        now = System.monotonic()
        for name, (hint, until) in list(self._overtaken.items()):
            if name in self._known or until < now:
                self._overtaken.pop(name, None)
            else:
                self.hints[name] = hint

    def exclude(self, directory: str) -> None:
        """Do not report what is created in *directory*."""
        self._inside += (System.join(directory, ""),)

    def add(self, detector: Detector) -> None:
        """Pass audit events to *detector* too."""
        self._detectors.append(detector)
        self.events |= detector.events

    def on_event(self, event: str, args: tuple[Any, ...]) -> None:
        """Record a hint for *event* if it concerns this session."""
        for detector in self._detectors:
            if event in detector.events:
                detector.on_event(event, args)
        if event in _PROCESS_EVENTS:
            self.processes.on_event(args, current_work(self._running))
            return
        if event in _THREAD_EVENTS:
            self.threads.on_event(args, current_work(self._running))
            return
        if event not in _PATHS:
            return
        raw = _PATHS[event](args)
        if raw is None or isinstance(raw, int):
            return
        path = absolute(raw)
        if not path.startswith(self._prefixes):
            if event in _TEMPORARY and not path.startswith(self._inside):
                self.outside[path] = self._hint()
            return
        if event in _TEMPORARY and self.recreate is not None and not exists(self._root):
            self.recreate()
        self._record_in_root(event, args, path)

    def _record_in_root(self, event: str, args: tuple[Any, ...], path: str) -> None:
        name, below = self._name(path)
        if event in _REMOVALS:
            if not below and name in self._known:
                self.being_removed.add(name)
            if not below:
                self._overtaken.pop(name, None)
            return
        if not name or (below and (name in self.hints or name in self._known)):
            return
        if event != "os.rename" and name in self.hints and exists(path):
            # It exists already, so this creates nothing: NamedTemporaryFile opens its directory
            # with O_CREAT, and SQLite a file that may exist.
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
            self._overtaken[name] = hint, System.monotonic() + _OVERTAKEN_SECONDS

    def _name(self, path: str) -> tuple[str, bool]:
        """Return the name of the entry that *path* is or is below, and whether it is below."""
        for prefix in self._prefixes:
            if path.startswith(prefix):
                name, separator, _ = path[len(prefix) :].partition(os.sep)
                return name, bool(separator)
        return "", False

    def _hint(self) -> Hint:
        return Hint(*current_work(self._running), current_stack())


_active: Final[list[Origins]] = []


def activate(origins: Origins) -> None:
    """Forward audit events to *origins* alone until it is deactivated.

    A nested session (`pytest.main` in a test) receives the events while it runs.
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
        # An exception here would make the audited call fail.
        with suppress(Exception):
            _active[-1].on_event(event, args)


def absolute(path: Any) -> str:
    """Return the path of an event in normal form, made absolute with the working directory."""
    text = System.fsdecode(path)
    if not System.isabs(text):
        text = System.join(System.getcwd(), text)
    # Most paths are in normal form, and this check is cheaper than `normpath`.
    plain = os.altsep is None and "/." not in text and "//" not in text
    return text if plain else System.normpath(text)


def current_phase() -> Phase | None:
    """Return the phase of the current test, from `PYTEST_CURRENT_TEST`."""
    return _PHASES.get(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[2])


def current_work(running: Running) -> Work:
    """Return the work of the current thread: that of its starter, or of the current owner."""
    work = running.thread_work()
    if work is None or (work.owner, work.test) == (running.owner, running.test):
        return Work(running.owner, running.test, running.phase or current_phase())
    return work


def current_stack() -> tuple[RawFrame, ...]:
    """Return the stack at the event, nearest frame first, without pytest's frames."""
    frame: FrameType | None = _getframe(2)
    stack: list[RawFrame] = []
    here = __file__
    while frame is not None and len(stack) < _DEPTH:
        # Reading f_code raises an audit event, so read it once.
        code = frame.f_code
        filename = code.co_filename
        if filename.startswith("<doctest"):
            stack.append(_in_docstring(frame))
        elif filename != here and code.co_name != AUDIT_HOOK:
            if _is_entry_point(filename):
                break
            stack.append((code, frame.f_lineno or 0))
        frame = frame.f_back
    return tuple(stack)


def _is_entry_point(filename: str) -> bool:
    known = _entry_point_cache.get(filename)
    if known is None:
        known = _entry_point_cache[filename] = filename.endswith(_ENTRY_POINTS)
    return known


def _in_docstring(frame: FrameType) -> RawFrame:
    """Return file and line of the doctest example that runs in *frame*."""
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

#: For each path of an event: the index of its argument, the index of the directory descriptor
#: that it may be relative to, and whether the event removes it.
_ROLES: Final[dict[str, tuple[tuple[int, int | None, bool], ...]]] = {
    "open": ((0, None, False),),
    "os.link": ((1, 3, False),),
    "os.mkdir": ((0, 2, False),),
    "os.remove": ((0, 1, True),),
    "os.rename": ((0, 2, True), (1, 3, False)),
    "os.rmdir": ((0, 1, True),),
    "os.symlink": ((1, 2, False),),
    "os.truncate": ((0, None, False),),
    # `Path.touch` calls it for a file that exists.
    "os.utime": ((0, 3, False),),
    # Its removals are relative to descriptors, so their own events do not have the path.
    "shutil.rmtree": ((0, 1, True),),
    "socket.bind": ((1, None, False),),
    "sqlite3.connect": ((0, None, False),),
    "tempfile.mkdtemp": ((0, None, False),),
    "tempfile.mkstemp": ((0, None, False),),
}

EVENTS: Final = frozenset(_ROLES)


class PathEvent(NamedTuple):
    """A path that an audit event names."""

    path: str
    #: The event removes or renames it; otherwise it creates or writes it.
    is_removed: bool


def path_events(event: str, args: tuple[Any, ...]) -> Iterator[PathEvent]:
    """Yield the paths that *event*, one of `EVENTS`, is about to create, to write or to remove.

    Opening a file for reading yields nothing, nor does a path relative to a descriptor.
    """
    if event == "open" and not (isinstance(args[2], int) and args[2] & _WRITING):
        return
    for path_at, start_at, is_removed in _ROLES[event]:
        raw = args[path_at]
        start = args[start_at] if start_at is not None and start_at < len(args) else None
        if start in (None, -1) and isinstance(raw, (str, bytes, os.PathLike)):
            yield PathEvent(absolute(raw).rstrip(os.sep), is_removed)
