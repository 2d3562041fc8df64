"""The Markdown report, for a pull request or the summary of a CI job."""

from __future__ import annotations

import errno
from typing import Final

from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports import wording
from pytest_tempres.reports.escape import markdown_code
from pytest_tempres.reports.findings import Finding
from pytest_tempres.reports.findings import by_owner
from pytest_tempres.reports.findings import findings
from pytest_tempres.reports.summary import Summary

__all__ = ["LIMIT", "render", "text_to_append"]

#: The most bytes that GitHub Actions accepts as the summary of a step.
LIMIT: Final = 1024 * 1024
#: Room for the line with the count of what was cut.
_RESERVE: Final = 100


def render(summary: Summary, limit: int = LIMIT) -> str:
    """Return *summary* as Markdown.

    :param limit: The most bytes of the text in UTF-8; what does not fit is cut and counted. If not
        even the heading fits, the text is empty.
    """
    text = _Text(limit)
    found = findings(summary)
    text.add(f"### pytest-tempres: {wording.totals(summary, len(found))}\n\n")
    if summary.gate_failed:
        text.add("The run fails because of leaks.\n\n")
    rows = [_row(owner, of_owner) for owner, of_owner in by_owner(found)]
    if rows:
        head = "| left by | what | size | created by |\n| --- | --- | ---: | --- |\n"
        text.add_list(head, rows, "owners that left something")
    kept = [
        f"- {markdown_code(kept.path)} of {markdown_code(kept.nodeid)}\n" for kept in summary.kept
    ]
    if kept:
        text.add_list("#### Kept\n\n", kept, "kept paths")
    stale = [
        f"- {markdown_code(known.owner)}: {markdown_code(known.kind)}\n" for known in summary.stale
    ]
    if stale:
        text.add_list("#### Stale in the baseline\n\n", stale, "stale lines")
    return str(text)


def text_to_append(summary: Summary, path: str, before: int) -> str:
    """Return *summary* as Markdown, to be added to the first *before* bytes of the file at *path*.

    :raises OSError: If there is no room in the file.
    """
    separator = "\n" if before else ""
    text = render(summary, LIMIT - before - len(separator))
    if not text:
        raise OSError(errno.EFBIG, "there is no room left in the file", path)
    return separator + text


class _Text:
    """Text that is not longer than *limit* bytes in UTF-8."""

    def __init__(self, limit: int) -> None:
        self._parts: list[str] = []
        self._left = limit

    def __str__(self) -> str:
        return "".join(self._parts)

    def add(self, part: str, reserve: int = 0) -> bool:
        """Add *part* if it fits with *reserve* bytes after it, and return whether it did."""
        size = len(part.encode("utf-8"))
        if size + reserve > self._left:
            return False
        self._parts.append(part)
        self._left -= size
        return True

    def add_list(self, head: str, items: list[str], what: str) -> None:
        """Add a list, or as much of it as fits and the number of the other items."""
        if not self.add(head + items[0], _RESERVE):
            self.add(f"{len(items):,} {what} are not listed here.\n\n")
            return
        for number, item in enumerate(items[1:], 1):
            if not self.add(item, _RESERVE):
                self.add(f"\n... and {len(items) - number:,} more {what}.\n")
                break
        self.add("\n")


def _row(owner: Owner, found: list[Finding]) -> str:
    leaks = [each.leak for each in found]
    size = wording.size(sum(leak.bytes for leak in leaks))
    number = sum(bool(each.held_by) for each in found)
    what = wording.kinds(leaks) + (f", {number:,} still open" if number else "")
    cells = (markdown_code(wording.name(owner)), what, size, _creators(leaks))
    return f"| {' | '.join(cells)} |\n"


def _creators(leaks: list[Leak]) -> str:
    """Return the nearest line of the first leak, and the number of the other lines."""
    nearest = {line: None for leak in leaks for line in list(wording.origin(leak))[:1]}
    if not nearest:
        return ""
    more = f" and {len(nearest) - 1:,} more" if len(nearest) > 1 else ""
    return markdown_code(next(iter(nearest))) + more
