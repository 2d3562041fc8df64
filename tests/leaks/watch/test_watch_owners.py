from __future__ import annotations

import contextlib
import gc
import json
import os
from pathlib import Path
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading

import pytest
from watch_suite import ONE
from watch_suite import TWO
from watch_suite import WatchSuite
from watch_suite import by_path

from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Process
from pytest_tempres.leaks.model import Work

HERE = os.path.basename(__file__)


def test_a_new_file_belongs_to_the_test_that_wrote_it(suite, top):
    """The leak has line, phase and size."""
    with suite.run(ONE):
        (top / "src" / "out.txt").write_text("12345")
    with suite.run(TWO):
        pass
    (leak,) = suite.watched.judge()
    assert leak[:6] == ("file", str(top / "src/out.txt"), 5, 1, True, "leak")
    assert leak.owner == ONE
    assert (leak.entry.test, leak.entry.phase) == (ONE.id, "call")
    assert (leak.entry.made_by, leak.entry.worker) == ("python", "main")
    nearest = leak.entry.origin[0]
    assert (nearest.file, nearest.function) == (
        HERE,
        "test_a_new_file_belongs_to_the_test_that_wrote_it",
    )


def bind(path: Path) -> None:
    """Create a socket at *path*."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def database(path: Path) -> None:
    """Create a database at *path*."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table t (x)")


@pytest.mark.parametrize(
    "kind, modify",
    [
        ("file", Path.touch),
        ("file", lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY))),
        ("file", lambda path: os.link(path.parent / "a.txt", path)),
        ("file", lambda path: (path.parent / "a.txt").rename(path)),
        ("file", lambda path: shutil.copy2(path.parent / "a.txt", path)),
        ("file", lambda path: os.write(1, b"") or path.open("a").close()),
        ("file", database),
        ("directory", Path.mkdir),
        ("directory", lambda path: (path / "deep").mkdir(parents=True)),
        ("directory", lambda path: shutil.copytree(path.parent / "src", path)),
        ("directory", lambda path: os.mkdir(f"{path}/")),
        ("symlink", lambda path: path.symlink_to("nowhere")),
        ("socket", bind),
    ],
)
def test_ways_to_create_a_path(suite, top, kind, modify):
    """Each has an owner and a line from its event."""
    with suite.run(ONE):
        modify(top / "new")
    assert suite.judged()["new"] == (kind, ONE.id)
    assert suite.leaks_of(ONE)["new"] == (kind, ONE.id)


def test_temporary_files_in_a_watched_directory(suite, top):
    """They have random names."""
    with suite.run(ONE):
        descriptor, file = tempfile.mkstemp(dir=top)
        os.close(descriptor)
        directory = tempfile.mkdtemp(dir=str(top / "src"))
        with tempfile.TemporaryDirectory(dir=top), tempfile.TemporaryFile(dir=top):
            pass
    expected = {file: ("file", ONE.id), directory: ("directory", ONE.id)}
    assert suite.judged() == {os.path.relpath(k, top): v for k, v in expected.items()}


