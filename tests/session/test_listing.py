from __future__ import annotations

import math
import os
from pathlib import Path
import sys

import pytest

from pytest_tempres.primitives._system import System
from pytest_tempres.session import listing
from pytest_tempres.session.listing import list_files


def lines(path, until=math.inf):
    """Return the lines of a listing."""
    return list(list_files(str(path), until))


def test_the_first_ten_files_are_listed_with_their_sizes(tmp_path):
    """By name, those of a directory before its subdirectories; the others are counted."""
    Path(tmp_path, "b").mkdir()
    Path(tmp_path, "a", "deep").mkdir(parents=True)
    for number in range(8):
        Path(tmp_path, f"x{number}").write_bytes(b"a" * 999 * number)
    for name in ("b/last", "b/left-out", "a/first", "a/deep/left-out"):
        Path(tmp_path, name).touch()
    found = lines(tmp_path)
    assert found[0] == "  12 files, 28 kB"
    assert [line.split()[-1] for line in found[1:9]] == [f"x{number}" for number in range(8)]
    assert found[2] == "  999 bytes  x1"
    assert found[3] == "     2.0 kB  x2"
    assert found[9:11] == [
        f"{'0 bytes':>11}  {os.path.join('a', 'first')}",
        f"{'0 bytes':>11}  {os.path.join('b', 'last')}",
    ]
    assert found[11:] == ["  ... and 2 more"]


def test_an_empty_directory_and_a_file_take_one_line(tmp_path):
    """There is nothing to list."""
    assert lines(tmp_path) == ["  empty"]
    Path(tmp_path, "x").write_bytes(b"abc")
    assert lines(tmp_path / "x") == ["  3 bytes"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither such names nor fifos")
def test_links_are_not_followed_and_names_are_escaped(tmp_path):
    """What is no file is listed by its kind."""
    Path(tmp_path, "link").symlink_to("/")
    os.mkfifo(tmp_path / "fifo")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/new\n\xff")).touch()
    found = lines(tmp_path)
    assert found[0] == "  3 files, 0 bytes"
    assert [line.split() for line in found[1:]] == [
        ["fifo", "fifo"],
        ["symlink", "link"],
        ["0", "bytes", r"new\n\xff"],
    ]


def test_the_walk_is_limited(tmp_path, monkeypatch):
    """In the number of entries and in time; then the numbers are lower bounds."""
    for number in range(30):
        Path(tmp_path, f"{number:02}").touch()
    monkeypatch.setattr(listing, "_MAX_ENTRIES", 20)
    found = lines(tmp_path)
    assert found[0] == "  at least 20 files, 0 bytes"
    assert found[-1] == "  ... and at least 10 more"
    assert lines(tmp_path, until=0) == ["  at least 0 files, 0 bytes"]


def test_a_directory_that_cannot_be_read_costs_one_line(tmp_path, monkeypatch):
    """What can be read is listed."""
    Path(tmp_path, "x").touch()
    Path(tmp_path, "closed").mkdir()
    scandir = System.scandir

    def refuse(path):
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(System, "scandir", staticmethod(refuse))
    assert lines(tmp_path) == [
        "  at least 1 file, 0 bytes",
        "  0 bytes  x",
        "  could not be listed: closed: Permission denied",
    ]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("broken")])
def test_any_error_costs_one_line(tmp_path, monkeypatch, error):
    """It never reaches the test."""

    def fail(path):
        raise error

    monkeypatch.setattr(listing, "measure", fail)
    Path(tmp_path, "x").touch()
    (line,) = lines(tmp_path)
    assert line.startswith("  could not be listed: ")
    (line,) = lines(tmp_path / "gone")
    assert "No such file" in line or "cannot find" in line


def test_a_failure_lists_what_is_kept_for_it(pytester, run):
    """In its own section, also when a worker sends it."""
    pytester.makepyfile(
        """
        def test_fails(temp_dir):
            (temp_dir / "sub").mkdir()
            (temp_dir / "sub" / "evidence").write_text("x" * 2000)
            assert 0
        """
    )
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- temporary resources -*",
            "kept: /*/test_fails-*",
            "  1 file, 2.0 kB",
            "  2.0 kB  sub/evidence",
            "*= temporary resources =*",
            "kept: *::test_fails (1 file, 2.0 kB)*",
        ]
    )
