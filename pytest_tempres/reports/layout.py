"""The lines of the terminal report: their width, and what is shortened to fit into it."""

from __future__ import annotations

import os
from typing import Final
from typing import NamedTuple
import unicodedata

from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.terminal_words import printable

__all__ = ["UNLIMITED", "Line", "columns", "fit", "frame_line", "shorten", "shown_path"]

#: The width for text whose lines are not shortened.
UNLIMITED: Final = 1_000_000
#: Nothing is cut to fewer columns than this; the line becomes longer, or gets a break, instead.
_LEAST: Final = 32
_CUT: Final = "..."
_SITES: Final = ("site-packages", "dist-packages")


class Line(NamedTuple):
    """A line, and whether it is bold."""

    text: str
    bold: bool = False


def columns(text: str) -> int:
    """Return how many columns *text* takes on a terminal."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(bool(unicodedata.combining(each)) for each in text)


def shorten(text: str, room: int) -> str:
    """Return *text*, with its middle left out if it takes more than *room* columns."""
    if columns(text) <= room:
        return text
    left = max(room - len(_CUT), 2)
    start = _first_columns(text, left // 2)
    end = _first_columns(text[::-1], left - left // 2)[::-1]
    return f"{start}{_CUT}{end}"


def _first_columns(text: str, room: int) -> str:
    taken = 0
    for position, character in enumerate(text):
        taken += columns(character)
        if taken > room:
            return text[:position]
    return text


def fit(name: str, rest: str, width: int) -> list[str]:
    """Return a line with *name* and *rest*; two lines if too little would remain of the name."""
    if columns(f"{name} {rest}") <= width:
        return [f"{name} {rest}"]
    room = width - columns(rest) - 1
    if room >= _LEAST:
        return [f"{shorten(name, room)} {rest}"]
    return [shorten(name, max(width, _LEAST)), f"  {rest}"]


def frame_line(frame: Frame, room: int) -> str:
    """Return the line for one frame of an origin, at most *room* columns wide if possible."""
    file, function = printable(_in_site(frame.file)), printable(frame.function)
    line = f"{file}:{frame.line} in {function}"
    if columns(line) <= room:
        return line
    end = f":{frame.line} in {shorten(function, max(room // 2 - 8, _LEAST))}"
    return shorten(file, max(room - columns(end), _LEAST)) + end


def _in_site(file: str) -> str:
    """Return the path of an installed module relative to the directory with all of them."""
    for site in _SITES:
        _, found, inner = file.rpartition(f"{os.sep}{site}{os.sep}")
        if found:
            return inner
    return file


def shown_path(leak: Leak, *, root: str | None, host: str | None, rootdir: str) -> str:
    """Return the path of *leak*, as short as it can be without being cut.

    :param root: The session root that contains it; the path is shown relative to its parent.
    :param host: The host that it is on, if that is another one.
    :param rootdir: The project; paths in it are shown relative to it.
    """
    path = leak.path
    if root is not None:
        parent = max(root.rfind("/"), root.rfind("\\")) + 1
        path = path[parent:] if host is None else f"{host}:{path[parent:]}"
    elif host is None and rootdir.strip("/\\"):
        inside = System.join(rootdir, "")
        target = leak.entry.path if leak.kind in WITHOUT_PATH else path
        if target.startswith(inside):
            path = path.replace(target, target.removeprefix(inside))
    return printable(path)
