from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import re

import pytest

#: A session that keeps a directory and prints its path, in a subprocess or in process.
NESTED = """
import pytest

pytest_plugins = ["pytester"]

@pytest.fixture
def nested(pytester):
    def nested(way, *options):
        pytester.makepyfile(
            '''
            def test_inner(temp_dir, tmp_path):
                (temp_dir / "evidence").touch()
                (tmp_path / "evidence").touch()
                assert 0
            '''
        )
        run = getattr(pytester, f"runpytest_{way}")
        run(*options).assert_outcomes(failed=1)

    return nested
"""


@pytest.fixture
def kept(run, pytester, system_tmp) -> Callable[..., list[Path]]:
    """Run tests that start sessions; return what these have printed as kept, and where it is."""

    def kept(suite: str, *options: str, **outcomes: int) -> list[Path]:
        pytester.makeconftest(NESTED)
        pytester.makepyfile(test_outer=suite)
        result = run(*options)
        result.assert_outcomes(**outcomes)
        inner = r"^kept: (\S+/tempres-\w+/\w+/tempres-\w+/main\.d/test_inner-\w+)$"
        return sorted({Path(path) for path in re.findall(inner, result.stdout.str(), re.MULTILINE)})

    return kept


def test_paths_printed_by_a_nested_session_stay(kept, run, system_tmp):
    """The outer test failed and keeps the nested session; the next session does not remove it."""
    paths = kept(
        """
        import pytest

        @pytest.fixture(params=["subprocess", "inprocess"])
        def way(request):
            return request.param

        def test_passes(nested, way):
            nested(way)

        def test_fails(nested, way):
            nested(way)
            assert 0
        """,
        passed=2,
        failed=2,
    )
    assert len(paths) == 2
    assert all((path / "evidence").exists() for path in paths)
    assert len(list(system_tmp.glob("tempres-*/*/tempres-*"))) == 2, "the other tests passed"
    run("test_outer.py::test_passes[inprocess]", workers=False).assert_outcomes(passed=1)
    assert all((path / "evidence").exists() for path in paths)


def test_nested_sessions_of_earlier_attempts_are_removed(kept, system_tmp):
    """They are removed like the directories of an earlier attempt's fixtures."""
    pytest.importorskip("pytest_rerunfailures")
    paths = kept(
        """
        import pytest

        tries = []

        @pytest.mark.flaky(reruns=1)
        @pytest.mark.parametrize("passes", [True, False])
        def test_it(nested, passes):
            nested("inprocess")
            tries.append(passes)
            assert passes and tries.count(passes) == 2
        """,
        "-prerunfailures",
        passed=1,
        failed=1,
    )
    there = list(system_tmp.glob("tempres-*/*/tempres-*/main.d/test_inner-*/evidence"))
    assert len(there) == 1, "one test failed, and one attempt of it was the last"
    assert there[0].parent in paths


def test_keep_none_removes_nested_sessions_too(kept, nothing_left):
    """The option of the outer session applies to all that its tests start."""
    kept(
        """
        def test_it(nested):
            nested("subprocess")
            assert 0
        """,
        "--tempres-keep=none",
        failed=1,
    )
    nothing_left()


def test_ignored_paths_of_failed_tests_are_kept(pytester, run_with_report, system_tmp):
    """What the ini file or a marker ignores is no leak, but kept if its test failed."""
    pytester.makeini("[pytest]\ntempres_ignore = ini-*\n")
    pytester.makepyfile(
        """
        import tempfile
        from multiprocessing import util
        import pytest

        pytestmark = pytest.mark.tempres_ignore("marker-*", reason="a library leaves it")

        def leave():
            for name in ("ini-", "marker-", "pytest-of-"):
                tempfile.mkdtemp(prefix=name)

        def test_fails():
            leave()
            # It goes by itself when the process exits.
            util.get_temp_dir()
            assert 0

        def test_passes():
            leave()
        """
    )
    result, report = run_with_report()
    result.assert_outcomes(failed=1, passed=1)
    assert report["leaks"] == []
    names = sorted(Path(each["path"]).name.partition("-")[0] for each in report["kept"])
    assert names == ["ini", "marker", "pytest"]
    assert {each["nodeid"] for each in report["kept"]} == {
        "test_ignored_paths_of_failed_tests_are_kept.py::test_fails"
    }
    there = {str(path) for path in system_tmp.glob("tempres-*/*/*")}
    assert there == {each["path"] for each in report["kept"]}
