"""The words of the reports: owners, leaks, numbers, sizes and ages, in plain text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Final

from pytest_tempres.leaks.model import MODIFICATIONS
from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports.escape import escaped
from pytest_tempres.reports.summary import Summary

__all__ = [
    "age",
    "amount",
    "contents",
    "count",
    "join",
    "kinds",
    "name",
    "origin",
    "owner_name",
    "owners",
    "printable",
    "sentence",
    "size",
    "totals",
    "where",
]

_UNITS: Final = ("kB", "MB", "GB", "TB", "PB")
_PLURALS: Final = {"directory": "directories"}
#: The kinds whose size is that of what they contain.
_SIZED: Final = ("file", "directory")


def printable(text: str) -> str:
    """Return *text* on one line, without characters that a terminal would obey."""
    return escaped(text, controls=True)


def name(owner: Owner) -> str:
    """Return the name of *owner*: a node id, ``fixture NAME (SCOPE)``, ``collecting FILE``."""
    text = owner.id
    if owner.kind == "fixture":
        text = f"fixture {owner.id} ({owner.scope})"
    elif owner.kind == "collection":
        text = f"collecting {owner.id}"
    elif owner.kind == "session":
        text = "the session"
    return printable(text)


def sentence(summary: Summary, leak: Leak) -> str:
    """Return who left what where, such as ``t.py::test left a file: main/x, 3 bytes``."""
    verb = leak.kind if leak.kind in MODIFICATIONS else "left"
    what = "a path" if leak.kind in MODIFICATIONS else f"a {leak.kind}"
    text = f"{name(leak.owner)} {verb} {what}: {where(summary, leak)}"
    inside = contents(leak.kind, leak.items, leak.bytes, complete=leak.complete)
    return f"{text} ({inside})" if leak.kind in _SIZED else text


def where(summary: Summary, leak: Leak) -> str:
    """Return the path of *leak*, relative to the parent of its session root if it is in one."""
    root = summary.root_of(leak.path)
    host = summary.hosts.get(leak.entry.worker)
    path = leak.path
    if root is not None:
        path = path[max(root.rfind("/"), root.rfind("\\")) + 1 :]
        path = path if host is None else f"{host}:{path}"
    return printable(path)


def kinds(leaks: Iterable[Leak]) -> str:
    """Return how many of each kind there are: ``2 directories, 1 file, 1 changed path``."""
    numbers = Counter(leak.kind for leak in leaks)
    return ", ".join(
        count(number, f"{kind} path" if kind in MODIFICATIONS else kind)
        for kind, number in numbers.items()
    )


def origin(leak: Leak) -> Iterator[str]:
    """Yield the lines that created *leak*, as ``file:line in function``."""
    for frame in leak.entry.origin:
        function = printable(frame.function)
        yield f"{printable(frame.file)}:{frame.line} in {function}"
    if leak.entry.made_by == "other" and leak.kind not in WITHOUT_PATH:
        command = leak.entry.command
        last = f"; last process: {printable(command)}" if command else ""
        yield f"a subprocess or native code{last}"


def totals(summary: Summary, leaks: int) -> str:
    """Return the counts of a session that are not 0; ``no leaks`` comes first if there are none.

    :param leaks: The number of leaks that the report counts.
    """
    found = summary.totals
    parts = [f"{count(leaks, 'leak')}, {size(found.bytes)}" if leaks else "no leaks"]
    parts += [
        f"{number} {what}"
        for number, what in (
            (found.known, "known"),
            (found.deferred, "removed at exit"),
            (found.from_failed, "from failed tests"),
            (found.kept, f"{'path' if found.kept == 1 else 'paths'} kept"),
        )
        if number
    ]
    return "; ".join(parts)


def count(number: int, noun: str) -> str:
    """Return *number* and *noun*, in the plural unless the number is 1."""
    return f"{number:,} {noun if number == 1 else _PLURALS.get(noun, f'{noun}s')}"


def size(number: float) -> str:
    """Return *number* bytes in a unit that fits: ``12 kB``, ``1.2 MB`` (powers of 1,000)."""
    if number < 1000:
        return count(int(number), "byte")
    for unit in _UNITS:
        number /= 1000
        if number < 999.5 or unit == _UNITS[-1]:
            break
    return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"


def age(seconds: float) -> str:
    """Return a length of time in whole units; *seconds* is negative if the clock was set back."""
    number = max(int(seconds), 0)
    for unit, limit in (("second", 60), ("minute", 60), ("hour", 24)):
        if number < limit:
            return count(number, unit)
        number //= limit
    return count(number, "day")


def join(parts: Iterable[str]) -> str:
    """Return *parts* as a list in a sentence."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def contents(kind: str, items: int, amount: int, *, complete: bool) -> str:
    """Return how much is in what was left or kept.

    :param kind: ``directory`` if at least one directory is part of it.
    """
    bound = "" if complete else "at least "
    if kind != "directory":
        return bound + size(amount)
    return f"{bound}{count(items, 'file')}, {size(amount)}" if items or bound else "empty"


def owner_name(owner: Owner) -> str:
    """Return the name by which the report calls *owner*."""
    has_place = owner.kind == "fixture" and owner.location
    return f"{name(owner)} in {printable(owner.location or '')}" if has_place else name(owner)


def owners(found: Iterable[Owner]) -> str:
    """Return how many of each kind *found* are: ``2 tests and 1 fixture``."""
    kinds: Counter[str] = Counter(owner.kind for owner in set(found))
    parts = [count(kinds[kind], kind) for kind in ("test", "fixture") if kinds[kind]]
    words = (("collection", "collection"), ("session", "the session"))
    return join([*parts, *(word for kind, word in words if kinds[kind])])


def amount(leaks: Sequence[Leak]) -> str:
    """Return what an owner left, changed and deleted."""
    left = [leak for leak in leaks if leak.kind not in MODIFICATIONS]
    parts = [f"left {_left(left)}"] if left else []
    for kind in MODIFICATIONS:
        number = sum(leak.kind == kind for leak in leaks)
        if number:
            parts.append(f"{kind} {count(number, 'path')}")
    return ", ".join(parts)


def _left(leaks: list[Leak]) -> str:
    sized = [leak for leak in leaks if leak.kind in _SIZED]
    parts = _counts(sized)
    if sized:
        inside = contents(
            "directory" if any(leak.kind == "directory" for leak in sized) else "file",
            sum(leak.items for leak in sized),
            sum(leak.bytes for leak in sized),
            complete=all(leak.complete for leak in sized),
        )
        parts = [f"{join(parts)} ({inside})"]
    return join([*parts, *_counts(leak for leak in leaks if leak.kind not in _SIZED)])


def _counts(leaks: Iterable[Leak]) -> list[str]:
    return [count(number, kind) for kind, number in Counter(leak.kind for leak in leaks).items()]
