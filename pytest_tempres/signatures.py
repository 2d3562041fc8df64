"""The signatures of the factory's methods: files of ``str`` or ``bytes``, by mode.

Only type checkers import this module.
"""

from __future__ import annotations

from typing import IO
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol
from typing import TypedDict
from typing import overload

if TYPE_CHECKING:
    from os import PathLike

    from _typeshed import OpenBinaryMode
    from _typeshed import OpenTextMode
    from typing_extensions import Unpack

    from pytest_tempres.primitives import SpooledTemporaryFile
    from pytest_tempres.primitives._wrapper import TemporaryFileWrapper

__all__ = ["FileMethods"]


class _Options(TypedDict, total=False):
    buffering: int
    encoding: str | None
    newline: str | None
    suffix: str | None
    prefix: str | None
    dir: str | PathLike[str] | None
    errors: str | None


class _NamedOptions(_Options, total=False):
    delete: bool
    delete_on_close: bool


class _SpooledOptions(_Options, total=False):
    max_size: int


class FileMethods(Protocol):
    """The methods that open a file.

    ``self`` is an object, so that each signature is also that of the method of another class.
    """

    @overload
    def file(
        self: object, *, mode: OpenTextMode, content: str | None = None, **options: Unpack[_Options]
    ) -> IO[str]: ...
    @overload
    def file(
        self: object,
        *,
        mode: OpenBinaryMode = "w+b",
        content: bytes | None = None,
        **options: Unpack[_Options],
    ) -> IO[bytes]: ...
    @overload
    def file(
        self: object, *, mode: str, content: str | bytes | None = None, **options: Unpack[_Options]
    ) -> IO[Any]: ...

    @overload
    def named_file(
        self: object,
        *,
        mode: OpenTextMode,
        content: str | None = None,
        **options: Unpack[_NamedOptions],
    ) -> TemporaryFileWrapper[str]: ...
    @overload
    def named_file(
        self: object,
        *,
        mode: OpenBinaryMode = "w+b",
        content: bytes | None = None,
        **options: Unpack[_NamedOptions],
    ) -> TemporaryFileWrapper[bytes]: ...
    @overload
    def named_file(
        self: object,
        *,
        mode: str,
        content: str | bytes | None = None,
        **options: Unpack[_NamedOptions],
    ) -> TemporaryFileWrapper[Any]: ...

    @overload
    def spooled(
        self: object,
        *,
        mode: OpenTextMode,
        content: str | None = None,
        **options: Unpack[_SpooledOptions],
    ) -> SpooledTemporaryFile[str]: ...
    @overload
    def spooled(
        self: object,
        *,
        mode: OpenBinaryMode = "w+b",
        content: bytes | None = None,
        **options: Unpack[_SpooledOptions],
    ) -> SpooledTemporaryFile[bytes]: ...
    @overload
    def spooled(
        self: object,
        *,
        mode: str,
        content: str | bytes | None = None,
        **options: Unpack[_SpooledOptions],
    ) -> SpooledTemporaryFile[Any]: ...
