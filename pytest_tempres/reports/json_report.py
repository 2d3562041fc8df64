"""The JSON report, version 1, for CI and other programs."""

from __future__ import annotations

import base64
from json import dumps
from json import loads
from typing import Any
from typing import Final
from typing import get_args

from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import MODIFICATIONS
from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import OwnerKind
from pytest_tempres.leaks.model import Phase
from pytest_tempres.leaks.model import Process
from pytest_tempres.leaks.model import Status
from pytest_tempres.reports.escape import escaped
from pytest_tempres.reports.escape import raw
from pytest_tempres.reports.fields import Fields
from pytest_tempres.reports.summary import SessionFacts
from pytest_tempres.reports.summary import Summary
from pytest_tempres.workspace.retention import Artifacts
from pytest_tempres.workspace.retention import Kept

__all__ = ["KINDS", "VERSION", "parse", "render"]

#: The version of the format; it increases when programs that read it have to change.
VERSION: Final = 1
#: The kinds of leaks.
KINDS: Final = (
    *("file", "directory", "symlink", "socket", "fifo"),
    *WITHOUT_PATH,
    *MODIFICATIONS,
)


def render(summary: Summary) -> str:
    """Return *summary* as JSON text, in ASCII."""
    record = {
        "version": VERSION,
        "session": summary.session._asdict(),
        "totals": summary.totals._asdict(),
        "leaks": [_leak(leak) for leak in summary.leaks],
        "kept": [_kept(kept) for kept in summary.kept],
        **_path(summary.root, "root"),
        "gate_failed": summary.gate_failed,
        "leaks_fail": summary.leaks_fail,
        "repository": summary.repository,
        "stale": [known._asdict() for known in summary.stale],
        "artifacts": summary.artifacts and _artifacts(summary.artifacts),
        "hosts": dict(summary.hosts),
        "other_roots": [
            {**_path(root), "abandoned": root in summary.abandoned} for root in summary.other_roots
        ],
    }
    return dumps(_escaped(record), indent=1) + "\n"


def _leak(leak: Leak) -> dict[str, Any]:
    entry = leak.entry
    return {
        "kind": leak.kind,
        **_path(leak.path),
        "bytes": leak.bytes,
        "items": leak.items,
        "complete": leak.complete,
        "status": leak.status,
        "owner": entry.owner._asdict(),
        "test": entry.test,
        "phase": entry.phase,
        "origin": [frame._asdict() for frame in entry.origin],
        "made_by": entry.made_by,
        "command": entry.command,
        "processes": [
            {"command": each.command, "owner": each.owner._asdict()} for each in entry.processes
        ],
        "worker": entry.worker,
        **({} if entry.seen is None else {"seconds": entry.seen}),
        "fingerprint": leak.fingerprint,
    }


def _kept(kept: Kept) -> dict[str, Any]:
    return {
        "nodeid": kept.nodeid,
        **_path(kept.path),
        "reason": kept.reason,
        "artifact": kept.artifact,
        "worker": kept.worker,
    }


def _artifacts(artifacts: Artifacts) -> dict[str, Any]:
    return {**artifacts._asdict(), **_path(artifacts.directory, "directory")}


def _path(path: str, key: str = "path") -> dict[str, str]:
    text = escaped(path)
    if text == path:
        return {key: path}
    return {key: text, f"{key}_bytes": base64.b64encode(raw(path)).decode("ascii")}


