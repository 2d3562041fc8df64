"""How much is looked through before somebody is accused? All of memory, or what is new in it."""

from __future__ import annotations

from collections.abc import Iterator
import gc
from itertools import chain

from pytest_tempres.primitives._system import System

__all__ = ["Garbage"]

#: A full collection takes longer the more a session holds: this many seconds, and this share of
#: the session's CPU time, may go into them where less is enough for what a test has made.
_FREE_SECONDS = 0.2
_SHARE = 0.02


class Garbage:
    """Collects garbage, and finds objects, before somebody is accused.

    What a test makes is young as long as no collection has made old what survived it. The
    interpreter counts those, so it is known whether a look at what is young is enough. What is
    older than the test can hold what the test made only where the test gave it away.
    """

    def __init__(self) -> None:
        self._started = System.process_time()
        self._spent = 0.0
        self._counted: int | None = None

    def begin(self) -> None:
        """Take it that only what is made from now on may be to blame."""
        self._counted = _collections_of_what_is_not_young()

    def end(self) -> None:
        """Take it that everything may be to blame again."""
        self._counted = None

    def collect(self) -> None:
        """Collect all garbage; what is young alone where that is enough, and all has cost much."""
        before = System.process_time()
        has_cost_much = self._spent > _FREE_SECONDS + _SHARE * (before - self._started)
        if has_cost_much and self._all_is_young():
            gc.collect(1)
            return
        gc.collect()
        self._spent += System.process_time() - before

    def objects(self) -> Iterator[object]:
        """Yield the objects that may be to blame, the young ones first, and perhaps others."""
        young = (gc.get_objects(generation) for generation in (0, 1))
        yield from chain.from_iterable(young)
        if not self._all_is_young():
            yield from gc.get_objects()

    def _all_is_young(self) -> bool:
        return self._counted == _collections_of_what_is_not_young()


def _collections_of_what_is_not_young() -> int:
    return sum(each["collections"] for each in gc.get_stats()[1:])
