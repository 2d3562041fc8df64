"""The sessions in a directory, for commands that list them; nothing here removes anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from pytest_tempres.primitives._system import System
from pytest_tempres.workspace import journal
from pytest_tempres.workspace.dirfd import Directory
from pytest_tempres.workspace.journal import StoredSession
from pytest_tempres.workspace.proof import has_root_name
from pytest_tempres.workspace.proof import own_uid
from pytest_tempres.workspace.proof import prove
from pytest_tempres.workspace.root import take
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
        with suppress(OSError), Directory.at(path) as directory:
            prove(directory, own_uid(path))
            session = journal.read_session(directory)
            kept = sorted(session.kept_paths.items())
            yield Stored(
                session, tuple(KeptPath(*each) for each in kept if System.lexists(each[0]))
            )


def is_dead(session: StoredSession) -> bool:
    """Whether *session* has ended: no process holds its lock."""
    root = take(session.path)
    if root is not None:
        root.release()
    return root is not None


def reclaimable(stored: Stored) -> list[str]:
    """Return the paths that a sweep removes if the session is dead."""
    return list(removable(stored.session.path, frozenset(each.path for each in stored.kept)))
