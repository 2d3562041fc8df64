from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import errno
from fnmatch import fnmatchcase
import gc
import importlib
import json
import os
from pathlib import Path
import resource
import select
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres.leaks.fds import detector as module
from pytest_tempres.leaks.fds import names
from pytest_tempres.leaks.fds import openings
from pytest_tempres.leaks.fds.detector import Descriptors
from pytest_tempres.leaks.frames import FrameFilter
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Detector
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.model import leak_from_plain
from pytest_tempres.leaks.temp.audit import Origins
from pytest_tempres.leaks.temp.audit import activate
from pytest_tempres.leaks.temp.audit import deactivate
from pytest_tempres.primitives._system import System

ONE = Owner("test", "t.py::one", None, "t.py:1")
TWO = Owner("test", "t.py::two", None, "t.py:2")
WIDE = Owner("fixture", "server", "module", "t.py:3")
NARROW = Owner("fixture", "log", "function", "t.py:4")
IMPORT = Owner("collection", "t.py")
HERE = os.path.basename(__file__)
PAUSES = list(module._PAUSES)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux has these")


class Suite:
    """Runs code for owners, with a scan before each change, as a session does."""

    def __init__(self, patterns: tuple[str, ...] = ()) -> None:
        self.asked: list[str] = []
        self.running = Running()
        self.detector = Descriptors(
            running=self.running,
            folder=FrameFilter(os.path.dirname(__file__)),
            ignored=lambda target: self.asked.append(target) or target in patterns,
            worker="gw0",
        )
        self.origins = Origins((), (), {}, self.running)
        self.origins.add(self.detector)
        activate(self.origins)

    @staticmethod
    def silent() -> Descriptors:
        """Return a detector that receives no events."""
        suite = Suite()
        suite.close()
        return suite.detector

    @contextlib.contextmanager
    def run(self, owner: Owner = ONE, test: str | None = None) -> Iterator[None]:
        """Make *owner* the current owner."""
        self.detector.scan()
        running = self.running
        before = (running.owner, running.test, running.phase)
        running.owner, running.test, running.phase = owner, test or owner.id, "call"
        try:
            yield
        finally:
            self.detector.scan()
            running.owner, running.test, running.phase = before

    def close(self) -> None:
        """Stop receiving events."""
        deactivate(self.origins)


@pytest.fixture
def patterns() -> tuple[str, ...]:
    """The patterns that the ini file ignores."""
    return ()


@pytest.fixture
def suite(patterns) -> Iterator[Suite]:
    """A session that has begun."""
    suite = Suite(patterns)
    yield suite
    suite.close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """The times that the detector would have slept: it does not in tests."""
    pauses: list[float] = []
    monkeypatch.setattr(System, "sleep", staticmethod(pauses.append))
    monkeypatch.setattr(module, "_has_threads_or_children", lambda: True)
    return pauses


@pytest.fixture
def keep() -> Iterator[Callable[[object], object]]:
    """Keep an object until the test is over."""
    with contextlib.ExitStack() as stack:

        def keep(thing):
            if isinstance(thing, int):
                stack.callback(_close, thing)
            else:
                stack.callback(thing.close)
            return thing

        yield keep


def _close(number: int) -> None:
    with contextlib.suppress(OSError):
        os.close(number)


def texts(leaks: list[Leak]) -> list[str]:
    """Return the descriptions of *leaks*, without numbers."""
    return [leak.path.partition(": ")[2] for leak in leaks]


def lines(leaks: list[Leak]) -> list[str]:
    """Return the nearest function in the origin of each of *leaks*."""
    return [leak.entry.origin[0].function if leak.entry.origin else "" for leak in leaks]


def test_it_implements_the_detector_protocol(suite):
    """It has all attributes."""
    detector: Detector = suite.detector
    assert "open" in detector.events
    assert {"open", "socket.__new__"} <= suite.origins.events


# -- records and descriptions


def test_a_record_has_number_target_owner_and_line(suite, tmp_path, keep):
    """It survives JSON."""
    with suite.run():
        file = keep((tmp_path / "a").open("w"))
    (leak,) = suite.detector.judge()
    path = str(tmp_path / "a")
    assert leak[:6] == ("descriptor", f"fd {file.fileno()}: {path}", 0, 1, True, "leak")
    assert leak.entry[:4] == (path, ONE, ONE.id, "call")
    assert (leak.entry.made_by, leak.entry.worker) == ("python", "gw0")
    assert leak.entry.seen is not None
    frame = leak.entry.origin[0]
    assert (frame.file, frame.function) == (
        HERE,
        "test_a_record_has_number_target_owner_and_line",
    )
    assert leak_from_plain(json.loads(json.dumps(leak))) == leak


