"""Who has promised to remove it? What is removed at interpreter exit is no leak."""

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

from pytest_tempres.leaks.frames import Folder
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
    "removed_at_exit",
    "removed_by_handlers",
    "removed_by_objects",
    "settle",
]

_CLOSERS: Final = tuple(
    kind for kind in (TemporaryFileCloser, getattr(tempfile, "_TemporaryFileCloser", None)) if kind
)
_DIRECTORIES: Final = (TemporaryDirectory, tempfile.TemporaryDirectory)
#: So many that are gone are remembered before they are forgotten.
_MOST_DEAD: Final = 1_000


class ExitCallbacks:
    """Stands before `atexit.register` and remembers which paths a callback knows.

    What we take for a leak we remove, and a callback that was going to remove it
    would fail: so a path counts however the callback came by it. Only where the
    process itself stands, its working and its temp directory, nobody removes.

    :param register: The function that really registers.
    :param unregister: The function that really unregisters.
    """

    def __init__(self, register: Callable[..., Any], unregister: Callable[..., object]) -> None:
        self._register = register
        self._unregister = unregister
        self._callbacks: list[tuple[Any, tuple[Any, ...]]] = []
        self._standing = parents(System.getcwd()) | parents(tempfile.gettempdir())

    def exempt(self, directory: str) -> None:
        """Take it that nobody removes *directory*, since the process needs it to the end."""
        self._standing |= parents(directory)

    def register(self, /, *args: Any, **kwargs: Any) -> Any:
        """Register the first of *args* as `atexit.register` does, which refuses what is wrong."""
        result = self._register(*args, **kwargs)
        self._callbacks.append((args[0], (*args[1:], *kwargs.values())))
        return result

    def unregister(self, /, *args: Any, **kwargs: Any) -> None:
        """Unregister the one of *args* as `atexit.unregister` does."""
        self._unregister(*args, **kwargs)
        self._callbacks = [each for each in self._callbacks if each[0] != args[0]]

    def pending(self, folder: Folder) -> bool:
        """Whether a callback of the code under test waits for the end.

        :param folder: Tells the code under test from the standard library and the
            machinery, whose callbacks remove nothing but what they were given.
        """
        codes = (_code(func) for func, _ in self._callbacks)
        return any(code and folder.show(System.abspath(code.co_filename)) for code in codes)

    def paths(self) -> set[str]:
        """Return the absolute paths that some callback knows now."""
        return set(self.scheduled_removals())

    def scheduled_removals(self) -> Iterator[str]:
        """Yield the paths that :meth:`paths` returns, those of the youngest callbacks first."""
        for callbacks in (_of_weakref(), self._callbacks, _of_multiprocessing()):
            for func, arguments in reversed(callbacks):
                paths: set[str] = set()
                # These may be anybody's objects, and do anything when they are asked.
                with suppress(Exception):
                    paths.update(_paths_in((func, *arguments)))
                yield from paths - self._standing


def _of_multiprocessing() -> list[tuple[Any, tuple[Any, ...]]]:
    """Return the callbacks that multiprocessing runs at exit; it asks `atexit` for one alone."""
    util = sys.modules.get("multiprocessing.util")
    registry = getattr(util, "_finalizer_registry", {})
    return [
        (finalizer._callback, (*finalizer._args, *finalizer._kwargs.values()))  # noqa: SLF001
        for (priority, _), finalizer in list(registry.items())
        if priority is not None
    ]


def _of_weakref() -> list[tuple[Any, tuple[Any, ...]]]:
    """Return the callbacks of finalizers that run at exit at the latest."""
    alive = ((each, each.peek()) for each in _finalizers())
    return [
        (peeked[1], (*peeked[2], *peeked[3].values()))
        for each, peeked in alive
        # Temporary directories are asked themselves: not every one of them wants to go.
        if peeked is not None and each.atexit and not isinstance(peeked[0], _DIRECTORIES)
    ]


def _finalizers() -> list[weakref.finalize[Any, Any]]:
    """Return those that are alive, oldest first."""
    return list(getattr(weakref.finalize, "_registry", ()))


