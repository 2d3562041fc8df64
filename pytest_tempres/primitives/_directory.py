"""``TemporaryDirectory``, a directory that is removed at the end of its ``with`` block."""

from __future__ import annotations

import os
from types import GenericAlias
from typing import TYPE_CHECKING
from typing import Any
from typing import AnyStr
from typing import Generic
from typing import overload
import warnings
import weakref

from pytest_tempres.exceptions import RemovalError
from pytest_tempres.primitives._create import current_process
from pytest_tempres.primitives._create import mkdtemp
from pytest_tempres.primitives._rmtree import remove_tree

if TYPE_CHECKING:
    from os import PathLike
    from types import TracebackType

__all__ = ["TemporaryDirectory"]


class TemporaryDirectory(Generic[AnyStr]):
    """A directory that is removed with its contents at the end of its context.

    :param suffix: The end of its name, ``str`` or ``bytes``; nothing if not given.
    :param prefix: The start of its name; ``tmp`` if not given.
    :param dir: The directory to create it in; the temp location if not given.
    :param ignore_cleanup_errors: Ignore all errors of the removal (gh-135812).
    :param delete: Whether it is removed automatically; may be changed at any time (gh-128397).
    :raises OSError: It can't be created; the error names the path.

    If it is neither entered nor cleaned up, it is removed with a ``ResourceWarning`` when the
    object is collected or the interpreter exits. A child forked later removes it only if it calls
    ``cleanup``: the directory belongs to the parent.
    """

    name: AnyStr

    @overload
    def __init__(
        self: TemporaryDirectory[str],
        suffix: str | None = None,
        prefix: str | None = None,
        dir: str | PathLike[str] | None = None,
        ignore_cleanup_errors: bool = False,
        *,
        delete: bool = True,
    ) -> None: ...
    @overload
    def __init__(
        self: TemporaryDirectory[bytes],
        suffix: bytes | None = None,
        prefix: bytes | None = None,
        dir: bytes | PathLike[bytes] | None = None,
        ignore_cleanup_errors: bool = False,
        *,
        delete: bool = True,
    ) -> None: ...
    def __init__(
        self,
        suffix: Any = None,
        prefix: Any = None,
        dir: Any = None,
        ignore_cleanup_errors: bool = False,
        *,
        delete: bool = True,
    ) -> None:
        self.name = mkdtemp(suffix, prefix, dir)
        self._ignore_cleanup_errors = ignore_cleanup_errors
        self._delete = delete
        self._process = current_process()
        self._finalizer = self._register_finalizer()

    @property
    def delete(self) -> bool:
        """Whether the directory is removed automatically."""
        return self._delete

    @delete.setter
    def delete(self, value: bool) -> None:
        self._delete = value
        # A finalizer can't be changed. One that has run or was detached must not be replaced.
        if self._finalizer.detach():
            self._finalizer = self._register_finalizer()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def __enter__(self) -> AnyStr:
        return self.name

    def __exit__(
        self,
        exc: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._delete and self._process is current_process():
            self.cleanup()

    def cleanup(self) -> None:
        """Remove the directory now, in any process and whatever ``delete`` is.

        A second call is no error.

        :raises RemovalError: Something could not be removed, and errors are not ignored. It lists
            the paths and reasons; if the first is a ``PermissionError``, it is one too.
        """
        self._finalizer.detach()
        self._remove(self.name, ignore_errors=self._ignore_cleanup_errors)

    __class_getitem__: Any = classmethod(GenericAlias)

    def _register_finalizer(self) -> weakref.finalize[Any, Any]:
        return weakref.finalize(
            self,
            self._cleanup,
            self.name,
            warn_message=f"Implicitly cleaning up {self!r}",
            ignore_errors=self._ignore_cleanup_errors,
            delete=self._delete,
            process=self._process,
        )

    @classmethod
    def _cleanup(
        cls,
        name: str | bytes,
        warn_message: str,
        *,
        ignore_errors: bool,
        delete: bool,
        process: object,
    ) -> None:
        if delete and process is current_process():
            cls._remove(name, ignore_errors=ignore_errors)
            warnings.warn(warn_message, ResourceWarning, stacklevel=1)

    @staticmethod
    def _remove(name: str | bytes, *, ignore_errors: bool) -> None:
        failures = remove_tree(name)
        if failures and not ignore_errors:
            denied = isinstance(failures[0].error, PermissionError)
            kind = _RemovalDeniedError if denied else RemovalError
            raise kind(os.fsdecode(name), list(failures))


class _RemovalDeniedError(RemovalError, PermissionError):
    """A ``RemovalError`` for code that catches ``PermissionError``, which CPython raises."""
