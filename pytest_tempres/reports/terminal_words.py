"""The words of the terminal report: owners, what they left, and ages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence

from pytest_tempres.leaks.model import MODIFICATIONS
from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports.escape import escaped
from pytest_tempres.reports.wording import count
from pytest_tempres.reports.wording import name
from pytest_tempres.reports.wording import size

__all__ = [
    "age",
    "amount",
    "contents",
    "join",
    "owner_name",
    "owners",
    "printable",
]


def printable(text: str) -> str:
    """Return *text* on one line, without characters that a terminal would obey."""
    return escaped(text, controls=True)


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
