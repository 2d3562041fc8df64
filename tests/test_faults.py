from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree as ET

import pytest

#: Our fixture for the session without the plugin.
STAND_IN = """
import tempfile
from pathlib import Path
import pytest

@pytest.fixture
def temp_dir():
    return Path(tempfile.mkdtemp())
"""
#: Stops a function of `os` or `open` at paths that match, as a full disk would.
INJECT = r"""
import builtins, errno, os, re
NAME, PATTERN = os.environ["FAULT"].split(" ", 1)

def failing(original):
    def wrapper(path, *args, **kwargs):
        if isinstance(path, str) and re.search(PATTERN, path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return original(path, *args, **kwargs)
    return wrapper

place = builtins if NAME == "open" else os
name = NAME.rpartition(".")[2]
original = getattr(place, name)
replacement = failing(original)
setattr(place, name, replacement)
for functions in (os.supports_dir_fd, os.supports_follow_symlinks):
    if original in functions:
        functions.add(replacement)
"""


@pytest.fixture
def disk(tmp_path_factory):
    """Mount small file systems, and unmount them whatever comes."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system, and only Linux has tmpfs")
    mounted = []

    def disk(options):
        path = tmp_path_factory.mktemp("disk")
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(path)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("this container may not mount")
        mounted.append(path)
        return path

    yield disk
    for path in mounted:
        # A test may have mounted something upon it.
        while os.path.ismount(path):
            subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def outcomes(pytester):
    """Return what came of each test in the last inner session, by name."""

    def outcomes():
        cases = ET.parse(pytester.path / "junit.xml").iter("testcase")
        return {
            case.get("name"): sorted({child.tag for child in case} & {"failure", "error"})
            for case in cases
        }

    return outcomes


def run_checked(run, *args, junit=True):
    """Run an inner session, which must end in order and with one warning of ours at most."""
    options = ("--junitxml=junit.xml",) if junit else ()
    result = run("-p", "no:cacheprovider", *options, *args)
    text = f"{result.stdout}\n{result.stderr}"
    for noise in ("INTERNALERROR", "internal error", "Exception ignored", "Traceback (most"):
        assert noise not in text
    return result, sorted({line for line in result.outlines if re.search(r"Tempres\w+: ", line)})


def kept_on_disk(place):
    """Return the names of what is kept, without their random ends."""
    return sorted(path.name[:-8] for path in place.glob("tempres-*/*.d/*"))


#: Fills a file system, but never a large one: it is bounded, and looks where it stands first.
FILL = """
import os

def fill(directory, what):
    system = os.statvfs(directory)
    assert system.f_blocks * system.f_frsize <= 2 ** 20, "this is no small disk"
    if what == "blocks":
        with open(os.path.join(directory, "big"), "wb", 0) as file:
            for _ in range(512):
                file.write(bytes(4096))
    for number in range(100):
        os.mkdir(os.path.join(directory, f"inode-{number}"))
    raise AssertionError("the disk is not full")
