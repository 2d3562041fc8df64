"""The listing of a kept directory in the report of the failure that it is kept for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
import stat
from typing import Final

from pytest_tempres.leaks.temp.scan import measure
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.wording import contents
from pytest_tempres.reports.wording import printable
from pytest_tempres.reports.wording import size

__all__ = ["deadline", "list_files"]

#: How many files are listed.
_LISTED: Final = 10
#: How many entries of directories a walk visits at most, and its time budget in seconds.
_MAX_ENTRIES: Final = 5000
_SECONDS: Final = 0.25


@dataclass(slots=True)
class _Walk:
    """What a walk has found so far."""

    until: float
    #: The first files by name and size, those of each directory before its subdirectories.
    listed: list[tuple[str, str]] = field(default_factory=list)
    visited: int = 0
    files: int = 0
    bytes: int = 0
    complete: bool = True
    #: The first directory that could not be read.
    failure: tuple[str, OSError] | None = None

    def run(self, top: str) -> None:
        pending = [top]
        # The list grows during the iteration.
        for directory in pending:
            if not self._has_budget():
                self.complete = False
                return
            try:
                names = self._names(directory)
            except OSError as error:
                self.complete = False
                self.failure = self.failure or (directory[len(top) + 1 :] or ".", error)
                continue
            for path, is_directory in names:
                if is_directory:
                    pending.append(path)
                else:
                    self._add_file(path, path[len(top) + 1 :])

    def _names(self, directory: str) -> list[tuple[str, bool]]:
        found = []
        with System.scandir(directory) as entries:
            for entry in entries:
                if not self._has_budget():
                    self.complete = False
                    break
                self.visited += 1
                found.append((entry.path, entry.is_dir(follow_symlinks=False)))
        return sorted(found)

    def _has_budget(self) -> bool:
        return self.visited < _MAX_ENTRIES and System.monotonic() < self.until

    def _add_file(self, path: str, name: str) -> None:
        found = measure(path)
        if found is None:
            return
        self.files += 1
        self.bytes += found.bytes
        if len(self.listed) < _LISTED:
            what = size(found.bytes) if found.kind == "file" else found.kind
            self.listed.append((name, what))


def deadline() -> float:
    """Return the time at which the listings of one report stop, of `time.monotonic`."""
    return System.monotonic() + _SECONDS


def list_files(path: str, until: float) -> Iterator[str]:
    """Yield the size of a kept path and, if it is a directory, its first files, line by line.

    No link is followed. The walk is limited in time and in the number of entries.

    :param until: The result of :func:`deadline`.
    """
    try:
        yield from _list_files(path, until)
    except Exception as error:  # noqa: BLE001 -- the listing must not change a test's outcome
        yield f"  could not be listed: {printable(str(error))}"


def _list_files(path: str, until: float) -> Iterator[str]:
    if not stat.S_ISDIR(System.lstat(path).st_mode):
        found = measure(path)
        if found is not None:
            yield f"  {contents(found.kind, found.items, found.bytes, complete=True)}"
        return
    walk = _Walk(until)
    walk.run(path)
    yield f"  {contents('directory', walk.files, walk.bytes, complete=walk.complete)}"
    width = max((len(what) for _, what in walk.listed), default=0)
    for name, what in walk.listed:
        yield f"  {what:>{width}}  {printable(name)}"
    if walk.files > len(walk.listed):
        bound = "" if walk.complete else "at least "
        yield f"  ... and {bound}{walk.files - len(walk.listed)} more"
    if walk.failure is not None:
        name, error = walk.failure
        yield f"  could not be listed: {printable(name)}: {error.strerror or error}"
