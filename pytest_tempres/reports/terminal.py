"""The terminal report at the end of a session."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Final
from typing import NamedTuple
from typing import Protocol

from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.temp.scan import measure
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.findings import Finding
from pytest_tempres.reports.findings import by_origin
from pytest_tempres.reports.findings import by_owner
from pytest_tempres.reports.findings import combine
from pytest_tempres.reports.findings import findings
from pytest_tempres.reports.layout import Line
from pytest_tempres.reports.layout import closing
from pytest_tempres.reports.layout import colour
from pytest_tempres.reports.layout import columns
from pytest_tempres.reports.layout import fit
from pytest_tempres.reports.layout import frame_line
from pytest_tempres.reports.layout import shown_path
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.wording import age
from pytest_tempres.reports.wording import amount
from pytest_tempres.reports.wording import contents
from pytest_tempres.reports.wording import count
from pytest_tempres.reports.wording import owner_name
from pytest_tempres.reports.wording import printable
from pytest_tempres.reports.wording import size
from pytest_tempres.workspace.retention import Artifacts
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.sweep import Reclaimed

__all__ = [
    "LAST_LINE",
    "Writer",
    "describe",
    "in_short",
    "is_needed",
    "reclaimed_line",
    "write",
    "write_reclaimed",
]

#: The verbosity at which only the last line is printed.
LAST_LINE: Final = -2
#: The width for lines that get no break.
_UNLIMITED: Final = 1_000_000
#: How many of each are listed without ``-v``.
_OWNERS: Final = 20
_KEPT: Final = 50
_ORIGINS: Final = 5
_FRAMES: Final = 4
_PROCESSES: Final = 3
#: The time budget for the sizes of the kept paths, in seconds.
_SECONDS: Final = 0.5


class Writer(Protocol):
    """The methods of pytest's ``TerminalWriter`` that the report needs."""

    @property
    def fullwidth(self) -> int:
        """How many columns a line has."""

    def line(self, s: str = "", **markup: bool) -> None:
        """Write a line."""

    def sep(self, sepchar: str, title: str | None = None, **markup: bool) -> None:
        """Write a line of *sepchar* with *title* in the middle."""


class _Page(NamedTuple):
    """How much is listed, and how wide."""

    width: int
    verbosity: int
    #: Returns the path of a leak as it is shown.
    place: Callable[[Leak], str]
    #: Whether workers are named even if there is only one.
    shards: bool = False

    @property
    def verbose(self) -> bool:
        return self.verbosity > 0


def is_needed(summary: Summary) -> bool:
    """Whether there is anything to report."""
    totals = summary.totals
    return bool(totals.leaks or totals.kept or totals.known or summary.stale)


def write(
    summary: Summary,
    writer: Writer,
    *,
    verbosity: int = 0,
    is_here: bool = True,
    shards: bool = False,
) -> None:
    """Write the section on leaks and kept paths; write nothing if there are none.

    :param verbosity: The number of ``-v`` options, less the number of ``-q`` options.
    :param is_here: Whether the kept paths are on this machine, so that their size can be measured.
    :param shards: Whether to name the workers of each leak, which are the shards of a CI job.
    """
    if not is_needed(summary):
        return
    found = findings(summary)
    if verbosity > LAST_LINE:
        writer.sep("=", "temporary resources")
        page = _page(summary, writer.fullwidth, verbosity, shards=shards)
        for line in (*_owners(found, page), *_kept(summary, page, is_here=is_here)):
            writer.line(line.text, **({"bold": True} if line.bold else {}))
        for known in summary.stale:
            owner, kind = printable(known.owner), printable(known.kind)
            writer.line(f"stale in the baseline: {owner} leaves no {kind} any more")
        if summary.gate_failed:
            writer.line("the run fails because of leaks (--tempres-leaks)", red=True)
    writer.sep("=", closing(summary, found), **{colour(summary, found): True})


def _page(summary: Summary, width: int, verbosity: int, *, shards: bool) -> _Page:
    def place(leak: Leak) -> str:
        root, host = summary.root_of(leak.path), summary.hosts.get(leak.entry.worker)
        return shown_path(leak, root=root, host=host, rootdir=summary.session.rootdir)

    return _Page(width, verbosity, place, shards)


def _owners(found: Sequence[Finding], page: _Page) -> Iterator[Line]:
    groups = by_owner(found)
    limit = len(groups) if page.verbose else _OWNERS
    for owner, group in groups[:limit]:
        yield from _of_owner(owner, group, page)
    omitted = [each.leak for _, group in groups[limit:] for each in group]
    if omitted:
        what = f"{count(len(groups) - limit, 'more owner')} with {count(len(omitted), 'leak')}"
        total = size(sum(leak.bytes for leak in omitted))
        yield Line(f"... and {what}, {total} (-v: all)")


def _of_owner(owner: Owner, found: list[Finding], page: _Page) -> Iterator[Line]:
    leaks = [each.leak for each in found]
    title = fit(owner_name(owner), f"{amount(leaks)}{_workers(leaks, page)}", page.width)
    yield from (Line(text, bold=True) for text in title)
    if page.verbosity < 0:
        return
    groups = by_origin(found)
    limit = len(groups) if page.verbose else _ORIGINS
    for alike in groups[:limit]:
        yield from _path(alike, page)
        yield from (Line(f"    {text}") for text in _origin(alike[0].leak, page))
    if len(groups) > limit:
        yield Line(f"  ... from {len(groups) - limit} more places (-v: all)")


