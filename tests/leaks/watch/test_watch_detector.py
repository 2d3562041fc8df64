from __future__ import annotations

import gc
import json
import os
from pathlib import Path
import shutil
import subprocess

import pytest
from watch_suite import ONE
from watch_suite import TWO
from watch_suite import WatchSuite
from watch_suite import by_path

from pytest_tempres.leaks.model import Detector
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.verdict import Ignore
from pytest_tempres.leaks.watch import changes
from pytest_tempres.leaks.watch import detector as module
from pytest_tempres.primitives._system import System


def test_it_implements_the_detector_protocol(suite):
    """The session can call every method of the protocol."""
    detector: Detector = suite.watched
    assert detector.events >= {"open", "os.mkdir", "os.rename", "os.remove"}


# -- single events, passed directly: coverage does not trace an audit hook

AT = os.O_CREAT | os.O_WRONLY


def handle(suite: WatchSuite, *events: tuple[object, ...]) -> list[str]:
    """Pass *events* to the detector, and return the paths with recorded events."""
    for event, *args in events:
        suite.watched.on_event(str(event), tuple(args))
    return [os.path.relpath(path, suite.top) for path in suite.watched._pending]


def test_events_that_are_recorded(suite, top, monkeypatch):
    """Reading, other places, excluded paths and contents of new directories are not."""
    monkeypatch.chdir(top)
    recorded = handle(
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
    assert recorded == ["new", "dir", "a.txt", "b.txt", "src/d.py", "."]


def test_recorded_creation_and_removal(suite, top):
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
    pending = suite.watched._pending.values()
    creators = [events.created_by and functions(events.created_by)[0] for events in pending]
    assert creators == ["two", "two", None]
    assert [events.removed_by and functions(events.removed_by)[0] for events in pending] == [
        None,
        None,
        "three",
    ]
    assert [events.before is None for events in pending] == [True, False, False]


def functions(hint) -> list[str]:
    """Return the names of the test's own functions in the stack of a hint."""
    names = [code.co_name for code, _ in hint.stack if code.co_filename == __file__]
    return [name for name in names if name != "handle"]


def test_a_rename_moves_the_creator_of_an_earlier_scan(suite, top, monkeypatch):
    """Memory is limited."""
    with suite.run(ONE):
        (top / "one").mkdir()
    monkeypatch.setattr(module, "_MAX_PATHS", 2)
    recorded = handle(
        suite,
        ("open", f"{top}/one/x", "w", AT),
        ("os.rename", f"{top}/one", f"{top}/two", -1, -1),
    )
    assert recorded == ["one", "two"]
    assert suite.watched._pending[str(top / "two")].created_by.owner == ONE
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
    """They may come back with or without events."""
    suite = make(attributes_mtimes=True)
    with suite.run(ONE):
        subprocess.run(["mv", str(top / "a.txt"), str(top / "src")], check=True)
        os.mkfifo(top / "one")
        (top / "two").touch()
    with suite.run(TWO):
        subprocess.run(["mv", str(top / "src/a.txt"), str(top)], check=True)
        subprocess.run(["rm", str(top / "one"), str(top / "two")], check=True)
    assert suite.judged() == {}
    assert suite.watched.changes._changes == {}


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
    assert suite.watched.changes._changes == {}
    assert suite.judged() == {}


# -- ignored paths


def test_events_of_ignored_paths_give_no_leaks(top, make):
    """Events for excluded paths are not recorded."""
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
        assert suite.watched._pending == {}
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
        controller.watched.changes.adopt(json.loads(json.dumps(worker.watched.take_changes())))
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
    controller.watched.changes.adopt(worker.watched.take_changes())
    assert controller.judged() == {"new": ("file", ONE.id)}
    with worker.run(TWO):
        (top / "new").unlink()
    controller.watched.changes.adopt(json.loads(json.dumps(worker.watched.take_changes())))
    (top / "new").touch()
    assert controller.judged() == {"new": ("file", "session")}


def test_forked_children_send_changes_by_events_only(suite, top, monkeypatch):
    """They do not scan or walk."""
    with suite.run(ONE):
        monkeypatch.setattr(System, "getpid", staticmethod(lambda: 1))
        (top / "new").touch()
    assert suite.watched._pending
    assert suite.watched.judge() == []
    assert suite.leaks_of(ONE) == {"new": ("file", ONE.id)}
    assert [modification for modification, _ in suite.watched.take_changes()] == ["created"]


# -- memory and errors


def test_removed_paths_take_no_memory(suite, top, monkeypatch):
    """Few events are kept during a test, and none after it."""
    monkeypatch.setattr(module, "_MAX_PATHS", 20)
    with suite.run(ONE):
        for number in range(100):
            path = f"{top}/{number}"
            os.mkdir(path)
            os.rmdir(path)
        assert len(suite.watched._pending) <= module._MAX_PATHS
    assert suite.watched._pending == {}
    assert suite.watched.changes._changes == {}
    assert suite.watched.take_changes() == []


def test_contents_of_new_directories_take_no_memory(suite, top):
    """Only the directory is recorded, in the same test and later."""
    for owner in (ONE, TWO):
        with suite.run(owner):
            (top / "new").mkdir(exist_ok=True)
            for number in range(50):
                (top / "new" / f"{owner.id[-3:]}{number}").touch()
            assert list(suite.watched._pending) == [str(top / "new")]
    assert suite.judged() == {"new": ("directory", ONE.id)}


def test_paths_removed_without_an_event_take_no_memory(top, make, monkeypatch):
    """A subprocess may remove them, or a call relative to a descriptor."""
    monkeypatch.setattr(changes, "_PRUNE_AT", 20)
    suite = make()
    descriptor = os.open(top, os.O_RDONLY)
    for number in range(24):
        with suite.run(ONE):
            os.mkdir(top / f"d{number}")
        os.rmdir(f"d{number}", dir_fd=descriptor)
    os.close(descriptor)
    assert len(suite.watched.changes._changes) < 20
    assert len(suite.watched.changes._not_yet_sent) < 20


def test_early_events_are_kept_in_a_long_test(suite, top, monkeypatch):
    """Events are processed before there are too many."""
    monkeypatch.setattr(module, "_MAX_PATHS", 2)
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
    """Its removal is no error."""
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
