"""Was somebody accused who cleaned up after the verdict? The report is put right."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pytest_tempres.conclusion import write_files
from pytest_tempres.leaks.model import DEEDS
from pytest_tempres.leaks.model import WITHOUT_PATH
from pytest_tempres.leaks.model import Leak
from pytest_tempres.notices import write_late
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.shown import shown
from pytest_tempres.reports.summary import Summary
from pytest_tempres.state import SessionState

__all__ = ["correct", "open_to_correction"]


def open_to_correction(summary: Summary) -> set[str]:
    """Return the paths that were called leaks, and that nobody of ours has removed yet.

    What lies on another host's disk cannot be looked at, and of a deed or a description it
    says nothing that nothing lies there.
    """
    return {
        leak.path
        for leak in summary.leaks
        if leak.status == "leak"
        and leak.kind not in (*DEEDS, *WITHOUT_PATH)
        and summary.is_here(leak)
    }


def correct(state: SessionState, paths: Collection[str]) -> None:
    """Say which of *paths* somebody has removed since, and correct the JSON report.

    :param paths: What :func:`open_to_correction` returned, and nobody of ours has removed.
    """
    summary = state.summary
    if summary is None:
        return
    gone = {path for path in paths if not System.lexists(path)}
    if not gone:
        return
    state.summary = replace(summary, leaks=tuple(_put_right(leak, gone) for leak in summary.leaks))
    write_files(state, state.summary)
    lines = "".join(f"  {shown(path, controls=True)}\n" for path in sorted(gone))
    write_late(f"pytest-tempres: reported as left, but removed at the end:\n{lines}")


def _put_right(leak: Leak, gone: Collection[str]) -> Leak:
    return leak._replace(status="deferred") if leak.path in gone else leak
