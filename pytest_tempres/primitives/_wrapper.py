"""What makes an open file disappear by itself when it is closed?"""

from __future__ import annotations

import io
import os
import warnings
from typing import IO
from typing import TYPE_CHECKING
from typing import Any
from typing import AnyStr
from typing import overload
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable
    from collections.abc import Iterator
    from types import TracebackType
    from typing import IO as _FileLike

    from typing_extensions import Buffer
    from typing_extensions import Self
else:
    # To a type checker a wrapper is a file; at run time nothing must hide the file's attributes.
    from typing import Generic as _FileLike

__all__ = ["TemporaryFileCloser", "close_and_keep", "quiet", "raw_file"]


def raw_file(file: Any) -> Any:
    """Return the ``io.FileIO`` at the bottom of *file*."""
    buffered = getattr(file, "buffer", file)
    return getattr(buffered, "raw", buffered)


def quiet(file: Any) -> Any:
    """Return *file*, or a file in its place, that does not warn when it goes unclosed.

    What owns the file warns instead. The ``io`` classes ask the raw file to warn, so an attribute
    there is enough; a raw file that stands alone needs a class of its own. Files keep the exact
    ``io`` classes, for which the interpreter's writes are fastest.
    """
    if isinstance(file, io.FileIO):
        alone = _Unbuffered(os.dup(file.fileno()), file.mode)
        file.close()
        return alone
    raw_file(file)._dealloc_warn = _say_nothing
    return file


def _say_nothing(source: object) -> None:
    pass


class _Unbuffered(io.FileIO):
    def __del__(self) -> None:
        self.close()


class TemporaryFileCloser:
    """Closes a named temporary file, removes it, and warns if nobody else did.

    The file holds its closer, so that both live until the last method taken from the file is gone
    (CPython issue 18879); the closer holds the file weakly, so that no cycle delays their end.
    In a child forked later it closes the file and leaves the path to the parent.

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
        self._process = os.getpid()
        self.name = name
        self.delete = delete
        self.delete_on_close = delete_on_close
        self.warn_message = warn_message
        self.cleanup_called = False
        self.close_called = False

    # Bound here, since at interpreter exit the module may be gone before the last file is.
    def cleanup(
        self,
        unlink: Callable[[str | bytes], None] = os.unlink,
        getpid: Callable[[], int] = os.getpid,
        system: str = os.name,
    ) -> None:
        """Close the file and remove its path, if it is to be removed at all.

        :raises OSError: The file could not be flushed, or its path not be removed.
        """
        if self.cleanup_called:
            return
        self.cleanup_called = True
        try:
            self._close_file()
        finally:
            # Windows removes by itself what is open with O_TEMPORARY.
            removed = system == "nt" and self.delete_on_close
            if self.delete and not removed and self._process == getpid():
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
        file = None if self.close_called else self._file()
        self.close_called = True
        if file is not None:
            file.close()

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        closed = self.close_called
        self.cleanup()
        if not closed:
            warn(self.warn_message, ResourceWarning, stacklevel=1)


class _TemporaryFileWrapper(_FileLike[AnyStr]):
    """A named temporary file: it behaves as the file in its attribute ``file`` does.

    Methods of the file become attributes of the wrapper, so that calling them costs nothing extra.

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
        self.write = file.write
        message = f"Implicitly cleaning up {self!r}"
        self._closer = TemporaryFileCloser(file, name, delete, delete_on_close, message)
        raw_file(file)._closer = self._closer

    def __repr__(self) -> str:
        return f"<{type(self).__name__} file={self.file!r}>"

    def __enter__(self) -> Self:
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
        # The wrapper has to live as long as the loop (CPython issue 23700); ``yield from`` would
        # close the file when the loop is left early.
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

    if TYPE_CHECKING:

        @property
        def closed(self) -> bool: ...
        @property
        def mode(self) -> str: ...
        def __next__(self) -> AnyStr: ...
        def __getattr__(self, name: str) -> Any: ...
        def fileno(self) -> int: ...
        def flush(self) -> None: ...
        def isatty(self) -> bool: ...
        def read(self, n: int = ...) -> AnyStr: ...
        def readable(self) -> bool: ...
        def readline(self, limit: int = ...) -> AnyStr: ...
        def readlines(self, hint: int = ...) -> list[AnyStr]: ...
        def seek(self, offset: int, whence: int = ...) -> int: ...
        def seekable(self) -> bool: ...
        def tell(self) -> int: ...
        def truncate(self, size: int | None = ...) -> int: ...
        def writable(self) -> bool: ...
        @overload
        def write(self: _TemporaryFileWrapper[str], s: str, /) -> int: ...
        @overload
        def write(self: _TemporaryFileWrapper[bytes], s: Buffer, /) -> int: ...
        @overload
        def write(self, s: AnyStr, /) -> int: ...
        @overload
        def writelines(self: _TemporaryFileWrapper[str], lines: Iterable[str], /) -> None: ...
        @overload
        def writelines(self: _TemporaryFileWrapper[bytes], lines: Iterable[Buffer], /) -> None: ...
        @overload
        def writelines(self, lines: Iterable[AnyStr], /) -> None: ...


class _Lent:
    """An attribute of the file; a method is bound once and kept.

    ``__getattr__`` would do with less, but while a class has one, Python 3.11 and older look up
    every attribute the slow way.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, wrapper: Any, owner: object = None) -> Any:
        if wrapper is None:
            raise AttributeError(self._name)
        value = getattr(wrapper.file, self._name)
        if callable(value):
            setattr(wrapper, self._name, value)
        return value


def _lend_attributes() -> None:
    kinds = (io.FileIO, io.BufferedReader, io.BufferedRandom, io.BufferedWriter, io.TextIOWrapper)
    names = {name for kind in kinds for name in dir(kind) if not name.startswith("__")}
    # Without a class attribute in its way, what __init__ puts into the instance is found fastest.
    for name in names - {"name", "write", *vars(_TemporaryFileWrapper)}:
        setattr(_TemporaryFileWrapper, name, _Lent(name))


_lend_attributes()


def close_and_keep(file: _TemporaryFileWrapper[Any]) -> None:
    """Close *file* and leave its path on disk.

    :param file: What ``NamedTemporaryFile`` returned; may be closed already. On Windows it must
        have been made with ``delete_on_close=False``: else the system itself removes it.
    """
    file.delete = False
    file.close()
