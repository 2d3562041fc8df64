from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import math
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from report_schema import read_report

pytest_plugins = ["pytester"]

#: Other installed plugins must not change an inner session or slow down its start.
PLAIN = [
    *("-p", "no:randomly"),
    *("-p", "no:hypothesispytest"),
    *("-p", "no:pytest_cov"),
    *("-p", "no:platformdirs"),
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
def how(request):
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
def obeying() -> tuple[str, ...]:
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


@pytest.fixture
def run(pytester, system_tmp, how) -> Callable[..., pytest.RunResult]:
    """Run an inner session in a subprocess, without workers or with two."""

    def run(*args: str, workers: bool = True) -> pytest.RunResult:
        if how == "xdist" and workers:
            args = ("-n2", *args)
        elif how == "plain":
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
def told(run, pytester) -> Callable[..., tuple[pytest.RunResult, dict[str, Any]]]:
    """Run an inner session and return its result and its JSON report."""

    def told(*args: str) -> tuple[pytest.RunResult, dict[str, Any]]:
        result = run(f"--tempres-report=json:{pytester.path / 'report.json'}", *args)
        return result, read_report(pytester.path / "report.json")

    return told


@pytest.fixture
def report(told) -> Callable[..., dict[str, Any]]:
    """Run an inner session and return its JSON report."""
    return lambda *args: told(*args)[1]


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
