from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
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

from pytest_tempres.leaks.frames import FrameFilter
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Detector
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Process
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.model import Work
from pytest_tempres.leaks.temp import scan
from pytest_tempres.leaks.temp.audit import Origins
from pytest_tempres.leaks.temp.audit import activate
from pytest_tempres.leaks.temp.audit import deactivate
from pytest_tempres.leaks.verdict import Ignore
from pytest_tempres.leaks.watch import detector as module
from pytest_tempres.leaks.watch.detector import Watched
from pytest_tempres.primitives._system import System

ONE = Owner("test", "t.py::one", None, "t.py:1")
TWO = Owner("test", "t.py::two", None, "t.py:2")
HERE = os.path.basename(__file__)


@pytest.fixture(autouse=True)
def is_within_budget(monkeypatch):
    """Listings are never skipped, also on a busy machine."""
    monkeypatch.setattr(scan.Scan, "is_within_budget", lambda scanner: True)


@pytest.fixture
def top(tmp_path) -> Path:
    """A watched directory with some contents."""
    top = tmp_path / "repo"
    (top / "src").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "src/c.py"):
        (top / name).write_text(f"text of {name}")
        # An old mtime, so that any later change differs from it.
        os.utime(top / name, ns=(10**18, 10**18))
    return top


class Suite:
    """Runs code for owners, with a scan before each change, as a session does."""

    def __init__(self, top: Path, **options) -> None:
        self.running = Running()
        self.watched = Watched(
            options.pop("directories", (str(top),)),
            running=self.running,
            frame_filter=FrameFilter(os.path.dirname(__file__)),
            ignored=options.pop("ignored", lambda path: False),
            worker=options.pop("worker", "main"),
            attributes_mtimes=options.pop("attributes_mtimes", False),
            walks=options.pop("walks", True),
            **options,
        )
        self.top = top

    @contextlib.contextmanager
    def run(self, owner: Owner, test: str | None = None) -> Iterator[None]:
        """Make *owner* the current owner."""
        running = self.running
        self.watched.scan()
        origins = Origins((), (), {}, running)
        origins.add(self.watched)
        running.owner, running.test, running.phase = owner, test or owner.id, "call"
        activate(origins)
        try:
            yield
        finally:
            deactivate(origins)
            self.watched.scan()
            running.owner, running.test, running.phase = SESSION, None, None

    def judged(self) -> dict[str, tuple[str, str]]:
        """Return kind and owner of each leak, by path relative to the watched directory."""
        return by_path(self.watched.judge(), self.top)

    def leaks_of(self, owner: Owner) -> dict[str, tuple[str, str]]:
        """Return the same for the leaks at the end of the test *owner*."""
        return by_path(self.watched.leaks_of(owner.id), self.top)


def by_path(leaks: list[Leak], top: Path) -> dict[str, tuple[str, str]]:
    """Return kind and owner of each of *leaks* by path."""
    assert all(leak.path == leak.entry.path and leak.status == "leak" for leak in leaks)
    return {os.path.relpath(leak.path, top): (leak.kind, leak.owner.id) for leak in leaks}


@pytest.fixture
def suite(top) -> Suite:
    """A suite in one process, without listings."""
    return Suite(top)


@pytest.fixture
def make(top) -> Callable[..., Suite]:
    """Return a suite with other options."""
    return lambda **options: Suite(top, **options)


# -- owners


def test_it_implements_the_detector_protocol(suite):
    """It has all attributes."""
    detector: Detector = suite.watched
    assert detector.events >= {"open", "os.mkdir", "os.rename", "os.remove"}


def test_a_new_file_belongs_to_the_test_that_wrote_it(suite, top):
    """With line, phase and size."""
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
    suite = Suite(top)
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
    """All in the same test."""

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
    suite = Suite(top)
    with suite.run(ONE):
        (top / "out/new").touch()
        (top / "alias/new").touch()
    assert suite.judged() == {"src/new": ("file", "session")}
    assert suite.leaks_of(ONE) == {}


