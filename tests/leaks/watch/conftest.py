from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path

import pytest
from watch_suite import WatchSuite

from pytest_tempres.leaks.temp import scan


@pytest.fixture(autouse=True)
def is_within_budget(monkeypatch):
    """Listings are never skipped, also on a busy machine."""
    monkeypatch.setattr(scan.Scan, "is_within_budget", lambda scanner: True)


@pytest.fixture
def top(tmp_path) -> Path:
    """A watched directory with some contents."""
    top = tmp_path / "repo"
    (top / "src").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "src/c.py"):
        (top / name).write_text(f"text of {name}")
        # An old mtime, so that any later change differs from it.
        os.utime(top / name, ns=(10**18, 10**18))
    return top


@pytest.fixture
def suite(top) -> WatchSuite:
    """A suite in one process, without listings."""
    return WatchSuite(top)


@pytest.fixture
def make(top) -> Callable[..., WatchSuite]:
    """Return a suite with other options."""
    return lambda **options: WatchSuite(top, **options)
