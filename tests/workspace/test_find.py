from __future__ import annotations

import os

import pytest

from pytest_tempres.workspace import retention as module
from pytest_tempres.workspace.retention import find


@pytest.fixture
def worker(root):
    """One of two workers of a session."""
    root.add_worker("gw1", 0o700)
    return root.add_worker("gw0", 0o700)


def make_directory(*parts: str) -> tuple[int, str]:
    """Create a directory; return its inode and its path."""
    path = os.path.join(*parts)
    os.makedirs(path)
    return os.lstat(path).st_ino, path


def test_it_finds_paths_in_the_root_and_in_the_workers_directories(root, worker):
    """At any depth, except below a path that was found."""
    made = [
        make_directory(root.path, "x"),
        make_directory(root.path, "y", "z"),
        make_directory(worker.path, "x"),
        make_directory(worker.fixture_dir, "a", "b", "c"),
    ]
    inner = make_directory(root.path, "x", "inner")
    assert sorted(find(root, worker, {inode for inode, _ in (*made, inner)})) == sorted(made)


def test_it_does_not_search_the_directories_of_other_workers(root, worker):
    """An inode that was freed here may be in use there."""
    inodes = {
        make_directory(root.path, "gw1", "x")[0],
        make_directory(root.path, "gw1.d", "x")[0],
        os.lstat(os.path.join(root.path, "gw1.d")).st_ino,
    }
    assert list(find(root, worker, inodes)) == []


def test_it_follows_no_links(root, worker, tmp_path):
    """A path behind a link is not in the root."""
    inode, path = make_directory(str(tmp_path), "outside", "x")
    os.symlink(os.path.dirname(path), os.path.join(worker.path, "link"))
    os.symlink(root.path, os.path.join(worker.path, "loop"))
    assert list(find(root, worker, {inode})) == []


def test_the_number_of_visited_paths_is_limited(root, worker, monkeypatch):
    """A huge tree is not searched completely."""
    made = make_directory(worker.path, "a", "b", "c", "d", "e", "f", "g", "h")
    assert list(find(root, worker, {made[0]})) == [made]
    monkeypatch.setattr(module, "_MAX_ITEMS", 7)
    assert list(find(root, worker, {made[0]})) == []


def test_a_missing_root_contains_nothing(root, worker):
    """A test may have removed it."""
    os.rename(root.path, f"{root.path}.gone")
    assert list(find(root, worker, {1})) == []
    os.rename(f"{root.path}.gone", root.path)
