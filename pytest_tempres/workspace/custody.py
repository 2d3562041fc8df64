"""Which session roots must still go when the interpreter exits?"""

from __future__ import annotations

from collections.abc import Callable
import os
from typing import Final
import weakref

from pytest_tempres.workspace.root import SessionRoot

__all__ = ["at_exit", "hand_over"]

_roots: Final[list[SessionRoot]] = []


class _Anchor:
    """Something that lives as long as the process and can have a finalizer."""


_anchor: Final = _Anchor()


def hand_over(root: SessionRoot) -> None:
    """Leave *root*, in which others still have to clean up, to the end of the process."""
    _roots.append(root)


def at_exit(settle: Callable[[str], object]) -> None:
    """Dissolve the roots handed over, after every exit handler registered from now on.

    A `weakref.finalize` does this better than `atexit.register`: all finalizers
    run at the exit position of the first one ever made, the youngest first. So
    those of temporary directories made later come before ours in either case.

    :param settle: Called with each root's path first, to let go of what only
        module teardown would release.
    """
    weakref.finalize(_anchor, _dissolve_all, settle)


def _dissolve_all(settle: Callable[[str], object]) -> None:
    while _roots:
        root = _roots.pop()
        if root.pid == os.getpid():
            settle(root.path)
            root.dissolve()
