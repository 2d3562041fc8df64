"""What is to be done to a session, and what was done to all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from kill_ledger import Ledger

__all__ = ["STEPS", "Figures", "Plan", "Point"]

#: How far a session came, by the last letter that it wrote.
STEPS = {
    "": "before the tests are collected",
    "c": "collecting",
    "t": "in the tests",
    "f": "finishing",
    "r": "reporting",
    "u": "after the report",
}


class Point(NamedTuple):
    """An exact point that some process came to when nobody was killed."""

    role: str
    name: str
    times: int


class Plan(NamedTuple):
    """What is to be done to one session."""

    number: int
    workers: bool
    suites: tuple[str, ...]
    options: tuple[str, ...]
    victim: str
    #: When, as a fraction of a session's life; or where.
    instant: float
    point: Point | None
    #: Which time the point is come to, and which worker dies.
    choice: float

    def __str__(self) -> str:
        """Say it in one line, for whoever looks for what went wrong."""
        how = "-n2" if self.workers else "plain"
        where = self.point.name if self.point else f"{self.instant:.0%} of its life"
        what = " ".join((*self.suites, *self.options))
        return f"session {self.number} ({how}, {what}): {self.victim} killed at {where}"


class Figures:
    """What happened."""

    def __init__(self) -> None:
        self.sessions = 0
        self.victims: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        self.missed = 0
        self.longest_orphan = 0.0

    @property
    def kills(self) -> int:
        """How many sessions were hit."""
        return sum(self.victims.values())

    def lines(self, ledger: Ledger, seed: int, remains: str) -> Iterator[str]:
        """Yield the report."""
        yield f"seed {seed}: {self.sessions} sessions, {self.kills} killed"
        yield "  ended before it could be killed: " + str(self.missed)
        yield "  victims: " + _listed(self.victims)
        yield "  where random instants hit: " + _listed(self.steps)
        yield f"  exact points hit: {self.points.total()} kills at {len(self.points)} points"
        for name, times in sorted(self.points.items()):
            yield f"    {times:3} {name}"
        yield f"  the longest life of an orphan: {self.longest_orphan:.1f} s"
        yield (
            f"  roots left by killed sessions or kept: {ledger.roots} "
            f"(unfinished {len(ledger.unfinished)}, with evidence {ledger.kept_sessions}); "
            f"reclaimed: {ledger.reclaimed}"
        )
        yield "  what remained: " + remains


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {times}" for name, times in sorted(counter.items()))
