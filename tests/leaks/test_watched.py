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
def affordable(monkeypatch):
    """A busy machine must not space listings out."""
    monkeypatch.setattr(scan.Scan, "affordable", lambda look: True)


@pytest.fixture
def top(tmp_path) -> Path:
    """The named directory, with something in it."""
    top = tmp_path / "repo"
    (top / "src").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "src/c.py"):
        (top / name).write_text(f"text of {name}")
        # Long ago, so that no clock tick hides what happens now.
        os.utime(top / name, ns=(10**18, 10**18))
    return top


class Suite:
    """Runs what a test does, and looks before the owner changes, as a session would."""

    def __init__(self, top: Path, **options) -> None:
        self.running = Running()
        self.watched = Watched(
            options.pop("directories", (str(top),)),
            running=self.running,
            folder=FrameFilter(os.path.dirname(__file__)),
            ignored=options.pop("ignored", lambda path: False),
            worker=options.pop("worker", "main"),
            attributes_mtimes=options.pop("attributes_mtimes", False),
            walks=options.pop("walks", True),
            **options,
        )
        self.top = top

    @contextlib.contextmanager
    def run(self, owner: Owner, test: str | None = None) -> Iterator[None]:
        """Let *owner* run."""
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
        """Return kind and owner of each leak, by its path in the named directory."""
        return told(self.watched.judge(), self.top)

    def due(self, owner: Owner) -> dict[str, tuple[str, str]]:
        """Return what is due with the test *owner*, likewise."""
        return told(self.watched.due(owner.id), self.top)


def told(leaks: list[Leak], top: Path) -> dict[str, tuple[str, str]]:
    """Return kind and owner of each of *leaks* by path."""
    assert all(leak.path == leak.entry.path and leak.status == "leak" for leak in leaks)
    return {os.path.relpath(leak.path, top): (leak.kind, leak.owner.id) for leak in leaks}


@pytest.fixture
def suite(top) -> Suite:
    """A suite in one process, without listings."""
    return Suite(top)


@pytest.fixture
def make(top) -> Callable[..., Suite]:
    """Return a suite made otherwise."""
    return lambda **options: Suite(top, **options)


# -- who did it


def test_it_is_a_detector(suite):
    """It has what a session asks of a detector."""
    detector: Detector = suite.watched
    assert detector.events >= {"open", "os.mkdir", "os.rename", "os.remove"}


def test_a_new_file_belongs_to_who_wrote_it(suite, top):
    """With the line that did, the phase, and its size; whoever runs at the end."""
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
    assert (nearest.file, nearest.function) == (HERE, "test_a_new_file_belongs_to_who_wrote_it")


def bind(path: Path) -> None:
    """Leave a socket at *path*."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def database(path: Path) -> None:
    """Leave a database at *path*."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table t (x)")