def _workers(leaks: list[Leak], page: _Page) -> str:
    workers = sorted({name for leak in leaks for name in leak.entry.worker.split(", ")})
    return f" in {', '.join(map(printable, workers))}" if len(workers) > 1 or page.shards else ""


def _path(alike: list[Finding], page: _Page) -> Iterator[Line]:
    """Yield the path of the first of *alike*, which is never cut, and what there is to say."""
    first = alike[0]
    notes = [first.note] if first.note else []
    notes += [f"and {len(alike) - 1} more like it"] if len(alike) > 1 else []
    path, note = f"  {page.place(first.leak)}", ", ".join(notes)
    yield from map(Line, fit(path, note, page.width, indent="    ") if note else [path])


def _origin(leak: Leak, page: _Page) -> list[str]:
    lines = [frame_line(frame) for frame in leak.entry.origin]
    if len(lines) > _FRAMES and not page.verbose:
        lines[_FRAMES - 1 : -1] = ["..."]
    if leak.entry.made_by == "other" and leak.kind == "descriptor":
        lines.append("the line that opened it is unknown")
    elif leak.entry.made_by == "other":
        hints = ["made by a subprocess or native code", *_processes(leak.entry)]
        text = "; ".join(hints)
        lines += [text] if columns(text) <= page.width - 4 else hints
    return lines


def _processes(entry: Entry) -> Iterator[str]:
    if entry.command:
        yield f"last process: {printable(entry.command)}"
    others = {
        f"{printable(each.command)} of {owner_name(each.owner)}": None for each in entry.processes
    }
    if others:
        more = f" and {len(others) - _PROCESSES} more" if len(others) > _PROCESSES else ""
        yield f"still running then: {', '.join(list(others)[:_PROCESSES])}{more}"


def _kept(summary: Summary, page: _Page, *, is_here: bool) -> Iterator[Line]:
    limit = len(summary.kept) if page.verbose else _KEPT
    until = System.monotonic() + _SECONDS
    for kept in summary.kept[:limit]:
        inside = _size_of(kept, until) if is_here else ""
        yield from map(Line, _kept_lines(kept, inside, page.width))
    if len(summary.kept) > limit:
        yield Line(f"... and {len(summary.kept) - limit} more that were kept (-v: all)")
    if summary.artifacts is not None:
        yield from (Line(text) for text in _copied(summary.artifacts, page.width))


def _size_of(kept: Kept, until: float) -> str:
    found = measure(kept.path, until) if System.monotonic() < until else None
    if found is None:
        return ""
    return f" ({contents(found.kind, found.items, found.bytes, complete=found.complete)})"


def _kept_lines(kept: Kept, inside: str, width: int) -> list[str]:
    return fit(f"kept: {printable(kept.nodeid)}{inside}", f" {printable(kept.path)}", width)


def _copied(artifacts: Artifacts, width: int) -> list[str]:
    directory = f"artifacts: {printable(artifacts.directory)}"
    copies = (
        f"{count(artifacts.directories, 'directory')}, {count(artifacts.files, 'file')}, "
        f"{size(artifacts.bytes)}"
    )
    skipped = f"; {artifacts.skipped} skipped" if artifacts.skipped else ""
    manifest = printable(artifacts.manifest or "")
    see = f", see {manifest}" if skipped and manifest else ""
    return fit(directory, f"({copies}){skipped}{see}", width)


def in_short(
    summary: Summary | None, kept: Sequence[Kept], *, with_paths: bool = True
) -> Iterator[str]:
    """Yield the kept paths and the last line of the report, for when pytest prints no summary.

    :param summary: None if the leaks were not determined.
    :param kept: The kept paths, used if there is no summary.
    :param with_paths: Whether to list the kept paths.
    """
    paths = kept if summary is None else summary.kept
    if with_paths:
        for each in paths[:_KEPT]:
            yield from _kept_lines(each, "", _UNLIMITED)
        if len(paths) > _KEPT:
            yield f"... and {len(paths) - _KEPT} more that were kept"
    found = findings(summary) if summary is not None else []
    if summary is not None and (found or summary.kept):
        yield f"pytest-tempres: {closing(summary, found)}"


def write_reclaimed(found: Reclaimed, writer: Writer) -> None:
    """Write in one line what was removed of dead sessions; write nothing if nothing was."""
    line = reclaimed_line(found)
    if line:
        writer.line(line)


def reclaimed_line(found: Reclaimed) -> str:
    """Return what was removed of dead sessions; empty if nothing was."""
    if not found.sessions:
        return ""
    what = f"{found.items:,} item{'s' * (found.items != 1)}" if found.items else "empty"
    if found.bytes:
        what += f", {'' if found.complete else 'at least '}{size(found.bytes)}"
    since = f"{'' if found.sessions == 1 else 'the oldest '}from {age(found.age)} ago"
    rest = "; the rest will be removed next time" if found.unfinished else ""
    return f"reclaimed {count(found.sessions, 'dead session')} ({what}), {since}{rest}"


def describe(leaks: Iterable[Leak], root: str) -> Iterator[str]:
    """Yield the lines on *leaks*, in the form of the session's report.

    :param root: The session root; paths inside it are shown relative to its parent.
    """
    inside = System.join(root, "")

    def place(leak: Leak) -> str:
        within = root if leak.path.startswith(inside) else None
        return shown_path(leak, root=within, host=None, rootdir="")

    for line in _owners(combine(list(leaks), (root,)), _Page(_UNLIMITED, 0, place)):
        yield line.text
