"""The errors and warnings of this package; every message says what to do."""

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
    """What is said about leaks may be incomplete."""


class TempresCleanupWarning(TempresWarning):
    """Something temporary could not be made, closed, copied or removed."""


class RemovalError(OSError):
    """Part of a directory tree is still there after its removal was tried.

    :param path: The tree that should have gone.
    :param remaining: Each path that is left, with the error that kept it there.
    """

    def __init__(self, path: str, remaining: list[tuple[str, OSError]]) -> None:
        first = remaining[0][1]
        named = "; ".join(f"{name}: {error.strerror or error}" for name, error in remaining[:3])
        more = f" (and {len(remaining) - 3} more)" if len(remaining) > 3 else ""
        super().__init__(first.errno, f"could not remove {named}{more}", path)
        self.path: Final = path
        self.remaining: Final = remaining

    def __reduce__(self) -> tuple[object, ...]:
        """Copy from what was given: OSError fills `args` in its own way."""
        return type(self), (self.path, self.remaining)


class NotOurDirectoryError(PermissionError):
    """A directory is left alone because nothing proves that it is ours.

    :param path: The directory, untouched.
    :param reason: Which proof is missing.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"refusing to touch {os.fspath(path)}: {reason}")
        self.path: Final = os.fspath(path)
        self.reason: Final = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Copy from what was given, as above."""
        return type(self), (self.path, self.reason)


class WorkspaceCreationError(OSError):
    """The directory of a session could not be made.

    :param path: The directory in which it should stand.
    :param cause: What the operating system said.
    """

    def __init__(self, path: str | os.PathLike[str], cause: OSError) -> None:
        super().__init__(
            cause.errno,
            f"cannot make a session directory: {cause.strerror or cause}; "
            "name a writable directory with --tempres-root",
            os.fspath(path),
        )
        self.path: Final = os.fspath(path)
        self.cause: Final = cause

    def __reduce__(self) -> tuple[object, ...]:
        """Copy from what was given, as above."""
        return type(self), (self.path, self.cause)