def _unlinked(path: Path) -> int:
    number = os.open(path / "gone", os.O_CREAT | os.O_RDWR)
    os.write(number, b"abc")
    os.unlink(path / "gone")
    return number


def _called_deleted(path: Path) -> int:
    return os.open(path / "x (deleted)", os.O_CREAT | os.O_RDWR)


def _linked(path: Path) -> int:
    number = os.open(path / "a", os.O_CREAT | os.O_RDWR)
    os.link(path / "a", path / "b")
    os.unlink(path / "a")
    return number


def _unnamed(path: Path) -> int:
    number = os.open(path, os.O_TMPFILE | os.O_RDWR)
    os.write(number, b"abcd")
    return number


def _removed_directory(path: Path) -> int:
    (path / "d").mkdir()
    number = os.open(path / "d", os.O_RDONLY)
    (path / "d").rmdir()
    return number


def _fifo(path: Path) -> int:
    os.mkfifo(path / "f")
    return os.open(path / "f", os.O_RDONLY | os.O_NONBLOCK)


def _reading(path: Path) -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


def _writing(path: Path) -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def _master(path: Path) -> int:
    master, slave = os.openpty()
    os.close(slave)
    return master


def _memory(path: Path) -> int:
    number = os.memfd_create("cache")
    os.write(number, b"12345")
    return number


def _native(name: str, *args: object) -> int:
    ctypes = importlib.import_module("ctypes")
    return ctypes.CDLL(None, use_errno=True)[name](*args)


def _signals(path: Path) -> int:
    ctypes = importlib.import_module("ctypes")
    return _native("signalfd", -1, (ctypes.c_ulong * 16)(), 0)


@pytest.mark.parametrize(
    "make, text, target, size",
    [
        (lambda p: os.open(p / "x", os.O_CREAT), "{p}/x", "{p}/x", 0),
        (lambda p: os.open(p, os.O_RDONLY), "directory {p}", "{p}", 0),
        (lambda p: os.open(os.devnull, 0), "character device /dev/null", "/dev/null", 0),
        (_fifo, "fifo {p}/f", "{p}/f", 0),
        (_reading, "read end of a pipe", "read end of a pipe", 0),
        (_writing, "write end of a pipe", "write end of a pipe", 0),
        (_called_deleted, "{p}/x (deleted)", "{p}/x (deleted)", 0),
        (_unlinked, "unlinked file {p}/gone", "{p}/gone", 3),
        pytest.param(_linked, "unlinked file {p}/a", "{p}/a", 0, marks=on_linux),
        pytest.param(_unnamed, "unnamed file in {p}", "{p}/#*", 4, marks=on_linux),
        pytest.param(_removed_directory, "deleted directory {p}/d", "{p}/d", 0, marks=on_linux),
        pytest.param(_master, "terminal /dev/ptmx", "/dev/ptmx", 0, marks=on_linux),
        pytest.param(_memory, "memfd cache", "memfd cache", 5, marks=on_linux),
        pytest.param(lambda p: _native("epoll_create", 1), "epoll", "epoll", 0, marks=on_linux),
        pytest.param(lambda p: os.eventfd(0), "eventfd", "eventfd", 0, marks=on_linux),
        pytest.param(
            lambda p: _native("timerfd_create", 1, 0), "timerfd", "timerfd", 0, marks=on_linux
        ),
        pytest.param(_signals, "signalfd", "signalfd", 0, marks=on_linux),
        pytest.param(lambda p: _native("inotify_init"), "inotify", "inotify", 0, marks=on_linux),
        pytest.param(lambda p: os.pidfd_open(os.getpid()), "pidfd", "pidfd", 0, marks=on_linux),
    ],
)
def test_each_kind_has_a_description(suite, tmp_path, keep, make, text, target, size):
    """Patterns are matched against the path, or the description without one."""
    with suite.run():
        number = keep(make(tmp_path))
    (leak,) = suite.detector.judge()
    assert leak.path == f"fd {number}: {text.format(p=tmp_path)}"
    assert fnmatchcase(leak.entry.path, target.format(p=tmp_path))
    assert leak.bytes == size
    assert suite.asked[0] == leak.entry.path


def test_block_devices_have_a_description():
    """Tests cannot open one everywhere."""
    assert names._kind(0, stat.S_IFBLK) == "block device"


