"""What does a session carry? One record behind one stash key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
import errno
import os
import time
from typing import TYPE_CHECKING
from typing import Final

import pytest

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.exceptions import TempresCleanupWarning
from pytest_tempres.exceptions import TempresWarning
from pytest_tempres.leaks.deferred import ExitCallbacks
from pytest_tempres.leaks.deferred import LiveDirectories
from pytest_tempres.leaks.garbage import Garbage
from pytest_tempres.leaks.ignore import Ignore
from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.notices import tell
from pytest_tempres.notices import tell_late
from pytest_tempres.options import Settings
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.journal import Journal
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import Made
from pytest_tempres.workspace.retention import reason_to_keep
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import WorkerRoot

if TYPE_CHECKING:
    from pytest_tempres.hosts import Elsewhere
    from pytest_tempres.leaks.baseline import Known
    from pytest_tempres.leaks.watched import Watched
    from pytest_tempres.reports.summary import Summary
    from pytest_tempres.workspace.retention import Artifacts

__all__ = ["Course", "CurrentTest", "Lending", "SessionState", "session_key"]

#: What a test that uses up all descriptors does to everybody.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE})


class CurrentTest:
    """The test in whose protocol this process is, and how far its last attempt has come."""

    # Every test pays for one of these, and a dataclass with factories costs twice as much.
    __slots__ = (
        *("accused", "earlier", "failed", "failures", "item", "nodeid"),
        *("made", "reports", "started", "superseded"),
    )

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.nodeid = item.nodeid
        #: What fixtures gave: to the attempt that goes on, and to those before it.
        self.made: list[Made] = []
        self.earlier: list[Made] = []
        #: What the attempts before it have left.
        self.superseded: list[str] = []
        self.reports: list[pytest.TestReport] = []
        #: Whether the attempt that goes on has failed so far.
        self.failed = False
        #: Whether it failed only because we said so: what it left is a leak all the same.
        self.accused = False
        #: How many failures there were before; pytest counts those of subtests too.
        self.failures = item.session.testsfailed
        #: Whether its setup began, or its report came, in this process.
        self.started = False


class Course:
    """What has run of the tests that a baseline names."""

    def __init__(self) -> None:
        #: The variants of each test (by its id without parameters), and those that passed.
        self.collected: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()
        #: The node ids of those that did not pass straight away.
        self.stumbled: set[str] = set()
        #: Whether some tests were deselected.
        self.narrowed = False


@dataclass(eq=False, repr=False)
class Lending:
    """What a factory of a wider scope gave."""

    fixture: str
    made: list[Made] = field(default_factory=list)
    #: The test that asked for it first, then the one that failed with it.
    nodeid: str = ""
    failed: bool = False
    #: The test whose setup ended it: that test has got another one, for another parameter.
    replaced_for: str = ""
    #: How many of `made` reports have told another process of.
    carried: int = 0


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


@dataclass(kw_only=True, eq=False, repr=False)
class SessionState:
    """All that lives as long as the session."""

    config: pytest.Config
    settings: Settings
    root: SessionRoot
    worker: WorkerRoot
    #: What the session root says of its session.
    about: dict[str, object]
    #: None where leaks are not looked for.
    ledger: Ledger | None
    #: The known leaks, by fingerprint.
    baseline: dict[str, Known]
    #: Where the temp location was before it moved.
    system_tmpdir: str
    callbacks: ExitCallbacks | None = None
    #: In ISO 8601, as long as nobody has replaced the clock.
    started: str = field(default_factory=_now)
    #: The same moment for a clock that nobody sets back.
    began: float = field(default_factory=time.monotonic)
    pid: int = field(default_factory=os.getpid)

    current: CurrentTest | None = None
    #: Factories whose scope goes on, and those whose scope has ended.
    lent: list[Lending] = field(default_factory=list)
    due: list[Lending] = field(default_factory=list)

    #: What reports have told: entries and fixtures' paths by path, failed tests.
    entries: dict[str, Entry] = field(default_factory=dict)
    made: dict[str, Kept] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    deferred: set[str] = field(default_factory=set)
    #: What workers found that judged for themselves, in our root or by other detectors.
    remote_leaks: list[Leak] = field(default_factory=list)
    #: Workers that do not see our root and have one of their own, by name.
    elsewhere: dict[str, Elsewhere] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)
    #: Whether what a test is given is written down straight away: the process may end in the test.
    at_once: bool = False
    artifacts: Artifacts | None = None
    #: What attempts left that were not a test's last.
    superseded: set[str] = field(default_factory=set)
    #: What this process kept, and every directory above it.
    spared: set[str] = field(default_factory=set)
    #: The test that each crashed worker was running.
    crashed: dict[str, str] = field(default_factory=dict)
    workers: list[str] = field(default_factory=list)
    #: Those that came to their end, and told what they knew.
    ended: set[str] = field(default_factory=set)
    course: Course = field(default_factory=Course)
    garbage: Garbage = field(default_factory=Garbage)
    directories: LiveDirectories = field(default_factory=LiveDirectories)
    #: The detector whose findings travel from workers to their controller.
    watched: Watched | None = None
    #: What the markers of tests let other detectors find: patterns by node id.
    allowed: dict[str, list[str]] = field(default_factory=dict)
    summary: Summary | None = None
    #: How many of the kept paths the index names, or was to name.
    indexed: int = 0
    #: Whether what is kept is written down nowhere, because that failed.
    unindexed: bool = False
    #: Whether pytest has printed its warnings.
    over: bool = False
    #: Descriptors that are held for the end of the session, all of the same file.
    reserve: list[int] = field(default_factory=list)
    #: Whether the session has been judged, or that was tried.
    finished: bool = False
    #: Whether the report for a person was printed.
    printed: bool = False
    #: Whether dead sessions have been looked after.
    swept: bool = False
    #: Whether other sessions of the project have kept something.
    any_kept: bool = False
    _told: set[str] = field(default_factory=set)

    @property
    def joined(self) -> bool:
        """Whether this is a worker in its controller's session root."""
        return self.root.joined

    @property
    def is_worker(self) -> bool:
        """Whether a controller receives what is found here."""
        return hasattr(self.config, "workerinput")

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a worker that does not see its controller's session root."""
        return self.is_worker and not self.joined

    @property
    def travels(self) -> bool:
        """Whether reports made here are received by another process."""
        return self.is_worker or System.getpid() != self.pid

    def may_stay(self, leak: Leak) -> bool:
        """Whether the marker of the test that left it says so."""
        entry = leak.entry
        patterns = self.allowed.get(entry.test or "")
        if not patterns or entry.owner.scope not in (None, "function"):
            return False
        return Ignore(str(self.config.rootpath), patterns).matches(entry.path)

    def warn(
        self, topic: str, message: str, kind: type[TempresWarning] = TempresCleanupWarning
    ) -> None:
        """Tell of a failure of ours, once for each *topic*: a full disk fails a thousand times."""
        if topic in self._told:
            return
        self._told.add(topic)
        if self.over:
            tell_late(message)
        else:
            tell(self.config, kind(message))

    def warn_of(
        self,
        error: Exception,
        topic: str,
        message: str,
        kind: type[TempresWarning] = TempresCleanupWarning,
    ) -> None:
        """Tell of *error* as `warn` does; once for all where all else fails for the same reason."""
        if isinstance(error, NotOurDirectoryError) and error.path == self.root.path:
            topic, message = "place", f"{error}; what is kept may be removed by another session"
        elif getattr(error, "errno", None) in _EXHAUSTED:
            topic = "descriptors"
            message = f"{message}; no look and no removal until descriptors are closed"
        self.warn(topic, message, kind)

    def open_journal(self) -> None:
        """Open the journal while there are descriptors."""
        try:
            self.journal.open(self.root)
        except OSError as error:
            self._warn_of_journal(error)

    def write_down(self, nodeid: str, paths: Iterable[str]) -> bool:
        """Write down at once that *paths* are kept, so that nothing can undo it.

        :returns: Whether that was possible.
        """
        try:
            self.journal.add(self.root, nodeid, paths)
        except OSError as error:
            self._warn_of_journal(error)
            return False
        return True

    def write_down_made(self, nodeid: str, made: Iterable[Made]) -> None:
        """Write down at once what is kept of *made* if the test fails."""
        policy = self.settings.keep
        kept = (m.path for m in made if reason_to_keep(policy, failed=True, asked=m.keep))
        self.write_down(nodeid, kept)

    def _warn_of_journal(self, error: OSError) -> None:
        fate = "should this session be killed, what its failed tests left goes with the next one"
        self.warn_of(error, "journal", f"the journal could not be written: {error}; {fate}")

    def make_again(self) -> None:
        """Make the directories of this worker again, which a test has removed, and tell of it."""
        what = f"the session directory {self.root.path} or a part of it"
        try:
            self.root = self.root.restore(self.worker, self.settings.root_mode, self.about)
        except OSError as error:
            self.warn_of(
                error, "vanished", f"{what} was removed, and cannot be made again: {error}"
            )
        else:
            self.warn("vanished", f"{what} was removed, and was made again")

    def hold_lock(self) -> None:
        """Lock the session directory again if a test has closed the descriptor, and tell of it."""
        if lock.is_held(self.root.lock_fd) or System.getpid() != self.pid:
            return
        self.root = self.root.hold()
        held = lock.is_held(self.root.lock_fd)
        outcome = "it is locked again" if held else "another session may remove it"
        what = f"the descriptor that locks the session directory {self.root.path}"
        self.warn("lock", f"a test has closed {what}; {outcome}")

    def open_again(self) -> bool:
        """Open the session's directories again if a test has closed them, and tell of it."""
        if not self.root.reopen(self.settings.root_mode):
            return False
        what = f"the session directory {self.root.path} or a part of it"
        self.warn("closed", f"the mode of {what} was taken away, and was given back")
        return True


# By name: `typing` would keep the class, and with it all our modules of a session that is over.
session_key = pytest.StashKey["SessionState"]()
