"""The outermost hook at the end of a session: other plugins may raise there."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator
from typing import Any
from typing import Final

import pytest

from pytest_tempres.primitives._system import System
from pytest_tempres.session.messages import write_late
from pytest_tempres.session.state import SessionState
from pytest_tempres.workspace import lock

__all__ = ["EndHooks", "hold", "prepare", "release"]


class EndHooks:
    """Sees whatever another plugin raises in `pytest_sessionfinish`.

    :param finish: What has to be done once at the end of each session.
    """

    def __init__(self, state: SessionState, finish: Callable[[pytest.Session], object]) -> None:
        self._state = state
        self._finish = finish

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Do what is missing when the end of the session fails: the verdict and the report."""
        try:
            return (yield)
        except BaseException as error:
            if System.getpid() == self._state.workspace.pid:
                self._make_up_for(error, session)
            raise

    def _make_up_for(self, error: BaseException, session: pytest.Session) -> None:
        # A wrapper that raises before its yield keeps the inner ones from being called.
        self._finish(session)
        summary = self._state.result.summary
        # pytest makes this number the exit status.
        if isinstance(error, pytest.exit.Exception) and error.returncode == 0:
            self._hold_gate(error)
        if (
            not self._state.result.printed
            and self._state.settings.prints
            and not self._state.is_worker
        ):
            from pytest_tempres.reports import terminal  # noqa: PLC0415 -- formats load when used

            self._state.result.printed = True
            lines = terminal.in_short(summary, self._state.retention.kept)
            write_late("".join(f"{line}\n" for line in lines))

    def _hold_gate(self, error: Any) -> None:
        summary = self._state.result.summary
        if summary is not None:
            from pytest_tempres.session.finish import may_not_pass  # noqa: PLC0415 -- as below

            if may_not_pass(self._state, summary.leaks):
                error.returncode = int(pytest.ExitCode.TESTS_FAILED)


def prepare(state: SessionState) -> None:
    """Import what the end needs, and hold some descriptors for it."""
    _load(state)
    hold(state)


def _load(state: SessionState) -> None:
    from pytest_tempres.session import finish  # noqa: F401, PLC0415 -- not where no test runs

    if state.workspace.joined:
        return
    from pytest_tempres.reports import terminal  # noqa: F401, PLC0415 -- as above
    from pytest_tempres.session import cleanup  # noqa: F401, PLC0415 -- as above

    if state.settings.artifacts is not None:
        from pytest_tempres.artifacts import export  # noqa: F401, PLC0415 -- as above
    if any(target.type == "json" for target in state.settings.reports):
        from pytest_tempres.reports import json_report  # noqa: F401, PLC0415 -- as above


#: As many as the end of a session ever has open at the same time.
_NUMBER: Final = 6


def hold(state: SessionState) -> None:
    """Open the descriptors; forked children and executed programs do not have them."""
    if not System.by_descriptor:
        # Windows has no such limit.
        return
    try:
        # Nobody else opens this directory, so it can be told from what tests open.
        state.workspace.reserve.append(
            lock.guard(System.open(state.workspace.root.path, System.to_hold))
        )
        while len(state.workspace.reserve) < _NUMBER:
            state.workspace.reserve.append(lock.guard(System.dup(state.workspace.reserve[0])))
    except OSError:
        # There are too few already; the end does with what it finds.
        return


def release(state: SessionState) -> None:
    """Close the descriptors, so that there are some again."""
    while state.workspace.reserve:
        lock.release(state.workspace.reserve.pop())