def test_sockets_are_described_by_protocol_and_addresses(suite, keep):
    """Listening ones and both ends of a connection."""
    with suite.run():
        server = keep(socket.create_server(("127.0.0.1", 0)))
        client = keep(socket.create_connection(server.getsockname()))
        accepted = keep(server.accept()[0])
        datagrams = keep(socket.socket(type=socket.SOCK_DGRAM))
    there, here = (":".join(map(str, each.getsockname())) for each in (server, client))
    assert [leak.path for leak in suite.detector.judge()] == [
        f"fd {server.fileno()}: TCP socket {there}, listening",
        f"fd {client.fileno()}: TCP socket {here} to {there}",
        f"fd {accepted.fileno()}: TCP socket {there} to {here}",
        # It is not bound, so there is no address.
        f"fd {datagrams.fileno()}: UDP socket",
    ]


def test_unix_sockets_are_described_by_path(suite, tmp_path_factory, keep):
    """A socket pair has none."""
    path = str(tmp_path_factory.mktemp("s") / "s")
    with suite.run():
        keep(socket.socket(socket.AF_UNIX)).bind(path)
        for each in socket.socketpair():
            keep(each)
    assert texts(suite.detector.judge()) == [f"Unix socket {path}", "Unix socket", "Unix socket"]


@on_linux
def test_other_sockets_have_a_description(suite, keep):
    """Abstract names begin with an at sign; other families have their name."""
    with suite.run():
        name = f"tempres-{os.getpid()}"
        keep(socket.socket(socket.AF_UNIX)).bind(f"\0{name}")
        keep(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
    assert texts(suite.detector.judge()) == [f"Unix socket @{name}", "AF_NETLINK socket"]


@pytest.mark.parametrize(
    "address, text",
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("0.0.0.0", 0), ""),
        (("::", 0, 0, 0), ""),
        ("", ""),
        (b"", ""),
        (b"\0name\0", "@name"),
        ((12, 0), ""),
        (None, ""),
    ],
)
def test_addresses_are_formatted(address, text):
    """Unbound ones are left out."""
    assert names._address(lambda: address) == text


@given(st.integers(), st.integers())
def test_every_protocol_has_a_description(family, kind):
    """Unknown families have their number."""
    assert names._protocol(family, kind)


@given(st.text())
def test_unknown_kernel_names_are_shown_unchanged(name):
    """A future kernel may have new ones."""
    status = SimpleNamespace(st_mode=0)
    assert names._unnamed(0, status, name) or name.startswith("anon_inode:")


def test_objects_without_details_have_a_description():
    """Not every socket family has every option, and not every file has a name."""

    def refuse(*args: int) -> int:
        raise OSError(errno.ENOPROTOOPT, "no such option")

    assert not names._is_listening(SimpleNamespace(getsockopt=refuse))
    assert names._address(refuse) == ""
    status = SimpleNamespace(st_mode=stat.S_IFREG)
    assert names._unnamed(0, status, "") == "unlinked file"
    assert names._unnamed(0, SimpleNamespace(st_mode=0), "") == "something without a name"


def test_describing_a_socket_changes_nothing(suite, keep):
    """With a default timeout a new socket object makes the descriptor non-blocking."""
    with suite.run():
        server = keep(socket.create_server(("127.0.0.1", 0)))
    before = os.listdir(names.TABLE)
    socket.setdefaulttimeout(5)
    try:
        assert len(suite.detector.judge()) == 1
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(server.fileno())
    assert sorted(os.listdir(names.TABLE)) == sorted(before)


def test_a_closed_descriptor_has_no_description():
    """It may be closed at any moment."""
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    assert names.describe(writing) is None
    assert names.identity(writing) is None
    assert names.target(writing) == ""
    assert names.mode(writing) == 0


# -- owners


def test_descriptors_that_were_open_before_are_no_leaks(tmp_path, keep):
    """They do not belong to a test."""
    keep((tmp_path / "before").open("w"))
    suite = Suite()
    with suite.run():
        pass
    suite.close()
    assert suite.detector.judge() == []


def test_a_descriptor_that_is_closed_later_is_no_leak(suite, tmp_path):
    """A fixture may close it."""
    with suite.run():
        (tmp_path / "a").write_text("x")
        file = (tmp_path / "a").open()
    with suite.run(NARROW, ONE.id):
        file.close()
    assert suite.detector.leaks_of(ONE.id) == []
    assert suite.detector.judge() == []


def test_a_wider_fixture_owns_the_descriptors_of_its_setup(suite, tmp_path, keep):
    """They are reported at the end, not with the first test."""
    with suite.run(WIDE, ONE.id):
        keep((tmp_path / "server.log").open("w"))
    with suite.run(ONE):
        pass
    assert suite.detector.leaks_of(ONE.id) == []
    assert [leak.owner for leak in suite.detector.judge()] == [WIDE]


