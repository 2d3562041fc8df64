"""Warnings about failures of this plugin, and the progress line of long removals."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
import errno
import sys
from typing import Any
from typing import Final
from typing import ParamSpec
from typing import TypeVar
import warnings

import pytest

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.exceptions import TempresCleanupWarning
from pytest_tempres.exceptions import TempresWarning
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.escape import escaped

__all__ = ["Messages", "Progress", "warn_user", "write_late"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: The errors after a test has used up all descriptors.
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})


class Messages:
    """The warnings of a session, one for each topic.

    :param config: The configuration whose hooks record them.
    :param root: The session root.
    """

    def __init__(self, config: pytest.Config, root: str) -> None:
        #: Whether pytest has printed its warnings summary.
        self.warnings_printed = False
        self._config = config
        self._root = root
        self._topics: set[str] = set()

    def warn(
        self, topic: str, message: str, kind: type[TempresWarning] = TempresCleanupWarning
    ) -> None:
        """Warn once for each *topic*: a full disk causes thousands of failures."""
        if topic in self._topics:
            return
        self._topics.add(topic)
        if self.warnings_printed:
            write_late(f"pytest-tempres: {escaped(message, controls=True)}\n")
        else:
            warn_user(self._config, kind(message))

    def call_safely(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T | None:
        """Call *function*; if it raises, warn and return None: no error here may stop the tests."""
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 -- an internal error becomes a warning
            name = function.__name__.strip("_")
            self.warn_of(error, name, f"internal error in {name}: {error!r}")
            return None

    def warn_of(
        self,
        error: Exception,
        topic: str,
        message: str,
        kind: type[TempresWarning] = TempresCleanupWarning,
    ) -> None:
        """Warn of *error*, once for all topics if it is one that makes everything else fail."""
        if isinstance(error, NotOurDirectoryError) and error.path == self._root:
            topic = "root"
            message = f"{error}; another session may remove what this session keeps"
        elif getattr(error, "errno", None) in _NO_DESCRIPTORS:
            topic = "descriptors"
            message = f"{message}; until some are closed, no leak is found and nothing is removed"
        self.warn(topic, message, kind)


def warn_user(config: pytest.Config, warning: TempresWarning) -> None:
    """Record *warning* for pytest's warnings summary, subject to the current filters.

    If a filter turns it into an error, it is recorded as a warning all the same: a failure
    of this plugin must not fail a test or the session.
    """
    # On one line, so that every terminal can show it and xdist can send it.
    warning = type(warning)(escaped(str(warning), controls=True))
    with warnings.catch_warnings(record=True) as caught:
        try:
            warnings.warn(warning, stacklevel=2)
        except TempresWarning as error:
            caught.append(warnings.WarningMessage(error, type(error), __file__, 0))
    for message in caught:
        config.hook.pytest_warning_recorded.call_historic(
            kwargs={"warning_message": message, "when": "config", "nodeid": "", "location": None}
        )


def write_late(text: str) -> None:
    """Write *text* to standard error, if there is one."""
    # A test may have closed or replaced the stream.
    with suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(text)


#: The progress line is shown after this many seconds, and updated as often.
_INTERVAL: Final = 0.5
#: The number of items between two checks of the clock.
_ITEMS_PER_CHECK: Final = 256


class Progress:
    """Counts removed items, and shows the count on a terminal if the removal takes long.

    :param what: What is being removed.
    :param silent: Whether to show nothing.
    """

    def __init__(self, config: pytest.Config, what: str, *, silent: bool) -> None:
        terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
        is_visible = terminal is not None and terminal.isatty and not silent
        self._terminal: Any = terminal if is_visible else None
        self._what = what
        self._count = 0
        self._updated = System.monotonic()
        self._is_shown = False

    def __call__(self) -> None:
        """Count one item."""
        self._count += 1
        if self._count % _ITEMS_PER_CHECK == 0 and self._terminal is not None:
            now = System.monotonic()
            if now - self._updated > _INTERVAL:
                self._updated = now
                if not self._is_shown:
                    self._terminal.ensure_newline()
                    self._is_shown = True
                self._terminal.rewrite(f"removing {self._what}: {self._count:,} items", erase=True)
                self._terminal.flush()

    def close(self) -> None:
        """Erase the progress line."""
        if self._is_shown:
            self._terminal.rewrite("", erase=True)
            self._terminal.rewrite("")
            self._is_shown = False
