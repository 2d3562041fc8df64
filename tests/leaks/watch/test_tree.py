from __future__ import annotations

from collections.abc import Callable
import contextlib
import inspect
import os
from pathlib import Path
import shutil
import socket
import sys
import tempfile

from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from pytest_tempres.leaks.temp import scan
from pytest_tempres.leaks.verdict import Ignore
from pytest_tempres.leaks.watch.tree import Children
from pytest_tempres.leaks.watch.tree import Scope
from pytest_tempres.leaks.watch.tree import Tree
from pytest_tempres.leaks.watch.tree import state
from pytest_tempres.primitives._system import System

#: An mtime (nanoseconds) that is long past, so that any later change differs from it.
LONG_AGO = 10**18

needs_permissions = pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="nothing is unreadable here"
)


@pytest.fixture
def top(tmp_path) -> Path:
    """A directory with a path of every kind in it."""
    top = tmp_path / "repo"
    (top / "src" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    for name in ("a.txt", "b.txt", "src/c.py", "src/deep/d.py"):
        write(top / name, "text")
    (top / "link").symlink_to("a.txt")
    return top


def write(path: Path, text: str) -> None:
    """Write *text*, with an old mtime."""
    path.write_text(text)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def scope(*exclude: Path, ignored: Callable[[str], bool] = lambda path: False) -> Scope:
    """Return a scope that leaves *exclude* out."""
    return Scope(map(str, exclude), ignored)


def snapshot(*tops: Path, within: Scope | None = None) -> Tree:
    """Return a snapshot of *tops*."""
    return Tree([str(top) for top in tops], within or scope())


def differences(snapshot: Tree, top: Path) -> dict[str, str]:
    """Return the modification of each path that differs, relative to *top*."""
    found = list(snapshot.differences())
    assert len({each.path for each in found}) == len(found)
    return {os.path.relpath(each.path, top): each.modification for each in found}


# -- differences


def test_without_changes_there_are_no_differences(top):
    """Reading changes nothing."""
    before = snapshot(top)
    (top / "a.txt").read_text()
    list(top.iterdir())
    assert differences(before, top) == {}


@pytest.mark.parametrize("where", ["new", "src/new", "src/deep/new"])
@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling", "fifo", "socket"])
def test_created_paths(top, where, kind, monkeypatch):
    """Paths of every kind are found at any depth."""
    before = snapshot(top)
    monkeypatch.chdir(top)
    {
        "file": lambda: Path(where).touch(),
        "directory": lambda: Path(where).mkdir(),
        "link": lambda: Path(where).symlink_to(top),
        "dangling": lambda: Path(where).symlink_to("nowhere"),
        "fifo": lambda: os.mkfifo(where),
        "socket": lambda: bind(where),
    }[kind]()
    assert differences(before, top) == {where: "created"}


def bind(path: str) -> None:
    """Create a socket at *path*."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)


@pytest.mark.parametrize("where", ["a.txt", "link", "empty", "src/c.py", "src/deep/d.py"])
def test_deleted_paths(top, where):
    """Paths of every kind are found at any depth."""
    before = snapshot(top)
    path = top / where
    path.rmdir() if path.is_dir() else path.unlink()
    assert differences(before, top) == {where: "deleted"}


def change_size(path: Path) -> None:
    """Write a longer text."""
    write(path, "longer text")


def change_time(path: Path) -> None:
    """Write a text of the same length."""
    path.write_text("tuxt")


def change_to_directory(path: Path) -> None:
    """Replace it with a directory."""
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


def change_to_link(path: Path) -> None:
    """Replace it with a link."""
    path.unlink()
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "change", [change_size, change_time, change_to_directory, change_to_link, Path.touch]
)
def test_changed_files(top, change):
    """A file has changed if its size, its mtime or its type differs."""
    before = snapshot(top)
    change(top / "src/c.py")
    assert differences(before, top) == {"src/c.py": "changed"}


def test_a_link_with_another_target_has_changed(top):
    """A link that is recreated with the same target has not."""
    before = snapshot(top)
    (top / "link").unlink()
    (top / "link").symlink_to("a.txt")
    assert differences(before, top) == {}
    (top / "link").unlink()
    (top / "link").symlink_to("b.txt")
    assert differences(before, top) == {"link": "changed"}


def test_a_directory_replaced_by_a_file_is_one_difference(top):
    """Its contents are part of it."""
    before = snapshot(top)
    shutil.rmtree(top / "src")
    (top / "src").touch()
    assert differences(before, top) == {"src": "changed"}


def test_a_restored_file_is_no_difference(top, tmp_path):
    """It is moved back, or copied with its mtime."""
    before = snapshot(top)
    (top / "a.txt").rename(tmp_path / "away")
    shutil.copy2(top / "b.txt", tmp_path / "copy")
    write(top / "a.txt", "other")
    (top / "b.txt").write_text("other")
    (tmp_path / "away").rename(top / "a.txt")
    shutil.copy2(tmp_path / "copy", top / "b.txt")
    (top / "empty").rmdir()
    (top / "empty").mkdir()
    assert differences(before, top) == {}


def test_a_new_directory_is_one_difference(top):
    """Its contents are part of it."""
    before = snapshot(top)
    (top / "src/new/deep").mkdir(parents=True)
    (top / "src/new/deep/file").touch()
    assert differences(before, top) == {"src/new": "created"}


def test_a_deleted_directory_is_one_difference(top):
    """It has the number of its files."""
    before = snapshot(top)
    shutil.rmtree(top / "src")
    (found,) = before.differences()
    assert found[:2] == (str(top / "src"), "deleted")
    assert found.items == 2


def test_a_rename_is_a_deletion_and_a_creation(top):
    """This is so for directories too."""
    before = snapshot(top)
    (top / "src").rename(top / "lib")
    (top / "a.txt").rename(top / "src")
    found = {"src": "changed", "lib": "created", "a.txt": "deleted"}
    assert differences(before, top) == found


def test_a_path_removed_during_the_listing_is_deleted(top, monkeypatch):
    """Other processes may remove it."""
    before = snapshot(top)
    for name in ("src/new", "src/gone"):
        (top / name).touch()

    @contextlib.contextmanager
    def scandir(path):
        with scan(path) as entries:
            listed = list(entries)
            if path == str(top / "src"):
                (top / "src/gone").unlink()
            yield listed

    scan = System.scandir
    monkeypatch.setattr(System, "scandir", staticmethod(scandir))
    assert differences(before, top) == {"src/new": "created"}


def test_names_may_contain_any_bytes(top):
    """They may have newlines in them."""
    before = snapshot(top)
    name = os.fsdecode(b"new\nline\xff")
    (top / name).touch()
    (top / "src" / name).mkdir()
    assert differences(before, top) == {name: "created", f"src/{name}": "created"}
    again = snapshot(top)
    (top / name).unlink()
    assert differences(again, top) == {name: "deleted"}


# -- paths that are left out


@pytest.mark.parametrize(
    "name",
    [
        *("__pycache__", "a.pyc", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"),
        *(".git", ".hg", ".svn", ".tox", ".nox", ".venv", "venv", ".coverage", ".coverage.host.1"),
        *("htmlcov", ".eggs", "a.egg-info", ".testmondata", ".testmondata-wal", ".benchmarks"),
        *(".idea", ".vscode", ".DS_Store", "node_modules", ".ipynb_checkpoints"),
        *("tempres-abcd0123", "pytest-of-me", "new\nline.pyc"),
    ],
)
def test_paths_of_other_tools_are_left_out(top, name):
    """They are left out at any depth."""
    (top / name).mkdir()
    before = snapshot(top)
    (top / name / "new").touch()
    (top / "src" / name).mkdir()
    assert differences(before, top) == {}
    shutil.rmtree(top / name)
    assert differences(before, top) == {}


@pytest.mark.parametrize(
    "name", ["pycache", "x.pyc.txt", ".gitignore", ".github", "venv2", "xgit", "coverage", ".env"]
)
def test_patterns_match_whole_names(top, name):
    """Similar names are not left out."""
    before = snapshot(top)
    (top / name).touch()
    assert differences(before, top) == {name: "created"}


def test_git_ignored_files_are_compared(top):
    """They would be overlooked otherwise."""
    (top / ".gitignore").write_text("*.log\nempty/\n")
    before = snapshot(top)
    (top / "a.log").touch()
    (top / "empty/sub").mkdir()
    assert differences(before, top) == {"a.log": "created", "empty/sub": "created"}


def test_a_watched_directory_may_be_in_one_that_is_left_out(top):
    """The user has named it."""
    inner = top / ".venv" / "lib"
    inner.mkdir(parents=True)
    before = snapshot(top, inner)
    (inner / "x").touch()
    (top / ".venv" / "y").touch()
    assert differences(before, top) == {".venv/lib/x": "created"}


def test_excluded_paths_are_left_out(top):
    """They may be excluded before or after the snapshot."""
    within = scope(top / "src")
    before = snapshot(top, within=within)
    within.exclude(str(top / "empty"))
    within.exclude(str(top / "report.xml"))
    within.exclude(str(top / "a.txt"))
    for name in ("src/new", "empty/new", "report.xml", "a.txt"):
        (top / name).write_text("new")
    assert differences(before, top) == {}
    shutil.rmtree(top / "empty")
    (top / "a.txt").unlink()
    assert differences(before, top) == {}


def test_ignored_paths_are_no_differences(top):
    """Nothing in them is one either."""
    (top / "build").mkdir()
    ignored = Ignore(str(top), ["build", "*.log", "a.txt", "src/deep"]).matches
    before = snapshot(top, within=scope(ignored=ignored))
    for name in ("build/x", "a.log", "src/b.log", "a.txt", "src/new"):
        (top / name).write_text("new")
    shutil.rmtree(top / "src/deep")
    assert differences(before, top) == {"src/new": "created"}


@pytest.mark.parametrize(
    "inside, counts",
    [
        ((), True),
        (("__pycache__/x.pyc",), False),
        (("deep/__pycache__/x.pyc", "a.log"), False),
        (("report.xml",), False),
        (("report.xml", "other.xml"), True),
        (("deep/a.log", "deep/b.txt"), True),
        (("deep/",), True),
    ],
)
def test_a_new_directory_of_ignored_paths_alone_is_ignored(top, inside, counts):
    """An empty one is not."""
    ignored = Ignore(str(top), ["*.log"]).matches
    before = snapshot(top, within=scope(top / "new/report.xml", ignored=ignored))
    (top / "new").mkdir()
    for name in inside:
        path = top / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    assert differences(before, top) == ({"new": "created"} if counts else {})


def test_a_deleted_directory_of_ignored_paths_alone_is_ignored(top):
    """One with other files is not."""
    (top / "logs/deep").mkdir(parents=True)
    (top / "logs/deep/a.log").touch()
    before = snapshot(top, within=scope(ignored=Ignore(str(top), ["*.log", "src/c*"]).matches))
    shutil.rmtree(top / "logs")
    shutil.rmtree(top / "src")
    assert differences(before, top) == {"src": "deleted"}


def test_links_are_not_followed(top, tmp_path):
    """They may lead elsewhere, or to a parent."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (top / "out").symlink_to(outside)
    (top / "loop").symlink_to(top)
    before = snapshot(top)
    (outside / "new").touch()
    assert differences(before, top) == {}


# -- unreadable paths


def test_unreadable_directories_are_no_differences(top, monkeypatch):
    """While the snapshot is taken, or later."""
    readable = snapshot(top, top / "src")
    for name in ("scandir", "lstat"):
        refusing = refuse(getattr(System, name), top / "src")
        monkeypatch.setattr(System, name, staticmethod(refusing))
    unreadable = snapshot(top), snapshot(top / "src")
    (top / "src/deep/new").touch()
    assert differences(readable, top) == {}
    monkeypatch.undo()
    assert [differences(each, top) for each in unreadable] == [{}, {}]
    assert differences(readable, top) == {"src/deep/new": "created"}


def refuse(function, directory):
    """Return *function*, which raises for all paths in *directory*."""

    def refusing(path):
        if path.startswith(str(directory)):
            raise PermissionError(path)
        return function(path)

    return refusing


@needs_permissions
def test_directories_without_search_permission_are_no_differences(top):
    """A listing without the state of its items is incomplete."""
    before = snapshot(top)
    (top / "src").chmod(0o400)
    try:
        assert differences(before, top) == {}
        with pytest.raises(PermissionError):
            state(str(top / "src/c.py"))
    finally:
        (top / "src").chmod(0o700)


def test_a_deleted_top_is_one_difference(top):
    """One of another type is one too."""
    before = snapshot(top, top / "src")
    shutil.rmtree(top)
    (found,) = before.differences()
    assert found[:2] == (str(top), "deleted")
    assert found.items == 5
    top.touch()
    assert differences(before, top) == {".": "changed"}


def test_tops_may_be_nested(top):
    """Nothing is reported twice."""
    before = snapshot(top / "src/deep", top, top / "src")
    (top / "src/deep/new").touch()
    assert differences(before, top) == {"src/deep/new": "created"}
    shutil.rmtree(top / "src")
    assert differences(before, top) == {"src": "deleted"}


def test_walks_work_while_a_test_has_replaced_os(top, monkeypatch):
    """The original functions are captured."""
    before = snapshot(top)
    (top / "new").touch()
    for name in ("scandir", "lstat", "stat", "readlink", "listdir"):
        monkeypatch.setattr(os, name, None)
    found = [(each.path, each.modification) for each in before.differences()]
    monkeypatch.undo()
    assert found == [(str(top / "new"), "created")]


def test_a_deep_tree_is_walked_without_recursion(tmp_path):
    """Its depth may exceed the recursion limit."""
    deep = tmp_path
    for _ in range(300):
        deep /= "d"
        deep.mkdir()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        before = snapshot(tmp_path)
        (deep / "x").touch()
        assert [each.path for each in before.differences()] == [str(deep / "x")]
        os.rename(tmp_path / "d/d", tmp_path / "e")
        assert [each.modification for each in before.differences()] == ["created", "deleted"]
    finally:
        sys.setrecursionlimit(limit)


# -- against a naive model

NAMES = st.sampled_from(["a", "b", "c.pyc"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["write", "mkdir", "remove", "link"]), PATHS),
        st.tuples(st.just("rename"), PATHS, PATHS),
    ),
    max_size=12,
)


