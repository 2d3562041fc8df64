"""What comes of a test? Its directories stay or go when its last report is there."""

from __future__ import annotations

from pytest_tempres.attempts import after_crash
from pytest_tempres.attempts import book
from pytest_tempres.carrying import unload
from pytest_tempres.keeping import dispose
from pytest_tempres.keeping import remove
from pytest_tempres.keeping import settle_due
from pytest_tempres.keeping import used
from pytest_tempres.owners import end_test
from pytest_tempres.owners import look
from pytest_tempres.state import CurrentTest
from pytest_tempres.state import Lending
from pytest_tempres.state import SessionState

__all__ = ["settle"]


def settle(state: SessionState, completed: bool) -> None:
    """Remove what a test was given, or keep it: after its last report, outside all teardown.

    :param completed: False when the test was interrupted: its fixtures are torn
        down at the end of the session then, and what it was given has to wait.
    """
    current, state.current = state.current, None
    if current is None:
        return
    current.failed = current.item.session.testsfailed != current.failures
    for report in current.reports:
        unload(report)
    if current.failed:
        _settle_failure(state, current)
    if not completed and state.ledger is not None:
        # It had no chance to clean up.
        state.ledger.stumbled.add(state.ledger.running.owner)
        state.ledger.mark_as_evidence(look(state, state.ledger))
    if not state.travels:
        book(state, current)
    for made in current.earlier:
        remove(state, made)
    if current.made and completed:
        policy = _policy(state, current)
        nodeid = current.item.nodeid
        dispose(state, nodeid, current.made, failed=current.failed, policy=policy)
    elif current.made:
        state.due.append(Lending("", current.made, current.item.nodeid, current.failed))
    if state.due and completed:
        settle_due(state)
    end_test(state)


def _settle_failure(state: SessionState, current: CurrentTest) -> None:
    nodeid = current.item.nodeid
    if not current.accused:
        state.failed.add(nodeid)
    if not current.started:
        after_crash(state, current)
    for lending in used(state, current.item):
        lending.failed, lending.nodeid = True, nodeid


def _policy(state: SessionState, current: CurrentTest) -> str:
    if not current.reports:
        # They are collected only where somebody wants to decide.
        return state.settings.keep
    item = current.item
    try:
        answers = item.ihook.pytest_tempres_keep(item=item, reports=tuple(current.reports))
    except Exception as error:  # noqa: BLE001 -- it is somebody else's code
        state.warn("keep", f"pytest_tempres_keep failed: {error!r}")
        answers = []
    return "hook" if any(answers) else state.settings.keep
