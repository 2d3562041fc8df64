from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_tempres.primitives._system import System
from pytest_tempres.session.startup import CollectionHooks
from pytest_tempres.session.startup import is_root_below_rootdir
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import create


def kept_session(parent: Path, rootdir: Path) -> Path:
    """Leave a session in *parent* that kept a directory with a failing test in it."""
    root = create(str(parent), mode=0o700, metadata={"rootdir": str(rootdir)})
    kept = Path(root.path, "main.d", "kept")
    kept.mkdir(parents=True)
    (kept / f"test_{os.path.basename(root.path)[8:]}.py").write_text("def test_it(): assert 0")
    write_index(root, [Kept("t", str(kept), "failed", "main")])
    lock.release(root.lock_fd)
    return Path(root.path)


@pytest.mark.parametrize(
    "name, crumb, ignored",
    [
        ("tempres-abcdefgh", True, True),
        ("tempres-abcdefgh", False, None),
        ("tempres-abcdefghi", True, None),
        ("tests", True, None),
    ],
)
def test_session_roots_are_ignored_at_collection(tmp_path, name, crumb, ignored):
    """A session root is recognized by its name and its breadcrumb together."""
    path = tmp_path / name
    path.mkdir()
    if crumb:
        (path / BREADCRUMB).touch()
    assert CollectionHooks().pytest_ignore_collect(path) is ignored


def test_unreadable_session_root_is_ignored_at_collection(tmp_path, monkeypatch):
    """Another user's session root contains nothing to collect, and pytest would fail in it."""
    path = tmp_path / "tempres-abcdefgh"
    path.mkdir()
    monkeypatch.setattr(System, "access", lambda path, mode: False)
    assert CollectionHooks().pytest_ignore_collect(path) is True


@pytest.mark.parametrize(
    "place, among",
    [
        ("project", True),
        ("project/tmp", True),
        ("link/tmp", True),
        ("project2", False),
        (".", False),
    ],
)
def test_collection_hook_is_registered_only_for_roots_below_rootdir(tmp_path, place, among):
    """Elsewhere pytest does not ask the plugin about every file."""
    (tmp_path / "project" / "tmp").mkdir(parents=True)
    (tmp_path / "project2").mkdir()
    (tmp_path / "link").symlink_to("project")

    path = str(tmp_path / place / "tempres-abcdefgh")
    state = SimpleNamespace(
        config=SimpleNamespace(rootpath=tmp_path / "project"),
        workspace=SimpleNamespace(root=SimpleNamespace(path=path)),
    )
    assert is_root_below_rootdir(state) is among


def test_kept_paths_below_rootdir_are_not_collected(pytester, run, monkeypatch):
    """A failed test's files are no tests of the next run (pytest#7947); the name is no proof."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    place = pytester.mkdir("scratch")
    ours, theirs = (kept_session(place, pytester.path) for _ in range(2))
    if os.geteuid() == 0:
        for path in (theirs, *theirs.rglob("*")):
            os.chown(path, 65534, 65534)
    alike = place / "tempres-nameonly"
    alike.mkdir()
    (alike / "test_alike.py").write_text("def test_alike(): pass")
    pytester.makepyfile("def test_real(temp_dir): pass")
    before = sorted(place.rglob("*"))
    result = run("--tempres-root=scratch", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)
    assert sorted(place.rglob("*")) == before
    assert ours.exists()


def test_kept_test_file_can_be_run_by_its_path(pytester, run_here):
    """A file in a session root is collected if the command line names it."""
    place = pytester.mkdir("scratch")
    (path,) = kept_session(place, pytester.path).rglob("test_*.py")
    run_here("--tempres-root=scratch", "-p", "no:cacheprovider", str(path)).assert_outcomes(
        failed=1
    )