@pytest.mark.parametrize(
    "kind, deed",
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
def test_ways_to_make_something(suite, top, kind, deed):
    """Each is explained by the event that came before it."""
    with suite.run(ONE):
        deed(top / "new")
    assert suite.judged()["new"] == (kind, ONE.id)
    assert suite.due(ONE)["new"] == (kind, ONE.id)


def test_temporary_names(suite, top):
    """What `tempfile` makes in a named directory is found under its random name."""
    with suite.run(ONE):
        descriptor, file = tempfile.mkstemp(dir=top)
        os.close(descriptor)
        directory = tempfile.mkdtemp(dir=str(top / "src"))
        with tempfile.TemporaryDirectory(dir=top), tempfile.TemporaryFile(dir=top):
            pass
    expected = {file: ("file", ONE.id), directory: ("directory", ONE.id)}
    assert suite.judged() == {os.path.relpath(k, top): v for k, v in expected.items()}


@pytest.mark.parametrize(
    "deed",
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
def test_ways_to_change_something(suite, top, deed):
    """Each is explained by the event that came before it."""
    with suite.run(ONE):
        deed(top / "a.txt")
        gc.collect()
    assert suite.judged()["a.txt"] == ("changed", ONE.id)
    assert suite.due(ONE)["a.txt"] == ("changed", ONE.id)


@pytest.mark.parametrize(
    "name, deed",
    [
        ("a.txt", Path.unlink),
        ("a.txt", lambda path: path.rename(path.parent / "new")),
        ("src", shutil.rmtree),
        ("src", lambda path: (path / "c.py").unlink() or path.rmdir()),
        ("src", lambda path: shutil.move(path, path.parent / "new")),
    ],
)
def test_ways_to_delete_something(suite, top, name, deed):
    """Each is explained by the event that came before it."""
    with suite.run(ONE):
        deed(top / name)
    assert suite.judged()[name] == ("deleted", ONE.id)
    assert suite.due(ONE)[name] == ("deleted", ONE.id)


def test_what_is_below_something_else(suite, top):
    """A directory that was made or deleted is one leak, with the number of its files."""
    with suite.run(ONE):
        (top / "new/deep").mkdir(parents=True)
        (top / "new/deep/x").write_text("123")
        (top / "src/c.py").unlink()
        (top / "src").rmdir()
    for leaks in (suite.watched.judge(), suite.watched.due(ONE.id)):
        assert told(leaks, top) == {"new": ("directory", ONE.id), "src": ("deleted", ONE.id)}
    new, gone = suite.watched.judge()
    assert (new.bytes, new.items) == (3, 1)
    assert (gone.bytes, gone.items) == (0, 1)


def test_names_that_sort_between(suite, top):
    """What lies in a deleted directory is part of it, whatever else has a name like its own."""
    (top / "src-x").touch()
    suite = Suite(top)
    with suite.run(ONE):
        for name in ("src/c.py", "src-x"):
            (top / name).unlink()
        (top / "src").rmdir()
    assert suite.due(ONE) == {"src": ("deleted", ONE.id), "src-x": ("deleted", ONE.id)}


def test_the_first_who_made_it(suite, top):
    """Who writes to a file that another test has left is not who left it."""
    with suite.run(ONE):
        (top / "new").write_text("one")
    with suite.run(TWO):
        (top / "new").write_text("longer")
    assert suite.judged() == {"new": ("file", ONE.id)}
    assert suite.due(TWO) == {}


def test_the_first_who_changed_it(suite, top):
    """A file that was there is first another one after its first change."""
    with suite.run(ONE):
        (top / "a.txt").write_text("one")
    with suite.run(TWO):
        (top / "a.txt").write_text("longer")
    assert suite.judged() == {"a.txt": ("changed", ONE.id)}
    assert suite.due(TWO) == {}


def test_the_last_who_deleted_it(suite, top):
    """What one test deletes and the next puts back, the third has deleted."""
    with suite.run(ONE):
        (top / "a.txt").unlink()
    with suite.run(TWO):
        (top / "a.txt").write_text("again")
    assert suite.judged() == {"a.txt": ("changed", TWO.id)}
    with suite.run(ONE):
        (top / "a.txt").unlink()
    assert suite.judged() == {"a.txt": ("deleted", ONE.id)}


def test_who_made_it_anew(suite, top):
    """What was cleaned up in between belongs to who made it last, the same name or not."""
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


def test_the_line_that_made_it_last(suite, top):
    """A file that a test makes, removes and makes again comes from the second line."""

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


def test_the_line_that_deleted_it(suite, top):
    """A file that a test writes and then deletes is missed because of the second line."""

    def write():
        (top / "a.txt").write_text("other")

    def delete():
        (top / "a.txt").unlink()

    with suite.run(ONE):
        write()
        delete()
    (leak,) = suite.watched.judge()
    assert next(f.function for f in leak.entry.origin if f.file == HERE) == "delete"


def test_what_is_renamed_belongs_to_who_made_it(suite, top):
    """By the same test or a later one; of what was there before, both ends are the renamer's."""
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


def test_announcing_is_not_doing(suite, top):
    """Who opens, locks or fails to remove something has not changed it, whoever does it later."""
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
    assert suite.due(ONE) == {}


def test_relative_paths(suite, top, monkeypatch):
    """Paths are relative to the directory that is current when they are used."""
    monkeypatch.chdir(top / "src")
    with suite.run(ONE):
        Path("new").touch()
        Path("../src/./odd").mkdir()
    monkeypatch.chdir("/")
    assert suite.judged() == {"src/new": ("file", ONE.id), "src/odd": ("directory", ONE.id)}


def test_a_named_directory_may_be_a_link(top, tmp_path, monkeypatch, make):
    """Paths are told as the user spelled them, however the code under test does."""
    link = tmp_path / "link"
    link.symlink_to(top)
    suite = make(directories=(f"{link}/",), exclude=(str(top / "basetemp"),))
    monkeypatch.chdir(link)
    with suite.run(ONE):
        Path("one").touch()
        (top / "two").touch()
        (link / "three").touch()
        (top / "basetemp").touch()
    found = told(suite.watched.judge(), link)
    assert found == dict.fromkeys(["one", "two", "three"], ("file", ONE.id))


def test_what_is_behind_a_link_is_elsewhere(suite, top, tmp_path):
    """A test that writes through a link out of the tree, or within it, has an innocent path."""
    (tmp_path / "outside").mkdir()
    (top / "out").symlink_to(tmp_path / "outside")
    (top / "alias").symlink_to("src")
    suite = Suite(top)
    with suite.run(ONE):
        (top / "out/new").touch()
        (top / "alias/new").touch()
    assert suite.judged() == {"src/new": ("file", "session")}
    assert suite.due(ONE) == {}


def test_names_may_be_anything(suite, top):
    """Newlines and bytes that are no UTF-8, in bytes paths too."""
    with suite.run(ONE):
        os.mkdir(os.fsencode(top) + b"/new\nline\xff")
    name = os.fsdecode(b"new\nline\xff")
    assert suite.judged() == {name: ("directory", ONE.id)}


def test_threads_belong_to_the_test(suite, top):
    """What a thread makes belongs to the test that is running."""
    with suite.run(ONE):
        thread = threading.Thread(target=(top / "new").touch)
        thread.start()
        thread.join()
    assert suite.judged() == {"new": ("file", ONE.id)}


def test_what_nobody_saw_belongs_to_the_session(suite, top):
    """Only the walk at the end finds what a subprocess or native code did."""
    with suite.run(ONE):
        os.mkfifo(top / "fifo")
        subprocess.run(["touch", str(top / "src" / "new")], check=True)
    assert suite.judged() == {"fifo": ("fifo", "session"), "src/new": ("file", "session")}
    (leak, _) = suite.watched.judge()
    assert leak.entry == Entry(leak.path, SESSION, worker="main")


def test_a_directory_is_explained_by_what_was_made_in_it(suite, top):
    """When nobody saw it made, but all that is known of it is one test's."""
    with suite.run(ONE):
        subprocess.run(["mkdir", str(top / "one"), str(top / "two")], check=True)
        (top / "one/x").touch()
        (top / "one/y").touch()
        (top / "two/x").touch()
    with suite.run(TWO):
        (top / "two/y").touch()
    assert suite.judged() == {"one": ("directory", ONE.id), "two": ("directory", "session")}


def test_what_went_unseen_and_was_made_anew(suite, top, make):
    """It has been changed by who made it anew, and a worker that cannot know says the same."""
    worker = make(walks=False)
    for each in (suite, worker):
        subprocess.run(["rm", str(top / "a.txt")], check=True)
        with each.run(TWO):
            (top / "a.txt").write_text("other")
    controller = suite
    assert controller.judged() == {"a.txt": ("changed", TWO.id)}
    fresh = Suite(top)
    fresh.watched._tree = suite.watched._tree
    fresh.watched.adopt(json.loads(json.dumps(worker.watched.travelling())))
    assert fresh.judged() == {"a.txt": ("changed", TWO.id)}


# -- what events say (a hook is not traced, so its work is also looked at from outside it)

AT = os.O_CREAT | os.O_WRONLY


def hear(suite: Suite, *events: tuple[object, ...]) -> list[str]:
    """Let the detector hear of *events*, and return the paths that it has notes of."""
    for event, *args in events:
        suite.watched.on_event(str(event), tuple(args))
    return [os.path.relpath(path, suite.top) for path in suite.watched._notes]


def test_a_note_for_each_path_that_is_announced(suite, top, monkeypatch):
    """Reading, other places, and what is left out or in something new are not noted."""
    monkeypatch.chdir(top)
    noted = hear(
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


def test_notes_of_who_makes_and_who_removes(suite, top):
    """The first who makes it counts, after it was last removed; a rename hands it on."""

    def one():
        hear(suite, ("open", f"{top}/new", "w", AT))

    def two():
        hear(suite, ("os.remove", f"{top}/new", -1), ("os.mkdir", f"{top}/new", 0o777, -1))

    def three():
        hear(suite, ("os.rename", f"{top}/new", f"{top}/a.txt", -1, -1))
        hear(suite, ("os.remove", f"{top}/b.txt", -1))

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
    """Return the names of the functions in a hint's stack that are the test's own."""
    names = [code.co_name for code, _ in hint.stack if code.co_filename == __file__]
    return [name for name in names if name != "hear"]


def test_notes_of_what_was_made_before(suite, top, monkeypatch):
    """A later rename hands on what an earlier look has found, and few notes are kept."""
    with suite.run(ONE):
        (top / "one").mkdir()
    monkeypatch.setattr(module, "_MAX_NOTES", 2)
    noted = hear(
        suite,
        ("open", f"{top}/one/x", "w", AT),
        ("os.rename", f"{top}/one", f"{top}/two", -1, -1),
    )
    assert noted == ["one", "two"]
    assert suite.watched._notes[str(top / "two")].created_by.owner == ONE
    assert hear(suite, ("open", f"{top}/a.txt", "w", AT)) == ["a.txt"]


def test_what_goes_while_it_is_judged(suite, top, monkeypatch):
    """Other processes may remove things at any moment, and then they are no leak."""
    (top / "new").touch()
    monkeypatch.setattr(module, "measure", lambda path: None)
    assert suite.judged() == {}


# -- listings of the named directories


def test_who_ran_when_a_name_came_or_went(top, make):
    """Of the direct children of a named directory it is known even where no event came."""
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


def test_a_listing_accuses_nobody_at_once(top, make):
    """A user's editor writes into the repository too; a test is failed only for what it did."""
    suite = make(attributes_mtimes=True)
    with suite.run(ONE):
        os.mkfifo(top / "one")
    assert suite.due(ONE) == {}


def test_names_that_come_back(top, make):
    """What is put back unseen is forgotten, and what vanishes unseen too."""
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


def test_without_listings_nobody_is_blamed(suite, top):
    """Where other processes run tests, what came unseen may be theirs."""
    with suite.run(ONE):
        os.mkfifo(top / "one")
    assert suite.judged() == {"one": ("fifo", "session")}


def test_listings_pass_over_what_may_stay(top, make):
    """Caches, excluded paths and what the ini file lets stay."""
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


# -- what may stay


def test_events_pass_over_what_may_stay(top, make):
    """Neither is it due with a test nor is it judged, and what is excluded takes no notes."""
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
    assert suite.due(ONE) == {}
    assert suite.judged() == {}


def test_what_is_excluded_after_it_was_made(suite, top):
    """Basetemp is only known when it is first asked for."""
    with suite.run(ONE):
        (top / "basetemp").mkdir()
    suite.watched.exclude(str(top / "basetemp"))
    assert suite.due(ONE) == {}
    assert suite.judged() == {}


# -- at a test's due


def test_what_is_due_with_a_test(suite, top):
    """What the test and its function-scoped fixtures did; what lives longer is not due yet."""
    fixture = Owner("fixture", "one", "function")
    wider = Owner("fixture", "wide", "module")
    for owner, name in ((ONE, "test"), (fixture, "fixture"), (wider, "wide")):
        with suite.run(owner, test=ONE.id):
            (top / name).touch()
    with suite.run(TWO):
        (top / "two").touch()
    assert suite.due(ONE) == {"test": ("file", ONE.id), "fixture": ("file", "one")}
    (top / "test").unlink()
    assert suite.due(ONE) == {"fixture": ("file", "one")}
    assert suite.judged().keys() == {"fixture", "wide", "two"}


@pytest.mark.parametrize("walks", [True, False])
def test_what_is_put_back_is_not_due(top, tmp_path, make, walks):
    """A test may move a file away and back, and clean up what it made."""
    suite = make(walks=walks)
    with suite.run(ONE):
        (top / "a.txt").rename(tmp_path / "away")
        (top / "a.txt").touch()
        (tmp_path / "away").replace(top / "a.txt")
        (top / "new").mkdir()
        (top / "new/x").touch()
        shutil.rmtree(top / "new")
    assert suite.due(ONE) == {}
    assert suite.judged() == {}


def test_what_went_unseen_and_is_put_back_is_not_due(suite, top, tmp_path):
    """A subprocess may have taken it away."""
    shutil.copy2(top / "a.txt", tmp_path / "copy")
    with suite.run(ONE):
        subprocess.run(["rm", str(top / "a.txt")], check=True)
        shutil.copy2(tmp_path / "copy", top / "a.txt")
    assert suite.due(ONE) == {}


def test_a_promise_in_a_cycle_is_kept_before_anybody_is_accused(suite, top):
    """A second look comes behind a garbage collection."""

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


def test_what_workers_tell(top, make):
    """The controller walks, workers know who did it, and all of it survives JSON."""
    controller = make()
    workers = {name: make(worker=name, walks=False) for name in ("gw0", "gw1")}
    with workers["gw0"].run(ONE):
        (top / "one").touch()
        (top / "a.txt").unlink()
    with workers["gw1"].run(TWO):
        (top / "two").mkdir()
        (top / "one").write_text("two")
    for worker in reversed(workers.values()):
        controller.watched.adopt(json.loads(json.dumps(worker.watched.travelling())))
        assert worker.watched.travelling() == []
        assert worker.judged() == {}
    assert controller.judged() == {
        "one": ("file", ONE.id),
        "two": ("directory", TWO.id),
        "a.txt": ("deleted", ONE.id),
    }
    leak = next(leak for leak in controller.watched.judge() if leak.path.endswith("two"))
    assert leak.entry.worker == "gw1"
    assert leak.entry.origin[0].function == "test_what_workers_tell"


def test_one_worker_is_not_blamed_for_anothers(top, make):
    """What a worker only comes across, at any time, is none of its tests' doing."""
    here, there = (make(worker=name, walks=False) for name in ("gw0", "gw1"))
    with here.run(ONE):
        # What the other worker does, no event tells this one.
        with there.run(TWO):
            (top / "new").mkdir()
            (top / "a.txt").write_text("other")
        (top / "new").mkdir(exist_ok=True)
        (top / "a.txt").open("r+").close()
    assert here.due(ONE) == {}
    assert there.due(TWO) == {"new": ("directory", TWO.id), "a.txt": ("changed", TWO.id)}


def test_what_was_told_may_be_taken_back(top, make):
    """What one worker made and removed again, and another process made later, is not its own."""
    controller, worker = make(), make(worker="gw0", walks=False)
    with worker.run(ONE):
        (top / "new").touch()
    controller.watched.adopt(worker.watched.travelling())
    assert controller.judged() == {"new": ("file", ONE.id)}
    with worker.run(TWO):
        (top / "new").unlink()
    controller.watched.adopt(json.loads(json.dumps(worker.watched.travelling())))
    (top / "new").touch()
    assert controller.judged() == {"new": ("file", "session")}


def test_forked_children_neither_look_nor_judge(suite, top, monkeypatch):
    """What they saw themselves they can still hand over, and find due."""
    with suite.run(ONE):
        monkeypatch.setattr(System, "getpid", staticmethod(lambda: 1))
        (top / "new").touch()
    assert suite.watched._notes
    assert suite.watched.judge() == []
    assert suite.due(ONE) == {"new": ("file", ONE.id)}
    assert [deed for deed, _ in suite.watched.travelling()] == ["created"]


# -- what it costs, and what it survives


def test_what_is_cleaned_up_takes_no_memory(suite, top):
    """Within a test notes are few, and after it there are none."""
    with suite.run(ONE):
        for number in range(3_000):
            path = f"{top}/{number}"
            os.mkdir(path)
            os.rmdir(path)
        assert len(suite.watched._notes) <= module._MAX_NOTES
    assert suite.watched._notes == {}
    assert suite.watched._changes._changes == {}
    assert suite.watched.travelling() == []


def test_what_is_in_something_new_takes_no_memory(suite, top):
    """A directory stands for all that is made in it, in the same test and later."""
    for owner in (ONE, TWO):
        with suite.run(owner):
            (top / "new").mkdir(exist_ok=True)
            for number in range(50):
                (top / "new" / f"{owner.id[-3:]}{number}").touch()
            assert list(suite.watched._notes) == [str(top / "new")]
    assert suite.judged() == {"new": ("directory", ONE.id)}


def test_what_is_cleaned_up_unseen_takes_no_memory(suite, top):
    """Removing by subprocess or relative to a descriptor raises no event that tells."""
    descriptor = os.open(top, os.O_RDONLY)
    for number in range(1_200):
        with suite.run(ONE):
            os.mkdir(top / f"d{number}")
        os.rmdir(f"d{number}", dir_fd=descriptor)
    os.close(descriptor)
    assert len(suite.watched._changes._changes) < 1_000
    assert len(suite.watched._changes._not_yet_sent) < 1_000


def test_early_notes_are_not_lost(suite, top, monkeypatch):
    """Who did it is known however much the same test has done since."""
    monkeypatch.setattr(module, "_MAX_NOTES", 2)
    with suite.run(ONE):
        for number in range(10):
            (top / f"{number}").touch()
    assert suite.judged() == {f"{number}": ("file", ONE.id) for number in range(10)}


def test_tests_may_replace_what_it_looks_with(suite, top, monkeypatch):
    """A monkeypatched `os` neither hides a leak nor breaks the test."""
    with suite.run(ONE):
        (top / "new").touch()
        for name in ("scandir", "lstat", "stat", "readlink", "getpid"):
            monkeypatch.setattr(os, name, None)
        suite.watched.scan()
        leaks = suite.watched.judge()
        monkeypatch.undo()
    assert told(leaks, top) == {"new": ("file", ONE.id)}


def test_what_cannot_be_looked_at_is_nobodys(suite, top, monkeypatch):
    """A directory that nobody may enter hides its children; it has not deleted them."""
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
    """Refuse to say what stands at *path*."""
    raise PermissionError(path)


def test_a_named_directory_that_vanishes(top, make):
    """It is one deleted directory, with all that was in it, and no exception."""
    suite = make(attributes_mtimes=True)
    with suite.run(ONE):
        shutil.rmtree(top)
    (leak,) = suite.watched.judge()
    assert leak[:4] == ("deleted", str(top), 0, 3)
    assert leak.owner == ONE


def test_several_named_directories(top, tmp_path, make):
    """One may lie in another, and be named twice."""
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


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no event tells that a thread starts")
def test_what_a_thread_writes_belongs_to_who_started_it(suite, top):
    """Also when its starter is over, and another test runs."""
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
    assert suite.due(TWO) == {}
    assert suite.judged() == {"late.txt": ("file", ONE.id)}


def test_what_a_process_of_another_made_is_its_starters(make, top):
    """What comes to a named directory unseen is not the running test's, if that started nothing."""
    suite = make(attributes_mtimes=True)
    with suite.run(TWO):
        suite.running.likely_creator = lambda work, _: (Work(ONE, ONE.id), (Process("x", ONE),))
        os.mkfifo(top / "fifo")
        suite.watched.scan()
    assert suite.judged() == {"fifo": ("fifo", ONE.id)}
    assert suite.watched.judge()[0].entry.processes == (Process("x", ONE),)
