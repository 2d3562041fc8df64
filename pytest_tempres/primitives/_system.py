"""The functions of the operating system and the clock, as they were at import.

Tests replace them (``monkeypatch``, pyfakefs, freezegun), and we work while such replacements are
in force. What this package calls while tests run and at the end of the session is called from here.
"""

from __future__ import annotations

import io
import os
import sys
import time
from types import FunctionType
from types import SimpleNamespace
from typing import IO
from typing import TYPE_CHECKING
from typing import Any
from typing import Final
from typing import cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    _Entries = AbstractContextManager[Iterator[os.DirEntry[str]]]
    _List = Callable[[str | int], list[str]]
    _Path = str | os.PathLike[str]
    _OnText = Callable[[_Path], str]
    _Splits = Callable[[_Path], tuple[str, str]]
    _Tells = Callable[[_Path], bool]
    _Scan = Callable[[str], _Entries]

__all__ = ["System", "uname"]


def _copies(module: object, **names: object) -> dict[str, Any]:
    """Return copies of the functions in *module*, which call one another and what is there now.

    :param names: What they find under these names instead.
    """
    found = {**vars(module), **names}
    functions = [(name, each) for name, each in found.items() if isinstance(each, FunctionType)]
    for name, each in functions:
        copy = FunctionType(each.__code__, found, name, each.__defaults__, each.__closure__)
        copy.__kwdefaults__ = each.__kwdefaults__
        found[name] = copy
    return found


# To capture these alone is not enough: written in Python, they ask `os` for others (`os.fspath`).
_path: Final = _copies(os.path, os=SimpleNamespace(**vars(os)))
_os: Final = _copies(os, path=SimpleNamespace(**_path))


class System:
    """The operating system as it was at import.

    Fakes look through the namespaces of all modules for the functions that they replace: in that
    of a class these are safe.
    """

    # Overloaded for bytes and descriptors, of which there are none here.
    abspath = staticmethod(cast("_OnText", _path["abspath"]))
    basename = staticmethod(cast("_OnText", _path["basename"]))
    dirname = staticmethod(cast("_OnText", _path["dirname"]))
    exists = staticmethod(cast("_Tells", _path["exists"]))
    fsdecode = staticmethod(cast("Callable[[Any], str]", _os["fsdecode"]))
    fsencode = staticmethod(cast("Callable[[Any], bytes]", _os["fsencode"]))
    isabs = staticmethod(cast("_Tells", _path["isabs"]))
    isdir = staticmethod(cast("_Tells", _path["isdir"]))
    join = staticmethod(cast("Callable[..., str]", _path["join"]))
    lexists = staticmethod(cast("_Tells", _path["lexists"]))
    listdir = staticmethod(cast("_List", os.listdir))
    makedirs = staticmethod(cast("Callable[..., None]", _os["makedirs"]))
    normpath = staticmethod(cast("_OnText", _path["normpath"]))
    readlink = staticmethod(cast("Callable[..., str]", os.readlink))
    realpath = staticmethod(cast("_OnText", _path["realpath"]))
    scandir = staticmethod(cast("_Scan", os.scandir))
    split = staticmethod(cast("_Splits", _path["split"]))
    splitext = staticmethod(cast("_Splits", _path["splitext"]))

    access = staticmethod(os.access)
    chdir = staticmethod(os.chdir)
    chmod = staticmethod(os.chmod)
    close = staticmethod(os.close)
    dup = staticmethod(os.dup)
    fstat = staticmethod(os.fstat)
    fsync = staticmethod(os.fsync)
    getcwd = staticmethod(os.getcwd)
    getpid = staticmethod(os.getpid)
    isatty = staticmethod(os.isatty)
    link = staticmethod(os.link)
    lstat = staticmethod(os.lstat)
    mkdir = staticmethod(os.mkdir)
    monotonic = staticmethod(time.monotonic)
    open = staticmethod(os.open)
    open_file = staticmethod(cast("Callable[..., IO[Any]]", io.open))
    process_time = staticmethod(time.process_time)
    read = staticmethod(os.read)
    replace = staticmethod(os.replace)
    rmdir = staticmethod(os.rmdir)
    sleep = staticmethod(time.sleep)
    stat = staticmethod(os.stat)
    strerror = staticmethod(os.strerror)
    symlink = staticmethod(os.symlink)
    time_ns = staticmethod(time.time_ns)
    unlink = staticmethod(os.unlink)
    utime = staticmethod(os.utime)
    write = staticmethod(os.write)
    # Last: it takes the module's name here.
    time = staticmethod(time.time)

    #: None where modes are not a descriptor's own (Windows, before Python 3.13).
    fchmod: Callable[[int, int], None] | None = (
        staticmethod(os.fchmod) if hasattr(os, "fchmod") else None
    )

    #: None where there are no uids (Windows).
    geteuid: Callable[[], int] | None = staticmethod(os.geteuid) if hasattr(os, "geteuid") else None

    #: None on Windows.
    uname: Callable[[], os.uname_result] | None = (
        staticmethod(os.uname) if hasattr(os, "uname") else None
    )

    #: Whether names can be looked up relative to the descriptors of directories.
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

    #: How a directory is opened that the user named, and that may be a link.
    to_reach: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
    #: How a directory of ours is opened.
    to_hold: Final = to_reach | getattr(os, "O_NOFOLLOW", 0)


def uname() -> tuple[str, str, str, str]:
    """Return system, host, release and machine; `platform` may start a program to find out."""
    if System.uname is not None:
        found = System.uname()
        return found.sysname, found.nodename, found.release, found.machine
    import socket  # noqa: PLC0415 -- on Windows alone

    return sys.platform, socket.gethostname(), "", os.environ.get("PROCESSOR_ARCHITECTURE", "")
