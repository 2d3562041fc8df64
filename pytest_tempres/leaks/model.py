"""The records of leak detection, and how to rebuild them from JSON."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
import os
from typing import Any
from typing import Final
from typing import Literal
from typing import NamedTuple
from typing import Protocol

from pytest_tempres.primitives._system import System

__all__ = [
    "MODIFICATIONS",
    "SESSION",
    "WITHOUT_PATH",
    "Detector",
    "Entry",
    "Frame",
    "Leak",
    "Owner",
    "OwnerKind",
    "Phase",
    "Process",
    "Running",
    "Status",
    "Work",
    "entry_from_plain",
    "fingerprint",
    "leak_from_plain",
]

OwnerKind = Literal["test", "fixture", "collection", "session"]
Phase = Literal["setup", "call", "teardown"]
Status = Literal["leak", "known", "deferred", "failed-test"]

#: Leak kinds that name a change to an existing path, and kinds whose path is a description.
MODIFICATIONS: Final = ("changed", "deleted")
WITHOUT_PATH: Final = ("descriptor",)

_LIBRARY: Final = os.path.join(os.path.dirname(os.__file__), "")
_SITES: Final = ("site-packages", "dist-packages")


class Frame(NamedTuple):
    """One line of an origin."""

    file: str
    line: int
    function: str


_NOWHERE: Final = Frame("", 0, "")


class Owner(NamedTuple):
    """The test, fixture or collector that was running when an entry appeared."""

    kind: OwnerKind
    #: The node id of a test or a collector, a fixture's name, or ``session``.
    id: str
    #: A fixture's scope.
    scope: str | None = None
    #: ``file:line``
    location: str | None = None


SESSION = Owner("session", "session")


class Work(NamedTuple):
    """The owner, test and phase that running code belongs to."""

    owner: Owner
    test: str | None = None
    phase: Phase | None = None


class Process(NamedTuple):
    """A subprocess, and the owner that started it."""

    command: str
    owner: Owner


class Running:
    """The current owner, test and phase: written by the hooks, read by the detectors."""

    __slots__ = ("_began", "likely_creator", "owner", "phase", "test", "thread_work")

    def __init__(self) -> None:
        self._began = System.monotonic()
        self.owner = SESSION
        #: The node id of the test whose runtest protocol is active, also while a fixture of any
        #: scope is the owner.
        self.test: str | None = None
        #: Set for fixtures; for tests it is read from ``PYTEST_CURRENT_TEST``.
        self.phase: Phase | None = None
        #: Returns the work of the current thread; None if it is that of the current owner.
        self.thread_work: Callable[[], Work | None] = lambda: None
        #: Returns the work to report for a path without an audit event, and the processes of other
        #: owners that may have created it. The second argument says whether Python code of the
        #: current owner may have created it without an event.
        self.likely_creator: Callable[[Work, bool], tuple[Work, tuple[Process, ...]]]
        self.likely_creator = lambda work, _: (work, ())

    def seconds(self) -> float:
        """Return the time since the session began in this process."""
        return round(System.monotonic() - self._began, 3)


class Entry(NamedTuple):
    """A path that a scan found and that may turn out to be a leak."""

    path: str
    owner: Owner
    test: str | None = None
    phase: Phase | None = None
    #: Nearest frame first.
    origin: tuple[Frame, ...] = ()
    made_by: Literal["python", "other"] = "other"
    #: The command line of the process started last, where no Python code created the path.
    command: str | None = None
    #: Left by something that failed: an attempt of a test, a fixture's setup, an import.
    from_failed: bool = False
    #: Ignored by the marker or the ini file.
    ignored: bool = False
    worker: str = ""
    #: When a scan first found it: seconds since the session began in the worker's process.
    seen: float | None = None
    #: Processes of other owners that were running at the time and may have created it.
    processes: tuple[Process, ...] = ()


class Leak(NamedTuple):
    """An entry that still existed after its owner had finished."""

    kind: str
    path: str
    #: Apparent size of all files in it, in bytes.
    bytes: int
    #: How many files are in a directory; 1 for anything else.
    items: int
    #: False if the walk reached its limit, or a directory that it could not read.
    complete: bool
    status: Status
    entry: Entry

    @property
    def owner(self) -> Owner:
        """The owner that created it."""
        return self.entry.owner

    @property
    def fingerprint(self) -> str:
        """An identifier that is stable across runs, machines and moved lines."""
        return fingerprint(self.kind, self.entry)


def entry_from_plain(data: Sequence[Any]) -> Entry:
    """Rebuild an entry from decoded JSON, where records are arrays."""
    path, owner, test, phase, origin, *rest, processes = data
    entry = Entry(path, Owner(*owner), test, phase, tuple(Frame(*f) for f in origin), *rest)
    others = tuple(Process(command, Owner(*of)) for command, of in processes)
    return entry._replace(processes=others)


def leak_from_plain(data: Sequence[Any]) -> Leak:
    """Rebuild a leak from decoded JSON, where records are arrays."""
    *found, entry = data
    kind, path, size, items, complete, status = found
    return Leak(kind, path, size, items, complete, status, entry_from_plain(entry))


def fingerprint(kind: str, entry: Entry) -> str:
    """Return 16 hex digits that identify a leak across runs.

    Line numbers, parameters and the leak's path are left out because they change between runs.
    """
    import hashlib  # noqa: PLC0415 -- loads OpenSSL, which a session without leaks does not need

    nearest = entry.origin[0] if entry.origin else _NOWHERE
    if nearest.file.startswith(_LIBRARY) and not any(site in nearest.file for site in _SITES):
        # Path and function of a standard library frame depend on the Python version.
        nearest = _NOWHERE
    identity = (
        entry.owner.kind,
        entry.owner.id.partition("[")[0],
        kind,
        nearest.file,
        nearest.function,
        entry.made_by,
    )
    text = "\0".join(identity).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:16]


class Detector(Protocol):
    """Finds leaks outside the worker root.

    The constructor of a detector takes the current owner
    (:class:`~pytest_tempres.leaks.model.Running`), the filter for stack frames
    (:class:`~pytest_tempres.leaks.frames.FrameFilter`) and what to ignore.
    """

    #: The audit events that :meth:`on_event` handles.
    events: AbstractSet[str]

    def on_event(self, event: str, args: tuple[Any, ...]) -> None:
        """Handle an audit event. Must be fast; exceptions that it raises are dropped."""

    def scan(self) -> None:
        """Record what is new for the current owner. Called before the owner changes."""

    def leaks_of(self, test: str) -> list[Leak]:
        """Return the leaks of *test* and its function-scoped fixtures after their teardown."""

    def judge(self) -> list[Leak]:
        """Return all leaks that still exist at the end of the session, after a second scan."""
