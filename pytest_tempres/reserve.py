"""Descriptors held for the end of the session, in case a test uses up all others."""

from __future__ import annotations

from typing import Final

from pytest_tempres.primitives._system import System
from pytest_tempres.state import SessionState
from pytest_tempres.workspace import lock

__all__ = ["hold", "release"]

#: As many as the end of a session ever has open at the same time.
_NUMBER: Final = 6


def hold(state: SessionState) -> None:
    """Open the descriptors; forked children and executed programs do not have them."""
    if not System.by_descriptor:
        # Windows has no such limit.
        return
    try:
        # Nobody else opens this directory, so it can be told from what tests open.
        state.reserve.append(lock.guard(System.open(state.root.path, System.to_hold)))
        while len(state.reserve) < _NUMBER:
            state.reserve.append(lock.guard(System.dup(state.reserve[0])))
    except OSError:
        # There are too few already; the end does with what it finds.
        return


def release(state: SessionState) -> None:
    """Close the descriptors, so that there are some again."""
    while state.reserve:
        lock.release(state.reserve.pop())
