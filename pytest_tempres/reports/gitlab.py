"""The Code Quality report of GitLab."""

from __future__ import annotations

from collections.abc import Iterable
from json import dumps
from typing import Any
from typing import Final

from pytest_tempres.leaks.model import Leak
from pytest_tempres.reports import wording
from pytest_tempres.reports.escape import escaped
from pytest_tempres.reports.places import Place
from pytest_tempres.reports.places import place
from pytest_tempres.reports.summary import Summary

__all__ = ["render"]

#: GitLab requires a path; this one is for what nothing in the repository created.
_NOWHERE: Final = Place(".", 1)


def render(summary: Summary) -> str:
    """Return the leaks of *summary* as JSON text, in ASCII."""
    leaks = [leak for leak in summary.leaks if leak.status in ("leak", "known")]
    fingerprints = _unique(leaks)
    issues = [
        _issue(summary, leak, fingerprint)
        for leak, fingerprint in zip(leaks, fingerprints, strict=True)
    ]
    return dumps(issues, indent=1) + "\n"


def _issue(summary: Summary, leak: Leak, fingerprint: str) -> dict[str, Any]:
    where = place(summary, leak) or _NOWHERE
    return {
        "description": wording.sentence(summary, leak),
        "check_name": f"tempres-{leak.kind}",
        "fingerprint": fingerprint,
        "severity": _severity(summary, leak),
        "location": {"path": escaped(where.file), "lines": {"begin": where.line}},
    }


def _severity(summary: Summary, leak: Leak) -> str:
    if leak.status == "known":
        return "info"
    return "major" if summary.leaks_fail else "minor"


def _unique(leaks: Iterable[Leak]) -> list[str]:
    """Return a fingerprint for each leak: GitLab shows only the first issue with the same one.

    Leaks with the same fingerprint are numbered in an order that no run changes.
    """
    leaks = list(leaks)
    result = [leak.fingerprint for leak in leaks]
    numbers: dict[str, int] = {}
    for index in sorted(range(len(leaks)), key=lambda index: _order(leaks[index])):
        number = numbers[result[index]] = numbers.get(result[index], 0) + 1
        if number > 1:
            result[index] = f"{result[index]}-{number}"
    return result


def _order(leak: Leak) -> tuple[object, ...]:
    """Return what distinguishes leaks with the same fingerprint, except for paths and lines."""
    entry = leak.entry
    calls = tuple((frame.file, frame.function) for frame in entry.origin)
    return entry.owner.id, entry.test or "", entry.phase or "", calls
