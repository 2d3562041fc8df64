from __future__ import annotations

from collections.abc import Callable
import os

import pytest

from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Process
from pytest_tempres.reports.summary import SessionFacts
from pytest_tempres.reports.summary import Summary
from pytest_tempres.workspace.retention import Artifacts
from pytest_tempres.workspace.retention import Kept

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


@pytest.fixture
def example(a_leak, summarize) -> Summary:
    """A summary with something of everything, from which the files in `golden` are made."""
    chart = Owner(
        "test", "tests/test_chart.py::TestChart::test_draw[svg-1]", None, "tests/test_chart.py:9"
    )
    other = Owner(
        "test", "tests/test_chart.py::TestChart::test_draw[png-2]", None, "tests/test_chart.py:9"
    )
    database = Owner("fixture", "database", "module", "tests/conftest.py:20")
    module = Owner("collection", "tests/test_old.py")
    draw = (Frame("src/chart.py", 12, "draw"), Frame("tests/test_chart.py", 11, "test_draw"))
    installed = Frame("/venv/lib/python3.13/site-packages/lib.py", 7, "make")
    leaks = (
        a_leak(
            f"{ROOT}/gw0/chart-1",
            kind="directory",
            size=1234,
            items=2,
            owner=chart,
            origin=draw,
            test=chart.id,
            phase="call",
            worker="gw0",
        ),
        a_leak(
            f"{ROOT}/gw0/chart-2",
            kind="directory",
            size=1,
            items=1,
            owner=chart,
            origin=draw,
            test=chart.id,
            phase="call",
            worker="gw0",
        ),
        a_leak(
            f"{ROOT}/gw1/chart-3",
            kind="directory",
            size=99,
            complete=False,
            owner=other,
            origin=draw,
            test=other.id,
            phase="call",
            worker="gw1",
        ),
        a_leak(
            f"{ROOT}/gw0/sock|et <b>",
            kind="socket",
            owner=database,
            phase="setup",
            origin=(installed, Frame("tests/conftest.py", 22, "database")),
            worker="gw0",
        ),
        a_leak(
            "7 -> pipe:[123]",
            kind="descriptor",
            owner=chart,
            origin=(installed,),
            test=chart.id,
            worker="gw0",
        ),
        a_leak(
            os.fsdecode(b"/elsewhere/\xff.txt"),
            size=5_000_000,
            owner=module,
            origin=(Frame("tests/test_old.py", 3, "<module>"),),
            worker="gw0",
        ),
        a_leak(
            f"{ROOT}/gw1/core",
            size=7,
            owner=SESSION,
            origin=(),
            made_by="other",
            command="make all",
            processes=(Process("cc x.c", chart),),
            worker="gw1",
        ),
        a_leak(
            "/project/data/a.csv",
            kind="changed",
            owner=chart,
            origin=(),
            made_by="other",
            test=chart.id,
            worker="gw0",
        ),
        a_leak(
            "away:/tmp/tempres-remote00/gw2/far",
            size=10,
            owner=chart,
            origin=draw,
            test=chart.id,
            worker="gw2",
        ),
        a_leak(f"{ROOT}/gw0/old", size=3, status="known", owner=database, worker="gw0"),
        a_leak(f"{ROOT}/gw0/later", status="deferred", owner=chart, worker="gw0"),
        a_leak(f"{ROOT}/gw0/failed", status="failed-test", owner=other, worker="gw0"),
    )
    kept = (
        Kept(
            other.id, f"{ROOT}/gw0.d/test_draw-1", "failed", "gw0", "/project/artifacts/test_draw-1"
        ),
        Kept(
            "tests/test_crash.py::test_it",
            "away:/tmp/tempres-remote00/gw2.d/test_it-1",
            "crashed",
            "gw2",
        ),
    )
    session = SessionFacts(
        id="tempres-abcdefgh",
        rootdir="/repository/project",
        started="2026-01-02T03:04:05+00:00",
        seconds=1.5,
        exit_status=1,
        python="3.13.0",
        pytest="9.0.0",
        platform="Linux-6.1-x86_64",
        workers=("gw0", "gw1", "gw2"),
    )
    return Summary(
        session=session,
        root=ROOT,
        leaks=leaks,
        kept=kept,
        stale=(
            Known(
                "test",
                "tests/test_gone.py::test_it",
                "file",
                "src/gone.py:make",
                "0123456789abcdef",
            ),
        ),
        hosts={"gw2": "away"},
        other_roots=("away:/tmp/tempres-remote00",),
        abandoned=("away:/tmp/tempres-remote00",),
        artifacts=Artifacts("/project/artifacts", 1, 3, 4096, 1, "manifest.json"),
        gate_failed=True,
        leaks_fail=True,
        repository="/repository",
    )
