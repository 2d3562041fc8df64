"""How is it told that a removal takes long? On a line of the terminal that goes again."""

from __future__ import annotations

from typing import Any
from typing import Final

import pytest

from pytest_tempres.primitives._system import System

__all__ = ["Progress"]

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
