from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports.summary import SessionFacts
from pytest_tempres.reports.summary import Summary

ROOT = "/tmp/tempres-abcdefgh"
TEST = Owner("test", "t.py::test", None, "t.py:3")


@pytest.fixture
def a_leak() -> Callable[..., Leak]:
    """Create a leak: a file of a test by default."""

    def a_leak(
        path: str = f"{ROOT}/main/x",
        *,
        kind: str = "file",
        size: int = 0,
        items: int = 1,
        complete: bool = True,
        status: str = "leak",
        owner: Owner = TEST,
        **entry: object,
    ) -> Leak:
        defaults = {"made_by": "python", "worker": "main", "origin": (Frame("t.py", 4, "test"),)}
        return Leak(
            kind, path, size, items, complete, status, Entry(path, owner, **{**defaults, **entry})
        )

    return a_leak


@pytest.fixture
def summarize() -> Callable[..., Summary]:
    """Create the summary of a session."""

    def summarize(*leaks: Leak, **more: object) -> Summary:
        facts = SessionFacts(
            id="tempres-abcdefgh",
            rootdir="/project",
            started="2026-01-02T03:04:05+00:00",
            seconds=1.5,
            exit_status=0,
            python="3.13.0",
            pytest="9.0.0",
            platform="Linux",
            workers=("main",),
        )
        defaults = {"session": facts, "root": ROOT, "kept": (), "gate_failed": False}
        return Summary(leaks=leaks, **{**defaults, **more})

    return summarize
