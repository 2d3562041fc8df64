from __future__ import annotations

import json
import os
from pathlib import Path
import shutil

import pytest

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.workspace import retention as module
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.retention import POLICIES
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import created_from_plain
from pytest_tempres.workspace.retention import find_by_inode
from pytest_tempres.workspace.retention import reason_to_keep
from pytest_tempres.workspace.retention import write_index


@pytest.mark.parametrize(
    "policy, failed, asked, reason",
    [
        ("none", False, None, None),
        ("none", True, None, None),
        ("failed", False, None, None),
        ("failed", True, None, "failed"),
        ("all", False, None, "all"),
        ("all", True, None, "all"),
        ("hook", False, None, "hook"),
        ("hook", True, None, "hook"),
        ("none", False, True, "asked"),
        ("failed", True, True, "asked"),
        ("failed", True, False, None),
        ("all", True, False, None),
        ("hook", False, False, "hook"),
    ],
)
def test_the_marker_overrides_the_policy_and_a_hook_overrides_both(policy, failed, asked, reason):
    """A hook can keep a path, but cannot have one removed."""
    assert reason_to_keep(policy, failed=failed, asked=asked) == reason


def test_no_policy_keeps_more_of_a_passed_test_than_of_a_failed_one():
    """What is kept of a passed test would be kept if the test had failed."""
    for policy in POLICIES:
        passed = reason_to_keep(policy, failed=False, asked=None)
        failed = reason_to_keep(policy, failed=True, asked=None)
        assert passed is None or failed is not None


def test_the_index_maps_each_node_id_to_its_paths(root):
    """The key is the complete node id, and all paths of a test are in one list."""
    kept = [
        Kept("t.py::a[x/y]", "/r/main.d/a-1", "failed", "main"),
        Kept("t.py::b", "/r/gw0/b", "failed", "gw0"),
        Kept("t.py::a[x/y]", "/r/main.d/a-2", "failed", "main"),
    ]
    write_index(root, kept)
    index = json.loads(Path(root.path, INDEX).read_text())
    assert index["version"] == 1
    assert index["kept"] == {
        "t.py::a[x/y]": ["/r/main.d/a-1", "/r/main.d/a-2"],
        "t.py::b": ["/r/gw0/b"],
    }
    assert sorted(os.listdir(root.path)) == [LOCK, BREADCRUMB, INDEX]


def test_the_index_can_contain_names_that_are_not_utf8(root):
    """A path of any bytes comes back unchanged."""
    path = os.fsdecode(b"/r/main/\xff\n\xc3\xa9")
    write_index(root, [Kept("t.py::é", path, "failed", "main")])
    index = json.loads(Path(root.path, INDEX).read_text(encoding="ascii"))
    assert index["kept"] == {"t.py::é": [path]}


def test_a_new_index_replaces_the_old_one(root):
    """A reader sees either the old or the new index, and always a complete one."""
    write_index(root, [Kept("a", "/1", "failed", "main")])
    write_index(root, [Kept("b", "/2", "failed", "main")])
    assert json.loads(Path(root.path, INDEX).read_text())["kept"] == {"b": ["/2"]}


def test_an_index_that_cannot_be_written_is_an_oserror(root):
    """The caller can warn that a later sweep will not know the kept paths."""
    shutil.rmtree(root.path)
    with pytest.raises(FileNotFoundError):
        write_index(root, [])


@pytest.mark.skipif(os.name == "nt", reason="modes are not kept there")
@pytest.mark.parametrize("umask", [0, 0o777])
def test_the_index_is_private(root, umask):
    """Its mode is 0600: node ids may be secret, and a sweep trusts its content."""
    before = os.umask(umask)
    try:
        write_index(root, [Kept("t", f"{root.path}/main.d/t", "failed", "main")])
    finally:
        os.umask(before)
    assert os.stat(os.path.join(root.path, INDEX)).st_mode & 0o777 == 0o600


def test_a_draft_that_is_replaced_by_a_link_is_not_followed(root, tmp_path):
    """The target of a link that another process created is not changed."""
    private = tmp_path / "private"
    private.write_text("mine")
    os.symlink(private, os.path.join(root.path, f"{INDEX}.new"))
    write_index(root, [Kept("t", f"{root.path}/main.d/t", "failed", "main")])
    assert private.read_text() == "mine"
    assert os.path.isfile(os.path.join(root.path, INDEX))


def test_no_index_is_written_to_a_directory_that_replaced_ours(root, tmp_path):
    """Writing raises an error if another directory is at the path of the root."""
    os.rename(root.path, tmp_path / "moved")
    os.mkdir(root.path)
    with pytest.raises(NotOurDirectoryError):
        write_index(root, [Kept("t", f"{root.path}/main.d/t", "failed", "main")])
    assert os.listdir(root.path) == []


@pytest.mark.parametrize("created", [CreatedPath("/p", True, (1, 2), 3), CreatedPath("/p")])
def test_a_created_path_is_equal_after_a_round_trip_through_json(created):
    """JSON turns tuples into lists, which would never be equal."""
    assert created_from_plain(json.loads(json.dumps(created))) == created


# -- finding renamed paths


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


def test_find_by_inode_finds_paths_in_the_root_and_in_the_workers_directories(root, worker):
    """They may be at any depth, except below a path that was found."""
    created = [
        make_directory(root.path, "x"),
        make_directory(root.path, "y", "z"),
        make_directory(worker.path, "x"),
        make_directory(worker.fixture_dir, "a", "b", "c"),
    ]
    inner = make_directory(root.path, "x", "inner")
    assert sorted(find_by_inode(root, worker, {inode for inode, _ in (*created, inner)})) == sorted(
        created
    )


def test_find_by_inode_does_not_search_the_directories_of_other_workers(root, worker):
    """An inode that this worker freed may be in use there."""
    inodes = {
        make_directory(root.path, "gw1", "x")[0],
        make_directory(root.path, "gw1.d", "x")[0],
        os.lstat(os.path.join(root.path, "gw1.d")).st_ino,
    }
    assert list(find_by_inode(root, worker, inodes)) == []


def test_find_by_inode_follows_no_links(root, worker, tmp_path):
    """A path that is only reachable through a link is not in the root."""
    inode, path = make_directory(str(tmp_path), "outside", "x")
    os.symlink(os.path.dirname(path), os.path.join(worker.path, "link"))
    os.symlink(root.path, os.path.join(worker.path, "loop"))
    assert list(find_by_inode(root, worker, {inode})) == []


def test_the_number_of_visited_paths_is_limited(root, worker, monkeypatch):
    """In a huge tree the search stops at the limit."""
    created = make_directory(worker.path, "a", "b", "c", "d", "e", "f", "g", "h")
    assert list(find_by_inode(root, worker, {created[0]})) == [created]
    monkeypatch.setattr(module, "_MAX_ITEMS", 7)
    assert list(find_by_inode(root, worker, {created[0]})) == []


def test_a_missing_root_contains_nothing(root, worker):
    """If a test has removed the root, the search finds nothing and raises no error."""
    os.rename(root.path, f"{root.path}.gone")
    assert list(find_by_inode(root, worker, {1})) == []
    os.rename(f"{root.path}.gone", root.path)
