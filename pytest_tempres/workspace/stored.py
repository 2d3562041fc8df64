"""The sessions in a directory, for commands that list them; nothing here removes anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from pytest_tempres.primitives._system import System
from pytest_tempres.workspace import journal
from pytest_tempres.workspace.dirfd import open_directory
from pytest_tempres.workspace.dirfd import read_private
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import JOURNAL
from pytest_tempres.workspace.proof import has_root_name
from pytest_tempres.workspace.proof import own_uid
from pytest_tempres.workspace.proof import prove
from pytest_tempres.workspace.proof import read_record
from pytest_tempres.workspace.root import take
from pytest_tempres.workspace.sweep import StoredSession
from pytest_tempres.workspace.sweep import below
from pytest_tempres.workspace.sweep import read
from pytest_tempres.workspace.sweep import removable

__all__ = ["KeptPath", "Stored", "find", "is_dead", "reclaimable"]


class KeptPath(NamedTuple):
    """A kept path, and the test that it was kept for."""

    path: str
    test: str


class Stored(NamedTuple):
    """A session, dead or alive, and those of its kept paths that exist."""

    session: StoredSession
    kept: tuple[KeptPath, ...]


def find(parent: str) -> Iterator[Stored]:
    """Yield the sessions of this user in *parent*.

    :raises OSError: If *parent* cannot be listed.
    """
    with System.scandir(parent) as entries:
        paths = sorted(entry.path for entry in entries if has_root_name(entry.name))
    for path in paths:
        # Not ours, removed meanwhile, or unreadable: then it is unknown what is kept.
        with suppress(OSError), open_directory(path) as fd:
            prove(path, own_uid(path), fd)
            session = read(path, fd)
            tests = dict(_tests(session, fd))
            kept = (each for each in sorted(session.kept_paths) if System.lexists(each))
            yield Stored(session, tuple(KeptPath(each, tests.get(each, "")) for each in kept))


def _tests(session: StoredSession, fd: int | None) -> Iterator[tuple[str, str]]:
    here, uid = "" if fd is not None else session.path, own_uid(session.path)
    about, _ = read_record(System.join(here, BREADCRUMB), fd, uid)
    names = {System.basename(session.path), about.get("root")}
    for recorded, test in _records(here, fd, uid):
        for path in below([recorded], session.path, names):
            yield path, str(test)


def _records(here: str, fd: int | None, uid: int) -> Iterator[tuple[str, object]]:
    index, _ = read_record(System.join(here, INDEX), fd, uid)
    by_test = index.get("kept")
    for test, paths in by_test.items() if isinstance(by_test, dict) else ():
        yield from ((path, test) for path in paths if isinstance(path, str))
    found = None if index else read_private(System.join(here, JOURNAL), fd, uid)
    if found is not None:
        yield from journal.records(found[0])


def is_dead(session: StoredSession) -> bool:
    """Whether *session* has ended: no process holds its lock."""
    root = take(session.path)
    if root is not None:
        root.release()
    return root is not None


def reclaimable(stored: Stored) -> list[str]:
    """Return the paths that a sweep removes if the session is dead."""
    return list(removable(stored.session.path, frozenset(each.path for each in stored.kept)))