def test_leaks_of_a_test_include_function_scoped_fixtures(suite, tmp_path, keep):
    """They have finished with the test."""
    with suite.run(NARROW, ONE.id):
        keep((tmp_path / "a").open("w"))
    with suite.run(ONE):
        keep((tmp_path / "b").open("w"))
    with suite.run(TWO):
        keep((tmp_path / "c").open("w"))
    assert [leak.owner for leak in suite.detector.leaks_of(ONE.id)] == [NARROW, ONE]
    assert [leak.owner for leak in suite.detector.leaks_of(TWO.id)] == [TWO]
    assert [leak.owner for leak in suite.detector.judge()] == [NARROW, ONE, TWO]


def test_connections_are_reported_at_the_end(suite, keep, pauses):
    """A connection pool may outlive the test."""
    with suite.run():
        server = keep(socket.create_server(("127.0.0.1", 0)))
        keep(socket.create_connection(server.getsockname()))
    (leak,) = suite.detector.leaks_of(ONE.id)
    assert leak.path.startswith(f"fd {server.fileno()}: ")
    assert leak.path.endswith(", listening")
    assert len(suite.detector.judge()) == 2
    with suite.run(TWO):
        keep(socket.create_connection(server.getsockname()))
    pauses.clear()
    assert suite.detector.leaks_of(TWO.id) == pauses == []
    assert len(suite.detector.judge()) == 3


def test_descriptors_of_the_session_are_no_leaks(suite, tmp_path, keep):
    """Plugins keep log files open, for example."""
    keep((tmp_path / "pytest.log").open("w"))
    reading, writing = os.pipe()
    keep(reading)
    keep(writing)
    assert suite.running.owner == SESSION
    assert suite.detector.judge() == []
    with suite.run():
        pass
    assert suite.detector.judge() == []


def test_the_owner_is_that_of_the_event_not_that_of_the_scan(suite, tmp_path, keep):
    """The scan may run later."""
    with suite.run(ONE):
        keep((tmp_path / "a").open("w"))
        # No scan was possible when the owner changed.
        suite.running.owner, suite.running.test = TWO, TWO.id
        keep(os.dup(0))
    owners = {leak.entry.path: leak.owner for leak in suite.detector.judge()}
    assert owners[str(tmp_path / "a")] == ONE
    assert set(owners.values()) <= {ONE, TWO}


def test_another_file_with_the_same_number_is_another_descriptor(suite, tmp_path, keep):
    """Numbers are reused at once."""
    with suite.run(ONE):
        number = keep(os.open(tmp_path / "a", os.O_CREAT))
    with suite.run(TWO):
        os.close(number)
        assert os.open(tmp_path / "b", os.O_CREAT) == number
    assert suite.detector.leaks_of(ONE.id) == []
    (leak,) = suite.detector.judge()
    assert (leak.path, leak.owner) == (f"fd {number}: {tmp_path / 'b'}", TWO)


def test_the_number_of_a_descriptor_from_before_may_be_reused(tmp_path, keep):
    """By a leak."""
    number = keep(os.open(tmp_path / "a", os.O_CREAT))
    suite = Suite()
    with suite.run():
        os.close(number)
        assert os.open(tmp_path / "b", os.O_CREAT) == number
    suite.close()
    assert texts(suite.detector.judge()) == [str(tmp_path / "b")]


@on_linux
def test_descriptors_with_the_same_inode_differ_by_name(suite, keep):
    """All anonymous inodes of Linux are the same one."""
    with suite.run(ONE):
        epoll = select.epoll()
        number = epoll.fileno()
    with suite.run(TWO):
        epoll.close()
        assert keep(_native("timerfd_create", 1, 0)) == number
    (leak,) = suite.detector.judge()
    assert (texts([leak]), leak.owner) == (["timerfd"], TWO)


def test_the_standard_streams_are_no_leaks(suite, tmp_path):
    """Capturing replaces them between scans."""
    saved = os.dup(1)
    with (tmp_path / "a").open("w") as file:
        try:
            with suite.run():
                os.dup2(file.fileno(), 1)
            assert str(tmp_path / "a") not in [leak.entry.path for leak in suite.detector.judge()]
        finally:
            os.dup2(saved, 1)
            os.close(saved)