def _code(func: Any) -> CodeType | None:
    """Return the code that a callback runs; None for a builtin."""
    while isinstance(func, functools.partial):
        func = func.func
    func = getattr(func, "__func__", func)
    if not hasattr(func, "__code__"):
        func = type(func).__call__
    return getattr(func, "__code__", None)


def _paths_in(values: Iterable[Any], depth: int = 2) -> Iterator[str]:
    """Yield the absolute paths among *values*, and among what these hold."""
    for value in values:
        if isinstance(value, (str, bytes, os.PathLike)):
            path = System.fsdecode(value)
            if System.isabs(path):
                yield System.normpath(path)
        elif depth:
            yield from _paths_in(_parts(value), depth - 1)


def _parts(value: object) -> Iterable[Any]:
    """Return what a collection, a partial, a function or a bound method holds."""
    if isinstance(value, dict):
        return (*value, *value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, MethodType):
        return (value.__self__, *getattr(value.__self__, "__dict__", {}).values())
    return _seen_by(value) if isinstance(value, FunctionType) else ()


def _seen_by(function: FunctionType) -> Iterator[Any]:
    """Yield what a function finds without being given it: defaults, outer names and globals."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    names = function.__code__.co_names
    yield from (function.__globals__[name] for name in names if name in function.__globals__)
    for cell in function.__closure__ or ():
        # A name that was not assigned yet has an empty cell.
        with suppress(ValueError):
            yield cell.cell_contents


class LiveDirectories:
    """The temporary directories that remove themselves when they go, or at exit.

    A suite may keep thousands, and every leak asks for all: so each is asked once for its path.
    """

    def __init__(self) -> None:
        self._paths: dict[weakref.finalize[Any, Any], str] = {}

    def scheduled_removals(self) -> Iterator[str]:
        """Yield the paths that they will remove, those of the youngest first."""
        alive = _finalizers()
        if len(self._paths) > _MOST_DEAD + 2 * len(alive):
            self._paths.clear()
        for finalizer in reversed(alive):
            path = self._paths.get(finalizer) or self._ask(finalizer)
            if path is not None:
                yield path

    def _ask(self, finalizer: weakref.finalize[Any, Any]) -> str | None:
        directory = (finalizer.peek() or (None,))[0]
        path = _promise(directory) if isinstance(directory, _DIRECTORIES) else None
        if path is not None:
            self._paths[finalizer] = path
        return path


def removed_by_handlers(callbacks: ExitCallbacks | None) -> set[str]:
    """Return the paths that exit handlers and finalizers will remove: what is cheap to tell."""
    paths = callbacks.paths() if callbacks is not None else set()
    return paths.union(LiveDirectories().scheduled_removals())


def removed_by_objects(things: Iterable[object]) -> Iterator[str]:
    """Yield the paths that *things* will remove when they go."""
    kinds = (*_CLOSERS, *_DIRECTORIES)
    for thing in things:
        if issubclass(type(thing), kinds):
            path = _promise(thing)
            if path is not None:
                yield path


def removed_at_exit(callbacks: ExitCallbacks | None) -> set[str]:
    """Return the paths that a live object or an exit callback will remove.

    This asks the garbage collector for all objects, which takes some tenths of a
    second in a large process: call it only when there is a suspect.
    """
    paths = callbacks.paths() if callbacks is not None else set()
    return paths.union(removed_by_objects(gc.get_objects()))


def _promise(thing: Any) -> str | None:
    """Return the path that *thing* will remove when it goes."""
    try:
        removes = _deletes(thing) if isinstance(thing, _CLOSERS) else _removes(thing)
        return absolute(thing.name) if removes else None
    except Exception:  # noqa: BLE001 -- somebody's subclass may be half made, or have other ideas
        return None


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
    inside = System.join(root, "")
    for thing in gc.get_objects():
        if issubclass(type(thing), _CLOSERS) and _deletes(thing):
            with suppress(Exception):
                if System.fsdecode(thing.name).startswith(inside):
                    getattr(thing, "cleanup", thing.close)()


#: Asking who will clean up takes longer the more promises there are: this many seconds, and this
#: share of the session's time, may go into it.
_FREE_SECONDS: Final = 0.5
_SHARE: Final = 0.01


class Provisional:
    """The entries that somebody may still remove.

    A worker that dies takes its fixtures and exit handlers with it, so such an entry travels
    as evidence, and once more, as it is, when nobody is left who will remove it.

    :param promised: Returns the paths that exit handlers will remove.
    """

    def __init__(self, removed_at_exit: Callable[[], set[str]]) -> None:
        self._promised = removed_at_exit
        #: What its owner may still remove, and what an exit handler or an object may.
        self._in_use: dict[Owner, list[Entry]] = {}
        self._open: list[Entry] = []
        #: The paths that no report has told of yet, and whose wider owners are over.
        self._over: set[str] = set()
        #: Whether some of `_open` were not asked about when it was their turn.
        self._is_behind = False
        self._started = System.monotonic()
        self._spent = 0.0

    def told(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return what to tell now, as it may stand if nothing more is heard of this process.

        :param entries: What nobody was told of before.
        :returns: These, and those of before whom nobody will remove any more.
        """
        told, doubtful = [], []
        for entry in entries:
            if entry.from_failed or entry.ignored:
                told.append(entry)
            elif _is_wide(entry.owner) and entry.path not in self._over:
                self._in_use.setdefault(entry.owner, []).append(entry)
                told.append(entry._replace(from_failed=True))
            else:
                doubtful.append(entry)
        self._over.clear()
        if doubtful or self._is_behind:
            told += self._judged(doubtful)
        return told

    def over(self, owner: Owner, untold: Iterable[Entry]) -> None:
        """Know that *owner* has had every chance to remove what it left.

        :param untold: The entries that have not been told yet.
        """
        if not _is_wide(owner):
            return
        self._over.update(entry.path for entry in untold if entry.owner == owner)
        due = self._in_use.pop(owner, [])
        if due:
            self._open += due
            self._is_behind = True

    def rest(self) -> list[Entry]:
        """Return what is still there at the end of a process that has not died."""
        rest = [*chain.from_iterable(self._in_use.values()), *self._open]
        return [entry for entry in rest if exists(entry.path)]

    def _judged(self, entries: list[Entry]) -> list[Entry]:
        """Return what to tell of *entries*, and of those that were open before; in doubt they are.

        Who is not asked for now, because asking has taken too long, is asked later.
        """
        before = System.monotonic()
        self._is_behind = self._spent > _FREE_SECONDS + _SHARE * (before - self._started)
        if self._is_behind:
            self._open += entries
            return [entry._replace(from_failed=True) for entry in entries]
        is_open = self._judge()
        were_open, self._open = self._open, []
        told = []
        for entry in entries:
            told.append(entry._replace(from_failed=is_open(entry)))
            if told[-1].from_failed:
                self._open.append(entry)
        for entry in were_open:
            if exists(entry.path):
                (self._open if is_open(entry) else told).append(entry)
        self._spent += System.monotonic() - before
        return told

    def _judge(self) -> Callable[[Entry], bool]:
        """Return what tells whether an exit handler or an open file may still remove an entry."""
        scheduled_removals, inodes = self._promised(), _open_inodes()
        return lambda entry: is_deferred(entry, scheduled_removals) or _inode(entry) in inodes


def _is_wide(owner: Owner) -> bool:
    """Whether *owner* goes on when the test's report is made."""
    return owner.kind in ("collection", "session") or owner.scope not in (None, "function")


def _inode(entry: Entry) -> tuple[int, int] | None:
    try:
        status = System.lstat(entry.path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open_inodes() -> set[tuple[int, int]]:
    """Return the files that this process has open: an object may hold one and remove it."""
    found = set()
    with suppress(OSError):
        for name in System.listdir("/dev/fd"):
            with suppress(OSError, ValueError):
                status = System.fstat(int(name))
                found.add((status.st_dev, status.st_ino))
    return found
