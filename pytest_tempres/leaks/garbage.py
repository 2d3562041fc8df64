"""How often may all garbage be collected? Often enough to be fair, not so often that it costs."""

from __future__ import annotations

import gc

from pytest_tempres.primitives._system import System

__all__ = ["Garbage"]

#: A full collection takes longer the more a session holds: this many seconds, and this share of
#: the session's time, may go into them.
_FREE_SECONDS = 1.0
_SHARE = 0.05


class Garbage:
    """Collects garbage before somebody is accused."""

    def __init__(self) -> None:
        self._started = System.monotonic()
        self._spent = 0.0

    def collect(self) -> None:
        """Collect all garbage, or what is young once that has taken its share of the session."""
        before = System.monotonic()
        if self._spent > _FREE_SECONDS + _SHARE * (before - self._started):
            gc.collect(1)
            return
        gc.collect()
        self._spent += System.monotonic() - before
