from __future__ import annotations

import datetime as dt
import json
import os
import platform
import re

import pytest

LEAK = "import tempfile\n\ndef test_leaks():\n    tempfile.mkdtemp()\n"


def test_paths_that_are_removed_at_exit_are_no_leaks(pytester, run_with_report, nothing_left):
    """Live temporary objects and exit callbacks are trusted, and nothing is left after exit."""
    pytester.makepyfile(
        """
        import atexit, functools, os, shutil, tempfile
        from pathlib import Path
        from pytest_tempres import primitives
        import pytest

        MODULE = tempfile.NamedTemporaryFile(prefix="global-")
        PLAIN = []
        HERE = tempfile.gettempdir()

        def test_objects():
            PLAIN.extend([tempfile.TemporaryDirectory(), primitives.TemporaryDirectory()])
            PLAIN.extend([tempfile.NamedTemporaryFile(), primitives.NamedTemporaryFile()])
            for thing in PLAIN[:2]:
                Path(thing.name, "content").write_text("x")

        def test_callbacks():
            atexit.register(shutil.rmtree, tempfile.mkdtemp())
            atexit.register(shutil.rmtree, path=tempfile.mkdtemp(), ignore_errors=True)
            atexit.register(functools.partial(shutil.rmtree, tempfile.mkdtemp()))
            atexit.register(os.unlink, Path(tempfile.mkstemp()[1]))
            atexit.register(shutil.rmtree, os.path.join(HERE, "later"))

        def test_inside_what_goes():
            holder = tempfile.TemporaryDirectory()
            PLAIN.append(holder)
            os.rename(tempfile.mkdtemp(), os.path.join(holder.name, "inner"))

        @pytest.fixture(scope="session", autouse=True)
        def later():
            yield
            os.mkdir(os.path.join(HERE, "later"))
        """
    )
    result, report = run_with_report("--tempres-leaks=fail", "--dist=loadfile")
    result.assert_outcomes(passed=3)
    assert result.ret == 0
    assert {leak["status"] for leak in report["leaks"]} <= {"deferred"}
    assert report["totals"]["leaks"] == 0
    assert report["totals"]["deferred"] == len(report["leaks"])
    result.stdout.no_fnmatch_line("*temporary resources*")
    assert not result.stderr.str()
    nothing_left()


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
def test_deferred_entries_are_listed_but_not_counted(pytester, run_with_report, nothing_left):
    """The JSON report lists what is deferred, with its owner; it does not count as a leak."""
    pytester.makepyfile(
        """
        import atexit, shutil, tempfile
        KEEP = []

        def test_it():
            KEEP.append(tempfile.TemporaryDirectory(prefix="object-"))
            atexit.register(shutil.rmtree, tempfile.mkdtemp(prefix="callback-"))
            tempfile.mkdtemp(prefix="leak-")
        """
    )
    result, report = run_with_report()
    statuses = {os.path.basename(x["path"])[:-9]: x["status"] for x in report["leaks"]}
    assert statuses == {"object": "deferred", "callback": "deferred", "leak": "leak"}
    assert (report["totals"]["leaks"], report["totals"]["deferred"]) == (1, 2)
    assert {leak["owner"]["kind"] for leak in report["leaks"]} == {"test"}
    result.stdout.fnmatch_lines(["*1 leak from 1 test, 0 bytes; removed*"])
    nothing_left()


def test_paths_that_will_not_be_removed_at_exit_are_leaks(pytester, run_with_report, nothing_left):
    """A temporary object with `delete=False` or an unregistered callback removes nothing."""
    pytester.makepyfile(
        """
        import atexit, shutil, sys, tempfile
        from pytest_tempres import primitives
        KEEP = []

        def test_it():
            KEEP.append(primitives.TemporaryDirectory(prefix="ours-", delete=False))
            KEEP.append(tempfile.NamedTemporaryFile(prefix="file-", delete=False))
            if sys.version_info >= (3, 12):
                KEEP.append(tempfile.TemporaryDirectory(prefix="theirs-", delete=False))
            else:
                tempfile.mkdtemp(prefix="theirs-")

        def gone(path):
            shutil.rmtree(path)

        def test_taken_back():
            atexit.register(gone, tempfile.mkdtemp(prefix="unregistered-"))
            atexit.unregister(gone)
        """
    )
    result, report = run_with_report("-W", "error", "--tempres-leaks=fail")
    statuses = {os.path.basename(leak["path"])[:-9]: leak["status"] for leak in report["leaks"]}
    names = ("ours", "file", "theirs", "unregistered")
    assert statuses == dict.fromkeys(names, "leak")
    assert result.ret == 1
    nothing_left()


