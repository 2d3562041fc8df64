"""The state of a session and of its current test, in `config.stash`."""

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
    from pytest_tempres.reports.output import Appended
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
    """The test whose protocol is running, and the state of its current attempt."""

    # One is created for each test, and a dataclass with default factories takes twice as long.
    __slots__ = (
        *("leak_reported", "earlier", "failed", "failures", "item", "nodeid"),
        *("created", "reports", "started", "from_earlier_attempts"),
    )

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.nodeid = item.nodeid
        #: What fixtures created for the current attempt, and for earlier ones.
        self.created: list[CreatedPath] = []
        self.earlier: list[CreatedPath] = []
        #: What earlier attempts have left.
        self.from_earlier_attempts: list[str] = []
        self.reports: list[pytest.TestReport] = []
        #: Whether the current attempt has failed so far.
        self.failed = False
        #: Whether it failed only by the leak error of strict mode; what it left is still a leak.
        self.leak_reported = False
        #: The number of failures before this test; pytest counts those of subtests too.
        self.failures = item.session.testsfailed
        #: Whether its setup began, or its report was received, in this process.
        self.started = False


class Tally:
    """The counts of the tests that a baseline names."""

    def __init__(self) -> None:
        #: The number of variants of each test (by its id without parameters), and of passed ones.
        self.collected: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()
        #: The node ids of the tests with a report that is not "passed".
        self.failed: set[str] = set()
        #: Whether some tests were deselected.
        self.narrowed = False


@dataclass(eq=False, repr=False)
class ScopedFactory:
    """What a factory fixture of wider scope created."""

    fixture: str
    created: list[CreatedPath] = field(default_factory=list)
    #: The first test that used it; after a failure, the test that failed.
    nodeid: str = ""
    failed: bool = False
    #: The test whose setup ended it, because that test uses another parameter.
    replaced_for: str = ""
    #: How many of `created` were sent to another process in reports.
    sent_count: int = 0


@dataclass(eq=False, repr=False)
class RemoteWorker:
    """A worker with a session root of its own, and what it has reported."""

    worker: str
    host: str
    #: The session root, as `host:path`.
    root: str = ""
    #: The leaks by path: those of the verdict, or before it those that tests reported.
    leaks: dict[str, Leak] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    #: Whether the verdict was received; if a worker crashes before, its root is not cleaned up.
    judged: bool = False

    def left(self, root: str, leaks: Iterable[Leak]) -> None:
        """Record what a test left, in case the worker sends no verdict.

        :param root: The path of the session root on the worker's host.
        """
        self.root = at(self.host, root)
        self.leaks.update((leak.path, self._with_host(leak)) for leak in leaks)

    def judge(self, root: str, leaks: Iterable[Leak], kept: Iterable[Kept]) -> None:
        """Replace what was recorded before by the verdict."""
        self.judged = True
        self.leaks.clear()
        self.left(root, leaks)
        self.kept = [
            each._replace(path=at(self.host, each.path), worker=self.worker) for each in kept
        ]

    def found(self, failed: Iterable[str]) -> list[Leak]:
        """Return the leaks that the worker has reported.

        :param failed: The failed tests; what they left has the status "failed-test".
        """
        if self.judged:
            return list(self.leaks.values())
        failed = set(failed)
        return [
            leak._replace(status="failed-test") if is_from_failed(leak.entry, failed) else leak
            for leak in self.leaks.values()
        ]

    def _with_host(self, leak: Leak) -> Leak:
        entry = leak.entry._replace(worker=self.worker)
        if leak.kind in WITHOUT_PATH:
            return leak._replace(entry=entry)
        path = at(self.host, leak.path)
        return leak._replace(path=path, entry=entry._replace(path=path))


def at(host: str, path: str) -> str:
    """Return *path* on another host in the syntax of scp(1)."""
    return f"{host}:{path}"


