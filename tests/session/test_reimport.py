from __future__ import annotations

import os

import pytest

pytestmark = pytest.mark.usefixtures("system_tmp")

#: An outer session without us, each of whose inner sessions imports us again. It counts what
#: cannot be taken back.
OUTER = """
import atexit, os, sys
import pytest

pytest_plugins = ["pytester"]
COUNTS = []

def count(module, name):
    original = getattr(module, name, None)
    def counting(*args, **kwargs):
        COUNTS.append((name, sys._getframe(1).f_globals["__name__"]))
        return original(*args, **kwargs)
    if original is not None:
        setattr(module, name, counting)

count(sys, "addaudithook")
count(atexit, "register")
count(os, "register_at_fork")

@pytest.fixture
def counts():
    return COUNTS

@pytest.fixture
def inner(pytester):
    def inner(*args):
        assert not any(name.startswith("pytest_tempres") for name in sys.modules)
        return pytester.runpytest_inprocess(*OPTIONS, *args)
    return inner
"""


@pytest.fixture
def outer(pytester, run_plain, plain_options):
    """Run tests in an outer session without us; they are given inner sessions with us."""

    def outer(source: str, passed: int = 1) -> pytest.RunResult:
        pytester.makeconftest(f"OPTIONS = {plain_options}\n{OUTER}")
        pytester.makepyfile(test_outer=source)
        result = run_plain("-p", "no:tempres", "-p", "no:xdist", "test_outer.py")
        result.assert_outcomes(passed=passed)
        return result

    return outer


def test_inner_sessions_leave_nothing_in_the_process(outer):
    """Hooks, exit handlers and modules are those of one session, however many there were."""
    outer(
        """
        import gc, inspect, weakref
        import pytest

        FIGURES = []

        @pytest.mark.parametrize("number", range(6))
        def test_outer(inner, counts, pytester, number):
            # What pytester itself has recorded of an inner session goes with its test.
            FIGURES.append((sorted(counts), len(weakref.finalize._registry), copies()))
            pytester.makepyfile(test_inner="import tempfile\\ndef test_it(): tempfile.mkdtemp()")
            inner().assert_outcomes(passed=1)

        def copies():
            # Python 3.12 keeps each class that `getattr_static` has looked at.
            cache = getattr(inspect, "_shadowed_dict_from_mro_tuple", None)
            if hasattr(cache, "cache_clear"):
                cache.cache_clear()
            gc.collect()
            functions = (each for each in gc.get_objects() if type(each) is type(copies))
            return sum(
                (each.__module__, each.__name__) == ("pytest_tempres.leaks.temp.audit", "_forward")
                for each in functions
            )

        def test_figures():
            assert all(figures == FIGURES[2] for figures in FIGURES[3:]), FIGURES
            ours = [name for name, caller in FIGURES[2][0] if caller.startswith("pytest_tempres.")]
            assert "addaudithook" in ours
            assert len(ours) == len(set(ours))
        """,
        passed=7,
    )


def test_later_inner_session_works_like_the_first(outer):
    """It reports origins, its forked children leave it alone, and it cleans up at exit."""
    result = outer(
        f"""
        import os, sys, tempfile

        def test_outer(inner, pytester):
            pytester.makepyfile(
                test_inner='''
                import atexit, os, tempfile
                from pytest_tempres import primitives
                from pytest_tempres.primitives._create import current_process
                from pytest_tempres.workspace import lock

                def test_leak():
                    tempfile.mkdtemp()

                def test_fork():
                    if not hasattr(os, "fork"):
                        return
                    before = current_process()
                    assert lock._held
                    child = os.fork()
                    if child == 0:
                        os._exit(current_process() is before or bool(lock._held))
                    assert os.waitpid(child, 0)[1] == 0
                    assert current_process() is before

                def test_exit():
                    atexit.register(remove, tempfile.mkdtemp())

                def remove(path):
                    print("removed at exit:", len(os.listdir(path)), file=os.sys.stderr)
                    os.rmdir(path)
                '''
            )
            for _ in range(3):
                result = inner("-W", "ignore")
                result.assert_outcomes(passed=3)
                result.stdout.fnmatch_lines(["    *.py:7 in test_leak", "*= 1 leak from 1 test*"])
                assert os.listdir({os.environ["TMPDIR"]!r}) != []
        """
    )
    result.stderr.fnmatch_lines(["removed at exit: 0"] * 3)
    assert [name for name in os.listdir(os.environ["TMPDIR"]) if "tempres" in name] == []


def test_session_keeps_its_audit_events_if_the_plugin_is_imported_again(
    pytester, run_plain, plain_options
):
    """An inner session with new modules has origins, and the outer one keeps its own."""
    pytester.makeconftest('pytest_plugins = ["pytester"]')
    pytester.makepyfile(
        f"""
        import sys, tempfile

        def test_outer(pytester, monkeypatch):
            tempfile.mkdtemp(prefix="before-")
            ours = [name for name in sys.modules if name.startswith("pytest_tempres")]
            for name in ours:
                monkeypatch.delitem(sys.modules, name)
            pytester.makepyfile(test_in="import tempfile\\ndef test_in(): tempfile.mkdtemp()")
            result = pytester.runpytest_inprocess(*{plain_options}, "-W", "ignore")
            result.stdout.fnmatch_lines(["    *.py:2 in test_in"])
            tempfile.mkdtemp(prefix="after-")
        """
    )
    result = run_plain("-W", "ignore", "--tempres-keep=none")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["  *before-*", "    *.py:4 in test_outer"])
    result.stdout.fnmatch_lines(["  *after-*", "    *.py:11 in test_outer"])
    result.stdout.fnmatch_lines(["*= 2 leaks from 1 test*"])
