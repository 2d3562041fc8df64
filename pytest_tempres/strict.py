"""What does a test get that leaves something behind, in strict mode? An error at teardown."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_tempres.attempts import own_entries
from pytest_tempres.leaks.deferred import promised
from pytest_tempres.leaks.deferred import promised_by_handlers
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.verdict import is_deferred
from pytest_tempres.leaks.verdict import judge
from pytest_tempres.leaks.verdict import suspects
from pytest_tempres.pardon import excused
from pytest_tempres.state import CurrentTest
from pytest_tempres.state import SessionState

__all__ = ["StrictHooks"]


class StrictHooks:
    """The hook of strict mode, registered only there."""

    def __init__(self, state: SessionState) -> None:
        self._state = state

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Judge a test once its last finalizer has run."""
        try:
            result = yield
        except Exception as error:
            # The test has failed: what it left is evidence, and its own error comes first.
            leaks = self._leaks()
            if leaks:
                _chain(error, self._complaint(leaks))
            raise
        leaks = self._leaks()
        if leaks and self._state.current is not None:
            self._state.current.accused = True
            raise self._complaint(leaks)
        return result

    def _leaks(self) -> list[Leak]:
        current = self._state.current
        if current is None or _failed(current):
            return []
        try:
            return _due(self._state, current)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is ours
            self._state.warn("strict", f"internal error at a test's due: {error!r}")
            return []

    def _complaint(self, leaks: list[Leak]) -> BaseException:
        from pytest_tempres.reports.terminal import describe  # noqa: PLC0415 -- loads when used

        text = "\n".join(describe(leaks, self._state.root.path))
        return pytest.fail.Exception(f"{text}\n(--tempres-leaks=strict)", pytrace=False)


def _failed(current: CurrentTest) -> bool:
    """Whether the attempt has failed so far, or a subtest of it, or was expected to.

    pytest takes any failure of a test with the marker for the expected one.
    """
    failed = current.failed or current.item.session.testsfailed != current.failures
    return failed or "xfail" in current.item.keywords


def _due(state: SessionState, current: CurrentTest) -> list[Leak]:
    ledger = state.ledger
    if ledger is None:
        return []
    entries = own_entries(state, ledger, current)
    leaks = _without_excuse(state, judge(entries, deferred=set(), failed=(), pardoned=_nobody))
    # What follows is dear, and not done for what is known or may stay, nor for what
    # is promised in a way that is cheap to see.
    leaks = _unpromised(leaks, promised_by_handlers(state.callbacks)) if leaks else leaks
    if leaks:
        suspected = {leak.path for leak in leaks}
        there = suspects((e for e in entries if e.path in suspected), state.garbage.collect)
        leaks = _unpromised(
            judge(there, deferred=set(), failed=(), pardoned=_nobody), promised(state.callbacks)
        )
    found = [leak for detector in ledger.detectors for leak in detector.due(current.item.nodeid)]
    return leaks + _without_excuse(
        state, [leak for leak in found if _is_due(leak) and not state.may_stay(leak)]
    )


def _unpromised(leaks: list[Leak], promises: set[str]) -> list[Leak]:
    return [leak for leak in leaks if not is_deferred(leak.entry, promises)]


def _is_due(leak: Leak) -> bool:
    """Whether a detector's finding is judged now: pytest lets go of a fixture's value later."""
    return leak.kind != "descriptor" or leak.owner.kind == "test"


def _without_excuse(state: SessionState, leaks: list[Leak]) -> list[Leak]:
    return [leak for leak in excused(state, leaks) if leak.status == "leak"]


def _nobody(_: Leak) -> bool:
    return False


def _chain(error: BaseException, complaint: BaseException) -> None:
    """Let *error* be shown after *complaint*, which happened before it was known."""
    seen = {id(error)}
    while True:
        earlier = error.__cause__ or error.__context__
        if earlier is None or id(earlier) in seen:
            break
        seen.add(id(earlier))
        error = earlier
    error.__context__ = complaint