def perform(top: str, operations: list[tuple[str, ...]], size: int) -> None:
    """Perform those of *operations* that are possible; each file is larger than any before."""
    for operation, *names in operations:
        paths = [os.path.join(top, name) for name in names]
        size += 1
        with contextlib.suppress(OSError):
            if operation == "write":
                Path(paths[0]).write_bytes(b"x" * size)
            elif operation == "mkdir":
                os.mkdir(paths[0])
            elif operation == "link":
                os.symlink(f"to{size}", paths[0])
            elif operation == "rename":
                os.rename(*paths)
            elif os.path.isdir(paths[0]):
                shutil.rmtree(paths[0])
            else:
                os.remove(paths[0])


def everything(top: str) -> dict[str, object]:
    """Return the state of all paths in *top* but compiled code."""
    found: dict[str, object] = {}
    for path in Path(top).rglob("*"):
        name = path.relative_to(top).as_posix()
        if "c.pyc" not in name:
            is_file = path.is_file() and not path.is_symlink()
            target = os.readlink(path) if path.is_symlink() else None
            found[name] = target or (path.stat().st_size if is_file else "directory")
    return found


def naive(before: dict[str, object], after: dict[str, object]) -> dict[str, str]:
    """Return the topmost differences between two full records."""
    found = {name: "deleted" for name in before if name not in after}
    found |= {name: "created" for name in after if name not in before}
    found |= {n: "changed" for n in after if n in before and before[n] != after[n]}
    parents = {name: [p.as_posix() for p in Path(name).parents] for name in found}
    return {
        name: modification
        for name, modification in found.items()
        if found.keys().isdisjoint(parents[name])
    }


