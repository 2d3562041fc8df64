from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from pytest_tempres.artifacts import tree_copy
from pytest_tempres.artifacts.export import Exported
from pytest_tempres.artifacts.export import export
from pytest_tempres.artifacts.portable_names import safe_nodeid
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace.dirfd import Directory
from pytest_tempres.workspace.retention import Artifacts
from pytest_tempres.workspace.retention import Kept

TEST = "t.py::test"
NAME = safe_nodeid(TEST)
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")


@pytest.fixture
def keep(tmp_path):
    """Create a directory with a file of ten bytes, and return its record."""

    def keep(name: str, nodeid: str = TEST, text: str = "0123456789") -> Kept:
        path = tmp_path / "root" / name
        path.mkdir(parents=True)
        (path / "file").write_text(text)
        return Kept(nodeid, str(path), "failed", "main")

    return keep


@pytest.fixture
def out(tmp_path) -> Path:
    """The artifacts directory, which does not exist yet."""
    return tmp_path / "some" / "where"


@pytest.fixture
def export_all(out):
    """Export the kept paths."""

    def export_all(*kept: Kept, max_size: int = 1000, **more) -> Exported:
        return export(kept, str(out), max_size=max_size, session="tempres-1", **more)

    return export_all


def records(out: Path, name: str = "manifest.json") -> list[dict]:
    """Return the records in the manifest."""
    found = json.loads((out / name).read_text())
    assert found["version"] == 1
    return found["artifacts"]


def test_the_list_of_skipped_paths_is_limited(keep, export_all, out, monkeypatch):
    """The manifest has the number of all skipped paths, but lists only the first."""
    monkeypatch.setattr(tree_copy, "_MAX_SKIPPED", 2)
    kept = keep("a")
    for number in range(4):
        Path(kept.path, f"file{number}").write_text("0123456789")
    done = export_all(kept, max_size=10)
    (record,) = records(out)
    assert [each["path"] for each in record["skipped"]] == ["file0", "file1", "."]
    assert record["skipped"][-1]["reason"] == "... and 2 more"
    assert (done.artifacts.files, done.artifacts.skipped) == (1, 4)


def test_each_test_has_its_own_directory(keep, export_all, out):
    """The directory has the test's name and contains nothing else."""
    kept = [
        keep("main.d/a"),
        keep("main/a"),
        keep("main.d/b", "t.py::other"),
    ]
    done = export_all(*kept)
    other = safe_nodeid("t.py::other")
    places = [f"{NAME}/a", f"{NAME}/a-2", f"{other}/b"]
    assert [each.artifact for each in done.kept] == [str(out / place) for place in places]
    assert [each._replace(artifact=None) for each in done.kept] == kept
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {
        "manifest.json",
        *(os.path.join(place, "file") for place in places),
    }
    assert done.artifacts == Artifacts(str(out), 3, 3, 30, 0, "manifest.json")
    assert done.failure is None


@posix
def test_the_manifest_describes_each_copy(keep, export_all, out):
    """A reader of the artifacts learns what each copy is, and what is missing."""
    kept = keep("a")
    Path(kept.path, "x:y").write_text("12")
    Path(kept.path, "big").write_text("x" * 13)
    bad = os.fsdecode(b"\xff")
    export_all(kept._replace(nodeid=f"{TEST}{bad}"), max_size=20)
    assert records(out) == [
        {
            "nodeid": f"{TEST}\\xff",
            "path": kept.path,
            "artifact": f"{safe_nodeid(TEST + bad)}/a",
            "reason": "failed",
            "worker": "main",
            "session": "tempres-1",
            "bytes": 15,
            "files": 2,
            "skipped": [{"path": "file", "reason": "over the size limit: 10 bytes"}],
            "renamed": {"x:y": "x_y"},
        }
    ]


def test_a_second_run_has_directories_of_its_own(keep, export_all, out):
    """Files of an earlier run or another program are neither overwritten nor removed."""
    (out / f"{NAME}-2").mkdir(parents=True)
    (out / "manifest.json").write_text("mine")
    first = export_all(keep("a"))
    second = export_all(keep("b"))
    assert first.kept[0].artifact == str(out / NAME / "a")
    assert second.kept[0].artifact == str(out / f"{NAME}-3" / "b")
    assert os.listdir(out / f"{NAME}-2") == []
    assert (out / "manifest.json").read_text() == "mine"
    assert [each["artifact"] for each in records(out, "manifest-2.json")] == [
        f"{NAME}/a",
        f"{NAME}-3/b",
    ]


def test_the_size_limit_applies_to_the_whole_session(keep, export_all, out):
    """All paths share one limit, and a smaller path may still fit after a larger one."""
    done = export_all(keep("a"), keep("b"), keep("c", text="0"), max_size=15)
    assert done.artifacts == Artifacts(str(out), 3, 2, 11, 1, "manifest.json")


