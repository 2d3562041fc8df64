from __future__ import annotations

import os
from pathlib import Path
import shutil
import signal
import sys
import time

import pytest

#: A suite that leaks, and says in which session root it ran.
NESTED = """
import tempfile

def test_inner(temp_dir):
    print("INNER", tempfile.gettempdir())
    tempfile.mkdtemp(prefix="inner-")
"""


def inner_roots(text):
    """Return the worker roots that nested sessions named."""
    return [line.split()[-1] for line in text.splitlines() if "INNER " in line]


def test_session_root_has_name_lock_and_breadcrumb(pytester, run, nothing_left):
    """A running session has one private root with a lock and a breadcrumb."""
    pytester.makepyfile(
        """
        import fcntl, json, os, re, stat, tempfile
        from pathlib import Path
        import pytest

        def test_it():
            root = Path(tempfile.gettempdir()).parent
            assert re.fullmatch("tempres-[a-z0-9_]{8}", root.name)
            assert root.stat().st_uid == os.geteuid()
            assert stat.S_IMODE(root.stat().st_mode) & 0o066 == 0
            assert isinstance(json.loads((root / ".tempres.json").read_text()), dict)
            with open(root / ".lock") as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            own = {".kept.jsonl", ".lock", ".tempres.json"}
            names = {path.name for path in root.iterdir()} - own
            assert {"main", "main.d"} <= names
            assert not names - {"main", "main.d", "gw0", "gw0.d", "gw1", "gw1.d"}
        """
    )
    run("-W", "error").assert_outcomes(passed=1)
    nothing_left()


def test_root_option_sets_the_parent_directory(pytester, run, system_tmp, nothing_left):
    """The session root is created below it; what else is there stays."""
    place = pytester.mkdir("place")
    (place / "precious").touch()
    pytester.makepyfile(
        """
        import tempfile
        from pathlib import Path

        def test_it(temp_dir):
            place = Path("place").resolve()
            assert Path(tempfile.gettempdir()).parent.parent == place
            assert temp_dir.parent.parent.parent == place
        """
    )
    run("--tempres-root=place", "-W", "error").assert_outcomes(passed=1)
    pytester.makeini("[pytest]\ntempres_root = place\n")
    run("-W", "error").assert_outcomes(passed=1)
    assert [path.name for path in place.iterdir()] == ["precious"]
    nothing_left()


@pytest.mark.parametrize("strict", [(), ("-W", "error")], ids=["lenient", "strict"])
@pytest.mark.parametrize("what", ["here", "here.parent", "here.with_suffix('.d')"])
def test_temp_location_that_is_removed(pytester, run_with_report, nothing_left, what, strict):
    """It is created again with one warning; no test and no session fails."""
    pytester.makepyfile(
        f"""
        import shutil, tempfile
        from pathlib import Path

        def test_removes(temp_dir, named_temp_file):
            here = Path(tempfile.gettempdir())
            shutil.rmtree({what})

        def test_after(temp_dir):
            (temp_dir / "file").touch()

        def test_temp():
            tempfile.mkdtemp()
        """
    )
    result, report = run_with_report("--dist=loadfile", *strict)
    result.assert_outcomes(passed=3, warnings=result.parseoutcomes()["warnings"])
    result.stdout.fnmatch_lines(["*TempresCleanupWarning: the session directory * was removed*"])
    assert result.ret == 0
    assert report["totals"]["leaks"] == 1
    for noise in ("*INTERNALERROR*", "*internal error*"):
        result.stdout.no_fnmatch_line(noise)
    nothing_left()


@pytest.mark.parametrize("what", ["here", "here.parent"])
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_temp_location_that_is_moved_and_moved_back(
    pytester, run_with_report, nothing_left, what, used
):
    """The test leaks nothing; the location is created again for a test that needs it."""
    pytester.makepyfile(
        f"""
        import os, shutil, tempfile
        from pathlib import Path
        import pytest
        here = Path(tempfile.gettempdir())

        @pytest.fixture
        def aside():
            place = {what}
            away = place.with_name("tempres-away")
            place.rename(away)
            yield
            if place.exists():
                shutil.rmtree(place)
            away.rename(place)

        def test_before():
            tempfile.mkdtemp(prefix="left-")
            os.mkfifo(here / "fifo")

        def test_aside(aside):
            if {used}:
                os.rmdir(tempfile.mkdtemp(prefix="gone-"))
            else:
                assert not here.exists()

        def test_after(): pass
        """
    )
    result, report = run_with_report("--dist=loadfile")
    result.assert_outcomes(passed=3, warnings=int(used))
    owners = [leak["owner"]["id"].rpartition("::")[2] for leak in report["leaks"]]
    assert owners == ["test_before"] * 2
    nothing_left()


