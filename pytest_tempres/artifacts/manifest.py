"""The manifest of the artifacts directory, which several sessions may write to."""

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
from pytest_tempres.workspace.dirfd import write_all
from pytest_tempres.workspace.proof import is_own

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Manifest"]

MANIFEST: Final = "manifest.json"
_DRAFT: Final = re.compile(re.escape(MANIFEST) + r"\.[a-z0-9_]{8}\.new")
_HEADER: Final = {"version": 1, "made_by": "pytest-tempres"}
#: The bytes that are reserved while files are copied, so that the manifest fits on a full disk.
_RESERVE: Final = 1 << 16
#: How long to wait for another session that is writing the manifest, in seconds.
_LOCK_TIMEOUT: Final = 10.0
#: The age at which a draft is removed, in seconds. Its session was probably killed; if it is still
#: copying, it loses only the reserved space.
_ABANDONED: Final = 3600.0


class Manifest:
    """The manifest of *directory*, to which this session adds its records.

    The records of earlier sessions stay. A file of that name that is not ours or cannot be read is
    left alone, and the next unused name is used: ``manifest-2.json`` and so on. So is every file
    where directories cannot be locked, since another session may be about to replace it.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._draft = f"{MANIFEST}.{random_name()}.new"
        with suppress(OSError):
            write_all(directory.make_private(self._draft), b" " * _RESERVE, sync=False)

    def __enter__(self) -> Self:
        """Return the manifest itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the draft, if it did not become the manifest."""
        self._directory.remove(self._draft)

    def add(self, records: Iterable[dict[str, Any]]) -> str:
        """Add *records* and return the name of the file.

        :raises OSError: When it cannot be written; existing files are unchanged then.
        """
        with _locked(self._directory) as is_locked:
            if is_locked:
                self._remove_old_drafts()
            for name in numbered(MANIFEST):
                known = self._records(name, is_locked=is_locked)
                if known is not None:
                    self._publish(name, [*known, *records])
                    return name
        raise AssertionError

    def _records(self, name: str, *, is_locked: bool) -> list[Any] | None:
        """Return the existing records in *name*, or None if the file must not be changed."""
        try:
            # Created before it is written, so that no other session uses the same name.
            System.close(self._directory.make_private(name))
        except FileExistsError:
            return self._read(name) if is_locked else None
        return []

    def _read(self, name: str) -> list[Any] | None:
        try:
            fd = self._directory.open_for_reading(name)
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

    def _remove_old_drafts(self) -> None:
        """Remove the drafts of sessions that were killed."""
        with suppress(OSError):
            for name in self._directory.names():
                if _DRAFT.fullmatch(name) and _is_abandoned(self._directory.lstat(name)):
                    self._directory.remove(name)

    def _publish(self, name: str, records: list[Any]) -> None:
        text = dumps({**_HEADER, "artifacts": records}, indent=1)
        try:
            # The draft may have been replaced by a link to another file of ours.
            self._directory.remove(self._draft)
            write_all(self._directory.make_private(self._draft), f"{text}\n".encode("ascii"))
            self._directory.replace(self._draft, name)
        except BaseException:
            # An empty file was created by this session to reserve the name.
            if not self._directory.lstat(name).st_size:
                self._directory.remove(name)
            raise


def _records_in(found: Any) -> list[Any] | None:
    if not isinstance(found, dict) or any(found.get(key) != _HEADER[key] for key in _HEADER):
        return None
    records = found.get("artifacts")
    return records if isinstance(records, list) else None


def _is_abandoned(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and System.time() - status.st_mtime > _ABANDONED


if sys.platform == "win32":

    @contextlib.contextmanager
    def _locked(directory: Directory) -> Iterator[bool]:
        # Windows cannot lock directories.
        del directory
        yield False

else:
    import fcntl

    @contextlib.contextmanager
    def _locked(directory: Directory) -> Iterator[bool]:
        """Lock *directory* for the block; yield whether that succeeded in time."""
        fd = directory.fd
        if fd is None:
            yield False
            return
        try:
            yield _lock(fd)
        finally:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)

    def _lock(fd: int) -> bool:
        end = System.monotonic() + _LOCK_TIMEOUT
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
