"""The access rights of a directory with mode 0700 on Windows.

CVE-2024-4030: ``os.mkdir`` ignored the mode there, so a directory in a shared location was open to
all users with access to that location. Newer versions of Python turn mode 0700 into an access
control list; for older ones this module calls the Windows API itself.
"""

from __future__ import annotations

import os
import sys
from typing import Any
from typing import Final
from typing import Protocol

__all__ = ["honours_mode", "make_private_directory", "private_mkdir"]

# The system, administrators and the owner have all rights, which paths created inside inherit. No
# other user has any, and nothing is inherited from the parent. This is CPython's list.
_OWNER_ONLY: Final = "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;OW)"

# The first releases in which os.mkdir honours mode 0700 on Windows.
_FIXED_IN: Final[dict[tuple[int, ...], int]] = {(3, 10): 15, (3, 11): 10, (3, 12): 4}


class Api(Protocol):
    """The functions of Windows that this module uses."""

    def access_list(self, text: str) -> Any:
        """Return the access list that *text* describes; the caller must free it."""

    def create(self, path: str, access_list: Any) -> None:
        """Create the directory *path*, or raise ``OSError``."""

    def free(self, access_list: Any) -> None:
        """Free an access list."""


def honours_mode(system: str = os.name, version: tuple[int, ...] = sys.version_info[:3]) -> bool:
    """Return whether ``os.mkdir`` honours mode 0700.

    :param system: A value of ``os.name``.
    :param version: The first three parts of ``sys.version_info``.
    """
    return system != "nt" or version[2] >= _FIXED_IN.get(version[:2], 0)


def make_private_directory(path: str | bytes, mode: int, api: Api | None = None) -> None:
    """Create a directory as ``os.mkdir`` of newer Pythons does, its audit event included.

    :param path: The directory.
    :param mode: 0700.
    :param api: The Windows API, or a replacement for it in tests.
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
