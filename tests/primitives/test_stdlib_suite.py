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


@pytest.mark.skipif(not HAS_TESTS, reason="this Python has no test package")
def test_all_tests_of_public_names_pass(tmp_path, record_property):
    """Only tests of private names are left out, and all those names still exist."""
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
    report = json.loads(done.stdout.splitlines()[-1])
    record_property("found", report["found"])
    record_property("run", report["run"])
    assert report["failed"] == [], report["log"]
    assert report["stale"] == []
    # Other tests need Windows, BSD flags or a user other than root.
    reasons = ("Only on Windows", "chflags", "can't set the directory read-only")
    assert all(any(why in line for why in reasons) for line in report["skipped"])
    assert report["run"] > 0.6 * report["found"]
