"""What did the operating system offer before tests put something in its place?"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
from typing import ClassVar
from typing import Final

from pytest_tempres.primitives._system import System as Primitive

__all__ = ["System", "held"]


class System(Primitive):
    """The operating system as it was at import, with what the workspace needs beyond removals.

    A test may replace these functions while we clean up after another one.
    """

    lstat = staticmethod(os.lstat)
    stat = staticmethod(os.stat)
    #: None where there are no uids (Windows).
    geteuid: ClassVar[Callable[[], int] | None] = getattr(os, "geteuid", None)

    #: How a directory is opened that the user named, and that may be a link.
    to_reach: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
    #: How a directory of ours is opened.
    to_hold: Final = to_reach | getattr(os, "O_NOFOLLOW", 0)


@contextlib.contextmanager
def held(path: str, flags: int = System.to_hold) -> Iterator[int | None]:
    """Hold the directory *path* open; give None where names are not looked up in descriptors.

    :raises OSError: When the operating system refuses.
    """
    fd = System.open(path, flags) if System.by_descriptor else None
    try:
        yield fd
    finally:
        if fd is not None:
            System.close(fd)
