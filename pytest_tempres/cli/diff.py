"""Compares two JSON reports: which leaks are new, and which are fixed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from pytest_tempres.cli.inputs import read_report
from pytest_tempres.cli.output import Output
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import base_id
from pytest_tempres.reports.layout import frame_line
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.wording import amount
from pytest_tempres.reports.wording import owner_name
from pytest_tempres.reports.wording import printable

__all__ = ["compare", "run"]

_NEW_LEAKS: Final = 1
_Groups = dict[str, list[Leak]]


def run(old: str, new: str, output: Output) -> int:
    """List the leaks that only one of the reports has; return the exit status."""
    before, after = read_report(old), read_report(new)
    added, fixed, unchanged = compare(before, after)
    _write("new", added, output, "red")
    _write("fixed", fixed, output, "green")
    title = f"{len(added)} new, {len(fixed)} fixed, {unchanged} unchanged"
    output.sep("=", title, **{"red" if added else "green": True})
    return _NEW_LEAKS if added else 0


def compare(old: Summary, new: Summary) -> tuple[_Groups, _Groups, int]:
    """Return the new and the fixed leaks by fingerprint, and the number of those in both.

    A known leak is a leak too. What a failed test has left is neither new nor fixed: it is unknown
    whether the test would have left it if it had passed.
    """
    before, after = _leaks(old), _leaks(new)
    return (
        _without(after, {leak.fingerprint for leak in old.leaks if leak.status != "deferred"}),
        _without(before, {leak.fingerprint for leak in new.leaks if leak.status != "deferred"}),
        len(before.keys() & after.keys()),
    )


def _leaks(summary: Summary) -> _Groups:
    groups: _Groups = {}
    for leak in summary.leaks:
        if leak.status in ("leak", "known"):
            groups.setdefault(leak.fingerprint, []).append(leak)
    return groups


def _without(groups: _Groups, fingerprints: Collection[str]) -> _Groups:
    return {key: leaks for key, leaks in groups.items() if key not in fingerprints}


def _write(word: str, groups: _Groups, output: Output, colour: str) -> None:
    for fingerprint, leaks in groups.items():
        output.line(f"{word}: {_owner(leaks)} {amount(leaks)}", **{colour: True})
        frames = leaks[0].entry.origin[:1]
        place = frame_line(frames[0]) if frames else "made by unknown code"
        output.line(f"  {place}  [{printable(fingerprint)}]")


def _owner(leaks: list[Leak]) -> str:
    """Return the name of the owner; without parameters, if it is a test with several of them."""
    owners = {leak.owner for leak in leaks}
    owner = leaks[0].owner
    return owner_name(owner if len(owners) == 1 else owner._replace(id=base_id(owner.id)))
