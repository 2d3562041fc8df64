"""The HTML report: one page for a browser that loads nothing else."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import hashlib
from importlib import resources
from typing import Any
from typing import Final
from typing import NamedTuple

import jinja2

from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import OwnerKind
from pytest_tempres.leaks.model import Status
from pytest_tempres.reports.escape import escaped
from pytest_tempres.reports.findings import Finding
from pytest_tempres.reports.findings import findings
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.wording import count
from pytest_tempres.reports.wording import size

__all__ = ["render"]

#: How many records a table lists, the largest first.
_MOST_ROWS: Final = 10_000
#: With more rows, closed rows have no stack: the script copies it from a template, one for each
#: different stack. Otherwise the page works without the script.
_MOST_WITH_STACK: Final = 1_000
_MOST_BARS: Final = 8
#: The width of the chart over time, in its own unit: there are at most so many steps in its line.
_CHART_WIDTH: Final = 400
_MINUTE: Final = 60

_SECTIONS: Final[tuple[tuple[Status, str, str], ...]] = (
    ("leak", "Leaks", "They outlived the test or the fixture that created them."),
    (
        "failed-test",
        "Left by failed tests",
        "They do not count as leaks: a test that fails may not reach its own cleanup.",
    ),
    ("known", "Known leaks", "They are listed in the baseline and do not fail the run."),
    ("deferred", "Deferred", "They will be removed when Python exits."),
)


_NOUNS: Final[dict[OwnerKind, str]] = {
    "test": "test",
    "fixture": "fixture",
    "collection": "collected module",
}


class _Row(NamedTuple):
    """A leak as the table shows it."""

    path: str
    owner: str
    bytes: int
    size: str
    seen: float | None
    time: str
    #: Which line created it.
    place: str
    facts: str
    full_path: str
    origin: tuple[Frame, ...]


class _Section(NamedTuple):
    """The table of the leaks of one status."""

    id: str
    title: str
    meaning: str
    rows: list[_Row]
    #: How many leaks there are, and how many of them the table leaves out.
    number: int
    omitted: int
    bytes: int


class _Bar(NamedTuple):
    """An owner in the chart, or all that have no bar of their own."""

    name: str
    leaks: int
    size: str
    #: The length, in percent.
    length: float


class _Chart(NamedTuple):
    """The number of leaks over the time of the session."""

    #: A path in SVG, in a box of `_CHART_WIDTH` by 100.
    line: str
    number: int
    first: str
    half: str
    last: str
    end: str


def render(summary: Summary) -> str:
    """Return *summary* as an HTML page.

    The page has no references to other files, and its content security policy forbids them.
    """
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_escape_controls,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        size=size, count=_count, grouped="{:,}".format, digest=_digest, duration=_duration
    )
    sections = [each for each in _sections(summary) if each.number]
    leaks = [each.leak for each in findings(summary)]
    stacks = _stacks(sections)
    return environment.from_string(_read("report.html.jinja")).render(
        summary=summary,
        totals=summary.totals._replace(leaks=len(leaks)),
        creators=_creators(leaks),
        sections=sections,
        bars=_bars(leaks),
        chart=_chart(leaks, summary.session.seconds),
        most_rows=_MOST_ROWS,
        stacks=stacks,
        style=_read("report.css"),
        script=_read("report.js"),
    )


def _read(name: str) -> str:
    path = resources.files("pytest_tempres.reports") / "templates" / name
    return path.read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Return the source of a content security policy that allows *text* as style or script."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _escape_controls(value: Any) -> Any:
    """Escape what a browser would not show: every text of the template passes through this."""
    if value is None:
        return ""
    is_markup = hasattr(value, "__html__")
    return escaped(value, controls=True) if isinstance(value, str) and not is_markup else value


# -- the tables


def _sections(summary: Summary) -> Iterator[_Section]:
    for status, title, meaning in _SECTIONS:
        found = findings(summary, status)
        found.sort(key=lambda each: -each.leak.bytes)
        yield _Section(
            status,
            title,
            meaning,
            [_row(summary, each) for each in found[:_MOST_ROWS]],
            len(found),
            max(len(found) - _MOST_ROWS, 0),
            sum(each.leak.bytes for each in found),
        )


def _row(summary: Summary, finding: Finding) -> _Row:
    leak, entry = finding.leak, finding.leak.entry
    bound = "" if leak.complete else "≥ "
    return _Row(
        _relative(summary, leak),
        _name(leak.owner),
        leak.bytes,
        bound + size(leak.bytes),
        entry.seen,
        "" if entry.seen is None else _duration(entry.seen),
        _place(leak),
        " · ".join(_facts(finding)),
        leak.path,
        entry.origin,
    )


def _relative(summary: Summary, leak: Leak) -> str:
    """Return the path of *leak* relative to its session root."""
    root = summary.root_of(leak.path)
    path = leak.path if root is None else leak.path[len(root) + 1 :]
    host = summary.hosts.get(leak.entry.worker)
    return path if root is None or host is None else f"{host}:{path}"


def _name(owner: Owner) -> str:
    if owner.kind == "fixture":
        return f"fixture {owner.id} ({owner.scope})"
    if owner.kind == "collection":
        return f"collecting {owner.id}"
    return "the session" if owner.kind == "session" else owner.id


def _place(leak: Leak) -> str:
    """Return which line created *leak*, or what is known instead."""
    if leak.entry.origin:
        nearest = leak.entry.origin[0]
        return f"{nearest.file}:{nearest.line} in {nearest.function}"
    if leak.kind == "descriptor" or leak.entry.made_by == "python":
        return "the line is unknown"
    return "made by a subprocess or native code"


def _facts(finding: Finding) -> Iterator[str]:
    leak, entry = finding.leak, finding.leak.entry
    bound = "" if leak.complete else "at least "
    files = f" with {bound}{_count(leak.items, 'file')}" if leak.kind == "directory" else ""
    yield leak.kind + files
    if finding.held_by:
        yield finding.note
    if entry.owner.location:
        yield f"owner at {entry.owner.location}"
    if entry.phase:
        yield f"in the {entry.phase} phase"
    if entry.worker:
        yield f"worker {entry.worker}"
    yield from _processes(entry)
    yield f"fingerprint {leak.fingerprint}"


def _processes(entry: Entry) -> Iterator[str]:
    if entry.made_by == "other" and entry.command:
        yield f"last process: {entry.command}"
    for each in dict.fromkeys(entry.processes):
        yield f"still running then: {each.command} of {_name(each.owner)}"


def _stacks(sections: Sequence[_Section]) -> dict[tuple[Frame, ...], int]:
    """Return the stacks that the script copies, and their numbers; none on a small page."""
    if sum(len(section.rows) for section in sections) <= _MOST_WITH_STACK:
        return {}
    stacks: dict[tuple[Frame, ...], int] = {}
    for section in sections:
        for row in section.rows:
            if row.origin:
                stacks.setdefault(row.origin, len(stacks))
    return stacks


# -- the charts and the totals


def _count(number: int, noun: str) -> str:
    return f"{number:,} {count(number, noun).partition(' ')[2]}"


def _creators(leaks: Iterable[Leak]) -> str:
    """Return how many owners there are of each kind: ``2 tests, 1 fixture, the session``."""
    numbers = Counter(owner.kind for owner in _owners(leaks))
    parts = [_count(numbers[kind], noun) for kind, noun in _NOUNS.items() if numbers[kind]]
    return ", ".join([*parts, "the session"] if numbers["session"] else parts)


def _owners(leaks: Iterable[Leak]) -> dict[Owner, list[Leak]]:
    """Return the leaks of each owner, of that with the most bytes first."""
    groups: dict[Owner, list[Leak]] = {}
    for leak in leaks:
        groups.setdefault(leak.owner, []).append(leak)
    order = sorted(groups, key=lambda owner: (-_bytes(groups[owner]), -len(groups[owner])))
    return {owner: groups[owner] for owner in order}


def _bytes(leaks: Iterable[Leak]) -> int:
    return sum(leak.bytes for leak in leaks)


def _bars(leaks: list[Leak]) -> list[_Bar]:
    groups = [(_name(owner), group) for owner, group in _owners(leaks).items()]
    if len(groups) > _MOST_BARS + 1:
        rest = [leak for _, group in groups[_MOST_BARS:] for leak in group]
        groups[_MOST_BARS:] = [(f"{len(groups) - _MOST_BARS:,} more owners", rest)]
    longest = max((_bytes(group) for _, group in groups), default=0) or 1
    return [
        _Bar(name, len(group), size(_bytes(group)), round(100 * _bytes(group) / longest, 2))
        for name, group in groups
    ]


def _chart(leaks: Iterable[Leak], seconds: float) -> _Chart | None:
    """Return the chart over time; None if no time is known."""
    times = sorted(leak.entry.seen for leak in leaks if leak.entry.seen is not None)
    if len(times) < 2:  # One step is no course.
        return None
    end = max(seconds, times[-1]) or 1
    # One step for each column: what later times of the same column add replaces it.
    steps = {
        round(_CHART_WIDTH * time / end): round(100 - 100 * number / len(times), 2)
        for number, time in enumerate(times, 1)
    }
    line = "".join(f"H{x}V{y:g}" for x, y in steps.items())
    return _Chart(
        f"M0 100{line}H{_CHART_WIDTH}",
        len(times),
        _duration(times[0]),
        _duration(times[(len(times) - 1) // 2]),
        _duration(times[-1]),
        _duration(end),
    )


def _duration(seconds: float) -> str:
    """Return a length of time: ``0.04 s``, ``12.3 s``, ``3 min 20 s``, ``1 h 5 min``."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    if minutes < _MINUTE:
        return f"{minutes} min {rest} s"
    return f"{minutes // _MINUTE} h {minutes % _MINUTE} min"
