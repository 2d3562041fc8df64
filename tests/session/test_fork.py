from __future__ import annotations

import os

from forking import QUIET
from forking import left_by
from forking import noise
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
@pytest.mark.parametrize("end", ["sys.exit(3)", "assert 0", "return"])
def test_forked_child_that_runs_the_remaining_tests(pytester, run_with_report, nothing_left, end):
    """A child that does not exit runs the rest of the tests; it reports and removes nothing."""
    pytester.makepyfile(
        f"""
        import os, sys, tempfile
        import pytest
        HERE = tempfile.gettempdir()

        def test_forks(temp_dir, named_temp_file, temp_resources_session):
            mine = temp_resources_session.dir()
            (temp_dir / "precious").touch()
            stray = tempfile.mkdtemp(prefix="left-")
            pid = os.fork()
            if pid == 0:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                {end}
                return
            os.waitpid(pid, 0)
            for path in (temp_dir / "precious", named_temp_file.name, stray, mine):
                assert os.path.exists(path)
            assert sorted(os.listdir(os.path.dirname(HERE))) == [
                ".kept.jsonl", ".lock", ".tempres.json", "main", "main.d"
            ]
            assert not os.path.exists("report.json")

        def test_after(temp_dir, temp_resources_session):
            tempfile.mkdtemp(prefix="after-")
            assert temp_resources_session.dir().is_dir()
        """
    )
    result, report = run_with_report(*QUIET, "-s")
    assert result.ret == 0, result.stdout
    assert not noise(result)
    # What the child's own run of the second test left was there when the first one ended.
    assert left_by(report) == [
        ("test_after", "after"),
        ("test_forks", "after"),
        ("test_forks", "left"),
    ]
    nothing_left()


def test_multiprocessing(pytester, run_with_report, nothing_left):
    """However a child is started, what it leaves belongs to the test."""
    pytester.makepyfile(
        work="""
        import os, tempfile

        def work(name):
            with tempfile.TemporaryDirectory() as path:
                open(os.path.join(path, "x"), "w").close()
            tempfile.mkdtemp(prefix=f"{name}-")
            return tempfile.gettempdir()
        """,
        test_it="""
        import multiprocessing, tempfile
        import pytest
        from work import work
        HERE = tempfile.gettempdir()

        @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
        class TestIt:
            def test_process(self, method, temp_dir):
                context = multiprocessing.get_context(method)
                process = context.Process(target=work, args=["process"])
                process.start()
                process.join()
                assert process.exitcode == 0 and temp_dir.is_dir()

            def test_pool(self, method, temp_dir):
                with multiprocessing.get_context(method).Pool(2) as pool:
                    assert set(pool.map(work, ["a", "b"])) == {HERE}
                    pool.close()
                    pool.join()
                assert temp_dir.is_dir()

            def test_clean(self, method, temp_dir):
                context = multiprocessing.get_context(method)
                queue = context.SimpleQueue()
                process = context.Process(target=queue.put, args=[1])
                process.start()
                assert queue.get() == 1
                process.join()
        """,
    )
    result, report = run_with_report(*QUIET, "--dist=loadfile")
    result.assert_outcomes(passed=9)
    assert not noise(result)
    methods = ("fork", "forkserver", "spawn")
    assert left_by(report) == sorted(
        [(f"test_process[{method}]", "process") for method in methods]
        + [(f"test_pool[{method}]", name) for method in methods for name in "ab"]
    )
    nothing_left()


#: A child that waits for a signal to go on, and writes its result to a file.
OUTLIVES = """
import os, sys, tempfile
HERE = tempfile.gettempdir()

def close_all_but(number):
    os.closerange(3, number)
    os.closerange(number + 1, 256)

def outlive(file):
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    open("go").close()
    said = []
    for attempt in (lambda: file.write("late"), lambda: tempfile.mkdtemp()):
        try:
            attempt()
            file.flush()
            said.append("done")
        except OSError as error:
            said.append(type(error).__name__)
    with open("said", "w") as out:
        out.write(" ".join(said))
"""


@pytest.fixture
def outlived(pytester):
    """Let the child that outlived its session go on to its end, and return what it said."""
    for name in ("go", "said"):
        os.mkfifo(pytester.path / name)

    def outlived():
        (pytester.path / "go").write_text("")
        return (pytester.path / "said").read_text().split()

    return outlived


