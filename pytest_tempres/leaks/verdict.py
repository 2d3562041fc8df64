"""Is it a leak? What is still there at the end of the session is judged here."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from fnmatch import translate
import gc
from itertools import chain
import re
from typing import Final

from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Status
from pytest_tempres.leaks.temp.scan import exists
from pytest_tempres.leaks.temp.scan import measure
from pytest_tempres.primitives._system import System

__all__ = [
    "SHIPPED",
    "CollectionBudget",
    "Ignore",
    "as_from_failed",
    "excuse",
    "is_deferred",
    "is_from_failed",
    "judge",
    "not_scheduled",
    "parents",
    "suspects",
]


def suspects(entries: Iterable[Entry], collect: Callable[[], object] = gc.collect) -> list[Entry]:
    """Return what is still there, after a second look behind a garbage collection.

    The collection runs only when there is something to look for: objects in a
    reference cycle may have promised to remove it.
    """
    there = [entry for entry in entries if not entry.ignored and exists(entry.path)]
    if there:
        collect()
        there = [entry for entry in there if exists(entry.path)]
    return there


def judge(
    there: Iterable[Entry],
    *,
    deferred: AbstractSet[str],
    failed: Collection[str],
    is_ignored_by_hook: Callable[[Leak], bool],
    known: Collection[str] = (),
) -> list[Leak]:
    """Return one record for each entry that is there.

    :param there: What :func:`suspects` found.
    :param deferred: Paths that somebody will remove at interpreter exit.
    :param failed: The node ids of the tests that failed.
    :param pardoned: Whether somebody wants a leak to be passed over.
    :param known: The fingerprints in the baseline.
    """
    leaks = []
    for entry in there:
        found = measure(entry.path)
        if found is None:
            continue
        status = _status(entry, deferred, failed)
        kind, size, items, complete = found
        leaks.append(Leak(kind, entry.path, size, items, complete, status, entry))
    return excuse(leaks, is_ignored_by_hook=is_ignored_by_hook, known=known)


def excuse(
    leaks: Iterable[Leak], *, is_ignored_by_hook: Callable[[Leak], bool], known: Collection[str]
) -> list[Leak]:
    """Return *leaks* without those that are pardoned, and with the known ones marked as such."""
    kept = []
    for leak in leaks:
        if leak.status != "leak":
            kept.append(leak)
        elif not is_ignored_by_hook(leak):
            is_known = bool(known) and leak.fingerprint in known
            kept.append(leak._replace(status="known") if is_known else leak)
    return kept


def _status(entry: Entry, deferred: AbstractSet[str], failed: Collection[str]) -> Status:
    if is_deferred(entry, deferred):
        return "deferred"
    return "failed-test" if is_from_failed(entry, failed) else "leak"


def is_deferred(entry: Entry, scheduled_removals: AbstractSet[str]) -> bool:
    """Whether somebody promised to remove *entry*, or a directory that it lies in."""
    return bool(scheduled_removals) and not scheduled_removals.isdisjoint(_spellings(entry.path))


def not_scheduled(leaks: Iterable[Leak], scheduled_removals: Iterable[str]) -> list[Leak]:
    """Return those of *leaks* that nobody promised to remove.

    :param promises: Asked for one after the other, and no further than to the last that matters.
    """
    left = {leak.path: leak for leak in leaks}
    removed_with: dict[str, list[str]] = {}
    for path in left:
        for spelling in _spellings(path):
            removed_with.setdefault(spelling, []).append(path)
    for promise in scheduled_removals if left else ():
        for path in removed_with.pop(promise, ()):
            left.pop(path, None)
        if not left:
            break
    return list(left.values())


def is_from_failed(entry: Entry, failed: Collection[str]) -> bool:
    """Whether *entry* shows what something that failed did, and is no leak."""
    return entry.from_failed or (entry.test in failed and entry.owner.scope in (None, "function"))


def as_from_failed(entry: Entry, failed: Collection[str]) -> Entry:
    """Return *entry*, marked if it is evidence, for a reader who does not know who failed."""
    return entry._replace(from_failed=True) if is_from_failed(entry, failed) else entry


def _spellings(path: str) -> set[str]:
    """Return *path* and its parents, as given and with links resolved.

    Whoever removes a directory removes what is in it, and may call it by its
    real name where the temp directory is a link, as on macOS.
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


#: A full collection takes longer the more a session holds: this many seconds, and this share of
#: the session's CPU time, may go into them where less is enough for what a test has made.
_FREE_SECONDS = 0.2
_SHARE = 0.02


class CollectionBudget:
    """Collects garbage, and finds objects, before somebody is accused.

    What a test makes is young as long as no collection has made old what survived it. The
    interpreter counts those, so it is known whether a look at what is young is enough. What is
    older than the test can hold what the test made only where the test gave it away.
    """

    def __init__(self) -> None:
        self._started = System.process_time()
        self._spent = 0.0
        self._counted: int | None = None

    def begin(self) -> None:
        """Take it that only what is made from now on may be to blame."""
        self._counted = _collections_of_what_is_not_young()

    def end(self) -> None:
        """Take it that everything may be to blame again."""
        self._counted = None

    def collect(self) -> None:
        """Collect all garbage; what is young alone where that is enough, and all has cost much."""
        before = System.process_time()
        has_cost_much = self._spent > _FREE_SECONDS + _SHARE * (before - self._started)
        if has_cost_much and self._all_is_young():
            gc.collect(1)
            return
        gc.collect()
        self._spent += System.process_time() - before

    def objects(self) -> Iterator[object]:
        """Yield the objects that may be to blame, the young ones first, and perhaps others."""
        young = (gc.get_objects(generation) for generation in (0, 1))
        yield from chain.from_iterable(young)
        if not self._all_is_young():
            yield from gc.get_objects()

    def _all_is_young(self) -> bool:
        return self._counted == _collections_of_what_is_not_young()


def _collections_of_what_is_not_young() -> int:
    return sum(each["collections"] for each in gc.get_stats()[1:])


# Captured because tests replace it.
_compile = re.compile

#: What well-known tools leave in a temp directory on purpose, or remove themselves.
SHIPPED: Final = (
    # Sessions of this plugin in a subprocess, with what they kept.
    "tempres-????????",
    # The same of pytest, which keeps the last three sessions.
    "pytest-of-*",
    # multiprocessing removes it by a finalizer of its own (python/cpython#109295).
    "pymp-*",
)


class Ignore:
    """Matches paths against glob patterns.

    :param root: Paths in this directory are matched relative to it, others as they are.
    :param patterns: As for :mod:`fnmatch`, case-sensitive; `*` matches a separator too.
    """

    def __init__(self, root: str, patterns: Iterable[str]) -> None:
        self._root = System.join(root, "")
        self._matches = tuple(_compile(translate(pattern)).match for pattern in patterns)

    def matches(self, path: str) -> bool:
        """Whether any pattern matches *path*."""
        escaped = path.removeprefix(self._root)
        return any(match(escaped) for match in self._matches)