def test_worker_that_ends_creates_no_directory_again(pytester, run, nothing_left):
    """A test that removes the session root is not disturbed by a worker that ends."""
    pytester.makeconftest(
        """
        import os, time
        from pathlib import Path
        import pytest
        HERE = Path(__file__).parent

        def wait_for(name):
            until = time.monotonic() + 20
            while not (HERE / name).exists() and time.monotonic() < until:
                time.sleep(0.01)

        @pytest.hookimpl(tryfirst=True)
        def pytest_sessionfinish(session):
            if hasattr(session.config, "workerinput"):
                wait_for("removed")

        def pytest_unconfigure(config):
            if hasattr(config, "workerinput"):
                (HERE / "ended").touch()
        """
    )
    pytester.makepyfile(
        """
        import os, shutil, tempfile
        from pathlib import Path
        from conftest import HERE, wait_for

        def test_removes():
            root = Path(tempfile.gettempdir()).parent
            shutil.rmtree(root)
            (HERE / "removed").touch()
            if "PYTEST_XDIST_WORKER" in os.environ:
                wait_for("ended")
            assert not root.exists()

        def test_after(): pass
        """
    )
    result = run("--dist=loadfile")
    result.assert_outcomes(passed=2, warnings=result.parseoutcomes()["warnings"])
    nothing_left()


@pytest.fixture
def tiny(tmpfs):
    """A file system with little room."""
    return tmpfs("size=64k,nr_inodes=30")


