"""What does the operating system say, whatever tests have put in its place?"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING
from typing import cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    _List = Callable[[str], list[str]]
    _Normal = Callable[[str], str]
    _Scan = Callable[[str], AbstractContextManager[Iterator[os.DirEntry[str]]]]
    _Stat = Callable[[str], os.stat_result]

__all__ = ["System"]


class System:
    """The operating system and the clock as they were at import.

    Fixtures are looked after while a test's replacements are in force, and a fake
    file system or clock (pyfakefs, freezegun) replaces these functions in the
    namespaces of modules too: in that of a class they are safe.
    """

    # Overloaded for bytes and descriptors, of which these have none here.
    abspath = staticmethod(cast("_Normal", os.path.abspath))
    normpath = staticmethod(cast("_Normal", os.path.normpath))
    readlink = staticmethod(cast("_Normal", os.readlink))
    realpath = staticmethod(cast("_Normal", os.path.realpath))
    scandir = staticmethod(cast("_Scan", os.scandir))
    stat = staticmethod(cast("_Stat", os.stat))
    lstat = staticmethod(cast("_Stat", os.lstat))

    dup = staticmethod(os.dup)
    fsdecode = staticmethod(os.fsdecode)
    fstat = staticmethod(os.fstat)
    getcwd = staticmethod(os.getcwd)
    getpid = staticmethod(os.getpid)
    isabs = staticmethod(os.path.isabs)
    isatty = staticmethod(os.isatty)
    isdir = staticmethod(os.path.isdir)
    join = staticmethod(os.path.join)
    lexists = staticmethod(os.path.lexists)
    listdir = staticmethod(cast("_List", os.listdir))
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    time_ns = staticmethod(time.time_ns)
