"""What must still be done when the interpreter exits, after everybody else?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
import sys
import weakref

from pytest_tempres.primitives._process import shared
from pytest_tempres.primitives._system import System

__all__ = ["at_exit", "hand_over"]

_Duties = list[tuple[int, Callable[[], object]]]


def hand_over(duty: Callable[[], object]) -> None:
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
