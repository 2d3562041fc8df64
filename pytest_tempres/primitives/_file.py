"""What is an open temporary file, without and with a name?"""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import IO
from typing import TYPE_CHECKING
from typing import Any
from typing import AnyStr
from typing import Final
from typing import Generic
from typing import TypeVar
from typing import cast
from weakref import ref

from pytest_tempres.primitives._create import make_file
from pytest_tempres.primitives._location import OPEN_FLAGS
from pytest_tempres.primitives._location import resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator
    from types import TracebackType

__all__ = [
    "NamedTemporaryFile",
    "TemporaryFile",
    "TemporaryFileCloser",
    "TemporaryFileWrapper",
    "close_and_keep",
]


class TemporaryFileCloser:
    """Closes a named temporary file, removes it, and warns if nobody else did.

    The file owns its closer, so that both live until the last method taken from it is gone
    (CPython issue 18879); the closer knows the file only weakly, so that they go at once.

    :param file: The open file.
    :param name: Its path.
    :param delete: Whether the path is removed at all.
    :param delete_on_close: Whether it is removed as soon as the file is closed.
    :param warn_message: The text of the ``ResourceWarning``.
    """

    def __init__(
        self,
        file: IO[Any],
        name: str | bytes,
        delete: bool,
        delete_on_close: bool,
        warn_message: str,
    ) -> None:
        self._file = ref(file)
        self.name = name
        self.delete = delete
        self.delete_on_close = delete_on_close
        self.warn_message = warn_message
        self.cleanup_called = False
        self.close_called = False

    def cleanup(self, unlink: Callable[..., None] = os.unlink, system: str = os.name) -> None:
        """Close the file and remove its path if it is to be removed at all."""
        if self.cleanup_called:
            return
        self.cleanup_called = True
        try:
            self._close_file()
        finally:
            # Windows removes a file opened with O_TEMPORARY by itself.
            if self.delete and not (system == "nt" and self.delete_on_close):
                try:
                    unlink(self.name)
                except FileNotFoundError:
                    pass

    def close(self) -> None:
        """Close the file; remove its path if that is to happen on close."""
        if self.close_called:
            return
        try:
            self._close_file()
        finally:
            if self.delete and self.delete_on_close:
                self.cleanup()

    def _close_file(self) -> None:
        self.close_called = True
        file = self._file()
        if file is not None:
            file.close()

    def __del__(self) -> None:
        closed = self.close_called
        self.cleanup()
        if not closed:
            warnings.warn(self.warn_message, ResourceWarning, stacklevel=1)


class _FileAttribute:
    """An attribute of the file, bound at first use so that later calls cost nothing extra."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, wrapper: TemporaryFileWrapper[Any] | None, owner: Any = None) -> Any:
        if wrapper is None:
            return self
        value = getattr(wrapper.file, self._name)
        if callable(value):
            setattr(wrapper, self._name, value)
        return value


class TemporaryFileWrapper(Generic[AnyStr]):
    """A named temporary file: it behaves as the file in its attribute ``file`` does.

    :param file: The open file.
    :param name: Its path.
    :param delete: Whether the path is removed.
    :param delete_on_close: Whether that happens on close.
    """

    file: IO[AnyStr]
    name: str

    def __init__(
        self, file: IO[AnyStr], name: str, delete: bool = True, delete_on_close: bool = True
    ) -> None:
        self.file = file
        self.name = name
        message = f"Implicitly cleaning up {self!r}"
        self._closer = TemporaryFileCloser(file, name, delete, delete_on_close, message)
        raw = _raw(file)
        raw._closer = self._closer
        raw._dealloc_warn = _say_nothing

    def __repr__(self) -> str:
        return f"<{type(self).__name__} file={self.file!r}>"

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__dict__["file"], name)
        if not isinstance(value, int):
            setattr(self, name, value)
        return value

    def __enter__(self) -> TemporaryFileWrapper[AnyStr]:
        self.file.__enter__()
        return self

    def __exit__(
        self,
        exc: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.file.__exit__(exc, value, tb)
        self._closer.cleanup()

    def __iter__(self) -> Iterator[AnyStr]:
        # Not iter(self.file): the wrapper has to live as long as the loop (CPython issue 23700).
        for line in self.file:  # noqa: UP028
            yield line

    @property
    def delete(self) -> bool:
        """Whether the path is removed."""
        return self._closer.delete

    @delete.setter
    def delete(self, wanted: bool) -> None:
        self._closer.delete = wanted

    def close(self) -> None:
        """Close the file and, unless told otherwise, remove its path."""
        self._closer.close()


def _say_nothing(source: object) -> None:
    """Stand in for the warning of an unclosed file: its closer gives a better one."""


def _raw(file: Any) -> Any:
    buffered = getattr(file, "buffer", file)
    return getattr(buffered, "raw", buffered)


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
    """Create and open a file that is removed when it is closed."""
    prefix, suffix, dir = resolve(prefix, suffix, dir)
    flags = OPEN_FLAGS
    if os.name == "nt" and delete and delete_on_close:
        flags |= os.O_TEMPORARY
    if "b" not in mode:
        encoding = io.text_encoding(encoding)
    name = None

    def opener(*_: object) -> int:
        nonlocal name
        descriptor, name = make_file(dir, prefix, suffix, flags)
        return descriptor

    try:
        file = io.open(dir, mode, buffering, encoding, errors, newline, opener=opener)
        try:
            _raw(file).name = name
            return TemporaryFileWrapper(file, name, delete, delete_on_close)
        except BaseException:
            file.close()
            raise
    except BaseException:
        if name is not None and not (flags & getattr(os, "O_TEMPORARY", 0)):
            os.unlink(name)
        raise


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
    """Create and open a file that has no name and is gone when it is closed."""
    if os.name != "posix" or sys.platform == "cygwin":
        return NamedTemporaryFile(
            mode, buffering, encoding, newline, suffix, prefix, dir, errors=errors
        )
    if "b" not in mode:
        encoding = io.text_encoding(encoding)
    prefix, suffix, dir = resolve(prefix, suffix, dir)
    descriptor = -1

    def opener(*_: object) -> int:
        nonlocal descriptor
        try:
            descriptor = os.open(dir, (OPEN_FLAGS | os.O_TMPFILE) & ~os.O_CREAT, 0o600)
        except OSError:
            descriptor, name = make_file(dir, prefix, suffix, OPEN_FLAGS)
            try:
                os.unlink(name)
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor

    file = io.open(dir, mode, buffering, encoding, errors, newline, opener=opener)
    _raw(file).name = descriptor
    return file


def close_and_keep(file: TemporaryFileWrapper[Any]) -> None:
    """Close *file* and leave its path on disk."""
    file.delete = False
    file.close()
