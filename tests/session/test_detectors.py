from __future__ import annotations

import json
import os
import sys

import pytest

from pytest_tempres.leaks.fds import detector
from pytest_tempres.leaks.watch.detector import Watched

WATCH = "--tempres-detect=watch"
FDS = "--tempres-detect=fds"


def told_of(report):
    """Return what each leak is, whose it is and where it was made."""
    return sorted(
        (
            leak["kind"],
            os.path.basename(leak["path"]) if leak["kind"] != "descriptor" else "",
            leak["owner"]["id"].rpartition("::")[2],
            leak["origin"][0]["line"] if leak["origin"] else None,
        )
        for leak in report["leaks"]
    )


LITTER = """
    import os, subprocess, sys, tempfile
    import pytest

    def test_file(): open("out.csv", "w").close()
    def test_tree(): os.makedirs("build/empty/deep")
    def test_change(): open("data.txt", "a").write("more")
    def test_delete(): os.remove("gone.txt")
    def test_clean():
        open("passing", "w").close()
        os.remove("passing")

    @pytest.fixture(scope="module")
    def shared():
        open("shared.txt", "w").close()
        yield
        os.remove("shared.txt")

    def test_shared(shared): pass

    @pytest.mark.tempres_ignore("*.log", reason="wanted")
    def test_allowed(): open("wanted.log", "w").close()

    def test_elsewhere(): tempfile.mkdtemp()
"""


@pytest.fixture
def litter(pytester):
    """A suite that changes its directory in every way."""
    pytester.makefile(".txt", data="old", gone="old")
    pytester.makepyfile(LITTER)


def test_watch_finds_created_changed_and_deleted_paths(litter, run_with_report, nothing_left):
    """They are reported with owner and line; caches are not."""
    result, report = run_with_report(WATCH, "--junitxml=junit.xml")
    assert told_of(report) == [
        ("changed", "data.txt", "test_change", 6),
        ("deleted", "gone.txt", "test_delete", 7),
        ("directory", "build", "test_tree", 5),
        ("file", "out.csv", "test_file", 4),
    ]
    result.stdout.fnmatch_lines(["*= 4 leaks from 4 tests, *; not removed, since outside *"])
    nothing_left()


def test_watch_is_limited_to_its_directories(litter, pytester, report):
    """Only what is below a directory named in the configuration file is watched."""
    pytester.mkdir("build")
    pytester.makeini("[pytest]\ntempres_watch = build\ntempres_detect = watch")
    path = next(pytester.path.glob("test_*.py"))
    path.write_text(path.read_text().replace("build/empty", "build/new"))
    assert told_of(report("--tempres-leaks=fail")) == [("directory", "new", "test_tree", 5)]


def test_watch_ignores_globs_relative_to_rootdir(litter, pytester, report):
    """The ini file lists what the suite may leave in the repository."""
    pytester.makeini(f"[pytest]\ntempres_detect = watch\ntempres_ignore =\n  *.{'csv'}\n  build*")
    assert [kind for kind, *_ in told_of(report())] == ["changed", "deleted"]


def test_watch_does_not_report_changes_of_another_workers_test(pytester, report, mode):
    """A change without an audit event belongs to a test only if no other worker runs."""
    pytester.makepyfile(
        f"""
        import subprocess
        def test_native():
            code = "open('native', 'w').close()"
            subprocess.run([{sys.executable!r}, "-c", code], check=True)
        def test_other(): pass
        """
    )
    owner = "test_native" if mode == "plain" else "session"
    assert told_of(report(WATCH)) == [("file", "native", owner, None)]


def test_watch_in_strict_mode(litter, run):
    """A test that leaves a file has an error at teardown; the report at the end lists it too."""
    result = run(WATCH, "--tempres-leaks=strict")
    assert result.parseoutcomes()["errors"] == 4
    result.stdout.fnmatch_lines(["*= 4 leaks from 4 tests, *"])


def test_watch_reports_no_leaks_of_failed_tests(pytester, report):
    """What a failed test left in a watched directory is counted apart."""
    pytester.makepyfile("def test_it():\n    open('x', 'w').close()\n    assert 0")
    (leak,) = report(WATCH)["leaks"]
    assert (leak["status"], leak["owner"]["kind"]) == ("failed-test", "test")


def test_watch_alone_reports_no_temporary_paths(litter, run_with_report, nothing_left):
    """Leaks in the temp location are then not reported, but removed."""
    _, report = run_with_report(WATCH)
    assert "test_elsewhere" not in str(report["leaks"])
    nothing_left()


OPEN = """
    import os, socket, tempfile
    import pytest
    HELD = []

    def test_file(): HELD.append(open(__file__))
    def test_unlinked(): HELD.append(tempfile.TemporaryFile())
    def test_pipe(): HELD.extend(os.pipe())
    def test_socket(): HELD.append(socket.socket())
    def test_closes(): os.close(os.open(__file__, os.O_RDONLY))

    class Cycle: pass

    def test_cycle():
        cycle = Cycle()
        cycle.itself, cycle.fd = cycle, os.fdopen(os.open(__file__, os.O_RDONLY), closefd=True)

    @pytest.fixture(scope="module")
    def shared():
        file = open(__file__)
        yield file
        file.close()

    def test_shared(shared): pass

    @pytest.fixture(scope="module")
    def careless(): return os.open(os.devnull, os.O_RDONLY)

    def test_careless(careless): pass
"""