def test_temporary_directory_in_a_reference_cycle_is_no_leak(
    pytester, run_with_report, nothing_left
):
    """The garbage collector runs before the verdict."""
    pytester.makepyfile(
        """
        import gc, tempfile, weakref

        class Owner:
            def __init__(self):
                self.me = self
                self.directory = tempfile.mkdtemp()
                import shutil
                weakref.finalize(self, shutil.rmtree, self.directory)

        def test_it():
            gc.disable()
            Owner()
        """
    )
    result, report = run_with_report("--tempres-leaks=fail")
    assert result.ret == 0
    assert report["leaks"] == []
    nothing_left()


def test_paths_left_by_a_failed_test_are_kept(pytester, run_with_report, system_tmp):
    """They are no leaks, do not fail the run, and are not moved."""
    pytester.makepyfile(
        """
        import tempfile
        import pytest

        @pytest.fixture
        def broken_setup():
            tempfile.mkdtemp(prefix="setup-")
            raise RuntimeError

        @pytest.fixture
        def broken_teardown():
            yield
            tempfile.mkdtemp(prefix="teardown-")
            raise RuntimeError

        def test_call():
            path = tempfile.mkstemp(prefix="call-")[1]
            assert not path

        def test_setup(broken_setup): pass

        def test_teardown(broken_teardown):
            tempfile.mkdtemp(prefix="body-")

        def test_passes(): pass
        """
    )
    result, report = run_with_report("--tempres-leaks=fail")
    result.assert_outcomes(passed=2, failed=1, errors=2)
    assert result.ret == 1
    evidence = {os.path.basename(leak["path"])[:-9]: leak for leak in report["leaks"]}
    assert set(evidence) == {"call", "setup", "teardown", "body"}
    assert {leak["status"] for leak in evidence.values()} == {"failed-test"}
    assert report["totals"]["leaks"] == report["totals"]["bytes"] == 0
    assert report["totals"]["from_failed"] == 4
    kept = {os.path.basename(each["path"])[:-9]: each for each in report["kept"]}
    assert set(kept) == set(evidence)
    for name, each in kept.items():
        assert each["nodeid"].endswith("::test_" + name.replace("body", "teardown"))
        assert os.path.exists(each["path"])
        assert each["reason"] == "failed"
    result.stdout.no_fnmatch_line("*because of leaks*")
    result.stdout.fnmatch_lines(["*no leaks; 4 paths kept; 4 more from failed tests*"])
    assert len(list(system_tmp.iterdir())) == 1


def test_leaks_of_other_owners_count_despite_a_failed_test(pytester, run_with_report):
    """What a wider fixture or a test that passed left is a leak."""
    pytester.makepyfile(
        """
        import tempfile
        import pytest

        @pytest.fixture(scope="module")
        def wide():
            tempfile.mkdtemp(prefix="wide-")

        def test_fails(wide):
            tempfile.mkdtemp(prefix="failed-")
            assert 0

        def test_passes(wide):
            tempfile.mkdtemp(prefix="passed-")
        """
    )
    _, report = run_with_report("--dist=loadfile")
    statuses = {os.path.basename(x["path"])[:-9]: x["status"] for x in report["leaks"]}
    assert statuses == {"wide": "leak", "passed": "leak", "failed": "failed-test"}


@pytest.mark.parametrize("leaks", ["off", "report", "fail"])
def test_exit_status_of_each_mode(pytester, run_with_report, nothing_left, leaks):
    """`off` detects nothing, `report` only reports, `fail` also sets exit status 1."""
    pytester.makepyfile(LEAK)
    result, report = run_with_report(f"--tempres-leaks={leaks}")
    result.assert_outcomes(passed=1)
    assert result.ret == report["session"]["exit_status"] == (leaks == "fail")
    assert report["totals"]["leaks"] == (leaks != "off")
    seen = "temporary resources" in result.stdout.str()
    assert seen is (leaks != "off")
    gate = "the run fails because of leaks (--tempres-leaks)"
    assert (gate in result.stdout.str()) is (leaks == "fail")
    nothing_left()


