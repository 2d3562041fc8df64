"""The owners of threads: what a thread makes belongs to whoever started the thread.

A thread may go on after its test, and other tests run then. Objects of the code under test are
looked at here inside an audit hook, so none of their own methods may run: threads are known by
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

#: Raised in the thread that starts another one, by Python 3.12 and newer.
EVENTS: Final = frozenset({"_thread.start_joinable_thread", "_thread.start_new_thread"})
#: Whether there are such events. Otherwise new threads are looked for when an owner ends.
_IS_ANNOUNCED: Final[bool] = sys.version_info[:2] > (3, 11)

#: The modules whose threads work for whoever gives them work, and not for who started them.
_POOLS: Final = frozenset(
    {
        *("concurrent.futures.thread", "multiprocessing.pool"),
        *("anyio._backends._asyncio", "trio._core._thread_cache"),
        "twisted._threads._threadworker",
    }
)

# Captured because tests replace these.
_active: Final[dict[int, threading.Thread]] = getattr(threading, "_active", {})
_get_ident = _thread.get_ident
_getframe = sys._getframe  # noqa: SLF001 -- the one way to a stack; CPython alone is supported
_Thread = threading.Thread
_Foreign = getattr(threading, "_DummyThread", None)
_attributes = vars(threading.Thread)["__dict__"].__get__
_class_attributes = vars(type)["__dict__"].__get__


class _Started(NamedTuple):
    """A thread that has an object."""

    thread: weakref.ref[threading.Thread]
    #: None where it works for whoever is running.
    work: Work | None


class Threads:
    """For whom the threads work that were started in a session.

    :param running: Who is running.
    """

    def __init__(self, running: Running) -> None:
        #: What went wrong here, for somebody who can warn of it.
        self.error: Exception | None = None
        self._running = running
        self._started: dict[int, _Started] = {}
        #: What was started without an object for it, by the code that it runs.
        self._bare: dict[int, tuple[CodeType, Work | None]] = {}
        if not _IS_ANNOUNCED:
            self._try(self._find, None)

    def going_on(self) -> bool:
        """Whether there are threads that may outlast who started them."""
        return bool(self._bare) or any(each.work for each in list(self._started.values()))

    def on_event(self, args: tuple[Any, ...], work: Work) -> None:
        """Note that a thread is about to start that works for *work*."""
        self._try(self._start, args[0], work)

    def scan(self) -> None:
        """Note that whoever is running has started the threads that are new."""
        if not _IS_ANNOUNCED:
            running = self._running
            self._try(self._find, Work(running.owner, running.test, running.phase))

    def here(self) -> Work | None:
        """Return for whom the current thread works; None for whoever is running."""
        return self._try(self._here) if self._started or self._bare else None

    def release(self) -> None:
        """Let the current thread work for whoever is running: it runs the tests."""
        if self._started:
            self._try(self._release)

    def _try(self, function: Callable[..., _T], *args: Any) -> _T | None:
        try:
            return function(*args)
        except Exception as error:  # noqa: BLE001 -- it would break the call under test
            self.error = error
            return None

    def _release(self) -> None:
        known = self._known(_active.get(_get_ident()))
        if known is not None and known.work is not None:
            self._started[id(known.thread())] = known._replace(work=None)

    def _start(self, function: Any, work: Work) -> None:
        thread: Any = function.__self__ if type(function) is MethodType else None
        if issubclass(type(thread), _Thread):
            self._note(thread, work)
            return
        code = _code(function)
        if code is not None:
            _, known = self._bare.get(id(code), (code, work))
            # Several have started the same function: which of them this is cannot be told.
            self._bare[id(code)] = code, work if known == work else None

    def _note(self, thread: threading.Thread, work: Work | None) -> None:
        started, key = self._started, id(thread)
        reference = weakref.ref(thread, lambda _: started.pop(key, None))
        started[key] = _Started(reference, None if _is_of_pool(thread) else work)

    def _find(self, work: Work | None) -> None:
        for thread in list(_active.values()):
            if self._known(thread) is None:
                self._note(thread, None if type(thread) is _Foreign else work)

    def _known(self, thread: threading.Thread | None) -> _Started | None:
        known = self._started.get(id(thread))
        return known if known is not None and known.thread() is thread else None

    def _here(self) -> Work | None:
        known = self._known(_active.get(_get_ident()))
        if known is not None:
            return known.work
        return self._bare.get(id(_outermost_code()), (None, None))[1] if self._bare else None


def _is_of_pool(thread: threading.Thread) -> bool:
    """Whether *thread* runs a function, or is of a class, of a module that keeps a pool."""
    module: object = None
    target = _attributes(thread).get("_target")
    if type(target) is MethodType:
        target = target.__func__
    if type(target) is FunctionType:
        module = dict.get(target.__globals__, "__name__")
    elif target is None:
        module = _class_attributes(type(thread)).get("__module__")
    return type(module) is str and module in _POOLS


def _code(function: object) -> CodeType | None:
    """Return the code that *function* runs; None where it has none of its own."""
    if type(function) is MethodType:
        function = function.__func__
    return function.__code__ if type(function) is FunctionType else None


def _outermost_code() -> CodeType:
    frame = _getframe()
    while frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code
