"""What does a session root say of its session, and what of it may go?"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import os
from typing import NamedTuple

from pytest_tempres.primitives._system import System
from pytest_tempres.workspace import journal
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import JOURNAL
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.proof import own_uid
from pytest_tempres.workspace.proof import read_record
from pytest_tempres.workspace.root import children

__all__ = ["Remains", "read", "superfluous"]


class Remains(NamedTuple):
    """A session root, as its own files describe it."""

    path: str
    #: When its session began, and when it last wrote down what it keeps: seconds since the epoch.
    began: float
    ended: float
    rootdir: str
    #: What the workers of one run have in common that have roots of their own.
    run: str
    #: Whether the session came to its end, and wrote down what it keeps.
    has_index: bool
    #: The paths that its index names, or its journal where there is no index: whoever wrote the
    #: index knew better. Not all of them need be there any more.
    named: frozenset[str]


def read(path: str, at: int | None) -> Remains:
    """Read what stands in the session root *path*.

    :param at: Its descriptor; None where names are not looked up in descriptors.
    :raises OSError: When that cannot be told, and so nobody knows what may go.
    """
    here, uid = path if at is None else "", own_uid(path)
    about, began = read_record(System.join(here, BREADCRUMB), at, uid)
    index, ended = read_record(System.join(here, INDEX), at, uid)
    if index:
        kept = frozenset(_texts(index.get("kept")))
    else:
        kept, ended = journal.read(System.join(here, JOURNAL), at, uid)
    return Remains(
        path,
        began=began,
        # These files are written by their session alone; the root's own time moves with each sweep.
        ended=ended,
        rootdir=str(about.get("rootdir") or index.get("rootdir")),
        run=str(about.get("run") or index.get("run") or path),
        has_index=bool(index),
        named=frozenset(_below(kept, path, {System.basename(path), about.get("root")})),
    )


def superfluous(root: str, kept: frozenset[str]) -> Iterator[str]:
    """Yield what may go from *root*: nothing that is kept, holds it or lies in it.

    The index comes last, after the journal: as long as one of them is there, the rest is known to
    have been kept.
    """
    spared = set(kept)
    for path in kept:
        worker, *more = path[len(System.join(root, "")) :].split(os.sep)
        spared.update((System.join(root, worker), System.join(root, worker, *more[:1])))
    for worker in children(root):
        if System.basename(worker) in (BREADCRUMB, LOCK, INDEX, JOURNAL):
            continue
        if worker not in spared:
            yield worker
        elif worker not in kept:
            yield from (path for path in children(worker) if path not in spared)
    for name in (JOURNAL, INDEX):
        path = System.join(root, name)
        if not kept and System.lexists(path):
            yield path


def _below(paths: Iterable[str], root: str, names: Iterable[object]) -> Iterator[str]:
    """Yield those of *paths* that lie in a root, as they are called where it stands now.

    The session may have called its temp directory otherwise: through a link, or in a container
    that mounts it elsewhere. The names that the root has had are random, so what follows is sure.
    """
    markers = [System.join(os.sep, str(name), "") for name in names if name]
    for path in paths:
        for marker in markers:
            before, found, inner = path.rpartition(marker)
            if found and System.isabs(before + found) and _is_below(inner):
                yield System.join(root, inner)


def _is_below(inner: str) -> bool:
    clean = inner == System.normpath(inner) and not System.isabs(inner) and "\0" not in inner
    return clean and inner.split(os.sep, maxsplit=1)[0] not in ("", os.curdir, os.pardir)


def _texts(by_test: object) -> Iterator[str]:
    for paths in by_test.values() if isinstance(by_test, dict) else ():
        if isinstance(paths, list):
            yield from (path for path in paths if isinstance(path, str))
