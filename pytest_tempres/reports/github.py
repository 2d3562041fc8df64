"""Annotations of GitHub Actions: workflow commands in the output of the job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pytest_tempres.leaks.model import MODIFICATIONS
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports import wording
from pytest_tempres.reports.escape import command_data
from pytest_tempres.reports.escape import command_property
from pytest_tempres.reports.escape import escaped
from pytest_tempres.reports.findings import Finding
from pytest_tempres.reports.findings import findings
from pytest_tempres.reports.findings import rank
from pytest_tempres.reports.places import Place
from pytest_tempres.reports.places import place
from pytest_tempres.reports.summary import Summary

__all__ = ["commands"]

#: GitHub shows this many annotations of each level for a step.
_MOST: Final = 10
_PATHS: Final = 5
_FRAMES: Final = 10


def commands(summary: Summary) -> Iterator[str]:
    """Yield the workflow commands, one line each: one for each line of code and owner.

    Leaks that fail the session are errors, others are warnings.
    """
    groups: dict[tuple[Place | None, Owner], list[Finding]] = {}
    for finding in findings(summary):
        key = place(summary, finding.leak), finding.leak.owner
        groups.setdefault(key, []).append(finding)
    largest_first = sorted(groups.items(), key=lambda group: rank(group[1]))
    for (where, owner), found in largest_first[:_MOST]:
        yield _command(summary, where, owner, found)
    rest = largest_first[_MOST:]
    if rest:
        number = wording.count(sum(len(found) for _, found in rest), "more leak")
        places = wording.count(len(rest), "place")
        yield f"::notice title=pytest-tempres::{number} from {places} are not annotated"


def _command(summary: Summary, where: Place | None, owner: Owner, found: list[Finding]) -> str:
    level = "error" if summary.leaks_fail else "warning"
    file = escaped(where.file, controls=True) if where else ""
    position = f"file={command_property(file)},line={where.line}," if where else ""
    amount = wording.amount([each.leak for each in found])
    title = command_property(f"{amount[:1].upper()}{amount[1:]}")
    head = f"{wording.name(owner)} {amount}:"
    text = command_data("\n".join((head, *_message(summary, found))))
    return f"::{level} {position}title={title}::{text}"


def _message(summary: Summary, found: list[Finding]) -> Iterator[str]:
    for each in found[:_PATHS]:
        yield f"  {wording.where(summary, each.leak)} {each.note}".rstrip()
    if len(found) > _PATHS:
        yield f"  and {len(found) - _PATHS:,} more"
    created = list(wording.origin(found[0].leak))[:_FRAMES]
    if created:
        yield "changed by:" if found[0].leak.kind in MODIFICATIONS else "created by:"
        yield from (f"  {line}" for line in created)