def only_left_out(top: str, name: str) -> bool:
    """Whether a new directory contains compiled code alone."""
    path = Path(top, name)
    children = list(path.iterdir()) if path.is_dir() and not path.is_symlink() else []
    return bool(children) and all(
        child.name == "c.pyc" or only_left_out(top, child.relative_to(top).as_posix())
        for child in children
    )


@settings(deadline=None, max_examples=80)
@given(OPERATIONS, OPERATIONS)
@example([("mkdir", "a"), ("write", "a/b")], [("rename", "a", "b"), ("write", "a")])
@example([], [("mkdir", "a"), ("write", "a/c.pyc")])
def test_differences_are_those_of_two_full_records(first, second):
    """This holds after any sequence of operations."""
    with tempfile.TemporaryDirectory() as top:
        perform(top, first, 0)
        before, recorded = everything(top), snapshot(Path(top))
        perform(top, second, 100)
        expected = naive(before, everything(top))
        for name in [n for n, modification in expected.items() if modification == "created"]:
            if only_left_out(top, name):
                del expected[name]
        assert differences(recorded, Path(top)) == expected


# -- names that appear in and disappear from one directory


def test_children_that_appear_and_disappear(top):
    """Each is returned once; deeper paths are not."""
    children = Children(str(top))
    assert children.changes() == (set(), set())
    (top / "new").touch()
    (top / "src/new").touch()
    (top / "a.txt").unlink()
    assert children.changes() == ({"new"}, {"a.txt"})
    assert children.changes() == (set(), set())


