"""The interpreter's own tests of ``tempfile``, run against our primitives."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

from pytest_tempres import primitives

HAS_TESTS = importlib.util.find_spec("test") is not None and bool(
    importlib.util.find_spec("test.test_tempfile")
)


@pytest.mark.skipif(not HAS_TESTS, reason="this interpreter came without its test package")
def test_everything_public(tmp_path, record_property):
    """Nothing fails; what is left out tests private names, and each such name exists."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("stdlib_suite.py")), str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(primitives.__file__).parents[2]),
            "TMPDIR": str(tmp_path),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    record_property("found", told["found"])
    record_property("run", told["run"])
    assert told["failed"] == [], told["log"]
    assert told["stale"] == []
    # Of the rest, Windows and BSD flags apart, a superuser's denial can't be had.
    reasons = ("Only on Windows", "chflags", "can't set the directory read-only")
    assert all(any(why in line for why in reasons) for line in told["skipped"])
    assert told["run"] > 0.6 * told["found"]