def test_names_may_contain_any_bytes(suite, top):
    """Also newlines."""
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
    """If they all have the same owner."""
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
    fresh = Suite(top)
    fresh.watched._tree = suite.watched._tree
    fresh.watched.adopt(json.loads(json.dumps(worker.watched.take_changes())))
    assert fresh.judged() == {"a.txt": ("changed", TWO.id)}


# -- single events, passed directly: coverage does not trace an audit hook

AT = os.O_CREAT | os.O_WRONLY


def handle(suite: Suite, *events: tuple[object, ...]) -> list[str]:
    """Pass *events* to the detector, and return the paths that it has notes of."""
    for event, *args in events:
        suite.watched.on_event(str(event), tuple(args))
    return [os.path.relpath(path, suite.top) for path in suite.watched._notes]


def test_events_that_are_noted(suite, top, monkeypatch):
    """Not reading, other places, paths left out, and contents of new directories."""
    monkeypatch.chdir(top)
    noted = handle(
        suite,
        ("open", "a.txt", "r", os.O_RDONLY),
        ("open", "new", "w", AT),
        ("open", "new", "w", AT),
        ("open", "/elsewhere", "w", AT),
        ("os.mkdir", "src/__pycache__", 0o777, -1),
        ("os.mkdir", "dir", 0o777, -1),
        ("open", "dir/deep/x", "w", AT),
        ("os.rename", "a.txt", "b.txt", -1, -1),
        ("os.rename", "/elsewhere", "src/d.py", -1, -1),
        ("shutil.rmtree", f"{top}/", None),
    )
    assert noted == ["new", "dir", "a.txt", "b.txt", "src/d.py", "."]


def test_notes_of_creation_and_removal(suite, top):
    """The first creation after the last removal counts; a rename moves it."""

    def one():
        handle(suite, ("open", f"{top}/new", "w", AT))

    def two():
        handle(suite, ("os.remove", f"{top}/new", -1), ("os.mkdir", f"{top}/new", 0o777, -1))

    def three():
        handle(suite, ("os.rename", f"{top}/new", f"{top}/a.txt", -1, -1))
        handle(suite, ("os.remove", f"{top}/b.txt", -1))

    one()
    two()
    one()
    three()
    notes = suite.watched._notes.values()
    creators = [note.created_by and functions(note.created_by)[0] for note in notes]
    assert creators == ["two", "two", None]
    assert [note.removed_by and functions(note.removed_by)[0] for note in notes] == [
        None,
        None,
        "three",
    ]
    assert [note.before is None for note in notes] == [True, False, False]


def functions(hint) -> list[str]:
    """Return the names of the test's own functions in the stack of a hint."""
    names = [code.co_name for code, _ in hint.stack if code.co_filename == __file__]
    return [name for name in names if name != "handle"]


def test_a_rename_moves_the_creator_of_an_earlier_scan(suite, top, monkeypatch):
    """Few notes are kept."""
    with suite.run(ONE):
        (top / "one").mkdir()
    monkeypatch.setattr(module, "_MAX_NOTES", 2)
    noted = handle(
        suite,
        ("open", f"{top}/one/x", "w", AT),
        ("os.rename", f"{top}/one", f"{top}/two", -1, -1),
    )
    assert noted == ["one", "two"]
    assert suite.watched._notes[str(top / "two")].created_by.owner == ONE
    assert handle(suite, ("open", f"{top}/a.txt", "w", AT)) == ["a.txt"]


def test_a_path_removed_during_the_verdict_is_no_leak(suite, top, monkeypatch):
    """Other processes may remove it."""
    (top / "new").touch()
    monkeypatch.setattr(module, "measure", lambda path: None)
    assert suite.judged() == {}


# -- listings of the watched directories


def test_a_direct_child_without_an_event_belongs_to_the_current_owner(top, make):
    """A listing shows when it appeared or disappeared."""
    suite = make(attributes_mtimes=True)
    with suite.run(ONE):
        os.mkfifo(top / "one")
        subprocess.run(["rm", str(top / "a.txt")], check=True)
    with suite.run(TWO):
        os.mkfifo(top / "two")
        os.mkfifo(top / "src" / "three")
        (top / "four").touch()
    assert suite.judged() == {
        "one": ("fifo", ONE.id),
        "a.txt": ("deleted", ONE.id),
        "two": ("fifo", TWO.id),
        "src/three": ("fifo", "session"),
        "four": ("file", TWO.id),
    }
    by = {leak.path: leak.entry.made_by for leak in suite.watched.judge()}
    assert (by[str(top / "one")], by[str(top / "four")]) == ("other", "python")