def test_full_disk_during_the_session(pytester, run, mode, tiny):
    """Writes fail in the test; the plugin warns, and removes what was created."""
    (tiny / "out").mkdir()
    pytester.makepyfile(
        """
        import errno, os, tempfile
        import pytest
        HERE = tempfile.gettempdir()

        def test_fills(temp_dir):
            with pytest.raises(OSError) as caught, open(temp_dir / "big", "wb", 0) as file:
                while True:
                    file.write(bytes(4096))
            assert caught.value.errno == errno.ENOSPC

        def test_goes_on(temp_dir): pass

        def test_leaves_no_room():
            with pytest.raises(OSError):
                for number in range(100):
                    with open(os.path.join(HERE, f"blocks-{number}"), "wb") as file:
                        file.write(bytes(4096))
            with pytest.raises(OSError):
                for number in range(100):
                    os.mkdir(os.path.join(HERE, f"inodes-{number}"))

        def test_has_no_room(temp_dir): pass

        def test_needs_none(): pass
        """
    )
    report = tiny / "out" / "report.json"
    args = [f"--tempres-root={tiny}", f"--tempres-report=json:{report}", "-W", "error"]
    if mode == "xdist":
        # A second worker would free what its captured output takes, at a moment of its own.
        args.append("-n1")
    result = run(*args)
    result.assert_outcomes(passed=4, errors=1, warnings=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*No space left on device*", "*JSON report was not written*"])
    for noise in ("*INTERNALERROR*", "*internal error*"):
        result.stdout.no_fnmatch_line(noise)
    assert [path.name for path in tiny.iterdir()] == ["out"]


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
def test_root_on_a_full_disk_is_refused(pytester, run, tiny):
    """The error for `--tempres-root` gives the reason."""
    for number in range(40):
        try:
            (tiny / str(number)).mkdir()
        except OSError:
            break
    pytester.makepyfile("def test_it(): pass")
    result = run(f"--tempres-root={tiny}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = (line for line in result.stderr.lines if line)
    assert line.startswith("ERROR: ")
    assert str(tiny) in line
    assert "No space left" in line


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
def test_suite_runs_if_the_default_location_is_unusable(pytester, run, nothing_left):
    """It runs as without the plugin, with one warning."""
    pytester.makepyfile(
        refuses="""
        import os
        mkdir = os.mkdir

        def broken(path, *args, **kwargs):
            if "tempres-" in os.fsdecode(path):
                raise OSError(30, "Read-only file system", path)
            return mkdir(path, *args, **kwargs)

        os.mkdir = broken
        """,
        test_it="""
        def test_fine(): pass
        def test_asks(temp_dir): pass
        """,
    )
    for strict in ((), ("-W", "error")):
        result = run("-p", "refuses", *strict)
        result.assert_outcomes(passed=1, errors=1, warnings=1)
        result.stdout.fnmatch_lines(
            ["*no temporary resources*", "*temporary resources are disabled*"]
        )
        result.stdout.no_fnmatch_line("*INTERNALERROR*")
    nothing_left()


def test_forked_children_remove_nothing(pytester, run, nothing_left):
    """However a child exits, it removes nothing of its parent."""
    pytester.makepyfile(
        """
        import multiprocessing, os, sys, tempfile
        from pathlib import Path
        HERE = Path(tempfile.gettempdir())

        def leave(way):
            pid = os.fork()
            if pid == 0:
                if way == "exit":
                    os._exit(0)
                os.execv(sys.executable, [sys.executable, "-c", ""])
            assert os.waitpid(pid, 0)[1] == 0

        def check(temp_dir, named_temp_file, temp_resources_session):
            assert (temp_dir / "file").exists() and Path(named_temp_file.name).exists()
            assert HERE.is_dir() and (HERE.parent / ".lock").exists()
            assert temp_resources_session.dir().is_dir()

        def work(path):
            Path(path, "from-child").touch()
            with tempfile.TemporaryDirectory():
                pass

        def test_fork(temp_dir, named_temp_file, temp_resources_session):
            (temp_dir / "file").touch()
            for way in ("exit", "exec"):
                leave(way)
                check(temp_dir, named_temp_file, temp_resources_session)

        def test_multiprocessing(temp_dir, named_temp_file, temp_resources_session):
            (temp_dir / "file").touch()
            for method in ("fork", "spawn"):
                process = multiprocessing.get_context(method).Process(target=work, args=[temp_dir])
                process.start()
                process.join()
                assert process.exitcode == 0
                (temp_dir / "from-child").unlink()
                check(temp_dir, named_temp_file, temp_resources_session)
        """
    )
    run("-W", "ignore::DeprecationWarning").assert_outcomes(passed=2)
    nothing_left()


def test_nested_sessions_are_independent(pytester, run_with_report, nothing_left):
    """In this process or in another, a nested run has its own root and its own report."""
    pytester.makepyfile(nested=NESTED)
    pytester.makeconftest("pytest_plugins = ['pytester']")
    pytester.makepyfile(
        test_outer=f"""
        import os, re, subprocess, sys, tempfile
        import pytest
        NESTED = {NESTED!r}
        HERE = tempfile.gettempdir()

        def check(text):
            (inner,) = re.findall("INNER (.*)", text)
            assert re.fullmatch(re.escape(HERE) + "/tempres-[a-z0-9_]{{8}}/main", inner)
            assert "1 leak from 1 test, 0 bytes; removed" in text
            assert tempfile.gettempdir() == os.environ["TMPDIR"] == HERE
            assert os.listdir(HERE) == []

        def test_subprocess():
            command = [sys.executable, "-m", "pytest", "-s", "-p", "no:randomly", "nested.py"]
            check(subprocess.check_output(command, text=True))

        def test_in_process(capsys):
            for _ in range(2):
                assert pytest.main(["-s", "-p", "no:randomly", "nested.py"]) == 0
                check(capsys.readouterr().out)

        def test_pytester(pytester):
            pytester.makepyfile(NESTED)
            check(pytester.runpytest_inprocess("-s", "-p", "no:randomly").stdout.str())
        """
    )
    result, report = run_with_report("test_outer.py")
    result.assert_outcomes(passed=3)
    assert report["leaks"] == report["kept"] == []
    nothing_left()


def test_pytest_main_twice_in_one_process(pytester, system_tmp):
    """Two runs in one process are two sessions; the program's own files are not reported."""
    pytester.makepyfile(nested=NESTED)
    script = pytester.makepyfile(
        script="""
        import atexit, os, sys, tempfile
        import pytest

        # pytest takes this one away itself.
        os.environ.pop("PYTEST_CURRENT_TEST", None)
        before = tempfile.gettempdir(), dict(os.environ)
        mine = tempfile.mkdtemp()
        for _ in range(2):
            assert pytest.main(["-s", "-p", "no:randomly", "nested.py"]) == 0
            assert (tempfile.gettempdir(), dict(os.environ)) == before
        assert os.listdir(before[0]) == [os.path.basename(mine)]
        os.rmdir(mine)
        """
    )
    result = pytester.run(sys.executable, script)
    assert result.ret == 0, result.stderr.str()
    roots = inner_roots(result.stdout.str())
    assert len(set(roots)) == 2
    assert result.stdout.str().count("1 leak from 1 test") == 2
    assert not list(system_tmp.iterdir())


def test_deferred_entries_exist_until_their_finalizers_run(
    pytester, run, nothing_left, monkeypatch
):
    """This also holds after `pytest.main`."""
    pytester.makepyfile(
        """
        import atexit, os, shutil, sys, tempfile
        HOLD = []

        def last(path, holder):
            os.mkdir(os.path.join(path, "more"))
            found = sorted(os.listdir(path)), os.listdir(holder)
            with open(os.path.join(os.environ["OUT"], f"out-{os.getpid()}"), "w") as f:
                f.write(repr(found))
            shutil.rmtree(path)

        def test_it():
            path = tempfile.mkdtemp()
            HOLD.append(tempfile.TemporaryDirectory())
            for each in (path, HOLD[0].name):
                open(os.path.join(each, "file"), "w").close()
            atexit.register(last, path, HOLD[0].name)
        """
    )
    monkeypatch.setenv("OUT", str(pytester.path))
    result = run("--tempres-leaks=fail")
    assert result.ret == 0
    (out,) = pytester.path.glob("out-*")
    assert out.read_text() == "(['file', 'more'], ['file'])"
    nothing_left()


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
def test_killed_session_is_swept_by_the_next(pytester, run, system_tmp, nothing_left, monkeypatch):
    """The directories of others are not touched."""
    foreign = system_tmp / "tempres-abcdefgh"
    foreign.mkdir()
    (foreign / "precious").touch()
    pytester.makepyfile(
        """
        import os, tempfile

        def test_it(temp_dir):
            (temp_dir / "file").touch()
            tempfile.mkdtemp()
            if "LIVE" not in os.environ:
                os.kill(os.getpid(), 9)
        """
    )
    assert run().ret == -9
    assert len(list(system_tmp.glob("tempres-*/main*/*"))) == 2
    monkeypatch.setenv("LIVE", "1")
    assert run().ret == 0
    assert [path.name for path in system_tmp.rglob("*")] == [foreign.name, "precious"]
    shutil.rmtree(foreign)
    nothing_left()


def test_audit_events_return_to_the_outer_session(pytester, run_here):
    """After a nested run the outer session finds its own tests' entries again."""
    pytester.makepyfile(nested=NESTED)
    pytester.makepyfile(
        """
        import tempfile
        import pytest

        def test_outer():
            tempfile.mkdtemp(prefix="before-")
            assert pytest.main(["-p", "no:randomly", "nested.py"]) == 0
            tempfile.mkdtemp(prefix="after-")
        """
    )
    result = run_here()
    result.stdout.fnmatch_lines_random(
        [
            "  tempres-*/main/before-*",
            "  tempres-*/main/after-*",
            "*= 2 leaks from 1 test, 0 bytes; removed =*",
        ]
    )


KILLED = """
import os, signal, tempfile

def test_it(temp_dir):
    (temp_dir / "file").write_bytes(b"x" * 1000)
    tempfile.mkdtemp()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_sweep_of_a_killed_session_prints_one_line(pytester, run, run_plain, system_tmp):
    """It says how much was removed and how old it was."""
    path = pytester.makepyfile(KILLED)
    run_plain()
    (dead,) = system_tmp.iterdir()
    hour_ago = time.time() - 3700
    os.utime(dead / ".tempres.json", (hour_ago, hour_ago))
    path.write_text("def test_it(): pass")
    result = run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["reclaimed 1 dead session (? items, 1.0 kB), from 1 hour ago"])
    assert not list(system_tmp.iterdir())
    run().stdout.no_fnmatch_line("*reclaimed*")


def test_silenced_session_sweeps_without_a_line(pytester, run_plain, nothing_left):
    """`term:none` and `-p no:terminal` suppress the line, not the sweep."""
    path = pytester.makepyfile(KILLED)
    for args in (["--tempres-report=term:none"], ["-p", "no:terminal"]):
        path.write_text(KILLED)
        run_plain()
        path.write_text("def test_it(): pass")
        run_plain(*args).stdout.no_fnmatch_line("*reclaimed*")
        nothing_left()


def test_orphaned_worker_keeps_its_directories(pytester, run_plain):
    """If a controller is killed, what its worker still uses stays until the worker ends."""
    pytest.importorskip("xdist", reason="pytest-xdist is optional, and not installed here")
    os.mkfifo(pytester.path / "go")
    os.mkfifo(pytester.path / "path")
    pytester.makepyfile(
        test_orphan="""
        import os, signal

        def test_it(temp_dir):
            os.kill(os.getppid(), signal.SIGKILL)
            # execnet kills the worker of a dead controller, but not while it is in C code.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with open("path", "w") as file:
                file.write(str(temp_dir))
            open("go").close()
            assert temp_dir.is_dir()
            with open("path", "w") as file:
                file.write("still there")
        """,
        test_next="def test_it(): pass",
    )
    controller = pytester.popen([sys.executable, "-m", "pytest", "-n1", "test_orphan.py"])
    path = Path((pytester.path / "path").read_text())
    assert controller.wait() == -signal.SIGKILL
    controller.stdout.close()
    controller.stderr.close()
    result = run_plain("test_next.py")
    result.assert_outcomes(passed=1)
    assert path.is_dir()
    (pytester.path / "go").write_text("")
    assert (pytester.path / "path").read_text() == "still there"
