"""The outermost hook at the end of a session: other plugins may raise there."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator
from typing import Any

import pytest

from pytest_tempres.notices import write_late
from pytest_tempres.primitives._system import System
from pytest_tempres.state import SessionState

__all__ = ["EndHooks"]


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
            if System.getpid() == self._state.pid:
                self._make_up_for(error, session)
            raise

    def _make_up_for(self, error: BaseException, session: pytest.Session) -> None:
        # A wrapper that raises before its yield keeps the inner ones from being called.
        self._finish(session)
        summary = self._state.summary
        # pytest makes this number the exit status.
        if isinstance(error, pytest.exit.Exception) and error.returncode == 0:
            self._hold_gate(error)
        if not self._state.printed and self._state.settings.prints and not self._state.is_worker:
            from pytest_tempres.reports import terminal  # noqa: PLC0415 -- formats load when used

            self._state.printed = True
            lines = terminal.in_short(summary, self._state.kept)
            write_late("".join(f"{line}\n" for line in lines))

    def _hold_gate(self, error: Any) -> None:
        summary = self._state.summary
        if summary is not None:
            from pytest_tempres.conclusion import may_not_pass  # noqa: PLC0415 -- as below

            if may_not_pass(self._state, summary.leaks):
                error.returncode = int(pytest.ExitCode.TESTS_FAILED)