@pytest.mark.parametrize(
    "modify",
    [
        lambda path: path.write_text("other"),
        lambda path: path.open("r+").close() or path.open("a").write("x"),
        lambda path: os.truncate(path, 1),
        Path.touch,
        lambda path: (path.parent / "src/c.py").replace(path),
        lambda path: path.unlink() or path.symlink_to("nowhere"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ways_to_change_a_path(suite, top, modify):
    """Each has an owner and a line from its event."""
    with suite.run(ONE):
        modify(top / "a.txt")
        gc.collect()
    assert suite.judged()["a.txt"] == ("changed", ONE.id)
    assert suite.leaks_of(ONE)["a.txt"] == ("changed", ONE.id)


@pytest.mark.parametrize(
    "name, modify",
    [
        ("a.txt", Path.unlink),
        ("a.txt", lambda path: path.rename(path.parent / "new")),
        ("src", shutil.rmtree),
        ("src", lambda path: (path / "c.py").unlink() or path.rmdir()),
        ("src", lambda path: shutil.move(path, path.parent / "new")),
    ],
)
def test_ways_to_delete_a_path(suite, top, name, modify):
    """Each has an owner and a line from its event."""
    with suite.run(ONE):
        modify(top / name)
    assert suite.judged()[name] == ("deleted", ONE.id)
    assert suite.leaks_of(ONE)[name] == ("deleted", ONE.id)


def test_a_created_or_deleted_directory_is_one_leak(suite, top):
    """It has the number of its files."""
    with suite.run(ONE):
        (top / "new/deep").mkdir(parents=True)
        (top / "new/deep/x").write_text("123")
        (top / "src/c.py").unlink()
        (top / "src").rmdir()
    for leaks in (suite.watched.judge(), suite.watched.leaks_of(ONE.id)):
        assert by_path(leaks, top) == {"new": ("directory", ONE.id), "src": ("deleted", ONE.id)}
    new, gone = suite.watched.judge()
    assert (new.bytes, new.items) == (3, 1)
    assert (gone.bytes, gone.items) == (0, 1)


def test_contents_of_a_deleted_directory_are_part_of_it_with_similar_names(suite, top):
    """Another name may sort between them."""
    (top / "src-x").touch()
    suite = WatchSuite(top)
    with suite.run(ONE):
        for name in ("src/c.py", "src-x"):
            (top / name).unlink()
        (top / "src").rmdir()
    assert suite.leaks_of(ONE) == {"src": ("deleted", ONE.id), "src-x": ("deleted", ONE.id)}


def test_a_file_belongs_to_the_first_test_that_created_it(suite, top):
    """Another test may write to it."""
    with suite.run(ONE):
        (top / "new").write_text("one")
    with suite.run(TWO):
        (top / "new").write_text("longer")
    assert suite.judged() == {"new": ("file", ONE.id)}
    assert suite.leaks_of(TWO) == {}


def test_a_changed_file_belongs_to_the_first_test_that_changed_it(suite, top):
    """Later changes do not count."""
    with suite.run(ONE):
        (top / "a.txt").write_text("one")
    with suite.run(TWO):
        (top / "a.txt").write_text("longer")
    assert suite.judged() == {"a.txt": ("changed", ONE.id)}
    assert suite.leaks_of(TWO) == {}


def test_a_deleted_file_belongs_to_the_last_test_that_deleted_it(suite, top):
    """A test in between has restored it."""
    with suite.run(ONE):
        (top / "a.txt").unlink()
    with suite.run(TWO):
        (top / "a.txt").write_text("again")
    assert suite.judged() == {"a.txt": ("changed", TWO.id)}
    with suite.run(ONE):
        (top / "a.txt").unlink()
    assert suite.judged() == {"a.txt": ("deleted", ONE.id)}


def test_a_recreated_file_belongs_to_its_last_creator(suite, top):
    """The earlier one was cleaned up."""
    with suite.run(ONE):
        (top / "new").touch()
        (top / "new").unlink()
    with suite.run(ONE):
        (top / "again").touch()
    with suite.run(TWO):
        (top / "again").unlink()
    with suite.run(TWO):
        (top / "new").touch()
        (top / "again").touch()
    assert suite.judged() == {"new": ("file", TWO.id), "again": ("file", TWO.id)}


def test_a_recreated_file_has_the_last_line_that_created_it(suite, top):
    """All lines are of the same test."""

    def first():
        (top / "new").touch()

    def second():
        (top / "new").touch()

    with suite.run(ONE):
        first()
        (top / "new").unlink()
        second()
    (leak,) = suite.watched.judge()
    assert next(f.function for f in leak.entry.origin if f.file == HERE) == "second"


def test_a_deleted_file_has_the_line_that_deleted_it(suite, top):
    """The test wrote to it before."""

    def write():
        (top / "a.txt").write_text("other")

    def delete():
        (top / "a.txt").unlink()

    with suite.run(ONE):
        write()
        delete()
    (leak,) = suite.watched.judge()
    assert next(f.function for f in leak.entry.origin if f.file == HERE) == "delete"


def test_a_renamed_path_belongs_to_its_creator(suite, top):
    """If it existed before the session, both names belong to the test that renamed it."""
    with suite.run(ONE):
        (top / "one.tmp").touch()
        (top / "one.tmp").rename(top / "one")
        (top / "two.tmp").mkdir()
    with suite.run(TWO):
        (top / "two.tmp").rename(top / "two")
        (top / "b.txt").rename(top / "three")
    assert suite.judged() == {
        "one": ("file", ONE.id),
        "two": ("directory", ONE.id),
        "three": ("file", TWO.id),
        "b.txt": ("deleted", TWO.id),
    }


def test_an_event_without_an_effect_does_not_count(suite, top):
    """Opening, locking and failed removals change nothing."""
    with suite.run(ONE):
        (top / "a.txt").open("r+").close()
        (top / "b.txt").read_text()
        with contextlib.suppress(OSError):
            (top / "src").rmdir()
        with contextlib.suppress(OSError):
            (top / "src").mkdir()
        with contextlib.suppress(OSError):
            (top / "none/new").touch()
    (top / "a.txt").write_text("other")
    (top / "b.txt").unlink()
    (top / "none").mkdir()
    expected = {"a.txt": "changed", "b.txt": "deleted", "none": "directory"}
    assert suite.judged() == {name: (kind, "session") for name, kind in expected.items()}
    assert suite.leaks_of(ONE) == {}


def test_relative_paths_are_resolved(suite, top, monkeypatch):
    """They start from the working directory."""
    monkeypatch.chdir(top / "src")
    with suite.run(ONE):
        Path("new").touch()
        Path("../src/./odd").mkdir()
    monkeypatch.chdir("/")
    assert suite.judged() == {"src/new": ("file", ONE.id), "src/odd": ("directory", ONE.id)}


def test_a_watched_directory_may_be_a_link(top, tmp_path, monkeypatch, make):
    """Paths are reported as the user spelled them."""
    link = tmp_path / "link"
    link.symlink_to(top)
    suite = make(directories=(f"{link}/",), exclude=(str(top / "basetemp"),))
    monkeypatch.chdir(link)
    with suite.run(ONE):
        Path("one").touch()
        (top / "two").touch()
        (link / "three").touch()
        (top / "basetemp").touch()
    found = by_path(suite.watched.judge(), link)
    assert found == dict.fromkeys(["one", "two", "three"], ("file", ONE.id))


def test_paths_behind_a_link_have_no_owner(suite, top, tmp_path):
    """The link may lead out of the directory, or within it."""
    (tmp_path / "outside").mkdir()
    (top / "out").symlink_to(tmp_path / "outside")
    (top / "alias").symlink_to("src")
    suite = WatchSuite(top)
    with suite.run(ONE):
        (top / "out/new").touch()
        (top / "alias/new").touch()
    assert suite.judged() == {"src/new": ("file", "session")}
    assert suite.leaks_of(ONE) == {}


def test_names_may_contain_any_bytes(suite, top):
    """They may have newlines in them."""
    with suite.run(ONE):
        os.mkdir(os.fsencode(top) + b"/new\nline\xff")
    name = os.fsdecode(b"new\nline\xff")
    assert suite.judged() == {name: ("directory", ONE.id)}


def test_a_path_from_a_thread_belongs_to_its_test(suite, top):
    """The test is still running."""
    with suite.run(ONE):
        thread = threading.Thread(target=(top / "new").touch)
        thread.start()
        thread.join()
    assert suite.judged() == {"new": ("file", ONE.id)}


def test_a_path_without_an_event_belongs_to_the_session(suite, top):
    """Only the final walk finds it."""
    with suite.run(ONE):
        os.mkfifo(top / "fifo")
        subprocess.run(["touch", str(top / "src" / "new")], check=True)
    assert suite.judged() == {"fifo": ("fifo", "session"), "src/new": ("file", "session")}
    (leak, _) = suite.watched.judge()
    assert leak.entry == Entry(leak.path, SESSION, worker="main")


def test_a_directory_without_an_event_is_explained_by_its_contents(suite, top):
    """Its owner is known if all its contents have the same one."""
    with suite.run(ONE):
        subprocess.run(["mkdir", str(top / "one"), str(top / "two")], check=True)
        (top / "one/x").touch()
        (top / "one/y").touch()
        (top / "two/x").touch()
    with suite.run(TWO):
        (top / "two/y").touch()
    assert suite.judged() == {"one": ("directory", ONE.id), "two": ("directory", "session")}


def test_a_path_removed_without_an_event_and_recreated_has_changed(suite, top, make):
    """A worker reports the same."""
    worker = make(walks=False)
    for each in (suite, worker):
        subprocess.run(["rm", str(top / "a.txt")], check=True)
        with each.run(TWO):
            (top / "a.txt").write_text("other")
    controller = suite
    assert controller.judged() == {"a.txt": ("changed", TWO.id)}
    fresh = WatchSuite(top)
    fresh.watched._tree = suite.watched._tree
    fresh.watched.changes.adopt(json.loads(json.dumps(worker.watched.take_changes())))
    assert fresh.judged() == {"a.txt": ("changed", TWO.id)}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the start of a thread raises no event")
def test_a_path_from_a_thread_belongs_to_its_finished_test(suite, top):
    """Another test is running."""
    go = threading.Event()

    def write():
        go.wait()
        (top / "late.txt").write_text("x")

    with suite.run(ONE):
        thread = threading.Thread(target=write)
        thread.start()
        suite.watched.scan()
        suite.running.owner, suite.running.test = TWO, TWO.id
        go.set()
        thread.join()
    assert suite.leaks_of(TWO) == {}
    assert suite.judged() == {"late.txt": ("file", ONE.id)}


def test_a_path_from_a_process_belongs_to_the_test_that_started_it(make, top):
    """This is so if the current test has started none."""
    suite = make(attributes_mtimes=True)
    with suite.run(TWO):
        suite.running.likely_creator = lambda work, _: (Work(ONE, ONE.id), (Process("x", ONE),))
        os.mkfifo(top / "fifo")
        suite.watched.scan()
    assert suite.judged() == {"fifo": ("fifo", ONE.id)}
    assert suite.watched.judge()[0].entry.processes == (Process("x", ONE),)
