"""The counts of tests that ran, and the stale leaks of the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator

import pytest

from pytest_tempres.leaks import baseline
from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.baseline import stale
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import base_id
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.summary import Summary
from pytest_tempres.session.state import SessionState

__all__ = ["TallyHooks", "stale_leaks", "update_baseline"]

#: Options that leave out tests before `pytest_collection_modifyitems` can count them.
_FILTER_OPTIONS = ("lf", "ignore", "ignore_glob")
#: The detector that finds each kind of leak; "temp" finds all others.
_DETECTOR_OF = {"descriptor": "fds", "changed": "watch", "deleted": "watch"}


class TallyHooks:
    """Hooks that count tests and their variants, registered only if there is a baseline."""

    def __init__(self, state: SessionState) -> None:
        self._state = state

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """Count the variants of each test before other plugins deselect some."""
        tally = self._state.result.tally
        before = len(items)
        # A worker sends these counts to its controller, so only what may be stale is counted.
        known = {each.owner for each in self._state.leaks.baseline.values()}
        owners = (base_id(item.nodeid) for item in items)
        tally.collected = Counter(owner for owner in owners if owner in known)
        result = yield
        tally.deselected |= len(items) != before
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the variants that passed, in the process that receives all reports."""
        tally = self._state.result.tally
        if report.outcome != "passed":
            tally.failed.add(report.nodeid)
        elif report.when == "teardown" and report.nodeid not in tally.failed:
            tally.passed[base_id(report.nodeid)] += 1


def stale_leaks(
    state: SessionState, session: pytest.Session, leaks: tuple[Leak, ...]
) -> list[Known]:
    """Return the known leaks that are stale: their owners passed and left nothing."""
    if not state.leaks.baseline or not _has_detected(state):
        return []
    passed = _passed_tests(state)
    if _is_full_run(state, session):
        known = state.leaks.baseline.values()
        passed |= {(each.owner_kind, each.owner) for each in known if each.owner_kind != "test"}
    gone = stale(state.leaks.baseline, {leak.fingerprint for leak in leaks}, passed)
    return [
        known for known in gone if _DETECTOR_OF.get(known.kind, "temp") in state.settings.detect
    ]


def update_baseline(state: SessionState, summary: Summary) -> None:
    """Rewrite the baseline as `--tempres-update-baseline` says; a failure becomes a warning."""
    path = state.settings.baseline or ""
    if state.settings.update_baseline == "shrink":
        gone = {known.fingerprint for known in summary.stale}
        known = [each for key, each in state.leaks.baseline.items() if key not in gone]
    else:
        leaks = [leak for leak in summary.leaks if leak.status in ("leak", "known")]
        known = list({leak.fingerprint: Known.of(leak) for leak in leaks}.values())
    if not _has_detected(state):
        state.messages.warn(
            "baseline", f"the baseline {path} was not written: leak detection did not run"
        )
        return
    try:
        baseline.write(path, known)
    except OSError as error:
        state.messages.warn("baseline", f"the baseline {path} was not written: {error}")


def _has_detected(state: SessionState) -> bool:
    """Whether this session ran tests with leak detection."""
    option = state.config.getoption
    runs_no_tests = any(option(name, False) for name in ("collectonly", "setuponly", "setupplan"))
    return state.leaks.is_on and not runs_no_tests


def _passed_tests(state: SessionState) -> set[tuple[str, str]]:
    """Return the tests of which all variants were collected and passed."""
    tally, config = state.result.tally, state.config
    if config.getoption("lf", False) or any("[" in arg.partition("::")[2] for arg in config.args):
        return set()
    return {
        ("test", base) for base, number in tally.collected.items() if tally.passed[base] >= number
    }


def _is_full_run(state: SessionState, session: pytest.Session) -> bool:
    """Whether this session ran all tests of the project, and all of them passed."""
    config = state.config
    if session.exitstatus != pytest.ExitCode.OK or state.result.tally.deselected:
        return False
    if any(config.getoption(name, None) for name in _FILTER_OPTIONS):
        return False
    if config.args_source is config.ArgsSource.TESTPATHS:
        return True
    # The arguments, or by default the directory where pytest was started.
    root = System.realpath(config.rootpath)
    return any(System.realpath(arg) == root for arg in config.args)
