from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def outcomes(pytester, run):
    """Run a module in strict mode; return the outcomes and all of the output."""

    def outcomes(source, *args):
        pytester.makepyfile(source)
        result = run("--tempres-leaks=strict", "--tempres-keep=none", *args)
        return result.parseoutcomes(), result

    return outcomes


def without_warnings(counts):
    """Return the counts of outcomes alone."""
    return {name: number for name, number in counts.items() if not name.startswith("warning")}


def test_leak_is_an_error_at_teardown_of_its_test(outcomes, nothing_left):
    """The error names the path and the line; the next test is not affected."""
    counts, result = outcomes(
        """
        import tempfile

        def test_leaks():
            tempfile.mkdtemp()

        def test_next(): pass
        """
    )
    assert without_warnings(counts) == {"passed": 2, "errors": 1}
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "* ERROR at teardown of test_leaks *",
            "*::test_leaks left 1 directory (empty)",
            "  tempres-*tmp*",
            "    *.py:4 in test_leaks",
            "(--tempres-leaks=strict)",
            "*= temporary resources =*",
            "*= 1 leak from 1 test, 0 bytes; removed =*",
        ]
    )
    nothing_left()


def test_strict_check_runs_after_all_finalizers(outcomes):
    """What any fixture of the test removes is no leak."""
    counts, _ = outcomes(
        """
        import os, tempfile, unittest
        import pytest

        @pytest.fixture
        def late(request):
            path = tempfile.mkdtemp()
            request.addfinalizer(lambda: os.rmdir(path))
            return path

        def test_fixture(late): pass

        class TestIt(unittest.TestCase):
            def test_cleanup(self):
                self.addCleanup(os.rmdir, tempfile.mkdtemp())

        def test_cycle():
            class Node: pass
            node = Node()
            node.itself, node.dir = node, tempfile.TemporaryDirectory()
        """,
        "-W",
        "ignore::ResourceWarning",
    )
    assert without_warnings(counts) == {"passed": 3}


def test_leak_of_a_function_fixture_is_an_error_of_its_test(outcomes):
    """What a fixture with a wider scope leaves is reported only at the end."""
    counts, result = outcomes(
        """
        import tempfile
        import pytest

        @pytest.fixture
        def mine(): tempfile.mkdtemp()

        @pytest.fixture(scope="module")
        def shared(): tempfile.mkdtemp()

        def test_mine(mine): pass
        def test_shared(shared): pass
        """
    )
    assert without_warnings(counts) == {"passed": 2, "errors": 1}
    result.stdout.fnmatch_lines(["* ERROR at teardown of test_mine *", "fixture mine (function)*"])


def test_leak_of_a_wider_fixture_fails_the_run(outcomes):
    """In strict mode the exit status is as in `fail` mode."""
    counts, result = outcomes(
        """
        import tempfile
        import pytest

        @pytest.fixture(scope="module")
        def shared(): tempfile.mkdtemp()

        def test_shared(shared): pass
        """
    )
    assert without_warnings(counts) == {"passed": 1}
    assert result.ret == 1


def test_teardown_error_comes_first(outcomes):
    """It is reported as without the plugin, with the leak in its exception chain."""
    counts, result = outcomes(
        """
        import tempfile
        import pytest

        @pytest.fixture
        def broken():
            yield
            try:
                raise KeyError("first")
            except KeyError:
                raise ValueError("own error")

        def test_it(broken): tempfile.mkdtemp()
        """
    )
    assert without_warnings(counts) == {"passed": 1, "errors": 1}
    result.stdout.fnmatch_lines(
        [
            "Failed: *::test_it left 1 directory (empty)",
            "*KeyError: 'first'",
            "*ValueError: own error",
            "ERROR *::test_it - ValueError: own error",
        ]
    )


def test_no_error_for_failed_tests_and_ignored_entries(outcomes):
    """Neither for deferred entries, nor for a test with `xfail`, which would hide the error."""
    counts, result = outcomes(
        """
        import tempfile
        import pytest
        HOLD = []

        def test_failed():
            tempfile.mkdtemp()
            assert 0

        @pytest.mark.tempres_ignore("mine-*")
        def test_ignored(): tempfile.mkdtemp(prefix="mine-")

        def test_deferred(): HOLD.append(tempfile.TemporaryDirectory())

        @pytest.mark.xfail
        def test_expected():
            tempfile.mkdtemp(prefix="left-by-xfail-")
            assert 0
        """
    )
    assert without_warnings(counts) == {"failed": 1, "passed": 2, "xfailed": 1}
    result.stdout.fnmatch_lines(["*= 1 leak from 1 test, *; 1 more from failed tests =*"])


