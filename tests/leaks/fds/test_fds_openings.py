from __future__ import annotations

import os
from pathlib import Path
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading

from fds_suite import ONE
from fds_suite import FdsSuite
from fds_suite import lines
from fds_suite import on_linux
from fds_suite import texts
import pytest

from pytest_tempres.leaks.fds import openings
from pytest_tempres.leaks.model import SESSION


def _open_it(path: Path) -> object:
    return path.open("a")


def test_a_file_has_the_line_that_opened_it(suite, tmp_path, keep):
    """Other lines opened and closed it before."""
    path = tmp_path / "log"
    with suite.run():
        path.write_text("x")
        keep(_open_it(path))
        path.read_text()
    assert lines(suite.detector.judge()) == ["_open_it"]


def test_a_file_opened_several_times_has_several_lines(suite, tmp_path, keep):
    """Numbers increase with time."""

    def first() -> None:
        keep((tmp_path / "a").open("a"))

    def second() -> None:
        keep((tmp_path / "a").open("a"))

    with suite.run():
        first()
        second()
    assert lines(suite.detector.judge()) == ["first", "second"]


def test_a_duplicate_has_the_line_of_its_original(suite, tmp_path, keep):
    """`os.dup` raises no event."""
    with suite.run():
        keep(os.dup(keep(_open_it(tmp_path / "a")).fileno()))
    assert lines(suite.detector.judge()) == ["_open_it", "_open_it"]


def test_every_spelling_of_a_path_has_a_line(suite, tmp_path, keep, monkeypatch):
    """Paths may have links in them, be bytes or be relative."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    with suite.run():
        keep(os.open("link/../a", os.O_CREAT))
        keep(os.open(b"link/b", os.O_CREAT))
        keep(os.open(tmp_path / "link" / "c", os.O_CREAT))
    assert lines(suite.detector.judge()) == ["test_every_spelling_of_a_path_has_a_line"] * 3


def _unnamed_file() -> object:
    return tempfile.TemporaryFile()


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def _pipe_ends() -> tuple[object, object]:
    reading, writing = os.pipe()
    return os.fdopen(reading), os.fdopen(writing, "w")


def _process() -> object:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        process.wait()
        return os.fdopen(os.dup(process.stdout.fileno()))


@pytest.mark.parametrize("make", [_unnamed_file, _pair, _pipe_ends, _process])
def test_sockets_and_pipes_with_a_file_object_have_a_line(suite, tmp_path, keep, make):
    """Only a bare pipe raises no event."""
    with suite.run():
        made = make()
        for each in made if isinstance(made, tuple) else (made,):
            keep(each)
    leaks = suite.detector.judge()
    assert leaks
    assert set(lines(leaks)) == {make.__name__}


def test_all_files_of_a_database_have_a_line(suite, tmp_path, keep):
    """SQLite opens them without an event."""
    with suite.run():
        database = keep(sqlite3.connect(tmp_path / "db"))
        database.execute("pragma journal_mode=wal")
        database.execute("create table t(a)")
    leaks = suite.detector.judge()
    assert [os.path.basename(leak.entry.path) for leak in leaks] == ["db", "db-wal", "db-shm"]
    assert set(lines(leaks)) == {"test_all_files_of_a_database_have_a_line"}


def test_an_unfinished_listing_has_a_line(suite, tmp_path, keep, monkeypatch):
    """The iterator of `os.scandir` keeps the directory open."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / name).touch()
    with suite.run():
        next(keep(os.scandir()))
    leaks = suite.detector.judge()
    assert texts(leaks) == [f"directory {tmp_path}"]
    assert lines(leaks) == ["test_an_unfinished_listing_has_a_line"]


@on_linux
def test_a_detached_socket_has_a_line_if_it_is_unambiguous(suite, keep):
    """Multiprocessing detaches its sockets."""

    def first() -> None:
        keep(socket.socket().detach())

    def second() -> None:
        keep(socket.socket().detach())

    with suite.run():
        first()
    with suite.run():
        first()
        second()
    assert lines(suite.detector.judge()) == ["first", "", ""]


