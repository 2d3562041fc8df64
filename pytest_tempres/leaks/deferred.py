"""Paths that exit handlers or live objects will remove."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import suppress
import functools
import gc
from itertools import chain
import os
import sys
import tempfile
from types import CodeType
from types import FunctionType
from types import MethodType
from typing import Any
from typing import Final
import weakref

from pytest_tempres.leaks.frames import FrameFilter
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.temp.audit import absolute
from pytest_tempres.leaks.temp.scan import exists
from pytest_tempres.leaks.verdict import is_deferred
from pytest_tempres.leaks.verdict import parents
from pytest_tempres.primitives import TemporaryDirectory
from pytest_tempres.primitives._file import TemporaryFileCloser
from pytest_tempres.primitives._system import System

__all__ = [
    "ExitCallbacks",
    "LiveDirectories",
    "Provisional",
    "delete_open_files",
    "removed_at_exit",
    "removed_by_handlers",
    "removed_by_objects",
]

_CLOSERS: Final = tuple(
    kind for kind in (TemporaryFileCloser, getattr(tempfile, "_TemporaryFileCloser", None)) if kind
)
_DIRECTORIES: Final = (TemporaryDirectory, tempfile.TemporaryDirectory)
#: How many dead finalizers the cache may hold, beyond twice the number of live ones.
_MAX_DEAD: Final = 1_000


class ExitCallbacks:
    """Wraps `atexit.register` and records which paths the callbacks refer to.

    The session removes leaks, and an exit callback that expects to remove such a path itself
    would fail. So every path that a callback refers to counts as scheduled for removal, except
    the working directory, the temp directory and their parents.
    """

    def __init__(self, register: Callable[..., Any], unregister: Callable[..., object]) -> None:
        self._register = register
        self._unregister = unregister
        self._callbacks: list[tuple[Any, tuple[Any, ...]]] = []
        self._never_removed = parents(System.getcwd()) | parents(tempfile.gettempdir())

    def exempt(self, directory: str) -> None:
        """Assume that no callback removes *directory*: the process needs it until it ends."""
        self._never_removed |= parents(directory)

    def register(self, /, *args: Any, **kwargs: Any) -> Any:
        """Register the first of *args*, with the errors that `atexit.register` raises."""
        result = self._register(*args, **kwargs)
        self._callbacks.append((args[0], (*args[1:], *kwargs.values())))
        return result

    def unregister(self, /, *args: Any, **kwargs: Any) -> None:
        """Unregister the only one of *args*, with the errors that `atexit.unregister` raises."""
        self._unregister(*args, **kwargs)
        self._callbacks = [each for each in self._callbacks if each[0] != args[0]]

    def any_from_code_under_test(self, frame_filter: FrameFilter) -> bool:
        """Whether a callback of the code under test is registered.

        Those of the standard library and of packages that run tests remove only paths among
        their arguments.
        """
        codes = filter(None, (_code(func) for func, _ in self._callbacks))
        return any(frame_filter.report_name(System.abspath(code.co_filename)) for code in codes)

    def scheduled_removals(self) -> Iterator[str]:
        """Yield the absolute paths that the callbacks refer to, those of the newest ones first."""
        for callbacks in (_of_weakref(), self._callbacks, _of_multiprocessing()):
            for func, arguments in reversed(callbacks):
                paths: set[str] = set()
                # Objects of the code under test may raise anything.
                with suppress(Exception):
                    paths.update(_paths_in((func, *arguments)))
                yield from paths - self._never_removed


def _of_multiprocessing() -> list[tuple[Any, tuple[Any, ...]]]:
    """Return the callbacks that multiprocessing runs from one `atexit` callback."""
    util = sys.modules.get("multiprocessing.util")
    registry = getattr(util, "_finalizer_registry", {})
    return [
        (finalizer._callback, (*finalizer._args, *finalizer._kwargs.values()))  # noqa: SLF001
        for (priority, _), finalizer in list(registry.items())
        if priority is not None
    ]


def _of_weakref() -> list[tuple[Any, tuple[Any, ...]]]:
    """Return the callbacks of `weakref.finalize` objects that run at exit at the latest."""
    alive = ((each, each.peek()) for each in _finalizers())
    return [
        (peeked[1], (*peeked[2], *peeked[3].values()))
        for each, peeked in alive
        # LiveDirectories handles temporary directories: not all of them remove themselves.
        if peeked is not None and each.atexit and not isinstance(peeked[0], _DIRECTORIES)
    ]


def _finalizers() -> list[weakref.finalize[Any, Any]]:
    """Return the finalizers that are alive, oldest first."""
    return list(getattr(weakref.finalize, "_registry", ()))


def _code(func: Any) -> CodeType | None:
    """Return the code object of a callback; None for a builtin."""
    while isinstance(func, functools.partial):
        func = func.func
    # A method has the attribute too; for other objects their class is called.
    return getattr(func, "__code__", None) or getattr(type(func).__call__, "__code__", None)


def _paths_in(values: Iterable[Any], depth: int = 2) -> Iterator[str]:
    for value in values:
        if isinstance(value, (str, bytes, os.PathLike)):
            path = System.fsdecode(value)
            if System.isabs(path):
                yield System.normpath(path)
        elif depth:
            yield from _paths_in(_parts(value), depth - 1)


def _parts(value: object) -> Iterable[Any]:
    """Return the values that *value* contains."""
    if isinstance(value, dict):
        return (*value, *value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, MethodType):
        return (value.__self__, *getattr(value.__self__, "__dict__", {}).values())
    return _values_visible_to(value) if isinstance(value, FunctionType) else ()


def _values_visible_to(function: FunctionType) -> Iterator[Any]:
    """Yield a function's defaults, the globals that it uses, and its closure."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    names = function.__code__.co_names
    yield from (function.__globals__[name] for name in names if name in function.__globals__)
    for cell in function.__closure__ or ():
        # The cell of a name that was not assigned yet is empty.
        with suppress(ValueError):
            yield cell.cell_contents


