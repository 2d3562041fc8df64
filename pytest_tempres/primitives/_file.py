"""How does a temporary file get opened, without and with a name?"""

from __future__ import annotations

import io
import os
import sys
from typing import IO
from typing import TYPE_CHECKING
from typing import Any
from typing import AnyStr
from typing import Final
from typing import Literal
from typing import overload

from pytest_tempres.primitives._create import make_file
from pytest_tempres.primitives._location import OPEN_FLAGS
from pytest_tempres.primitives._location import resolve
from pytest_tempres.primitives._wrapper import TemporaryFileCloser
from pytest_tempres.primitives._wrapper import _TemporaryFileWrapper
from pytest_tempres.primitives._wrapper import close_and_keep
from pytest_tempres.primitives._wrapper import quiet
from pytest_tempres.primitives._wrapper import raw_file

if TYPE_CHECKING:
    from _typeshed import GenericPath
    from _typeshed import OpenBinaryMode
    from _typeshed import OpenBinaryModeReading
    from _typeshed import OpenBinaryModeUpdating
    from _typeshed import OpenBinaryModeWriting
    from _typeshed import OpenTextMode

__all__ = [
    "NamedTemporaryFile",
    "TemporaryFile",
    "TemporaryFileCloser",
    "close_and_keep",
]

_HAS_UNNAMED_FILES: Final = os.name == "posix" and sys.platform != "cygwin"
_UNNAMED_FLAGS: Final = (OPEN_FLAGS | getattr(os, "O_TMPFILE", 0)) & ~os.O_CREAT


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
    :param dir: The directory to make it in; the temp location if not given.
    :param delete: Whether it is removed by itself; may be changed later.
    :param delete_on_close: If not, it is removed at the end of its context, or when the object
        goes, instead of on close.
    :returns: A file-like object whose ``name`` is the path and whose ``file`` the file itself.
    :raises OSError: It can't be made; the error names the path.

    A ``ResourceWarning`` says so if it had to be closed for want of a reference (gh-126639). A
    process killed by a signal leaves it behind.
    """
    if "b" not in mode:
        encoding = io.text_encoding(encoding)
    prefix, suffix, dir = resolve(prefix, suffix, dir)
    flags = OPEN_FLAGS
    if os.name == "nt" and delete and delete_on_close:
        flags |= os.O_TEMPORARY
    made: list[Any] = []
    try:
        file = _open(mode, buffering, encoding, newline, errors, dir, opener)
        file = quiet(file)
        raw_file(file).name = made[0]
        return _TemporaryFileWrapper(file, made[0], delete, delete_on_close)
    except BaseException:
        if made: os.unlink(made[0])
        raise
