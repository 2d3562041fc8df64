"""What did the operating system offer before tests put something in its place?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from typing import cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    _Entries = AbstractContextManager[Iterator[os.DirEntry[str]]]

__all__ = ["System"]


class System:
    """The operating system as it was at import.

    A class hides these functions from those who patch modules (``monkeypatch``, pyfakefs).
    """

    chmod = staticmethod(os.chmod)
    close = staticmethod(os.close)
    fstat = staticmethod(os.fstat)
    # Overloaded for bytes too.
    listdir = staticmethod(cast("Callable[[str | int], list[str]]", os.listdir))
    open = staticmethod(os.open)
    read = staticmethod(os.read)
    rmdir = staticmethod(os.rmdir)
    scandir = staticmethod(cast("Callable[[str], _Entries]", os.scandir))
    unlink = staticmethod(os.unlink)

    #: Whether all of it works relative to the descriptors of directories.
    by_descriptor = {
        os.mkdir,
        os.open,
        os.readlink,
        os.rename,
        os.rmdir,
        os.stat,
        os.symlink,
        os.unlink,
        os.utime,
    } <= os.supports_dir_fd and os.listdir in os.supports_fd
