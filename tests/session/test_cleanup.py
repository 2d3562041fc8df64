from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from pytest_tempres.session import cleanup
from pytest_tempres.workspace.sweep import Reclaimed


@pytest.mark.parametrize(
    "swept, joined, pid", [(True, False, 0), (False, True, 0), (False, False, 1)]
)
def test_only_the_session_process_sweeps_and_only_once(monkeypatch, swept, joined, pid):
    """Neither a worker nor a forked child sweeps dead sessions."""
    monkeypatch.setattr(cleanup, "sweep", None)
    state = SimpleNamespace(
        result=SimpleNamespace(swept=swept),
        workspace=SimpleNamespace(joined=joined, pid=os.getpid() + pid),
    )
    assert cleanup.reclaim(state) == Reclaimed()
