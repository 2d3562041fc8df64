from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_tempres.leaks.temp.audit import path_events


@pytest.mark.parametrize(
    "event, args, expected",
    [
        ("open", ("/x", "w", os.O_WRONLY), [("/x", False)]),
        ("open", ("/x", "r+", os.O_RDWR), [("/x", False)]),
        ("open", (b"/x", None, os.O_CREAT), [("/x", False)]),
        ("os.mkdir", ("/x/", 0o777, -1), [("/x", False)]),
        ("os.mkdir", (b"/x\xff", 0o777, -1), [(os.fsdecode(b"/x\xff"), False)]),
        ("os.rename", ("/x", "/y", -1, -1), [("/x", True), ("/y", False)]),
        ("os.rename", ("x", "/y", 5, -1), [("/y", False)]),
        ("os.rename", ("/x", "y", -1, 5), [("/x", True)]),
        ("os.link", ("/x", "/y", -1, -1), [("/y", False)]),
        ("os.symlink", ("/x", "/y", -1), [("/y", False)]),
        ("os.remove", ("/x", -1), [("/x", True)]),
        ("os.rmdir", (Path("/x"), -1), [("/x", True)]),
        ("os.truncate", ("/x", 1), [("/x", False)]),
        ("os.utime", ("/x", None, None, -1), [("/x", False)]),
        ("shutil.rmtree", ("/x",), [("/x", True)]),
        ("shutil.rmtree", ("/x", None), [("/x", True)]),
        ("socket.bind", (None, "/x"), [("/x", False)]),
        ("sqlite3.connect", (Path("/x"),), [("/x", False)]),
        ("tempfile.mkdtemp", ("/x",), [("/x", False)]),
        ("tempfile.mkstemp", (b"/x",), [("/x", False)]),
    ],
)
def test_events_that_name_a_path(event, args, expected):
    """Paths may be str, bytes or path objects; a rename has two."""
    assert list(path_events(event, args)) == expected


@pytest.mark.parametrize(
    "event, args",
    [
        ("open", ("/x", "r", os.O_RDONLY)),
        ("open", ("/x", "w", None)),
        ("open", (3, "w", os.O_WRONLY)),
        ("os.mkdir", ("x", 0o777, 5)),
        ("os.remove", ("x", 5)),
        ("os.rmdir", ("x", 5)),
        ("os.symlink", ("/x", "y", 5)),
        ("os.truncate", (3, 1)),
        ("os.utime", (3, None, None, -1)),
        ("shutil.rmtree", ("x", 5)),
        ("socket.bind", (None, ("127.0.0.1", 0))),
        ("socket.bind", (None, None)),
    ],
)
def test_events_that_name_no_path(event, args):
    """Reading, numbers, addresses and paths relative to a descriptor."""
    assert list(path_events(event, args)) == []


def test_relative_paths_are_made_absolute(tmp_path, monkeypatch):
    """They start from the current working directory."""
    monkeypatch.chdir(tmp_path)
    found = [path for path, _ in path_events("os.rename", ("a", "./b//../c", -1, -1))]
    assert found == [os.path.join(os.getcwd(), name) for name in ("a", "c")]
