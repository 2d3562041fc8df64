"""The fixture `temp_leaks`, in inner sessions without and with workers."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("system_tmp")

PREAMBLE = """
import asyncio, os, subprocess, sys, tempfile, threading
from pathlib import Path
import pytest

def leave(prefix="left-"):
    return Path(tempfile.mkdtemp(prefix=prefix))

"""


@pytest.fixture
def check(pytester, run_with_report):
    """Run tests that must pass; return the leaks in the report of their session, by path."""

    def check(source, *args, **outcomes):
        pytester.makepyfile(PREAMBLE + source)
        result, report = run_with_report(*args)
        found = {
            name: n for name, n in result.parseoutcomes().items() if not name.startswith("warning")
        }
        assert found == (outcomes or {"passed": source.count("def test_")})
        return sorted(leak["path"].rpartition("/")[2][:5] for leak in report["leaks"])

    return check


def test_error_names_path_size_and_origin(pytester, run):
    """It has the form of the report, and the traceback ends in the test."""
    pytester.makepyfile(
        PREAMBLE
        + """
def test_export(temp_leaks):
    with temp_leaks:
        (leave() / "data").write_text("12345")
"""
    )
    result = run("--tempres-keep=none")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            ">       with temp_leaks:",
            "E       AssertionError: *::test_export left 1 directory (1 file, 5 bytes)",
            "E         tempres-*left-*",
            "E           *.py:6 in leave",
            "E           *.py:11 in test_export",
            "E       (temp_leaks)",
        ]
    )
    result.stdout.no_fnmatch_line("*leak_check.py*")


@pytest.mark.parametrize("option", ["report", "strict", "fail"])
def test_reported_leak_is_not_reported_again(check, option, nothing_left):
    """Neither in strict mode nor at the end; the test alone decides whether it fails."""
    source = """
def test_once(temp_leaks):
    with pytest.raises(AssertionError, match="left-"):
        with temp_leaks:
            path = leave()
    path.rename(path.with_name("moved"))
    assert temp_leaks.find() == []
    temp_leaks.verify()
    with temp_leaks:
        pass
"""
    assert check(source, f"--tempres-leaks={option}") == []
    nothing_left()


def test_leak_that_failed_the_test_is_kept(pytester, run_with_report):
    """It can be examined like everything that a failed test leaves."""
    pytester.makepyfile(
        PREAMBLE
        + """
def test_fails(temp_leaks):
    with temp_leaks:
        leave()
"""
    )
    _, report = run_with_report()
    (kept,) = report["kept"]
    assert "left-" in kept["path"]
    assert report["totals"]["leaks"] == 0


def test_only_what_the_block_created_is_checked(check):
    """What was created before and after it, or removed in it, is not."""
    source = """
def test_before_and_after(temp_leaks):
    leave("early-")
    with temp_leaks as entered:
        leave().rmdir()
        (leave() / "x").parent.joinpath("x").write_text("")
        for each in Path(tempfile.gettempdir()).glob("left-*"):
            (each / "x").unlink()
            each.rmdir()
    leave("later-")
    assert [Path(leak.path).name[:5] for leak in entered.find()] == ["early", "later"]
    leave("again-")
    with pytest.raises(AssertionError, match="again-"):
        temp_leaks.verify()
"""
    assert check(source) == []


def test_what_an_object_or_exit_handler_removes_is_not_a_leak(check):
    """The rules are those of the session: a collection, live objects, exit handlers."""
    source = """
import atexit, shutil

@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_scheduled(temp_leaks):
    with temp_leaks:
        class Node: pass
        node = Node()
        node.itself, node.dir = node, tempfile.TemporaryDirectory()
        del node
        alive = tempfile.TemporaryDirectory()
        file = tempfile.NamedTemporaryFile()
        atexit.register(shutil.rmtree, leave())
    alive.cleanup()
    file.close()
"""
    # A worker has exited before the session ends; otherwise the directory is listed as deferred.
    assert check(source, "--tempres-leaks=strict") in (["left-"], [])


def test_exception_is_not_replaced(check):
    """What the block left is then found by the check around it, or at the end."""
    source = """
def test_raises(temp_leaks):
    with pytest.raises(ZeroDivisionError):
        with temp_leaks:
            leave("error-")
            1 / 0

def test_outer(temp_leaks):
    with pytest.raises(AssertionError, match="inner-"):
        with temp_leaks:
            with pytest.raises(KeyError):
                with temp_leaks:
                    leave("inner-")
                    {}["x"]
"""
    assert check(source) == ["error"]


def test_nested_blocks(check):
    """The inner block reports its own, and the outer one does not repeat it."""
    source = """
