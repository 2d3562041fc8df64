"""What does the operating system say, whatever tests have put in its place?"""

from __future__ import annotations

import os
import time

__all__ = ["System"]


class System:
    """The operating system and the clock as they were at import.

    Fixtures are looked after while a test's replacements are in force, and a fake
    file system or clock (pyfakefs, freezegun) replaces these functions in the
    namespaces of modules too: in that of a class they are safe.
    """

    abspath = staticmethod(os.path.abspath)
    fsdecode = staticmethod(os.fsdecode)
    getcwd = staticmethod(os.getcwd)
    isabs = staticmethod(os.path.isabs)
    join = staticmethod(os.path.join)
    lstat = staticmethod(os.lstat)
    monotonic = staticmethod(time.monotonic)
    normpath = staticmethod(os.path.normpath)
    scandir = staticmethod(os.scandir)
    stat = staticmethod(os.stat)
    time_ns = staticmethod(time.time_ns)
