"""What does a session carry? One record behind one stash key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
import os
import time
from typing import TYPE_CHECKING
from typing import NamedTuple

import pytest

from pytest_tempres.leaks.deferred import ExitCallbacks
from pytest_tempres.leaks.deferred import LiveDirectories
from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.verdict import CollectionBudget
from pytest_tempres.leaks.verdict import Ignore
from pytest_tempres.leaks.verdict import is_from_failed
from pytest_tempres.options import Settings
from pytest_tempres.primitives._system import System
from pytest_tempres.session.messages import Messages
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.journal import Journal
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import reason_to_keep
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import WorkerRoot

if TYPE_CHECKING:
    from pytest_tempres.leaks.baseline import Known
    from pytest_tempres.leaks.watch.detector import Watched
    from pytest_tempres.reports.summary import Summary
    from pytest_tempres.workspace.retention import Artifacts

__all__ = [
    "CurrentTest",
    "Membership",
    "RemoteWorker",
    "ScopedFactory",
    "SessionState",
    "Tally",
    "at",
    "session_key",
]


class CurrentTest:
    """The test in whose protocol this process is, and how far its last attempt has come."""

    # Every test pays for one of these, and a dataclass with factories costs twice as much.
    __slots__ = (
        *("leak_reported", "earlier", "failed", "failures", "item", "nodeid"),
        *("created", "reports", "started", "from_earlier_attempts"),
    )

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.nodeid = item.nodeid
        #: What fixtures gave: to the attempt that goes on, and to those before it.
        self.created: list[CreatedPath] = []
        self.earlier: list[CreatedPath] = []
        #: What the attempts before it have left.
        self.from_earlier_attempts: list[str] = []
        self.reports: list[pytest.TestReport] = []
        #: Whether the attempt that goes on has failed so far.
        self.failed = False
        #: Whether it failed only because we said so: what it left is a leak all the same.
        self.leak_reported = False
        #: How many failures there were before; pytest counts those of subtests too.
        self.failures = item.session.testsfailed
        #: Whether its setup began, or its report came, in this process.
        self.started = False


class Tally:
    """What has run of the tests that a baseline names."""

    def __init__(self) -> None:
        #: The variants of each test (by its id without parameters), and those that passed.
        self.collected: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()
        #: The node ids of those that did not pass straight away.
        self.failed_owners: set[str] = set()
        #: Whether some tests were deselected.
        self.narrowed = False


@dataclass(eq=False, repr=False)
class ScopedFactory:
    """What a factory of a wider scope gave."""

    fixture: str
    created: list[CreatedPath] = field(default_factory=list)
    #: The test that asked for it first, then the one that failed with it.
    nodeid: str = ""
    failed: bool = False
    #: The test whose setup ended it: that test has got another one, for another parameter.
    replaced_for: str = ""
    #: How many of `created` reports have told another process of.
    carried: int = 0


@dataclass(eq=False, repr=False)
class RemoteWorker:
    """A worker with a session root of its own, and what it has told."""

    worker: str
    host: str
    #: The session root, as `host:path`.
    root: str = ""
    #: The leaks by their paths there: the verdict, or before that what single tests left.
    leaks: dict[str, Leak] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    #: Whether the verdict has come; nobody clears up after a worker that crashed before.
    judged: bool = False

    def left(self, root: str, leaks: Iterable[Leak]) -> None:
        """Note what a test left, in case no verdict comes.

        :param root: The session root, as the worker calls it.
        """
        self.root = at(self.host, root)
        self.leaks.update((leak.path, self._from_there(leak)) for leak in leaks)

    def judge(self, root: str, leaks: Iterable[Leak], kept: Iterable[Kept]) -> None:
        """Take the verdict in place of what was noted before."""
        self.judged = True
        self.leaks.clear()
        self.left(root, leaks)
        self.kept = [
            each._replace(path=at(self.host, each.path), worker=self.worker) for each in kept
        ]

    def found(self, failed: Iterable[str]) -> list[Leak]:
        """Return what is known to have been left there.

        :param failed: The tests that have failed: what they left is evidence.
        """
        if self.judged:
            return list(self.leaks.values())
        failed = set(failed)
        return [
            leak._replace(status="failed-test") if is_from_failed(leak.entry, failed) else leak
            for leak in self.leaks.values()
        ]

    def _from_there(self, leak: Leak) -> Leak:
        entry = leak.entry._replace(worker=self.worker)
        if leak.kind in WITHOUT_PATH:
            return leak._replace(entry=entry)
        path = at(self.host, leak.path)
        return leak._replace(path=path, entry=entry._replace(path=path))


def at(host: str, path: str) -> str:
    """Return how *path* on another host is written, as for scp(1)."""
    return f"{host}:{path}"


class Membership(NamedTuple):
    """What pytest-xdist says of this process; nothing of one that it did not start."""

    #: The controller's session root as it was announced, and the root if this process sees it.
    announced: str | None
    root: SessionRoot | None
    #: The name among the workers.
    name: str
    #: What all workers of one run have in common.
    run: str
    #: What this host calls itself, if it does not see the controller's root.
    host: str
    #: Whether the command line asks for workers.
    has_workers: bool

    @property
    def is_worker(self) -> bool:
        """Whether pytest-xdist started this process."""
        return self.announced is not None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


@dataclass(kw_only=True, eq=False, repr=False)
class Workspace:
    """The directories of this process."""

    root: SessionRoot
    worker: WorkerRoot
    #: What the breadcrumb says of the session.
    metadata: dict[str, object]
    #: The permission bits of worker roots.
    mode: int
    #: Where the temp location was before it moved.
    system_tmpdir: str
    messages: Messages
    pid: int = field(default_factory=os.getpid)
    #: Descriptors that are held for the end of the session, all of the same file.
    reserve: list[int] = field(default_factory=list)

    @property
    def joined(self) -> bool:
        """Whether this is a worker in its controller's session root."""
        return self.root.joined

    def recreate(self) -> None:
        """Create the directories of this worker again after a test removed them, and warn."""
        what = f"the session directory {self.root.path} or a part of it was removed"
        try:
            self.root = self.root.restore(self.worker, self.mode, self.metadata)
        except OSError as error:
            self.messages.warn_of(error, "vanished", f"{what}, and cannot be made again: {error}")
        else:
            self.messages.warn("vanished", f"{what}, and was made again")

    def hold_lock(self) -> None:
        """Lock the session directory again if a test has closed the descriptor, and warn."""
        if lock.is_held(self.root.lock_fd) or System.getpid() != self.pid:
            return
        self.root = self.root.hold()
        held = lock.is_held(self.root.lock_fd)
        outcome = "it is locked again" if held else "another session may remove it"
        what = f"the descriptor that locks the session directory {self.root.path}"
        self.messages.warn("lock", f"a test has closed {what}; {outcome}")

    def restore_modes(self) -> bool:
        """Give back the modes that a test took away from the session's directories, and warn.

        :returns: Whether there was something to give back.
        """
        if not self.root.restore_modes(self.mode):
            return False
        what = f"the session directory {self.root.path} or a part of it"
        self.messages.warn("closed", f"the mode of {what} was taken away, and was given back")
        return True