def test_a_descriptor_without_an_event_has_no_line(suite, keep):
    """It has an owner."""
    with suite.run():
        for each in os.pipe():
            keep(each)
    leaks = suite.detector.judge()
    assert [(leak.owner, leak.entry.made_by, leak.entry.origin) for leak in leaks] == [
        (ONE, "other", ())
    ] * 2


@pytest.mark.parametrize(
    "event, args, what, flags",
    [
        ("open", ("/a/b", "r", os.O_RDONLY), "/a/b", os.O_RDONLY),
        ("open", (b"/a", None, os.O_CREAT), "/a", os.O_CREAT),
        ("open", (7, "r", 0), 7, 0),
        ("os.scandir", ("/a",), "/a", None),
        ("os.scandir", (None,), "{cwd}", None),
        ("sqlite3.connect", (Path("/a/db"),), "/a/db", None),
    ],
)
def test_recorded_events(tmp_path, monkeypatch, event, args, what, flags):
    """They have the absolute path or the number, and the owner."""
    monkeypatch.chdir(tmp_path)
    detector = FdsSuite.silent()
    detector.on_event(event, args)
    ((opened, found, hint),) = detector._openings.take()
    assert (opened, found) == (what.format(cwd=tmp_path) if isinstance(what, str) else what, flags)
    assert hint.owner == SESSION
    assert "test_recorded_events" in [code.co_name for code, _ in hint.stack[:2]]


def test_a_recorded_event_has_a_weak_reference_to_a_socket():
    """The number is read later."""
    detector = FdsSuite.silent()
    with socket.socket() as made:
        detector.on_event("socket.__new__", (made, 0, 0, 0))
        ((opened, _, _),) = detector._openings.take()
        assert opened() is made
    del made
    assert opened() is None


@pytest.mark.parametrize(
    "event, args", [("open", ("/a/__pycache__/b.cpython-313.pyc", "r", 0)), ("os.scandir", (7,))]
)
def test_events_of_compiled_modules_are_not_recorded(event, args):
    """There are thousands, and each is closed."""
    detector = FdsSuite.silent()
    detector.on_event(event, args)
    assert detector._openings.take() == []


def test_recorded_events_take_no_memory(suite, tmp_path):
    """Their number is limited during a test, and zero after it."""
    most = openings._MAX_EVENTS

    def write() -> None:
        for number in range(most + 50):
            (tmp_path / str(number)).write_text("")

    with suite.run():
        write()
        assert len(suite.detector._openings._events) == 50
        # Another thread must not scan, because this one may be scanning.
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        assert len(suite.detector._openings._events) == most
    assert len(suite.detector._openings._events) == 0
    assert suite.detector._entries == {}


def test_each_of_many_descriptors_has_its_line(suite, tmp_path, keep, monkeypatch):
    """A scan runs before there are too many events."""
    monkeypatch.setattr(openings, "_MAX_EVENTS", 3)
    suite.detector._openings.take()
    with suite.run():
        for number in range(8):
            keep(_open_it(tmp_path / str(number)))
    assert lines(suite.detector.judge()) == ["_open_it"] * 8


def test_a_recorded_event_keeps_no_socket_open(suite):
    """An unreferenced socket is closed."""
    with suite.run():
        made = socket.socket()
        number = made.detach()
        again = socket.socket(fileno=number)
        with pytest.warns(ResourceWarning):
            del again
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(number)


def test_sockets_of_the_base_class_are_ignored(suite, keep):
    """They do not support weak references."""
    with suite.run():
        raw = keep(socket.SocketType())
        suite.detector.on_event("socket.__new__", (raw, 0, 0, 0))
        keep(os.dup(raw.fileno()))
    assert [leak.owner for leak in suite.detector.judge()] == [ONE, ONE]