def test_a_descriptor_from_the_thread_of_a_fixture_belongs_to_the_fixture(suite, tmp_path, keep):
    """Whichever test is running."""
    go, done = threading.Event(), threading.Event()

    def serve() -> None:
        go.wait()
        keep((tmp_path / "a").open("w"))
        done.set()

    with suite.run(WIDE, ONE.id):
        thread = threading.Thread(target=serve)
        thread.start()
    with suite.run(TWO):
        go.set()
        done.wait()
        thread.join()
    assert suite.detector.leaks_of(TWO.id) == []
    assert [leak.owner for leak in suite.detector.judge()] == [WIDE]


@pytest.mark.parametrize("starter", [ONE, NARROW])
def test_a_descriptor_from_the_thread_of_a_finished_test_belongs_to_the_current_owner(
    suite, tmp_path, keep, starter
):
    """Other tests may use a pool that a test has left."""
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait()
        keep((tmp_path / "a").open("w"))
        done.set()

    with suite.run(starter, ONE.id):
        thread = threading.Thread(target=work)
        thread.start()
    with suite.run(TWO):
        go.set()
        done.wait()
        thread.join()
    assert [leak.owner for leak in suite.detector.judge()] == [TWO]


# -- lines


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
    """Links, bytes and relative paths."""
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
def test_notes_of_events(tmp_path, monkeypatch, event, args, what, flags):
    """They have the absolute path or the number, and the owner."""
    monkeypatch.chdir(tmp_path)
    detector = Suite.silent()
    detector.on_event(event, args)
    ((noted, found, hint),) = detector._openings.take()
    assert (noted, found) == (what.format(cwd=tmp_path) if isinstance(what, str) else what, flags)
    assert hint.owner == SESSION
    assert "test_notes_of_events" in [code.co_name for code, _ in hint.stack[:2]]


def test_a_note_has_a_weak_reference_to_a_socket():
    """The number is read later."""
    detector = Suite.silent()
    with socket.socket() as made:
        detector.on_event("socket.__new__", (made, 0, 0, 0))
        ((noted, _, _),) = detector._openings.take()
        assert noted() is made
    del made
    assert noted() is None


@pytest.mark.parametrize(
    "event, args", [("open", ("/a/__pycache__/b.cpython-313.pyc", "r", 0)), ("os.scandir", (7,))]
)
def test_events_of_compiled_modules_are_not_noted(event, args):
    """There are thousands, and each is closed."""
    detector = Suite.silent()
    detector.on_event(event, args)
    assert detector._openings.take() == []


def test_notes_take_no_memory(suite, tmp_path):
    """Their number is limited during a test, and zero after it."""
    most = openings._MAX_NOTED

    def write() -> None:
        for number in range(most + 50):
            (tmp_path / str(number)).write_text("")

    with suite.run():
        write()
        assert len(suite.detector._openings._noted) == 50
        # Another thread must not scan, because this one may be scanning.
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        assert len(suite.detector._openings._noted) == most
    assert len(suite.detector._openings._noted) == 0
    assert suite.detector._entries == {}


def test_each_of_many_descriptors_has_its_line(suite, tmp_path, keep, monkeypatch):
    """A scan runs before there are too many notes."""
    monkeypatch.setattr(openings, "_MAX_NOTED", 3)
    suite.detector._openings.take()
    with suite.run():
        for number in range(8):
            keep(_open_it(tmp_path / str(number)))
    assert lines(suite.detector.judge()) == ["_open_it"] * 8


def test_a_note_keeps_no_socket_open(suite):
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


# -- allowed descriptors


def _opened_by_import(directory: Path, text: str, monkeypatch) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "opens_at_import.py").write_text(text)
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delitem(sys.modules, "opens_at_import", raising=False)
    importlib.invalidate_caches()
    importlib.import_module("opens_at_import")


@pytest.mark.parametrize("owner", [ONE, WIDE, IMPORT])
def test_descriptors_from_the_import_of_a_library_are_no_leaks(
    suite, tmp_path, monkeypatch, owner, keep
):
    """They live as long as the module."""
    text = f"import os; FILE = os.open({str(tmp_path / 'cache')!r}, os.O_CREAT)"
    with suite.run(owner):
        _opened_by_import(tmp_path / "site-packages", text, monkeypatch)
    keep(sys.modules["opens_at_import"].FILE)
    assert suite.detector.judge() == []


def test_descriptors_without_an_event_during_collection_are_no_leaks(suite, keep):
    """Libraries open pipes during their import."""
    with suite.run(IMPORT):
        for each in os.pipe():
            keep(each)
    assert suite.detector.judge() == []


