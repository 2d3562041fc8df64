"""Who has promised to remove it? What is removed at interpreter exit is no leak."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import functools
import gc
import os
import tempfile
from types import MethodType
from typing import Any
from typing import Final

from pytest_tempres.primitives import TemporaryDirectory
from pytest_tempres.primitives._file import TemporaryFileCloser

__all__ = ["ExitCallbacks", "promised", "settle"]

_CLOSERS: Final = tuple(
    kind for kind in (TemporaryFileCloser, getattr(tempfile, "_TemporaryFileCloser", None)) if kind
)
_DIRECTORIES: Final = (TemporaryDirectory, tempfile.TemporaryDirectory)


class ExitCallbacks:
    """Stands before `atexit.register` and remembers which paths a callback is given.

    :param register: The function that really registers.
    :param unregister: The function that really unregisters.
    """

    def __init__(self, register: Callable[..., Any], unregister: Callable[[Any], object]) -> None:
        self._register = register
        self._unregister = unregister
        self._paths: list[tuple[Any, set[str]]] = []

    def register(self, func: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Register *func* as `atexit.register` does."""
        named: set[str] = set()
        # An argument may be anybody's object, and do anything when it is asked.
        with contextlib.suppress(Exception):
            named.update(_paths_in((func, *args, *kwargs.values())))
        if named:
            self._paths.append((func, named))
        return self._register(func, *args, **kwargs)

    def unregister(self, func: Any, /) -> None:
        """Unregister *func* as `atexit.unregister` does."""
        self._paths = [(known, paths) for known, paths in self._paths if known != func]
        self._unregister(func)

    def paths(self) -> set[str]:
        """Return the absolute paths that some callback was given."""
        return set().union(*(paths for _, paths in self._paths))


def _paths_in(values: Iterable[Any], depth: int = 2) -> Iterator[str]:
    """Yield the absolute paths among *values*, and among what these hold."""
    for value in values:
        if isinstance(value, (str, bytes, os.PathLike)):
            path = os.fsdecode(value)
            if os.path.isabs(path):
                yield os.path.normpath(path)
        elif depth:
            yield from _paths_in(_parts(value), depth - 1)


def _parts(value: object) -> Iterable[Any]:
    """Return what a collection, a partial or a bound method holds."""
    if isinstance(value, dict):
        return (*value, *value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    return (value.__self__,) if isinstance(value, MethodType) else ()


def promised(callbacks: ExitCallbacks | None) -> set[str]:
    """Return the paths that a live object or an exit callback will remove.

    This asks the garbage collector for all objects, which takes some tenths of a
    second in a large process: call it only when there is a suspect.
    """
    paths = callbacks.paths() if callbacks is not None else set()
    for thing in gc.get_objects():
        kind = type(thing)
        if issubclass(kind, (*_CLOSERS, *_DIRECTORIES)):
            # Somebody's subclass may be half made, or have other ideas of a name.
            with contextlib.suppress(Exception):
                if _deletes(thing) if issubclass(kind, _CLOSERS) else _removes(thing):
                    paths.add(os.path.abspath(os.fsdecode(thing.name)))
    return paths


def _deletes(closer: Any) -> bool:
    # Before Python 3.12 a closed file has been deleted, and there is no cleanup_called.
    done = getattr(closer, "cleanup_called", getattr(closer, "close_called", False))
    return bool(getattr(closer, "delete", False)) and not done


def _removes(directory: Any) -> bool:
    finalizer = getattr(directory, "_finalizer", None)
    # Python 3.12 brought it; a subclass may have a method called delete.
    wanted = getattr(directory, "_delete", True)
    return bool(wanted) and finalizer is not None and finalizer.alive


def settle(root: str) -> None:
    """Let go of the named temporary files in *root* that are still open.

    They would go only while modules are torn down, which is after the last
    moment at which anybody could remove the directory around them.
    """
    inside = os.path.join(root, "")
    for thing in gc.get_objects():
        if issubclass(type(thing), _CLOSERS) and _deletes(thing):
            with contextlib.suppress(Exception):
                if os.fsdecode(thing.name).startswith(inside):
                    getattr(thing, "cleanup", thing.close)()
