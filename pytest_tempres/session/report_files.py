"""Writes the report files, and prints the annotations of GitHub Actions, when a session ends."""

from __future__ import annotations

from contextlib import suppress
import os
import sys
from typing import Final

import pytest

from pytest_tempres.primitives._system import System
from pytest_tempres.reports import output
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.targets import FORMATS
from pytest_tempres.reports.targets import ReportTarget
from pytest_tempres.session.state import SessionState

__all__ = ["AnnotationHooks", "find_repository", "write_files"]

#: The variables that name the directory of the repository in GitHub Actions, GitLab and Jenkins.
_CHECKOUTS: Final = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR", "WORKSPACE")


def write_files(state: SessionState, summary: Summary, *, again: bool = False) -> None:
    """Write the reports that are files; one that cannot be written becomes a warning.

    :param again: Whether *summary* corrects that of an earlier call.
    """
    # A report may go to the file that standard output is redirected to.
    with suppress(AttributeError, OSError, ValueError):
        sys.stdout.flush()
    for target in state.settings.reports:
        if target.type in FORMATS and target.destination is not None:
            _write_or_warn(state, summary, target, again=again)


def _write_or_warn(
    state: SessionState, summary: Summary, target: ReportTarget, *, again: bool
) -> None:
    found = FORMATS[target.type]
    try:
        if found.appends:
            _append(state, summary, target.destination or "", again=again)
        else:
            output.replace(target.destination or "", found.load()(summary), again=again)
    except Exception as error:  # noqa: BLE001 -- the other reports must be written
        detail = error if isinstance(error, OSError) else repr(error)
        topic = f"{target.type} {target.destination}"
        state.messages.warn(topic, f"the {found.title} report was not written: {detail}")


def _append(state: SessionState, summary: Summary, path: str, *, again: bool) -> None:
    from pytest_tempres.reports import markdown  # noqa: PLC0415 -- formats load when used

    earlier = state.result.appended.get(path)
    before = output.size(path)
    if again:
        # Another program may have added text since; it stays, and so does the earlier summary.
        if earlier is None or before != earlier.end:
            return
        before = earlier.start
    added = output.append(path, markdown.text_to_append(summary, path, before), earlier)
    if added is not None:
        state.result.appended[path] = added


def find_repository(rootdir: str) -> str:
    """Return the directory of the repository that contains *rootdir*, or *rootdir* itself."""
    directory = rootdir
    while True:
        # In a worktree, `.git` is a file.
        if System.lexists(System.join(directory, ".git")):
            return directory
        parent = System.dirname(directory)
        if parent == directory:
            break
        directory = parent
    named = (os.environ.get(name, "") for name in _CHECKOUTS)
    inside = System.join(rootdir, "")
    found = (path for path in named if path and inside.startswith(System.join(path, "")))
    return next(found, rootdir)


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