def test_both(temp_leaks):
    with pytest.raises(AssertionError) as outer:
        with temp_leaks:
            leave("outer-")
            with pytest.raises(AssertionError) as inner:
                with temp_leaks:
                    leave("inner-")
    assert "inner-" in str(inner.value) and "outer-" not in str(inner.value)
    assert "outer-" in str(outer.value) and "inner-" not in str(outer.value)

def test_inner_only(temp_leaks):
    with temp_leaks:
        with pytest.raises(AssertionError):
            with temp_leaks(ignore=[]):
                leave()
"""
    assert check(source) == []


def test_ignored_patterns(check):
    """They apply to one check; those of the marker and the ini file apply to all."""
    source = """
def test_argument(temp_leaks):
    with temp_leaks(ignore=["cache-*"]):
        leave("cache-")
    with pytest.raises(AssertionError):
        temp_leaks.verify()
    with pytest.raises(AssertionError, match="other"):
        with temp_leaks(ignore=("cache-*",)):
            leave("cache-")
            leave("other-")

@pytest.mark.tempres_ignore("known-*")
def test_marker(temp_leaks):
    with temp_leaks:
        leave("known-")
        leave("ini-")
"""
    assert check(source, "-o", "tempres_ignore=ini-*") == ["cache"]


def test_threads(check):
    """A block covers the threads of its test; overlapping blocks are checked by the last one."""
    source = """
def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread

def test_thread_in_block(temp_leaks):
    with pytest.raises(AssertionError, match="left-"):
        with temp_leaks:
            in_thread(leave).join()

def test_block_in_thread(temp_leaks):
    errors = []
    def block():
        try:
            with temp_leaks:
                leave()
        except AssertionError as error:
            errors.append(error)
    in_thread(block).join()
    assert len(errors) == 1

def test_overlapping(temp_leaks):
    entered, ended = threading.Event(), threading.Event()
    def block():
        with temp_leaks(ignore=["cache-*"]):
            leave("first-")
            leave("cache-")
            entered.set()
            assert ended.wait(30)
            used.rmdir()
    thread = in_thread(block)
    assert entered.wait(30)
    with pytest.raises(AssertionError) as caught:
        with temp_leaks:
            used = leave("used-")
            with pytest.raises(ZeroDivisionError), temp_leaks:
                1 / 0
            ended.set()
            thread.join()
    assert "first-" in str(caught.value)
    assert "used-" not in str(caught.value) and "cache-" not in str(caught.value)

def test_ended(temp_leaks):
    test_ended.check = temp_leaks

def test_after_end(temp_leaks):
    if hasattr(test_ended, "check"):
        for use in (test_ended.check.find, test_ended.check.verify, test_ended.check.__enter__):
            with pytest.raises(RuntimeError, match="test has ended: .*::test_ended"):
                use()
"""
    assert check(source) == ["cache"]


def test_thread_of_an_earlier_test(check):
    """What it creates in a block belongs to the test that started it."""
    source = """
go, done = threading.Event(), threading.Event()

def late():
    assert go.wait(30)
    leave("thread-")
    done.set()

def test_starts():
    threading.Thread(target=late).start()

def test_block(temp_leaks):
    with temp_leaks:
        go.set()
        assert done.wait(30)
    assert temp_leaks.find() == []
"""
    assert check(source, "--dist=loadfile") == ["threa"]


def test_async_code(check):
    """Tasks may have blocks of their own."""
    source = """
async def work(temp_leaks, name, started, other):
    with temp_leaks:
        path = leave(name)
        started.set()
        await other.wait()
        path.rmdir()

def test_tasks(temp_leaks):
    async def main():
        one, two = asyncio.Event(), asyncio.Event()
        await asyncio.gather(
            work(temp_leaks, "one-", one, two), work(temp_leaks, "two-", two, one)
        )
        with temp_leaks:
            (await asyncio.to_thread(leave)).rmdir()
        with pytest.raises(AssertionError, match="left-"):
            with temp_leaks:
                await asyncio.to_thread(leave)
    with temp_leaks:
        asyncio.run(main())
"""
    assert check(source) == []


def test_subprocess(check):
    """What another process created is found without an audit event."""
    source = """
def test_child(temp_leaks):
    code = "import tempfile; tempfile.mkdtemp(prefix='child-')"
    with pytest.raises(AssertionError, match="child-"):
        with temp_leaks:
            subprocess.run([sys.executable, "-c", code], check=True)
"""
    assert check(source) == []


def test_fixtures_that_will_clean_up_are_not_accused(check):
    """A fixture that is set up in a block is finished later; one of this plugin too."""
    source = """
