"""The audit hook: which line of code created a path.

An audit event is raised before the operation, which may still fail. So an event
is recorded as a hint, and becomes an entry only when a scan finds the path.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Container
from collections.abc import Set as AbstractSet
from contextlib import suppress
import os
from typing import TYPE_CHECKING
from typing import Any
from typing import Final

from pytest_tempres.leaks.frames import Hint
from pytest_tempres.leaks.frames import current_work
from pytest_tempres.leaks.frames import new_hint
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.processes import EVENTS as _PROCESS_EVENTS
from pytest_tempres.leaks.processes import Processes
from pytest_tempres.leaks.temp.scan import exists
from pytest_tempres.leaks.threads import EVENTS as _THREAD_EVENTS
from pytest_tempres.leaks.threads import Threads
from pytest_tempres.primitives._process import listen
from pytest_tempres.primitives._process import stop_listening
from pytest_tempres.primitives._system import System

if TYPE_CHECKING:
    from pytest_tempres.leaks.model import Detector

__all__ = [
    "EVENTS",
    "Origins",
    "absolute",
    "activate",
    "deactivate",
    "path_events",
]

#: How long a thread may take from the audit event to the operation.
_THREAD_SECONDS: Final = 1.0
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

#: For each path of an event: the index of its argument, the index of the argument for the directory
#: descriptor that it may be relative to, and whether the event removes or renames it.
_PATH_ARGUMENTS: Final[dict[str, tuple[tuple[int, int | None, bool], ...]]] = {
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

#: The audit events that name a path.
EVENTS: Final = frozenset(_PATH_ARGUMENTS)
_TEMPORARY: Final = frozenset({"tempfile.mkdtemp", "tempfile.mkstemp"})
#: Those that may create or remove an entry of the worker root.
_WITH_HINT: Final = EVENTS - {"os.truncate", "os.utime", "shutil.rmtree"}
_EVENTS: Final = _WITH_HINT | _THREAD_EVENTS | _PROCESS_EVENTS


class Origins:
    """The hints of one session, by name in its worker root.

    :param prefixes: The spellings of the worker root that the code under test may use, each
        with a separator at its end.
    :param inside: Prefixes whose contents are not recorded as outside the worker root.
    :param known: Names of known entries; events below them need no hint.
    """

    def __init__(
        self,
        prefixes: tuple[str, ...],
        inside: tuple[str, ...],
        known: Container[str],
        running: Running,
    ) -> None:
        self.hints: dict[str, Hint] = {}
        #: Known entries that are about to be removed: file systems may reuse their inodes at once.
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
        self._hints_of_threads: dict[str, tuple[Hint, float]] = {}

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
        if self._hints_of_threads:
            self._restore_hints_of_threads()

    def _restore_hints_of_threads(self) -> None:
        """Restore those hints: the scan may have run between the event and the operation."""
        now = System.monotonic()
        for name, (hint, until) in list(self._hints_of_threads.items()):
            if name in self._known or until < now:
                self._hints_of_threads.pop(name, None)
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
        if event in _WITH_HINT:
            source = "" if event == "os.rename" else None
            for path, is_removed in path_events(event, args, os.O_CREAT):
                if is_removed and source is not None:
                    source = path
                elif path.startswith(self._prefixes):
                    self._on_path_in_root(event, path, is_removed, source)
                elif event in _TEMPORARY and not path.startswith(self._inside):
                    self.outside[path] = new_hint(self._running)
        elif event in _PROCESS_EVENTS:
            self.processes.on_event(args, current_work(self._running))
        elif event in _THREAD_EVENTS:
            self.threads.on_event(args, current_work(self._running))

    def _on_path_in_root(self, event: str, path: str, is_removed: bool, source: str | None) -> None:
        """Record what happens to *path*.

        :param source: The path that is renamed to it, if the event is `os.rename`.
        """
        name, below = self._name(path)
        if is_removed:
            if not below:
                self._hints_of_threads.pop(name, None)
                if name in self._known:
                    self.being_removed.add(name)
            return
        if event in _TEMPORARY and self.recreate is not None and not exists(self._root):
            self.recreate()
        if not name or (below and (name in self.hints or name in self._known)):
            return
        renamed, deeper = self._name(source or "")
        if renamed and not deeper:
            hint = self.hints.get(renamed) or new_hint(self._running)
            self._add_hint(name, hint._replace(renamed=hint.renamed or renamed))
        # Opening a path that exists creates nothing: NamedTemporaryFile opens its directory with
        # O_CREAT, and SQLite a file that may exist.
        elif source is not None or name not in self.hints or not exists(path):
            self._add_hint(name, new_hint(self._running))

    def _add_hint(self, name: str, hint: Hint) -> None:
        self.hints[name] = hint
        if hint.owner != self._running.owner:
            self._hints_of_threads[name] = hint, System.monotonic() + _THREAD_SECONDS

    def _name(self, path: str) -> tuple[str, bool]:
        """Return the name of the entry that *path* is or is below, and whether it is below."""
        for prefix in self._prefixes:
            if path.startswith(prefix):
                name, separator, _ = path[len(prefix) :].partition(os.sep)
                return name, bool(separator)
        return "", False


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


def path_events(event: str, args: tuple[Any, ...], flags: int = _WRITING) -> list[tuple[str, bool]]:
    """Return the paths that *event*, one of `EVENTS`, is about to create, to write or to remove.

    A path relative to a descriptor is left out, because it cannot be resolved.

    :param flags: Opening a file with none of these flags is ignored.
    :returns: Each path, and whether the event removes or renames it.
    """
    if event == "open" and not (isinstance(args[2], int) and args[2] & flags):
        return []
    found = []
    for path_at, start_at, is_removed in _PATH_ARGUMENTS[event]:
        raw = args[path_at]
        start = args[start_at] if start_at is not None and start_at < len(args) else None
        if start in (None, -1) and isinstance(raw, (str, bytes, os.PathLike)):
            path = absolute(_database(raw) if event == "sqlite3.connect" else raw)
            found.append((path.rstrip(os.sep), is_removed))
    return found


def _database(raw: Any) -> str:
    # Python 3.10 passes bytes.
    name = System.fsdecode(raw)
    if name.startswith("file:"):
        # A URI, which may name a host before the path.
        name = name[len("file:") :].partition("?")[0]
        return name[name.find("/", 2) :] if name.startswith("//") else name
    return name
