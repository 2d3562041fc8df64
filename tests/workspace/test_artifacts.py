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
def given(tmp_path):
    """Make a directory with a file of ten bytes, which is kept."""

    def given(name: str, nodeid: str = TEST, text: str = "0123456789") -> Kept:
        path = tmp_path / "root" / name
        path.mkdir(parents=True)
        (path / "file").write_text(text)
        return Kept(nodeid, str(path), "failed", "main")

    return given


@pytest.fixture
def out(tmp_path) -> Path:
    """Where artifacts go; it does not exist yet."""
    return tmp_path / "some" / "where"


@pytest.fixture
def export_all(out):
    """Export what is given."""

    def export_all(*kept: Kept, max_size: int = 1000, **more) -> Exported:
        return export(kept, str(out), max_size=max_size, session="tempres-1", **more)

    return export_all


def records(out: Path, name: str = "manifest.json") -> list[dict]:
    """Return what the manifest says."""
    found = json.loads((out / name).read_text())
    assert found["version"] == 1
    return found["artifacts"]


def test_what_was_skipped_is_listed_up_to_a_point(given, export_all, out, monkeypatch):
    """A million of skipped files makes no manifest that nobody can open; the count is whole."""
    monkeypatch.setattr(tree_copy, "_MAX_SKIPPED", 2)
    kept = given("a")
    for number in range(4):
        Path(kept.path, f"file{number}").write_text("0123456789")
    done = export_all(kept, max_size=10)
    (record,) = records(out)
    assert [each["path"] for each in record["skipped"]] == ["file0", "file1", "."]
    assert record["skipped"][-1]["reason"] == "... and 2 more"
    assert (done.artifacts.files, done.artifacts.skipped) == (1, 4)


def test_each_test_has_its_directory(given, export_all, out):
    """All that is kept of a test is found under its name, and nothing else is there."""
    kept = [given("main.d/a"), given("main/a"), given("main.d/b", "t.py::other")]
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
def test_the_manifest_tells_all(given, export_all, out):
    """Who has nothing but the artifacts knows what each is, and what is missing."""
    kept = given("a")
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


def test_the_second_run_has_directories_of_its_own(given, export_all, out):
    """Nothing of an earlier run is overwritten or removed, whatever it is."""
    (out / f"{NAME}-2").mkdir(parents=True)
    (out / "manifest.json").write_text("mine")
    first = export_all(given("a"))
    second = export_all(given("b"))
    assert first.kept[0].artifact == str(out / NAME / "a")
    assert second.kept[0].artifact == str(out / f"{NAME}-3" / "b")
    assert os.listdir(out / f"{NAME}-2") == []
    assert (out / "manifest.json").read_text() == "mine"
    assert [each["artifact"] for each in records(out, "manifest-2.json")] == [
        f"{NAME}/a",
        f"{NAME}-3/b",
    ]


def test_the_limit_is_that_of_the_session(given, export_all, out):
    """Later paths have what earlier ones left, and smaller ones still fit."""
    done = export_all(given("a"), given("b"), given("c", text="0"), max_size=15)
    assert done.artifacts == Artifacts(str(out), 3, 2, 11, 1, "manifest.json")


@posix
def test_what_lies_in_another_kept_path_is_copied_once(given, export_all, out):
    """Its copy is in the other's copy, under the names that it has there."""
    inner = given("a/x:y/z", "t.py::inner")
    outer = inner._replace(nodeid=TEST, path=str(Path(inner.path).parents[1]))
    missing = Kept("t.py::more", os.path.join(outer.path, "missing"), "all", "main")
    done = export_all(inner, outer, inner, missing)
    places = [each.artifact for each in done.kept]
    assert places == [str(out / NAME / "a" / "x_y" / "z"), str(out / NAME / "a"), places[0], None]
    assert (done.artifacts.files, done.artifacts.skipped) == (1, 1)
    assert records(out)[3]["skipped"] == [
        {"path": ".", "reason": f"it is inside {outer.path}, and was skipped there"}
    ]


def test_a_file_is_copied_by_itself(given, export_all, out):
    """What is kept may be a file; one that does not fit has no copy."""
    path = os.path.join(given("a").path, "file")
    kept = Kept(TEST, path, "failed", "main")
    assert export_all(kept).kept[0].artifact == str(out / NAME / "file")
    done = export_all(kept, max_size=9)
    assert done.kept[0].artifact is None
    assert done.artifacts == Artifacts(str(out), 0, 0, 0, 1, "manifest.json")
    reason = "over the size limit: 10 bytes"
    assert records(out)[1]["skipped"] == [{"path": ".", "reason": reason}]


def test_what_is_not_here_is_named(given, export_all, out, tmp_path):
    """What another host keeps stays there, and what is gone is gone: neither is a failure."""
    here, kept = given("a"), Kept(TEST, "", "failed", "main")
    remote = [kept._replace(path="host:/tmp/tempres-2/x"), kept._replace(path="/no/tempres-3/x")]
    gone = kept._replace(path=str(tmp_path / "gone"))
    done = export_all(*remote, gone, here, other_roots=["/no/tempres-3"])
    assert [each.artifact for each in done.kept] == [None, None, None, str(out / NAME / "a")]
    reasons = [record["skipped"] for record in records(out)]
    remote = {"path": ".", "reason": "on another host"}
    assert reasons == [[remote], [remote], [{"path": ".", "reason": "it is gone"}], []]
    assert (done.artifacts.skipped, done.failure) == (3, None)


@pytest.mark.parametrize("obstacle", ["file", "closed"])
def test_no_directory_is_one_failure(given, export_all, out, monkeypatch, obstacle):
    """Where nothing can be made, all is as if nobody had asked, and that is told."""
    kept = given("a")
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
def test_a_directory_that_is_removed_meanwhile_is_a_failure(given, export_all, out, monkeypatch):
    """What can be told is told, and nothing is raised."""
    make = Directory.make_directory

    def remove(self, name, mode):
        (draft,) = out.iterdir()
        draft.unlink()
        out.rmdir()
        monkeypatch.setattr(Directory, "make_directory", make)
        make(self, name, mode)

    monkeypatch.setattr(Directory, "make_directory", remove)
    done = export_all(given("a"), given("b"))
    assert [each.artifact for each in done.kept] == [None, None]
    assert done.failure == f"{out / NAME}: {os.strerror(errno.ENOENT)}"
    assert (done.artifacts.skipped, done.artifacts.manifest) == (2, None)


def test_a_full_disk_is_told_in_the_manifest(given, tmpfs):
    """What was copied stays, the rest is named, and nothing half is there."""
    to = tmpfs("size=1m")
    kept = [given(name, f"t.py::{name}", "x" * 600_000) for name in "abc"]
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


def test_what_is_kept_may_hold_the_artifacts(given):
    """A copy into itself ends, and the source has nothing in it but the artifacts."""
    kept = given("a")
    to = Path(kept.path, "artifacts")
    done = export([kept], str(to), max_size=1000, session="s")
    assert os.listdir(to / NAME / "a") == ["file"]
    assert done.artifacts.skipped == 1
