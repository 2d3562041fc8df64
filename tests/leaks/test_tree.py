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

#: A time so far back that no clock tick can hide a change after it (nanoseconds).
LONG_AGO = 10**18

needs_permissions = pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="nothing is unreadable here"
)


@pytest.fixture(autouse=True)
def affordable(monkeypatch):
    """A busy machine must not space listings out."""
    monkeypatch.setattr(scan.Scan, "affordable", lambda look: True)


@pytest.fixture
def top(tmp_path) -> Path:
    """A directory that was there before, with something of every kind in it."""
    top = tmp_path / "repo"
    (top / "src" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    for name in ("a.txt", "b.txt", "src/c.py", "src/deep/d.py"):
        write(top / name, "text")
    (top / "link").symlink_to("a.txt")
    return top


def write(path: Path, text: str) -> None:
    """Write *text*, long ago."""
    path.write_text(text)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def scope(*exclude: Path, ignored: Callable[[str], bool] = lambda path: False) -> Scope:
    """Return a scope that leaves *exclude* out."""
    return Scope(map(str, exclude), ignored)


def tree(*tops: Path, within: Scope | None = None) -> Tree:
    """Return a record of *tops* as they are now."""
    return Tree([str(top) for top in tops], within or scope())


def differences(tree: Tree, top: Path) -> dict[str, str]:
    """Return what was done to each path that is different now, relative to *top*."""
    found = list(tree.differences())
    assert len({each.path for each in found}) == len(found)
    return {os.path.relpath(each.path, top): each.modification for each in found}


# -- what is different


def test_nothing_is_different_where_nothing_happened(top):
    """Looking alone makes no difference, and reading does not either."""
    before = tree(top)
    (top / "a.txt").read_text()
    list(top.iterdir())
    assert differences(before, top) == {}


@pytest.mark.parametrize("where", ["new", "src/new", "src/deep/new"])
@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling", "fifo", "socket"])
def test_what_is_new(top, where, kind, monkeypatch):
    """Things of every kind are found at any depth, empty directories and dangling links too."""
    before = tree(top)
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
    """Leave a socket at *path*."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)


@pytest.mark.parametrize("where", ["a.txt", "link", "empty", "src/c.py", "src/deep/d.py"])
def test_what_is_gone(top, where):
    """Things of every kind are missed at any depth."""
    before = tree(top)
    path = top / where
    path.rmdir() if path.is_dir() else path.unlink()
    assert differences(before, top) == {where: "deleted"}


def change_size(path: Path) -> None:
    """Write something longer."""
    write(path, "longer text")


def change_time(path: Path) -> None:
    """Write as much again."""
    path.write_text("tuxt")


def change_to_directory(path: Path) -> None:
    """Put a directory in its place."""
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


def change_to_link(path: Path) -> None:
    """Put a link in its place."""
    path.unlink()
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "change", [change_size, change_time, change_to_directory, change_to_link, Path.touch]
)
def test_what_has_changed(top, change):
    """A file is another one when its size, its time or its type is; what is in it is part of it."""
    before = tree(top)
    change(top / "src/c.py")
    assert differences(before, top) == {"src/c.py": "changed"}


def test_what_leads_elsewhere_has_changed(top):
    """A link that is made anew is the same link unless it leads elsewhere."""
    before = tree(top)
    (top / "link").unlink()
    (top / "link").symlink_to("a.txt")
    assert differences(before, top) == {}
    (top / "link").unlink()
    (top / "link").symlink_to("b.txt")
    assert differences(before, top) == {"link": "changed"}


def test_a_directory_that_became_a_file_has_changed_as_one(top):
    """What was in it is part of it."""
    before = tree(top)
    shutil.rmtree(top / "src")
    (top / "src").touch()
    assert differences(before, top) == {"src": "changed"}


def test_what_was_put_back_is_no_difference(top, tmp_path):
    """A test may move a file away and back, or restore a copy with its time; that is no litter."""
    before = tree(top)
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
    """With everything in it."""
    before = tree(top)
    (top / "src/new/deep").mkdir(parents=True)
    (top / "src/new/deep/file").touch()
    assert differences(before, top) == {"src/new": "created"}


def test_a_deleted_directory_is_one_difference(top):
    """It says how many files it had, at any depth."""
    before = tree(top)
    shutil.rmtree(top / "src")
    (found,) = before.differences()
    assert found[:2] == (str(top / "src"), "deleted")
    assert found.items == 2


def test_a_rename_is_a_deletion_and_a_creation(top):
    """Both ends are named, for directories too."""
    before = tree(top)
    (top / "src").rename(top / "lib")
    (top / "a.txt").rename(top / "src")
    found = {"src": "changed", "lib": "created", "a.txt": "deleted"}
    assert differences(before, top) == found


def test_what_goes_while_it_is_listed(top, monkeypatch):
    """Other processes may remove things at any moment, and then they are gone."""
    before = tree(top)
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


def test_names_may_be_anything(top):
    """Newlines and bytes that are no UTF-8 are names too."""
    before = tree(top)
    name = os.fsdecode(b"new\nline\xff")
    (top / name).touch()
    (top / "src" / name).mkdir()
    assert differences(before, top) == {name: "created", f"src/{name}": "created"}
    again = tree(top)
    (top / name).unlink()
    assert differences(again, top) == {name: "deleted"}


# -- what is not looked at


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
def test_what_is_left_out(top, name):
    """Caches and other tools' own places may come, change and go, at any depth."""
    (top / name).mkdir()
    before = tree(top)
    (top / name / "new").touch()
    (top / "src" / name).mkdir()
    assert differences(before, top) == {}
    shutil.rmtree(top / name)
    assert differences(before, top) == {}


@pytest.mark.parametrize(
    "name", ["pycache", "x.pyc.txt", ".gitignore", ".github", "venv2", "xgit", "coverage", ".env"]
)
def test_what_only_looks_like_it(top, name):
    """Names are matched as a whole."""
    before = tree(top)
    (top / name).touch()
    assert differences(before, top) == {name: "created"}


def test_git_ignored_files_are_looked_at(top):
    """Git does not see them, and that is how litter grows old."""
    (top / ".gitignore").write_text("*.log\nempty/\n")
    before = tree(top)
    (top / "a.log").touch()
    (top / "empty/sub").mkdir()
    assert differences(before, top) == {"a.log": "created", "empty/sub": "created"}


def test_a_named_directory_may_lie_in_one_that_is_left_out(top):
    """Who names it means it, whatever is on the way to it."""
    inner = top / ".venv" / "lib"
    inner.mkdir(parents=True)
    before = tree(top, inner)
    (inner / "x").touch()
    (top / ".venv" / "y").touch()
    assert differences(before, top) == {".venv/lib/x": "created"}


def test_what_others_look_after(top):
    """Files and directories that are excluded by path, before the start or later."""
    within = scope(top / "src")
    before = tree(top, within=within)
    within.exclude(str(top / "empty"))
    within.exclude(str(top / "report.xml"))
    within.exclude(str(top / "a.txt"))
    for name in ("src/new", "empty/new", "report.xml", "a.txt"):
        (top / name).write_text("new")
    assert differences(before, top) == {}
    shutil.rmtree(top / "empty")
    (top / "a.txt").unlink()
    assert differences(before, top) == {}


def test_globs_let_paths_stay(top):
    """What matches may come, change and go, with all that is in it."""
    (top / "build").mkdir()
    ignored = Ignore(str(top), ["build", "*.log", "a.txt", "src/deep"]).matches
    before = tree(top, within=scope(ignored=ignored))
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
def test_a_directory_made_for_what_may_stay_may_stay(top, inside, counts):
    """A new directory counts for what is in it, and an empty one for itself."""
    ignored = Ignore(str(top), ["*.log"]).matches
    before = tree(top, within=scope(top / "new/report.xml", ignored=ignored))
    (top / "new").mkdir()
    for name in inside:
        path = top / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    assert differences(before, top) == ({"new": "created"} if counts else {})


def test_a_directory_that_held_what_may_go_may_go(top):
    """With everything in it, and only then."""
    (top / "logs/deep").mkdir(parents=True)
    (top / "logs/deep/a.log").touch()
    before = tree(top, within=scope(ignored=Ignore(str(top), ["*.log", "src/c*"]).matches))
    shutil.rmtree(top / "logs")
    shutil.rmtree(top / "src")
    assert differences(before, top) == {"src": "deleted"}


def test_links_are_not_followed(top, tmp_path):
    """What lies behind a link is elsewhere, and a link to a parent is no endless walk."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (top / "out").symlink_to(outside)
    (top / "loop").symlink_to(top)
    before = tree(top)
    (outside / "new").touch()
    assert differences(before, top) == {}


# -- what cannot be looked at


def test_nothing_is_said_of_what_cannot_be_read(top, monkeypatch):
    """Neither when it becomes unreadable nor when it becomes readable."""
    readable = tree(top, top / "src")
    for name in ("scandir", "lstat"):
        refusing = refuse(getattr(System, name), top / "src")
        monkeypatch.setattr(System, name, staticmethod(refusing))
    unreadable = tree(top), tree(top / "src")
    (top / "src/deep/new").touch()
    assert differences(readable, top) == {}
    monkeypatch.undo()
    assert [differences(each, top) for each in unreadable] == [{}, {}]
    assert differences(readable, top) == {"src/deep/new": "created"}


def refuse(function, directory):
    """Return *function*, which refuses whatever lies in *directory*."""

    def refusing(path):
        if path.startswith(str(directory)):
            raise PermissionError(path)
        return function(path)

    return refusing


@needs_permissions
def test_nothing_is_said_of_what_nobody_may_enter(top):
    """A listing without what it lists is no listing."""
    before = tree(top)
    (top / "src").chmod(0o400)
    try:
        assert differences(before, top) == {}
        with pytest.raises(PermissionError):
            state(str(top / "src/c.py"))
    finally:
        (top / "src").chmod(0o700)


def test_a_top_that_vanished_is_one_difference(top):
    """And one that became something else is another one."""
    before = tree(top, top / "src")
    shutil.rmtree(top)
    (found,) = before.differences()
    assert found[:2] == (str(top), "deleted")
    assert found.items == 5
    top.touch()
    assert differences(before, top) == {".": "changed"}


def test_tops_may_lie_in_each_other(top):
    """Nothing is told twice."""
    before = tree(top / "src/deep", top, top / "src")
    (top / "src/deep/new").touch()
    assert differences(before, top) == {"src/deep/new": "created"}
    shutil.rmtree(top / "src")
    assert differences(before, top) == {"src": "deleted"}


def test_tests_may_replace_what_it_looks_with(top, monkeypatch):
    """A monkeypatched `os` neither hides anything nor breaks the walk."""
    before = tree(top)
    (top / "new").touch()
    for name in ("scandir", "lstat", "stat", "readlink", "listdir"):
        monkeypatch.setattr(os, name, None)
    found = [(each.path, each.modification) for each in before.differences()]
    monkeypatch.undo()
    assert found == [(str(top / "new"), "created")]


def test_a_deep_tree(tmp_path):
    """No tree is too deep for the stack."""
    deep = tmp_path
    for _ in range(300):
        deep /= "d"
        deep.mkdir()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        before = tree(tmp_path)
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
    """Do what can be done of *operations*; each file is larger than any before."""
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
    """Return all paths in *top*, compiled code aside, with what is there."""
    found: dict[str, object] = {}
    for path in Path(top).rglob("*"):
        name = path.relative_to(top).as_posix()
        if "c.pyc" not in name:
            is_file = path.is_file() and not path.is_symlink()
            target = os.readlink(path) if path.is_symlink() else None
            found[name] = target or (path.stat().st_size if is_file else "directory")
    return found


def naive(before: dict[str, object], after: dict[str, object]) -> dict[str, str]:
    """Return the differences between two records, topmost alone."""
    found = {name: "deleted" for name in before if name not in after}
    found |= {name: "created" for name in after if name not in before}
    found |= {n: "changed" for n in after if n in before and before[n] != after[n]}
    parents = {name: [p.as_posix() for p in Path(name).parents] for name in found}
    return {name: deed for name, deed in found.items() if found.keys().isdisjoint(parents[name])}


def only_left_out(top: str, name: str) -> bool:
    """Whether a new directory is there for compiled code alone."""
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
def test_like_comparing_everything(first, second):
    """Whatever happens to a tree, the differences are those of two full records of it."""
    with tempfile.TemporaryDirectory() as top:
        perform(top, first, 0)
        before, recorded = everything(top), tree(Path(top))
        perform(top, second, 100)
        expected = naive(before, everything(top))
        for name in [n for n, deed in expected.items() if deed == "created"]:
            if only_left_out(top, name):
                del expected[name]
        assert differences(recorded, Path(top)) == expected


# -- what comes and goes in one directory


def test_children_that_come_and_go(top):
    """Each is told once, and what lies deeper is not."""
    children = Children(str(top))
    assert children.changes() == (set(), set())
    (top / "new").touch()
    (top / "src/new").touch()
    (top / "a.txt").unlink()
    assert children.changes() == ({"new"}, {"a.txt"})
    assert children.changes() == (set(), set())


def test_nothing_is_listed_where_nothing_moved(top, monkeypatch):
    """A look at a directory that rests is one `stat`."""
    os.utime(top, ns=(LONG_AGO, LONG_AGO))
    children = Children(str(top))
    monkeypatch.setattr(children._scan, "names", None)
    assert children.changes() == (set(), set())


def test_what_came_while_listings_were_too_dear_is_nobodys(top, monkeypatch):
    """A late listing cannot tell when a name came; from then on it can."""
    children = Children(str(top))
    over = monkeypatch.setattr
    over(scan.Scan, "affordable", lambda look: False)
    (top / "one").touch()
    os.utime(top, ns=(LONG_AGO, LONG_AGO))
    assert children.changes() == (set(), set())
    over(scan.Scan, "affordable", lambda look: True)
    assert children.changes() == (set(), set())
    (top / "three").touch()
    assert children.changes() == ({"three"}, set())


def test_children_of_a_directory_that_vanishes(top):
    """It is no exception, and nobody has removed them one by one."""
    os.utime(top, ns=(LONG_AGO, LONG_AGO))
    children = Children(str(top))
    top.rename(top.parent / "away")
    assert children.changes() == (set(), set())
    (top.parent / "away").rename(top)
    assert children.changes() == (set(), set())
    (top / "new").touch()
    assert children.changes() == ({"new"}, set())