@posix
def test_a_path_inside_another_kept_path_is_copied_once(keep, export_all, out):
    """Its copy is inside the copy of the other path."""
    inner = keep("a/x:y/z", "t.py::inner")
    outer = inner._replace(nodeid=TEST, path=str(Path(inner.path).parents[1]))
    missing = Kept("t.py::more", os.path.join(outer.path, "missing"), "all", "main")
    done = export_all(inner, outer, inner, missing)
    places = [each.artifact for each in done.kept]
    assert places == [str(out / NAME / "a" / "x_y" / "z"), str(out / NAME / "a"), places[0], None]
    assert (done.artifacts.files, done.artifacts.skipped) == (1, 1)
    assert records(out)[3]["skipped"] == [
        {"path": ".", "reason": f"it is inside {outer.path}, and was skipped there"}
    ]


def test_a_kept_file_is_copied(keep, export_all, out):
    """A file that exceeds the limit has no copy."""
    path = os.path.join(keep("a").path, "file")
    kept = Kept(TEST, path, "failed", "main")
    assert export_all(kept).kept[0].artifact == str(out / NAME / "file")
    done = export_all(kept, max_size=9)
    assert done.kept[0].artifact is None
    assert done.artifacts == Artifacts(str(out), 0, 0, 0, 1, "manifest.json")
    reason = "over the size limit: 10 bytes"
    assert records(out)[1]["skipped"] == [{"path": ".", "reason": reason}]


def test_missing_and_remote_paths_are_listed(keep, export_all, out, tmp_path):
    """Missing paths and paths on another host are skipped, and are no failures."""
    here, kept = keep("a"), Kept(TEST, "", "failed", "main")
    remote = [kept._replace(path="host:/tmp/tempres-2/x"), kept._replace(path="/no/tempres-3/x")]
    gone = kept._replace(path=str(tmp_path / "gone"))
    done = export_all(*remote, gone, here, other_roots=["/no/tempres-3"])
    assert [each.artifact for each in done.kept] == [None, None, None, str(out / NAME / "a")]
    reasons = [record["skipped"] for record in records(out)]
    remote = {"path": ".", "reason": "on another host"}
    assert reasons == [[remote], [remote], [{"path": ".", "reason": "it no longer exists"}], []]
    assert (done.artifacts.skipped, done.failure) == (3, None)


@pytest.mark.parametrize("obstacle", ["file", "closed"])
def test_a_target_that_cannot_be_created_is_one_failure(
    keep, export_all, out, monkeypatch, obstacle
):
    """Nothing is copied, and the failure is reported."""
    kept = keep("a")
    if obstacle == "file":
        out.parent.mkdir()
        out.touch()
    else:

        def refuse(path, **more):
            raise PermissionError(errno.EACCES, "Permission denied", path)

        monkeypatch.setattr(System, "makedirs", refuse)
    done = export_all(kept)
    assert (done.kept, done.artifacts) == ((kept,), None)
    assert done.failure.startswith(f"{out}: ")


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a directory that is in use")
def test_a_target_that_is_removed_is_a_failure(keep, export_all, out, monkeypatch):
    """The failure is reported, and no exception is raised."""
    make = Directory.make_directory

    def remove(self, name, mode):
        (draft,) = out.iterdir()
        draft.unlink()
        out.rmdir()
        monkeypatch.setattr(Directory, "make_directory", make)
        make(self, name, mode)

    monkeypatch.setattr(Directory, "make_directory", remove)
    done = export_all(keep("a"), keep("b"))
    assert [each.artifact for each in done.kept] == [None, None]
    assert done.failure == f"{out / NAME}: {os.strerror(errno.ENOENT)}"
    assert (done.artifacts.skipped, done.artifacts.manifest) == (2, None)


def test_a_full_disk_is_recorded_in_the_manifest(keep, tmpfs):
    """Complete copies stay, the rest is listed, and no partial copy is left."""
    to = tmpfs("size=1m")
    kept = [keep(name, f"t.py::{name}", "x" * 600_000) for name in "abc"]
    done = export(kept, str(to), max_size=10**9, session="s")
    full = os.strerror(errno.ENOSPC)
    found = [(each["files"], each["skipped"]) for each in records(to)]
    assert found == [
        (1, []),
        (0, [{"path": "file", "reason": full}]),
        (0, [{"path": ".", "reason": full}]),
    ]
    assert done.failure.endswith(f"/b/file: {full}")
    assert [path.stat().st_size for path in to.rglob("file")] == [600_000]
    assert done.kept[2].artifact is None


def test_a_kept_directory_may_contain_the_artifacts(keep):
    """The artifacts are not copied into themselves."""
    kept = keep("a")
    to = Path(kept.path, "artifacts")
    done = export([kept], str(to), max_size=1000, session="s")
    assert os.listdir(to / NAME / "a") == ["file"]
    assert done.artifacts.skipped == 1
