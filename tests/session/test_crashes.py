from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("xdist", reason="pytest-xdist is optional, and not installed here")

SUITE = """
import os, signal, tempfile, time
import pytest

HELD = []
WAYS = {
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}

@pytest.fixture(scope="session")
def cache():
    with tempfile.TemporaryDirectory(prefix="cache-") as path:
        yield path

@pytest.fixture(scope="module")
def over():
    tempfile.mkdtemp(prefix="over-")
    yield
    tempfile.mkdtemp(prefix="over-")

class TestBefore:
    def test_1_defers(self, cache, over):
        HELD.append(tempfile.TemporaryDirectory(prefix="deferred-"))
        HELD.append(tempfile.NamedTemporaryFile(prefix="deferred-"))

    def test_2_leaks(self, temp_dir, cache, temp_resources_module):
        tempfile.mkdtemp(prefix="leak-")
        temp_resources_module.dir(prefix="wider-")

    def test_3_fails(self, temp_dir, temp_resources_module):
        assert 0
"""
CRASH = """
import os, tempfile
from test_1_before import WAYS, cache

def test_crashes(cache, temp_dir):
    (temp_dir / "evidence").touch()
    tempfile.mkdtemp(prefix="stray-")
    WAYS[os.environ["WAY"]]()

def test_after(temp_dir):
    pass
"""


@pytest.fixture
def mode():
    """Say that the inner session has workers."""
    return "xdist"


@pytest.mark.parametrize(
    "way, options",
    [
        ("kill", []),
        ("segfault", ["--max-worker-restart=1", "--dist=worksteal"]),
        ("exit", ["--max-worker-restart=1", "--dist=each"]),
        ("kill", ["--maxfail=2"]),
        # Where tests go to workers in groups, xdist waits for ever for one that was restarted.
        ("segfault", ["--max-worker-restart=0", "--dist=loadscope"]),
        ("exit", ["--max-worker-restart=0", "--dist=loadfile", "-x"]),
        ("kill", ["--max-worker-restart=0", "--dist=loadgroup"]),
    ],
    ids=str,
)
def test_crash_changes_the_report_of_no_other_test(
    pytester, run_with_report, system_tmp, monkeypatch, way, options
):
    """What the crashed test left is kept for it; earlier reports are neither lost nor repeated."""
    monkeypatch.setenv("WAY", way)
    pytester.makepyfile(test_1_before=SUITE, test_2_crash=CRASH)
    result, report = run_with_report("-n1", *options)
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    stopped = "-x" in options
    leaks = [leak for leak in report["leaks"] if leak["status"] == "leak"]
    owners = ["over", "over", "test_1_before.py::TestBefore::test_2_leaks"]
    assert sorted(leak["owner"]["id"] for leak in leaks) == owners
    kept = {(each["nodeid"].rpartition("::")[2], name_of(each["path"])) for each in report["kept"]}
    crashed = {("test_crashes", "test_crashes"), ("test_crashes", "stray")}
    fails = {("test_3_fails", "test_3_fails"), ("test_3_fails", "wider")}
    assert fails <= kept
    if not stopped:
        assert crashed <= kept
        # What the worker's fixture and exit handlers could not remove lies in the same place.
        assert {name for _, name in kept - crashed - fails} <= {"cache", "deferred"}
    on_disk = [str(path) for path in system_tmp.glob("tempres-*/*/*")]
    assert sorted(on_disk) == sorted(each["path"] for each in report["kept"])
    assert len(set(on_disk)) == len(report["kept"])


EACH = """
import os, tempfile
import pytest

def test_it(temp_dir, temp_resources_session):
    tempfile.mkdtemp(prefix="left-")
    temp_resources_session.dir(prefix="wider-")
    assert os.environ["PYTEST_XDIST_WORKER"] != "gw0"
"""
DIES_LATE = """
import os
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish():
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0":
        os._exit(9)
"""


