from __future__ import annotations

import json
import os
from pathlib import Path
import shutil

import pytest

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.retention import POLICIES
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import created_from_plain
from pytest_tempres.workspace.retention import reason_to_keep
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import create


@pytest.fixture
def root(tmp_path):
    """A session root."""
    root = create(str(tmp_path), mode=0o700, about={})
    yield root
    root.release()


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
def test_policy_outcome_and_marker_decide_together(policy, failed, asked, reason):
    """The marker outranks the policy, and a hook can only add."""
    assert reason_to_keep(policy, failed=failed, asked=asked) == reason


def test_every_policy_has_an_answer_for_every_outcome():
    """No policy keeps more of a passed test than of a failed one."""
    for policy in POLICIES:
        passed = reason_to_keep(policy, failed=False, asked=None)
        failed = reason_to_keep(policy, failed=True, asked=None)
        assert passed is None or failed is not None


def test_the_index_maps_each_node_id_to_its_paths(root):
    """Who looks for a test's directory finds it by the test's whole id."""
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


def test_the_index_holds_names_that_are_not_utf8(root):
    """A path of any bytes comes back from the index as it was."""
    path = os.fsdecode(b"/r/main/\xff\n\xc3\xa9")
    write_index(root, [Kept("t.py::é", path, "failed", "main")])
    index = json.loads(Path(root.path, INDEX).read_text(encoding="ascii"))
    assert index["kept"] == {"t.py::é": [path]}


def test_an_index_replaces_the_one_before(root):
    """A reader sees the old index or the new one, whole."""
    write_index(root, [Kept("a", "/1", "failed", "main")])
    write_index(root, [Kept("b", "/2", "failed", "main")])
    assert json.loads(Path(root.path, INDEX).read_text())["kept"] == {"b": ["/2"]}


def test_an_index_that_cannot_be_written_is_an_error_of_the_system(root):
    """The caller learns that a later sweep will not know what was kept."""
    shutil.rmtree(root.path)
    with pytest.raises(FileNotFoundError):
        write_index(root, [])


@pytest.mark.skipif(os.name == "nt", reason="modes are not kept there")
@pytest.mark.parametrize("umask", [0, 0o777])
def test_the_index_is_for_its_user_alone(root, umask):
    """Ids of tests may be secret, and what others write there would be believed."""
    before = os.umask(umask)
    try:
        write_index(root, [Kept("t", f"{root.path}/main.d/t", "failed", "main")])
    finally:
        os.umask(before)
    assert os.stat(os.path.join(root.path, INDEX)).st_mode & 0o777 == 0o600


def test_a_link_in_the_place_of_the_draft_is_not_followed(root, tmp_path):
    """Who can write to the root, or put another one there, may have it lead anywhere."""
    private = tmp_path / "private"
    private.write_text("mine")
    os.symlink(private, os.path.join(root.path, f"{INDEX}.new"))
    write_index(root, [Kept("t", f"{root.path}/main.d/t", "failed", "main")])
    assert private.read_text() == "mine"
    assert os.path.isfile(os.path.join(root.path, INDEX))


def test_no_index_is_written_to_what_is_not_ours(root, tmp_path):
    """Somebody may have moved the root away since, and put a directory of his own there."""
    os.rename(root.path, tmp_path / "moved")
    os.mkdir(root.path)
    with pytest.raises(NotOurDirectoryError):
        write_index(root, [Kept("t", f"{root.path}/main.d/t", "failed", "main")])
    assert os.listdir(root.path) == []


@pytest.mark.parametrize("made", [CreatedPath("/p", True, (1, 2), 3), CreatedPath("/p")])
def test_what_is_made_in_another_process_is_the_same_here(made):
    """A list is never equal to the tuple that it was: nothing would be removed."""
    assert created_from_plain(json.loads(json.dumps(made))) == made
