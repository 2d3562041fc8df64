"""The terminal report at the end of a session."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import os
from typing import TYPE_CHECKING
from typing import Final

from pytest_tempres.leaks.model import MODIFICATIONS
from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.summary import escaped
from pytest_tempres.workspace.retention import Artifacts
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.sweep import Reclaimed

if TYPE_CHECKING:
    from pytest import TerminalReporter

__all__ = ["describe", "in_short", "write", "write_reclaimed"]

#: How many of each are listed without ``-v``.
_OWNERS: Final = 50
_KEPT: Final = 50
_ORIGINS: Final = 5
_FRAMES: Final = 4
_PROCESSES: Final = 3

_PLURALS: Final = {"directory": "directories"}
_UNITS: Final = ("bytes", "kB", "MB", "GB", "TB", "PB")


def write(summary: Summary, terminal: TerminalReporter) -> None:
    """Write the section on leaks and kept paths; write nothing if there are none."""
    leaks = [leak for leak in summary.leaks if leak.status == "leak"]
    if not (leaks or summary.kept or summary.stale or summary.totals.known):
        return
    verbose = terminal.config.get_verbosity() > 0
    terminal.write_sep("=", "temporary resources")
    for line in (*_leaks(summary, leaks, verbose=verbose), *_kept(summary, verbose=verbose)):
        terminal.write_line(line)
    for known in summary.stale:
        terminal.write_line(f"stale in the baseline: {known.owner} leaves no {known.kind} any more")
    if summary.gate_failed:
        terminal.write_line("the run fails because of leaks (--tempres-leaks)", red=True)
    colour = "red" if summary.gate_failed else "yellow"
    terminal.write_sep("=", _closing(summary, leaks), **({colour: True} if leaks else {}))


def _leaks(summary: Summary, leaks: list[Leak], *, verbose: bool) -> Iterator[str]:
    owners = _by_owner(leaks)

    def place(leak: Leak) -> str:
        return _place(summary.root_of(leak.path), leak.path, summary.hosts.get(leak.entry.worker))

    for owner in owners if verbose else list(owners)[:_OWNERS]:
        yield from _of_owner(owner, owners[owner], place, verbose=verbose)
    if not verbose and len(owners) > _OWNERS:
        yield f"... and {len(owners) - _OWNERS} more that left something (-v: all)"


def _kept(summary: Summary, *, verbose: bool) -> Iterator[str]:
    yield from _list_kept(summary.kept, verbose=verbose)
    if summary.artifacts is not None:
        yield _copied(summary.artifacts)


def _list_kept(paths: Sequence[Kept], *, verbose: bool) -> Iterator[str]:
    for kept in paths if verbose else paths[:_KEPT]:
        nodeid = escaped(kept.nodeid, controls=True)
        yield f"kept: {nodeid}  {escaped(kept.path, controls=True)}"
    if not verbose and len(paths) > _KEPT:
        yield f"... and {len(paths) - _KEPT} more that were kept (-v: all)"


def in_short(summary: Summary | None, kept: Sequence[Kept]) -> Iterator[str]:
    """Yield the kept paths and the last line of the report, for when pytest prints no summary.

    :param summary: None if the leaks were not determined.
    :param kept: The kept paths, used if there is no summary.
    """
    yield from _list_kept(kept if summary is None else summary.kept, verbose=False)
    leaks = [leak for leak in summary.leaks if leak.status == "leak"] if summary else []
    if summary is not None and (leaks or summary.kept):
        yield f"pytest-tempres: {_closing(summary, leaks)}"


def write_reclaimed(found: Reclaimed, terminal: TerminalReporter) -> None:
    """Write in one line what was removed of dead sessions; write nothing if nothing was."""
    if not found.sessions:
        return
    what = f"{found.items:,} item{'s' * (found.items != 1)}" if found.items else "empty"
    if found.bytes:
        what += f", {'' if found.complete else 'at least '}{size(found.bytes)}"
    age = f"{'' if found.sessions == 1 else 'the oldest '}from {_age(found.age)} ago"
    rest = "; the rest will be removed next time" if found.unfinished else ""
    terminal.write_line(f"reclaimed {count(found.sessions, 'dead session')} ({what}), {age}{rest}")


def _age(seconds: float) -> str:
    """Return a length of time in whole units; *seconds* is negative if the clock was set back."""
    number = max(int(seconds), 0)
    for unit, limit in (("second", 60), ("minute", 60), ("hour", 24)):
        if number < limit:
            return count(number, unit)
        number //= limit
    return count(number, "day")


def describe(leaks: Iterable[Leak], root: str) -> Iterator[str]:
    """Yield the lines on *leaks*, in the form of the session's report.

    :param root: The session root; paths inside it are shown relative to its parent.
    """
    inside = System.join(root, "")

    def place(leak: Leak) -> str:
        return _place(root if leak.path.startswith(inside) else None, leak.path)

    for owner, group in _by_owner(leaks).items():
        yield from _of_owner(owner, group, place, verbose=False)


def _by_owner(leaks: Iterable[Leak]) -> dict[Owner, list[Leak]]:
    groups: dict[Owner, list[Leak]] = {}
    for leak in leaks:
        groups.setdefault(leak.owner, []).append(leak)
    return groups


def _of_owner(
    owner: Owner, leaks: list[Leak], place: Callable[[Leak], str], *, verbose: bool
) -> Iterator[str]:
    yield f"{_name(owner)} {_amount(leaks)}{_workers(leaks)}"
    by_origin: dict[tuple[Frame, ...], list[Leak]] = {}
    for leak in leaks:
        by_origin.setdefault(leak.entry.origin, []).append(leak)
    for position, alike in enumerate(by_origin.values()):
        if position == _ORIGINS and not verbose:
            yield f"  ... from {len(by_origin) - _ORIGINS} more places (-v: all)"
            return
        more = f" and {len(alike) - 1} more like it" if len(alike) > 1 else ""
        yield f"  {place(alike[0])}{more}"
        for line in _origin(alike[0], verbose=verbose):
            yield f"    {line}"


def _name(owner: Owner) -> str:
    name = escaped(owner.id, controls=True)
    if owner.kind == "fixture":
        place = f" in {escaped(owner.location, controls=True)}" if owner.location else ""
        return f"fixture {name} ({owner.scope}){place}"
    if owner.kind == "collection":
        return f"collecting {name}"
    return "the session" if owner.kind == "session" else name


def _amount(leaks: list[Leak]) -> str:
    """Return what an owner left, changed and deleted, in words."""
    left = [leak for leak in leaks if leak.kind not in MODIFICATIONS]
    parts = [f"left {_kinds(left)}"] if left else []
    for kind in MODIFICATIONS:
        number = sum(leak.kind == kind for leak in leaks)
        if number:
            parts.append(f"{kind} {count(number, 'path')}")
    return ", ".join(parts)


def _kinds(leaks: list[Leak]) -> str:
    kinds: dict[str, int] = {}
    for leak in leaks:
        kinds[leak.kind] = kinds.get(leak.kind, 0) + 1
    what = " and ".join(count(number, kind) for kind, number in kinds.items())
    contents = _contents([leak for leak in leaks if leak.kind != "descriptor"])
    return f"{what} ({contents})" if contents else what


def _contents(leaks: list[Leak]) -> str:
    if not leaks:
        return ""
    total = size(sum(leak.bytes for leak in leaks))
    bound = "" if all(leak.complete for leak in leaks) else "at least "
    if "directory" not in {leak.kind for leak in leaks}:
        return bound + total
    files = sum(leak.items for leak in leaks)
    return f"{bound}{count(files, 'file')}, {total}" if files or bound else "empty"


def _workers(leaks: list[Leak]) -> str:
    workers = sorted({leak.entry.worker for leak in leaks})
    return f" in {', '.join(workers)}" if len(workers) > 1 else ""


def _place(root: str | None, path: str, host: str | None = None) -> str:
    """Return *path* relative to the parent of its session root, with the host it is on."""
    if root is not None:
        parent = max(root.rfind("/"), root.rfind("\\")) + 1
        path = path[parent:] if host is None else f"{host}:{path[parent:]}"
    return escaped(path, controls=True)


def _origin(leak: Leak, *, verbose: bool) -> list[str]:
    frames = leak.entry.origin
    lines = [
        f"{escaped(_short(frame.file), controls=True)}:{frame.line} in {frame.function}"
        for frame in frames
    ]
    if len(lines) > _FRAMES and not verbose:
        lines[_FRAMES - 1 : -1] = ["..."]
    if leak.entry.made_by == "other" and leak.kind == "descriptor":
        lines.append("the line that opened it is unknown")
    elif leak.entry.made_by == "other":
        lines.append("; ".join(("made by a subprocess or native code", *_processes(leak.entry))))
    return lines


def _processes(entry: Entry) -> Iterator[str]:
    if entry.command:
        yield f"last process: {escaped(entry.command, controls=True)}"
    others = {
        f"{escaped(each.command, controls=True)} of {_name(each.owner)}": None
        for each in entry.processes
    }
    if others:
        more = f" and {len(others) - _PROCESSES} more" if len(others) > _PROCESSES else ""
        yield f"still running then: {', '.join(list(others)[:_PROCESSES])}{more}"


def _short(file: str) -> str:
    """Return the path of an installed module relative to ``site-packages``."""
    return file.rpartition(f"{os.sep}site-packages{os.sep}")[2]


def _copied(artifacts: Artifacts) -> str:
    amount = (
        f"{count(artifacts.directories, 'directory')}, {count(artifacts.files, 'file')}, "
        f"{size(artifacts.bytes)}"
    )
    skipped = f"; {artifacts.skipped} skipped" if artifacts.skipped else ""
    see = f", see {artifacts.manifest}" if skipped and artifacts.manifest else ""
    return f"artifacts: {escaped(artifacts.directory, controls=True)} ({amount}){skipped}{see}"


def _closing(summary: Summary, leaks: list[Leak]) -> str:
    totals = summary.totals
    parts = [_verdict(summary, leaks)] if leaks else ["no leaks"]
    if totals.kept and not leaks:
        parts.append(f"{count(totals.kept, 'path')} kept")
    if totals.known:
        parts.append(f"{totals.known} known")
    if totals.from_failed:
        parts.append(f"{totals.from_failed} more from failed tests")
    return "; ".join(parts)


def _verdict(summary: Summary, leaks: list[Leak]) -> str:
    owners = [_owners(leaks, kind) for kind in ("test", "fixture", "collection", "session")]
    text = f"{count(len(leaks), 'leak')} from {_join(each for each in owners if each)}"
    paths = [leak.path for leak in leaks if leak.kind not in (*MODIFICATIONS, *WITHOUT_PATH)]
    if not paths:
        return text
    return f"{text}, {size(summary.totals.bytes)}; {_removal(summary, paths)}"


def _owners(leaks: list[Leak], kind: str) -> str:
    owners = {leak.owner for leak in leaks if leak.owner.kind == kind}
    if kind in ("collection", "session"):
        return {"collection": "collection", "session": "the session"}[kind] if owners else ""
    return count(len(owners), kind) if owners else ""


def _removal(summary: Summary, paths: list[str]) -> str:
    outside = sum(summary.root_of(path) is None for path in paths)
    abandoned = sum(summary.root_of(path) in summary.abandoned for path in paths)
    if outside == len(paths):
        return "not removed, since outside the temp location"
    if abandoned == len(paths):
        return "left to the next session on their host"
    exceptions = [f"{outside} outside the temp location"] if outside else []
    exceptions += [f"{abandoned} left to the next session on their host"] if abandoned else []
    return f"removed except for {_join(exceptions)}" if exceptions else "removed"


def _join(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def count(number: int, noun: str) -> str:
    """Return *number* and *noun*, in the plural unless the number is 1."""
    return f"{number} {noun if number == 1 else _PLURALS.get(noun, f'{noun}s')}"


def size(amount: float) -> str:
    """Return *amount* bytes in a unit that fits: ``12 kB``, ``1.2 MB`` (powers of 1,000)."""
    if amount < 1000:
        return count(int(amount), "byte")
    for unit in _UNITS[1:]:
        amount /= 1000
        if amount < 999.5 or unit == _UNITS[-1]:
            break
    return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:.0f} {unit}"