def test_forked_child_of_a_killed_session(pytester, run_plain, system_tmp, outlived, nothing_left):
    """It does not keep its parent's session alive, and writes on without harm."""
    pytester.makepyfile(
        outlives=OUTLIVES,
        test_killed="""
        import atexit, os, signal, sys, tempfile
        from outlives import outlive

        def test_it(temp_dir):
            file = open(temp_dir / "file", "w")
            held = tempfile.TemporaryDirectory()
            if os.fork() == 0:
                outlive(file)
                sys.exit()
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        test_next="def test_it(): pass",
    )
    assert run_plain(*QUIET, "test_killed.py").ret == -9
    assert list(system_tmp.glob("tempres-*/main.d/*/file"))
    result = run_plain("test_next.py")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*1 dead session*"])
    nothing_left()
    assert outlived() == ["done", "FileNotFoundError"]
    nothing_left()


def test_daemon_that_outlives_the_session(pytester, run_with_report, outlived, nothing_left, mode):
    """What a daemon has open is removed, and it can write on without harm."""
    pytester.makepyfile(
        outlives=OUTLIVES,
        test_it="""
        import os, tempfile
        from outlives import close_all_but, outlive

        def test_it():
            path = tempfile.mkdtemp(prefix="daemon-")
            pid = os.fork()
            if pid == 0:
                os.setsid()
                if os.fork() == 0:
                    file = open(os.path.join(path, "log"), "w")
                    # A worker's channel, for one: who holds it keeps the controller waiting.
                    close_all_but(file.fileno())
                    outlive(file)
                os._exit(0)
            os.waitpid(pid, 0)
        """,
    )
    result, report = run_with_report(*QUIET)
    result.assert_outcomes(passed=1)
    assert not noise(result)
    assert left_by(report) == [("test_it", "daemon")]
    nothing_left()
    assert outlived() == ["done", "FileNotFoundError"]
    nothing_left()


def test_child_that_is_a_session_itself(pytester, run_with_report, nothing_left):
    """A pytest in a forked child, with or without exec, is a session of its own."""
    pytester.makepyfile(
        nested="""
        import tempfile

        def test_inner(temp_dir):
            assert tempfile.gettempdir().count("/tempres-") == 2
            tempfile.mkdtemp(prefix="inner-")
        """,
        test_it="""
        import os, sys, tempfile
        import pytest
        HERE = tempfile.gettempdir()
        ARGS = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "nested.py"]

        @pytest.mark.parametrize("way", ["main", "exec"])
        def test_nested(way, temp_dir):
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.dup2(write, 1)
                if way == "exec":
                    os.execv(sys.executable, [sys.executable, "-m", "pytest", *ARGS])
                code = pytest.main(ARGS)
                sys.stdout.flush()
                os._exit(code)
            os.close(write)
            with open(read) as file:
                text = file.read()
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert "1 leak from 1 test" in text
            assert temp_dir.is_dir() and tempfile.gettempdir() == HERE
            assert os.listdir(HERE) == []
        """,
    )
    result, report = run_with_report(*QUIET, "-s", "test_it.py")
    result.assert_outcomes(passed=2)
    assert report["leaks"] == report["kept"] == []
    nothing_left()


def test_exit_handlers_of_other_code_succeed(pytester, run, nothing_left):
    """Those that run after the plugin's find their files, and standard error is empty."""
    pytester.makepyfile(
        """
        import atexit, logging, multiprocessing.util, os, shutil, sqlite3, tempfile, weakref
        import zipfile
        import pytest_tempres.primitives as ours
        HELD = []

        class Owner: pass

        def test_holds():
            for module in (tempfile, ours):
                HELD.append(module.NamedTemporaryFile())
                HELD.append(module.NamedTemporaryFile("w", suffix=".txt"))
                HELD[-1].write("not flushed")
                HELD.append(module.TemporaryDirectory())
                HELD.append(module.SpooledTemporaryFile(max_size=1))
                HELD[-1].write(b"rolled over")
                HELD.append(module.TemporaryFile())

        def test_registers():
            fd, name = tempfile.mkstemp()
            os.close(fd)
            atexit.register(os.unlink, name)
            atexit.register(shutil.rmtree, tempfile.mkdtemp())
            HELD.append(Owner())
            weakref.finalize(HELD[-1], os.rmdir, tempfile.mkdtemp())
            multiprocessing.util.Finalize(None, os.rmdir, [tempfile.mkdtemp()], exitpriority=1)

        def test_leaves_open():
            path = tempfile.mkdtemp()
            handler = logging.FileHandler(os.path.join(path, "log"))
            logging.getLogger().addHandler(handler)
            HELD.append(zipfile.ZipFile(os.path.join(path, "x.zip"), "w"))
            HELD.append(open(os.path.join(path, "text"), "w"))
            HELD[-1].write("not flushed")
        """
    )
    result = run("-W", "ignore", "--dist=loadfile")
    result.assert_outcomes(passed=3)
    assert not noise(result)
    assert result.stderr.str().strip() == ""
    nothing_left()
