"""Which dead sessions can go, and which kept ones are too old?"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import errno
import json
import os
import random
import stat
import time
from typing import Final
from typing import NamedTuple

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.primitives._rmtree import Failure
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.proof import bears_our_name
from pytest_tempres.workspace.proof import is_ours
from pytest_tempres.workspace.proof import own_uid
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import children

__all__ = ["Reclaimed", "sweep"]

#: What opening a file says where there is none, or a link, a directory or a socket.
_NO_FILE: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO})
#: A root that is being made is younger than this many seconds.
_CREATION_SECONDS: Final = 60


class Reclaimed(NamedTuple):
    """What a sweep removed of sessions that died; what was kept for long enough does not count."""

    sessions: int = 0
    #: Files, directories and whatever else lay in what went.
    items: int = 0
    bytes: int = 0
    #: False when there were more bytes than these.
    complete: bool = True
    #: Seconds since the oldest of these sessions began.
    age: float = 0.0
    #: The first that could not be removed.
    failure: Failure | None = None


class _OutOfTimeError(Exception):
    """The rest is left to the next session."""


class _Session(NamedTuple):
    """A session that is over, or one that lives and has written what it keeps."""

    #: None where somebody else holds its lock: it lives, or is being swept.
    dead: SessionRoot | None
    lives: bool
    began: float
    ended: float
    rootdir: str
    #: What the workers of one run have in common that have roots of their own.
    run: str
    #: Whether it came to its end, and said there what it kept.
    told: bool
    kept: frozenset[str]


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
    """Remove what dead sessions left in *parent*, but for what they kept on purpose.

    :param parent: The directory in which session roots stand.
    :param rootdir: Kept sessions are counted for each project of its own.
    :param keep_sessions: How many sessions of *rootdir* that kept something stay. Those that
        live and have written their index count too, so that of several that end at the same
        time the last one leaves as many as it should.
    :param seconds: The time after which the rest is left to the next session.
    :param run: The run that goes on: workers on one host with roots of their own are one session.
    :param measure: Returns the bytes in a tree, and whether that is all; by the time given as its
        second argument (of `time.monotonic`) it has to end.
    :param tick: Called for each item that is removed.
    """
    return _Sweep(rootdir, keep_sessions, seconds, run, measure=measure, tick=tick).go(parent)


class _Sweep:
    """One walk over the session roots in a directory."""

    def __init__(
        self,
        rootdir: str,
        keep_sessions: int,
        seconds: float,
        run: str,
        *,
        measure: Callable[[str, float], tuple[int, bool]],
        tick: Callable[[], object],
    ) -> None:
        self._rootdir = rootdir
        self._keep_sessions = keep_sessions
        now = time.monotonic()
        self._deadline = now + seconds
        # Removing comes first: what takes long to measure would never go.
        self._measured = now + seconds / 4
        self._run = run
        self._measure = measure
        self._tick = tick
        self._kept: list[_Session] = []
        self._reclaimed = Reclaimed()
        self._counted: set[str] = set()
        self._ticks = 0

    def go(self, parent: str) -> Reclaimed:
        try:
            for path in self._candidates(parent):
                self._look_at(path)
            self._retire()
        except _OutOfTimeError:
            pass
        finally:
            for session in self._kept:
                if session.dead is not None:
                    session.dead.release()
        return self._reclaimed

    def _pace(self) -> None:
        self._tick()
        self._ticks += 1
        self._check()

    def _check(self) -> None:
        if time.monotonic() > self._deadline:
            raise _OutOfTimeError

    def _candidates(self, parent: str) -> list[str]:
        """Return the paths that are named like session roots; a shared directory may be huge."""
        paths = []
        with contextlib.suppress(OSError), os.scandir(parent) as entries:
            for entry in entries:
                if bears_our_name(entry.name):
                    paths.append(entry.path)
                self._check()
        # What cannot be removed, or takes all the time, may not keep the rest from its turn.
        random.shuffle(paths)
        return paths

    def _look_at(self, path: str) -> None:
        self._check()
        session = _session_at(path)
        if session is None:
            return
        if session.kept and session.rootdir == self._rootdir:
            self._kept.append(session)
        elif session.dead is not None:
            self._clear(session, session.dead, session.kept)

    def _retire(self) -> None:
        """Remove what is superfluous in sessions that kept something, and the old ones whole."""
        # One that lives stays in any case: its place is taken.
        self._kept.sort(key=lambda each: (each.lives, each.ended, each.run))
        runs = list(dict.fromkeys(session.run for session in reversed(self._kept)))
        recent = {self._run, *runs[: self._keep_sessions]}
        while self._kept:
            session = self._kept.pop()
            if session.dead is not None:
                stays = session.kept if session.run in recent else frozenset[str]()
                self._clear(session, session.dead, stays)

    def _clear(self, session: _Session, root: SessionRoot, kept: frozenset[str]) -> None:
        """Remove all of a dead session but *kept*, and give up its lock."""
        # What was kept for long enough, or a person has tidied up, is no news.
        is_news = bool(kept) or not session.told
        try:
            for path in _superfluous(root.path, kept):
                self._check()
                self._remove(root, path, session.began if is_news else None)
            if not kept:
                root.dissolve()
        finally:
            root.release()

    def _remove(self, root: SessionRoot, path: str, began: float | None) -> None:
        size, complete = self._measure(path, self._measured) if began is not None else (0, True)
        self._ticks = 0
        try:
            failures = root.remove(path, self._pace)
        except NotOurDirectoryError as error:
            failures = [Failure(path, error)]
        except _OutOfTimeError:
            self._count(root, began, 0, complete=False)
            raise
        if not failures:
            self._count(root, began, size, complete=complete)
        elif self._reclaimed.failure is None:
            self._reclaimed = self._reclaimed._replace(failure=failures[0])

    def _count(self, root: SessionRoot, began: float | None, size: int, *, complete: bool) -> None:
        if began is None:
            return
        self._counted.add(root.path)
        so_far = self._reclaimed
        self._reclaimed = so_far._replace(
            sessions=len(self._counted),
            items=so_far.items + self._ticks,
            bytes=so_far.bytes + size,
            complete=so_far.complete and complete,
            age=max(so_far.age, time.time() - began),
        )


def _session_at(path: str) -> _Session | None:
    """Return the session at *path* if it is ours: locked if it is dead."""
    if not is_ours(path):
        _remove_unfinished(path)
        return None
    fd = lock.take(os.path.join(path, LOCK))
    try:
        root = None
        if fd is not None:
            root = SessionRoot(path=path, uid=own_uid(path), pid=os.getpid(), lock_fd=fd)
        about = _read(os.path.join(path, BREADCRUMB))
        index = _read(os.path.join(path, INDEX))
        kept = frozenset(_kept_paths(index, path))
        began = os.lstat(os.path.join(path, BREADCRUMB)).st_mtime
        # The index is written once, at the end; the root's own time moves with each sweep.
        ended = os.lstat(os.path.join(path, INDEX)).st_mtime if kept else 0.0
    except OSError:
        # The lock was free because its session has just removed all of this, or what it
        # kept cannot be read just now: then nobody knows what may go.
        if fd is not None:
            lock.release(fd)
        return None
    rootdir = str(about.get("rootdir") or index.get("rootdir"))
    run = str(about.get("run") or index.get("run") or path)
    lives = bool(kept) and fd is None and lock.is_in_common(os.path.join(path, LOCK))
    return _Session(root, lives, began, ended, rootdir, run, bool(index), kept)


def _superfluous(root: str, kept: frozenset[str]) -> Iterator[str]:
    """Yield what may go from *root*: nothing that is kept, holds it or lies in it."""
    spared = set(kept)
    for path in kept:
        worker, *more = path[len(os.path.join(root, "")) :].split(os.sep)
        spared.update((os.path.join(root, worker), os.path.join(root, worker, *more[:1])))
    for worker in children(root):
        name = os.path.basename(worker)
        if name in (BREADCRUMB, LOCK) or (kept and name == INDEX):
            continue
        if worker not in spared:
            yield worker
        elif worker not in kept:
            yield from (path for path in children(worker) if path not in spared)


def _read(path: str) -> dict[str, object]:
    """Return what stands in a file of ours; nothing where it is missing, broken or no file.

    :raises OSError: When it cannot be read for any other reason.
    """
    try:
        with open(path, encoding="ascii", opener=_open_at_once) as file:
            content = json.load(file)
    except (ValueError, RecursionError):
        return {}
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        return {}
    return content if isinstance(content, dict) else {}


def _open_at_once(path: str, flags: int) -> int:
    # Whatever stands there now: no link is followed, and a fifo must not keep us waiting.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _kept_paths(index: dict[str, object], root: str) -> Iterator[str]:
    """Yield the paths in *root* that an index names and that are still there."""
    inside = os.path.join(root, "")
    for path in _named(index):
        clean = path.startswith(inside) and path == os.path.normpath(path)
        if clean and os.path.lexists(path):
            yield path


def _named(index: dict[str, object]) -> Iterator[str]:
    by_test = index.get("kept")
    for paths in by_test.values() if isinstance(by_test, dict) else ():
        if isinstance(paths, list):
            yield from (path for path in paths if isinstance(path, str))


def _remove_unfinished(path: str) -> None:
    """Remove what a process left that died while it made its root.

    Without a breadcrumb nothing else may go: not a tree, not another user's
    directory, and not a lock that is held.
    """
    lock_file = os.path.join(path, LOCK)
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != own_uid(path):
            return
        if time.time() - status.st_mtime < _CREATION_SECONDS:
            return
        if os.listdir(path) == [LOCK]:
            fd = lock.take(lock_file)
            if fd is None:
                return
            # Windows removes no file that is open, and NFS keeps one under another name.
            lock.release(fd)
            os.unlink(lock_file)
        os.rmdir(path)
    except OSError:
        return
