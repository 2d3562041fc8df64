from __future__ import annotations

import json
import os

import pytest

from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.retention import POLICIES
from pytest_tempres.workspace.retention import Kept
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
def test_policy_outcome_and_marker_decide_together(policy, failed, asked, reason):
    """The marker outranks the policy, and a hook can only add."""
    assert reason_to_keep(policy, failed=failed, asked=asked) == reason


def test_every_policy_has_an_answer_for_every_outcome():
    """No policy keeps more of a passed test than of a failed one."""
    for policy in POLICIES:
        passed = reason_to_keep(policy, failed=False, asked=None)
        failed = reason_to_keep(policy, failed=True, asked=None)
        assert passed is None or failed is not None


def test_the_index_maps_each_node_id_to_its_paths(tmp_path):
    """Who looks for a test's directory finds it by the test's whole id."""
    kept = [
        Kept("t.py::a[x/y]", "/r/main.d/a-1", "failed", "main"),
        Kept("t.py::b", "/r/gw0/b", "failed", "gw0"),
        Kept("t.py::a[x/y]", "/r/main.d/a-2", "failed", "main"),
    ]
    write_index(str(tmp_path), kept)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["version"] == 1
    assert index["kept"] == {
        "t.py::a[x/y]": ["/r/main.d/a-1", "/r/main.d/a-2"],
        "t.py::b": ["/r/gw0/b"],
    }
    assert os.listdir(tmp_path) == [INDEX]


def test_the_index_holds_names_that_are_not_utf8(tmp_path):
    """A path of any bytes comes back from the index as it was."""
    path = os.fsdecode(b"/r/main/\xff\n\xc3\xa9")
    write_index(str(tmp_path), [Kept("t.py::é", path, "failed", "main")])
    index = json.loads((tmp_path / INDEX).read_text(encoding="ascii"))
    assert index["kept"] == {"t.py::é": [path]}


def test_an_index_replaces_the_one_before(tmp_path):
    """A reader sees the old index or the new one, whole."""
    write_index(str(tmp_path), [Kept("a", "/1", "failed", "main")])
    write_index(str(tmp_path), [Kept("b", "/2", "failed", "main")])
    assert json.loads((tmp_path / INDEX).read_text())["kept"] == {"b": ["/2"]}


def test_an_index_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    """The caller learns that a later sweep will not know what was kept."""
    with pytest.raises(FileNotFoundError):
        write_index(str(tmp_path / "missing"), [])