class LiveDirectories:
    """The `TemporaryDirectory` objects that are alive and will remove their directory.

    A suite may keep thousands of them, and every leak check needs all, so paths are cached.
    """

    def __init__(self) -> None:
        self._paths: dict[weakref.finalize[Any, Any], str] = {}

    def scheduled_removals(self) -> Iterator[str]:
        """Yield the paths that they will remove, the newest first."""
        alive = _finalizers()
        if len(self._paths) > _MAX_DEAD + 2 * len(alive):
            self._paths.clear()
        for finalizer in reversed(alive):
            path = self._paths.get(finalizer) or self._find(finalizer)
            if path is not None:
                yield path

    def _find(self, finalizer: weakref.finalize[Any, Any]) -> str | None:
        directory = (finalizer.peek() or (None,))[0]
        path = _path_removed_by(directory) if isinstance(directory, _DIRECTORIES) else None
        if path is not None:
            self._paths[finalizer] = path
        return path


def removed_by_handlers(callbacks: ExitCallbacks | None) -> set[str]:
    """Return the paths that exit handlers and finalizers will remove. This is cheap."""
    directories = LiveDirectories().scheduled_removals()
    return {*directories, *(callbacks.scheduled_removals() if callbacks is not None else ())}


def removed_by_objects(objects: Iterable[object]) -> Iterator[str]:
    """Yield the paths that *objects* will remove when they are deallocated."""
    kinds = (*_CLOSERS, *_DIRECTORIES)
    paths = (_path_removed_by(obj) for obj in objects if issubclass(type(obj), kinds))
    return filter(None, paths)


def removed_at_exit(callbacks: ExitCallbacks | None) -> set[str]:
    """Return the paths that a live object or an exit callback will remove.

    Listing all objects takes tenths of a second in a large process.
    """
    return removed_by_handlers(callbacks).union(removed_by_objects(gc.get_objects()))


def _path_removed_by(obj: Any) -> str | None:
    try:
        removes = _deletes(obj) if isinstance(obj, _CLOSERS) else _removes(obj)
        return absolute(obj.name) if removes else None
    except Exception:  # noqa: BLE001 -- a subclass may be half initialized, or raise anything
        return None


def _deletes(closer: Any) -> bool:
    # Before Python 3.12 closing the file deletes it, and there is no cleanup_called.
    done = getattr(closer, "cleanup_called", getattr(closer, "close_called", False))
    return not done and getattr(closer, "delete", False)


