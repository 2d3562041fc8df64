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


def plant(*parts: str) -> tuple[int, str]:
    """Make a directory; return its inode and its path."""
    path = os.path.join(*parts)
    os.makedirs(path)
    return os.lstat(path).st_ino, path


def test_it_finds_what_is_in_the_root_and_in_the_workers_own_directories(root, worker):
    """However deep; what lies in what was found goes with it."""
    planted = [
        plant(root.path, "x"),
        plant(root.path, "y", "z"),
        plant(worker.path, "x"),
        plant(worker.fixture_dir, "a", "b", "c"),
    ]
    inner = plant(root.path, "x", "inner")
    assert sorted(find(root, worker, {inode for inode, _ in (*planted, inner)})) == sorted(planted)


def test_it_leaves_other_workers_alone(root, worker):
    """What they have may bear a number that was given back here."""
    inodes = {
        plant(root.path, "gw1", "x")[0],
        plant(root.path, "gw1.d", "x")[0],
        os.lstat(os.path.join(root.path, "gw1.d")).st_ino,
    }
    assert list(find(root, worker, inodes)) == []


def test_links_lead_nowhere(root, worker, tmp_path):
    """What is reached through a link is not in the root."""
    inode, path = plant(str(tmp_path), "outside", "x")
    os.symlink(os.path.dirname(path), os.path.join(worker.path, "link"))
    os.symlink(root.path, os.path.join(worker.path, "loop"))
    assert list(find(root, worker, {inode})) == []


def test_it_ends(root, worker, monkeypatch):
    """A huge tree is searched as far as it takes little time."""
    planted = plant(worker.path, "a", "b", "c", "d", "e", "f", "g", "h")
    assert list(find(root, worker, {planted[0]})) == [planted]
    monkeypatch.setattr(module, "_MAX_ITEMS", 7)
    assert list(find(root, worker, {planted[0]})) == []


def test_a_root_that_is_gone_has_nothing(root, worker):
    """A test may have removed it."""
    os.rename(root.path, f"{root.path}.gone")
    assert list(find(root, worker, {1})) == []
    os.rename(f"{root.path}.gone", root.path)
