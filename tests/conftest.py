from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import math
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import traceback
from typing import Any
import warnings
from xml.etree import ElementTree as ET

import pytest
from report_schema import read_report
from session_server import Server

pytest_plugins = ["pytester"]

#: Other installed plugins must not change an inner session or slow down its start.
PLAIN = [
    *("-p", "no:randomly"),
    *("-p", "no:hypothesispytest"),
    *("-p", "no:pytest_cov"),
    *("-p", "no:platformdirs"),
    *("-p", "no:rerunfailures"),
]
#: The time limit of an inner session.
_SECONDS = 300


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """Make the output of inner sessions the same everywhere, and independent of outer workers."""
    # With CI and BUILD_NUMBER, pytest does not shorten lines.
    for name in ("CI", "BUILD_NUMBER", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)


@pytest.fixture(scope="session")
def plain_options() -> list[str]:
    """The options of every inner session, for tests that start it without `run`."""
    return PLAIN


@pytest.fixture(params=["plain", "xdist"])
def mode(request):
    """Run the test with an inner session without workers, and again with workers."""
    if request.param == "xdist":
        pytest.importorskip("xdist", reason="pytest-xdist is optional, and not installed here")
    return request.param


@pytest.fixture
def system_tmp(tmp_path_factory, monkeypatch) -> Path:
    """The temp directory of inner sessions: empty, with a short path for sockets."""
    path = tmp_path_factory.mktemp("sys", numbered=True)
    monkeypatch.setenv("TMPDIR", str(path))
    # The outer session has set it; the inner session takes it from TMPDIR.
    monkeypatch.delenv("PYTEST_TEMPRES_SYSTEM_TMPDIR", raising=False)
    return path


@pytest.fixture
def in_child() -> Callable[[Callable[[], object]], object]:
    """Run a function in a forked child; return whether its result was true."""
    if not hasattr(os, "fork"):
        pytest.skip("this platform does not fork")

    def run(function):
        with warnings.catch_warnings():
            # A worker of pytest-xdist has a second thread, which the child does not need.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            status = 2
            try:
                status = 0 if function() else 1
            except BaseException:  # noqa: BLE001 -- the child must exit with its status
                traceback.print_exc()
            # Coverage writes its data here, which fails if an audit hook of the test raises.
            while True:
                with contextlib.suppress(BaseException):
                    os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    return run


