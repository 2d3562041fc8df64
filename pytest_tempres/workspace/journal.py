"""The journal of kept paths, written before they are reported as kept.

The index is written at the end of the session. When the process ends before that (a kill,
`os._exit`), the journal is left, and the next session keeps the paths in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import suppress
import errno
from json import dumps
from json import loads
import os
import stat
from typing import Final
from typing import NamedTuple

from pytest_tempres.primitives._system import System
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.dirfd import SAFE_FLAGS
from pytest_tempres.workspace.dirfd import Directory
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import JOURNAL
from pytest_tempres.workspace.proof import identity_of
from pytest_tempres.workspace.proof import own_uid
from pytest_tempres.workspace.proof import read_record
from pytest_tempres.workspace.root import SessionRoot

__all__ = ["Journal", "StoredSession", "end", "read_session"]

_APPEND_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | SAFE_FLAGS


class Journal:
    """The journal of a session root, open in one of the processes that write to it."""

    __slots__ = ("_fd", "adds_created")

    def __init__(self) -> None:
        #: Whether created paths are added at once, because a test may end the process.
        self.adds_created = False
        #: Negative while the journal is closed.
        self._fd = -1

    def open(self, root: SessionRoot) -> None:
        """Open it, early in the session: a test may use up all descriptors.

        :raises OSError: When the operating system refuses, or the path is not a file of ours.
        """
        with root.opened() as directory:
            path = directory.path_of(JOURNAL)
            self._fd = lock.track(System.open(path, _APPEND_FLAGS, 0o600, dir_fd=directory.fd))
        status = System.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != root.uid:
            self.close()
            raise FileExistsError(errno.EEXIST, "the path is not a file of ours", path)
        if System.fchmod is not None:
            # A test may have changed the umask.
            System.fchmod(self._fd, 0o600)

    def add(self, root: SessionRoot, nodeid: str, paths: Iterable[str]) -> None:
        """Record that *paths* are kept; several processes may do so at the same time.

        :raises OSError: When it cannot be written.
        """
        lines = [dumps({"test": nodeid, "path": path}) for path in paths]
        if not lines:
            return
        if not _is_at(self._fd, System.join(root.path, JOURNAL)):
            self.close()
            self.open(root)
        # Each record begins with a newline: the one before it may be incomplete.
        text = "".join(f"\n{line}" for line in lines).encode("ascii")
        if System.write(self._fd, text) != len(text):
            raise OSError(errno.ENOSPC, System.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close it in this process; a second call does nothing."""
        fd, self._fd = self._fd, -1
        lock.release(fd)


def end(root: SessionRoot) -> None:
    """Record that a session with kept paths ends now, and remove its journal.

    The index is complete by then. An index without a journal means that the session has ended,
    and the modification time of the index is when.

    :raises OSError: When the operating system refuses.
    """
    now = System.time_ns()
    with root.opened() as directory:
        directory.set_times(INDEX, (now, now))
        with suppress(FileNotFoundError):
            directory.unlink(JOURNAL)


def _is_at(fd: int, path: str) -> bool:
    """Whether *fd* is the file at *path*: a test may have closed the one or removed the other."""
    if not lock.is_held(fd):
        return False
    try:
        return identity_of(System.lstat(path)) == identity_of(System.fstat(fd))
    except OSError:
        return False


class StoredSession(NamedTuple):
    """A session, dead or alive, as the files in its root describe it."""

    path: str
    #: When its session began, and when it last recorded what it keeps: seconds since the epoch.
    began: float
    ended: float
    rootdir: str
    #: The id that the workers of one run share when they have roots of their own.
    run: str
    #: Whether the session has written its index, which it does at its end.
    has_index: bool
    #: The kept paths, each with its test, from the index, or from the journal if there is no index.
    #: Some may not exist any more.
    kept_paths: Mapping[str, str]


def read_session(directory: Directory) -> StoredSession:
    """Read the breadcrumb, the index and the journal of the session root *directory*.

    :raises OSError: When they cannot be read, so that it is unknown what is kept.
    """
    path = directory.path
    uid = own_uid(path)
    metadata, began = read_record(directory, BREADCRUMB, uid)
    index, ended = read_record(directory, INDEX, uid)
    kept = _paths_in_index(index.get("kept"))
    if not index:
        content, ended = directory.read_private(JOURNAL, uid) or (b"", 0.0)
        kept = _paths_in_journal(content)
    return StoredSession(
        path,
        began=began,
        # Only the session writes these files; a sweep changes the time of the root itself.
        ended=ended,
        rootdir=str(metadata.get("rootdir") or index.get("rootdir")),
        run=str(metadata.get("run") or index.get("run") or path),
        has_index=bool(index),
        kept_paths=dict(_below(kept, path, {System.basename(path), metadata.get("root")})),
    )


def _below(
    kept: Iterable[tuple[str, str]], root: str, names: Iterable[object]
) -> Iterator[tuple[str, str]]:
    """Yield those of the *kept* paths that are inside *root*, by their current paths.

    The session may have had another path for its temp directory: through a link, or in a container
    that mounts it elsewhere. The names of the root are random, so a path that contains one of them
    is inside the root.
    """
    markers = [System.join(os.sep, str(name), "") for name in names if name]
    for path, test in kept:
        for marker in markers:
            before, found, inner = path.rpartition(marker)
            if found and System.isabs(before + found) and _is_below(inner):
                yield System.join(root, inner), test


def _is_below(inner: str) -> bool:
    clean = inner == System.normpath(inner) and not System.isabs(inner) and "\0" not in inner
    return clean and inner.split(os.sep, maxsplit=1)[0] not in ("", os.curdir, os.pardir)


def _paths_in_journal(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield the paths in a journal, with their tests; an incomplete or foreign line is skipped."""
    for line in content.split(b"\n"):
        with suppress(ValueError, RecursionError):
            record = loads(line)
            if isinstance(record, dict) and isinstance(record.get("path"), str):
                yield record["path"], str(record.get("test", ""))


def _paths_in_index(by_test: object) -> Iterator[tuple[str, str]]:
    for test, paths in by_test.items() if isinstance(by_test, dict) else ():
        if isinstance(paths, list):
            yield from ((path, str(test)) for path in paths if isinstance(path, str))