def test_descriptors_from_the_import_of_project_code_are_leaks(tmp_path, monkeypatch, keep):
    """The project can close them."""
    suite = Suite()
    suite.detector._folder = FrameFilter(str(tmp_path))
    text = f"import os; FILE = os.open({str(tmp_path / 'cache')!r}, os.O_CREAT)"
    with suite.run(IMPORT):
        _opened_by_import(tmp_path, text, monkeypatch)
    suite.close()
    keep(sys.modules["opens_at_import"].FILE)
    (leak,) = suite.detector.judge()
    assert (leak.owner, leak.entry.origin[0].file) == (IMPORT, "opens_at_import.py")


@pytest.mark.parametrize(
    "path",
    [
        os.__file__,
        json.__file__,
        pytest.__file__,
        "/x/site-packages/a/b.cpython-313-x86_64-linux-gnu.so",
        "/x/dist-packages/a.pyc",
        "/x/site-packages/certifi/cacert.pem",
        "/etc/ssl/certs/ca-certificates.crt",
        "/dev/urandom",
        "/dev/random",
        "/dev/nvidiactl",
        "/usr/lib/x86_64-linux-gnu/libffi.so.8.5.0",
        "/opt/lib/libblas.so",
        "/proc/driver/nvidia/params",
        "/sys/devices/system/cpu/possible",
        "memfd libffi",
        "AF_NETLINK socket",
        "Unix socket to /var/run/nscd/socket",
        "/dev/tty",
        "/dev/pts/7",
        "/tmp/tempres-a1b2c3d4/.lock",
        "/tmp/tempres-a1b2c3d4/.kept.jsonl",
        "/home/me/project/.coverage.host.12.x",
    ],
)
def test_shipped_patterns(suite, path):
    """They match what tests cannot close."""
    assert suite.detector._is_allowed(path)
    assert suite.asked == []


@pytest.mark.parametrize(
    "path",
    [
        *("/home/me/project/a.py", "/x/site-packages/a/data.json", "/dev/null", "/dev/ptmx"),
        *(
            "pipe",
            "/home/me/a.so.conf",
            "memfd cache",
            "eventfd",
            "epoll",
            "/procs/x",
            "TCP socket",
        ),
        *("Unix socket to /run/docker.sock", "Unix socket to /var/run/postgresql/.s.PGSQL.5432"),
    ],
)
def test_shipped_patterns_match_nothing_else(suite, path):
    """Data, devices and sources of the project are leaks."""
    assert not suite.detector._is_allowed(path)
    assert suite.asked == [path]


@pytest.fixture
def library(tmp_path) -> Path:
    """A shared library, with a link to it."""
    (tmp_path / "libffi.so.8.5.0").write_bytes(b"\x7fELF")
    (tmp_path / "libffi.so.8").symlink_to("libffi.so.8.5.0")
    return tmp_path / "libffi.so.8"


def test_descriptors_that_a_c_library_keeps_are_no_leaks(suite, library, keep, pauses):
    """It opens them on first use, without an event."""
    with suite.run():
        library.write_bytes(b"made by Python, and closed")
        for path in (library, "/dev/urandom", "/dev/random"):
            keep(_native("open", os.fsencode(path), os.O_RDONLY))
    assert suite.detector.leaks_of(ONE.id) == suite.detector.judge() == []
    assert pauses == []


@pytest.mark.parametrize("opened", [os.open, open], ids=["os", "io"])
def test_descriptors_of_the_same_kind_from_python_are_leaks(suite, library, keep, opened):
    """Python code can close them."""
    how = os.O_RDONLY if opened is os.open else "rb"
    with suite.run():
        for path in (str(library), "/dev/urandom"):
            keep(opened(path, how))
    leaks = suite.detector.judge()
    assert sorted(texts(leaks)) == [f"{library}.5.0", "character device /dev/urandom"]
    assert {leak.entry.made_by for leak in leaks} == {"python"}


def test_a_number_that_python_used_before_does_not_count_as_opened_by_python(suite, library, keep):
    """A library may be assigned a number that Python has closed."""
    with suite.run():
        reading, writing = os.pipe()
        os.close(writing)
        os.fdopen(reading).close()
        assert keep(_native("open", os.fsencode(library), os.O_RDONLY)) == reading
    assert suite.detector.judge() == []


