from __future__ import annotations

import os

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
    yield
    tempfile.mkdtemp(prefix="over-")

class TestBefore:
    def test_1_promises(self, cache):
        HELD.append(tempfile.TemporaryDirectory(prefix="promised-"))
        HELD.append(tempfile.NamedTemporaryFile(prefix="promised-"))

    def test_2_leaks(self, temp_dir, cache):
        tempfile.mkdtemp(prefix="leak-")

    def test_3_fails(self, temp_dir):
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
def how():
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
def test_a_crash_accuses_nobody_but_its_test(pytester, told, system_tmp, monkeypatch, way, options):
    """What the crashed test left is its own, and nothing told before is lost or told twice.

    What a live fixture or an exit handler of the dead worker would have removed is no leak.
    """
    monkeypatch.setenv("WAY", way)
    pytester.makepyfile(test_1_before=SUITE, test_2_crash=CRASH)
    result, report = told("-n1", *options)
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    stopped = "-x" in options
    leaks = [leak for leak in report["leaks"] if leak["status"] == "leak"]
    assert [leak["owner"]["id"] for leak in leaks] == ["test_1_before.py::TestBefore::test_2_leaks"]
    kept = {(each["nodeid"].rpartition("::")[2], name_of(each["path"])) for each in report["kept"]}
    crashed = {("test_crashes", "test_crashes"), ("test_crashes", "stray")}
    fails = {("test_3_fails", "test_3_fails")}
    assert fails <= kept
    if not stopped:
        assert crashed <= kept
        # What the worker's fixture and exit handlers could not remove lies in the same place.
        assert {name for _, name in kept - crashed - fails} <= {"cache", "promised"}
    on_disk = [str(path) for path in system_tmp.glob("tempres-*/*/*")]
    assert sorted(on_disk) == sorted(each["path"] for each in report["kept"])
    assert len(set(on_disk)) == len(report["kept"])


def name_of(path: str) -> str:
    """Return what a path was called before its random characters."""
    return os.path.basename(path).partition("-")[0]
