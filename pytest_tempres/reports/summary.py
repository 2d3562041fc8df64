"""The one record that every report is a function of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
import os
from typing import NamedTuple

from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import Leak
from pytest_tempres.reports.shown import raw
from pytest_tempres.reports.shown import shown
from pytest_tempres.workspace.retention import Kept

__all__ = ["SessionFacts", "Summary", "Totals", "raw", "shown"]


class SessionFacts(NamedTuple):
    """What is known of the session itself."""

    id: str
    rootdir: str
    #: ISO 8601, in UTC.
    started: str
    seconds: float
    exit_status: int
    python: str
    pytest: str
    platform: str
    workers: tuple[str, ...]


class Totals(NamedTuple):
    """The counts of a session; `leaks` and `bytes` count what is a leak alone."""

    leaks: int
    known: int
    deferred: int
    from_failed: int
    bytes: int
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a session left behind and what it kept."""

    session: SessionFacts
    #: The session root: what lies in it is removed, what lies elsewhere is left where it is.
    root: str
    leaks: tuple[Leak, ...]
    kept: tuple[Kept, ...]
    #: Known leaks that are gone, though their owners ran to the end.
    stale: tuple[Known, ...] = ()
    #: The session roots of workers that do not see the controller's: they clear up themselves.
    other_roots: tuple[str, ...] = ()
    #: Whether the leaks changed the exit status.
    gate_failed: bool = False

    def root_of(self, path: str) -> str | None:
        """Return the session root that *path* lies in, None where it lies elsewhere."""
        roots = (self.root, *self.other_roots)
        return next((root for root in roots if path.startswith(os.path.join(root, ""))), None)

    @property
    def totals(self) -> Totals:
        """The counts, made anew from the records."""
        count = Counter(leak.status for leak in self.leaks)
        size = sum(leak.bytes for leak in self.leaks if leak.status == "leak")
        return Totals(
            count["leak"],
            count["known"],
            count["deferred"],
            count["failed-test"],
            size,
            len(self.kept),
        )