def test_changes_found_by_a_listing_are_reported_at_the_end_only(top, make):
    """A user's editor writes into the repository too."""
    suite = make(attributes_mtimes=True)
    with suite.run(ONE):
        os.mkfifo(top / "one")
    assert suite.leaks_of(ONE) == {}


def test_names_that_come_back_are_forgotten(top, make):
    """With and without events."""
    suite = make(attributes_mtimes=True)
    with suite.run(ONE):
        subprocess.run(["mv", str(top / "a.txt"), str(top / "src")], check=True)
        os.mkfifo(top / "one")
        (top / "two").touch()
    with suite.run(TWO):
        subprocess.run(["mv", str(top / "src/a.txt"), str(top)], check=True)
        subprocess.run(["rm", str(top / "one"), str(top / "two")], check=True)
    assert suite.judged() == {}
    assert suite.watched._changes._changes == {}


def test_without_listings_a_path_without_an_event_belongs_to_the_session(suite, top):
    """Another process may have created it."""
    with suite.run(ONE):
        os.mkfifo(top / "one")
    assert suite.judged() == {"one": ("fifo", "session")}


def test_listings_leave_out_ignored_paths(top, make):
    """Caches, excluded paths and paths ignored by the ini file."""
    suite = make(
        attributes_mtimes=True,
        ignored=Ignore(str(top), ["*.log"]).matches,
        exclude=(str(top / "basetemp"),),
    )
    with suite.run(ONE):
        for name in ("x.log", "basetemp", "__pycache__"):
            os.mkfifo(top / name)
    assert suite.watched._changes._changes == {}
    assert suite.judged() == {}


# -- ignored paths


def test_events_of_ignored_paths_give_no_leaks(top, make):
    """Excluded paths get no notes."""
    suite = make(
        ignored=Ignore(str(top), ["*.log", "src"]).matches,
        exclude=(str(top / "basetemp"), str(top / "report.xml")),
    )
    suite.watched.exclude(str(top / "late"))
    with suite.run(ONE):
        for name in ("basetemp/deep", "src/__pycache__", ".git", "late"):
            (top / name).mkdir(parents=True)
            (top / name / "file").touch()
        (top / "report.xml").touch()
        assert suite.watched._notes == {}
        (top / "x.log").touch()
        (top / "src/new").touch()
        (top / "logs").mkdir()
        (top / "logs/x.log").touch()
    assert suite.leaks_of(ONE) == {}
    assert suite.judged() == {}


def test_a_path_may_be_excluded_after_its_creation(suite, top):
    """Pytest creates its basetemp on first use."""
    with suite.run(ONE):
        (top / "basetemp").mkdir()
    suite.watched.exclude(str(top / "basetemp"))
    assert suite.leaks_of(ONE) == {}
    assert suite.judged() == {}


# -- leaks at the end of a test


def test_leaks_of_a_test_include_function_scoped_fixtures(suite, top):
    """Wider fixtures are still running."""
    fixture = Owner("fixture", "one", "function")
    wider = Owner("fixture", "wide", "module")
    for owner, name in ((ONE, "test"), (fixture, "fixture"), (wider, "wide")):
        with suite.run(owner, test=ONE.id):
            (top / name).touch()
    with suite.run(TWO):
        (top / "two").touch()
    assert suite.leaks_of(ONE) == {"test": ("file", ONE.id), "fixture": ("file", "one")}
    (top / "test").unlink()
    assert suite.leaks_of(ONE) == {"fixture": ("file", "one")}
    assert suite.judged().keys() == {"fixture", "wide", "two"}