@pytest.fixture
def tmpfs(tmp_path_factory) -> Iterator[Callable[..., Path]]:
    """Mount small file systems, and unmount them after the test."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system, and only Linux has tmpfs")
    mounted = []

    def tmpfs(options: str, path: Path | None = None) -> Path:
        path = path or tmp_path_factory.mktemp("mnt")
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(path)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("this container may not mount")
        mounted.append(path)
        return path

    yield tmpfs
    for path in mounted:
        while os.path.ismount(path):
            subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def without_root_override() -> tuple[str, ...]:
    """A command prefix that makes file modes effective for a program of root too."""
    if sys.platform == "win32":
        pytest.skip("Windows ignores most of a file's mode")
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("file modes do not restrict root, and there is no setpriv")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")


@pytest.fixture
def nothing_left(system_tmp) -> Callable[[], None]:
    """Check that inner sessions have left nothing in their temp directory."""

    def check() -> None:
        assert not list(system_tmp.rglob("*"))

    return check


@pytest.fixture(scope="session")
def session_server() -> Iterator[Server | None]:
    """The process that forks inner sessions; None where each starts a Python of its own."""
    if sys.platform != "linux":
        yield None
        return
    server = Server()
    yield server
    server.close()


@pytest.fixture
def pytester(pytester, session_server) -> pytest.Pytester:
    """The fixture of pytest, but `runpytest_subprocess` forks, which is four times as fast."""
    if session_server is None:
        return pytester
    original = pytester.popen

    def popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options):
        session = None
        if options == {"stdin": pytester.CLOSE_STDIN}:
            # As the original sets it.
            paths = filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")])
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
            with open(os.devnull, "rb") as stdin:
                fds = [stdin.fileno(), stdout.fileno(), stderr.fileno()]
                session = session_server.start(command, env, fds)
        return session or original(command, stdout, stderr, **options)

    pytester.popen = popen
    return pytester


@pytest.fixture
def two_workers(session_server) -> list[str]:
    """The options for an inner session with two workers."""
    if session_server is None:
        return ["-n2"]
    return [f"--tx=2*{session_server.worker_spec}", "--dist=load"]


@pytest.fixture
def run(pytester, system_tmp, mode, two_workers) -> Callable[..., pytest.RunResult]:
    """Run an inner session in a subprocess, without workers or with two."""

    def run(*args: str, workers: bool = True) -> pytest.RunResult:
        if mode == "xdist" and workers:
            args = (*two_workers, *args)
        elif mode == "plain":
            # Only pytest-xdist has this option.
            args = tuple(arg for arg in args if not arg.startswith("--dist"))
        return pytester.runpytest_subprocess(*PLAIN, *args, timeout=_SECONDS)

    return run


@pytest.fixture
def run_plain(pytester, system_tmp) -> Callable[..., pytest.RunResult]:
    """Run an inner session in a subprocess, without workers."""
    return lambda *args: pytester.runpytest_subprocess(*PLAIN, *args, timeout=_SECONDS)


@pytest.fixture
def run_here(pytester) -> Callable[..., pytest.RunResult]:
    """Run an inner session in this process, and check that it leaves nothing behind."""

    def run_here(*args: str) -> pytest.RunResult:
        before = sorted(os.listdir(tempfile.gettempdir()))
        result = pytester.runpytest_inprocess(*PLAIN, *args)
        assert sorted(os.listdir(tempfile.gettempdir())) == before
        return result

    return run_here


@pytest.fixture
def run_with_report(run, pytester) -> Callable[..., tuple[pytest.RunResult, dict[str, Any]]]:
    """Run an inner session and return its result and its JSON report."""

    def run_with_report(*args: str) -> tuple[pytest.RunResult, dict[str, Any]]:
        result = run(f"--tempres-report=json:{pytester.path / 'report.json'}", *args)
        return result, read_report(pytester.path / "report.json")

    return run_with_report


@pytest.fixture
def report(run_with_report) -> Callable[..., dict[str, Any]]:
    """Run an inner session and return its JSON report."""
    return lambda *args: run_with_report(*args)[1]


@pytest.fixture
def outcomes(pytester) -> Callable[[], dict[str, list[str]]]:
    """Return the failures and errors of each test in the last inner session, by name."""

    def outcomes() -> dict[str, list[str]]:
        cases = ET.parse(pytester.path / "junit.xml").iter("testcase")
        return {
            case.get("name"): sorted({child.tag for child in case} & {"failure", "error"})
            for case in cases
        }

    return outcomes


def pytest_terminal_summary(terminalreporter):
    """Print the recall and precision of the leak reports of the suites in tests/corpus."""
    reports = [
        report for group in ("passed", "failed") for report in terminalreporter.getreports(group)
    ]
    properties = (each for report in reports for each in getattr(report, "user_properties", ()))
    runs = [value for name, value in properties if name == "corpus"]
    if not runs:
        return
    names, expected, reported, correct = zip(*runs, strict=True)
    terminalreporter.write_line(
        f"corpus: {len(set(names))} suites in {len(runs)} runs, {sum(expected)} expected leaks, "
        f"recall {_percent(sum(correct), sum(expected))}, "
        f"precision {_percent(sum(correct), sum(reported))}"
    )


def _percent(part, whole):
    # Rounded down, so that only all of them are 100 %.
    return f"{math.floor(1000 * part / whole) / 10 if whole else 100:g} %"
