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
        assert (temp_dir / name).exists(), "another session has removed it"
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
    """Let a session go on to its end, and check that no other one removed its files."""
    output, _ = process.communicate("\n", timeout=60)
    assert "AssertionError: as it should" in output
    assert "TempresCleanupWarning" not in output
    assert process.returncode == 1


def test_each_project_keeps_its_own_number_of_sessions(
    pytester, project, place, kept, plain_options, monkeypatch
):
    """Only sessions of the same project that kept something are counted and removed."""
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
    # It keeps nothing, so it does not count.
    assert turn(one, "passes", 1) == ["b", "c"]
    # What a failure has just named stays until the next session in any case.
    assert turn(one, "d", 0) == ["b", "d"]
    assert turn(one, "passes", 0) == ["b"]


def test_overlapping_sessions(project, begin, kept):
    """No session removes another one that is alive; the last to end leaves the last N."""
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
def test_two_sessions_that_end_at_the_same_time(project, begin, kept, order):
    """N sessions stay though both have written their index before either sweeps."""
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


@pytest.mark.parametrize("keep", [0, 3])
def test_many_sessions_that_end_at_the_same_time(project, begin, kept, keep):
    """Each finds the others alive when it sweeps; in the end exactly N stay."""
    path = project("one")
    names = "abcdefgh"
    sessions = [begin(path, name, pause="summary", keep=keep) for name in names]
    for session in sessions:
        wait(session)
    assert kept() == list(names)
    for session in sessions:
        session.stdin.write("\n")
        session.stdin.flush()
    for session in sessions:
        end(session)
    assert len(kept()) == max(keep, 1)


# -- sessions that are ended from outside, or end themselves, before they can write an index


def by_test(suite: str) -> str:
    """Return a suite with a failed test that leaves files, followed by *suite*."""
    return f"""
import os
import pytest

def test_fails(temp_dir, temp_resources_module):
    (temp_dir / "given").touch()
    (temp_resources_module.dir() / "wider").touch()
    assert 0

def test_passes(temp_dir):
    (temp_dir / "nothing").touch()

{suite}
"""


@pytest.fixture
def ended(pytester, place, plain_options):
    """Run a suite that ends its own process, then one that passes; both in subprocesses."""

    def ended(suite: str, *options: str) -> str:
        pytester.makepyfile(test_ending=suite, test_other="def test_it(): pass")
        options = (*plain_options, f"--tempres-root={place}", *options)
        result = pytester.runpytest_subprocess(*options, "test_ending.py")
        assert "temporary resources ==" not in result.stdout.str()
        assert not list(place.glob("tempres-*/index.json"))
        after = pytester.runpytest_subprocess(
            *plain_options, f"--tempres-root={place}", "test_other.py"
        )
        after.assert_outcomes(passed=1)
        return after.stdout.str()

    return ended


EXITS = by_test(
    "def test_ends(temp_dir):\n    (temp_dir / 'more').write_text('more')\n    os._exit(3)\n"
)


def test_printed_kept_paths_stay_if_the_process_is_killed(ended, kept, place):
    """What happens after a failure was printed cannot remove its paths."""
    assert "reclaimed 1 dead session" in ended(EXITS)
    assert kept() == ["given", "wider"]
    # The next sweep leaves it alone, and has nothing to say of it.
    (root,) = place.iterdir()
    assert sorted(path.name for path in root.glob("main*")) == ["main.d"]


def test_printed_kept_paths_stay_if_controller_and_worker_are_killed(ended, kept, pytester):
    """Under pytest-xdist the worker writes the journal of its tests."""
    pytest.importorskip("xdist")
    suite = by_test(
        """
import signal

def test_ends(temp_dir):
    os.kill(os.getppid(), signal.SIGKILL)
    os._exit(3)
"""
    )
    ended(suite, "-pxdist", "-n1")
    assert kept() == ["given", "wider"]


def test_paths_of_earlier_attempts_do_not_stay(pytester, ended, place):
    """The journal names them, but the last attempt decides."""
    pytest.importorskip("pytest_rerunfailures")
    suite = """
import os
import pytest

tries = []

@pytest.mark.flaky(reruns=1)
def test_flaky(temp_dir):
    (temp_dir / "given").touch()
    tries.append(1)
    assert len(tries) == 2

def test_ends():
    os._exit(3)
"""
    ended(suite, "-prerunfailures")
    assert list(place.iterdir()) == []


def test_killed_session_counts_as_a_kept_session(ended, pytester, place, kept, plain_options):
    """What it kept is removed in its turn, without a message."""
    ended(EXITS)
    (first,) = place.iterdir()
    options = (*plain_options, f"--tempres-root={place}", "--tempres-keep-sessions=1")
    result = pytester.runpytest_subprocess(*options, "-k", "fails", "test_ending.py")
    assert "reclaimed" not in result.stdout.str()
    assert not first.exists()
    assert kept() == ["given", "wider"]


@pytest.mark.parametrize("func_only", [False, True])
def test_paths_of_a_timeout_that_ends_the_process_are_kept(ended, kept, func_only):
    """There is no report of the test, so the journal is written when a path is created."""
    pytest.importorskip("pytest_timeout")
    suite = f"""
import time
import pytest

@pytest.mark.timeout(60, method="thread")
def test_passes(temp_dir):
    (temp_dir / "passed").touch()

@pytest.mark.timeout(0.1, method="thread", func_only={func_only})
def test_hangs(temp_dir, temp_resources, temp_resources_module):
    (temp_dir / "given").touch()
    (temp_resources_module.dir() / "wider").touch()
    (temp_resources.dir() / "second").touch()
    temp_resources.dir(keep=False)
    time.sleep(60)
"""
    assert "reclaimed" not in ended(suite)
    assert kept() == ["given", "second", "wider"]


@pytest.mark.parametrize("damage", ["closed", "removed", "replaced"])
def test_damaged_journal_loses_no_later_path(ended, kept, damage):
    """It is opened again: what a later test leaves is written all the same."""
    damages = {
        "closed": "close(os.stat(journal))",
        "removed": "os.unlink(journal)",
        "replaced": "os.unlink(journal); os.mkfifo(journal); os.rename(journal, journal + '2')",
    }
    suite = f"""
import os

def test_harms(temp_dir):
    journal = str(temp_dir.parent.parent / ".kept.jsonl")
    assert os.path.exists(journal)
    {damages[damage]}

def close(status):
    for fd in range(3, 100):
        try:
            if os.path.samestat(os.fstat(fd), status):
                os.close(fd)
        except OSError:
            pass

def test_fails(temp_dir):
    (temp_dir / "given").touch()
    assert 0

def test_ends():
    os._exit(3)
"""
    ended(suite)
    assert kept() == ["given"]


def test_session_without_failures_leaves_no_journal(pytester, place, plain_options):
    """The parent directory is empty afterwards."""
    pytester.makepyfile("def test_it(temp_dir): pass")
    pytester.runpytest_inprocess(*plain_options, f"--tempres-root={place}").assert_outcomes(
        passed=1
    )
    assert list(place.iterdir()) == []