@dataclass(eq=False, repr=False)
class Tests:
    """The test that runs, and the factories of wider scopes."""

    current: CurrentTest | None = None
    open_factories: list[ScopedFactory] = field(default_factory=list)
    #: Factories whose scope has ended.
    expired_factories: list[ScopedFactory] = field(default_factory=list)
    #: Paths that attempts left that were not the last of their test.
    from_earlier_attempts: set[str] = field(default_factory=set)


@dataclass(eq=False, repr=False)
class Retention:
    """What is kept, and where that is recorded."""

    workspace: Workspace
    #: The value of ``--tempres-keep``.
    policy: str
    journal: Journal = field(default_factory=Journal)
    kept: list[Kept] = field(default_factory=list)
    #: The kept paths of this process, and every directory above them.
    protected: set[str] = field(default_factory=set)
    artifacts: Artifacts | None = None
    #: How many of the kept paths the index names, or was to name.
    indexed: int = 0
    #: Whether writing the index failed.
    unindexed: bool = False
    #: Whether created paths are recorded at once, because the process may end in the test.
    at_once: bool = False

    def open_journal(self) -> None:
        """Open the journal while there are descriptors."""
        try:
            self.journal.open(self.workspace.root)
        except OSError as error:
            self._warn_of_journal(error)

    def write_down(self, nodeid: str, paths: Iterable[str]) -> bool:
        """Record at once that *paths* are kept, so that nothing can undo it.

        :returns: Whether that was possible.
        """
        try:
            self.journal.add(self.workspace.root, nodeid, paths)
        except OSError as error:
            self._warn_of_journal(error)
            return False
        return True

    def write_down_created(self, nodeid: str, created: Iterable[CreatedPath]) -> None:
        """Record at once which of *created* are kept if the test fails."""
        kept = (
            each.path
            for each in created
            if reason_to_keep(self.policy, failed=True, asked=each.keep)
        )
        self.write_down(nodeid, kept)

    def _warn_of_journal(self, error: OSError) -> None:
        fate = "should this session be killed, what its failed tests left goes with the next one"
        text = f"the journal could not be written: {error}; {fate}"
        self.workspace.messages.warn_of(error, "journal", text)


