"""How does a temporary file or directory come into being?"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import lru_cache
from os import PathLike
from os import fspath
from os.path import abspath
from os.path import join
from sys import audit
from typing import Any
from typing import Final
from typing import NamedTuple
from typing import TypeVar
from typing import overload

from pytest_tempres.primitives._location import OPEN_FLAGS
from pytest_tempres.primitives._location import SETTINGS
from pytest_tempres.primitives._location import gettempdir
from pytest_tempres.primitives._location import resolve
from pytest_tempres.primitives._location import taken_on_windows
from pytest_tempres.primitives._names import random_name

__all__ = ["TMP_MAX", "make_directory", "make_file", "mkdtemp", "mkstemp", "mktemp"]

P = TypeVar("P", str, bytes)

TMP_MAX: Final[int] = getattr(os, "TMP_MAX", 10_000)

_TEXT_FLAGS: Final = OPEN_FLAGS & ~getattr(os, "O_BINARY", 0)

# A Windows directory that an ACL closes looks writable, so a denial there can't be told from a
# name that is taken. Names collide once in 10**12: so many denials in a row are denials (gh-66305).
_DENIALS_TO_BEAR: Final = 20


@overload
def mkstemp(
    suffix: str | None = None,
    prefix: str | None = None,
    dir: str | PathLike[str] | None = None,
    text: bool = False,
) -> tuple[int, str]: ...
@overload
def mkstemp(
    suffix: bytes | None = None,
    prefix: bytes | None = None,
    dir: bytes | PathLike[bytes] | None = None,
    text: bool = False,
) -> tuple[int, bytes]: ...
def mkstemp(suffix: Any = None, prefix: Any = None, dir: Any = None, text: bool = False) -> Any:
    """Create a file that only its creator can read and write.

    :param suffix: The end of its name, ``str`` or ``bytes``; nothing if not given.
    :param prefix: The start of its name; ``tmp`` if not given.
    :param dir: The directory to make it in; :func:`gettempdir` if not given.
    :param text: On Windows, translate line ends on the descriptor; no difference elsewhere.
    :returns: The descriptor, which children do not inherit, and the absolute path.
    :raises OSError: It can't be made; the error names the path.
    :raises TypeError: ``str`` and ``bytes`` are mixed.

    The caller closes the descriptor and removes the file.
    """
    prefix, suffix, dir = resolve(prefix, suffix, dir)
    return make_file(dir, prefix, suffix, _TEXT_FLAGS if text else OPEN_FLAGS)


@overload
def mkdtemp(
    suffix: str | None = None,
    prefix: str | None = None,
    dir: str | PathLike[str] | None = None,
) -> str: ...
@overload
def mkdtemp(
    suffix: bytes | None = None,
    prefix: bytes | None = None,
    dir: bytes | PathLike[bytes] | None = None,
) -> bytes: ...
def mkdtemp(suffix: Any = None, prefix: Any = None, dir: Any = None) -> Any:
    """Create a directory that only its creator can enter.

    :param suffix: The end of its name, ``str`` or ``bytes``; nothing if not given.
    :param prefix: The start of its name; ``tmp`` if not given.
    :param dir: The directory to make it in; :func:`gettempdir` if not given.
    :returns: The absolute path.
    :raises OSError: It can't be made; the error names the path.
    :raises TypeError: ``str`` and ``bytes`` are mixed.

    The caller removes the directory.
    """
    prefix, suffix, dir = resolve(prefix, suffix, dir)
    path = make_directory(dir, prefix, suffix)
    if _is_plain(dir) and "/" not in prefix and "/" not in suffix:
        return path
    return abspath(path)


def mktemp(
    suffix: str = "", prefix: str = "tmp", dir: str | PathLike[str] | None = None
) -> str:
    """Return a path at which nothing exists at this moment, and create nothing.

    Unsafe: before the caller uses the path, somebody else may. :func:`mkstemp` is the cure.

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
    """Create a directory of mode 0700 in *parent*, with all arguments given.

    :param parent: Taken as it is: the path returned is absolute only if this is.
    :param prefix: The start of the name.
    :param suffix: The end of the name.
    :returns: The path.
    :raises OSError: It can't be made; the error names the path.
    """
    return _create(_DIRECTORY, ((0o700,),), parent, prefix, suffix)[1]


def make_file(
    parent: P | PathLike[P], prefix: P, suffix: P, flags: int = OPEN_FLAGS
) -> tuple[int, P]:
    """Create and open a file of mode 0600 in *parent*, with all arguments given.

    :param parent: Made absolute.
    :param prefix: The start of the name.
    :param suffix: The end of the name.
    :param flags: Those of ``os.open``.
    :returns: The descriptor, which children do not inherit, and the absolute path.
    :raises OSError: It can't be made; the error names the path.
    """
    where = parent if _is_plain(parent) else abspath(parent)
    return _create(_FILE, ((flags,), (0o600,)), where, prefix, suffix)


class _Kind(NamedTuple):
    """What can be created: the word for it, its audit event, how to make and how to undo it."""

    noun: str
    event: str
    make: Callable[..., Any]
    undo: Callable[[Any, Any], None]


def _undo_directory(_: None, path: str | bytes) -> None:
    os.rmdir(path)


def _undo_file(descriptor: int, path: str | bytes) -> None:
    os.close(descriptor)
    os.unlink(path)


_DIRECTORY: Final = _Kind("directory", "tempfile.mkdtemp", os.mkdir, _undo_directory)
_FILE: Final = _Kind("file", "tempfile.mkstemp", os.open, _undo_file)


def _create(
    kind: _Kind,
    arguments: tuple[tuple[int], ...],
    parent: P | PathLike[P],
    prefix: P,
    suffix: P,
) -> tuple[Any, P]:
    start = _start(parent, prefix)
    denials = 0
    for _ in range(SETTINGS["TMP_MAX"]):
        name: Any = random_name() if isinstance(start, str) else random_name().encode()
        path = start + name + suffix
        audit(kind.event, path)
        made: list[Any] = []
        try:
            # In one step of the interpreter: a signal can't come between the creation and made.
            made.extend(map(kind.make, (path,), *arguments))
            return made[0], path
        except FileExistsError:
            continue
        except PermissionError:
            denials += 1
            if denials > _DENIALS_TO_BEAR or not taken_on_windows(parent):
                raise
        except BaseException:
            for result in made:
                kind.undo(result, path)
            raise
    message = f"No usable temporary {kind.noun} name found"
    raise FileExistsError(errno.EEXIST, message, fspath(parent))


def _start(parent: P | PathLike[P], prefix: P) -> P:
    """Return what ``os.path.join`` would, sooner where that is simple."""
    if type(prefix) is str and _is_plain(parent) and "/" not in prefix:
        return f"{parent}/{prefix}"  # type: ignore[return-value]
    return join(parent, prefix + prefix[:0])


@lru_cache(maxsize=64)
def _is_plain(directory: object) -> bool:
    """Return whether *directory* is a ``str`` and ``os.path.abspath`` of what is in it no news.

    True can't become false: a path that is its own absolute path does not depend on the working
    directory.
    """
    if type(directory) is not str or os.sep != "/":
        return False
    return abspath(directory) == directory != "/"
