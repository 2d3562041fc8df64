"""How is the verdict told? The exit status, the files and the hook; the terminal prints later."""

from __future__ import annotations

from collections.abc import Iterable
import sys

import pytest

from pytest_tempres.course import has_looked
from pytest_tempres.course import no_longer
from pytest_tempres.hosts import platform_name
from pytest_tempres.leaks import baseline
from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import Leak
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.summary import SessionFacts
from pytest_tempres.reports.summary import Summary
from pytest_tempres.state import SessionState

__all__ = ["conclude", "may_not_pass", "write_files"]


def conclude(state: SessionState, session: pytest.Session, leaks: tuple[Leak, ...]) -> None:
    """Set the exit status, write the files and tell other plugins."""
    gate = session.exitstatus == pytest.ExitCode.OK and may_not_pass(state, leaks)
    # Asks for the exit status that the tests have.
    gone = no_longer(state, session, leaks)
    if gate:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    summary = _summary(state, session, leaks, gone, gate=gate)
    state.summary = summary
    if state.settings.update_baseline is not None:
        _update_baseline(state, summary)
    write_files(state, summary)
    state.config.hook.pytest_tempres_summary(config=state.config, summary=summary)


def may_not_pass(state: SessionState, leaks: Iterable[Leak]) -> bool:
    """Whether a run with these leaks must not end with status 0."""
    return (
        state.settings.leaks in ("fail", "strict")
        and state.settings.update_baseline != "all"
        and any(leak.status == "leak" for leak in leaks)
    )


def _summary(
    state: SessionState,
    session: pytest.Session,
    leaks: tuple[Leak, ...],
    gone: list[Known],
    *,
    gate: bool,
) -> Summary:
    elsewhere = state.elsewhere.values()
    return Summary(
        session=_facts(state, int(session.exitstatus)),
        root=state.root.path,
        leaks=leaks,
        kept=(*state.kept, *(kept for each in elsewhere for kept in each.kept)),
        artifacts=state.artifacts,
        stale=tuple(gone),
        hosts={each.worker: each.host for each in elsewhere},
        other_roots=tuple(each.root for each in elsewhere if each.root),
        abandoned=tuple(each.root for each in elsewhere if each.root and not each.judged),
        gate_failed=gate,
    )


def _facts(state: SessionState, status: int) -> SessionFacts:
    return SessionFacts(
        id=System.basename(state.root.path),
        rootdir=str(state.config.rootpath),
        started=state.started,
        seconds=round(System.monotonic() - state.began, 3),
        exit_status=status,
        python=sys.version.split(maxsplit=1)[0],
        pytest=pytest.__version__,
        platform=platform_name(),
        workers=tuple(state.workers) or (state.worker.name,),
    )


def _update_baseline(state: SessionState, summary: Summary) -> None:
    found = {
        leak.fingerprint: baseline.Known.of(leak)
        for leak in summary.leaks
        if leak.status in ("leak", "known")
    }
    if state.settings.update_baseline == "shrink":
        gone = {known.fingerprint for known in summary.stale}
        found = {key: known for key, known in state.baseline.items() if key not in gone}
    path = state.settings.baseline or ""
    if not has_looked(state):
        state.warn("baseline", f"the baseline {path} was not written: nothing was looked for")
        return
    try:
        baseline.write(path, found.values())
    except OSError as error:
        state.warn("baseline", f"the baseline {path} was not written: {error}")


def write_files(state: SessionState, summary: Summary) -> None:
    """Write the reports that are files; one that cannot be written becomes a warning."""
    targets = [target for target in state.settings.reports if target.type == "json"]
    if not targets:
        return
    from pytest_tempres.reports import jsonfile  # noqa: PLC0415 -- formats load when used

    text = jsonfile.render(summary)
    for target in targets:
        try:
            with System.open_file(target.destination or "", "w", encoding="ascii") as file:
                file.write(text)
        except OSError as error:
            state.warn(f"json {target.destination}", f"the JSON report was not written: {error}")
