"""The JSON report, version 1, for CI and other programs."""

from __future__ import annotations

import base64
from json import dumps
from typing import Any
from typing import Final

from pytest_tempres.leaks.model import Leak
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.summary import escaped
from pytest_tempres.reports.summary import raw
from pytest_tempres.workspace.retention import Kept

__all__ = ["VERSION", "render"]

#: The version of the format; it increases when programs that read it have to change.
VERSION: Final = 1


def render(summary: Summary) -> str:
    """Return *summary* as JSON text, in ASCII."""
    record = {
        "version": VERSION,
        "session": {**summary.session._asdict(), "rootdir": escaped(summary.session.rootdir)},
        "totals": summary.totals._asdict(),
        "leaks": [_leak(leak) for leak in summary.leaks],
        "kept": [_kept(kept) for kept in summary.kept],
    }
    return dumps(record, indent=1) + "\n"


def _leak(leak: Leak) -> dict[str, Any]:
    entry = leak.entry
    return {
        "kind": leak.kind,
        **_path(leak.path),
        "bytes": leak.bytes,
        "items": leak.items,
        "complete": leak.complete,
        "status": leak.status,
        "owner": {
            "kind": entry.owner.kind,
            "id": escaped(entry.owner.id),
            "scope": entry.owner.scope,
            "location": entry.owner.location and escaped(entry.owner.location),
        },
        "phase": entry.phase,
        "origin": [frame._replace(file=escaped(frame.file))._asdict() for frame in entry.origin],
        "made_by": entry.made_by,
        "worker": entry.worker,
        **({} if entry.seen is None else {"seconds": entry.seen}),
        "fingerprint": leak.fingerprint,
    }


def _kept(kept: Kept) -> dict[str, Any]:
    return {
        "nodeid": escaped(kept.nodeid),
        **_path(kept.path),
        "reason": kept.reason,
        "artifact": kept.artifact and escaped(kept.artifact),
        "worker": kept.worker,
    }


def _path(path: str) -> dict[str, str]:
    text = escaped(path)
    if text == path:
        return {"path": path}
    return {"path": text, "path_bytes": base64.b64encode(raw(path)).decode("ascii")}
