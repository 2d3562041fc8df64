"""What the reports for people count as one finding, and the order in which they list findings."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

from pytest_tempres.leaks.model import MODIFICATIONS
from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Status
from pytest_tempres.reports.summary import Summary

__all__ = ["Finding", "by_origin", "by_owner", "combine", "findings", "rank"]


class Finding(NamedTuple):
    """A leak, together with the descriptors that still hold it open."""

    leak: Leak
    #: ``fd 14``, for each descriptor of the same owner.
    held_by: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What the path is besides left: ``is still open (fd 14)``, ``was deleted``, or empty."""
        if self.leak.kind in MODIFICATIONS:
            return f"was {self.leak.kind}"
        return f"is still open ({', '.join(self.held_by)})" if self.held_by else ""


class _Target(NamedTuple):
    """What a leak is about: the path itself, or the path that a descriptor holds open."""

    owner: Owner
    worker: str
    path: str


def findings(summary: Summary, status: Status = "leak") -> list[Finding]:
    """Return the findings of *summary* with this *status*."""
    leaks = [leak for leak in summary.leaks if leak.status == status]
    return combine(leaks, (summary.root, *summary.other_roots))


def combine(leaks: Sequence[Leak], roots: Iterable[str]) -> list[Finding]:
    """Return the findings: a path and the descriptors that hold it open are one.

    :param roots: The session roots.
    """
    names = [root[max(root.rfind("/"), root.rfind("\\")) + 1 :] for root in roots]
    holders: dict[_Target, list[str]] = {}
    paths = {_target(leak, names) for leak in leaks if _has_path(leak)}
    for leak in leaks:
        target = _target(leak, names)
        if leak.kind in WITHOUT_PATH and target in paths:
            holders.setdefault(target, []).append(leak.path.partition(":")[0])
    return [
        Finding(leak, tuple(holders.get(target, ())) if _has_path(leak) else ())
        for leak in leaks
        if (target := _target(leak, names)) not in holders or _has_path(leak)
    ]


def _has_path(leak: Leak) -> bool:
    return leak.kind not in (*MODIFICATIONS, *WITHOUT_PATH)


def _target(leak: Leak, names: list[str]) -> _Target:
    path = leak.path
    if leak.kind in WITHOUT_PATH:
        # A report that was read back has only the description: `fd 14: /path`.
        path = leak.entry.path if leak.entry.path != path else path.partition(": ")[2]
    for name in names:
        # The kernel names the target of a descriptor without links, the scan with them. What
        # comes before the random name of a session root does not matter.
        for separator in ("/", "\\"):
            _, found, inner = path.partition(f"{separator}{name}{separator}")
            if found:
                return _Target(leak.owner, leak.entry.worker, f"{name}/{inner}")
    return _Target(leak.owner, leak.entry.worker, path)


def by_owner(found: Iterable[Finding]) -> list[tuple[Owner, list[Finding]]]:
    """Return the findings of each owner, the owner of the most bytes first."""
    groups: dict[Owner, list[Finding]] = {}
    for finding in found:
        groups.setdefault(finding.leak.owner, []).append(finding)
    return sorted(groups.items(), key=lambda group: rank(group[1]))


def by_origin(found: Iterable[Finding]) -> list[list[Finding]]:
    """Return the findings of the same lines of code together, the largest group first."""
    groups: dict[tuple[tuple[Frame, ...], str], list[Finding]] = {}
    for finding in found:
        # A note without descriptors, which differ for each finding.
        key = finding.leak.entry.origin, finding.note.partition(" (")[0]
        groups.setdefault(key, []).append(finding)
    return sorted(groups.values(), key=rank)


def rank(found: Sequence[Finding]) -> tuple[int, int]:
    """Return the key that sorts groups of findings by their bytes, then by their number."""
    return -sum(each.leak.bytes for each in found), -len(found)
