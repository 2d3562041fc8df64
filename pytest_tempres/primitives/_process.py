"""The hooks of a process that nobody can take back: one of each kind, however often it imports us.

pytester and others take modules out of `sys.modules` and import them again.
"""

from __future__ import annotations

from collections.abc import Callable
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

__all__ = [
    "AUDIT_HOOK",
    "after_fork_in_child",
    "at_exit",
    "call_at_exit",
    "listen",
    "shared",
    "stop_listening",
]

_T = TypeVar("_T")

#: The attribute of `sys`, which every interpreter has once, for what the hooks work on. Another
#: version of this package may share it, so what stands there under a name keeps its meaning.
_ATTRIBUTE: Final = "_pytest_tempres_hooks"
#: How the function of the audit hook is called, for who reads a stack.
AUDIT_HOOK: Final = "pytest_tempres_audit_hook"


def shared(name: str, make: Callable[[], _T], install: Callable[[_T], object]) -> _T:
    """Return what all imports of this package in this process share.

    :param name: What it is called.
    :param make: Makes it when it is first asked for.
    :param install: Installs the hook that works on it, once.
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
    """Have *listener* called with each of *events*; a second call may add more of them."""
    listeners = _listeners()
    for event in events:
        others = listeners.get(event, ())
        if listener not in others:
            listeners[event] = (*others, listener)


def stop_listening(listener: _Listener) -> None:
    """Have *listener* called no more."""
    listeners = _listeners()
    for event, them in list(listeners.items()):
        listeners[event] = tuple(each for each in them if each is not listener)


def _listeners() -> _Listeners:
    created: _Listeners = shared("audit", dict, _install_audit_hook)
    return created


def _install_audit_hook(listeners: _Listeners) -> None:
    # Every process raises thousands of events, and most concern nobody: one look-up tells.
    def pytest_tempres_audit_hook(event: str, args: tuple[Any, ...]) -> None:
        if event in listeners:
            for listener in listeners[event]:
                listener(event, args)

    sys.addaudithook(pytest_tempres_audit_hook)


# -- forks


def after_fork_in_child(function: Callable[[], object]) -> None:
    """Have *function* called in forked children, for as long as anybody can use its module."""
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


_Duties = list[tuple[int, Callable[[], object]]]


def call_at_exit(duty: Callable[[], object]) -> None:
    """Leave *duty* to the end of this process; a forked child does not do it."""
    _duties().append((System.getpid(), duty))


def at_exit() -> None:
    """Do what was handed over after every exit handler that is registered from now on.

    A `weakref.finalize` does this better than `atexit.register`: all finalizers
    run at the exit position of the first one ever made, the youngest first. So
    those of temporary directories made later come before ours in either case.
    """
    _duties()


def _duties() -> _Duties:
    duties: _Duties = shared("exit", list, _do_all_at_exit)
    return duties


def _do_all_at_exit(duties: _Duties) -> None:
    # Nothing lives longer than this module.
    weakref.finalize(sys, _do_all, duties)


def _do_all(duties: _Duties) -> None:
    while duties:
        pid, duty = duties.pop()
        # At this point nobody is left to be told.
        with suppress(Exception):
            if pid == System.getpid():
                duty()
