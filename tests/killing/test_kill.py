from __future__ import annotations

import secrets

from kill_harness import Harness
from kill_processes import unavailable
import pytest

#: To kill hundreds of sessions, run kill_harness.py.
KILLS = 8


def test_next_session_removes_only_what_killed_sessions_left(tmp_path_factory):
    """The kills happen at random times and at exact points of the plugin's file operations."""
    if why := unavailable():
        pytest.skip(why)
    # A new seed in each run; the message of a failure contains it.
    harness = Harness(tmp_path_factory.mktemp("kill"), secrets.randbelow(1_000_000))
    harness.run(KILLS)
    assert harness.figures.kills == KILLS
