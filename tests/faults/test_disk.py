from __future__ import annotations

import json
import subprocess
from typing import Any

from fault_sessions import kept_on_disk
from fault_sessions import run_checked
import pytest

#: Our fixture for the session without the plugin.
STAND_IN = """
import tempfile
from pathlib import Path
import pytest

@pytest.fixture
def temp_dir():
    return Path(tempfile.mkdtemp())
"""
#: Fills a file system, but checks first that it is a small one, and stops at a limit.
FILL = """
import os

def fill(directory, what):
    system = os.statvfs(directory)
    assert system.f_blocks * system.f_frsize <= 2 ** 20, "this is no small disk"
    if what == "blocks":
        with open(os.path.join(directory, "big"), "wb", 0) as file:
            for _ in range(512):
                file.write(bytes(4096))
    for number in range(100):
        os.mkdir(os.path.join(directory, f"inode-{number}"))
    raise AssertionError("the disk is not full")
"""


@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_kept_paths_survive_a_disk_that_fills_up(pytester, run, mode, tmpfs, outcomes, what):
    """The index is written once the removal of leaks has freed space."""
    place = tmpfs("size=1m,nr_inodes=60")
    pytester.makepyfile(
        fill=FILL,
        test_it=f"""
        import tempfile
        import pytest
        from fill import fill

        def test_passes(temp_dir): pass

        def test_fails(temp_dir):
            (temp_dir / "evidence").touch()
            assert 0

        def test_fills():
            with pytest.raises(OSError, match="No space left"):
                fill(tempfile.gettempdir(), {what!r})

        def test_goes_on(): pass
        """,
    )
    args = ("-n1",) if mode == "xdist" else ()
    _, warnings = run_checked(run, f"--tempres-root={place}", *args)
    # The unlinked files in which a worker captured output give back inodes when it ends.
    assert len(warnings) == (mode == "plain" or what == "blocks")
    said = "the index could not be written: [Errno 28] No space left on device"
    assert all(said in line for line in warnings)
    assert outcomes() == {
        "test_passes": [],
        "test_fails": ["failure"],
        "test_fills": [],
        "test_goes_on": [],
    }
    assert kept_on_disk(place) == ["test_fails-"]
    (root,) = place.iterdir()
    assert list(json.loads((root / "index.json").read_text())["kept"]) == ["test_it.py::test_fails"]
    assert not list(root.glob("*.new"))
    pytester.makepyfile(test_later="def test_it(): pass")
    run(f"--tempres-root={place}", "test_later.py", workers=False)
    assert kept_on_disk(place) == ["test_fails-"]


def test_disk_that_is_full_at_the_start(pytester, run, tmpfs, outcomes, monkeypatch):
    """The plugin uses the directory that `tempfile` falls back to."""
    place = tmpfs("size=1m")
    space: dict[str, Any] = {}
    exec(FILL, space)
    with pytest.raises(OSError, match="No space left"):
        space["fill"](place, "blocks")
    pytester.makepyfile(
        """
        import os, tempfile

        def test_passes():
            assert not tempfile.gettempdir().startswith(os.environ["FULL"])
        def test_fails(): assert 0
        """
    )
    monkeypatch.setenv("FULL", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    _, warnings = run_checked(run, "--capture=sys")
    assert warnings == []
    with_us = outcomes()
    run_checked(run, "--capture=sys", "-p", "no:tempres")
    assert with_us == outcomes() == {"test_passes": [], "test_fails": ["failure"]}
    assert [path.name for path in place.iterdir()] == ["big"]


def test_disk_that_becomes_read_only(pytester, run_plain, tmpfs, outcomes, monkeypatch):
    """Nothing can be removed: there is one warning, and no outcome changes."""
    place = tmpfs("size=1m")
    pytester.makepyfile(
        stand_in=STAND_IN,
        test_it="""
        import os, subprocess, tempfile

        def test_before(temp_dir):
            tempfile.mkdtemp()

        def test_closes(temp_dir):
            # The lock is open for writing, so the file system itself cannot be remounted.
            place = os.environ["PLACE"]
            subprocess.run(["mount", "--bind", place, place], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)

        def test_after(): pass

        def test_needs(temp_dir): pass

        def test_fails(): assert 0
        """,
    )
    monkeypatch.setenv("PLACE", str(place))
    result, warnings = run_checked(run_plain, f"--tempres-root={place}")
    (line,) = warnings
    assert "could not remove" in line
    assert "Read-only file system" in line
    with_us = outcomes()
    result.stdout.fnmatch_lines(["*1 leak from 1 test*"])
    subprocess.run(["umount", str(place)], check=True)
    monkeypatch.setenv("TMPDIR", str(place))
    run_checked(run_plain, "--capture=sys", "-p", "no:tempres", "-p", "stand_in")
    assert with_us == outcomes()
    subprocess.run(["umount", str(place)], check=True)