def _removes(directory: Any) -> bool:
    finalizer = getattr(directory, "_finalizer", None)
    # `delete` is new in Python 3.12.
    return finalizer is not None and finalizer.alive and getattr(directory, "_delete", True)


def delete_open_files(root: str) -> None:
    """Close and delete the named temporary files in *root* that are still open.

    The interpreter would delete them too late to remove the directory that contains them.
    """
    for obj in gc.get_objects():
        if issubclass(type(obj), _CLOSERS) and _deletes(obj):
            with suppress(Exception):
                if System.fsdecode(obj.name).startswith(System.join(root, "")):
                    getattr(obj, "cleanup", obj.close)()


#: The budget for finding scheduled removals: seconds, and a share of the session's time.
_FREE_SECONDS: Final = 0.5
_SHARE: Final = 0.01


class Provisional:
    """Entries that a fixture, an exit handler or an object may still remove.

    If a worker dies, its fixtures and exit handlers do not run. So the worker first sends such an
    entry marked as left by a failed test, and sends it again without the mark when nothing can
    remove it any more.
    """

    def __init__(self, removed_at_exit: Callable[[], set[str]]) -> None:
        self._removed_at_exit = removed_at_exit
        self._of_running_owner: dict[Owner, list[Entry]] = {}
        #: Entries that an exit handler or an object may still remove.
        self._undecided: list[Entry] = []
        #: The paths of entries that were not sent yet and whose wider owner is finished.
        self._owner_finished: set[str] = set()
        self._has_unchecked = False
        self._started = System.monotonic()
        self._spent = 0.0

    def to_send(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return *entries*, and earlier ones that nothing will remove any more.

        They are marked as they should be if this process dies.
        """
        to_send, unchecked = [], []
        for entry in entries:
            if entry.from_failed or entry.ignored:
                to_send.append(entry)
            elif not (entry.owner.is_of_one_test or entry.path in self._owner_finished):
                self._of_running_owner.setdefault(entry.owner, []).append(entry)
                to_send.append(entry._replace(from_failed=True))
            else:
                unchecked.append(entry)
        self._owner_finished.clear()
        if unchecked or self._has_unchecked:
            to_send += self._decided(unchecked)
        return to_send

    def finish_owner(self, owner: Owner, not_yet_sent: Iterable[Entry]) -> None:
        """Record that *owner* is finished, and will not remove its entries any more."""
        if not owner.is_of_one_test:
            self._owner_finished |= {each.path for each in not_yet_sent if each.owner == owner}
        if owner in self._of_running_owner:
            self._undecided += self._of_running_owner.pop(owner)
            self._has_unchecked = True

    def remaining(self) -> list[Entry]:
        """Return the entries that still exist at the normal end of the process."""
        entries = chain(*self._of_running_owner.values(), self._undecided)
        return [entry for entry in entries if exists(entry.path)]

    def _decided(self, entries: list[Entry]) -> list[Entry]:
        """Return *entries*, marked if they may be removed, and earlier ones that are decided now.

        Beyond the time budget nothing is checked, and everything stays undecided.
        """
        before = System.monotonic()
        self._has_unchecked = self._spent > _FREE_SECONDS + _SHARE * (before - self._started)
        if self._has_unchecked:
            self._undecided += entries
            return [entry._replace(from_failed=True) for entry in entries]
        scheduled, inodes = self._removed_at_exit(), _open_inodes()

        def may_be_removed(entry: Entry) -> bool:
            return is_deferred(entry, scheduled) or _inode(entry) in inodes

        undecided_before, self._undecided = self._undecided, []
        to_send = []
        for entry in entries:
            to_send.append(entry._replace(from_failed=may_be_removed(entry)))
            if to_send[-1].from_failed:
                self._undecided.append(entry)
        for entry in undecided_before:
            if exists(entry.path):
                (self._undecided if may_be_removed(entry) else to_send).append(entry)
        self._spent += System.monotonic() - before
        return to_send


def _inode(entry: Entry) -> tuple[int, int] | None:
    try:
        status = System.lstat(entry.path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open_inodes() -> set[tuple[int, int]]:
    """Return the files that this process has open: the object that holds one may remove it."""
    found = set()
    with suppress(OSError):
        for name in System.listdir("/dev/fd"):
            with suppress(OSError, ValueError):
                status = System.fstat(int(name))
                found.add((status.st_dev, status.st_ino))
    return found
