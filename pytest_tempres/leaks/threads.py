"""The owners of threads: a path belongs to the owner that started the thread that created it.

A thread may outlive its test and run during other tests. This code inspects objects of the code
under test inside an audit hook, so it must not call their methods: threads are identified by
`id`, and attributes are read from the dictionaries of objects and classes.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
import sys
import threading
from types import CodeType
from types import FunctionType
from types import MethodType
from typing import Any
from typing import Final
from typing import NamedTuple
from typing import TypeVar
import weakref

from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.model import Work

__all__ = ["EVENTS", "Threads"]

_T = TypeVar("_T")

#: Raised in the thread that starts another one, since Python 3.12.
EVENTS: Final = frozenset({"_thread.start_joinable_thread", "_thread.start_new_thread"})
#: Whether this Python has them. Otherwise each scan looks for new threads.
_HAS_EVENTS: Final[bool] = sys.version_info[:2] > (3, 11)

#: Modules with thread pools: their threads run work of the current owner, not of their starter.
_POOLS: Final = (
    *("concurrent.futures.thread", "multiprocessing.pool"),
    *("anyio._backends._asyncio", "trio._core._thread_cache"),
    "twisted._threads._threadworker",
)

# Captured because tests replace these.
_active: Final[dict[int, threading.Thread]] = getattr(threading, "_active", {})
_get_ident = _thread.get_ident
_getframe = sys._getframe  # noqa: SLF001 -- the only way to get a stack; only CPython has to work
_Thread = threading.Thread
_Foreign = getattr(threading, "_DummyThread", None)
_attributes = vars(threading.Thread)["__dict__"].__get__
_class_attributes = vars(type)["__dict__"].__get__


class _Started(NamedTuple):
    """A thread with a Thread object."""

    thread: weakref.ref[threading.Thread]
    #: None if it belongs to the current owner.
    work: Work | None


class Threads:
    """The owner of each thread that was started in a session."""

    def __init__(self, running: Running) -> None:
        #: The last error, about which the session warns.
        self.error: Exception | None = None
        self._running = running
        self._started: dict[int, _Started] = {}
        #: Threads without a Thread object (`_thread.start_new_thread`), by the code that they run.
        self._without_object: dict[int, tuple[CodeType, Work | None]] = {}
        if not _HAS_EVENTS:
            self._catch_errors(self._add_new, None)

    def any_running(self) -> bool:
        """Whether there are threads that may outlive their owner."""
        return bool(self._without_object) or any(each.work for each in list(self._started.values()))

    def on_event(self, args: tuple[Any, ...], work: Work) -> None:
        """Record that a thread is about to start that belongs to *work*."""
        self._catch_errors(self._start, args[0], work)

    def scan(self) -> None:
        """Assign new threads to the current owner, where Python raises no event for them."""
        if not _HAS_EVENTS:
            self._catch_errors(self._add_new, self._running.work)

    def current_work(self) -> Work | None:
        """Return the work of the current thread; None for that of the current owner."""
        if self._started or self._without_object:
            return self._catch_errors(self._current_work)
        return None

    def assign_to_current_owner(self) -> None:
        """Always assign the current thread to the current owner, because it runs the tests."""
        if self._started:
            self._catch_errors(self._assign_to_current_owner)

    def _catch_errors(self, function: Callable[..., _T], *args: Any) -> _T | None:
        try:
            return function(*args)
        except Exception as error:  # noqa: BLE001 -- it would make the audited call fail
            self.error = error
            return None

    def _assign_to_current_owner(self) -> None:
        known = self._known(_active.get(_get_ident()))
        if known is not None and known.work is not None:
            self._started[id(known.thread())] = known._replace(work=None)

    def _start(self, function: Any, work: Work) -> None:
        thread: Any = function.__self__ if type(function) is MethodType else None
        if issubclass(type(thread), _Thread):
            self._add(thread, work)
            return
        python_function = _function_of(function)
        if python_function is not None:
            code = python_function.__code__
            _, known = self._without_object.get(id(code), (code, work))
            # Threads of several owners run the same function and cannot be distinguished.
            self._without_object[id(code)] = code, work if known == work else None

    def _add(self, thread: threading.Thread, work: Work | None) -> None:
        started, key = self._started, id(thread)
        reference = weakref.ref(thread, lambda _: started.pop(key, None))
        started[key] = _Started(reference, None if _is_of_pool(thread) else work)

    def _add_new(self, work: Work | None) -> None:
        for thread in list(_active.values()):
            if self._known(thread) is None:
                self._add(thread, None if type(thread) is _Foreign else work)

    def _known(self, thread: threading.Thread | None) -> _Started | None:
        known = self._started.get(id(thread))
        return known if known is not None and known.thread() is thread else None

    def _current_work(self) -> Work | None:
        known = self._known(_active.get(_get_ident()))
        if known is not None:
            return known.work
        if not self._without_object:
            return None
        return self._without_object.get(id(_outermost_code()), (None, None))[1]


def _is_of_pool(thread: threading.Thread) -> bool:
    """Whether the target or the class of *thread* is from a module with thread pools."""
    module: object = None
    target = _attributes(thread).get("_target")
    function = _function_of(target)
    if function is not None:
        module = dict.get(function.__globals__, "__name__")
    elif target is None:
        module = _class_attributes(type(thread)).get("__module__")
    return type(module) is str and module in _POOLS


def _function_of(function: object) -> FunctionType | None:
    """Return *function*, or the function of a method; None for other objects."""
    if type(function) is MethodType:
        function = function.__func__
    return function if type(function) is FunctionType else None


def _outermost_code() -> CodeType:
    frame = _getframe()
    while frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code