@pytest.mark.parametrize("walks", [True, False])
def test_restored_paths_are_no_leaks_of_a_test(top, tmp_path, make, walks):
    """The test may move a file away and back."""
    suite = make(walks=walks)
    with suite.run(ONE):
        (top / "a.txt").rename(tmp_path / "away")
        (top / "a.txt").touch()
        (tmp_path / "away").replace(top / "a.txt")
        (top / "new").mkdir()
        (top / "new/x").touch()
        shutil.rmtree(top / "new")
    assert suite.leaks_of(ONE) == {}
    assert suite.judged() == {}


def test_a_path_removed_without_an_event_and_restored_is_no_leak(suite, top, tmp_path):
    """A subprocess may have removed it."""
    shutil.copy2(top / "a.txt", tmp_path / "copy")
    with suite.run(ONE):
        subprocess.run(["rm", str(top / "a.txt")], check=True)
        shutil.copy2(tmp_path / "copy", top / "a.txt")
    assert suite.leaks_of(ONE) == {}


def test_a_path_that_a_garbage_collection_removes_is_no_leak(suite, top):
    """An object in a reference cycle may own it."""

    class Guard:
        def __init__(self):
            self.me = self
            self.path = str(top / "new")
            self.remove = os.unlink
            Path(self.path).touch()

        def __del__(self):
            self.remove(self.path)

    gc.disable()
    try:
        with suite.run(ONE):
            Guard()
        assert (top / "new").exists()
        assert suite.judged() == {}
    finally:
        gc.enable()


# -- several processes


def test_changes_of_workers_explain_the_walk_of_the_controller(top, make):
    """They are sent as JSON."""
    controller = make()
    workers = {name: make(worker=name, walks=False) for name in ("gw0", "gw1")}
    with workers["gw0"].run(ONE):
        (top / "one").touch()
        (top / "a.txt").unlink()
    with workers["gw1"].run(TWO):
        (top / "two").mkdir()
        (top / "one").write_text("two")
    for worker in reversed(workers.values()):
        controller.watched.adopt(json.loads(json.dumps(worker.watched.take_changes())))
        assert worker.watched.take_changes() == []
        assert worker.judged() == {}
    assert controller.judged() == {
        "one": ("file", ONE.id),
        "two": ("directory", TWO.id),
        "a.txt": ("deleted", ONE.id),
    }
    leak = next(leak for leak in controller.watched.judge() if leak.path.endswith("two"))
    assert leak.entry.worker == "gw1"
    assert (
        leak.entry.origin[0].function
        == "test_changes_of_workers_explain_the_walk_of_the_controller"
    )


def test_changes_of_another_worker_are_not_recorded(top, make):
    """A worker finds them without an event."""
    here, there = (make(worker=name, walks=False) for name in ("gw0", "gw1"))
    with here.run(ONE):
        # This worker gets no event for changes of the other one.
        with there.run(TWO):
            (top / "new").mkdir()
            (top / "a.txt").write_text("other")
        (top / "new").mkdir(exist_ok=True)
        (top / "a.txt").open("r+").close()
    assert here.leaks_of(ONE) == {}
    assert there.leaks_of(TWO) == {"new": ("directory", TWO.id), "a.txt": ("changed", TWO.id)}


def test_a_sent_change_may_be_undone(top, make):
    """Another process may create the path later."""
    controller, worker = make(), make(worker="gw0", walks=False)
    with worker.run(ONE):
        (top / "new").touch()
    controller.watched.adopt(worker.watched.take_changes())
    assert controller.judged() == {"new": ("file", ONE.id)}
    with worker.run(TWO):
        (top / "new").unlink()
    controller.watched.adopt(json.loads(json.dumps(worker.watched.take_changes())))
    (top / "new").touch()
    assert controller.judged() == {"new": ("file", "session")}


def test_forked_children_send_changes_by_events_only(suite, top, monkeypatch):
    """They do not scan or walk."""
    with suite.run(ONE):
        monkeypatch.setattr(System, "getpid", staticmethod(lambda: 1))
        (top / "new").touch()
    assert suite.watched._notes
    assert suite.watched.judge() == []
    assert suite.leaks_of(ONE) == {"new": ("file", ONE.id)}
    assert [modification for modification, _ in suite.watched.take_changes()] == ["created"]


# -- memory and errors


