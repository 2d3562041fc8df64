"""What does the artifacts directory say of itself, when several sessions fill it?"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
from contextlib import suppress
from json import dumps
from json import load
import os
import re
import stat
import sys
from typing import TYPE_CHECKING
from typing import Any
from typing import Final

from pytest_tempres.artifacts.portable_names import numbered
from pytest_tempres.primitives._location import random_name
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace.dirfd import Directory
from pytest_tempres.workspace.proof import is_own

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MANIFEST", "Manifest"]

MANIFEST: Final = "manifest.json"
_DRAFT: Final = re.compile(re.escape(MANIFEST) + r"\.[a-z0-9_]{8}\.new")
_ABOUT: Final = {"version": 1, "made_by": "pytest-tempres"}
#: Set aside while files are copied, so that a full disk can still be told of.
_RESERVE: Final = 1 << 16
#: How long another session may take to write its own part, in seconds.
_PATIENCE: Final = 10.0
#: After this many seconds nobody will go on with what a session has begun that was killed.
#: The draft of one that still copies is no more than its reserve.
_ABANDONED: Final = 3600.0


class Manifest:
    """The manifest of *folder*, to which this session adds its part.

    What earlier sessions wrote stays. A file of that name that is none of ours, or that
    cannot be read, is left alone: the next free name is taken, ``manifest-2.json`` and so on.
    So is every file where directories have no locks: another session may be about to replace it.
    """

    def __init__(self, folder: Directory) -> None:
        self._folder = folder
        self._draft = f"{MANIFEST}.{random_name()}.new"
        with suppress(OSError):
            self._write(" " * _RESERVE)

    def __enter__(self) -> Self:
        """Return the manifest itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the draft, if it did not become the manifest."""
        self._folder.remove(self._draft)

    def add(self, records: Iterable[dict[str, Any]]) -> str:
        """Add *records* and return the name of the file.

        :raises OSError: When it cannot be written; what is there has not changed then.
        """
        with _locked(self._folder) as alone:
            if alone:
                self._clear_drafts()
            for name in numbered(MANIFEST):
                known = self._records(name, alone=alone)
                if known is not None:
                    self._publish(name, [*known, *records])
                    return name
        raise AssertionError

    def _records(self, name: str, *, alone: bool) -> list[Any] | None:
        """Return what *name* says already, None when it has to be left alone."""
        try:
            # Made before it is filled, so that no other session takes the same name.
            System.close(self._folder.make_private(name))
        except FileExistsError:
            return self._read(name) if alone else None
        return []

    def _read(self, name: str) -> list[Any] | None:
        try:
            fd = self._folder.read(name)
        except OSError:
            return None
        try:
            status = System.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or not is_own(status):
                return None
            if not status.st_size:
                return [] if _is_abandoned(status) else None
            with System.open_file(fd, encoding="utf-8", closefd=False) as file:
                return _records_in(load(file))
        except (OSError, ValueError, RecursionError):
            return None
        finally:
            System.close(fd)

    def _clear_drafts(self) -> None:
        """Remove the drafts of sessions that were killed before they could."""
        with suppress(OSError):
            for name in self._folder.names():
                if _DRAFT.fullmatch(name) and _is_abandoned(self._folder.lstat(name)):
                    self._folder.remove(name)

    def _publish(self, name: str, records: list[Any]) -> None:
        text = dumps({**_ABOUT, "artifacts": records}, indent=1)
        try:
            # What stands there by now may be a link to another file of ours.
            self._folder.remove(self._draft)
            self._write(f"{text}\n", sync=True)
            self._folder.replace(self._draft, name)
        except BaseException:
            # An empty one is what we made to have the name.
            if not self._folder.lstat(name).st_size:
                self._folder.remove(name)
            raise

    def _write(self, text: str, *, sync: bool = False) -> None:
        with System.open_file(
            self._folder.make_private(self._draft), "w", encoding="ascii"
        ) as file:
            file.write(text)
            if sync:
                file.flush()
                # Renamed before it is on the disk, it would be empty after a power cut.
                with suppress(OSError):
                    System.fsync(file.fileno())


def _records_in(found: Any) -> list[Any] | None:
    if not isinstance(found, dict) or any(found.get(key) != _ABOUT[key] for key in _ABOUT):
        return None
    records = found.get("artifacts")
    return records if isinstance(records, list) else None


def _is_abandoned(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and System.time() - status.st_mtime > _ABANDONED


if sys.platform == "win32":

    @contextlib.contextmanager
    def _locked(folder: Directory) -> Iterator[bool]:
        # Directories have no locks there.
        del folder
        yield False

else:
    import fcntl

    @contextlib.contextmanager
    def _locked(folder: Directory) -> Iterator[bool]:
        """Lock *folder* for the block; yield False if that cannot be, or others do not let go."""
        fd = folder.fd
        if fd is None:
            yield False
            return
        try:
            yield _lock(fd)
        finally:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)

    def _lock(fd: int) -> bool:
        end = System.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if System.monotonic() >= end:
                    return False
                System.sleep(0.05)
            except OSError:
                # A file system without locks.
                return False
            else:
                return True
