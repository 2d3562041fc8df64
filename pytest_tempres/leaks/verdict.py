"""Is it a leak? What is still there at the end of the session is judged here."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
import gc

from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Status
from pytest_tempres.leaks.temp_root import exists
from pytest_tempres.leaks.temp_root import measure
from pytest_tempres.primitives._system import System

__all__ = [
    "as_evidence",
    "excuse",
    "is_deferred",
    "is_evidence",
    "judge",
    "parents",
    "suspects",
    "unpromised",
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
    pardoned: Callable[[Leak], bool],
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
    return excuse(leaks, pardoned=pardoned, known=known)


def excuse(
    leaks: Iterable[Leak], *, pardoned: Callable[[Leak], bool], known: Collection[str]
) -> list[Leak]:
    """Return *leaks* without those that are pardoned, and with the known ones marked as such."""
    kept = []
    for leak in leaks:
        if leak.status != "leak":
            kept.append(leak)
        elif not pardoned(leak):
            is_known = bool(known) and leak.fingerprint in known
            kept.append(leak._replace(status="known") if is_known else leak)
    return kept


def _status(entry: Entry, deferred: AbstractSet[str], failed: Collection[str]) -> Status:
    if is_deferred(entry, deferred):
        return "deferred"
    return "failed-test" if is_evidence(entry, failed) else "leak"


def is_deferred(entry: Entry, promises: AbstractSet[str]) -> bool:
    """Whether somebody promised to remove *entry*, or a directory that it lies in."""
    return bool(promises) and not promises.isdisjoint(_spellings(entry.path))


def unpromised(leaks: Iterable[Leak], promises: Iterable[str]) -> list[Leak]:
    """Return those of *leaks* that nobody promised to remove.

    :param promises: Asked for one after the other, and no further than to the last that matters.
    """
    left = {leak.path: leak for leak in leaks}
    removed_with: dict[str, list[str]] = {}
    for path in left:
        for spelling in _spellings(path):
            removed_with.setdefault(spelling, []).append(path)
    for promise in promises if left else ():
        for path in removed_with.pop(promise, ()):
            left.pop(path, None)
        if not left:
            break
    return list(left.values())


def is_evidence(entry: Entry, failed: Collection[str]) -> bool:
    """Whether *entry* shows what something that failed did, and is no leak."""
    return entry.evidence or (entry.test in failed and entry.owner.scope in (None, "function"))


def as_evidence(entry: Entry, failed: Collection[str]) -> Entry:
    """Return *entry*, marked if it is evidence, for a reader who does not know who failed."""
    return entry._replace(evidence=True) if is_evidence(entry, failed) else entry


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
