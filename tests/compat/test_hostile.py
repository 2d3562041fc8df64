from __future__ import annotations

import base64
import sys

import pytest

#: What tests put in place of other functions; each is in force while fixtures are torn down.
REPLACED = [
    "os.stat",
    "os.lstat",
    "os.listdir",
    "os.scandir",
    "os.getcwd",
    "os.unlink",
    "os.rmdir",
    "os.getpid",
    "os.path.join",
    "os.path.abspath",
    "os.path.exists",
    "os.path.isdir",
    "os.path.realpath",
    "builtins.open",
    "time.time",
    "time.monotonic",
    "time.time_ns",
]


def names(ran):
    """Return what is before the dash in the name of each leak."""
    return sorted(name.partition("-")[0] for _, name in ran.leaks)


@pytest.fixture(params=["plain", "xdist"])
def workers(request, two_workers):
    """The options for an inner session without workers, and for one with two."""
    if request.param == "plain":
        return ()
    pytest.importorskip("xdist")
    return two_workers


@pytest.mark.parametrize("how", ["raises", "lies"])
def test_replaced_functions(pytester, alike, how):
    """The plugin never calls a function that a test has put in place of another."""
    pytester.makepyfile(
        f"""
        import tempfile
        import pytest

        def raises(*args, **kwargs):
            raise RuntimeError("replaced")

        def lies(*args, **kwargs):
            return None

        @pytest.fixture
        def outer():
            yield

        @pytest.fixture
        def replaced(outer, monkeypatch, request):
            monkeypatch.setattr(request.param, {how})
            yield

        @pytest.fixture
        def inner(replaced):
            yield

        @pytest.mark.parametrize("replaced", {REPLACED}, indirect=True)
        def test_it(temp_dir, replaced, inner):
            pass

        @pytest.mark.parametrize("name", {REPLACED})
        def test_leaks(monkeypatch, temp_dir, outer, name):
            tempfile.mkdtemp(prefix="left-")
            monkeypatch.setattr(name, {how})
        """
    )
    ran = alike("--tb=short")
    assert names(ran) == ["left"] * len(REPLACED)
    assert {leak["made_by"] for leak in ran.report["leaks"]} == {"python"}
    assert {leak["owner"]["kind"] for leak in ran.report["leaks"]} == {"test"}


def test_tracers(pytester, alike):
    """A tracer or profiler in a test does not trace the plugin, and does not hide the origin."""
    pytester.makepyfile(
        """
        import sys
        import tempfile

        def tracer(frame, event, arg):
            assert "pytest_tempres" not in frame.f_code.co_filename
            return tracer

        def test_trace():
            sys.settrace(tracer)
            try:
                tempfile.mkdtemp(prefix="left-")
            finally:
                sys.settrace(None)

        def test_profile():
            sys.setprofile(lambda *args: None)
            tempfile.mkdtemp(prefix="left-")
            sys.setprofile(None)
        """
    )
    ran = alike()
    assert names(ran) == ["left", "left"]
    assert {leak["origin"][0]["line"] for leak in ran.report["leaks"]} == {11, 17}


def test_forked_children(pytester, alike, workers):
    """However a forked child exits, it removes and reports nothing."""
    pytester.makepyfile(
        """
        import os
        import sys
        import tempfile
        import pytest

        pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

        def test_leaves_at_once(temp_dir):
            pid = os.fork()
            if pid == 0:
                tempfile.mkdtemp(prefix="child-")
                os._exit(0)
            os.waitpid(pid, 0)
            assert temp_dir.is_dir()

        def test_runs_the_exit_handlers(temp_dir):
            pid = os.fork()
            if pid == 0:
                import atexit
                tempfile.TemporaryDirectory()
                atexit._run_exitfuncs()
                os._exit(0)
            os.waitpid(pid, 0)
            assert temp_dir.is_dir()
            assert os.path.isdir(tempfile.gettempdir())

        def test_outlives(temp_dir):
            if os.fork() == 0:
                os.close(0), os.close(1), os.close(2)
                import time
                time.sleep(1)
                os._exit(0)
            assert temp_dir.is_dir()
        """
    )
    ran = alike(*workers)
    assert names(ran) == ["child"]


