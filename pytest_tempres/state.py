"""What does a session carry? One record behind one stash key."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from dataclasses import field
import os
import time
from typing import TYPE_CHECKING

import pytest

from pytest_tempres.exceptions import TempresCleanupWarning
from pytest_tempres.exceptions import TempresWarning
from pytest_tempres.leaks.deferred import ExitCallbacks
from pytest_tempres.leaks.garbage import Garbage
from pytest_tempres.leaks.ignore import Ignore
from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.notices import tell
from pytest_tempres.options import Settings
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import Made
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import WorkerRoot

if TYPE_CHECKING:
    from pytest_tempres.leaks.baseline import Known
    from pytest_tempres.leaks.watched import Watched
    from pytest_tempres.reports.summary import Summary

__all__ = ["Course", "CurrentTest", "Lending", "SessionState", "about", "session_key"]


class CurrentTest:
    """The test in whose protocol this process is, and how far its last attempt has come."""

    # Every test pays for one of these, and a dataclass with factories costs twice as much.
    __slots__ = (
        *("accused", "earlier", "failed", "failures", "item"),
        *("made", "reports", "started", "superseded"),
    )

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
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
    #: How many of `made` a report has carried to the controller.
    carried: int = 0


@dataclass(kw_only=True, eq=False, repr=False)
class SessionState:
    """All that lives as long as the session."""

    config: pytest.Config
    settings: Settings
    root: SessionRoot
    worker: WorkerRoot
    #: None where leaks are not looked for.
    ledger: Ledger | None
    #: The known leaks, by fingerprint.
    baseline: dict[str, Known]
    #: Where the temp location was before it moved.
    system_tmpdir: str
    callbacks: ExitCallbacks | None = None
    started: float = field(default_factory=time.time)
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
    #: What workers judged that have a session root of their own.
    remote_leaks: list[Leak] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    #: What attempts left that were not a test's last.
    superseded: set[str] = field(default_factory=set)
    #: What this process kept, and every directory above it.
    spared: set[str] = field(default_factory=set)
    #: The test that each crashed worker was running.
    crashed: dict[str, str] = field(default_factory=dict)
    workers: list[str] = field(default_factory=list)
    #: The session roots of workers that do not see ours.
    other_roots: list[str] = field(default_factory=list)
    course: Course = field(default_factory=Course)
    garbage: Garbage = field(default_factory=Garbage)
    #: The detector whose findings travel from workers to their controller.
    watched: Watched | None = None
    #: What the markers of tests let other detectors find: patterns by node id.
    allowed: dict[str, list[str]] = field(default_factory=dict)
    summary: Summary | None = None
    #: Whether dead sessions have been looked after.
    swept: bool = False
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
    def travels(self) -> bool:
        """Whether reports made here are received by another process."""
        return self.is_worker or os.getpid() != self.pid

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
        if topic not in self._told:
            self._told.add(topic)
            tell(self.config, kind(message))

    def make_again(self) -> None:
        """Make the directories of this worker again, which a test has removed, and tell of it."""
        try:
            self.root = self.root.restore(
                self.worker, self.settings.root_mode, about(self.config, self.started)
            )
        except OSError as error:
            outcome = f"cannot be made again: {error}"
        else:
            outcome = "was made again"
        what = f"the session directory {self.root.path} or a part of it"
        self.warn("vanished", f"{what} was removed, and {outcome}")


def about(config: pytest.Config, started: float) -> dict[str, object]:
    """Return what a session root says of its session."""
    return {"rootdir": str(config.rootpath), "started": started}


session_key = pytest.StashKey[SessionState]()