def test_fail_mode_changes_no_other_exit_status(pytester, run, nothing_left):
    """Failed tests stay 1, no tests stay 5, internal and usage errors keep their own."""
    pytester.makeconftest("import tempfile; tempfile.mkdtemp()")
    pytester.makepyfile(LEAK + "\ndef test_fails():\n    assert 0\n")
    result = run("--tempres-leaks=fail", "--tempres-keep=none")
    assert result.ret == 1
    result.stdout.no_fnmatch_line("*because of leaks*")
    assert run("--tempres-leaks=fail", "-k", "nothing").ret == 5
    # A worker that is given a missing path finds no tests, so one process shows this.
    assert run("--tempres-leaks=fail", "missing.py", workers=False).ret == 4
    nothing_left()


def test_json_report_has_the_documented_shape(pytester, run_with_report):
    """Every key, its type and the totals are those of version 1."""
    path = pytester.makepyfile(
        """
        import os, tempfile
        KEEP = []

        def test_leaks():
            with open(os.path.join(tempfile.mkdtemp(), "file"), "w") as file:
                file.write("x" * 1000)
            open(os.path.join(os.fsencode(tempfile.gettempdir()), b"b\\xff"), "w").close()

        def test_defers():
            KEEP.append(tempfile.TemporaryDirectory())

        def test_fails(temp_dir):
            tempfile.mkdtemp()
            assert 0
        """
    )
    result, report = run_with_report("--dist=loadfile")
    assert report["version"] == 1
    session = report["session"]
    types = {
        "id": str,
        "rootdir": str,
        "started": str,
        "seconds": float,
        "exit_status": int,
        "python": str,
        "pytest": str,
        "platform": str,
        "workers": list,
    }
    assert {key: type(value) for key, value in session.items()} == types
    assert re.fullmatch("tempres-[a-z0-9_]{8}", session["id"])
    assert session["rootdir"] == str(pytester.path)
    assert dt.datetime.fromisoformat(session["started"]).utcoffset() == dt.timedelta(0)
    assert session["exit_status"] == result.ret == 1
    assert session["python"] == platform.python_version()
    assert session["pytest"] == pytest.__version__
    assert session["workers"] in (["main"], ["gw0", "gw1"], ["gw1", "gw0"])
    # A worker exits before the verdict, and what it had deferred goes with it.
    deferred = ["deferred"] if session["workers"] == ["main"] else []
    assert report["totals"] == {
        "leaks": 2,
        "known": 0,
        "deferred": len(deferred),
        "from_failed": 1,
        "bytes": 1000,
        "kept": 2,
    }
    statuses = [leak["status"] for leak in report["leaks"]]
    assert sorted(statuses) == [*deferred, "failed-test", "leak", "leak"]
    for leak in report["leaks"]:
        assert all(frame["file"] == path.name for frame in leak["origin"])
        assert leak["worker"] in ("main", "gw0", "gw1")
        assert leak["complete"] is True
        assert (leak["phase"], leak["made_by"]) == ("call", "python")
    (odd,) = (leak for leak in report["leaks"] if "path_bytes" in leak)
    assert odd["path"].endswith(r"/b\xff")
    assert odd["kind"] == "file"
    for each in report["kept"]:
        assert each["nodeid"] == f"{path.name}::test_fails"
        assert (each["reason"], each["artifact"]) == ("failed", None)


def test_fingerprint_is_independent_of_lines_and_parameters(pytester, report):
    """It is the same in another run, lines further down, and for each parameter."""
    body = """
        import tempfile
        import pytest

        @pytest.mark.parametrize("x", [1, 2])
        def test_it(x):
            tempfile.mkdtemp()

        def test_other():
            tempfile.mkdtemp()
        """
    pytester.makepyfile(test_x=body)
    before = report()["leaks"]
    pytester.makepyfile(test_x="# a line\n\n\n" + "\n".join(x[8:] for x in body.splitlines()))
    after = report()["leaks"]
    assert len(before) == len(after) == 3
    prints = [{leak["fingerprint"] for leak in leaks} for leaks in (before, after)]
    assert prints[0] == prints[1]
    assert len(prints[0]) == 2


