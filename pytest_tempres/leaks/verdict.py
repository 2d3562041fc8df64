"""The verdict on entries that still exist: leak, known, deferred or left by a failed test."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from fnmatch import translate
import gc
import re
from typing import Final

from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Status
from pytest_tempres.leaks.temp.scan import exists
from pytest_tempres.leaks.temp.scan import measure
from pytest_tempres.primitives._system import System

__all__ = [
    "BUILTIN_PATTERNS",
    "CollectionBudget",
    "Ignore",
    "as_from_failed",
    "drop_ignored",
    "is_deferred",
    "is_from_failed",
    "judge",
    "not_scheduled",
    "parents",
    "suspects",
]


def suspects(entries: Iterable[Entry], collect: Callable[[], object] = gc.collect) -> list[Entry]:
    """Return the entries that still exist after a garbage collection, which may remove some."""
    existing = [entry for entry in entries if not entry.ignored and exists(entry.path)]
    if existing:
        collect()
        existing = [entry for entry in existing if exists(entry.path)]
    return existing


def judge(
    existing: Iterable[Entry],
    *,
    deferred: AbstractSet[str],
    failed: Collection[str],
    is_ignored_by_hook: Callable[[Leak], bool],
    known: Collection[str] = (),
) -> list[Leak]:
    """Return a leak for each entry that still exists.

    :param existing: The result of :func:`suspects`.
    :param deferred: Paths that will be removed at interpreter exit.
    :param failed: The node ids of the tests that failed.
    :param is_ignored_by_hook: Returns whether a hook says to ignore a leak.
    :param known: The fingerprints in the baseline.
    """
    leaks = []
    for entry in existing:
        found = measure(entry.path)
        if found is not None:
            status = _status(entry, deferred, failed)
            leaks.append(Leak(found.kind, entry.path, *found[1:], status, entry))
    return drop_ignored(leaks, is_ignored_by_hook=is_ignored_by_hook, known=known)


def drop_ignored(
    leaks: Iterable[Leak], *, is_ignored_by_hook: Callable[[Leak], bool], known: Collection[str]
) -> list[Leak]:
    """Return *leaks* without those that a hook ignores, and with known leaks marked."""
    left = []
    for leak in leaks:
        if leak.status != "leak":
            left.append(leak)
        elif not is_ignored_by_hook(leak):
            is_known = known and leak.fingerprint in known
            left.append(leak._replace(status="known") if is_known else leak)
    return left


def _status(entry: Entry, deferred: AbstractSet[str], failed: Collection[str]) -> Status:
    if is_deferred(entry, deferred):
        return "deferred"
    return "failed-test" if is_from_failed(entry, failed) else "leak"


def is_deferred(entry: Entry, scheduled_removals: AbstractSet[str]) -> bool:
    """Whether *entry*, or a directory above it, is scheduled for removal."""
    return bool(scheduled_removals) and not scheduled_removals.isdisjoint(_spellings(entry.path))


def not_scheduled(leaks: Iterable[Leak], scheduled_removals: Iterable[str]) -> list[Leak]:
    """Return those of *leaks* that are not scheduled for removal.

    :param scheduled_removals: Iterated only as far as needed: they may be expensive to find.
    """
    left = {leak.path: leak for leak in leaks}
    removed_with: dict[str, list[str]] = {}
    for path in left:
        for spelling in _spellings(path):
            removed_with.setdefault(spelling, []).append(path)
    for scheduled in scheduled_removals if left else ():
        for path in removed_with.pop(scheduled, ()):
            left.pop(path, None)
        if not left:
            break
    return list(left.values())


def is_from_failed(entry: Entry, failed: Collection[str]) -> bool:
    """Whether *entry* was left by something that failed, and is therefore not a leak."""
    return entry.from_failed or (entry.test in failed and entry.owner.is_of_one_test)


def as_from_failed(entry: Entry, failed: Collection[str]) -> Entry:
    """Return *entry*, marked if it is from a failed test, for use without *failed*."""
    return entry._replace(from_failed=True) if is_from_failed(entry, failed) else entry


def _spellings(path: str) -> set[str]:
    """Return *path* and its parents, as given and with links resolved.

    Removing a parent removes the path too. On macOS the temp directory is a link.
    """
    real = System.join(System.realpath(System.dirname(path)), System.basename(path))
    return {*parents(path), *parents(real)}


def parents(path: str) -> set[str]:
    """Return *path* and every directory above it."""
    found = set()
    while path not in found:
        found.add(path)
        path = System.dirname(path)
    return found


#: The budget for full collections: seconds, and a share of the session's CPU time.
_FREE_SECONDS = 0.2
_SHARE = 0.02


class CollectionBudget:
    """Collects garbage, and lists objects, before a leak is reported.

    Objects that a test creates stay in the young generations until a collection of an older
    generation runs. The interpreter counts these collections, so it is known whether the young
    generations are enough.
    """

    def __init__(self) -> None:
        self._started = System.process_time()
        self._spent = 0.0
        #: The number of older collections at the beginning of the test.
        self._counted: int | None = None

    def begin(self) -> None:
        """Restrict the search to objects that are created from now on."""
        self._counted = _older_collections()

    def end(self) -> None:
        """Search all objects again."""
        self._counted = None

    def collect(self) -> None:
        """Collect all garbage; beyond the budget only young objects, if that is enough."""
        before = System.process_time()
        over_budget = self._spent > _FREE_SECONDS + _SHARE * (before - self._started)
        if over_budget and self._all_is_young():
            gc.collect(1)
        else:
            gc.collect()
            self._spent += System.process_time() - before

    def objects(self) -> Iterator[object]:
        """Yield the objects that may hold a path, the young ones first; some may come twice."""
        yield from gc.get_objects(0)
        yield from gc.get_objects(1)
        if not self._all_is_young():
            yield from gc.get_objects()

    def _all_is_young(self) -> bool:
        return self._counted == _older_collections()


def _older_collections() -> int:
    return sum(each["collections"] for each in gc.get_stats()[1:])


# Captured because tests replace it.
_compile = re.compile

#: Names that well-known tools leave in a temp directory on purpose, or remove themselves.
BUILTIN_PATTERNS: Final = (
    # Session roots of this plugin in a subprocess.
    "tempres-????????",
    # Those of pytest, which keeps the last three sessions.
    "pytest-of-*",
    # multiprocessing removes it in a finalizer (python/cpython#109295).
    "pymp-*",
)


class Ignore:
    """Matches paths against glob patterns.

    :param root: Paths in this directory are matched relative to it, others in full.
    :param patterns: As for :mod:`fnmatch`, case-sensitive; `*` matches a separator too.
    """

    def __init__(self, root: str, patterns: Iterable[str]) -> None:
        self._root = System.join(root, "")
        self._matches = tuple(_compile(translate(pattern)).match for pattern in patterns)

    def matches(self, path: str) -> bool:
        """Whether any pattern matches *path*."""
        relative = path.removeprefix(self._root)
        return any(match(relative) for match in self._matches)