@pytest.fixture
def late():
    path = leave()
    yield path
    path.rmdir()

@pytest.fixture(scope="module")
def wide():
    path = leave()
    yield path
    path.rmdir()

def test_set_up_in_block(temp_leaks, request, temp_resources):
    with temp_leaks:
        request.getfixturevalue("late")
        request.getfixturevalue("wide")
        temp_resources.dir()
    temp_leaks.verify()
"""
    assert check(source) == []


def test_fixture_that_checks_each_test(check):
    """A block around the yield of a fixture is an error at teardown, unless the test failed."""
    source = """
@pytest.fixture(autouse=True)
def no_leaks(temp_leaks):
    with temp_leaks:
        yield

@pytest.fixture
def careless():
    return leave("fixture-")

def test_leaks(): leave()
def test_uses(careless): pass
def test_fails():
    leave("failed-")
    assert 0
def test_clean(): leave().rmdir()
"""
    leaks = check(source, "--tempres-keep=none", passed=3, errors=2, failed=1)
    assert leaks == ["faile"]


def test_temp_location_left_alone(check):
    """With `tempres_redirect=false` audit events find leaks; patterns match the name."""
    source = """
def test_block(temp_leaks):
    with pytest.raises(AssertionError, match="left-"):
        with temp_leaks:
            path = leave()
    path.rmdir()
    with temp_leaks(ignore=["cache-*"]):
        cache = leave("cache-")
    cache.rmdir()
"""
    assert check(source, "-o", "tempres_redirect=false") == []


def test_detection_off(check):
    """Then nothing is checked, whatever the block asks for, and mistakes are still refused."""
    source = """
def test_block(temp_leaks):
    with temp_leaks:
        leave()
    with temp_leaks(detect=["temp", "fds"]):
        leave()
    assert temp_leaks.find() == []
    temp_leaks.verify()
    with pytest.raises(ValueError):
        temp_leaks(detect=["files"])
"""
    assert check(source, "--tempres-leaks=off") == []


@pytest.mark.skipif("sys.platform not in ('linux', 'darwin')")
def test_descriptors(check):
    """They are checked when the session has the detector, and each is reported once."""
    source = """
def test_block(temp_leaks):
    before = os.open(__file__, os.O_RDONLY)
    with temp_leaks:
        os.close(os.open(os.devnull, os.O_RDONLY))
    with pytest.raises(AssertionError, match=f"fd .*{Path(__file__).name}"):
        with temp_leaks:
            inside = os.open(__file__, os.O_RDONLY)
    with temp_leaks(detect=["temp"]):
        later = os.open(__file__, os.O_RDONLY)
    assert sorted(leak.kind for leak in temp_leaks.find()) == ["descriptor"] * 2
    temp_leaks.verify()
    with temp_leaks(ignore=["*.py"]):
        os.open(__file__, os.O_RDONLY)
"""
    leaks = check(source, "--tempres-detect=temp,fds")
    assert len(leaks) == 1


def test_wrong_arguments(check):
    """They are refused where they are passed, and the option that is missing is named."""
    source = """
@pytest.mark.parametrize("arguments, error, text", [
    ({"detect": ["fds"]}, ValueError, "--tempres-detect=temp"),
    ({"detect": ["watch"]}, ValueError, "unknown detector 'watch'; allowed: temp, fds"),
    ({"detect": "temp"}, TypeError, "detect='temp' must be a list of strings"),
    ({"detect": 1}, TypeError, "detect=1 must be a list of strings"),
    ({"ignore": "cache-*"}, TypeError, "must be a list of strings"),
    ({"ignore": [1]}, TypeError, "must be a list of strings"),
    ({"ignored": []}, TypeError, "ignored"),
])
def test_refused(temp_leaks, arguments, error, text):
    with pytest.raises(error, match=text.replace("*", ".")):
        temp_leaks(**arguments)
"""
    assert check(source, passed=7) == []


def test_known_leaks_and_hooks(check, pytester):
    """A hook that ignores a leak is asked, as at the end of the session."""
    pytester.makeconftest(
        """
        def pytest_tempres_ignore_leak(leak):
            return True if "hook-" in leak.path else None
        """
    )
    source = """
def test_hook(temp_leaks):
    with temp_leaks:
        leave("hook-")
"""
    assert check(source) == []


def test_run_without_it_does_not_load_it(check):
    """The fixture costs nothing where no test uses it."""
    source = """
def test_modules(temp_dir):
    assert "pytest_tempres.session.leak_check" not in sys.modules
"""
    assert check(source) == []
