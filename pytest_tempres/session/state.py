"""The state of a session and of its current test, in `config.stash`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
import time
from typing import NamedTuple

import pytest

from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.verdict import is_from_failed
from pytest_tempres.options import Settings
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.output import Appended
from pytest_tempres.reports.summary import Summary
from pytest_tempres.session.detection import LeakDetection
from pytest_tempres.session.messages import Messages
from pytest_tempres.session.retention import Retention
from pytest_tempres.session.workspace import Workspace
from pytest_tempres.workspace.dirfd import children
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.root import SessionRoot

__all__ = [
    "CurrentTest",
    "Membership",
    "RemoteWorker",
    "Reported",
    "SessionState",
    "Tally",
    "at",
    "session_key",
]


class CurrentTest:
    """The test whose protocol is running, and the state of its current attempt."""

    # One is created for each test, and a dataclass with default factories takes twice as long.
    __slots__ = (
        *("item", "nodeid", "created", "created_earlier", "from_earlier_attempts"),
        *("reports", "failed", "failures_before", "leak_reported", "started"),
    )

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.nodeid = item.nodeid
        #: What fixtures created for the current attempt, and for earlier ones.
        self.created: list[CreatedPath] = []
        self.created_earlier: list[CreatedPath] = []
        #: What earlier attempts have left.
        self.from_earlier_attempts: list[str] = []
        self.reports: list[pytest.TestReport] = []
        #: Whether the current attempt has failed so far.
        self.failed = False
        #: Whether it failed only by the leak error of strict mode; what it left is still a leak.
        self.leak_reported = False
        #: The number of failures before this test; pytest counts those of subtests too.
        self.failures_before = item.session.testsfailed
        #: Whether its setup began, or its report was received, in this process.
        self.started = False


class Tally:
    """The counts of the tests that the baseline names."""

    def __init__(self) -> None:
        #: The number of variants of each test (by node id without parameters), and of passed ones.
        self.collected: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()
        #: The node ids of the tests with a report that is not "passed".
        self.failed: set[str] = set()
        #: Whether some tests were deselected.
        self.deselected = False


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

    def record(self, root: str, leaks: Iterable[Leak]) -> None:
        """Record what a test left in *root* on the host, in case the worker sends no verdict."""
        self.root = at(self.host, root)
        self.leaks.update((leak.path, self._with_host(leak)) for leak in leaks)

    def judge(self, root: str, leaks: Iterable[Leak], kept: Iterable[Kept]) -> None:
        """Replace what was recorded before by the verdict."""
        self.judged = True
        self.leaks.clear()
        self.record(root, leaks)
        self.kept = [
            each._replace(path=at(self.host, each.path), worker=self.worker) for each in kept
        ]

    def found(self, failed: Collection[str]) -> list[Leak]:
        """Return the leaks that the worker has reported, marked if they are of *failed* tests."""
        if self.judged:
            return list(self.leaks.values())
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
    """The role of this process in a run of pytest-xdist."""

    #: The controller's session root as sent to a worker, and the root if it is accessible here.
    controller_root: str | None
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
        return self.controller_root is not None


@dataclass(eq=False, repr=False)
class Reported:
    """What test reports and workers have reported."""

    #: The node ids of the failed tests.
    failed: set[str] = field(default_factory=set)
    #: The paths that fixtures created in workers, to keep those of a worker that crashes.
    created: dict[str, Kept] = field(default_factory=dict)
    #: Paths left by attempts that were not the last of their test.
    from_earlier_attempts: set[str] = field(default_factory=set)
    #: The leaks that workers found with their own scans and detectors.
    leaks: list[Leak] = field(default_factory=list)
    #: Workers that have a session root of their own, by name.
    remote_workers: dict[str, RemoteWorker] = field(default_factory=dict)
    #: The test that each crashed worker was running.
    crashed: dict[str, str] = field(default_factory=dict)
    workers: list[str] = field(default_factory=list)
    #: The workers that have finished and sent their findings.
    finished: set[str] = field(default_factory=set)

    def failed_here(self) -> set[str]:
        """Return the failed tests whose entries this process must mark itself.

        Workers mark their entries themselves: if each runs all tests, a node id is ambiguous.
        """
        return set() if self.workers else self.failed

    def remote_kept(self) -> list[Kept]:
        """Return what the remote workers have kept."""
        return [kept for each in self.remote_workers.values() for kept in each.kept]

    def created_by_crashed(self, worker: str, root: str) -> list[str]:
        """Return what fixtures had created in a crashed *worker* and no report names.

        :param root: The session root of this process; nothing is found if the worker is remote.
        """
        paths = sorted(children(System.join(root, f"{worker}.d")))
        return [path for path in paths if path not in self.created]

    def unreported_entries(self, root: str, own_worker: str, *, broken: bool) -> Iterator[Entry]:
        """Yield what is in the roots of workers and was not reported.

        :param broken: Whether the controller may not have read all reports.
        """
        for directory in sorted(children(root)):
            worker = System.basename(directory)
            if worker == own_worker or worker.endswith(".d"):
                continue
            test = self.crashed.get(worker)
            owner = SESSION if test is None else Owner("test", test)
            # A worker that was killed could not clean up.
            died = broken or worker not in self.finished
            for path in sorted(children(directory)):
                yield Entry(path, owner, test, from_failed=died, worker=worker)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


@dataclass(eq=False, repr=False)
class Result:
    """The progress and the result of the session."""

    #: When the session began, in ISO 8601; and by the monotonic clock.
    started: str = field(default_factory=_now)
    monotonic_start: float = field(default_factory=time.monotonic)
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
    #: Whether there are stored sessions of this project.
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
    #: The test that is running.
    current: CurrentTest | None = None
    reported: Reported = field(default_factory=Reported)
    result: Result = field(default_factory=Result)
    #: Sends the controller what is not in test reports; None if there is no controller.
    send: Callable[[SessionState, set[str], Sequence[Leak]], None] | None = None

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
        return self.is_worker or self.workspace.is_forked


# A string: `typing` caches a class, which would keep all modules of a finished session alive.
session_key = pytest.StashKey["SessionState"]()
