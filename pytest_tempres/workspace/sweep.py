"""The sweep: removal of what dead sessions left and of the oldest kept sessions."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import suppress
import os
import stat
import sys
from typing import Final
from typing import NamedTuple

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.primitives._location import random_name
from pytest_tempres.primitives._rmtree import Failure
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.dirfd import Directory
from pytest_tempres.workspace.dirfd import children
from pytest_tempres.workspace.journal import StoredSession
from pytest_tempres.workspace.journal import read_session
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import JOURNAL
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.proof import has_root_name
from pytest_tempres.workspace.proof import is_own
from pytest_tempres.workspace.proof import own_uid
from pytest_tempres.workspace.proof import prove
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import take

__all__ = ["Reclaimed", "removable", "remove_expired", "sweep"]

#: An unfinished root that is younger than this many seconds may still be in creation.
_CREATION_SECONDS: Final = 60


class Reclaimed(NamedTuple):
    """What a sweep removed of dead sessions; the oldest kept sessions do not count."""

    sessions: int = 0
    #: The number of files, directories and other entries that were removed.
    items: int = 0
    bytes: int = 0
    #: False when `bytes` is a lower bound.
    complete: bool = True
    #: Seconds since the oldest of these sessions began.
    age: float = 0.0
    #: Whether the time limit was reached before everything was removed.
    unfinished: bool = False
    #: The first path that could not be removed, and the error.
    failure: tuple[str, OSError] | None = None
    #: Whether sessions of the project that kept something were found.
    any_kept: bool = False


class _OutOfTimeError(Exception):
    """The time limit was reached; the rest is left to the next session."""


def sweep(
    parent: str,
    *,
    rootdir: str,
    keep_sessions: int,
    seconds: float,
    run: str,
    measure: Callable[[str, float], tuple[int, bool]],
    tick: Callable[[], object],
) -> Reclaimed:
    """Remove what dead sessions left in *parent*, except for what they kept on purpose.

    :param parent: The directory that contains the session roots.
    :param rootdir: The project; kept sessions are counted for each project separately.
    :param keep_sessions: The number of sessions of *rootdir* with kept paths that stay. Live ones
        that have written their index count too, so that the last of several sessions that end at
        the same time leaves the right number.
    :param seconds: The time limit; the rest is left to the next session.
    :param run: The current session: its root, or the id that the workers of its run share when
        they have roots of their own.
    :param measure: Returns the bytes in a tree, and whether they are all; it must return by the
        time in its second argument (of `time.monotonic`).
    :param tick: Called for each item that is removed.
    """
    work = _Sweep(seconds, measure, tick)
    try:
        work.sweep(parent, rootdir, keep_sessions, run)
    except (_OutOfTimeError, KeyboardInterrupt):
        # Ctrl-C stops the sweep, and the session ends as usual.
        return work.reclaimed._replace(unfinished=True)
    return work.reclaimed


def remove_expired(parent: str, *, rootdir: str, keep_sessions: int, seconds: float) -> None:
    """Remove what ended sessions kept, except for the last *keep_sessions*, at least one.

    Sessions that end at the same time see one another alive when they sweep. Each calls this after
    it has released its lock: the last to do so sees that all have ended. The roots that stay are
    not locked here, not even for a moment, so that they do not look alive to another process.
    """
    work = _Sweep(seconds, lambda *_: (0, True), lambda: None)
    with suppress(_OutOfTimeError, KeyboardInterrupt):
        work.remove_expired(parent, rootdir, max(keep_sessions, 1))


class _Sweep:
    """One walk over the session roots in a directory."""

    def __init__(
        self,
        seconds: float,
        measure: Callable[[str, float], tuple[int, bool]],
        tick: Callable[[], object],
    ) -> None:
        self.reclaimed = Reclaimed()
        self._began = System.monotonic()
        self._seconds = seconds
        self._measure = measure
        self._tick = tick
        self._ticks = 0

    def sweep(self, parent: str, rootdir: str, keep_sessions: int, run: str) -> None:
        kept: list[StoredSession] = []
        others: list[StoredSession] = []
        dead: list[StoredSession] = []
        for path in self._candidates(parent):
            # Time must be left to remove something.
            if self._is_over(0.5):
                self.reclaimed = self.reclaimed._replace(unfinished=True)
                break
            session = self._inspect(path)
            if session is None:
                continue
            if session.kept_paths and session.rootdir != rootdir:
                others.append(session)
            else:
                (kept if any(map(System.lexists, session.kept_paths)) else dead).append(session)
        # Our own session stays in any case, and counts as one of those that stay.
        kept.sort(key=lambda each: (each.run == run, each.ended, each.run), reverse=True)
        self.reclaimed = self.reclaimed._replace(any_kept=bool(kept))
        recent = {run, *list(dict.fromkeys(each.run for each in kept))[:keep_sessions]}
        for session in kept:
            self._remove_if_dead(session, keep=session.run in recent)
        for session in dead:
            self._remove_if_dead(session, keep=False)
        # Kept sessions of other projects come last: they take time to inspect and mostly stay.
        for session in others:
            if self._is_over(0.5):
                break
            self._remove_if_dead(session, keep=True)

    def remove_expired(self, parent: str, rootdir: str, keep_sessions: int) -> None:
        ended: list[StoredSession] = []
        for path in self._candidates(parent):
            # The list may be incomplete: a session that is not among the last of some is not among
            # the last of all.
            if self._is_over(0.5):
                break
            session = self._inspect(path)
            if session is not None and session.rootdir == rootdir and _has_ended(session):
                ended.append(session)
        ended.sort(key=lambda each: (each.ended, each.run), reverse=True)
        recent = list(dict.fromkeys(each.run for each in ended))[:keep_sessions]
        for session in ended:
            if session.run not in recent:
                self._remove_if_dead(session, keep=False)

    def _count_item(self) -> None:
        self._tick()
        self._ticks += 1
        self._check_time()

    def _check_time(self) -> None:
        if self._is_over(1.0):
            raise _OutOfTimeError

    def _is_over(self, share: float) -> bool:
        return System.monotonic() > self._began + share * self._seconds

    def _candidates(self, parent: str) -> list[str]:
        """Return the paths that are named like session roots; *parent* may be huge."""
        paths = []
        with suppress(OSError), System.scandir(parent) as entries:
            for entry in entries:
                if has_root_name(entry.name):
                    paths.append(entry.path)
                if self._is_over(0.25):
                    break
        # In random order, so that a root that cannot be removed, or takes all the time, does not
        # keep the others from being swept in every session.
        return sorted(paths, key=lambda _: random_name())

    def _inspect(self, path: str) -> StoredSession | None:
        with suppress(OSError), Directory.at(path) as directory:
            try:
                prove(directory, own_uid(path))
            except NotOurDirectoryError:
                _remove_unfinished(directory)
                return None
            session = read_session(directory)
            # The journal of a session that is alive is not final.
            is_final = session.has_index or not session.kept_paths
            if is_final or lock.is_free(directory.path_of(LOCK), directory.fd):
                return session
        return None

    def _remove_if_dead(self, session: StoredSession, *, keep: bool) -> None:
        """Remove what is not kept of a session, under its lock, if the session is dead."""
        self._check_time()
        # Do not take the lock unnecessarily: other processes may need it.
        root = None if keep and not _has_more(session) else take(session.path)
        if root is None:
            return
        try:
            with root.opened() as directory:
                now = read_session(directory)
            kept = frozenset(path for path in now.kept_paths if keep and System.lexists(path))
            if keep or _is_unchanged(session, now):
                self._remove_all(root, now, kept)
        except OSError:
            return
        finally:
            root.release()

    def _remove_all(self, root: SessionRoot, session: StoredSession, kept: frozenset[str]) -> None:
        # A kept session that expires, or that the user has removed by hand, is not reported.
        has_kept = session.has_index or any(map(System.lexists, session.kept_paths))
        is_reported = bool(kept) or not has_kept
        self._ticks, left, size = 0, 0, 0
        complete, gone = True, False
        try:
            for path in removable(root.path, kept):
                self._check_time()
                found = (
                    self._measure(path, self._began + 0.25 * self._seconds)
                    if is_reported
                    else (0, True)
                )
                failures = self._remove(root, path)
                if not failures:
                    size, complete = size + found[0], complete and found[1]
                left += failures
            gone = bool(kept) or root.remove_if_empty()
        except _OutOfTimeError:
            size, complete = 0, False
            raise
        finally:
            items = max(self._ticks - left, bool(size))
            if is_reported and (items or (gone and not kept)):
                self._add_up(session, items, size, complete=complete and not left)

    def _remove(self, root: SessionRoot, path: str) -> int:
        """Remove *path*; return how many items could not be removed."""
        try:
            failures = root.remove(path, self._count_item)
        except NotOurDirectoryError as error:
            failures = [Failure(path, error)]
        if failures and self.reclaimed.failure is None:
            where = System.join(System.dirname(path), failures[0].path)
            self.reclaimed = self.reclaimed._replace(failure=(where, failures[0].error))
        return len(failures)

    def _add_up(self, session: StoredSession, items: int, size: int, *, complete: bool) -> None:
        so_far = self.reclaimed
        self.reclaimed = so_far._replace(
            sessions=so_far.sessions + 1,
            items=so_far.items + items,
            bytes=so_far.bytes + size,
            complete=so_far.complete and complete,
            age=max(so_far.age, System.time() - session.began),
        )


def _has_more(session: StoredSession) -> bool:
    """Whether a session root contains more than the kept paths."""
    kept = frozenset(path for path in session.kept_paths if System.lexists(path))
    return any(removable(session.path, kept))


def _is_unchanged(before: StoredSession, now: StoredSession) -> bool:
    """Whether a session has neither kept more nor ended since it was inspected.

    If it has ended since, it is younger than the sessions that seemed younger, and those may have
    been removed.
    """
    return now.kept_paths.keys() <= before.kept_paths.keys() and now.ended == before.ended


def _has_ended(session: StoredSession) -> bool:
    """Whether a session has ended completely, and something that it kept still exists."""
    return (
        session.has_index
        and not System.lexists(System.join(session.path, JOURNAL))
        and any(map(System.lexists, session.kept_paths))
    )


def _remove_unfinished(directory: Directory) -> None:
    """Remove a root whose process died while it created or removed it.

    Without a breadcrumb, the directory is removed only if it contains nothing but an empty lock
    file of this user that no process holds.
    """
    if (
        directory.names() == [LOCK]
        and _is_abandoned(directory.status())
        and _is_lock_of_ours(directory.lstat(LOCK))
        # Windows cannot remove an open file, and NFS only renames it: the lock is released at once.
        and lock.is_free(directory.path_of(LOCK), directory.fd)
    ):
        directory.unlink(LOCK)
        System.rmdir(directory.path)


def _is_abandoned(status: os.stat_result) -> bool:
    return is_own(status) and System.time() - status.st_mtime > _CREATION_SECONDS


def _is_lock_of_ours(status: os.stat_result) -> bool:
    # Windows has no modes.
    private = sys.platform == "win32" or stat.S_IMODE(status.st_mode) == 0o600
    return is_own(status) and private and stat.S_ISREG(status.st_mode) and status.st_size == 0


def removable(root: str, kept: frozenset[str]) -> Iterator[str]:
    """Yield what may be removed from *root*: no kept path, no parent of one and nothing below one.

    The journal and then the index come last: as long as one of them exists, a later sweep knows
    that the rest was kept.
    """
    protected = set(kept)
    for path in kept:
        worker, *more = path[len(System.join(root, "")) :].split(os.sep)
        protected.update((System.join(root, worker), System.join(root, worker, *more[:1])))
    for worker in children(root):
        if System.basename(worker) in (BREADCRUMB, LOCK, INDEX, JOURNAL):
            continue
        if worker not in protected:
            yield worker
        elif worker not in kept:
            yield from (path for path in children(worker) if path not in protected)
    for name in (JOURNAL, INDEX):
        path = System.join(root, name)
        if not kept and System.lexists(path):
            yield path