"""


@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_disk_that_fills_up_during_the_session(pytester, run, how, disk, outcomes, what):
    """Evidence outlives a disk that is full at the end: its index comes when leaks have gone."""
    place = disk("size=1m,nr_inodes=60")
    pytester.makepyfile(
        fill=FILL,
        test_it=f"""
        import tempfile
        import pytest
        from fill import fill

        def test_passes(temp_dir): pass

        def test_fails(temp_dir):
            (temp_dir / "evidence").touch()
            assert 0

        def test_fills():
            with pytest.raises(OSError, match="No space left"):
                fill(tempfile.gettempdir(), {what!r})

        def test_goes_on(): pass
        """,
    )
    args = ("-n1",) if how == "xdist" else ()
    _, told = run_checked(run, f"--tempres-root={place}", *args)
    # The unlinked files in which a worker captured output give back inodes when it ends.
    assert len(told) == (how == "plain" or what == "blocks")
    said = "the index could not be written: [Errno 28] No space left on device"
    assert all(said in line for line in told)
    assert outcomes() == {
        "test_passes": [],
        "test_fails": ["failure"],
        "test_fills": [],
        "test_goes_on": [],
    }
    assert kept_on_disk(place) == ["test_fails-"]
    (root,) = place.iterdir()
    assert list(json.loads((root / "index.json").read_text())["kept"]) == ["test_it.py::test_fails"]
    assert not list(root.glob("*.new"))
    pytester.makepyfile(test_later="def test_it(): pass")
    run(f"--tempres-root={place}", "test_later.py", workers=False)
    assert kept_on_disk(place) == ["test_fails-"]


def test_disk_that_is_full_from_the_start(pytester, run, disk, outcomes, monkeypatch):
    """Where the temp directory takes no file, we use the one that `tempfile` falls back to."""
    place = disk("size=1m")
    space: dict[str, Any] = {}
    exec(FILL, space)
    with pytest.raises(OSError, match="No space left"):
        space["fill"](place, "blocks")
    pytester.makepyfile(
        """
        import os, tempfile

        def test_passes():
            assert not tempfile.gettempdir().startswith(os.environ["FULL"])
        def test_fails(): assert 0
        """
    )
    monkeypatch.setenv("FULL", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    _, told = run_checked(run, "--capture=sys")
    assert told == []
    with_us = outcomes()
    run_checked(run, "--capture=sys", "-p", "no:tempres")
    assert with_us == outcomes() == {"test_passes": [], "test_fails": ["failure"]}
    assert [path.name for path in place.iterdir()] == ["big"]


START = [
    r"os.mkdir /tempres-[a-z0-9_]{8}$",
    r"os.chmod /tempres-[a-z0-9_]{8}$",
    r"os.open /\.lock$",
    r"os.open /\.tempres\.json$",
    r"os.mkdir /main$",
    r"os.mkdir /main\.d$",
]
LATER = {
    r"os.mkdir /main\.d/test_given": "",
    r"os.open /main\.d/test_named": "",
    r"open /index\.json\.new$": "the index could not be written: ",
    r"os.replace /index\.json\.new$": "the index could not be written: ",
    r"open /report\.json$": "the JSON report was not written: ",
    r"open /base\.txt\.new$": "was not written: ",
    r"os.replace /base\.txt\.new$": "was not written: ",
}


@pytest.fixture
def faulty(pytester, run_plain, monkeypatch):
    """Run an inner session in which one kind of write fails."""
    pytester.makepyfile(
        inject=INJECT,
        test_it="""
        import tempfile

        def test_given(temp_dir): pass
        def test_named(named_temp_file): pass
        def test_leaks(): tempfile.mkdtemp()
        def test_fails(): assert 0
        def test_evidence(temp_resources):
            temp_resources.dir(prefix="evidence-")
            assert 0
        """,
    )

    def faulty(fault):
        monkeypatch.setenv("FAULT", fault)
        options = ("--tempres-baseline=base.txt", "--tempres-update-baseline=all")
        report = f"--tempres-report=json:{pytester.path / 'report.json'}"
        return run_checked(run_plain, "-p", "inject", report, *options)

    return faulty


@pytest.mark.parametrize("fault", START)
def test_start_that_cannot_write(faulty, outcomes, system_tmp, fault):
    """Whatever of the session's directory cannot be made: one warning, and nothing stays."""
    if fault.startswith("os.chmod") and os.geteuid() != 0:
        pytest.skip("only for root has the session's directory a mode of its own")
    _, told = faulty(fault)
    (line,) = told
    assert re.search("temporary resources are off: .*No space left on device", line)
    assert outcomes() == {
        "test_given": ["error"],
        "test_named": ["error"],
        "test_leaks": [],
        "test_fails": ["failure"],
        "test_evidence": ["error"],
    }
    assert not list(system_tmp.glob("tempres-*"))


@pytest.mark.parametrize("fault", LATER)
def test_later_write_that_fails(pytester, faulty, outcomes, system_tmp, fault):
    """A write that fails costs what it was for: a test its fixture, a report one warning."""
    _, told = faulty(fault)
    said = LATER[fault]
    assert len(told) == bool(said)
    assert all(said in line and "No space left on device" in line for line in told)
    failing = {"test_given": "error", "test_named": "error"}
    assert outcomes() == {
        "test_leaks": [],
        "test_fails": ["failure"],
        "test_evidence": ["failure"],
        **{name: ["error"] if name in fault else [] for name in failing},
    }
    assert kept_on_disk(system_tmp) == ["evidence-"]
    assert not list(system_tmp.glob("tempres-*/*.new")) + list(pytester.path.glob("*.new"))
    assert (pytester.path / "base.txt").exists() is ("base" not in fault)