@on_linux
def test_netlink_sockets_of_libraries_are_no_leaks(suite, keep):
    """Those from Python are."""
    netlink = (int(socket.AF_NETLINK), socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with suite.run():
        keep(_native("socket", *netlink))
    assert suite.detector.judge() == []
    with suite.run():
        keep(socket.socket(*netlink))
    assert texts(suite.detector.judge()) == ["AF_NETLINK socket"]


@pytest.mark.parametrize("patterns", [("read end of a pipe", "/dev/null")])
def test_the_ini_file_ignores_paths_and_descriptions(suite, keep, pauses):
    """There is no wait for ignored descriptors."""
    with suite.run():
        reading, writing = os.pipe()
        keep(reading)
        os.close(writing)
        keep(os.open("/dev/null", 0))
    assert suite.detector.leaks_of(ONE.id) == suite.detector.judge() == []
    assert pauses == []


def test_descriptors_of_multiprocessings_helpers_are_no_leaks(suite, keep, monkeypatch):
    """The first test that needs shared memory starts them."""
    with suite.run():
        pipes = [keep(number) for _ in range(2) for number in os.pipe()]
    tracker, copy = SimpleNamespace(_fd=pipes[0]), SimpleNamespace(_fd=pipes[1])
    server = SimpleNamespace(_forkserver_alive_fd=pipes[2])
    servants = {
        "multiprocessing.resource_tracker": SimpleNamespace(_resource_tracker=tracker),
        "loky.backend.resource_tracker": SimpleNamespace(_resource_tracker=copy),
        "multiprocessing.forkserver": SimpleNamespace(_forkserver=server),
    }
    for name, servant in servants.items():
        monkeypatch.setitem(sys.modules, name, servant)
    (leak,) = suite.detector.judge()
    assert leak.path.startswith(f"fd {pipes[3]}: ")


def test_the_private_names_of_multiprocessing_still_exist():
    """CPython may rename them."""
    tracker = importlib.import_module("multiprocessing.resource_tracker")
    server = importlib.import_module("multiprocessing.forkserver")
    assert hasattr(tracker._resource_tracker, "_fd")
    assert hasattr(server._forkserver, "_forkserver_alive_fd")


# -- the second scan


def test_a_descriptor_that_a_garbage_collection_closes_is_no_leak(suite, tmp_path, pauses):
    """An object in a reference cycle may own it."""

    class Holder:
        pass

    gc.disable()
    try:
        with suite.run():
            holder = Holder()
            holder.itself, holder.file = holder, os.fdopen(os.open(tmp_path / "a", os.O_CREAT))
            del holder
        with pytest.warns(ResourceWarning):
            assert suite.detector.leaks_of(ONE.id) == []
    finally:
        gc.enable()
    assert pauses == []


def test_without_a_suspect_no_garbage_is_collected(suite, tmp_path, keep, monkeypatch):
    """A collection is expensive."""
    collected = []
    monkeypatch.setattr(suite.detector, "_collect", lambda: collected.append(1))
    with suite.run():
        (tmp_path / "a").touch()
        keep(os.open(os.__file__, 0))
    suite.detector.leaks_of(ONE.id)
    suite.detector.judge()
    assert collected == []
    with suite.run():
        keep((tmp_path / "a").open())
    suite.detector.leaks_of(ONE.id)
    assert collected == [1]


def test_other_threads_get_time_to_close_a_descriptor(suite, tmp_path, monkeypatch):
    """A server closes a connection after its client."""
    slept = []
    with suite.run():
        number = os.open(tmp_path / "a", os.O_CREAT)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            os.close(number)

    monkeypatch.setattr(System, "sleep", staticmethod(sleep))
    assert suite.detector.leaks_of(ONE.id) == []
    assert slept == PAUSES[:3]


def test_without_threads_and_children_there_is_no_wait(suite, tmp_path, keep, pauses, monkeypatch):
    """Nothing could close the descriptor."""
    monkeypatch.setattr(module, "_has_threads_or_children", lambda: False)
    with suite.run():
        keep((tmp_path / "a").open("w"))
    assert len(suite.detector.leaks_of(ONE.id)) == 1
    assert pauses == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads of libraries are not seen")
@pytest.mark.parametrize(
    "start, runs",
    [
        ("", False),
        (
            "import threading as t; t.Thread(target=time.sleep, args=(60,), daemon=True).start()",
            True,
        ),
        ("import subprocess; child = subprocess.Popen(['sleep', '60'])", True),
        ("import subprocess; subprocess.run(['true'])", False),
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))", True),
    ],
)
def test_threads_and_children_are_detected(start, runs):
    """If it is unknown, there may be some."""
    program = f"""
import os, resource, time
from pytest_tempres.leaks.fds.detector import _has_threads_or_children
child = None
{start}
print(_has_threads_or_children())
if child:
    child.kill()
os.sys.stdout.flush()
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().split() == [str(runs)]


def test_the_wait_is_limited(suite, tmp_path, keep, pauses):
    """It is shared by all leaks at the end."""
    with suite.run(ONE):
        keep((tmp_path / "a").open("w"))
    with suite.run(TWO):
        keep((tmp_path / "b").open("w"))
    assert len(suite.detector.judge()) == 2
    assert pauses == PAUSES == [PAUSES[0] * 2**each for each in range(len(PAUSES))]
    assert sum(PAUSES) < 0.1


def test_a_number_that_is_reused_during_the_wait_is_no_leak(suite, tmp_path, keep, monkeypatch):
    """It is another descriptor then."""
    with suite.run():
        number = keep(os.open(tmp_path / "a", os.O_CREAT))

    def sleep(seconds: float) -> None:
        os.close(number)
        assert os.open(tmp_path / "b", os.O_CREAT) == number

    monkeypatch.setattr(System, "sleep", staticmethod(sleep))
    assert suite.detector.leaks_of(ONE.id) == []


# -- unusual conditions


def test_scans_work_while_a_test_has_replaced_functions(suite, tmp_path, keep, monkeypatch):
    """The original functions are captured."""

    def broken(*args, **kwargs):
        raise AssertionError

    with suite.run(), monkeypatch.context() as patch:
        keep((tmp_path / "a").open("w"))
        for name in ("listdir", "fstat", "readlink", "dup", "isatty", "getpid"):
            patch.setattr(os, name, broken)
        for name in ("enumerate", "get_ident", "get_native_id"):
            patch.setattr(threading, name, broken)
        patch.setattr(socket, "socket", broken)
        patch.setattr(gc, "collect", broken)
        suite.detector.scan()
        assert texts(suite.detector.leaks_of(ONE.id)) == [str(tmp_path / "a")]


# Python warns about a fork in a process with threads, such as a worker.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_reports_nothing(suite, tmp_path, keep):
    """Its descriptors are closed with it."""
    with suite.run():
        keep((tmp_path / "a").open("w"))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with suite.run(TWO):
                os.open(tmp_path / "b", os.O_CREAT)
            found = [suite.detector.leaks_of(ONE.id), suite.detector.leaks_of(TWO.id)]
            os.write(writing, repr([*found, suite.detector.judge()]).encode())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "[[], [], []]"
    assert len(suite.detector.judge()) == 1


@pytest.fixture
def exhausted() -> Iterator[Callable[[], list[int]]]:
    """Open all descriptors that this process may open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[int] = []

    def exhaust() -> list[int]:
        highest = max(map(int, os.listdir(names.TABLE)))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 12, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, 0))
        return opened

    yield exhaust
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for each in opened:
        _close(each)


