"""What the command writes to, with the methods of pytest's `TerminalWriter`."""

from __future__ import annotations

import os
import shutil
from typing import Final
from typing import TextIO

__all__ = ["InputError", "Output"]

_CODES: Final = {"red": 31, "green": 32, "yellow": 33, "bold": 1}
#: pytest takes a terminal that is narrower than this for one that does not know its width.
_NARROW: Final = 40


class InputError(Exception):
    """Something that the user has named cannot be used; the message is one line."""


class Output:
    """A text stream, with colours if it is a terminal or the environment asks for them.

    :param file: The stream.
    """

    def __init__(self, file: TextIO) -> None:
        self.is_terminal = file.isatty()
        self._file = file
        self._has_colours = _wants_colours(is_terminal=self.is_terminal)

    @property
    def fullwidth(self) -> int:
        """How many columns a line has."""
        width = shutil.get_terminal_size(fallback=(80, 24)).columns
        return width if width >= _NARROW else 80

    def line(self, s: str = "", **markup: bool) -> None:
        """Write a line."""
        self.write(f"{self._marked(s, markup)}\n")

    def sep(self, sepchar: str, title: str | None = None, **markup: bool) -> None:
        """Write a line of *sepchar* with *title* in the middle."""
        width = self.fullwidth
        text = f" {title} " if title else ""
        line = text.center(max(width, len(text) + 2), sepchar)
        self.line(line, **markup)

    def write(self, text: str) -> None:
        """Write *text*; escape what the encoding of the stream does not have."""
        try:
            self._file.write(text)
        except UnicodeEncodeError:
            encoding = self._file.encoding or "ascii"
            self._file.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        """Show at once what was written."""
        self._file.flush()

    def _marked(self, text: str, markup: dict[str, bool]) -> str:
        codes = [_CODES[name] for name, is_on in markup.items() if is_on]
        if not self._has_colours or not codes:
            return text
        return "".join(f"\x1b[{code}m" for code in codes) + f"{text}\x1b[0m"


def _wants_colours(*, is_terminal: bool) -> bool:
    """Decide as pytest does."""
    choice = os.environ.get("PY_COLORS")
    if choice in ("0", "1"):
        return choice == "1"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal and os.environ.get("TERM") != "dumb"