def test_forked_child_that_ends_the_session(pytester, system_tmp, nothing_left, run_plain):
    """A child that leaves a test by `pytest.exit` removes nothing of its parent."""
    pytester.makepyfile(
        """
        import os
        import sys
        import tempfile
        import pytest

        @pytest.mark.filterwarnings("ignore::DeprecationWarning")
        def test_exits(temp_dir):
            (temp_dir / "precious").touch()
            tempfile.mkdtemp(prefix="left-")
            pid = os.fork()
            if pid == 0:
                pytest.exit("child", returncode=7)
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == 7
            assert (temp_dir / "precious").exists()
            assert os.listdir(tempfile.gettempdir())

        def test_after(temp_dir):
            assert temp_dir.is_dir()
        """
    )
    result = run_plain()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*1 leak from 1 test*", "*2 passed*"])
    nothing_left()


def test_removed_working_directory(pytester, alike, workers):
    """A test may remove the working directory of the process."""
    pytester.makepyfile(
        """
        import os
        import shutil
        import tempfile
        import pytest

        @pytest.fixture
        def back():
            here = os.getcwd()
            yield
            os.chdir(here)

        def test_removed(back):
            path = tempfile.mkdtemp()
            os.chdir(path)
            os.rmdir(path)
            tempfile.mkdtemp(prefix="left-")

        def test_given(back, temp_dir):
            os.chdir(temp_dir)
            shutil.rmtree(temp_dir)

        def test_stays_there(temp_dir):
            os.chdir(temp_dir)

        def test_after(temp_dir, back):
            tempfile.mkdtemp(prefix="left-")

        def test_stays_in_a_leak():
            os.chdir(tempfile.mkdtemp(prefix="left-"))
        """
    )
    assert names(alike(*workers, "--junitxml=x.xml")) == ["left"] * 3


def test_moved_temp_location(pytester, alike, workers):
    """A test may change the temp location and not restore it."""
    pytester.makepyfile(
        """
        import os
        import subprocess
        import sys
        import tempfile

        def test_patched(monkeypatch, tmp_path):
            monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
            tempfile.mkdtemp(prefix="patched-")

        def test_variable(monkeypatch, tmp_path):
            monkeypatch.setenv("TMPDIR", str(tmp_path))
            monkeypatch.setattr(tempfile, "tempdir", None)
            tempfile.mkdtemp(prefix="patched-")

        def test_asks_anew(monkeypatch):
            monkeypatch.setattr(tempfile, "tempdir", None)
            tempfile.mkdtemp(prefix="left-")

        def test_never_restored(tmp_path, temp_dir):
            tempfile.tempdir = str(tmp_path)
            os.environ["TMPDIR"] = str(tmp_path)
            tempfile.mkdtemp(prefix="lost-")

        def test_after(temp_dir):
            assert temp_dir.is_dir()
        """
    )
    assert names(alike(*workers)) == ["left"]


def test_names_that_are_not_text(pytester, alike, workers):
    """They are printed escaped; the JSON report contains the bytes."""
    if sys.platform == "darwin":
        pytest.skip("names are text on this system")
    pytester.makepyfile(
        r"""
        import os
        import tempfile
        import pytest

        NAMES = [b"new\nline", b"red\x1b[31m", b"caf\xe9", b"bell\x07\r", b"\xff\xfe", b"-rf *"]

        @pytest.mark.parametrize("number", range(6))
        def test_it(number):
            os.mkdir(os.path.join(tempfile.gettempdirb(), NAMES[number]))
        """
    )
    ran = alike(*workers)
    assert len(ran.leaks) == 6
    assert all(leak["origin"][0]["line"] == 9 for leak in ran.report["leaks"])
    raw = ("new\nline", "\x1b[31m", "\x07", "\xe9", "\udce9")
    assert not [text for text in raw if text in ran.output]
    ran.result.stdout.fnmatch_lines_random(
        [r"*/new\nline", r"*/red\x1b[[]31m", r"*/caf\xe9", r"*/bell\x07\r", r"*/\xff\xfe"]
    )
    paths = [base64.b64decode(leak.get("path_bytes", "")) for leak in ran.report["leaks"]]
    assert {path.rpartition(b"/")[2] for path in paths} == {b"", b"caf\xe9", b"\xff\xfe"}


