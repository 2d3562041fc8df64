"""The words of the terminal report: numbers, sizes, owners and what they left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Final

from pytest_tempres.leaks.model import MODIFICATIONS
from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports.escape import escaped

__all__ = [
    "age",
    "amount",
    "contents",
    "count",
    "join",
    "owner_name",
    "owners",
    "printable",
    "size",
]

_PLURALS: Final = {"directory": "directories"}
_UNITS: Final = ("bytes", "kB", "MB", "GB", "TB", "PB")


def printable(text: str) -> str:
    """Return *text* on one line, without characters that a terminal would obey."""
    return escaped(text, controls=True)


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
    name = printable(owner.id)
    if owner.kind == "fixture":
        place = f" in {printable(owner.location)}" if owner.location else ""
        return f"fixture {name} ({owner.scope}){place}"
    if owner.kind == "collection":
        return f"collecting {name}"
    return "the session" if owner.kind == "session" else name


def owners(found: Iterable[Owner]) -> str:
    """Return how many of each kind *found* are: ``2 tests and 1 fixture``."""
    kinds: Counter[str] = Counter(owner.kind for owner in set(found))
    parts = [count(kinds[kind], kind) for kind in ("test", "fixture") if kinds[kind]]
    names = (("collection", "collection"), ("session", "the session"))
    return join([*parts, *(name for kind, name in names if kinds[kind])])


def amount(leaks: Sequence[Leak]) -> str:
    """Return what an owner left, changed and deleted."""
    left = [leak for leak in leaks if leak.kind not in MODIFICATIONS]
    parts = [f"left {_kinds(left)}"] if left else []
    for kind in MODIFICATIONS:
        number = sum(leak.kind == kind for leak in leaks)
        if number:
            parts.append(f"{kind} {count(number, 'path')}")
    return ", ".join(parts)


def _kinds(leaks: list[Leak]) -> str:
    paths = [leak for leak in leaks if leak.kind not in WITHOUT_PATH]
    kinds = Counter(leak.kind for leak in paths)
    parts = []
    if paths:
        inside = contents(
            "directory" if "directory" in kinds else "file",
            sum(leak.items for leak in paths),
            sum(leak.bytes for leak in paths),
            complete=all(leak.complete for leak in paths),
        )
        what = " and ".join(count(number, kind) for kind, number in kinds.items())
        parts.append(f"{what} ({inside})")
    others = Counter(leak.kind for leak in leaks if leak.kind in WITHOUT_PATH)
    return " and ".join([*parts, *(count(number, kind) for kind, number in others.items())])