def test_terminal_report_can_be_silenced(pytester, run, nothing_left):
    """`term:none` leaves the last line alone, on the command line or in the ini."""
    pytester.makepyfile(LEAK)
    result = run("--tempres-report=term:none", "--tempres-leaks=fail")
    assert result.ret == 1
    result.stdout.no_fnmatch_line("*temporary resources*")
    result.stdout.no_fnmatch_line("*tempres-????????/*")
    result.stdout.fnmatch_lines(["*= 1 leak from 1 test, 0 bytes; removed =*"])
    pytester.makeini("[pytest]\ntempres_report = term:none json:out.json\ntempres_leaks = fail\n")
    result = run()
    assert result.ret == 1
    result.stdout.no_fnmatch_line("*temporary resources*")
    assert json.loads((pytester.path / "out.json").read_text())["totals"]["leaks"] == 1
    nothing_left()


def test_nothing_is_printed_if_nothing_is_left(pytester, run, nothing_left):
    """The output is the one without the plugin, and the hook is called all the same."""
    pytester.makeconftest(
        """
        def pytest_tempres_summary(config, summary):
            print("HOOK", summary.leaks, summary.kept, summary.totals.leaks, summary.gate_failed)
        """
    )
    pytester.makepyfile(
        """
        import os, shutil, tempfile

        def test_clean(temp_dir):
            with tempfile.TemporaryDirectory() as path:
                open(os.path.join(path, "x"), "w").close()
            shutil.rmtree(tempfile.mkdtemp())
        """
    )
    result = run("-W", "error", "-s")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*temporary*")
    result.stdout.no_fnmatch_line("*tempres-????????/*")
    assert result.stdout.str().count("HOOK () () 0 False") == 1
    nothing_left()


def test_summary_hook_sees_what_is_reported(pytester, run, nothing_left):
    """The hook gets every record once, in the controller, before the terminal prints."""
    pytester.makeconftest(
        """
        def pytest_tempres_summary(config, summary):
            (leak,) = summary.leaks
            print("\\nHOOK", leak.status, leak.kind, leak.owner.id, summary.gate_failed,
                  hasattr(config, "workerinput"))
        """
    )
    path = pytester.makepyfile(LEAK)
    result = run("--tempres-leaks=fail", "-s")
    result.stdout.fnmatch_lines(
        [
            f"HOOK leak directory {path.name}::test_leaks True False",
            "*= temporary resources =*",
        ]
    )
    nothing_left()


def test_outcomes_are_those_of_a_run_without_the_plugin(pytester, run):
    """A leak never replaces, hides or adds a test's outcome."""
    pytester.makepyfile(
        """
        import tempfile
        import pytest

        @pytest.fixture
        def leaking():
            tempfile.mkdtemp()
            yield
            tempfile.mkdtemp()

        def test_pass(leaking): tempfile.mkdtemp()
        def test_fail(leaking): assert not tempfile.mkdtemp()
        def test_skip(leaking): pytest.skip(tempfile.mkdtemp()[:3])
        @pytest.mark.xfail
        def test_xfail(leaking): assert not tempfile.mkdtemp()
        @pytest.mark.xfail
        def test_xpass(leaking): tempfile.mkdtemp()
        """
    )
    expected = {"passed": 1, "failed": 1, "skipped": 1, "xfailed": 1, "xpassed": 1}
    result = run("--tempres-leaks=fail")
    result.assert_outcomes(**expected)
    assert result.ret == 1


def test_long_report_is_shortened(pytester, run, nothing_left):
    """The number of owners and paths is limited; `-v` lists all."""
    pytester.makepyfile(
        """
        import tempfile
        import pytest

        @pytest.mark.parametrize("number", range(60))
        def test_it(number):
            tempfile.mkdtemp()
        """
    )
    result = run()
    result.stdout.fnmatch_lines(["... and 40 more owners with 40 leaks, *(-v: all)", "*60 leaks*"])
    assert result.stdout.str().count(" left 1 directory") == 20
    result = run("-v")
    assert result.stdout.str().count(" left 1 directory") == 60
    nothing_left()


def test_size_of_a_large_tree_is_measured_up_to_a_limit(pytester, run_here, monkeypatch):
    """The report says "at least" if a leak has more items."""
    monkeypatch.setattr("pytest_tempres.leaks.temp.scan._MAX_ITEMS", 5)
    pytester.makepyfile(
        """
        import os, tempfile

        def test_it():
            path = tempfile.mkdtemp()
            for number in range(6):
                os.mkdir(os.path.join(path, str(number)))
        """
    )
    result = run_here("--tempres-report=json:report.json")
    (leak,) = json.loads((pytester.path / "report.json").read_text())["leaks"]
    assert leak["complete"] is False
    result.stdout.fnmatch_lines(["* left 1 directory (at least *"])
