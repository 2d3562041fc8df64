"""Annotations of GitHub Actions: workflow commands in the output of the job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports import wording
from pytest_tempres.reports.escape import command_data
from pytest_tempres.reports.escape import command_property
from pytest_tempres.reports.escape import escaped
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
    groups: dict[tuple[Place | None, Owner], list[Leak]] = {}
    for leak in summary.leaks:
        if leak.status == "leak":
            groups.setdefault((place(summary, leak), leak.owner), []).append(leak)
    for (where, owner), leaks in list(groups.items())[:_MOST]:
        yield _command(summary, where, owner, leaks)
    rest = list(groups.values())[_MOST:]
    if rest:
        number = wording.count(sum(len(leaks) for leaks in rest), "more leak")
        places = wording.count(len(rest), "place")
        yield f"::notice title=pytest-tempres::{number} from {places} are not annotated"


def _command(summary: Summary, where: Place | None, owner: Owner, leaks: list[Leak]) -> str:
    level = "error" if summary.leaks_fail else "warning"
    file = escaped(where.file, controls=True) if where else ""
    position = f"file={command_property(file)},line={where.line}," if where else ""
    title = command_property(_title(leaks))
    text = command_data("\n".join(_message(summary, owner, leaks)))
    return f"::{level} {position}title={title}::{text}"


def _title(leaks: list[Leak]) -> str:
    return f"Left behind: {wording.amount(leaks)}"


def _message(summary: Summary, owner: Owner, leaks: list[Leak]) -> Iterator[str]:
    yield f"{wording.name(owner)} left:"
    for leak in leaks[:_PATHS]:
        yield f"  {wording.where(summary, leak)}"
    if len(leaks) > _PATHS:
        yield f"  and {len(leaks) - _PATHS:,} more"
    created = list(wording.origin(leaks[0]))[:_FRAMES]
    if created:
        yield "created by:"
        yield from (f"  {line}" for line in created)