def test_no_descriptor_is_needed_to_scan(suite, keep, exhausted):
    """A test that leaks all of them is reported."""
    with suite.run():
        server = keep(socket.create_server(("127.0.0.1", 0)))
        opened = exhausted()
    leaks = suite.detector.leaks_of(ONE.id)
    assert sorted(leak.path for leak in leaks) == sorted(
        [f"fd {server.fileno()}: socket"]
        + [f"fd {each}: character device /dev/null" for each in opened]
    )
    assert "" not in lines(leaks)


def test_notes_are_kept_after_a_failed_scan(suite, tmp_path, keep, monkeypatch):
    """The next scan uses them."""

    def fail(path: str) -> list[str]:
        raise OSError(errno.ENFILE, "too many in the whole system")

    with monkeypatch.context() as patch:
        patch.setattr(System, "listdir", staticmethod(fail))
        with suite.run(ONE):
            keep((tmp_path / "a").open("w"))
        assert suite.detector.leaks_of(ONE.id) == []
    with suite.run(TWO):
        pass
    assert [leak.owner for leak in suite.detector.judge()] == [ONE]


def test_a_session_may_start_without_a_descriptor_table(monkeypatch):
    """Nothing is reported for descriptors from before."""
    with monkeypatch.context() as patch:
        patch.setattr(System, "listdir", staticmethod(lambda path: 1 / 0))
        patch.setattr(names, "_numbers", lambda known: None)
        suite = Suite()
    suite.detector.scan()
    suite.close()
    assert suite.detector.judge() == []


def test_other_platforms_are_refused_with_a_reason(monkeypatch):
    """The message lists the supported ones."""
    assert module.unsupported() is None
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        reason = module.unsupported()
    assert reason == "file descriptors can be checked on Linux and macOS, not on win32"
    monkeypatch.setattr(System, "isdir", staticmethod(lambda path: False))
    assert names.TABLE in module.unsupported()
