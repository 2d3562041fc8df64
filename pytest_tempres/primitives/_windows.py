"""The creation of private directories on Windows, and the removal by path.

CVE-2024-4030: ``os.mkdir`` ignored the mode there, so a directory in a shared location was open to
all users with access to that location. Newer versions of Python turn mode 0700 into an access
control list; for older ones this module calls the Windows API itself.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import stat
import sys
from typing import Any
from typing import Final
from typing import Protocol

from pytest_tempres.primitives._system import System

__all__ = [
    "honours_mode",
    "is_directory",
    "make_private_directory",
    "private_mkdir",
    "remove_by_path",
]

# The system, administrators and the owner have all rights, which paths created inside inherit. No
# other user has any, and nothing is inherited from the parent. This is CPython's list.
_OWNER_ONLY: Final = "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;OW)"

# The first releases in which os.mkdir honours mode 0700 on Windows.
_FIXED_IN: Final[dict[tuple[int, ...], int]] = {(3, 10): 15, (3, 11): 10, (3, 12): 4}

_JUNCTION: Final = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)


class Api(Protocol):
    """The functions of Windows that this module uses."""

    def access_list(self, text: str) -> Any:
        """Return the access list that *text* describes; the caller must free it."""

    def create(self, path: str, access_list: Any) -> None:
        """Create the directory *path*, or raise ``OSError``."""

    def free(self, access_list: Any) -> None:
        """Free an access list."""


def honours_mode(system: str = os.name, version: tuple[int, ...] = sys.version_info[:3]) -> bool:
    """Whether ``os.mkdir`` honours mode 0700."""
    return system != "nt" or version[2] >= _FIXED_IN.get(version[:2], 0)


def make_private_directory(path: str | bytes, mode: int, api: Api | None = None) -> None:
    """Create a directory of *mode* 0700 as newer Pythons do, with the audit event.

    :param api: A replacement for the Windows API in tests.
    :raises OSError: It can't be created; the error names the path.
    """
    sys.audit("os.mkdir", path, mode, -1)
    windows = api or _Windows()
    access_list = windows.access_list(_OWNER_ONLY)
    try:
        windows.create(os.fsdecode(path), access_list)
    except OSError as error:
        error.filename = path
        raise
    finally:
        windows.free(access_list)


def private_mkdir() -> Any:
    """Return the function that creates a directory which only its creator can enter."""
    return os.mkdir if honours_mode() else make_private_directory


class _Windows:
    if sys.platform == "win32":

        def __init__(self) -> None:
            import ctypes  # noqa: PLC0415 - needed on old versions only

            self._types = ctypes
            self._kernel = ctypes.WinDLL("kernel32", use_last_error=True)
            self._security = ctypes.WinDLL("advapi32", use_last_error=True)

        def _check(self, succeeded: int) -> None:
            if not succeeded:
                raise self._types.WinError(self._types.get_last_error())

        def access_list(self, text: str) -> Any:
            pointer = self._types.c_void_p()
            convert = self._security.ConvertStringSecurityDescriptorToSecurityDescriptorW
            self._check(convert(text, 1, self._types.byref(pointer), None))
            return pointer

        def create(self, path: str, access_list: Any) -> None:
            # SECURITY_ATTRIBUTES: its own size, the list, not inherited by child processes.
            fields = (self._types.c_void_p * 3)(
                self._types.sizeof(self._types.c_void_p * 3), access_list, 0
            )
            self._check(self._kernel.CreateDirectoryW(path, fields))

        def free(self, access_list: Any) -> None:
            self._kernel.LocalFree(access_list)

    else:

        def __init__(self) -> None:
            raise NotImplementedError

        def access_list(self, text: str) -> Any: ...
        def create(self, path: str, access_list: Any) -> None: ...
        def free(self, access_list: Any) -> None: ...


def is_directory(status: os.stat_result) -> bool:
    """Whether *status* is that of a directory and not of a junction, which is a kind of link."""
    return stat.S_ISDIR(status.st_mode) and getattr(status, "st_reparse_tag", 0) != _JUNCTION


def remove_by_path(
    path: str, tick: Callable[[], object] | None = None
) -> list[tuple[str, OSError]]:
    """Remove *path* without descriptors of directories, which Windows does not have.

    :param path: A directory with its contents, a file, or a link or a junction, which is not
        followed.
    :param tick: As for `remove_tree`.
    :returns: The paths that could not be removed, and why.
    """
    failures: list[tuple[str, OSError]] = []
    directories: list[str] = []

    @contextlib.contextmanager
    def recording(at: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            pass
        except OSError as error:
            failures.append((at, error))

    def enter_or_unlink(at: str, status: os.stat_result) -> None:
        if is_directory(status):
            directories.append(at)
        else:
            _remove_writable(System.unlink, at)

    with recording(path):
        enter_or_unlink(path, System.lstat(path))
    # The list grows during the iteration.
    for directory in directories:
        entries: list[os.DirEntry[str]] = []
        with recording(directory), System.scandir(directory) as found:
            entries = list(found)
        for entry in entries:
            if tick is not None:
                tick()
            with recording(entry.path):
                enter_or_unlink(entry.path, entry.stat(follow_symlinks=False))
    for directory in reversed(directories):
        with recording(directory):
            _remove_writable(System.rmdir, directory)
    return failures


def _remove_writable(remove: Callable[[str], None], path: str) -> None:
    try:
        remove(path)
    except PermissionError:
        if stat.S_ISLNK(System.lstat(path).st_mode):
            raise
        # Windows does not remove a path with the read-only attribute.
        System.chmod(path, 0o700)
        remove(path)
