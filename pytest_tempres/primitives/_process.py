"""The process-wide hooks: audit events, forks and exit.

None of them can be removed again, so each is installed once in a process, even if this package is
imported again: pytester and others remove modules from `sys.modules`.
"""

from __future__ import annotations

from contextlib import suppress
import os
import sys
from typing import TYPE_CHECKING
from typing import Any
from typing import Final
from typing import TypeVar
import weakref

from pytest_tempres.primitives._system import System

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable

    _Listener = Callable[[str, tuple[Any, ...]], object]
    _Listeners = dict[str, tuple[_Listener, ...]]
    _AtFork = list[weakref.ref[Callable[[], object]]]
    _Callbacks = list[tuple[int, Callable[[], object]]]

__all__ = [
    "AUDIT_HOOK",
    "after_fork_in_child",
    "call_at_exit",
    "install_exit_finalizer",
    "listen",
    "shared",
    "stop_listening",
]

_T = TypeVar("_T")

#: The attribute of `sys` for the data of the hooks, since there is one `sys` in each interpreter.
#: Another version of this package may share it, so a name in it must not change its meaning.
_ATTRIBUTE: Final = "_pytest_tempres_hooks"
#: The name of the audit hook's function, by which it is recognised in a stack.
AUDIT_HOOK: Final = "pytest_tempres_audit_hook"


def shared(name: str, make: Callable[[], _T], install: Callable[[_T], object]) -> _T:
    """Return the object *name* that all imports of this package in this process share.

    The first call creates it with *make*, and calls *install* with it.
    """
    hooks: dict[str, Any] = vars(sys).setdefault(_ATTRIBUTE, {})
    if name not in hooks:
        created = make()
        install(created)
        hooks[name] = created
    found: _T = hooks[name]
    return found


# -- audit events


def listen(events: Iterable[str], listener: _Listener) -> None:
    """Call *listener* with each of *events* from now on; a second call may add more events."""
    listeners = _listeners()
    for event in events:
        others = listeners.get(event, ())
        if listener not in others:
            listeners[event] = (*others, listener)


def stop_listening(listener: _Listener) -> None:
    """Stop calling *listener*."""
    listeners = _listeners()
    for event, current in list(listeners.items()):
        listeners[event] = tuple(each for each in current if each is not listener)


def _listeners() -> _Listeners:
    created: _Listeners = shared("audit", dict, _install_audit_hook)
    return created


def _install_audit_hook(listeners: _Listeners) -> None:
    # A process raises thousands of events, and most have no listener: this must be one look-up.
    def pytest_tempres_audit_hook(event: str, args: tuple[Any, ...]) -> None:
        if event in listeners:
            for listener in listeners[event]:
                listener(event, args)

    sys.addaudithook(pytest_tempres_audit_hook)


# -- forks


def after_fork_in_child(function: Callable[[], object]) -> None:
    """Call *function* in forked children, as long as its module is in use."""
    at_fork: _AtFork = shared("fork", list, _install_at_fork)
    at_fork[:] = [each for each in at_fork if each() is not None]
    at_fork.append(weakref.ref(function))


def _install_at_fork(at_fork: _AtFork) -> None:
    def call() -> None:
        for each in at_fork:
            function = each()
            if function is not None:
                function()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call)


# -- exit


def call_at_exit(callback: Callable[[], object]) -> None:
    """Call *callback* when this process exits; a forked child does not call it."""
    _callbacks().append((System.getpid(), callback))


def install_exit_finalizer() -> None:
    """Have the callbacks run after every exit handler that is registered from now on.

    A `weakref.finalize` does this better than `atexit.register`: all finalizers run at the exit
    position of the first one ever created, the youngest first. So the finalizers of temporary
    directories that are created later run before this one in any case.
    """
    _callbacks()


def _callbacks() -> _Callbacks:
    callbacks: _Callbacks = shared("exit", list, _install_finalizer)
    return callbacks


def _install_finalizer(callbacks: _Callbacks) -> None:
    # No object lives longer than the `sys` module.
    weakref.finalize(sys, _run_all, callbacks)


def _run_all(callbacks: _Callbacks) -> None:
    while callbacks:
        pid, callback = callbacks.pop()
        # At this point there is no way left to report an error.
        with suppress(Exception):
            if pid == System.getpid():
                callback()