def _escaped(value: Any) -> Any:
    """Return a JSON value with each of its strings as :func:`escaped` returns it."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {escaped(key): _escaped(each) for key, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, (list, tuple)) else value


def parse(text: str) -> Summary:
    """Return the summary that a JSON report was made from.

    Text that is no UTF-8 remains escaped in it, except for paths. Keys that this version does not
    know are ignored, and those that it added to the first reports may be missing.

    :raises ValueError: If *text* is not JSON, not a report of this plugin, of a newer version, or
        incomplete; the message says which.
    """
    report = _decode(text)
    roots = report.each("other_roots", lambda each: (each.path(), each.flag("abandoned")), [])
    hosts = report.object("hosts") if "hosts" in report else Fields({})
    return Summary(
        session=_read_session(report.object("session")),
        root=report.path("root") if "root" in report else "",
        leaks=report.each("leaks", _read_leak),
        kept=report.each("kept", _read_kept),
        stale=report.each("stale", _read_known, []),
        hosts={worker: hosts.text(worker) for worker in hosts},
        other_roots=tuple(path for path, _ in roots),
        abandoned=tuple(path for path, abandoned in roots if abandoned),
        artifacts=_read_artifacts(report),
        gate_failed=report.flag("gate_failed", default=False),
        leaks_fail=report.flag("leaks_fail", default=False),
        repository=report.text_or_none("repository"),
    )


def _decode(text: str) -> Fields:
    try:
        value = loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not JSON: {error}") from error
    if not isinstance(value, dict) or not value.keys() >= {"version", "session", "leaks", "kept"}:
        raise ValueError("this is not a JSON report of pytest-tempres, or not all of it")
    report = Fields(value)
    version = report.number("version")
    if version != VERSION:
        advice = "; use a newer pytest-tempres" if version > VERSION else ""
        raise ValueError(f"the report has version {version}, not {VERSION}{advice}")
    return report


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number in JSON")


def _read_session(session: Fields) -> SessionFacts:
    return SessionFacts(
        id=session.text("id"),
        rootdir=session.text("rootdir"),
        started=session.text("started"),
        seconds=session.real("seconds"),
        exit_status=session.number("exit_status"),
        python=session.text("python"),
        pytest=session.text("pytest"),
        platform=session.text("platform"),
        workers=session.texts("workers"),
    )


def _read_leak(leak: Fields) -> Leak:
    path = leak.path()
    return Leak(
        kind=leak.choice("kind", KINDS),
        path=path,
        bytes=leak.number("bytes"),
        items=leak.number("items"),
        complete=leak.flag("complete"),
        status=leak.choice("status", get_args(Status)),
        entry=_read_entry(leak, path),
        reported_fingerprint=leak.text("fingerprint"),
    )


def _read_entry(leak: Fields, path: str) -> Entry:
    return Entry(
        path=path,
        owner=_read_owner(leak.object("owner")),
        test=leak.text_or_none("test"),
        phase=leak.choice("phase", get_args(Phase)) if "phase" in leak else None,
        origin=leak.each("origin", _read_frame),
        made_by=leak.choice("made_by", ("python", "other")),
        command=leak.text_or_none("command"),
        worker=leak.text("worker"),
        seen=leak.real("seconds") if "seconds" in leak else None,
        processes=leak.each("processes", _read_process, []),
    )


def _read_owner(owner: Fields) -> Owner:
    return Owner(
        kind=owner.choice("kind", get_args(OwnerKind)),
        id=owner.text("id"),
        scope=owner.text_or_none("scope"),
        location=owner.text_or_none("location"),
    )


def _read_frame(frame: Fields) -> Frame:
    return Frame(frame.text("file"), frame.number("line"), frame.text("function"))


def _read_process(process: Fields) -> Process:
    return Process(process.text("command"), _read_owner(process.object("owner")))


def _read_kept(kept: Fields) -> Kept:
    return Kept(
        nodeid=kept.text("nodeid"),
        path=kept.path(),
        reason=kept.text("reason"),
        worker=kept.text("worker"),
        artifact=kept.text_or_none("artifact"),
    )


def _read_known(known: Fields) -> Known:
    return Known(*(known.text(key) for key in Known._fields))


def _read_artifacts(report: Fields) -> Artifacts | None:
    if "artifacts" not in report:
        return None
    artifacts = report.object("artifacts")
    return Artifacts(
        directory=artifacts.path("directory"),
        directories=artifacts.number("directories"),
        files=artifacts.number("files"),
        bytes=artifacts.number("bytes"),
        skipped=artifacts.number("skipped"),
        manifest=artifacts.text_or_none("manifest"),
    )