def test_with_dist_each_a_failure_counts_only_in_its_worker(pytester, run_with_report, system_tmp):
    """What a test left is a leak in the worker where it passed, and kept where it failed."""
    pytester.makeconftest(DIES_LATE)
    pytester.makepyfile(test_it=EACH)
    _, report = run_with_report("-n2", "--dist=each")
    leaks = [leak for leak in report["leaks"] if leak["status"] == "leak"]
    assert [(leak["worker"], name_of(leak["path"])) for leak in leaks] == [("gw1", "left")]
    kept = sorted((each["worker"], name_of(each["path"])) for each in report["kept"])
    assert kept == [("gw0", "left"), ("gw0", "test_it"), ("gw0", "wider")]
    on_disk = [str(path) for path in system_tmp.glob("tempres-*/*/*")]
    assert sorted(on_disk) == sorted(each["path"] for each in report["kept"])


def name_of(path: str) -> str:
    """Return what a path was called before its random characters."""
    return os.path.basename(path).partition("-")[0]


INTERRUPTED = """
import os, tempfile, time
import pytest

@pytest.fixture(scope="session")
def wide():
    with tempfile.TemporaryDirectory() as path:
        yield path

def test_1_leaks(wide):
    tempfile.mkdtemp(prefix="leak-")

def test_2_is_interrupted(temp_dir, wide):
    tempfile.mkdtemp(prefix="stray-")
    while not os.path.exists("received"):
        time.sleep(0.01)
    open("ready", "w").close()
    time.sleep(300)

def test_3_never_runs(temp_dir): pass
"""
RECEIVED = """
import os, signal

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Controller())

class Controller:
    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            open("received", "w").close()
"""
TWICE = """
def pytest_keyboard_interrupt():
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.fixture
def interrupted(pytester, system_tmp):
    """Run a session until its second test has begun, send it a signal and wait for its end."""

    def interrupted(number: int, *args: str, conftest: str = "") -> tuple[int, str]:
        pytester.makeconftest(RECEIVED + conftest)
        pytester.makepyfile(test_it=INTERRUPTED)
        ready = pytester.path / "ready"
        command = [sys.executable, "-m", "pytest", "-p", "no:randomly", *args]
        with subprocess.Popen(
            command,
            cwd=pytester.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        ) as session:
            while not ready.exists():
                assert session.poll() is None
                time.sleep(0.01)
            # As a terminal does, to all processes at once; `kill` sends it to one alone.
            send = os.killpg if number == signal.SIGINT else os.kill
            send(session.pid, number)
            output, _ = session.communicate(timeout=120)
        return session.returncode, output

    return interrupted


WORKERS = pytest.mark.parametrize("workers", [[], ["-n1"]], ids=["plain", "xdist"])


@WORKERS
def test_interrupted_session_reports_what_it_knows(interrupted, workers, system_tmp):
    """After Ctrl-C no leak of the interrupted test or a fixture is reported; nothing is left."""
    status, output = interrupted(signal.SIGINT, *workers)
    assert status == pytest.ExitCode.INTERRUPTED
    assert output.count("test_it.py::test_1_leaks left 1 directory") == 1
    assert "= 1 leak from 1 test, 0 bytes; removed; 1 more from failed tests =" in output
    assert not list(system_tmp.glob("tempres-*"))


UNREAD = """
def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Controller())

class Controller:
    def pytest_runtest_logreport(self, report):
        raise KeyboardInterrupt
"""


def test_leaks_in_an_unread_report_are_not_counted(pytester, run_with_report):
    """After an interrupt it may be unknown whether the test failed, so its paths are no leaks."""
    pytester.makeconftest(UNREAD)
    pytester.makepyfile("import tempfile\ndef test_fails():\n    assert not tempfile.mkdtemp()\n")
    result, report = run_with_report("-n1")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert [leak["status"] for leak in report["leaks"]] == ["failed-test"]


@WORKERS
@pytest.mark.parametrize("way", ["twice", "terminated"])
def test_session_that_was_killed_is_swept_by_the_next(
    pytester, interrupted, run_plain, workers, way, system_tmp
):
    """After a second Ctrl-C or a SIGTERM, the next session removes what is left."""
    number, conftest = (signal.SIGINT, TWICE) if way == "twice" else (signal.SIGTERM, "")
    status, output = interrupted(number, *workers, conftest=conftest)
    assert status == -number
    assert "INTERNALERROR" not in output
    while any(system_tmp.glob("tempres-*")):
        # Workers may take a moment to notice that their controller is gone.
        run_plain("-k", "never").assert_outcomes(passed=1, deselected=2)
