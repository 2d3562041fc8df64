"""Strict mode: an error at the teardown of each test that leaks."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_tempres.leaks import verdict
from pytest_tempres.leaks.deferred import removed_by_objects
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.session.detection import LeakDetection
from pytest_tempres.session.runtest import own_entries
from pytest_tempres.session.state import CurrentTest
from pytest_tempres.session.state import SessionState

__all__ = ["StrictHooks", "judge_now"]


class StrictHooks:
    """The hooks of strict mode, registered only in that mode."""

    def __init__(self, state: SessionState) -> None:
        self._state = state
        self._raised: BaseException | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Start and end the collection budget of the test."""
        self._state.leaks.gc_budget.begin()
        try:
            return (yield)
        finally:
            self._state.leaks.gc_budget.end()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Judge what a test left, once its last finalizer has run."""
        try:
            result = yield
        except Exception as error:
            # The error of the teardown itself is raised, with the leak error as its context.
            leaks = self._leaks()
            if leaks:
                _chain(error, self._leak_error(leaks))
            raise
        leaks = self._leaks()
        if leaks and self._state.current is not None:
            self._state.current.leak_reported = True
            self._raised = self._leak_error(leaks)
            raise self._raised
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        """Shorten the traceback of the leak error: pytest would filter it, but does not show it."""
        raised = call.excinfo
        if raised is None or raised.value is not self._raised:
            return
        self._raised = None
        if not self._state.config.getoption("fulltrace", False):
            raised.traceback = raised.traceback[-1:]

    def _leaks(self) -> list[Leak]:
        current = self._state.current
        if current is None or _has_failed(current):
            return []
        return self._state.messages.call_safely(_find_leaks, self._state, current) or []

    def _leak_error(self, leaks: list[Leak]) -> BaseException:
        from pytest_tempres.reports.terminal import describe  # noqa: PLC0415 -- loads when used

        text = "\n".join(describe(leaks, self._state.workspace.root.path))
        return pytest.fail.Exception(f"{text}\n(--tempres-leaks=strict)", pytrace=False)


def _has_failed(current: CurrentTest) -> bool:
    """Whether the attempt or a subtest has failed so far, or was expected to.

    pytest takes any failure of a test with the marker `xfail` for the expected one.
    """
    failed = current.failed or current.item.session.testsfailed != current.failures_before
    return failed or "xfail" in current.item.keywords


def _find_leaks(state: SessionState, current: CurrentTest) -> list[Leak]:
    leaks = judge_now(state.leaks, own_entries(state, current))
    detectors = state.leaks.ledger.detectors
    found = [leak for detector in detectors for leak in detector.leaks_of(current.nodeid)]
    found = [leak for leak in found if _is_final(leak) and not state.leaks.is_allowed(leak)]
    return [*leaks, *_only_leaks(state.leaks.without_ignored(found))]


def judge_now(detection: LeakDetection, entries: list[Entry]) -> list[Leak]:
    """Return a leak for each of *entries* that still exists and that nothing will remove."""
    leaks = _only_leaks(detection.judge(entries))
    # Each further step is more expensive, so known and ignored leaks are filtered out first.
    leaks = verdict.not_scheduled(leaks, detection.at_exit.scheduled())
    leaks = _not_removed_by_files(detection, leaks)
    paths = {leak.path for leak in leaks}
    left = [entry for entry in entries if entry.path in paths]
    paths = {entry.path for entry in verdict.suspects(left, detection.gc_budget.collect)}
    return [leak for leak in leaks if leak.path in paths]


def _not_removed_by_files(detection: LeakDetection, leaks: list[Leak]) -> list[Leak]:
    """Return those of *leaks* that no `NamedTemporaryFile` object will remove with its file."""
    files = [leak for leak in leaks if leak.kind != "directory"]
    left = verdict.not_scheduled(files, removed_by_objects(detection.gc_budget.objects()))
    kept = {leak.path for leak in left}
    return [leak for leak in leaks if leak.kind == "directory" or leak.path in kept]


def _is_final(leak: Leak) -> bool:
    """Whether a detector's finding can be judged now; pytest releases fixture values later."""
    return leak.kind != "descriptor" or leak.owner.kind == "test"


def _only_leaks(leaks: list[Leak]) -> list[Leak]:
    return [leak for leak in leaks if leak.status == "leak"]


def _chain(error: BaseException, leak_error: BaseException) -> None:
    """Make *leak_error* the context of *error*, at the end of its chain, so that both are shown."""
    seen = {id(error)}
    while True:
        earlier = error.__cause__ or error.__context__
        if earlier is None or id(earlier) in seen:
            break
        seen.add(id(earlier))
        error = earlier
    error.__context__ = leak_error
