"""The plan of a kill, and the figures of all kills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from kill_ledger import Ledger

__all__ = ["STEPS", "Figures", "Plan", "Point"]

#: The step that a session had reached, by the last letter that it wrote.
STEPS = {
    "": "before the tests are collected",
    "c": "collecting",
    "t": "in the tests",
    "f": "finishing",
    "r": "reporting",
    "u": "after the report",
}


class Point(NamedTuple):
    """An exact point that a process reached when it was not killed."""

    role: str
    name: str
    times: int


class Plan(NamedTuple):
    """How one session is run and killed."""

    number: int
    workers: bool
    suites: tuple[str, ...]
    options: tuple[str, ...]
    victim: str
    #: The time of the kill, as a fraction of the session's duration; or its exact point.
    instant: float
    point: Point | None
    #: Selects the visit to the point, and the worker, as fractions of their numbers.
    choice: float

    def __str__(self) -> str:
        """Describe the plan in one line, for the message of a failure."""
        workers = "-n2" if self.workers else "plain"
        where = self.point.name if self.point else f"{self.instant:.0%} of its duration"
        what = " ".join((*self.suites, *self.options))
        return f"session {self.number} ({workers}, {what}): {self.victim} killed at {where}"


class Figures:
    """The numbers of sessions and kills."""

    def __init__(self) -> None:
        self.sessions = 0
        self.victims: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        self.missed = 0
        self.longest_orphan = 0.0

    @property
    def kills(self) -> int:
        """The number of sessions that were killed."""
        return sum(self.victims.values())

    def lines(self, ledger: Ledger, seed: int, remaining: str) -> Iterator[str]:
        """Yield the lines of the report."""
        yield f"seed {seed}: {self.sessions} sessions, {self.kills} killed"
        yield "  ended before it could be killed: " + str(self.missed)
        yield "  victims: " + _listed(self.victims)
        yield "  where random instants hit: " + _listed(self.steps)
        yield f"  exact points hit: {self.points.total()} kills at {len(self.points)} points"
        for name, times in sorted(self.points.items()):
            yield f"    {times:3} {name}"
        yield f"  longest time that a worker outlived its controller: {self.longest_orphan:.1f} s"
        yield (
            f"  roots left by killed sessions or kept: {ledger.roots} "
            f"(unfinished {len(ledger.unfinished)}, with kept paths {ledger.kept_sessions}); "
            f"reclaimed: {ledger.reclaimed}"
        )
        yield "  remaining: " + remaining


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {times}" for name, times in sorted(counter.items()))
