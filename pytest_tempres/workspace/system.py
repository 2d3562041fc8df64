"""What did the operating system offer before tests put something in its place?"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
from typing import ClassVar
from typing import Final
from typing import cast

__all__ = ["System", "held"]


class System:
    """The operating system as it was at import.

    A test may replace these functions while we clean up after another one; in the
    namespace of a class, those who patch modules (``monkeypatch``, pyfakefs) miss them.
    """

    chmod = staticmethod(os.chmod)
    close = staticmethod(os.close)
    fstat = staticmethod(os.fstat)
    # Overloaded for bytes too.
    listdir = staticmethod(cast("Callable[[str | int], list[str]]", os.listdir))
    lstat = staticmethod(os.lstat)
    open = staticmethod(os.open)
    rmdir = staticmethod(os.rmdir)
    stat = staticmethod(os.stat)
    unlink = staticmethod(os.unlink)
    #: None where there are no uids (Windows).
    geteuid: ClassVar[Callable[[], int] | None] = getattr(os, "geteuid", None)

    #: Whether it works relative to the descriptors of directories.
    by_descriptor: Final = {os.open, os.stat, os.unlink, os.rmdir} <= os.supports_dir_fd
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
