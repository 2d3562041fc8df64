"""The errors and warnings of this package."""

from __future__ import annotations

import os
from typing import Final

__all__ = [
    "NotOurDirectoryError",
    "RemovalError",
    "TempresCleanupWarning",
    "TempresLeakWarning",
    "TempresWarning",
    "WorkspaceCreationError",
]


class TempresWarning(UserWarning):
    """Base of all warnings of this package."""


class TempresLeakWarning(TempresWarning):
    """The leak report may be incomplete."""


class TempresCleanupWarning(TempresWarning):
    """A temporary resource could not be created, closed, copied or removed."""


class RemovalError(OSError):
    """A directory tree could not be removed completely.

    :param path: The root of the tree.
    :param remaining: Each path that could not be removed, with the error.
    """

    def __init__(self, path: str, remaining: list[tuple[str, OSError]]) -> None:
        first = remaining[0][1]
        named = "; ".join(f"{name}: {error.strerror or error}" for name, error in remaining[:3])
        more = f" (and {len(remaining) - 3} more)" if len(remaining) > 3 else ""
        super().__init__(first.errno, f"could not remove {named}{more}", path)
        self.path: Final = path
        self.remaining: Final = remaining

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments of ``__init__``, since OSError sets `args` to others."""
        return type(self), (self.path, self.remaining)


class NotOurDirectoryError(PermissionError):
    """A directory is not changed because it is not proved to be ours.

    :param path: The directory, which is unchanged.
    :param reason: Which proof is missing.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"refusing to touch {os.fspath(path)}: {reason}")
        self.path: Final = os.fspath(path)
        self.reason: Final = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments of ``__init__``, as above."""
        return type(self), (self.path, self.reason)


class WorkspaceCreationError(OSError):
    """The directory of a session could not be created.

    :param path: The parent directory.
    :param cause: The error of the operating system.
    """

    def __init__(self, path: str | os.PathLike[str], cause: OSError) -> None:
        super().__init__(
            cause.errno,
            f"cannot create a session directory: {cause.strerror or cause}; "
            "name a writable directory with --tempres-root",
            os.fspath(path),
        )
        self.path: Final = os.fspath(path)
        self.cause: Final = cause

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments of ``__init__``, as above."""
        return type(self), (self.path, self.cause)
