"""Who ran to the end? A known leak is stale only when its owner did, and left nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator

import pytest

from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.baseline import base_id
from pytest_tempres.leaks.baseline import stale
from pytest_tempres.leaks.model import Leak
from pytest_tempres.primitives._system import System
from pytest_tempres.session.state import SessionState

__all__ = ["TallyHooks", "has_looked", "no_longer"]

#: Options that leave out tests before anybody can count them.
_NARROWING = ("lf", "ignore", "ignore_glob")
#: Which detector finds what only one of them does.
_DETECTOR = {"descriptor": "fds", "changed": "watch", "deleted": "watch"}


class TallyHooks:
    """What counts tests and their variants, registered only where there is a baseline."""

    def __init__(self, state: SessionState) -> None:
        self._state = state

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """Count the variants of each test before anybody deselects some."""
        tally = self._state.result.tally
        before = len(items)
        # A worker tells the controller of those alone that may turn out to be stale.
        known = {each.owner for each in self._state.leaks.baseline.values()}
        owners = (base_id(item.nodeid) for item in items)
        tally.collected = Counter(owner for owner in owners if owner in known)
        result = yield
        tally.narrowed |= len(items) != before
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the variants that passed, in the process that knows all reports."""
        tally = self._state.result.tally
        if report.outcome != "passed":
            tally.failed_owners.add(report.nodeid)
        elif report.when == "teardown" and report.nodeid not in tally.failed_owners:
            tally.passed[base_id(report.nodeid)] += 1


def no_longer(state: SessionState, session: pytest.Session, leaks: tuple[Leak, ...]) -> list[Known]:
    """Return the known leaks that are gone, though their owners ran to the end."""
    if not state.leaks.baseline or not has_looked(state):
        return []
    over = _tests(state)
    if _is_whole(state, session):
        known = state.leaks.baseline.values()
        over |= {(each.owner_kind, each.owner) for each in known if each.owner_kind != "test"}
    gone = stale(state.leaks.baseline, {leak.fingerprint for leak in leaks}, over)
    return [known for known in gone if _DETECTOR.get(known.kind, "temp") in state.settings.detect]


def has_looked(state: SessionState) -> bool:
    """Whether this run ran tests and looked at what they left."""
    option = state.config.getoption
    pretended = any(option(name, False) for name in ("collectonly", "setuponly", "setupplan"))
    return state.leaks.ledger is not None and not pretended


def _tests(state: SessionState) -> set[tuple[str, str]]:
    """Return the tests of which every variant was collected and has passed."""
    tally, config = state.result.tally, state.config
    if config.getoption("lf", False) or any("[" in arg.partition("::")[2] for arg in config.args):
        return set()
    return {
        ("test", base) for base, number in tally.collected.items() if tally.passed[base] >= number
    }


def _is_whole(state: SessionState, session: pytest.Session) -> bool:
    """Whether this run had every test of the project, and all of them passed."""
    config = state.config
    if session.exitstatus != pytest.ExitCode.OK or state.result.tally.narrowed:
        return False
    if any(config.getoption(name, None) for name in _NARROWING):
        return False
    if config.args_source is config.ArgsSource.TESTPATHS:
        return True
    # What was given, or the directory where pytest was started.
    root = System.realpath(config.rootpath)
    return any(System.realpath(arg) == root for arg in config.args)