def test_entries_without_permissions(pytester, alike, workers):
    """Entries that cannot be entered or read are reported and removed."""
    pytester.makepyfile(
        """
        import os
        import tempfile

        def test_it(temp_dir):
            path = tempfile.mkdtemp(prefix="left-")
            os.makedirs(os.path.join(path, "a", "b"))
            os.chmod(os.path.join(path, "a", "b"), 0)
            os.chmod(os.path.join(path, "a"), 0o111)
            os.chmod(path, 0)
            fd, name = tempfile.mkstemp(prefix="left-")
            os.close(fd)
            os.chmod(name, 0)
            temp_dir.joinpath("x").mkdir()
            temp_dir.joinpath("x").chmod(0)
            temp_dir.chmod(0)
        """
    )
    assert names(alike(*workers)) == ["left", "left"]


def test_directory_with_many_files(pytester, alike):
    """The number of items in the report is limited, but all are removed."""
    pytester.makepyfile(
        """
        import os
        import tempfile

        def test_it():
            path = tempfile.mkdtemp(prefix="left-")
            for number in range(10_500):
                os.close(os.open(f"{path}/{number}", os.O_CREAT))
        """
    )
    ran = alike()
    (leak,) = ran.report["leaks"]
    assert (leak["items"], leak["complete"]) == (10_000, False)
    ran.result.stdout.fnmatch_lines(["*left 1 directory (at least 10,000 files, *"])


def test_many_leaks_are_listed_few_times(pytester, alike):
    """A test that leaves nothing causes no listing, however many entries exist."""
    pytester.makeconftest(
        """
        import pytest

        def pytest_configure(config):
            try:
                from pytest_tempres.leaks.temp.scan import Scan
            except ImportError:
                return
            listed = []
            names = Scan.names

            def counted(look):
                listed.append(1)
                return names(look)

            Scan.names = counted
            config.add_cleanup(lambda: print("LISTED", len(listed)))
        """
    )
    pytester.makepyfile(
        """
        import tempfile
        import time
        import pytest

        def test_leaks():
            for _ in range(2000):
                tempfile.mkdtemp(prefix="left-")

        def test_waits():
            time.sleep(0.05)

        @pytest.mark.parametrize("number", range(300))
        def test_leaves_nothing(number):
            pass
        """
    )
    ran = alike("-s")
    assert len(ran.leaks) == 2000
    line = next(line for line in ran.result.outlines if "LISTED" in line)
    assert int(line.split()[-1]) < 15


@pytest.mark.parametrize("what", ["here", "here.parent"])
def test_deleted_worker_root(pytester, alike, workers, what):
    """It is created again, with one warning."""
    pytester.makepyfile(
        f"""
        import shutil
        import tempfile
        from pathlib import Path

        def test_before():
            tempfile.mkdtemp(prefix="gone-")

        def test_deletes(pytestconfig):
            if pytestconfig.pluginmanager.hasplugin("tempres"):
                here = Path(tempfile.gettempdir())
                shutil.rmtree({what})

        def test_after(temp_dir):
            tempfile.mkdtemp(prefix="left-")
        """
    )
    ran = alike(
        *workers,
        "-p",
        "no:cacheprovider",
        *(["--dist=loadfile"] if workers else []),
        warns="has been created again",
    )
    assert names(ran) == ["left"]