def test_removed_paths_take_no_memory(suite, top):
    """There are few notes during a test, and none after it."""
    with suite.run(ONE):
        for number in range(3_000):
            path = f"{top}/{number}"
            os.mkdir(path)
            os.rmdir(path)
        assert len(suite.watched._notes) <= module._MAX_NOTES
    assert suite.watched._notes == {}
    assert suite.watched._changes._changes == {}
    assert suite.watched.take_changes() == []


def test_contents_of_new_directories_take_no_memory(suite, top):
    """The directory stands for them, in the same test and later."""
    for owner in (ONE, TWO):
        with suite.run(owner):
            (top / "new").mkdir(exist_ok=True)
            for number in range(50):
                (top / "new" / f"{owner.id[-3:]}{number}").touch()
            assert list(suite.watched._notes) == [str(top / "new")]
    assert suite.judged() == {"new": ("directory", ONE.id)}


def test_paths_removed_without_an_event_take_no_memory(suite, top):
    """By a subprocess, or relative to a descriptor."""
    descriptor = os.open(top, os.O_RDONLY)
    for number in range(1_200):
        with suite.run(ONE):
            os.mkdir(top / f"d{number}")
        os.rmdir(f"d{number}", dir_fd=descriptor)
    os.close(descriptor)
    assert len(suite.watched._changes._changes) < 1_000
    assert len(suite.watched._changes._not_yet_sent) < 1_000


def test_early_notes_are_kept_in_a_long_test(suite, top, monkeypatch):
    """Notes are recorded before there are too many."""
    monkeypatch.setattr(module, "_MAX_NOTES", 2)
    with suite.run(ONE):
        for number in range(10):
            (top / f"{number}").touch()
    assert suite.judged() == {f"{number}": ("file", ONE.id) for number in range(10)}


def test_scans_work_while_a_test_has_replaced_os(suite, top, monkeypatch):
    """The original functions are captured."""
    with suite.run(ONE):
        (top / "new").touch()
        for name in ("scandir", "lstat", "stat", "readlink", "getpid"):
            monkeypatch.setattr(os, name, None)
        suite.watched.scan()
        leaks = suite.watched.judge()
        monkeypatch.undo()
    assert by_path(leaks, top) == {"new": ("file", ONE.id)}


def test_contents_of_an_unreadable_directory_are_not_deleted(suite, top, monkeypatch):
    """Their state is unknown."""
    with suite.run(ONE):
        (top / "new").touch()
        monkeypatch.setattr(module, "state", refuse)
        suite.watched.scan()
        assert suite.watched.judge() == []
        monkeypatch.undo()
    assert suite.judged() == {"new": ("file", "session")}
    monkeypatch.setattr(module, "state", refuse)
    assert suite.watched.judge() == []


def refuse(path: str) -> None:
    """Raise an error instead of the state of *path*."""
    raise PermissionError(path)


def test_a_deleted_watched_directory_is_one_leak(top, make):
    """Nor is it an error."""
    suite = make(attributes_mtimes=True)
    with suite.run(ONE):
        shutil.rmtree(top)
    (leak,) = suite.watched.judge()
    assert leak[:4] == ("deleted", str(top), 0, 3)
    assert leak.owner == ONE


def test_several_watched_directories(top, tmp_path, make):
    """They may be nested, or named twice."""
    other = tmp_path / "other"
    other.mkdir()
    directories = (str(other), str(top / "src"), str(top), str(top))
    suite = make(directories=directories, attributes_mtimes=True)
    with suite.run(ONE):
        (other / "x").touch()
        os.mkfifo(top / "src" / "y")
        (tmp_path / "z").touch()
    found = {"../other/x": ("file", ONE.id), "src/y": ("fifo", ONE.id)}
    assert suite.judged() == found


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
    """If the current test has started none."""
    suite = make(attributes_mtimes=True)
    with suite.run(TWO):
        suite.running.likely_creator = lambda work, _: (Work(ONE, ONE.id), (Process("x", ONE),))
        os.mkfifo(top / "fifo")
        suite.watched.scan()
    assert suite.judged() == {"fifo": ("fifo", ONE.id)}
    assert suite.watched.judge()[0].entry.processes == (Process("x", ONE),)
