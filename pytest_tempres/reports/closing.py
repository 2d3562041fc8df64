"""The last line of the terminal report.

It has one form, for programs that search the output: ``no leaks``, or the number of leaks and
their owners; then, each after a semicolon, what applies.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_tempres.leaks.model import MODIFICATIONS
from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Leak
from pytest_tempres.reports.findings import Finding
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.terminal_words import join
from pytest_tempres.reports.terminal_words import owners
from pytest_tempres.reports.wording import count
from pytest_tempres.reports.wording import size

__all__ = ["closing", "colour"]


def colour(summary: Summary, findings: Sequence[Finding]) -> str:
    """Return the colour of the last line: red if the run fails because of leaks."""
    if summary.gate_failed:
        return "red"
    return "yellow" if findings else "green"


def closing(summary: Summary, findings: Sequence[Finding]) -> str:
    """Return the last line."""
    totals = summary.totals
    parts = [_leaks(summary, [each.leak for each in findings])] if findings else ["no leaks"]
    if totals.kept and not findings:
        parts.append(f"{count(totals.kept, 'path')} kept")
    if totals.known:
        parts.append(f"{totals.known} known")
    if totals.from_failed:
        parts.append(f"{totals.from_failed} more from failed tests")
    return "; ".join(parts)


def _leaks(summary: Summary, leaks: list[Leak]) -> str:
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