def test_worker_root_that_cannot_be_made(pytester, run, outcomes, monkeypatch, nothing_left):
    """A worker without a place runs its tests all the same; what it says of it is told once."""
    pytest.importorskip("xdist", reason="pytest-xdist is optional, and not installed here")
    pytester.makepyfile(inject=INJECT, test_it="def test_it(): pass")
    # The second try has six random characters for a name.
    monkeypatch.setenv("FAULT", r"os.mkdir /(gw0|[a-z0-9_]{6})$")
    _, told = run_checked(run, "-n1", "-p", "inject")
    (line,) = told
    assert "temporary resources are off: " in line
    assert outcomes() == {"test_it": []}
    nothing_left()


EATS = """
import os, resource, tempfile
import pytest
HELD = []

def eat():
    with pytest.raises(OSError, match="Too many open files"):
        for _ in range(100):
            HELD.append(os.open(os.devnull, os.O_RDONLY))

def test_before(temp_dir):
    tempfile.mkdtemp(prefix="left-")

def test_eats(temp_dir):
    (temp_dir / "tree").mkdir()
    os.mkdir(os.path.join(tempfile.gettempdir(), "left-native"))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    eat()

def test_while(temp_dir):
    tempfile.mkdtemp(prefix="left-")
    (temp_dir / "tree").mkdir()

def test_gives_back():
    if "FOR_EVER" not in os.environ:
        while HELD:
            os.close(HELD.pop())

def test_after(temp_dir):
    tempfile.mkdtemp(prefix="left-")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_descriptors_that_come_back(pytester, run, nothing_left):
    """Who used up all descriptors for a while hides no leak, and changes no owner."""
    pytester.makepyfile(EATS)
    report = pytester.path / "report.json"
    result, told = run_checked(run, "--dist=loadfile", f"--tempres-report=json:{report}")
    result.assert_outcomes(passed=5, warnings=1)
    (line,) = told
    assert "Too many open files" in line
    report = json.loads(report.read_text())
    left = sorted(leak["owner"]["id"].rpartition("::")[2] for leak in report["leaks"])
    assert left == ["test_after", "test_before", "test_eats", "test_while"]
    assert report["kept"] == []
    nothing_left()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_descriptors_that_never_come_back(pytester, run, monkeypatch):
    """Without a descriptor no report can be made, and the session ends as it would without us."""
    monkeypatch.setenv("FOR_EVER", "1")
    pytester.makepyfile(EATS)
    # pytest's own report in this format would fail.
    result, told = run_checked(run, "--dist=loadfile", junit=False)
    result.assert_outcomes(passed=5, warnings=1)
    assert result.ret == 0
    assert len(told) == 1


@pytest.fixture
def obeying():
    """The command before a program that makes modes count, for root too."""
    if sys.platform == "win32":
        pytest.skip("modes mean little on Windows")
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("modes mean nothing to root, and there is no setpriv")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")


def test_root_that_a_test_closes(pytester, system_tmp, how, obeying, outcomes, nothing_left):
    """A test that takes the modes of our directories away takes nothing from the next one."""
    pytester.makepyfile(
        """
        import os, tempfile
        from pathlib import Path
        import pytest
        HERE = Path(tempfile.gettempdir())
        OURS = {"root": HERE.parent, "worker": HERE, "given": HERE.with_suffix(".d")}

        @pytest.mark.parametrize("mode", [0, 0o500, 0o300])
        @pytest.mark.parametrize("what", OURS)
        class TestIt:
            def test_closes(self, what, mode, temp_dir):
                (temp_dir / "tree").mkdir()
                tempfile.mkdtemp(prefix="left-")
                os.chmod(OURS[what], mode)

            def test_given(self, what, mode, temp_dir):
                (temp_dir / "tree").mkdir()

            def test_temp(self, what, mode):
                tempfile.mkdtemp(prefix="left-")
        """
    )
    report = pytester.path / "report.json"
    workers = ("-n2", "--dist=loadfile") if how == "xdist" else ()

    def run(*args):
        return pytester.run(*obeying, sys.executable, "-m", "pytest", *args)

    plugins = ("no:randomly", "no:pytest_cov", "no:hypothesispytest")
    off = [part for plugin in plugins for part in ("-p", plugin)]
    _, told = run_checked(run, *off, *workers, f"--tempres-report=json:{report}", "-W", "error")
    assert set(map(tuple, outcomes().values())) == {()}
    (line,) = told
    assert "was taken away, and was given back" in line
    assert json.loads(report.read_text())["totals"]["leaks"] == 18
    nothing_left()


def test_disk_that_becomes_read_only(pytester, run_plain, disk, outcomes, monkeypatch):
    """Where nothing can be removed any more, one warning says so and no test is the worse."""
    place = disk("size=1m")
    pytester.makepyfile(
        stand_in=STAND_IN,
        test_it="""
        import os, subprocess, tempfile

        def test_before(temp_dir):
            tempfile.mkdtemp()

        def test_closes(temp_dir):
            # The lock is open for writing, so the file system itself cannot be remounted.
            place = os.environ["PLACE"]
            subprocess.run(["mount", "--bind", place, place], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)

        def test_after(): pass

        def test_needs(temp_dir): pass

        def test_fails(): assert 0
        """,
    )
    monkeypatch.setenv("PLACE", str(place))
    result, told = run_checked(run_plain, f"--tempres-root={place}")
    (line,) = told
    assert "could not remove" in line
    assert "Read-only file system" in line
    with_us = outcomes()
    result.stdout.fnmatch_lines(["*1 leak from 1 test*"])
    subprocess.run(["umount", str(place)], check=True)
    monkeypatch.setenv("TMPDIR", str(place))
    run_checked(run_plain, "--capture=sys", "-p", "no:tempres", "-p", "stand_in")
    assert with_us == outcomes()
    subprocess.run(["umount", str(place)], check=True)


REMOVES = {
    "all of the temp directory": "shutil.rmtree(HERE.parent.parent)",
    "the lock": "(HERE.parent / '.lock').unlink()",
    "the breadcrumb": "(HERE.parent / '.tempres.json').unlink()",
    "a file in its place": "shutil.rmtree(HERE); HERE.write_text('x')",
}


@pytest.mark.parametrize("what", REMOVES)
def test_part_of_the_root_that_a_test_removes(pytester, run, outcomes, system_tmp, what):
    """Whatever of ours a test removes, no other test, no outcome and no session breaks."""
    pytester.makepyfile(
        f"""
        import os, shutil, tempfile
        from pathlib import Path
        HERE = Path(tempfile.gettempdir())

        def test_before(temp_dir): pass

        def test_removes(temp_dir):
            {REMOVES[what]}

        def test_after(temp_dir):
            (temp_dir / "file").touch()

        def test_temp():
            if HERE.is_dir():
                tempfile.mkdtemp(prefix="left-")

        def test_fails(temp_dir):
            assert 0
        """
    )
    args = ("--dist=loadfile", f"--basetemp={pytester.path / 'base'}")
    result, told = run_checked(run, *args)
    assert outcomes() == {
        name: ["failure"] if name == "test_fails" else []
        for name in ("test_before", "test_removes", "test_after", "test_temp", "test_fails")
    }
    assert len(told) <= 1, told
    assert result.ret == 1
    assert bool(told) is (what != "the lock")


def test_clock_that_is_set(pytester, run, report_of, nothing_left):
    """A clock that goes back or leaps ahead hides no leak, and makes no time negative."""
    pytester.makeconftest(
        """
        import time
        NOW = time.time
        SHIFT = [0.0]
        time.time = lambda: NOW() + SHIFT[0]
        time.time_ns = lambda: int(time.time() * 1e9)
        """
    )
    pytester.makepyfile(
        """
        import os, tempfile
        from pathlib import Path
        import pytest
        from conftest import SHIFT
        HERE = tempfile.gettempdir()
        DAY = 86400.0

        @pytest.mark.parametrize("shift", [0.0, -DAY, DAY, -1000 * DAY])
        class TestIt:
            def test_clock(self, shift, temp_dir):
                SHIFT[0] = shift
                tempfile.mkdtemp(prefix="left-")

            def test_times(self, shift, temp_dir):
                path = os.path.join(HERE, f"left-{shift}")
                os.mkdir(path)
                for each in (path, temp_dir, HERE):
                    os.utime(each, (10**9 + shift, 10**9 + shift))
                os.mkdir(f"{path}-native")
                os.utime(HERE, (2 * 10**9 + shift, 2 * 10**9 + shift))

            def test_quiet(self, shift): pass
        """
    )
    result, told = run_checked(run, "--dist=loadfile", f"--tempres-report=json:{report_of}")
    result.assert_outcomes(passed=12)
    assert told == []
    report = json.loads(report_of.read_text())
    assert 0 <= report["session"]["seconds"] < 600
    left = [leak["owner"]["id"].rpartition("::")[2].partition("[")[0] for leak in report["leaks"]]
    assert (left.count("test_clock"), left.count("test_times"), len(left)) == (4, 8, 12)
    nothing_left()


@pytest.fixture
def report_of(pytester):
    """The path of the JSON report."""
    return pytester.path / "report.json"
