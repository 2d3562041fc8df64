from __future__ import annotations

import json
import sys

from fault_sessions import run_checked
import pytest

EATS = """
import os, resource, tempfile
import pytest
HELD = []

def eat():
    with pytest.raises(OSError, match="Too many open files"):
        while True:
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
def test_descriptors_that_are_used_up_for_a_while(pytester, run, nothing_left):
    """No leak is missed, and no owner changes."""
    pytester.makepyfile(EATS)
    report = pytester.path / "report.json"
    result, warnings = run_checked(run, "--dist=loadfile", f"--tempres-report=json:{report}")
    result.assert_outcomes(passed=5, warnings=1)
    (line,) = warnings
    assert "Too many open files" in line
    report = json.loads(report.read_text())
    left = sorted(leak["owner"]["id"].rpartition("::")[2] for leak in report["leaks"])
    assert left == ["test_after", "test_before", "test_eats", "test_while"]
    assert report["kept"] == []
    nothing_left()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_descriptors_that_are_used_up_to_the_end(pytester, run, monkeypatch):
    """Without a descriptor there is no report, and the session ends as without the plugin."""
    monkeypatch.setenv("FOR_EVER", "1")
    pytester.makepyfile(EATS)
    # pytest's own report in this format would fail.
    result, warnings = run_checked(run, "--dist=loadfile", junit=False)
    result.assert_outcomes(passed=5, warnings=1)
    assert result.ret == 0
    assert len(warnings) == 1


def test_root_whose_permissions_a_test_removes(
    pytester, system_tmp, mode, without_root_override, plain_options, outcomes, nothing_left
):
    """A test that changes the modes of the directories does not affect the next one."""
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
    workers = ("-n2", "--dist=loadfile") if mode == "xdist" else ()

    def run(*args):
        return pytester.run(*without_root_override, sys.executable, "-m", "pytest", *args)

    _, warnings = run_checked(
        run, *plain_options, *workers, f"--tempres-report=json:{report}", "-W", "error"
    )
    assert set(map(tuple, outcomes().values())) == {()}
    (line,) = warnings
    assert "was changed and has been restored" in line
    assert json.loads(report.read_text())["totals"]["leaks"] == 18
    nothing_left()


REMOVES = {
    "all of the temp directory": "shutil.rmtree(HERE.parent.parent)",
    "the lock": "(HERE.parent / '.lock').unlink()",
    "the breadcrumb": "(HERE.parent / '.tempres.json').unlink()",
    "a file in its place": "shutil.rmtree(HERE); HERE.write_text('x')",
}


@pytest.mark.parametrize("what", REMOVES)
def test_part_of_the_root_that_a_test_removes(pytester, run, outcomes, system_tmp, what):
    """Whichever part it is, no other test, no outcome and no session changes."""
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
    result, warnings = run_checked(run, *args)
    assert outcomes() == {
        name: ["failure"] if name == "test_fails" else []
        for name in ("test_before", "test_removes", "test_after", "test_temp", "test_fails")
    }
    assert len(warnings) <= 1, warnings
    assert result.ret == 1
    assert bool(warnings) is (what != "the lock")


def test_clock_that_is_changed(pytester, run, report_of, nothing_left):
    """A clock that goes back or leaps ahead hides no leak, and makes no duration negative."""
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
    result, warnings = run_checked(run, "--dist=loadfile", f"--tempres-report=json:{report_of}")
    result.assert_outcomes(passed=12)
    assert warnings == []
    report = json.loads(report_of.read_text())
    assert 0 <= report["session"]["seconds"] < 600
    left = [leak["owner"]["id"].rpartition("::")[2].partition("[")[0] for leak in report["leaks"]]
    assert (left.count("test_clock"), left.count("test_times"), len(left)) == (4, 8, 12)
    nothing_left()


@pytest.fixture
def report_of(pytester):
    """The path of the JSON report."""
    return pytester.path / "report.json"
