from __future__ import annotations

import secrets

from kill_harness import Harness
from kill_processes import unavailable
import pytest

#: The long form, with hundreds of kills, is a program: see kill_harness.py.
KILLS = 8


def test_killed_sessions_leave_nothing_for_long_and_harm_nobody(tmp_path_factory):
    """After kills at any instant, one clean session leaves only evidence and what is foreign."""
    if why := unavailable():
        pytest.skip(why)
    # Another one each time: what goes wrong names the seed that shows it again.
    harness = Harness(tmp_path_factory.mktemp("kill"), secrets.randbelow(1_000_000))
    harness.run(KILLS)
    assert harness.figures.kills == KILLS
