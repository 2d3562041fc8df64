"""Prints the annotations of GitHub Actions at the end of the session."""

from __future__ import annotations

from contextlib import suppress
import sys

import pytest

from pytest_tempres.session.state import SessionState

__all__ = ["AnnotationHooks"]


class AnnotationHooks:
    """The hooks that print workflow commands; registered only if they are wanted."""

    def __init__(self, state: SessionState) -> None:
        self._state = state

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the annotations after the report."""
        for command in self._commands():
            terminalreporter.write_line(command)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Print them here if pytest has printed no summary, for example with ``--no-summary``."""
        text = "".join(f"{command}\n" for command in self._commands())
        # The output may have been closed, or its encoding may lack a character.
        with suppress(AttributeError, OSError, ValueError):
            if text:
                sys.stdout.write(f"\n{text}")

    def _commands(self) -> list[str]:
        summary = self._state.result.summary
        if summary is None or self._state.result.annotated:
            return []
        self._state.result.annotated = True
        from pytest_tempres.reports import github  # noqa: PLC0415 -- formats load when used

        try:
            return list(github.commands(summary))
        except Exception as error:  # noqa: BLE001 -- no bug of this plugin may stop pytest
            self._state.messages.warn("github", f"internal error in the annotations: {error!r}")
            return []
