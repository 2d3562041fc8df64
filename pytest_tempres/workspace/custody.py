"""What must still be done when the interpreter exits, after everybody else?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final
import weakref

from pytest_tempres.primitives._system import System

__all__ = ["at_exit", "hand_over"]

_duties: Final[list[tuple[int, Callable[[], object]]]] = []


class _Anchor:
    """Something that lives as long as the process and can have a finalizer."""


_anchor: Final = _Anchor()


def hand_over(duty: Callable[[], object]) -> None:
    """Leave *duty* to the end of this process; a forked child does not do it."""
    _duties.append((System.getpid(), duty))


def at_exit() -> None:
    """Do what was handed over after every exit handler that is registered from now on.

    A `weakref.finalize` does this better than `atexit.register`: all finalizers
    run at the exit position of the first one ever made, the youngest first. So
    those of temporary directories made later come before ours in either case.
    """
    weakref.finalize(_anchor, _do_all)


def _do_all() -> None:
    while _duties:
        pid, duty = _duties.pop()
        # At this point nobody is left to be told.
        with suppress(Exception):
            if pid == System.getpid():
                duty()
