"""The records of leak detection, their conversion from JSON, and the detector protocol."""

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
    "Phase",
    "Process",
    "Running",
    "Status",
    "Work",
    "base_id",
    "entry_from_plain",
    "is_installed",
    "leak_from_plain",
]

OwnerKind = Literal["test", "fixture", "collection", "session"]
Phase = Literal["setup", "call", "teardown"]
Status = Literal["leak", "known", "deferred", "failed-test"]

#: Leak kinds that name a change to an existing path, and kinds whose path is a description.
MODIFICATIONS: Final = ("changed", "deleted")
WITHOUT_PATH: Final = ("descriptor",)

_LIBRARY: Final = os.path.join(os.path.dirname(os.__file__), "")
_SITES: Final = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))


class Frame(NamedTuple):
    """One line of the stack that created an entry."""

    file: str
    line: int
    function: str


class Owner(NamedTuple):
    """The test, fixture or collector that was running when an entry appeared."""

    kind: OwnerKind
    #: The node id of a test or a collector, a fixture's name, or ``session``.
    id: str
    #: A fixture's scope.
    scope: str | None = None
    #: ``file:line``
    location: str | None = None

    @property
    def is_of_one_test(self) -> bool:
        """Whether it is finished when the report on the test's teardown is made."""
        return self.kind == "test" or self.scope == "function"


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
        #: The node id of the test whose runtest protocol is active, also while a fixture runs.
        self.test: str | None = None
        #: Set for fixtures; for tests it is read from ``PYTEST_CURRENT_TEST``.
        self.phase: Phase | None = None
        #: As :meth:`~pytest_tempres.leaks.threads.Threads.current_work`.
        self.thread_work: Callable[[], Work | None] = lambda: None
        #: As :meth:`~pytest_tempres.leaks.processes.Processes.likely_creator`.
        self.likely_creator: Callable[[Work, bool], tuple[Work, tuple[Process, ...]]]
        self.likely_creator = lambda work, _: (work, ())

    @property
    def work(self) -> Work:
        """The work of the current owner."""
        return Work(self.owner, self.test, self.phase)

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
    #: The command line of the last process started, if no Python code created the path.
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
    #: The fingerprint that a report gave; it may be of another machine.
    reported_fingerprint: str | None = None

    @property
    def owner(self) -> Owner:
        """The owner that created it."""
        return self.entry.owner

    @property
    def fingerprint(self) -> str:
        """An identifier that is stable across runs, machines and moved lines."""
        return self.reported_fingerprint or fingerprint(self.kind, self.entry)


def entry_from_plain(data: Sequence[Any]) -> Entry:
    """Rebuild an entry from decoded JSON, where records are arrays."""
    path, owner, test, phase, origin, *others, processes = data
    entry = Entry(path, Owner(*owner), test, phase, tuple(Frame(*f) for f in origin), *others)
    return entry._replace(processes=tuple(Process(name, Owner(*of)) for name, of in processes))


def leak_from_plain(data: Sequence[Any]) -> Leak:
    """Rebuild a leak from decoded JSON, where records are arrays."""
    leak = Leak(*data)
    return leak._replace(entry=entry_from_plain(leak.entry))


def fingerprint(kind: str, entry: Entry) -> str:
    """Return 16 hex digits that identify a leak across runs.

    Line numbers, parameters and the leak's path are left out because they change between runs.
    """
    import hashlib  # noqa: PLC0415 -- loads OpenSSL, which a session without leaks does not need

    file, _, function = entry.origin[0] if entry.origin else Frame("", 0, "")
    if file.startswith(_LIBRARY) and not is_installed(file):
        # Path and function of a standard library frame depend on the Python version.
        file = function = ""
    owner = entry.owner
    identity = (owner.kind, base_id(owner.id), kind, file, function, entry.made_by)
    text = "\0".join(identity).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:16]


def base_id(nodeid: str) -> str:
    """Return *nodeid* without the parameters of a test."""
    return nodeid.partition("[")[0]


def is_installed(filename: str) -> bool:
    """Whether *filename* is in a directory of installed packages."""
    return any(site in filename for site in _SITES)


class Detector(Protocol):
    """Finds leaks outside the worker root."""

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
