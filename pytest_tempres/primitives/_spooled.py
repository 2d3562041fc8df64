"""``SpooledTemporaryFile``, a file that is kept in memory while it is small."""

from __future__ import annotations

from _io import text_encoding  # in typeshed, io has it from 3.11 on
import io
from types import GenericAlias
from typing import IO
from typing import TYPE_CHECKING
from typing import Any
from typing import AnyStr
from typing import overload
import warnings

from pytest_tempres.primitives._file import TemporaryFile
from pytest_tempres.primitives._wrapper import call_if_unclosed
from pytest_tempres.primitives._wrapper import observable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Iterator
    from types import TracebackType

    from _typeshed import OpenBinaryMode
    from _typeshed import OpenTextMode
    from typing_extensions import Self

    class _FileBase(IO[AnyStr], io.IOBase):  # type: ignore[misc]
        """The base class for type checkers."""

        def __iter__(self) -> Iterator[AnyStr]: ...  # type: ignore[override]
        def __next__(self) -> AnyStr: ...  # type: ignore[override]
else:
    # At run time the base is only io.IOBase: the dict makes `_FileBase[AnyStr]` return it.
    _FileBase = {AnyStr: io.IOBase}

__all__ = ["SpooledTemporaryFile"]


class SpooledTemporaryFile(_FileBase[AnyStr]):
    """A temporary file that is kept in memory until it grows or the caller needs a descriptor.

    :param max_size: How many bytes may stay in memory; with 0, any number.
    :param mode: That of ``open``; so are *buffering*, *encoding*, *newline* and *errors*.
    :param suffix: As for :func:`TemporaryFile`; so are *prefix* and *dir*.

    ``_rolled`` is whether the contents are on disk, and ``_file`` is the file with the contents. If
    a rollover fails, they are still in memory, complete. Iteration continues in the file on disk
    after a rollover (gh-87034).
    """

    # The method `write` of the file on disk, used by _RolledTemporaryFile.
    __slots__ = ("_write_on_disk",)

    _file: IO[AnyStr] = None  # type: ignore[assignment]
    _rolled = False

    @overload
    def __init__(
        self: SpooledTemporaryFile[bytes],
        max_size: int = 0,
        mode: OpenBinaryMode = "w+b",
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: str | None = None,
        prefix: str | None = None,
        dir: str | None = None,
        *,
        errors: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: SpooledTemporaryFile[str],
        max_size: int,
        mode: OpenTextMode,
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: str | None = None,
        prefix: str | None = None,
        dir: str | None = None,
        *,
        errors: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: SpooledTemporaryFile[str],
        max_size: int = 0,
        *,
        mode: OpenTextMode,
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: str | None = None,
        prefix: str | None = None,
        dir: str | None = None,
        errors: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_size: int = 0,
        mode: str = "w+b",
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: str | None = None,
        prefix: str | None = None,
        dir: str | None = None,
        *,
        errors: str | None = None,
    ) -> None: ...
    def __init__(
        self,
        max_size: int = 0,
        mode: str = "w+b",
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: Any = None,
        prefix: Any = None,
        dir: Any = None,
        *,
        errors: str | None = None,
    ) -> None:
        file: Any = io.BytesIO()
        if "b" not in mode:
            encoding = text_encoding(encoding)
            file = io.TextIOWrapper(file, encoding, errors, newline)
        self._file = file
        self._max_size = self._limit = max_size
        self._mode = mode
        self._arguments = (mode, buffering, encoding, newline, suffix, prefix, dir)
        self._errors = errors

    __class_getitem__: Any = classmethod(GenericAlias)

    def rollover(self) -> None:
        """Move the contents to disk, if they are not there yet.

        :raises OSError: They could not be moved. They are still in memory, complete.
        """
        if self._rolled:
            return
        file: Any = self._file
        position = file.tell()
        rolled = self._on_disk()
        try:
            if isinstance(file, io.BytesIO):
                rolled.write(file.getvalue())
            else:
                file.flush()
                rolled.buffer.write(file.buffer.getvalue())
            rolled.seek(position)
        except BaseException:
            rolled.close()
            raise
        self._file = rolled
        self._rolled = True
        self._limit = 0
        if type(self) is SpooledTemporaryFile:
            self._write_on_disk = rolled.write
            self.__class__ = _RolledTemporaryFile

    def _on_disk(self) -> Any:
        file = observable(TemporaryFile(*self._arguments, errors=self._errors))
        # The spooled file warns itself.
        call_if_unclosed(file, lambda _: None)
        return file

    def __enter__(self) -> Self:
        if self._file.closed:
            raise ValueError("Cannot enter context with closed file")
        return self

    def __exit__(
        self,
        exc: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._file.close()

    def __del__(self) -> None:
        file: Any = self._file
        if file is None or file.closed:
            return
        warnings.warn(f"Unclosed file {self!r}", ResourceWarning, stacklevel=2, source=self)
        self._release_file()

    def _release_file(self) -> None:
        self._file.close()

    def close(self) -> None:
        """Close the file, which removes it."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        file: Any = self._file
        return file is None or bool(file.closed)

    @property
    def encoding(self) -> str:
        """The encoding; only a file in text mode has it, and *errors* and *newlines*."""
        return self._file.encoding  # type: ignore[attr-defined, no-any-return]

    @property
    def errors(self) -> str | None:
        """How encoding errors are handled."""
        return self._file.errors  # type: ignore[attr-defined, no-any-return]

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The line ends read so far."""
        return self._file.newlines  # type: ignore[attr-defined, no-any-return]

    @property
    def mode(self) -> str:
        """The mode; after the rollover that of the file on disk."""
        mode: str = getattr(self._file, "mode", self._mode)
        return mode

    @property
    def name(self) -> Any:
        """The descriptor of the file on disk; None before the rollover."""
        return getattr(self._file, "name", None)

    def fileno(self) -> int:
        """Return the descriptor of the file on disk, which is created if necessary."""
        self.rollover()
        descriptor: int = self._file.fileno()
        return descriptor

    def write(self, s: Any) -> int:
        """Write *s*, and move the contents to disk if they exceed the limit."""
        file = self._file
        written: int = file.write(s)
        limit = self._limit
        if limit and file.tell() > limit:
            self.rollover()
        return written

    def writelines(self, iterable: Iterable[Any]) -> None:
        """Write each item; after a rollover, directly to disk."""
        if self._max_size == 0 or self._rolled:
            self._file.writelines(iterable)
            return
        lines = iter(iterable)
        for line in lines:
            self.write(line)
            if self._rolled:
                self._file.writelines(lines)

    def truncate(self, size: int | None = None) -> int:
        """Truncate or extend the file; on disk, if *size* exceeds the limit."""
        if size is not None and size > self._max_size:
            self.rollover()
        return self._file.truncate() if size is None else self._file.truncate(size)

    # These look up `_file` at each call, since a rollover replaces it.

    def __iter__(self) -> Iterator[AnyStr]:  # type: ignore[override]
        return iter(self._file) if self._rolled else super().__iter__()  # type: ignore[return-value]

    def read(self, *size: int) -> AnyStr:
        """Read *size* bytes or characters, or all."""
        return self._file.read(*size)

    def read1(self, *size: int) -> AnyStr:
        """Read up to *size* bytes with at most one system call; binary mode only."""
        return self._file.read1(*size)  # type: ignore[attr-defined, no-any-return]

    def readinto(self, b: Any) -> int:
        """Read into the buffer *b*; binary mode only."""
        return self._file.readinto(b)  # type: ignore[attr-defined, no-any-return]

    def readinto1(self, b: Any) -> int:
        """Read into *b* with at most one system call; binary mode only."""
        return self._file.readinto1(b)  # type: ignore[attr-defined, no-any-return]

    def readline(self, *size: int) -> AnyStr:  # type: ignore[override]
        """Read one line, or *size* of it."""
        return self._file.readline(*size)

    def readlines(self, *hint: int) -> list[AnyStr]:  # type: ignore[override]
        """Read all lines, or as many as have *hint* bytes or characters."""
        return self._file.readlines(*hint)

    def seek(self, *position: int) -> int:
        """Move to an offset, as the ``seek`` of a file does."""
        return self._file.seek(*position)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def flush(self) -> None:
        """Write the buffer."""
        self._file.flush()

    def isatty(self) -> bool:
        """Return False."""
        return self._file.isatty()

    def readable(self) -> bool:
        """Return whether it can be read."""
        return self._file.readable()

    def seekable(self) -> bool:
        """Return True."""
        return self._file.seekable()

    def writable(self) -> bool:
        """Return whether it can be written."""
        return self._file.writable()

    def detach(self) -> Any:
        """Detach and return the underlying file; this file is unusable afterwards."""
        return self._file.detach()  # type: ignore[attr-defined]


class _RolledTemporaryFile(SpooledTemporaryFile):  # type: ignore[type-arg]
    """A spooled file that is on disk: its `write` is that of the file itself, which is faster."""

    __slots__ = ()

    # A slot, not an instance attribute: Python 3.13 is slow if an instance attribute hides a method
    # of the class.
    write = vars(SpooledTemporaryFile)["_write_on_disk"]

    def _release_file(self) -> None:
        # The bound method `write`, and so its file, may still be in use (CPython issue 18879).
        self._file = _CLOSED
        del self._write_on_disk

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The file on disk raises the TypeError of this version of Python.
        return self._file.__reduce_ex__(protocol)


_RolledTemporaryFile.__name__ = SpooledTemporaryFile.__name__
_RolledTemporaryFile.__qualname__ = SpooledTemporaryFile.__qualname__

_CLOSED: Any = io.BytesIO()
_CLOSED.close()
