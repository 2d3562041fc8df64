"""The creation of temporary files and directories: ``mkstemp``, ``mkdtemp`` and ``mktemp``."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import errno
from functools import lru_cache
from io import FileIO
import os
from os import PathLike
from os import fspath
from os.path import abspath
from os.path import join
from sys import audit
from typing import TYPE_CHECKING
from typing import Any
from typing import Final
from typing import NamedTuple
from typing import TypeVar

from pytest_tempres.primitives._location import OPEN_FLAGS
from pytest_tempres.primitives._location import SETTINGS
from pytest_tempres.primitives._location import gettempdir
from pytest_tempres.primitives._location import random_name
from pytest_tempres.primitives._location import resolve
from pytest_tempres.primitives._location import taken_on_windows
from pytest_tempres.primitives._location import typed_as
from pytest_tempres.primitives._process import after_fork_in_child
from pytest_tempres.primitives._windows import private_mkdir

if TYPE_CHECKING:
    import tempfile

__all__ = [
    "DESCRIPTOR",
    "RAW_FILE",
    "TMP_MAX",
    "current_process",
    "make_directory",
    "make_file",
    "make_unnamed_file",
    "mkdtemp",
    "mkstemp",
    "mktemp",
    "remove_if_exists",
]

P = TypeVar("P", str, bytes)

# A name is one of 3 * 10**12: among a million files, 20 names are all taken once in 10**120 calls.
# On Windows a denial may also mean that a name is taken, so that this is how many names are tried
# in a directory that is not writable (gh-66305).
TMP_MAX: Final[int] = 20

_TEXT_FLAGS: Final = OPEN_FLAGS & ~getattr(os, "O_BINARY", 0)

# No O_NOFOLLOW: with O_TMPFILE the path is the parent directory, which may be a link. No O_EXCL,
# with which linkat could not give the file a name.
_UNNAMED_FLAGS: Final[int] = os.O_TMPFILE | os.O_RDWR if hasattr(os, "O_TMPFILE") else 0


@typed_as(lambda: tempfile.mkstemp)
def mkstemp(suffix: Any = None, prefix: Any = None, dir: Any = None, text: bool = False) -> Any:
    """Create a file that only its creator can read and write.

    :param suffix: The end of its name, ``str`` or ``bytes``; nothing if not given.
    :param prefix: The start of its name; ``tmp`` if not given.
    :param dir: The directory to create it in; :func:`gettempdir` if not given.
    :param text: On Windows, translate line ends on the descriptor; no difference elsewhere.
    :returns: The descriptor, which children do not inherit, and the absolute path.
    :raises OSError: It can't be created; the error names the path.
    :raises TypeError: ``str`` and ``bytes`` are mixed.

    The caller closes the descriptor and removes the file.
    """
    prefix, suffix, dir = resolve(prefix, suffix, dir)
    return make_file(DESCRIPTOR, dir, prefix, suffix, _TEXT_FLAGS if text else OPEN_FLAGS)


@typed_as(lambda: tempfile.mkdtemp)
def mkdtemp(suffix: Any = None, prefix: Any = None, dir: Any = None) -> Any:
    """Create a directory that only its creator can enter.

    :param suffix: The end of its name, ``str`` or ``bytes``; nothing if not given.
    :param prefix: The start of its name; ``tmp`` if not given.
    :param dir: The directory to create it in; :func:`gettempdir` if not given.
    :returns: The absolute path.
    :raises OSError: It can't be created; the error names the path.
    :raises TypeError: ``str`` and ``bytes`` are mixed.

    The caller removes the directory.
    """
    prefix, suffix, dir = resolve(prefix, suffix, dir)
    path = make_directory(dir, prefix, suffix)
    if _is_plain(dir) and "/" not in prefix and "/" not in suffix:
        return path
    return abspath(path)


def mktemp(suffix: str = "", prefix: str = "tmp", dir: str | PathLike[str] | None = None) -> str:
    """Return a path that does not exist at this moment; create nothing.

    Unsafe: another process may create the path before the caller does. Use :func:`mkstemp` instead.

    :param suffix: The end of the name.
    :param prefix: The start of the name.
    :param dir: The directory part; :func:`gettempdir` if not given.
    :raises FileExistsError: ``TMP_MAX`` names were all taken.
    """
    parent = gettempdir() if dir is None else dir
    for _ in range(SETTINGS["TMP_MAX"]):
        path = join(parent, prefix + random_name() + suffix)
        if not os.path.lexists(path):
            return path
    raise FileExistsError(errno.EEXIST, "No usable temporary filename found", fspath(parent))


def make_directory(parent: P | PathLike[P], prefix: P, suffix: P) -> P:
    """Create a directory of mode 0700 in *parent* and return its path.

    :param parent: Used unchanged: the path returned is absolute only if this is.
    :raises OSError: It can't be created; the error names the path.
    """
    return _create(_DIRECTORY, (), parent, prefix, suffix)[1]


def make_file(
    kind: Kind, parent: P | PathLike[P], prefix: P, suffix: P, flags: int = OPEN_FLAGS
) -> tuple[Any, P]:
    """Create and open a file of mode 0600 in *parent*.

    :param kind: ``DESCRIPTOR`` or ``RAW_FILE``.
    :param flags: Those of ``os.open``.
    :returns: The open file, which children do not inherit, and its absolute path.
    :raises OSError: It can't be created; the error names the path.
    """
    where: Any = parent
    if not _is_plain(where):
        where = abspath(where)
    return _create(kind, (flags,), where, prefix, suffix)


def make_unnamed_file(kind: Kind, parent: P | PathLike[P], prefix: P, suffix: P) -> Any:
    """Create and open a file that has no name; the arguments are those of :func:`make_file`.

    Where the system or the file system can't create one, the file has a name for a moment.
    """
    created: list[Any] = []
    try:
        if _UNNAMED_FLAGS:
            created.extend(kind.make(parent, _UNNAMED_FLAGS))
            return created[0]
    except OSError:
        # If the directory is unusable, make_file fails too, and its error names the path.
        pass
    except BaseException:
        _discard(kind, created)
        raise
    file, path = make_file(kind, parent, prefix, suffix)
    try:
        os.unlink(path)
    except BaseException:
        _discard(kind, [file], path)
        raise
    return file


_PROCESS: Final = [object()]


def current_process(marker: list[object] = _PROCESS) -> object:
    """Return an object that identifies this process: a forked child gets a new one."""
    # A default, since at interpreter exit the globals may be gone before the last file is.
    return marker[0]


def _renew_marker() -> None:
    _PROCESS[0] = object()


after_fork_in_child(_renew_marker)


def remove_if_exists(path: str | bytes) -> None:
    """Remove the file *path* if it exists (on Windows, the system may have removed it)."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


