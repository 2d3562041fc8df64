"""How is a failure of ours told? As one warning that changes nothing else."""

from __future__ import annotations

from contextlib import suppress
import errno
import sys
from typing import Any
from typing import Final
import warnings

import pytest

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.exceptions import TempresCleanupWarning
from pytest_tempres.exceptions import TempresWarning
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.summary import escaped

__all__ = ["Messages", "Progress", "warn_late", "warn_user", "write_late"]

#: What a test that uses up all descriptors does to everything else.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE})


class Messages:
    """The warnings of a session, each topic once.

    :param config: Where pytest records them.
    :param root: The session root.
    """

    def __init__(self, config: pytest.Config, root: str) -> None:
        #: Whether pytest has printed its warnings.
        self.over = False
        self._config = config
        self._root = root
        self._topics: set[str] = set()

    def warn(
        self, topic: str, message: str, kind: type[TempresWarning] = TempresCleanupWarning
    ) -> None:
        """Warn of a failure of ours, once for each *topic*: a full disk fails a thousand times."""
        if topic in self._topics:
            return
        self._topics.add(topic)
        if self.over:
            warn_late(message)
        else:
            warn_user(self._config, kind(message))

    def warn_of(
        self,
        error: Exception,
        topic: str,
        message: str,
        kind: type[TempresWarning] = TempresCleanupWarning,
    ) -> None:
        """Warn of *error*, once where everything else fails for the same reason."""
        if isinstance(error, NotOurDirectoryError) and error.path == self._root:
            topic, message = "place", f"{error}; what is kept may be removed by another session"
        elif getattr(error, "errno", None) in _EXHAUSTED:
            topic = "descriptors"
            message = f"{message}; no look and no removal until descriptors are closed"
        self.warn(topic, message, kind)


def warn_user(config: pytest.Config, warning: TempresWarning) -> None:
    """Have *warning* in pytest's summary, under the filters of the moment.

    A filter that turns warnings into errors must not make a failure of ours one
    of the test or of the session, so what it raises is recorded all the same.
    """
    # On one line, which any terminal shows and xdist can send.
    warning = type(warning)(escaped(str(warning), controls=True))
    with warnings.catch_warnings(record=True) as caught:
        try:
            warnings.warn(warning, stacklevel=2)
        except TempresWarning as error:
            caught.append(warnings.WarningMessage(error, type(error), __file__, 0))
    for message in caught:
        config.hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": message,
                "when": "config",
                "nodeid": "",
                "location": None,
            }
        )


def warn_late(message: str) -> None:
    """Say *message* on standard error, when pytest has printed its last warning."""
    write_late(f"pytest-tempres: {escaped(message, controls=True)}\n")


def write_late(text: str) -> None:
    """Write *text* to standard error, if there is one."""
    # A stream that a test has closed, or taken away, is nobody's to write to.
    with suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(text)


#: A removal is worth a line after this many seconds, and a new one as often.
_SECONDS: Final = 0.5
#: How many items may pass between two looks at the clock.
_STRIDE: Final = 256


class Progress:
    """Counts what is removed, and shows the count on a terminal when it takes long.

    :param what: What is being removed.
    :param silent: Whether nothing is to be shown after all.
    """

    def __init__(self, config: pytest.Config, what: str, *, silent: bool) -> None:
        terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
        seen = terminal is not None and terminal.isatty and not silent
        self._terminal: Any = terminal if seen else None
        self._what = what
        self._count = 0
        self._shown = System.monotonic()
        self._is_shown = False

    def __call__(self) -> None:
        """Count one item."""
        self._count += 1
        if self._count % _STRIDE == 0 and self._terminal is not None:
            now = System.monotonic()
            if now - self._shown > _SECONDS:
                self._shown = now
                self._show(f"removing {self._what}: {self._count:,} items")

    def close(self) -> None:
        """Take the line away again."""
        if self._is_shown:
            self._terminal.rewrite("", erase=True)
            self._terminal.rewrite("")
            self._is_shown = False

    def _show(self, text: str) -> None:
        if not self._is_shown:
            self._terminal.ensure_newline()
            self._is_shown = True
        self._terminal.rewrite(text, erase=True)
        self._terminal.flush()