class Membership(NamedTuple):
    """The place of this process in a run of pytest-xdist."""

    #: The controller's session root as sent to this worker, and the root if it is accessible here.
    announced: str | None
    root: SessionRoot | None
    #: The name of this worker.
    name: str
    #: The id of the run, the same in all its workers.
    run: str
    #: The name of this host, if the controller's session root is not accessible here.
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
    #: The session metadata in the breadcrumb file.
    metadata: dict[str, object]
    #: The permission bits of worker roots.
    mode: int
    #: Where the temp location was before it moved.
    system_tmpdir: str
    messages: Messages
    pid: int = field(default_factory=os.getpid)
    #: Descriptors reserved for the end of the session, all of the same directory.
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
        """Restore the modes of the session's directories if a test has changed them, and warn.

        :returns: Whether a mode was changed.
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
    #: Paths left by attempts that were not the last of their test.
    from_earlier_attempts: set[str] = field(default_factory=set)


@dataclass(eq=False, repr=False)
class Retention:
    """The kept paths, and where they are recorded."""

    workspace: Workspace
    #: The value of ``--tempres-keep``.
    policy: str
    journal: Journal = field(default_factory=Journal)
    kept: list[Kept] = field(default_factory=list)
    #: The kept paths of this process, and every directory above them.
    protected: set[str] = field(default_factory=set)
    artifacts: Artifacts | None = None
    #: How many kept paths there were when the index was last written, or failed to be.
    indexed: int = 0
    #: Whether writing the index failed.
    unindexed: bool = False
    #: Whether created paths are recorded at once, because the process may end in the test.
    at_once: bool = False

    def open_journal(self) -> None:
        """Open the journal early, before a test may use up all descriptors."""
        try:
            self.journal.open(self.workspace.root)
        except OSError as error:
            self._warn_of_journal(error)

    def write_down(self, nodeid: str, paths: Iterable[str]) -> bool:
        """Record at once that *paths* are kept, in case the process ends early.

        :returns: Whether they were recorded.
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
    #: None if leak detection is off.
    ledger: Ledger | None
    #: The known leaks, by fingerprint.
    baseline: dict[str, Known]
    #: The replacements for `atexit.register` and `atexit.unregister`.
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
        """Whether a marker of the test that left *leak* allows it."""
        entry = leak.entry
        patterns = self.allowed.get(entry.test or "")
        if not patterns or entry.owner.scope not in (None, "function"):
            return False
        return Ignore(self.rootdir, patterns).matches(entry.path)


@dataclass(eq=False, repr=False)
class Reported:
    """What was reported, mostly by workers."""

    #: The failed tests.
    failed: set[str] = field(default_factory=set)
    #: The paths that fixtures created in workers, to keep those of a worker that crashes.
    created: dict[str, Kept] = field(default_factory=dict)
    #: The leaks that workers found with their own scans and detectors.
    remote_leaks: list[Leak] = field(default_factory=list)
    #: Workers that have a session root of their own, by name.
    remote_workers: dict[str, RemoteWorker] = field(default_factory=dict)
    #: The test that each crashed worker was running.
    crashed: dict[str, str] = field(default_factory=dict)
    workers: list[str] = field(default_factory=list)
    #: The workers that have finished and sent their findings.
    ended: set[str] = field(default_factory=set)
    #: Sends the controller what is not in test reports; None if there is no controller.
    send: Callable[[SessionState, set[str], Sequence[Leak]], None] | None = None


@dataclass(eq=False, repr=False)
class Result:
    """The progress and the result of the session."""

    #: When the session began, in ISO 8601; and by the monotonic clock.
    started: str = field(default_factory=_now)
    began: float = field(default_factory=time.monotonic)
    tally: Tally = field(default_factory=Tally)
    summary: Summary | None = None
    #: Whether leaks were judged, successfully or not.
    finished: bool = False
    #: Whether the terminal report was printed.
    printed: bool = False
    #: Whether the annotations of GitHub Actions were printed.
    annotated: bool = False
    #: What was added to files, by path.
    appended: dict[str, Appended] = field(default_factory=dict)
    #: Whether dead sessions were swept.
    swept: bool = False
    #: Whether there are stored sessions of the project.
    any_kept: bool = False


@dataclass(kw_only=True, eq=False, repr=False)
class SessionState:
    """The state of a session, in parts."""

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
        """Whether this process is a worker of pytest-xdist."""
        return hasattr(self.config, "workerinput")

    @property
    def is_remote(self) -> bool:
        """Whether this is a worker with a session root of its own."""
        return self.is_worker and not self.workspace.joined

    @property
    def is_sent(self) -> bool:
        """Whether the reports of this process are sent to another one."""
        return self.is_worker or System.getpid() != self.workspace.pid


# A string: `typing` caches a class, which would keep all modules of a finished session alive.
session_key = pytest.StashKey["SessionState"]()
