"""Which dead sessions can go, and which kept ones are too old?"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import os
import stat
import time
from typing import Final
from typing import NamedTuple

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.root import BREADCRUMB
from pytest_tempres.workspace.root import INDEX
from pytest_tempres.workspace.root import LOCK
from pytest_tempres.workspace.root import PREFIX
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import children
from pytest_tempres.workspace.root import is_ours
from pytest_tempres.workspace.root import own_uid

__all__ = ["sweep"]

_NAME_LENGTH: Final = len(PREFIX) + 8
#: A root that is being made is younger than this many seconds.
_CREATION_SECONDS: Final = 60


class _Dead(NamedTuple):
    root: SessionRoot
    ended: float
    rootdir: str
    #: What the workers of one run have in common that have roots of their own.
    run: str
    kept: frozenset[str]


def sweep(parent: str, *, rootdir: str, keep_sessions: int, seconds: float, run: str = "") -> int:
    """Remove what dead sessions left in *parent*, but for what they kept on purpose.

    :param parent: The directory in which session roots stand.
    :param rootdir: Kept sessions are counted for each project of its own.
    :param keep_sessions: How many sessions of *rootdir* that kept something stay.
    :param seconds: The time after which the rest is left to the next session.
    :param run: The run that goes on, which counts as one session whatever its workers kept.
    :returns: How many session roots went.
    """
    deadline = time.monotonic() + seconds
    gone = 0
    kept: list[_Dead] = []
    for path in _candidates(parent, deadline):
        if time.monotonic() > deadline:
            break
        dead = _take(path)
        if dead is None:
            continue
        if dead.kept and dead.rootdir == rootdir:
            kept.append(dead)
        else:
            gone += _clear(dead, dead.kept, deadline)
    kept.sort(key=lambda dead: dead.ended, reverse=True)
    runs = list(dict.fromkeys(dead.run for dead in kept if dead.run != run))
    recent = {run, *runs[:keep_sessions]}
    for dead in kept:
        stays = dead.kept if dead.run in recent else frozenset()
        gone += _clear(dead, stays, deadline)
    return gone


def _candidates(parent: str, deadline: float) -> Iterator[str]:
    """Yield the paths that are named like session roots; a shared directory may be huge."""
    paths = []
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                if entry.name.startswith(PREFIX) and len(entry.name) == _NAME_LENGTH:
                    paths.append(entry.path)
                if time.monotonic() > deadline:
                    break
    except OSError:
        return
    yield from paths


def _take(path: str) -> _Dead | None:
    """Return the session at *path*, locked, if it is ours and dead."""
    if not is_ours(path):
        _remove_unfinished(path)
        return None
    fd = lock.take(os.path.join(path, LOCK))
    if fd is None:
        return None
    try:
        root = SessionRoot(path=path, uid=os.lstat(path).st_uid, pid=os.getpid(), lock_fd=fd)
        about = _read(os.path.join(path, BREADCRUMB))
        kept = frozenset(_kept_paths(_read(os.path.join(path, INDEX)), path))
        # The index is written once, at the end; the root's own time moves with each sweep.
        ended = os.lstat(os.path.join(path, INDEX)).st_mtime if kept else 0.0
    except FileNotFoundError:
        # The lock was free because its session has just removed all of this.
        lock.release(fd)
        return None
    return _Dead(root, ended, str(about.get("rootdir")), str(about.get("run") or path), kept)


def _clear(dead: _Dead, kept: frozenset[str], deadline: float) -> bool:
    """Remove all of a dead session but *kept*; return whether its root went."""
    for path in _superfluous(dead.root.path, kept):
        if time.monotonic() > deadline:
            break
        with contextlib.suppress(NotOurDirectoryError):
            dead.root.remove(path)
    if not kept:
        return dead.root.dissolve()
    if dead.root.lock_fd is not None:
        lock.release(dead.root.lock_fd)
    return False


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
    try:
        with open(path, encoding="ascii", opener=_open_at_once) as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError):
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
            try:
                os.unlink(lock_file)
            finally:
                lock.release(fd)
        os.rmdir(path)
    except OSError:
        return
