"""What does the artifacts directory say of itself, when several sessions fill it?"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import json
import os
import stat
import sys
import time
from typing import TYPE_CHECKING
from typing import Any
from typing import Final

from pytest_tempres.primitives._names import random_name
from pytest_tempres.workspace.folder import Folder
from pytest_tempres.workspace.portable import numbered

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MANIFEST", "Manifest"]

MANIFEST: Final = "manifest.json"
_ABOUT: Final = {"version": 1, "made_by": "pytest-tempres"}
#: Set aside while files are copied, so that a full disk can still be told of.
_RESERVE: Final = 1 << 16
#: How long another session may take to write its own part, in seconds.
_PATIENCE: Final = 10.0


class Manifest:
    """The manifest of *folder*, to which this session adds its part.

    What earlier sessions wrote stays. A file of that name that is none of ours, or that
    cannot be read, is left alone: the next free name is taken, ``manifest-2.json`` and so on.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._draft = f"{MANIFEST}.{random_name()}.new"
        with contextlib.suppress(OSError):
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
            os.close(self._folder.make_file(name, 0o666))
        except FileExistsError:
            return self._read(name) if alone else None
        return []

    def _read(self, name: str) -> list[Any] | None:
        try:
            fd = self._folder.read(name)
            with open(fd, encoding="utf-8") as file:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    return None
                found = json.load(file)
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or any(found.get(key) != _ABOUT[key] for key in _ABOUT):
            return None
        records = found.get("artifacts")
        return records if isinstance(records, list) else None

    def _publish(self, name: str, records: list[Any]) -> None:
        text = json.dumps({**_ABOUT, "artifacts": records}, indent=1)
        try:
            self._write(f"{text}\n")
            self._folder.replace(self._draft, name)
        except BaseException:
            # An empty one is what we made to have the name.
            if not self._folder.lstat(name).st_size:
                self._folder.remove(name)
            raise

    def _write(self, text: str) -> None:
        with open(self._folder.rewrite(self._draft), "w", encoding="ascii") as file:
            file.write(text)


@contextlib.contextmanager
def _locked(folder: Folder) -> Iterator[bool]:
    """Lock *folder* for the block; yield False if somebody else does not let go of it."""
    fd = folder.fd
    if sys.platform == "win32" or fd is None:
        # Directories have no locks there.
        yield True
        return
    try:
        yield _lock(fd)
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)


if sys.platform != "win32":
    import fcntl

    def _lock(fd: int) -> bool:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
                time.sleep(0.05)
            except OSError:
                # A file system without locks, and without a better way.
                return True
            else:
                return True
