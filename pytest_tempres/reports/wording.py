"""What the reports say about a leak, in one line of plain text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Final

from pytest_tempres.leaks.model import MODIFICATIONS
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports.escape import escaped
from pytest_tempres.reports.summary import Summary

__all__ = [
    "amount",
    "by_owner",
    "count",
    "kinds",
    "name",
    "origin",
    "sentence",
    "size",
    "totals",
    "where",
]

_UNITS: Final = ("kB", "MB", "GB", "TB", "PB")
_PLURALS: Final = {"directory": "directories"}
#: The kinds whose size is that of what they contain.
_SIZED: Final = ("file", "directory")


def by_owner(leaks: Iterable[Leak]) -> dict[Owner, list[Leak]]:
    """Return *leaks* by their owners, in the order of each owner's first leak."""
    groups: dict[Owner, list[Leak]] = {}
    for leak in leaks:
        groups.setdefault(leak.owner, []).append(leak)
    return groups


def name(owner: Owner) -> str:
    """Return the name of *owner*: a node id, ``fixture NAME (SCOPE)``, ``collecting FILE``."""
    text = owner.id
    if owner.kind == "fixture":
        text = f"fixture {owner.id} ({owner.scope})"
    elif owner.kind == "collection":
        text = f"collecting {owner.id}"
    elif owner.kind == "session":
        text = "the session"
    return escaped(text, controls=True)


def sentence(summary: Summary, leak: Leak) -> str:
    """Return who left what where, such as ``t.py::test left a file: main/x, 3 bytes``."""
    verb = leak.kind if leak.kind in MODIFICATIONS else "left"
    what = "a path" if leak.kind in MODIFICATIONS else f"a {leak.kind}"
    text = f"{name(leak.owner)} {verb} {what}: {where(summary, leak)}"
    return f"{text} ({_contents([leak])})" if leak.kind in _SIZED else text


def where(summary: Summary, leak: Leak) -> str:
    """Return the path of *leak*, relative to the parent of its session root if it is in one."""
    root = summary.root_of(leak.path)
    host = summary.hosts.get(leak.entry.worker)
    path = leak.path
    if root is not None:
        path = path[max(root.rfind("/"), root.rfind("\\")) + 1 :]
        path = path if host is None else f"{host}:{path}"
    return escaped(path, controls=True)


def amount(leaks: Sequence[Leak]) -> str:
    """Return what was left, changed and deleted, and its size: ``2 directories (12 kB)``."""
    sized = [leak for leak in leaks if leak.kind in _SIZED]
    others = [leak for leak in leaks if leak.kind not in _SIZED]
    parts = [f"{kinds(sized)} ({_contents(sized)})"] if sized else []
    return ", ".join((*parts, *([kinds(others)] if others else [])))


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
        function = escaped(frame.function, controls=True)
        yield f"{escaped(frame.file, controls=True)}:{frame.line} in {function}"
    if leak.entry.made_by == "other":
        yield "a subprocess or native code"


def _contents(leaks: list[Leak]) -> str:
    bound = "" if all(leak.complete for leak in leaks) else "at least "
    total = size(sum(leak.bytes for leak in leaks))
    if all(leak.kind == "file" for leak in leaks):
        return bound + total
    files = sum(leak.items for leak in leaks)
    return f"{bound}{count(files, 'file')}, {total}" if files or bound else "empty"


def totals(summary: Summary) -> str:
    """Return the counts of a session that are not 0; ``no leaks`` comes first if there are none."""
    found = summary.totals
    parts = [f"{count(found.leaks, 'leak')}, {size(found.bytes)}" if found.leaks else "no leaks"]
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
