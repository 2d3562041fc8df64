from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from printed import kept_paths
import pytest

#: Where a test may move what it has, in the terms of the suites below.
PLACES = {
    "beside it": "temp_dir.with_name('x')",
    "temp location": "Path(tempfile.gettempdir(), 'x')",
    "session root": "temp_dir.parent.with_name('x')",
    "directory in the root": "made(temp_dir.parent.with_name('y')) / 'x'",
    "deep": "made(temp_dir.parent / 'y' / 'z') / 'x'",
    "another one": "temp_resources.dir() / 'x'",
}
SUITE = """
import shutil, tempfile
from pathlib import Path
import pytest

def made(path):
    path.mkdir(parents=True)
    return path

def test_fails(temp_dir, temp_resources):
    (temp_dir / "evidence").touch()
    shutil.move(temp_dir, WHERE)
    assert 0

def test_passes(temp_dir):
    (temp_dir / "nothing").touch()
    temp_dir.rename(temp_dir.with_name("w"))
"""


@pytest.fixture
def kept(told) -> Callable[..., dict[str, list[str]]]:
    """Run tests; return the names of the files in what is kept, by test."""

    def kept(*options: str, **outcomes: int) -> dict[str, list[str]]:
        result, report = told("--dist=loadfile", *options)
        result.assert_outcomes(**outcomes)
        result.stdout.no_fnmatch_line("*Warning: *")
        found: dict[str, list[str]] = {}
        for each in report["kept"]:
            assert (each["nodeid"], each["path"]) in kept_paths(result.stdout.str())
            path = Path(each["path"])
            names = [p.name for p in (path, *path.rglob("*")) if p.is_file()]
            found.setdefault(each["nodeid"].rpartition("::")[2], []).extend(names)
        return found

    return kept


@pytest.mark.parametrize("where", PLACES, ids=lambda where: where.replace(" ", "_"))
def test_what_a_failed_test_had_is_kept_under_its_new_name(
    pytester, kept, run_plain, system_tmp, where
):
    """It is known by what it is, not by what it was called; the next session leaves it alone."""
    pytester.makepyfile(test_it=SUITE.replace("WHERE", PLACES[where]))
    found = kept(failed=1, passed=1)
    assert list(found) == ["test_fails"]
    assert set(found["test_fails"]) == {"evidence"}
    run_plain("-k", "passes", "test_it.py").assert_outcomes(passed=1)
    assert len(list(system_tmp.rglob("evidence"))) == 1
    assert not list(system_tmp.rglob("nothing"))


def test_the_failure_names_where_it_is_now(pytester, run):
    """The path that a report prints is there, and stays."""
    pytester.makepyfile(SUITE.replace("WHERE", PLACES["session root"]))
    result = run("-k", "fails")
    (path,) = {line for line in result.stdout.lines if line.startswith("kept: /")}
    assert path.endswith("/x")
    assert Path(path.removeprefix("kept: "), "evidence").exists()


def test_other_ways_to_lose_its_name(pytester, kept):
    """Files, what wider fixtures gave, and what is moved in a teardown or out of the way."""
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.fixture
        def renamed(temp_dir):
            yield temp_dir
            temp_dir.rename(temp_dir.with_name("in-teardown"))

        def test_teardown(renamed):
            (renamed / "a").touch()
            assert 0

        def test_replaced(temp_dir):
            (temp_dir / "b").touch()
            temp_dir.rename(temp_dir.with_name("replaced"))
            temp_dir.mkdir()
            (temp_dir / "c").touch()
            assert 0

        def test_file(named_temp_file, temp_dir):
            os.rename(named_temp_file.name, temp_dir.with_name("d"))
            temp_dir.rmdir()
            assert 0

        def test_module(temp_resources_module):
            path = temp_resources_module.dir()
            (path / "e").touch()
            path.rename(path.with_name("module"))
            assert 0

        @pytest.mark.tempdir(keep=True)
        def test_asked(temp_dir):
            (temp_dir / "f").touch()
            temp_dir.rename(temp_dir.with_name("asked"))
        """
    )
    assert kept(failed=4, passed=1) == {
        "test_teardown": ["a"],
        "test_replaced": ["c", "b"],
        "test_file": ["d"],
        "test_module": ["e"],
        "test_asked": ["f"],
    }


def test_what_was_removed_is_not_looked_for_in_what_others_have(pytester, kept):
    """A number that a test gives back is used again for what the next one has."""
    pytester.makepyfile(
        """
        import shutil
        import pytest

        @pytest.fixture(scope="module")
        def wide(temp_resources_module):
            return temp_resources_module.dir()

        @pytest.mark.parametrize("number", range(3))
        def test_removes(temp_dir, number, temp_resources, request):
            shutil.rmtree(temp_dir)
            request.getfixturevalue("wide")
            for _ in range(3):
                shutil.rmtree(temp_resources.dir())
            assert number == 2

        def test_after(temp_dir): pass
        """
    )
    found = kept(failed=2, passed=2)
    assert sum(map(len, found.values())) == 0
    assert list(found) == ["test_removes[0]"], "the wide one alone, with the test that made it"
