from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_tempres.session import cleanup
from pytest_tempres.workspace.sweep import Reclaimed


@pytest.mark.parametrize(
    "swept, joined, is_forked",
    [(True, False, False), (False, True, False), (False, False, True)],
)
def test_only_the_session_process_sweeps_and_only_once(monkeypatch, swept, joined, is_forked):
    """Neither a worker nor a forked child sweeps dead sessions."""
    monkeypatch.setattr(cleanup, "sweep", None)
    state = SimpleNamespace(
        result=SimpleNamespace(swept=swept),
        workspace=SimpleNamespace(joined=joined, is_forked=is_forked),
    )
    assert cleanup.sweep_dead_sessions(state) == Reclaimed()
