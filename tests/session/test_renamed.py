from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from printed import kept_paths
import pytest

#: Where a test may move its directory, in the terms of the suite below.
PLACES = {
    "beside": "temp_dir.with_name('beside')",
    "temp_location": "Path(tempfile.gettempdir(), 'x')",
    "session_root": "temp_dir.parent.with_name('x')",
    "directory_in_the_root": "created(temp_dir.parent.with_name('y')) / 'x'",
    "deep": "created(temp_dir.parent / 'y' / 'z') / 'x'",
    "another_one": "temp_resources.dir() / 'x'",
}
HEADER = """
import shutil, tempfile
from pathlib import Path
import pytest

def created(path):
    path.mkdir(parents=True)
    return path

def test_passes(temp_dir):
    (temp_dir / "nothing").touch()
    temp_dir.rename(temp_dir.with_name("w"))
"""
FAILS = """
def test_{place}(temp_dir, temp_resources):
    (temp_dir / "evidence-{place}").touch()
    shutil.move(temp_dir, {path})
    assert 0
"""


@pytest.fixture
def kept(run_with_report) -> Callable[..., dict[str, list[str]]]:
    """Run tests; return the names of the files in what is kept, by test."""

    def kept(*options: str, **outcomes: int) -> dict[str, list[str]]:
        result, report = run_with_report("--dist=loadfile", *options)
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


def test_renamed_directory_of_failed_test_is_kept_under_new_name(
    pytester, kept, run_plain, system_tmp
):
    """It is recognized by its inode; the next session does not remove it."""
    tests = [FAILS.format(place=place, path=path) for place, path in PLACES.items()]
    pytester.makepyfile(test_it="".join((HEADER, *tests)))
    found = kept(failed=len(PLACES), passed=1)
    assert {name: set(files) for name, files in found.items()} == {
        f"test_{place}": {f"evidence-{place}"} for place in PLACES
    }
    run_plain("-k", "passes", "test_it.py").assert_outcomes(passed=1)
    names = sorted(path.name for path in system_tmp.rglob("evidence-*"))
    assert names == sorted(f"evidence-{place}" for place in PLACES)
    assert not list(system_tmp.rglob("nothing"))


def test_failure_names_the_new_path_of_a_renamed_directory(pytester, run):
    """The printed path exists, and stays."""
    pytester.makepyfile(HEADER + FAILS.format(place="fails", path=PLACES["session_root"]))
    result = run("-k", "fails")
    (path,) = {line for line in result.stdout.lines if line.startswith("kept: /")}
    assert path.endswith("/x")
    assert Path(path.removeprefix("kept: "), "evidence-fails").exists()


def test_other_renamed_resources_are_kept(pytester, kept):
    """Files, directories of wider fixtures, and what is moved in a teardown or replaced."""
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


def test_removed_directory_is_not_mistaken_for_another_with_its_inode(pytester, kept):
    """An inode number that was freed is used again for the next directory."""
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