needs_fds = pytest.mark.skipif(
    detector.unsupported() is not None, reason="no list of descriptors on this platform"
)


@needs_fds
def test_fds_finds_open_descriptors(pytester, run_with_report):
    """Files, deleted files, pipes and sockets are reported with owner and description."""
    pytester.makepyfile(OPEN)
    _, report = run_with_report(FDS, "-W", "ignore::ResourceWarning")
    owners = sorted(leak["owner"]["id"].rpartition("::")[2] for leak in report["leaks"])
    assert owners == [
        *("careless", "test_file", "test_pipe", "test_pipe", "test_socket", "test_unlinked")
    ]
    assert {leak["kind"] for leak in report["leaks"]} == {"descriptor"}
    words = " ".join(leak["path"] for leak in report["leaks"])
    assert "pipe" in words
    assert "socket" in words
    assert "unnamed file" in words


@needs_fds
def test_fds_in_strict_mode(pytester, run):
    """A descriptor is expired when its test ends; the next test is not affected."""
    pytester.makepyfile(
        """
        import os
        HELD = []
        def test_opens(): HELD.append(os.open(os.devnull.replace("null", "zero"), os.O_RDONLY))
        def test_next(): pass
        """
    )
    result = run(FDS, "--tempres-leaks=strict")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_opens*", "*left 1 descriptor*"])


@needs_fds
def test_fds_ignores_descriptors_of_libraries(pytester, run_with_report):
    """What `ctypes` or TLS keep open is no leak of the test that uses them first."""
    pytester.makepyfile(
        """
        import os
        from pathlib import Path
        HELD = []

        def test_uses_ctypes():
            import ctypes
            back = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 7)
            assert back() == 7
            HELD.append(back)

        def test_uses_tls():
            import ssl
            ssl.create_default_context()
            ssl.RAND_bytes(8)

        def test_first_use_of_a_library():
            import ctypes
            Path("libffi.so.8").touch()
            for path in (b"libffi.so.8", b"/dev/urandom"):
                assert ctypes.CDLL(None).open(path, os.O_RDONLY) > 2

        def test_reads(): HELD.append(open("/dev/urandom", "rb"))
        """
    )
    _, report = run_with_report(FDS, "-W", "ignore::ResourceWarning")
    (leak,) = report["leaks"]
    assert leak["owner"]["id"].endswith("::test_reads")
    assert leak["path"].endswith("/dev/urandom")


def test_fds_is_refused_on_a_platform_without_descriptors(pytester, run_here, monkeypatch):
    """The error comes before any test and says what to do."""
    monkeypatch.setattr(detector, "unsupported", lambda: "no list of them")
    pytester.makepyfile("def test_it(): pass")
    result = run_here(FDS)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --tempres-detect=fds: no list of them; leave it out*"])


def test_detector_that_fails_is_one_warning(pytester, run_here, monkeypatch):
    """It changes no outcome, and the other detectors report as usual."""

    def broken(self):
        raise ValueError("broken")

    monkeypatch.setattr(Watched, "judge", broken)
    pytester.makepyfile("import tempfile\ndef test_it(): tempfile.mkdtemp()")
    result = run_here("--tempres-detect=temp,watch", "--tempres-report=json:report.json")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*internal error in Watched: ValueError('broken')*"])
    (leak,) = json.loads((pytester.path / "report.json").read_text())["leaks"]
    assert leak["kind"] == "directory"


def test_watch_ignores_files_named_by_options(pytester, run_with_report):
    """Neither these files nor the directories created for them are reported."""
    pytester.makeini(
        "[pytest]\ntempres_detect = watch\nlog_file = logs/pytest.log\nlog_file_level = INFO"
    )
    pytester.makepyfile("import logging\ndef test_it(): logging.getLogger().warning('x')")
    _, report = run_with_report("--junitxml=out/deep/junit.xml", "--tempres-leaks=fail")
    assert report["leaks"] == []


def test_leaks_of_failed_fixtures_and_imports_are_counted_apart(pytester, report):
    """A fixture that fails in an expected failure, and a module that cannot be imported."""
    pytester.makepyfile(
        test_fixture="""
        import pytest

        @pytest.fixture(scope="module")
        def broken():
            open("by-fixture", "w").close()
            raise ValueError

        @pytest.mark.xfail
        def test_it(broken): pass
        """,
        test_import="open('by-import', 'w').close()\nraise ValueError",
    )
    found = report(WATCH, "--continue-on-collection-errors")["leaks"]
    assert {leak["status"] for leak in found} == {"failed-test"}
    assert {os.path.basename(leak["path"]) for leak in found} == {"by-fixture", "by-import"}


@needs_fds
def test_fds_ignores_descriptors_held_by_the_last_traceback(pytester, run_with_report):
    """The interpreter keeps the last traceback and its frames for a debugger."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.xfail
        def test_it():
            file = open(__file__)
            assert 0
        """
    )
    _, report = run_with_report(FDS, "-W", "ignore::ResourceWarning")
    assert report["leaks"] == []


@needs_fds
def test_fds_of_a_fixtures_value_expire_after_its_teardown(pytester, run):
    """The value of a fixture is referenced until the teardown of its test is over."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def file(): return open(__file__)

        def test_it(file): pass
        """
    )
    result = run(FDS, "--tempres-leaks=strict", "-W", "ignore::ResourceWarning")
    result.assert_outcomes(passed=1)