def test_an_unchanged_directory_is_not_listed(top, monkeypatch):
    """A scan costs one stat."""
    os.utime(top, ns=(LONG_AGO, LONG_AGO))
    children = Children(str(top))
    monkeypatch.setattr(children._scan, "names", None)
    assert children.changes() == (set(), set())


def test_after_a_skipped_listing_no_names_are_returned(top, monkeypatch):
    """It is unknown when they appeared."""
    children = Children(str(top))
    monkeypatch.setattr(scan.Scan, "is_within_budget", lambda scanner: False)
    (top / "one").touch()
    os.utime(top, ns=(LONG_AGO, LONG_AGO))
    assert children.changes() == (set(), set())
    monkeypatch.setattr(scan.Scan, "is_within_budget", lambda scanner: True)
    assert children.changes() == (set(), set())
    (top / "three").touch()
    assert children.changes() == ({"three"}, set())


def test_children_of_a_removed_directory_are_not_returned(top):
    """Its removal is no error."""
    os.utime(top, ns=(LONG_AGO, LONG_AGO))
    children = Children(str(top))
    top.rename(top.parent / "away")
    assert children.changes() == (set(), set())
    (top.parent / "away").rename(top)
    assert children.changes() == (set(), set())
    (top / "new").touch()
    assert children.changes() == ({"new"}, set())
