"""The lines of the terminal report: their width, and the last line."""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Final
from typing import NamedTuple
import unicodedata

from pytest_tempres.leaks.model import MODIFICATIONS
from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.findings import Finding
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.wording import count
from pytest_tempres.reports.wording import join
from pytest_tempres.reports.wording import owners
from pytest_tempres.reports.wording import printable
from pytest_tempres.reports.wording import size

__all__ = [
    "Line",
    "closing",
    "colour",
    "columns",
    "fit",
    "frame_line",
    "shown_path",
]

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


def fit(first: str, rest: str, width: int, *, indent: str = "  ") -> list[str]:
    """Return a line with *first* and *rest*, or two if they do not fit into *width* columns.

    Nothing is cut, because node ids and paths are copied from the report.
    """
    line = f"{first} {rest}".rstrip()
    return [line] if columns(line) <= width else [first, f"{indent}{rest.lstrip()}"]


def frame_line(frame: Frame) -> str:
    """Return the line for one frame of an origin."""
    return f"{printable(_in_site(frame.file))}:{frame.line} in {printable(frame.function)}"


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


def colour(summary: Summary, findings: Sequence[Finding]) -> str:
    """Return the colour of the last line: red if the run fails because of leaks."""
    if summary.gate_failed:
        return "red"
    return "yellow" if findings else "green"


def closing(summary: Summary, findings: Sequence[Finding]) -> str:
    """Return the last line.

    It has one form, for programs that search the output: ``no leaks``, or the number of leaks and
    their owners; then, each after a semicolon, what applies.
    """
    totals = summary.totals
    parts = [_found(summary, [each.leak for each in findings])] if findings else ["no leaks"]
    if totals.kept and not findings:
        parts.append(f"{count(totals.kept, 'path')} kept")
    if totals.known:
        parts.append(f"{totals.known} known")
    if totals.from_failed:
        parts.append(f"{totals.from_failed} more from failed tests")
    return "; ".join(parts)


def _found(summary: Summary, leaks: list[Leak]) -> str:
    text = f"{count(len(leaks), 'leak')} from {owners(leak.owner for leak in leaks)}"
    paths = [leak.path for leak in leaks if leak.kind not in (*MODIFICATIONS, *WITHOUT_PATH)]
    if not paths:
        return text
    return f"{text}, {size(summary.totals.bytes)}; {_removal(summary, paths, leaks)}"


def _removal(summary: Summary, paths: list[str], leaks: list[Leak]) -> str:
    outside = sum(summary.root_of(path) is None for path in paths)
    abandoned = sum(summary.root_of(path) in summary.abandoned for path in paths)
    if outside == len(paths):
        return "not removed, since outside the temp location"
    if abandoned == len(paths):
        return "left to the next session on their host"
    descriptors = sum(leak.kind in WITHOUT_PATH for leak in leaks)
    modified = sum(leak.kind in MODIFICATIONS for leak in leaks)
    exceptions = (
        (outside, f"{outside} outside the temp location"),
        (abandoned, f"{abandoned} left to the next session on their host"),
        (descriptors, count(descriptors, "open descriptor")),
        (modified, count(modified, "modified path")),
    )
    named = [text for number, text in exceptions if number]
    return f"removed except for {join(named)}" if named else "removed"
