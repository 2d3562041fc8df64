"""The summary of a session, the one record from which every report is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Final
from typing import NamedTuple

from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import Leak
from pytest_tempres.workspace.retention import Artifacts
from pytest_tempres.workspace.retention import Kept

__all__ = ["SessionFacts", "Summary", "Totals"]

_SEPARATORS: Final = ("/", "\\")


class SessionFacts(NamedTuple):
    """The facts about the session itself."""

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
    """The counts of a session; `leaks` and `bytes` count only leaks with the status ``leak``."""

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
    #: The session root. Leaks inside it are removed, leaks outside it are not.
    root: str
    leaks: tuple[Leak, ...]
    kept: tuple[Kept, ...]
    #: Known leaks that did not occur, though their owners ran to the end.
    stale: tuple[Known, ...] = ()
    #: The hosts of the workers that cannot access the controller's root, by worker name. Their
    #: paths are on another disk and written as `host:path`.
    hosts: Mapping[str, str] = field(default_factory=dict)
    #: The session roots of these workers, as `host:path`; each worker removes its own.
    other_roots: tuple[str, ...] = ()
    #: Those of `other_roots` whose workers crashed, or were stopped before they could report.
    abandoned: tuple[str, ...] = ()
    #: The totals of the copies of `kept`; None without --tempres-artifacts, or if that failed.
    artifacts: Artifacts | None = None
    #: Whether the leaks changed the exit status.
    gate_failed: bool = False
    #: Whether a leak fails a session with these options, if nothing else has failed it.
    leaks_fail: bool = False
    #: The directory of the repository that contains rootdir; rootdir if there is none.
    repository: str | None = None

    def root_of(self, path: str) -> str | None:
        """Return the session root that contains *path*, or None."""
        roots = (self.root, *self.other_roots)
        return next((root for root in roots if _is_in(path, root)), None)

    def is_here(self, leak: Leak) -> bool:
        """Whether *leak* is on this host and not on that of a remote worker."""
        return leak.entry.worker not in self.hosts

    @property
    def totals(self) -> Totals:
        """The counts, computed from the records."""
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


def _is_in(path: str, directory: str) -> bool:
    # The path may be from a host with the other separator.
    return path.startswith(directory) and path[len(directory) :][:1] in _SEPARATORS
