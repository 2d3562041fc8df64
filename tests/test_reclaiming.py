from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from pytest_tempres import reclaiming
from pytest_tempres.workspace.sweep import Reclaimed


@pytest.mark.parametrize("who", [{"swept": True}, {"joined": True}, {"pid": os.getpid() + 1}])
def test_only_the_session_itself_sweeps_and_only_once(monkeypatch, who):
    """Neither a worker nor a forked child removes anything of others, and nobody does it twice."""
    monkeypatch.setattr(reclaiming, "sweep", None)
    state = SimpleNamespace(**{"swept": False, "joined": False, "pid": os.getpid(), **who})
    assert reclaiming.reclaim(state) == Reclaimed()
