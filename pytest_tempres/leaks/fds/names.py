"""The open descriptors of this process, and their descriptions."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import errno
import os
import re
import socket
import stat
import sys
from typing import Any
from typing import Final
from typing import NamedTuple

from pytest_tempres.primitives._system import System

__all__ = [
    "DELETED",
    "TABLE",
    "Description",
    "describe",
    "identities",
    "identity",
    "mode",
    "target",
]

# Captured because tests replace these functions.
_Socket = socket.SocketType
_sysconf: Final[Callable[[str], int]] = getattr(os, "sysconf", lambda _: 0)

if sys.platform == "win32":

    def mode(number: int) -> int:  # noqa: ARG001 -- the signature for POSIX
        """Return 0: descriptors are not checked on Windows."""
        return 0

    def _restore(number: int, flags: int) -> None:
        """Do nothing, as above."""

else:
    import fcntl

    _fcntl = fcntl.fcntl

    def mode(number: int) -> int:
        """Return the status flags of *number* (see fcntl(2))."""
        try:
            return _fcntl(number, fcntl.F_GETFL)
        except OSError:
            return 0

    def _restore(number: int, flags: int) -> None:
        if mode(number) != flags:
            _fcntl(number, fcntl.F_SETFL, flags)


#: Device, inode and type; the kernel's name instead of the type for descriptors without one,
#: which share one inode.
Identity = tuple[int, int, "int | str"]

#: The directory that lists the descriptors of this process.
TABLE: Final = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
#: Capturing and redirection of output replace these temporarily.
_STANDARD: Final = frozenset({0, 1, 2})
#: How many descriptors are probed at most, for a limit of "unlimited".
_MAX_PROBED: Final = 65_536
#: What Linux appends to the path of a deleted file.
DELETED: Final = " (deleted)"
_ANONYMOUS: Final = re.compile(r"anon_inode:\[?([^\]]*)\]?")
_MEMORY: Final = "/memfd:"
_PROTOCOLS: Final[dict[int, str]] = {socket.SOCK_STREAM: "TCP", socket.SOCK_DGRAM: "UDP"}
_ACCESS: Final = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


class Description(NamedTuple):
    """The description of a descriptor's target."""

    #: Kind and path, as a report shows them.
    text: str
    #: The path alone, or the description if there is none: patterns are matched against it.
    target: str
    #: The size of an unlinked file that only descriptors keep alive, in bytes.
    size: int = 0
    connected: bool = False


def identities(known: Iterable[int]) -> dict[int, Identity] | None:
    """Return the identity of every open descriptor but the standard ones; None if unknown.

    :param known: Numbers to try too if no descriptor is left for a listing.
    """
    try:
        numbers = {int(name) for name in System.listdir(TABLE)}
    except OSError as error:
        if error.errno != errno.EMFILE:
            return None
        # A listing needs a descriptor. If none is left, all below the limit are open.
        numbers = {*known, *range(min(_sysconf("SC_OPEN_MAX"), _MAX_PROBED))}
    # The descriptor of the listing itself is closed by now.
    found = ((number, identity(number)) for number in numbers - _STANDARD)
    return {number: each for number, each in found if each is not None}


def identity(number: int) -> Identity | None:
    """Return what distinguishes the descriptor *number* from a later one; None if it is closed."""
    try:
        status = System.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode) or target(number)


def target(number: int) -> str:
    """Return the target of *number* according to the kernel: a path, or a name like pipe:[1]."""
    try:
        if sys.platform == "darwin":
            found = _fcntl(number, fcntl.F_GETPATH, bytes(1024))
            return System.fsdecode(found.rstrip(b"\0"))
        return System.readlink(f"{TABLE}/{number}")
    except OSError:
        return ""


def describe(number: int) -> Description | None:
    """Return the description of *number*, or None if it is closed.

    For a socket this duplicates the descriptor for a moment.
    """
    try:
        status = System.fstat(number)
    except OSError:
        return None
    path = target(number)
    if stat.S_ISSOCK(status.st_mode):
        return _socket(number)
    if path.startswith(_MEMORY):
        name = path.removeprefix(_MEMORY).removesuffix(DELETED)
        return Description(f"memfd {name}", f"memfd {name}", status.st_size)
    if System.isabs(path):
        return _named(number, status, path)
    text = _unnamed(number, status, path)
    return Description(text, text)


def _named(number: int, status: os.stat_result, path: str) -> Description:
    gone = path.endswith(DELETED) and not System.lexists(path)
    path = path.removesuffix(DELETED) if gone else path
    if not stat.S_ISREG(status.st_mode):
        kind = _kind(number, status.st_mode)
        return Description(f"{'deleted ' if gone else ''}{kind} {path}", path)
    if not gone and status.st_nlink:
        return Description(path, path)
    directory, name = System.split(path)
    # The name that the kernel shows for a file opened with O_TMPFILE.
    unnamed = name == f"#{status.st_ino}"
    text = f"unnamed file in {directory}" if unnamed else f"unlinked file {path}"
    return Description(text, path, status.st_size)


def _kind(number: int, bits: int) -> str:
    if stat.S_ISCHR(bits):
        return "terminal" if System.isatty(number) else "character device"
    kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "fifo", stat.S_IFBLK: "block device"}
    return kinds.get(stat.S_IFMT(bits), "special file")


def _unnamed(number: int, status: os.stat_result, name: str) -> str:
    if stat.S_ISFIFO(status.st_mode):
        end = {os.O_RDONLY: "read end of a ", os.O_WRONLY: "write end of a "}
        return f"{end.get(mode(number) & _ACCESS, '')}pipe"
    if stat.S_ISREG(status.st_mode) and not name:
        return "unlinked file"
    anonymous = _ANONYMOUS.fullmatch(name)
    if anonymous is None:
        return name or "unknown descriptor"
    return anonymous[1].replace("eventpoll", "epoll")


def _socket(number: int) -> Description:
    before = mode(number)
    try:
        # A duplicate, because closing this object must not close *number*.
        copy = _Socket(fileno=System.dup(number))
    except OSError:
        return Description("socket", "socket")
    try:
        return _describe_socket(copy)
    finally:
        copy.close()
        # With a default timeout a new socket object makes the shared description non-blocking.
        _restore(number, before)


def _describe_socket(sock: socket.SocketType) -> Description:
    text = f"{_protocol(sock.family, sock.type)} socket"
    local, peer = _address(sock.getsockname), _address(sock.getpeername)
    if local:
        text += f" {local}"
    if peer:
        text += f" to {peer}"
    elif _is_listening(sock):
        text += ", listening"
    return Description(text, text, connected=bool(peer))


def _protocol(family: int, kind: int) -> str:
    if family == getattr(socket, "AF_UNIX", None):
        return "Unix"
    if family in {socket.AF_INET, socket.AF_INET6}:
        return _PROTOCOLS.get(kind, "raw")
    try:
        return socket.AddressFamily(family).name
    except ValueError:
        return f"family {family}"


def _is_listening(sock: socket.SocketType) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        # Not every address family has the option.
        return False


def _address(get: Callable[[], Any]) -> str:
    """Return the address of one end of a socket; an empty string if it has none."""
    try:
        found = get()
    except (OSError, ValueError):
        return ""
    if isinstance(found, bytes):
        # Names in Linux's abstract socket namespace begin with NUL.
        return "@" + System.fsdecode(found).strip("\0") if found else ""
    if isinstance(found, tuple) and len(found) >= 2 and isinstance(found[0], str):
        host, port = found[:2]
        host = f"[{host}]" if ":" in host else host
        return f"{host}:{port}" if port else ""
    return found if isinstance(found, str) else ""
