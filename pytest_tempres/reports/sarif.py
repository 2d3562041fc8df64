"""The SARIF report, version 2.1.0, for code scanning."""

from __future__ import annotations

from json import dumps
from typing import Any
from typing import Final
from urllib.parse import quote

from pytest_tempres import __version__
from pytest_tempres.leaks.model import MODIFICATIONS
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.reports import wording
from pytest_tempres.reports.escape import escaped
from pytest_tempres.reports.escape import raw
from pytest_tempres.reports.escape import sarif
from pytest_tempres.reports.places import absolute
from pytest_tempres.reports.places import in_repository
from pytest_tempres.reports.places import place
from pytest_tempres.reports.summary import Summary

__all__ = ["render"]

_SCHEMA: Final = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_HOME: Final = "https://github.com/pytest-tempres/pytest-tempres"
#: The name of the repository's directory in URIs.
_BASE: Final = "SRCROOT"
#: Bits of the exit status: no tests were collected, or tests failed; pytest itself did not fail.
_RAN: Final = (0, 1, 5)
_RULES: Final = {
    "file": "A temporary file was not removed.",
    "directory": "A temporary directory was not removed.",
    "symlink": "A symbolic link in the temp location was not removed.",
    "socket": "A socket in the temp location was not removed.",
    "fifo": "A named pipe in the temp location was not removed.",
    "descriptor": "A file descriptor was not closed.",
    "changed": "A path in a watched directory was changed.",
    "deleted": "A path in a watched directory was deleted.",
}


def render(summary: Summary) -> str:
    """Return the leaks of *summary* as JSON text, in ASCII."""
    leaks = [leak for leak in summary.leaks if leak.status in ("leak", "known")]
    has_baseline = bool(summary.stale or summary.totals.known)
    run = {
        "tool": {"driver": _driver()},
        "invocations": [_invocation(summary)],
        "originalUriBaseIds": {_BASE: {"uri": f"{_repository(summary)}/"}},
        "results": [_result(summary, leak, has_baseline=has_baseline) for leak in leaks],
    }
    return dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _driver() -> dict[str, Any]:
    rules = [
        {
            "id": _rule_id(kind),
            "shortDescription": {"text": text},
            "fullDescription": {"text": f"{text} {_advice(kind)}"},
            "help": {"text": _advice(kind)},
            "helpUri": f"{_HOME}/blob/main/docs/leaks.md",
            "defaultConfiguration": {"level": "warning"},
        }
        for kind, text in _RULES.items()
    ]
    return {
        "name": "pytest-tempres",
        "version": __version__,
        "informationUri": _HOME,
        "rules": rules,
    }


def _advice(kind: str) -> str:
    """Return what to do about a leak, which GitHub's code scanning shows beside it."""
    if kind == "descriptor":
        return "Close the file where it is opened, for example with a `with` statement."
    if kind in MODIFICATIONS:
        return (
            "Let the test work on a copy, for example in the directory of the fixture `temp_dir`."
        )
    return (
        "Remove it where it is created, or create it with a context manager or a fixture that "
        "removes it, such as `temp_dir`."
    )


def _rule_id(kind: str) -> str:
    return f"tempres-{kind}"


def _invocation(summary: Summary) -> dict[str, Any]:
    session = summary.session
    return {
        "executionSuccessful": session.exit_status in _RAN,
        "exitCode": session.exit_status,
        "startTimeUtc": escaped(session.started).replace("+00:00", "Z"),
    }


def _result(summary: Summary, leak: Leak, *, has_baseline: bool) -> dict[str, Any]:
    known = leak.status == "known"
    level = "error" if summary.leaks_fail else "warning"
    result: dict[str, Any] = {
        "ruleId": _rule_id(leak.kind),
        "level": "note" if known else level,
        "message": {"text": sarif(wording.sentence(summary, leak))},
        "partialFingerprints": {"tempres/v1": leak.fingerprint},
        **_locations(summary, leak),
    }
    if leak.kind in _RULES:
        result["ruleIndex"] = list(_RULES).index(leak.kind)
    if known:
        justification = "The leak is listed in the baseline."
        result["suppressions"] = [{"kind": "external", "justification": justification}]
    if has_baseline:
        result["baselineState"] = "unchanged" if known else "new"
    return result


def _locations(summary: Summary, leak: Leak) -> dict[str, Any]:
    """Return the line that is annotated, and the calls that led to the leak."""
    where = place(summary, leak)
    owner = {"fullyQualifiedName": escaped(leak.owner.id, controls=True)}
    location: dict[str, Any] = {"logicalLocations": [owner]}
    if where is not None:
        physical = {"artifactLocation": _inside(where.file), "region": {"startLine": where.line}}
        location["physicalLocation"] = physical
    calls = [_call(summary, frame) for frame in leak.entry.origin]
    others = [
        call for call in calls if call["physicalLocation"] != location.get("physicalLocation")
    ]
    related = [{"id": number, **call} for number, call in enumerate(others, 1)]
    return {"locations": [location], **({"relatedLocations": related} if related else {})}


def _call(summary: Summary, frame: Frame) -> dict[str, Any]:
    file = in_repository(summary, frame.file)
    where = _inside(file) if file is not None else {"uri": _uri(absolute(summary, frame.file))}
    text = f"in {escaped(frame.function, controls=True)}"
    return {
        "physicalLocation": {
            "artifactLocation": where,
            "region": {"startLine": max(frame.line, 1)},
        },
        "message": {"text": sarif(text)},
    }


def _inside(file: str) -> dict[str, str]:
    return {"uri": quote(raw(file)), "uriBaseId": _BASE}


def _repository(summary: Summary) -> str:
    directory = summary.repository or summary.session.rootdir
    return _uri(absolute(summary, directory).rstrip("/"))


def _uri(path: str) -> str:
    """Return the URI of an absolute path with ``/``."""
    slash = "" if path.startswith("/") or not path else "/"
    return f"file://{slash}{quote(raw(path), safe='/' if not slash else '/:')}"