@dataclass(eq=False, repr=False)
class LeakDetection:
    """What is known about leaks in this process."""

    rootdir: str
    #: None where leaks are not looked for.
    ledger: Ledger | None
    #: The known leaks, by fingerprint.
    baseline: dict[str, Known]
    #: The stand-ins for `atexit.register` and `atexit.unregister`.
    callbacks: ExitCallbacks | None = None
    #: The entries of this process and of all reports, by path.
    entries: dict[str, Entry] = field(default_factory=dict)
    #: The paths that are removed at interpreter exit.
    deferred: set[str] = field(default_factory=set)
    gc_budget: CollectionBudget = field(default_factory=CollectionBudget)
    directories: LiveDirectories = field(default_factory=LiveDirectories)
    #: The detector whose findings workers send to their controller.
    watched: Watched | None = None
    #: The patterns of the markers of tests, by node id.
    allowed: dict[str, list[str]] = field(default_factory=dict)

    def is_allowed(self, leak: Leak) -> bool:
        """Whether the marker of the test that left it allows it."""
        entry = leak.entry
        patterns = self.allowed.get(entry.test or "")
        if not patterns or entry.owner.scope not in (None, "function"):
            return False
        return Ignore(self.rootdir, patterns).matches(entry.path)


@dataclass(eq=False, repr=False)
class Reported:
    """What reports say, of workers for the most part."""

    #: The failed tests.
    failed: set[str] = field(default_factory=set)
    #: The paths that fixtures created in workers, as they are kept should their worker crash.
    created: dict[str, Kept] = field(default_factory=dict)
    #: What workers found themselves, in our root or with other detectors.
    remote_leaks: list[Leak] = field(default_factory=list)
    #: Workers that do not see our root and have one of their own, by name.
    remote_workers: dict[str, RemoteWorker] = field(default_factory=dict)
    #: The test that each crashed worker was running.
    crashed: dict[str, str] = field(default_factory=dict)
    workers: list[str] = field(default_factory=list)
    #: The workers that came to their end and sent what they knew.
    ended: set[str] = field(default_factory=set)
    #: Sends the controller what no test's report could carry; None where there is no controller.
    send: Callable[[SessionState, set[str], Sequence[Leak]], None] | None = None


@dataclass(eq=False, repr=False)
class Result:
    """How far the session has come, and what came of it."""

    #: When the session began, in ISO 8601; and on a clock that nobody sets back.
    started: str = field(default_factory=_now)
    began: float = field(default_factory=time.monotonic)
    tally: Tally = field(default_factory=Tally)
    summary: Summary | None = None
    #: Whether leaks were judged, or that was tried.
    finished: bool = False
    #: Whether the terminal report was printed.
    printed: bool = False
    #: Whether dead sessions were swept.
    swept: bool = False
    #: Whether other sessions of the project have kept something.
    any_kept: bool = False


@dataclass(kw_only=True, eq=False, repr=False)
class SessionState:
    """The parts of a session, each with what it knows."""

    config: pytest.Config
    settings: Settings
    messages: Messages
    workspace: Workspace
    retention: Retention
    leaks: LeakDetection
    tests: Tests = field(default_factory=Tests)
    reported: Reported = field(default_factory=Reported)
    result: Result = field(default_factory=Result)

    @property
    def is_worker(self) -> bool:
        """Whether a controller receives what is found here."""
        return hasattr(self.config, "workerinput")

    @property
    def is_remote(self) -> bool:
        """Whether this is a worker that does not see its controller's session root."""
        return self.is_worker and not self.workspace.joined

    @property
    def is_sent(self) -> bool:
        """Whether another process receives the reports that are made here."""
        return self.is_worker or System.getpid() != self.workspace.pid


# By name: `typing` would keep the class, and with it all our modules of a session that is over.
session_key = pytest.StashKey["SessionState"]()
