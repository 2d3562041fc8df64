"""The wrapper of an open file that removes the file when it is closed."""

from __future__ import annotations

import io
import os
from typing import IO
from typing import TYPE_CHECKING
from typing import Any
from typing import AnyStr
import warnings
from weakref import ref

from pytest_tempres.primitives._create import current_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator
    from types import TracebackType
    from typing import IO as _FileLike  # noqa: N811

    from typing_extensions import Self
else:
    # Type checkers treat a wrapper as a file. At run time the base class `IO` would hide the
    # attributes of the file.
    from typing import Generic as _FileLike

__all__ = [
    "TemporaryFileCloser",
    "TemporaryFileWrapper",
    "call_if_unclosed",
    "close_and_keep",
    "observable",
    "raw_file",
]


def raw_file(file: Any) -> Any:
    """Return the ``io.FileIO`` at the bottom of *file*."""
    if type(file) is io.BufferedRandom:
        return file.raw
    buffered = getattr(file, "buffer", file)
    return getattr(buffered, "raw", buffered)


def observable(file: Any) -> Any:
    """Return *file*, or a replacement, for which :func:`call_if_unclosed` works.

    Files keep the exact ``io`` classes, which are the fastest; only an unbuffered file needs a
    class of its own.
    """
    return _Unbuffered(file) if isinstance(file, io.FileIO) else file


def call_if_unclosed(file: Any, callback: Callable[[Any], None]) -> None:
    """Call *callback*, instead of a ``ResourceWarning``, if *file* is collected while it is open.

    :param file: What :func:`observable` returned. The ``io`` classes call ``_dealloc_warn`` of the
        raw file, which an attribute of that file replaces.
    :param callback: Called with the file. It lives as long as the file, so it must not refer to it.
    """
    raw_file(file)._dealloc_warn = callback  # noqa: SLF001 - there is no public hook


class _Unbuffered(io.FileIO):
    def __init__(self, file: io.FileIO) -> None:
        super().__init__(os.dup(file.fileno()), file.mode)
        file.close()

    def __del__(self) -> None:
        if not self.closed:
            self._dealloc_warn(self)  # type: ignore[attr-defined]
            self.close()


_Unbuffered.__name__ = "_io.FileIO"  # shown in its repr


class TemporaryFileCloser:
    """Closes and removes a named temporary file; warns if the caller has not closed it.

    The file refers to its closer, so that both live until the last bound method of the file is
    collected (CPython issue 18879). The closer has only a weak reference to the file, since a cycle
    would delay their collection. In a child forked later it closes the file but does not remove the
    path, which belongs to the parent.

    :param file: The open file.
    :param name: Its path.
    :param delete: Whether the path is removed at all.
    :param delete_on_close: Whether it is removed as soon as the file is closed.
    """

    cleanup_called = False
    close_called = False

    def __init__(
        self, file: IO[Any], name: str | bytes, delete: bool, delete_on_close: bool
    ) -> None:
        self.name = name
        self.delete = delete
        self.delete_on_close = delete_on_close
        self._process = current_process()
        self._description: str | None = None
        self._file = ref(file)
        call_if_unclosed(file, self._describe)

    def cleanup(self) -> None:
        """Close the file and, if ``delete`` is set, remove its path.

        :raises OSError: The file could not be flushed, or its path could not be removed.
        """
        if not self.cleanup_called:
            self.cleanup_called = True
            try:
                self.close()
            finally:
                self._remove()

    def close(self) -> None:
        """Close the file; if ``delete_on_close`` is set, remove its path."""
        if self.close_called:
            return
        self.close_called = True
        try:
            file = self._file()
            if file is not None:
                file.close()
        finally:
            if self.delete_on_close and not self.cleanup_called:
                self.cleanup_called = self.delete
                self._remove()

    # Defaults, since at interpreter exit the globals may be gone before the last file is.
    def _remove(
        self,
        unlink: Callable[[str | bytes], None] = os.unlink,
        process: Callable[[], object] = current_process,
        system: str = os.name,
    ) -> None:
        # Windows itself removes a file that was opened with O_TEMPORARY.
        removed = system == "nt" and self.delete_on_close
        if self.delete and not removed and self._process is process():
            try:
                unlink(self.name)
            except FileNotFoundError:
                pass

    def _describe(self, file: IO[Any]) -> None:
        self._description = f"<_TemporaryFileWrapper file={file!r}>"

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        if self.close_called and self.cleanup_called:
            return
        closed = self.close_called
        self.cleanup()
        if not closed:
            described = self._description or repr(self.name)
            warn(f"Implicitly cleaning up {described}", ResourceWarning, stacklevel=1)


class _TemporaryFileWrapper(_FileLike[AnyStr]):
    """A named temporary file that behaves like the file in its attribute ``file``.

    Methods of the file become attributes of the wrapper, so that calling them is as fast.

    :param file: The open file, as :func:`observable` returned it.
    :param name: Its path.
    :param delete: Whether the path is removed.
    :param delete_on_close: Whether it is removed on close.
    """

    file: IO[AnyStr]
    name: str

    def __init__(
        self, file: IO[AnyStr], name: str, delete: bool = True, delete_on_close: bool = True
    ) -> None:
        self.file = file
        self.name = name
        self.write = file.write  # type: ignore[method-assign]
        self._closer = TemporaryFileCloser(file, name, delete, delete_on_close)

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
        # The wrapper must live as long as the loop (CPython issue 23700). ``yield from`` would
        # close the file when the loop ends early.
        for line in self.file:  # noqa: UP028
            yield line

    @property
    def delete(self) -> bool:
        """Whether the path is removed."""
        return self._closer.delete

    @delete.setter
    def delete(self, value: bool) -> None:
        self._closer.delete = value

    def close(self) -> None:
        """Close the file and, if ``delete_on_close`` is set, remove its path."""
        self._closer.close()

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


# The name for annotations; the class has CPython's, which its repr shows.
TemporaryFileWrapper = _TemporaryFileWrapper


class _FileAttribute:
    """A descriptor for an attribute of the wrapped file; a method is looked up once and stored.

    ``__getattr__`` would be simpler, but in Python 3.11 and older it makes every attribute of its
    class slower.
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


def _add_file_attributes() -> None:
    kinds = (io.FileIO, io.BufferedReader, io.BufferedRandom, io.BufferedWriter, io.TextIOWrapper)
    names = {name for kind in kinds for name in dir(kind) if not name.startswith("__")}
    # `name` and `write` are set in __init__: an instance attribute that the class lacks is fastest.
    for name in names - {"name", "write", *vars(_TemporaryFileWrapper)}:
        setattr(_TemporaryFileWrapper, name, _FileAttribute(name))


_add_file_attributes()


def close_and_keep(file: _TemporaryFileWrapper[Any]) -> None:
    """Close *file* and leave its path on disk.

    :param file: What ``NamedTemporaryFile`` returned; may be closed already. On Windows it must
        have been created with ``delete_on_close=False``, or the system removes it.
    """
    file.delete = False
    file.close()