class Kind(NamedTuple):
    """A kind of path, with the functions that create, close and remove it.

    ``make`` returns an iterator that yields one result and that only C code runs. So no Python
    signal handler can run before the result is in a list, from which it is discarded on an error.
    """

    noun: str
    event: str
    make: Callable[..., Iterator[Any]]
    close: Callable[[Any], None]
    remove: Callable[[Any], None]


_mkdir: Final = private_mkdir()
_DIRECTORY: Final = Kind(
    "directory",
    "tempfile.mkdtemp",
    lambda path: map(_mkdir, (path,), (0o700,)),
    lambda _: None,
    os.rmdir,
)
DESCRIPTOR: Final = Kind(
    "file",
    "tempfile.mkstemp",
    lambda path, flags: map(os.open, (path,), (flags,), (0o600,)),
    os.close,
    remove_if_exists,
)
RAW_FILE: Final = DESCRIPTOR._replace(
    make=lambda path, flags: map(FileIO, DESCRIPTOR.make(path, flags), ("w+",)),
    close=FileIO.close,
)


def _create(
    kind: Kind, arguments: tuple[int, ...], parent: P | PathLike[P], prefix: P, suffix: P
) -> tuple[Any, P]:
    start = _join_prefix(parent, prefix)
    last = SETTINGS["TMP_MAX"] - 1
    for number in range(last + 1):
        name: Any = random_name()
        if type(start) is bytes:
            name = name.encode()
        path = start + name + suffix
        audit(kind.event, path)
        created: list[Any] = []
        try:
            created.extend(kind.make(path, *arguments))
            return created[0], path
        except FileExistsError:
            continue
        except PermissionError:
            if number == last or not taken_on_windows(fspath(parent)):
                raise
        except BaseException:
            _discard(kind, created, path)
            raise
    message = f"No usable temporary {kind.noun} name found"
    raise FileExistsError(errno.EEXIST, message, fspath(parent))


def _discard(kind: Kind, created: list[Any], path: str | bytes | None = None) -> None:
    for result in created:
        kind.close(result)
        if path is not None:
            kind.remove(path)


def _join_prefix(parent: Any, prefix: P) -> P:
    """Return ``os.path.join(parent, prefix)``, faster for simple paths."""
    if type(prefix) is str and _is_plain(parent) and "/" not in prefix:
        return f"{parent}/{prefix}"
    # The slice raises TypeError for a PathLike, as CPython does; join would accept it.
    return join(parent, prefix + prefix[:0])


@lru_cache(maxsize=64)
def _is_plain(directory: Any) -> bool:
    """Return whether *directory* is a ``str`` that ``os.path.abspath`` does not change.

    The cache is safe: such a path does not depend on the working directory.
    """
    if type(directory) is not str or os.sep != "/":
        return False
    return abspath(directory) == directory != "/"
