"""The temp location, random names, and the choice between ``str`` and ``bytes`` paths."""

from __future__ import annotations

import errno
import os
from os import PathLike
from os import fsdecode
from os import fsencode
from os import fspath
from os import urandom
import sys
from typing import TYPE_CHECKING
from typing import Any
from typing import Final
from typing import TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence

__all__ = [
    "ALPHABET",
    "OPEN_FLAGS",
    "SETTINGS",
    "candidate_directories",
    "first_usable",
    "gettempdir",
    "gettempdirb",
    "gettempprefix",
    "gettempprefixb",
    "is_random_name",
    "path_type",
    "random_name",
    "resolve",
    "taken_on_windows",
    "typed_as",
]

ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789_"

# 37 does not divide 256, so three characters have a probability of 6 in 256 instead of 7. That
# costs 0.002 of 5.209 bits for each character, and a name takes only one call of bytes.translate.
_CHARACTERS: Final = frozenset(ALPHABET)
_CHARACTER_OF_BYTE: Final = (ALPHABET * 7)[:256].encode()


def random_name() -> str:
    """Return an unpredictable name.

    The random bytes come from the kernel at each call: there is no state that a forked child shares
    with its parent, that threads must lock or that ``random.seed`` resets.

    :returns: 8 characters of CPython's alphabet, in lower case, so that they are distinct on a file
        system that ignores case.
    """
    return urandom(8).translate(_CHARACTER_OF_BYTE).decode("ascii")


def is_random_name(text: str) -> bool:
    """Whether :func:`random_name` may have returned *text*."""
    return len(text) == 8 and set(text) <= _CHARACTERS


P = TypeVar("P", str, bytes)
_T = TypeVar("_T")


def typed_as(other: Callable[[], _T]) -> Callable[[Callable[..., Any]], _T]:
    """Give a function the type of another one, such as one of `tempfile`, with all its overloads.

    :param other: Returns that function to type checkers; never called, so the function need not be
        imported.
    """
    del other

    def unchanged(function: Any) -> _T:
        return function  # type: ignore[no-any-return]

    return unchanged


# O_NOFOLLOW: a link with the chosen name must not be followed.
OPEN_FLAGS: Final = (
    os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
)

_POSIX_DIRS: Final[tuple[str, ...]] = ("/tmp", "/var/tmp", "/usr/tmp")
_WINDOWS_DIRS: Final = (
    r"~\AppData\Local\Temp",
    r"%SYSTEMROOT%\Temp",
    r"c:\temp",
    r"c:\tmp",
    r"\temp",
    r"\tmp",
)

# Callers assign ``tempdir``, ``template`` and ``TMP_MAX`` in the package, so they are read there.
# The namespace exists already: a package is in sys.modules before its modules are.
SETTINGS: Final[dict[str, Any]] = vars(sys.modules[__name__.rpartition(".")[0]])


def candidate_directories(system: str = os.name) -> list[str]:
    """Return the candidates for the temp location, in order of preference."""
    named = [os.environ.get(variable, "") for variable in ("TMPDIR", "TEMP", "TMP")]
    usual = _POSIX_DIRS
    if system == "nt":
        usual = tuple(os.path.expandvars(os.path.expanduser(path)) for path in _WINDOWS_DIRS)
    try:
        here = os.getcwd()
    except OSError:
        here = os.curdir
    return [path for path in named if path] + [*usual, here]


def first_usable(directories: Sequence[str]) -> str:
    """Return the absolute path of the first of *directories* in which a file can be created.

    :raises FileNotFoundError: None of them is usable.
    """
    for candidate in directories:
        directory = candidate if candidate == os.curdir else os.path.abspath(candidate)
        if _is_usable(directory):
            return directory
    message = f"No usable temporary directory found in {directories}"
    raise FileNotFoundError(errno.ENOENT, message)


def taken_on_windows(parent: str | bytes, system: str = os.name) -> bool:
    """Whether a ``PermissionError`` in *parent* may mean that the name is taken (Windows)."""
    return system == "nt" and os.path.isdir(parent)


def gettempdir() -> str:
    """Return the temp location: ``tempdir``, which the first call sets if it is None.

    :raises FileNotFoundError: No candidate is usable.
    """
    return fsdecode(_temp_location())


def gettempdirb() -> bytes:
    """Return what :func:`gettempdir` returns, as ``bytes``."""
    return fsencode(_temp_location())


def gettempprefix() -> str:
    """Return the default prefix of names."""
    return fsdecode(SETTINGS["template"])


def gettempprefixb() -> bytes:
    """Return what :func:`gettempprefix` returns, as ``bytes``."""
    return fsencode(SETTINGS["template"])


def path_type(*parts: object) -> type[str | bytes]:
    """Return the type of the path that *parts* make up.

    :param parts: Prefix, suffix, directory; None is ignored, and if all are None the type of
        ``tempdir`` is used (CPython issue 40701).
    :raises TypeError: ``str`` and ``bytes`` are mixed.
    """
    found: type[str | bytes] | None = None
    for part in parts:
        if part is None:
            continue
        kind = str if type(part) is str else _type_of_part(part)
        if found not in (None, kind):
            raise TypeError("Can't mix bytes and non-bytes in path components.")
        found = kind
    if found is None:
        location = SETTINGS.get("tempdir")
        found = str if location is None or isinstance(location, str) else bytes
    return found


def resolve(
    prefix: P | None, suffix: P | None, directory: P | PathLike[P] | None
) -> tuple[P, P, P | PathLike[P]]:
    """Return *prefix*, *suffix* and *directory* with the defaults filled in.

    :raises TypeError: ``str`` and ``bytes`` are mixed.
    """
    resolved: Any
    location, template = SETTINGS.get("tempdir"), SETTINGS["template"]
    if prefix is suffix is directory is None and type(location) is type(template) is str:
        resolved = (template, "", location)
    elif path_type(prefix, suffix, directory) is str:
        resolved = (
            gettempprefix() if prefix is None else prefix,
            "" if suffix is None else suffix,
            gettempdir() if directory is None else directory,
        )
    else:
        resolved = (
            gettempprefixb() if prefix is None else prefix,
            b"" if suffix is None else suffix,
            gettempdirb() if directory is None else directory,
        )
    return resolved  # type: ignore[no-any-return]


def _type_of_part(part: object) -> type[str | bytes]:
    if isinstance(part, PathLike):
        part = fspath(part)
    return bytes if isinstance(part, bytes) else str


def _temp_location() -> Any:
    location = SETTINGS.get("tempdir")
    if location is None:
        location = SETTINGS["tempdir"] = first_usable(candidate_directories())
    return location


def _is_usable(directory: str) -> bool:
    for _ in range(SETTINGS["TMP_MAX"]):
        probe = os.path.join(directory, random_name())
        try:
            _write_and_remove(probe)
        except FileExistsError:
            continue
        except PermissionError:
            if taken_on_windows(directory):
                continue
            return False
        except OSError:
            return False
        return True
    return False


def _write_and_remove(path: str) -> None:
    descriptor = os.open(path, OPEN_FLAGS, 0o600)
    try:
        try:
            os.write(descriptor, b"blat")
        finally:
            os.close(descriptor)
    finally:
        os.unlink(path)
