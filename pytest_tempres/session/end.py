"""The outermost hook at the end of a session, and descriptors in reserve for it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator
from typing import Any
from typing import Final

import pytest

from pytest_tempres.primitives._system import System
from pytest_tempres.reports.registry import FORMATS
from pytest_tempres.session.messages import write_late
from pytest_tempres.session.state import SessionState
from pytest_tempres.workspace import lock

__all__ = ["EndHooks", "hold", "prepare", "release"]


class EndHooks:
    """Completes the end of the session when another plugin raises in `pytest_sessionfinish`.

    :param finish: Gives the verdict, once in each session.
    """

    def __init__(self, state: SessionState, finish: Callable[[pytest.Session], object]) -> None:
        self._state = state
        self._finish = finish

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Give the verdict and print a short report if another plugin's hook raises."""
        try:
            return (yield)
        except BaseException as error:
            if System.getpid() == self._state.workspace.pid:
                self._finish_after(error, session)
            raise

    def _finish_after(self, error: BaseException, session: pytest.Session) -> None:
        # A wrapper that raises before its yield keeps the inner ones from being called.
        self._finish(session)
        summary = self._state.result.summary
        # pytest makes this number the exit status.
        if isinstance(error, pytest.exit.Exception) and error.returncode == 0:
            self._set_returncode(error)
        if not self._state.result.printed and not self._state.is_worker:
            from pytest_tempres.reports import terminal  # noqa: PLC0415 -- formats load when used

            self._state.result.printed = True
            lines = terminal.in_short(
                summary, self._state.retention.kept, with_paths=self._state.settings.prints
            )
            write_late("".join(f"{line}\n" for line in lines))

    def _set_returncode(self, error: Any) -> None:
        summary = self._state.result.summary
        if summary is not None:
            from pytest_tempres.session.finish import must_fail  # noqa: PLC0415 -- as below

            if must_fail(self._state, summary.leaks):
                error.returncode = int(pytest.ExitCode.TESTS_FAILED)


def prepare(state: SessionState) -> None:
    """Import the modules that a failure and the end need, and reserve descriptors for it."""
    _import_modules(state)
    hold(state)


def _import_modules(state: SessionState) -> None:
    from pytest_tempres.session import finish  # noqa: F401, PLC0415 -- only if tests run
    from pytest_tempres.session import listing  # noqa: F401, PLC0415 -- as above

    if state.workspace.joined:
        return
    from pytest_tempres.reports import terminal  # noqa: F401, PLC0415 -- as above
    from pytest_tempres.session import cleanup  # noqa: F401, PLC0415 -- as above

    if state.settings.artifacts is not None:
        from pytest_tempres.artifacts import export  # noqa: F401, PLC0415 -- as above
    for target in state.settings.reports:
        if target.type in FORMATS:
            FORMATS[target.type].load()


#: The most descriptors that the end of a session has open at the same time.
_RESERVED: Final = 6


def hold(state: SessionState) -> None:
    """Open the reserved descriptors; forked children and executed programs do not have them."""
    if not System.by_descriptor:
        # Windows has no such limit.
        return
    try:
        # Tests do not open this directory, so the descriptors detector can tell them apart.
        state.workspace.reserve.append(
            lock.guard(System.open(state.workspace.root.path, System.to_hold))
        )
        while len(state.workspace.reserve) < _RESERVED:
            state.workspace.reserve.append(lock.guard(System.dup(state.workspace.reserve[0])))
    except OSError:
        # The limit is reached already; the end has to do with the descriptors that are free.
        return


def release(state: SessionState) -> None:
    """Close the reserved descriptors, so that the end of the session can open others."""
    while state.workspace.reserve:
        lock.release(state.workspace.reserve.pop())
