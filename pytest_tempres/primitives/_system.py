"""The functions of the operating system and the clock, captured at import.

Tests replace them (``monkeypatch``, pyfakefs, freezegun), and this package runs while they are
replaced. So it calls these captured functions while tests run and at the end of the session.
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
    _Test = Callable[[_Path], bool]
    _Scan = Callable[[str], _Entries]

__all__ = ["System", "mount_of", "uname"]


def _copies(module: object, **names: object) -> dict[str, Any]:
    """Return the globals of *module* with copies of its functions, which call one another.

    :param names: Globals to replace in the copies.
    """
    found = {**vars(module), **names}
    functions = [(name, each) for name, each in found.items() if isinstance(each, FunctionType)]
    for name, each in functions:
        copy = FunctionType(each.__code__, found, name, each.__defaults__, each.__closure__)
        copy.__kwdefaults__ = each.__kwdefaults__
        found[name] = copy
    return found


# Capturing these functions is not enough: they are written in Python and call others of `os`
# (`os.fspath`).
_path: Final = _copies(os.path, os=SimpleNamespace(**vars(os)))
_os: Final = _copies(os, path=SimpleNamespace(**_path))


class System:
    """The functions of the operating system, captured at import.

    Fakes search the namespaces of all modules for the functions that they replace; the namespace
    of a class is not searched.
    """

    # The casts select one overload: this package passes no bytes and no descriptors to these.
    abspath = staticmethod(cast("_OnText", _path["abspath"]))
    basename = staticmethod(cast("_OnText", _path["basename"]))
    dirname = staticmethod(cast("_OnText", _path["dirname"]))
    exists = staticmethod(cast("_Test", _path["exists"]))
    fsdecode = staticmethod(cast("Callable[[Any], str]", _os["fsdecode"]))
    fsencode = staticmethod(cast("Callable[[Any], bytes]", _os["fsencode"]))
    isabs = staticmethod(cast("_Test", _path["isabs"]))
    isdir = staticmethod(cast("_Test", _path["isdir"]))
    join = staticmethod(cast("Callable[..., str]", _path["join"]))
    lexists = staticmethod(cast("_Test", _path["lexists"]))
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
    # Last, since it hides the module's name in this class.
    time = staticmethod(time.time)

    #: None where it does not exist (Windows, before Python 3.13).
    fchmod: Callable[[int, int], None] | None = (
        staticmethod(os.fchmod) if hasattr(os, "fchmod") else None
    )

    #: None where files have no owners (Windows).
    fchown: Callable[[int, int, int], None] | None = (
        staticmethod(os.fchown) if hasattr(os, "fchown") else None
    )

    #: None where it does not exist (Windows, before Python 3.12).
    set_blocking: Callable[[int, bool], None] | None = (
        staticmethod(os.set_blocking) if hasattr(os, "set_blocking") else None
    )

    #: None where there are no uids (Windows).
    geteuid: Callable[[], int] | None = staticmethod(os.geteuid) if hasattr(os, "geteuid") else None

    #: None on Windows.
    uname: Callable[[], os.uname_result] | None = (
        staticmethod(os.uname) if hasattr(os, "uname") else None
    )

    #: Whether names can be looked up relative to the descriptors of directories.
    supports_dir_fd = {
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

    #: The flags to open a directory that the user chose, and that may be a link.
    directory_flags: Final = (
        os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
    )
    #: The flags to open a directory that this package has created.
    nofollow_directory_flags: Final = directory_flags | getattr(os, "O_NOFOLLOW", 0)


def uname() -> tuple[str, str, str, str]:
    """Return system, host, release and machine; unlike `platform`, start no program."""
    if System.uname is not None:
        found = System.uname()
        return found.sysname, found.nodename, found.release, found.machine
    import socket  # noqa: PLC0415 -- needed on Windows only

    return sys.platform, socket.gethostname(), "", os.environ.get("PROCESSOR_ARCHITECTURE", "")


def mount_of(descriptor: int) -> tuple[int, bytes]:
    """Return an identifier of the mount on which *descriptor* is open.

    A bind mount may have the same device as the directory around it, so on Linux the identifier has
    the id of the mount too (``proc_pid_fdinfo(5)``); if that is unknown, it is the device only.

    :raises OSError: The descriptor is not open.
    """
    device = System.fstat(descriptor).st_dev
    if sys.platform != "linux":
        return device, b""
    try:
        info = System.open(f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return device, b""
    try:
        return device, System.read(info, 1024).partition(b"mnt_id:")[2].partition(b"\n")[0]
    finally:
        System.close(info)