def test_strict_error_does_not_make_the_test_a_failed_one(pytester, run, nothing_left):
    """What the test left is a leak in the report, in the controller too."""
    pytester.makepyfile("import tempfile\ndef test_it(): tempfile.mkdtemp()")
    run("--tempres-leaks=strict", "--tempres-keep=none", "--tempres-report=json:report.json")
    report = json.loads((pytester.path / "report.json").read_text())
    assert [leak["status"] for leak in report["leaks"]] == ["leak"]
    nothing_left()


def test_ignore_hook_is_called_before_the_strict_error(pytester, outcomes):
    """An entry is not ignored if the hook fails."""
    pytester.makeconftest(
        """
        def pytest_tempres_ignore_leak(leak):
            if "broken" in leak.owner.id:
                raise ValueError("hook")
            return "fine" in leak.owner.id or None
        """
    )
    counts, _ = outcomes(
        """
        import tempfile
        def test_fine(): tempfile.mkdtemp()
        def test_broken(): tempfile.mkdtemp()
        """
    )
    assert counts["errors"] == 1
    assert counts["passed"] == 2


def test_rerun_that_leaves_nothing_has_no_error(outcomes):
    """The leak of the earlier attempt is reported, but the test has passed."""
    pytest.importorskip("pytest_rerunfailures")
    counts, result = outcomes(
        """
        import tempfile
        TRIES = []
        def test_it():
            TRIES.append(1)
            if len(TRIES) == 1:
                tempfile.mkdtemp()
        """,
        "-prerunfailures",
        "--reruns=1",
    )
    assert counts.get("errors", 0) == 0
    assert counts["passed"] >= 1
    result.stdout.fnmatch_lines(["*= 1 leak from 1 test, 0 bytes; removed =*"])


# -- what it costs

#: A plugin that counts how often all of memory is looked through while tests run.
COUNTING = """
import gc
from pytest_tempres.leaks import verdict

# The least that a session may spend, and no collection but those that are asked for.
verdict._FREE_SECONDS, verdict._SHARE = -1, 0
gc.disable()
LOOKS = []
collect, get_objects = gc.collect, gc.get_objects

def counted_collect(generation=2):
    LOOKS.extend(["collection"] * (generation == 2))
    return collect(generation)

def counted_objects(generation=None):
    LOOKS.extend(["walk"] * (generation is None))
    return get_objects(generation)

def pytest_runtestloop():
    gc.collect, gc.get_objects = counted_collect, counted_objects

def pytest_sessionfinish():
    print("\\nlooks:", len(LOOKS))
"""

LEAKS = {
    "directory": "tempfile.mkdtemp()",
    "file": "tempfile.mkstemp()",
    "open file": "KEPT.append(open(tempfile.mktemp(), 'w'))",
    "directory in a global": "KEPT.append(tempfile.TemporaryDirectory()); tempfile.mkdtemp()",
    "file in a global": "KEPT.append(tempfile.NamedTemporaryFile()); tempfile.mkdtemp()",
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_strict_check_does_not_collect_garbage_for_each_leak(pytester, run_plain, leak):
    """The cost of a leak must not grow with the number of objects in memory."""
    pytester.makeconftest(COUNTING)
    pytester.makepyfile(
        f"""
        import tempfile
        import pytest
        KEPT = []

        @pytest.mark.parametrize("number", range(40))
        def test_it(number):
            {leak}
        """
    )
    result = run_plain("--tempres-leaks=strict", "--tempres-keep=none", "-s", "-W", "ignore")
    assert result.parseoutcomes()["errors"] == 40
    result.stdout.fnmatch_lines(["looks: 0"])


def test_old_garbage_is_collected_before_the_strict_error(pytester, outcomes):
    """Objects that were moved to an older generation are no reason for an error."""
    pytester.makeconftest(COUNTING)
    counts, _ = outcomes(
        """
        import gc, shutil, tempfile
        KEPT = []

        class Cycle:
            def __init__(self):
                self.itself, self.path = self, tempfile.mkdtemp()

            def __del__(self):
                shutil.rmtree(self.path)

        def test_young(): Cycle()

        def test_old():
            cycle = Cycle()
            gc.collect()

        def test_open():
            KEPT.append(tempfile.NamedTemporaryFile())
            gc.collect()

        def test_wrapped():
            descriptor, path = tempfile.mkstemp()
            KEPT.append(tempfile._TemporaryFileWrapper(open(descriptor), path, delete=True))
            gc.collect()
        """,
    )
    assert without_warnings(counts) == {"passed": 4}
