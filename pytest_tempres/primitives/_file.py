"""``TemporaryFile`` and ``NamedTemporaryFile``."""

from __future__ import annotations

from _io import text_encoding  # in typeshed, io has it from 3.11 on
import io
import os
import sys
from typing import TYPE_CHECKING
from typing import Any
from typing import AnyStr
from typing import Final
from typing import overload

from pytest_tempres.primitives._create import DESCRIPTOR
from pytest_tempres.primitives._create import RAW_FILE
from pytest_tempres.primitives._create import make_file
from pytest_tempres.primitives._create import make_unnamed_file
from pytest_tempres.primitives._create import remove_if_exists
from pytest_tempres.primitives._location import OPEN_FLAGS
from pytest_tempres.primitives._location import resolve
from pytest_tempres.primitives._location import typed_as
from pytest_tempres.primitives._wrapper import TemporaryFileCloser
from pytest_tempres.primitives._wrapper import _TemporaryFileWrapper
from pytest_tempres.primitives._wrapper import close_and_keep
from pytest_tempres.primitives._wrapper import observable
from pytest_tempres.primitives._wrapper import raw_file

if TYPE_CHECKING:
    import tempfile

    from _typeshed import GenericPath
    from _typeshed import OpenBinaryMode
    from _typeshed import OpenTextMode

__all__ = [
    "NamedTemporaryFile",
    "TemporaryFile",
    "TemporaryFileCloser",
    "close_and_keep",
]

# Captured at import, since tests replace the builtin.
_open: Final = io.open
# With these arguments the file object is created without open, which calls isatty for each file.
_DEFAULT: Final = ("w+b", -1, None, None, None)
_HAS_UNNAMED_FILES: Final = os.name == "posix" and sys.platform != "cygwin"


@overload
def NamedTemporaryFile(
    mode: OpenTextMode,
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: AnyStr | None = None,
    prefix: AnyStr | None = None,
    dir: GenericPath[AnyStr] | None = None,
    delete: bool = True,
    *,
    errors: str | None = None,
    delete_on_close: bool = True,
) -> _TemporaryFileWrapper[str]: ...
@overload
def NamedTemporaryFile(
    mode: OpenBinaryMode = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: AnyStr | None = None,
    prefix: AnyStr | None = None,
    dir: GenericPath[AnyStr] | None = None,
    delete: bool = True,
    *,
    errors: str | None = None,
    delete_on_close: bool = True,
) -> _TemporaryFileWrapper[bytes]: ...
@overload
def NamedTemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: AnyStr | None = None,
    prefix: AnyStr | None = None,
    dir: GenericPath[AnyStr] | None = None,
    delete: bool = True,
    *,
    errors: str | None = None,
    delete_on_close: bool = True,
) -> _TemporaryFileWrapper[Any]: ...
def NamedTemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: Any = None,
    prefix: Any = None,
    dir: Any = None,
    delete: bool = True,
    *,
    errors: str | None = None,
    delete_on_close: bool = True,
) -> Any:
    """Create and open a file that has a name and is removed when it is closed.

    :param mode: That of ``open``; so are *buffering*, *encoding*, *newline* and *errors*.
    :param suffix: The end of its name, ``str`` or ``bytes``; nothing if not given.
    :param prefix: The start of its name; ``tmp`` if not given.
    :param dir: The directory to create it in; the temp location if not given.
    :param delete: Whether it is removed automatically; may be changed later.
    :param delete_on_close: If not, it is removed at the end of its context, or when the object
        is collected, instead of on close.
    :returns: A file-like object whose ``name`` is the path and whose ``file`` the file itself.
    :raises OSError: It can't be created; the error names the path.

    A file that is collected while it is open is closed with a ``ResourceWarning`` (gh-126639). A
    process that a signal kills leaves the file behind.
    """
    prefix, suffix, dir = resolve(prefix, suffix, dir)
    if "b" not in mode:
        encoding = text_encoding(encoding)
    opening = (mode, buffering, encoding, errors, newline)
    return _open_named(opening, dir, prefix, suffix, delete, delete_on_close)


@typed_as(lambda: tempfile.TemporaryFile)
def TemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: Any = None,
    prefix: Any = None,
    dir: Any = None,
    *,
    errors: str | None = None,
) -> Any:
    """Create and open a file that has no name and ceases to exist when it is closed.

    :param mode: That of ``open``; so are *buffering*, *encoding*, *newline* and *errors*.
    :param suffix: The end of the name that the file has for a moment where the system can't create
        a file without one; *prefix* is its start, and *dir* its directory.
    :returns: An ordinary file object; on Windows that of :func:`NamedTemporaryFile`.
    :raises OSError: It can't be created; the error names the path.
    """
    if "b" not in mode:
        encoding = text_encoding(encoding)
    prefix, suffix, dir = resolve(prefix, suffix, dir)

    opening = (mode, buffering, encoding, errors, newline)
    if opening == _DEFAULT:
        return io.BufferedRandom(make_unnamed_file(RAW_FILE, dir, prefix, suffix))

    def create(*_: object) -> int:
        descriptor: int = make_unnamed_file(DESCRIPTOR, dir, prefix, suffix)
        return descriptor

    file = _open(dir, *opening, opener=create)
    raw_file(file).name = file.fileno()
    return file


if not _HAS_UNNAMED_FILES:
    TemporaryFile = NamedTemporaryFile  # type: ignore[assignment]


def _open_named(
    opening: tuple[Any, ...],
    parent: Any,
    prefix: Any,
    suffix: Any,
    delete: bool,
    delete_on_close: bool,
) -> _TemporaryFileWrapper[Any]:
    flags = _named_flags(delete=delete and delete_on_close)
    path: Any = None
    file: Any = None

    def create(*_: object) -> int:
        nonlocal path
        descriptor: int
        descriptor, path = make_file(DESCRIPTOR, parent, prefix, suffix, flags)
        return descriptor

    try:
        if opening == _DEFAULT:
            file, path = make_file(RAW_FILE, parent, prefix, suffix, flags)
            file = io.BufferedRandom(file)
        else:
            file = observable(_open(parent, *opening, opener=create))  # type: ignore[call-overload]
        raw_file(file).name = path
        # The attributes of the file are added at run time.
        return _TemporaryFileWrapper(file, path, delete, delete_on_close)  # type: ignore[abstract]
    except BaseException:
        if file is not None:
            file.close()
        if path is not None:
            remove_if_exists(path)
        raise


def _named_flags(*, delete: bool) -> int:
    # With O_TEMPORARY, Windows removes the file even if the process is killed.
    return OPEN_FLAGS | getattr(os, "O_TEMPORARY", 0) if delete else OPEN_FLAGS
