from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import subprocess
import sys

import pytest

#: A test that leaves a file of a name of its own, and fails unless there is none to leave.
SUITE = """
import os

def test_it(temp_dir):
    name = os.environ["TURN"]
    (temp_dir / name).touch()
    if name != "passes":
        pause("test")
        assert (temp_dir / name).exists(), "somebody has removed it"
        assert 0, "as it should"

def pause(where):
    if os.environ.get("PAUSE") == where:
        print("READY", flush=True)
        input()
"""
#: Between the index and the sweep.
CONFTEST = """
import pytest
from test_it import pause

@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary():
    pause("summary")
"""


@pytest.fixture
def place(pytester) -> Path:
    """The directory that all sessions share."""
    return pytester.mkdir("place")


@pytest.fixture
def kept(place) -> Callable[[], list[str]]:
    """Return the names of the files that are kept."""
    return lambda: sorted(path.name for path in place.glob("tempres-*/*.d/*/*"))


@pytest.fixture
def project(pytester) -> Callable[[str], Path]:
    """Make a project of its own."""

    def project(name: str) -> Path:
        path = pytester.mkdir(name)
        (path / "pytest.ini").write_text("[pytest]\n")
        (path / "test_it.py").write_text(SUITE)
        (path / "conftest.py").write_text(CONFTEST)
        return path

    return project


@pytest.fixture
def begin(place, plain_options):
    """Begin a session that waits in its test, or between its index and its sweep."""
    running = []

    def begin(path: Path, turn: str, *, pause: str, keep: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-s", *plain_options),
                *(f"--tempres-root={place}", f"--tempres-keep-sessions={keep}"),
            ],
            cwd=path,
            env={**os.environ, "TURN": turn, "PAUSE": pause},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def wait(process: subprocess.Popen[str]) -> None:
    """Wait until a session has come to where it pauses."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "READY" in line:
            return
    pytest.fail("".join(seen))


def end(process: subprocess.Popen[str]) -> None:
    """Let a session go on to its end, and see that nobody took anything from it."""
    output, _ = process.communicate("\n", timeout=60)
    assert "AssertionError: as it should" in output
    assert "TempresCleanupWarning" not in output
    assert process.returncode == 1


def test_each_project_counts_its_own(pytester, project, place, kept, plain_options, monkeypatch):
    """Only sessions of the project that kept something count, and only they are retired."""
    one, two = project("one"), project("two")

    def turn(path: Path, name: str, keep: int) -> list[str]:
        monkeypatch.setenv("TURN", name)
        monkeypatch.chdir(path)
        result = pytester.runpytest_inprocess(
            *(*plain_options, f"--rootdir={path}"),
            *(f"--tempres-root={place}", f"--tempres-keep-sessions={keep}"),
        )
        result.assert_outcomes(failed=name != "passes", passed=name == "passes")
        return kept()

    assert turn(one, "a", 3) == ["a"]
    assert turn(two, "b", 1) == ["a", "b"]
    assert turn(one, "c", 2) == ["a", "b", "c"]
    # It keeps nothing, so it takes nobody's place.
    assert turn(one, "passes", 1) == ["b", "c"]
    # What a failure has just named stays until the next session in any case.
    assert turn(one, "d", 0) == ["b", "d"]
    assert turn(one, "passes", 0) == ["b"]


def test_sessions_that_overlap(project, begin, kept):
    """No session takes anything from one that lives; the last to end leaves the last N."""
    path = project("one")
    for name in "ab":
        early = begin(path, name, pause="test", keep=2)
        wait(early)
        end(early)
    assert kept() == ["a", "b"]
    first, second = (begin(path, name, pause="test", keep=2) for name in "cd")
    wait(first)
    wait(second)
    between = begin(path, "e", pause="test", keep=2)
    wait(between)
    end(between)
    assert kept() == ["b", "c", "d", "e"]
    end(second)
    assert kept() == ["c", "d", "e"]
    end(first)
    assert kept() == ["c", "d"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first", "last"])
def test_sessions_that_end_at_the_same_time(project, begin, kept, order):
    """When all have written what they keep and none has swept yet, N stay all the same."""
    path = project("one")
    sessions = []
    for name in "ab":
        sessions.append(begin(path, name, pause="summary", keep=1))
        wait(sessions[-1])
    assert kept() == ["a", "b"]
    end(sessions[order[0]])
    assert kept() == ["a", "b"]
    end(sessions[order[1]])
    assert kept() == ["ab"[order[1]]]
