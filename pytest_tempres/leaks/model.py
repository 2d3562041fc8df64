"""The records of the leak engine, and their plain-data form for the wire."""

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

#: Kinds of leaks that say what was done to a path, and those whose path is a description.
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
    """Who was running when an entry appeared."""

    kind: OwnerKind
    #: The node id of a test or a collector, a fixture's name, or ``session``.
    id: str
    #: A fixture's scope.
    scope: str | None = None
    #: ``file:line``
    location: str | None = None


SESSION = Owner("session", "session")


class Work(NamedTuple):
    """For whom something is done."""

    owner: Owner
    test: str | None = None
    phase: Phase | None = None


class Process(NamedTuple):
    """A process of somebody who is not running."""

    command: str
    owner: Owner


class Running:
    """Who is running right now: written by the hooks, read by the detectors."""

    __slots__ = ("in_thread", "maker", "owner", "phase", "test")

    def __init__(self) -> None:
        self.owner = SESSION
        #: The node id of the test in whose protocol this happens, whoever owns it.
        self.test: str | None = None
        #: Known for fixtures; for tests pytest's own variable tells it.
        self.phase: Phase | None = None
        #: Returns for whom the current thread works, if that may be somebody else.
        self.in_thread: Callable[[], Work | None] = lambda: None
        #: Returns who is named for what no event told of while somebody was running, and which
        #: processes of others may have made it; the second argument: whether he may have, anyhow.
        self.maker: Callable[[Work, bool], tuple[Work, tuple[Process, ...]]]
        self.maker = lambda work, _: (work, ())


class Entry(NamedTuple):
    """Something that a look found and that may turn out to be a leak."""

    path: str
    owner: Owner
    test: str | None = None
    phase: Phase | None = None
    #: Nearest frame first.
    origin: tuple[Frame, ...] = ()
    made_by: Literal["python", "other"] = "other"
    #: The last process that was started before, for what no Python code made.
    command: str | None = None
    #: It was left by something that failed: a test's attempt, a fixture's setup, an import.
    from_failed: bool = False
    #: The marker or the ini file says that it may stay.
    ignored: bool = False
    worker: str = ""
    #: What somebody else had started, ran when it was made, and may have made it.
    processes: tuple[Process, ...] = ()


class Leak(NamedTuple):
    """An entry that outlived its owner, as it was found at the verdict."""

    kind: str
    path: str
    #: Apparent size of all files in it, in bytes.
    bytes: int
    #: How many files are in a directory; 1 for anything else.
    items: int
    #: False where the walk hit its bound, or something unreadable.
    complete: bool
    status: Status
    entry: Entry

    @property
    def owner(self) -> Owner:
        """Who made it."""
        return self.entry.owner

    @property
    def fingerprint(self) -> str:
        """What stays the same over runs, machines and line shifts."""
        return fingerprint(self.kind, self.entry)


def entry_from_plain(data: Sequence[Any]) -> Entry:
    """Rebuild an entry from what JSON made of it (records travel as arrays)."""
    path, owner, test, phase, origin, *rest, processes = data
    entry = Entry(path, Owner(*owner), test, phase, tuple(Frame(*f) for f in origin), *rest)
    others = tuple(Process(command, Owner(*of)) for command, of in processes)
    return entry._replace(processes=others)


def leak_from_plain(data: Sequence[Any]) -> Leak:
    """Rebuild a leak from what JSON made of it."""
    *found, entry = data
    kind, path, size, items, complete, status = found
    return Leak(kind, path, size, items, complete, status, entry_from_plain(entry))


def fingerprint(kind: str, entry: Entry) -> str:
    """Return 16 hex digits that tell this leak from others, run after run.

    Line numbers, parameters and paths of this run are left out on purpose.
    """
    import hashlib  # noqa: PLC0415 -- loads OpenSSL, which a session without leaks does not need

    nearest = entry.origin[0] if entry.origin else _NOWHERE
    if nearest.file.startswith(_LIBRARY) and not any(site in nearest.file for site in _SITES):
        # Shown where there is no other line; its path and function are those of one Python.
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
    """One more way to find what was left behind, beside the worker root.

    A detector is made with what it has to know: who is running
    (:class:`~pytest_tempres.leaks.model.Running`), how frames are shown
    (:class:`~pytest_tempres.leaks.frames.Folder`) and what may stay.
    """

    #: The audit events that :meth:`on_event` wants to hear of.
    events: AbstractSet[str]

    def on_event(self, event: str, args: tuple[Any, ...]) -> None:
        """Take note of an audit event. What it raises is dropped; it has to be fast."""

    def scan(self) -> None:
        """Book what is new, for whoever is running: called before the owner changes."""

    def due(self, test: str) -> list[Leak]:
        """Return what *test* and its function-scoped fixtures left, now that both are over."""

    def judge(self) -> list[Leak]:
        """Return what is still there at the end of the session, after a second look."""
