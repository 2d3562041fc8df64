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
    """Runs what a test does, and looks before the owner changes, as a session would."""

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
        """Return a detector that hears of nothing."""
        suite = Suite()
        suite.close()
        return suite.detector

    @contextlib.contextmanager
    def run(self, owner: Owner = ONE, test: str | None = None) -> Iterator[None]:
        """Let *owner* run."""
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
        """Listen no more."""
        deactivate(self.origins)


@pytest.fixture
def patterns() -> tuple[str, ...]:
    """What the ini file lets stay."""
    return ()


@pytest.fixture
def suite(patterns) -> Iterator[Suite]:
    """A session that has begun."""
    suite = Suite(patterns)
    yield suite
    suite.close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """How long the detector would have waited: it does not here."""
    pauses: list[float] = []
    monkeypatch.setattr(System, "sleep", staticmethod(pauses.append))
    monkeypatch.setattr(module, "_has_threads_or_children", lambda: True)
    return pauses


@pytest.fixture
def keep() -> Iterator[Callable[[object], object]]:
    """Keep something open until the test is over."""
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
    """Return what *leaks* say behind the number."""
    return [leak.path.partition(": ")[2] for leak in leaks]


def lines(leaks: list[Leak]) -> list[str]:
    """Return the functions that are nearest in the origins of *leaks*."""
    return [leak.entry.origin[0].function if leak.entry.origin else "" for leak in leaks]


def test_it_is_a_detector(suite):
    """The front knows detectors by their protocol."""
    detector: Detector = suite.detector
    assert "open" in detector.events
    assert {"open", "socket.__new__"} <= suite.origins.events


# -- what is told


def test_a_record_tells_number_target_owner_and_line(suite, tmp_path, keep):
    """What is needed to find and fix it stands in one record, which JSON can carry."""
    with suite.run():
        file = keep((tmp_path / "a").open("w"))
    (leak,) = suite.detector.judge()
    path = str(tmp_path / "a")
    assert leak[:6] == ("descriptor", f"fd {file.fileno()}: {path}", 0, 1, True, "leak")
    assert leak.entry[:4] == (path, ONE, ONE.id, "call")
    assert (leak.entry.made_by, leak.entry.worker) == ("python", "gw0")
    frame = leak.entry.origin[0]
    assert (frame.file, frame.function) == (
        HERE,
        "test_a_record_tells_number_target_owner_and_line",
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
def test_each_kind_is_named_in_words(suite, tmp_path, keep, make, text, target, size):
    """A person is told what it is, and patterns are asked with its path or with the words."""
    with suite.run():
        number = keep(make(tmp_path))
    (leak,) = suite.detector.judge()
    assert leak.path == f"fd {number}: {text.format(p=tmp_path)}"
    assert fnmatchcase(leak.entry.path, target.format(p=tmp_path))
    assert leak.bytes == size
    assert suite.asked[0] == leak.entry.path


def test_block_devices_are_named():
    """They cannot be opened in every place, but they have a name."""
    assert names._kind(0, stat.S_IFBLK) == "block device"


def test_sockets_are_named_by_protocol_and_addresses(suite, keep):
    """Who listens, and who speaks with whom, is what tells one socket from the other."""
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
        # Nothing was bound, so there is no address.
        f"fd {datagrams.fileno()}: UDP socket",
    ]


def test_local_sockets_are_named_by_path(suite, tmp_path_factory, keep):
    """A socket in the file system has a path, and of a pair neither has."""
    path = str(tmp_path_factory.mktemp("s") / "s")
    with suite.run():
        keep(socket.socket(socket.AF_UNIX)).bind(path)
        for each in socket.socketpair():
            keep(each)
    assert texts(suite.detector.judge()) == [f"Unix socket {path}", "Unix socket", "Unix socket"]


@on_linux
def test_other_sockets_are_named_too(suite, keep):
    """Names outside the file system begin with an at sign; other families have a name at least."""
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
def test_addresses_are_told_as_people_write_them(address, text):
    """An address that says nothing is left out."""
    assert names._address(lambda: address) == text


@given(st.integers(), st.integers())
def test_every_protocol_has_a_name(family, kind):
    """What no table knows is told by its number."""
    assert names._protocol(family, kind)


@given(st.text())
def test_every_name_of_the_kernel_is_told(name):
    """What a future kernel calls its things is repeated as it is."""
    status = SimpleNamespace(st_mode=0)
    assert names._unnamed(0, status, name) or name.startswith("anon_inode:")


def test_what_cannot_be_asked_is_named_all_the_same():
    """Not every family of sockets knows every question, and not every file has a name."""

    def refuse(*args: int) -> int:
        raise OSError(errno.ENOPROTOOPT, "no such option")

    assert not names._is_listening(SimpleNamespace(getsockopt=refuse))
    assert names._address(refuse) == ""
    status = SimpleNamespace(st_mode=stat.S_IFREG)
    assert names._unnamed(0, status, "") == "unlinked file"
    assert names._unnamed(0, SimpleNamespace(st_mode=0), "") == "something without a name"


def test_asking_a_socket_changes_nothing(suite, keep):
    """With a default timeout Python makes non-blocking what it wraps; the test's own stays."""
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


def test_what_is_closed_has_no_description():
    """Between the look and the question anything may be closed."""
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    assert names.describe(writing) is None
    assert names.identity(writing) is None
    assert names.target(writing) == ""
    assert names.mode(writing) == 0


# -- who owns it


def test_only_what_is_new_counts(tmp_path, keep):
    """What was open at the beginning is nobody's."""
    keep((tmp_path / "before").open("w"))
    suite = Suite()
    with suite.run():
        pass
    suite.close()
    assert suite.detector.judge() == []


def test_what_is_closed_in_time_is_no_leak(suite, tmp_path):
    """Most descriptors live for a few lines, some from one fixture to the next."""
    with suite.run():
        (tmp_path / "a").write_text("x")
        file = (tmp_path / "a").open()
    with suite.run(NARROW, ONE.id):
        file.close()
    assert suite.detector.due(ONE.id) == []
    assert suite.detector.judge() == []


def test_a_fixture_owns_what_its_setup_opens(suite, tmp_path, keep):
    """What a wider fixture holds is no leak of the test that came first, and due at the end."""
    with suite.run(WIDE, ONE.id):
        keep((tmp_path / "server.log").open("w"))
    with suite.run(ONE):
        pass
    assert suite.detector.due(ONE.id) == []
    assert [leak.owner for leak in suite.detector.judge()] == [WIDE]


def test_a_test_answers_for_its_own_fixtures(suite, tmp_path, keep):
    """Function-scoped fixtures are over with their test, and so is what they opened."""
    with suite.run(NARROW, ONE.id):
        keep((tmp_path / "a").open("w"))
    with suite.run(ONE):
        keep((tmp_path / "b").open("w"))
    with suite.run(TWO):
        keep((tmp_path / "c").open("w"))
    assert [leak.owner for leak in suite.detector.due(ONE.id)] == [NARROW, ONE]
    assert [leak.owner for leak in suite.detector.due(TWO.id)] == [TWO]
    assert [leak.owner for leak in suite.detector.judge()] == [NARROW, ONE, TWO]


def test_connections_are_due_at_the_end(suite, keep, pauses):
    """Pools that outlive a test connect when it needs them; a test's own are told at the end."""
    with suite.run():
        server = keep(socket.create_server(("127.0.0.1", 0)))
        keep(socket.create_connection(server.getsockname()))
    (leak,) = suite.detector.due(ONE.id)
    assert leak.path.startswith(f"fd {server.fileno()}: ")
    assert leak.path.endswith(", listening")
    assert len(suite.detector.judge()) == 2
    with suite.run(TWO):
        keep(socket.create_connection(server.getsockname()))
    pauses.clear()
    assert suite.detector.due(TWO.id) == pauses == []
    assert len(suite.detector.judge()) == 3


def test_the_session_owns_nothing(suite, tmp_path, keep):
    """What other plugins open ends with the process, like the log file of pytest."""
    keep((tmp_path / "pytest.log").open("w"))
    reading, writing = os.pipe()
    keep(reading)
    keep(writing)
    assert suite.running.owner == SESSION
    assert suite.detector.judge() == []
    with suite.run():
        pass
    assert suite.detector.judge() == []


def test_an_event_tells_the_owner_better_than_a_look(suite, tmp_path, keep):
    """Who was running when it was opened owns it, although the look came later."""
    with suite.run(ONE):
        keep((tmp_path / "a").open("w"))
        # No look could be taken when the owner changed.
        suite.running.owner, suite.running.test = TWO, TWO.id
        keep(os.dup(0))
    owners = {leak.entry.path: leak.owner for leak in suite.detector.judge()}
    assert owners[str(tmp_path / "a")] == ONE
    assert set(owners.values()) <= {ONE, TWO}


def test_another_file_under_the_same_number_is_another_descriptor(suite, tmp_path, keep):
    """Numbers are used again at once: what counts is what stands behind them."""
    with suite.run(ONE):
        number = keep(os.open(tmp_path / "a", os.O_CREAT))
    with suite.run(TWO):
        os.close(number)
        assert os.open(tmp_path / "b", os.O_CREAT) == number
    assert suite.detector.due(ONE.id) == []
    (leak,) = suite.detector.judge()
    assert (leak.path, leak.owner) == (f"fd {number}: {tmp_path / 'b'}", TWO)


def test_a_number_from_before_can_be_used_again(tmp_path, keep):
    """What was open at the beginning may be closed, and its number given to a leak."""
    number = keep(os.open(tmp_path / "a", os.O_CREAT))
    suite = Suite()
    with suite.run():
        os.close(number)
        assert os.open(tmp_path / "b", os.O_CREAT) == number
    suite.close()
    assert texts(suite.detector.judge()) == [str(tmp_path / "b")]


@on_linux
def test_what_shares_one_inode_is_told_apart_by_name(suite, keep):
    """To the kernel an epoll and a timer are the same file; to a person they are not."""
    with suite.run(ONE):
        epoll = select.epoll()
        number = epoll.fileno()
    with suite.run(TWO):
        epoll.close()
        assert keep(_native("timerfd_create", 1, 0)) == number
    (leak,) = suite.detector.judge()
    assert (texts([leak]), leak.owner) == (["timerfd"], TWO)


def test_the_standard_streams_are_nobodys(suite, tmp_path):
    """Output that is captured lets them point elsewhere between any two looks."""
    saved = os.dup(1)
    with (tmp_path / "a").open("w") as file:
        try:
            with suite.run():
                os.dup2(file.fileno(), 1)
            assert str(tmp_path / "a") not in [leak.entry.path for leak in suite.detector.judge()]
        finally:
            os.dup2(saved, 1)
            os.close(saved)


def test_what_a_running_server_opens_is_its_fixtures(suite, tmp_path, keep):
    """A thread that a wider fixture started works for it, whichever test is running."""
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
    assert suite.detector.due(TWO.id) == []
    assert [leak.owner for leak in suite.detector.judge()] == [WIDE]


@pytest.mark.parametrize("starter", [ONE, NARROW])
def test_threads_of_one_test_work_for_the_next(suite, tmp_path, keep, starter):
    """A pool that a test started and left is used by others; nobody is blamed after his end."""
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


# -- which line opened it


def _open_it(path: Path) -> object:
    return path.open("a")


def test_a_file_is_led_to_its_own_line(suite, tmp_path, keep):
    """The same file was written and read by other lines, which closed it again."""
    path = tmp_path / "log"
    with suite.run():
        path.write_text("x")
        keep(_open_it(path))
        path.read_text()
    assert lines(suite.detector.judge()) == ["_open_it"]


def test_as_many_openings_of_a_file_have_as_many_lines(suite, tmp_path, keep):
    """Numbers rise with time, so the first number belongs to the first line."""

    def first() -> None:
        keep((tmp_path / "a").open("a"))

    def second() -> None:
        keep((tmp_path / "a").open("a"))

    with suite.run():
        first()
        second()
    assert lines(suite.detector.judge()) == ["first", "second"]


def test_a_duplicate_has_the_line_of_its_original(suite, tmp_path, keep):
    """`os.dup` tells nobody, but what it copies was opened by a line."""
    with suite.run():
        keep(os.dup(keep(_open_it(tmp_path / "a")).fileno()))
    assert lines(suite.detector.judge()) == ["_open_it", "_open_it"]


def test_paths_lead_to_a_line_however_they_are_spelled(suite, tmp_path, keep, monkeypatch):
    """The kernel knows one spelling; code uses links, bytes and relative paths."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    with suite.run():
        keep(os.open("link/../a", os.O_CREAT))
        keep(os.open(b"link/b", os.O_CREAT))
        keep(os.open(tmp_path / "link" / "c", os.O_CREAT))
    assert (
        lines(suite.detector.judge()) == ["test_paths_lead_to_a_line_however_they_are_spelled"] * 3
    )


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
def test_what_has_no_path_has_a_line(suite, tmp_path, keep, make):
    """Python tells of sockets, and of numbers that become a file; only a bare pipe is silent."""
    with suite.run():
        made = make()
        for each in made if isinstance(made, tuple) else (made,):
            keep(each)
    leaks = suite.detector.judge()
    assert leaks
    assert set(lines(leaks)) == {make.__name__}


def test_a_database_has_a_line_with_all_its_files(suite, tmp_path, keep):
    """SQLite opens its files itself, and more than one."""
    with suite.run():
        database = keep(sqlite3.connect(tmp_path / "db"))
        database.execute("pragma journal_mode=wal")
        database.execute("create table t(a)")
    leaks = suite.detector.judge()
    assert [os.path.basename(leak.entry.path) for leak in leaks] == ["db", "db-wal", "db-shm"]
    assert set(lines(leaks)) == {"test_a_database_has_a_line_with_all_its_files"}


def test_a_listing_that_is_not_finished_has_a_line(suite, tmp_path, keep, monkeypatch):
    """An iterator of `os.scandir` holds a directory, the current one when none is named."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / name).touch()
    with suite.run():
        next(keep(os.scandir()))
    leaks = suite.detector.judge()
    assert texts(leaks) == [f"directory {tmp_path}"]
    assert lines(leaks) == ["test_a_listing_that_is_not_finished_has_a_line"]


@on_linux
def test_a_detached_socket_has_a_line_where_only_one_can_be(suite, keep):
    """Of multiprocessing's pipes nothing is left but the number; a guess is worse than nothing."""

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


def test_what_no_event_tells_of_has_no_line(suite, keep):
    """A bare pipe has an owner all the same."""
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
def test_what_events_say(tmp_path, monkeypatch, event, args, what, flags):
    """A note has the absolute path or the number, and who was running. (Hooks are not traced.)"""
    monkeypatch.chdir(tmp_path)
    detector = Suite.silent()
    detector.on_event(event, args)
    ((noted, found, hint),) = detector._openings.take()
    assert (noted, found) == (what.format(cwd=tmp_path) if isinstance(what, str) else what, flags)
    assert hint.owner == SESSION
    assert "test_what_events_say" in [code.co_name for code, _ in hint.stack[:2]]


def test_sockets_are_noted_without_being_held():
    """The note finds the number later on, as long as somebody holds the socket."""
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
def test_what_tells_nothing_is_passed_over(event, args):
    """A session reads thousands of compiled modules and closes each of them."""
    detector = Suite.silent()
    detector.on_event(event, args)
    assert detector._openings.take() == []


def test_notes_do_not_grow(suite, tmp_path):
    """What is opened and closed again leaves nothing in memory, during a test and after it."""
    most = openings._MAX_NOTED

    def write() -> None:
        for number in range(most + 50):
            (tmp_path / str(number)).write_text("")

    with suite.run():
        write()
        assert len(suite.detector._openings._noted) == 50
        # Another thread cannot look, since this one may be looking.
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        assert len(suite.detector._openings._noted) == most
    assert len(suite.detector._openings._noted) == 0
    assert suite.detector._entries == {}


def test_however_many_are_opened_each_has_its_line(suite, tmp_path, keep, monkeypatch):
    """Before notes are too many to keep, a look takes down what came of them."""
    monkeypatch.setattr(openings, "_MAX_NOTED", 3)
    suite.detector._openings.take()
    with suite.run():
        for number in range(8):
            keep(_open_it(tmp_path / str(number)))
    assert lines(suite.detector.judge()) == ["_open_it"] * 8


def test_a_note_keeps_no_socket_open(suite):
    """A socket that is forgotten is closed as without us."""
    with suite.run():
        made = socket.socket()
        number = made.detach()
        again = socket.socket(fileno=number)
        with pytest.warns(ResourceWarning):
            del again
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(number)


def test_unusual_sockets_are_no_trouble(suite, keep):
    """The class below `socket.socket` takes no weak reference, and its event is passed over."""
    with suite.run():
        raw = keep(socket.SocketType())
        suite.detector.on_event("socket.__new__", (raw, 0, 0, 0))
        keep(os.dup(raw.fileno()))
    assert [leak.owner for leak in suite.detector.judge()] == [ONE, ONE]


# -- what may stay


def _opened_by_import(directory: Path, text: str, monkeypatch) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "opens_at_import.py").write_text(text)
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delitem(sys.modules, "opens_at_import", raising=False)
    importlib.invalidate_caches()
    importlib.import_module("opens_at_import")


@pytest.mark.parametrize("owner", [ONE, WIDE, IMPORT])
def test_what_a_librarys_import_opens_is_nobodys(suite, tmp_path, monkeypatch, owner, keep):
    """Whoever imports it first would be blamed for what lives as long as the module."""
    text = f"import os; FILE = os.open({str(tmp_path / 'cache')!r}, os.O_CREAT)"
    with suite.run(owner):
        _opened_by_import(tmp_path / "site-packages", text, monkeypatch)
    keep(sys.modules["opens_at_import"].FILE)
    assert suite.detector.judge() == []


def test_what_an_import_opens_in_silence_is_nobodys(suite, keep):
    """While a module is collected, libraries make pipes and the like for their own use."""
    with suite.run(IMPORT):
        for each in os.pipe():
            keep(each)
    assert suite.detector.judge() == []


def test_a_line_of_the_project_is_told_even_in_an_import(tmp_path, monkeypatch, keep):
    """What the suite's own module opens at its top is its own to close."""
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
def test_shipped_exceptions(suite, path):
    """What nobody closes and nobody is to blame for is not spoken of."""
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
def test_no_exception_is_wider_than_meant(suite, path):
    """Data, devices and a project's own sources are closed by whoever opened them."""
    assert not suite.detector._is_allowed(path)
    assert suite.asked == [path]


@pytest.fixture
def library(tmp_path) -> Path:
    """A shared library, under a link by which programs know it."""
    (tmp_path / "libffi.so.8.5.0").write_bytes(b"\x7fELF")
    (tmp_path / "libffi.so.8").symlink_to("libffi.so.8.5.0")
    return tmp_path / "libffi.so.8"


def test_what_a_library_opens_for_itself_is_nobodys(suite, library, keep, pauses):
    """It is opened at the first use, in silence, and kept: the first user has nothing to close."""
    with suite.run():
        library.write_bytes(b"made by Python, and closed")
        for path in (library, "/dev/urandom", "/dev/random"):
            keep(_native("open", os.fsencode(path), os.O_RDONLY))
    assert suite.detector.due(ONE.id) == suite.detector.judge() == []
    assert pauses == []


@pytest.mark.parametrize("opened", [os.open, open], ids=["os", "io"])
def test_what_python_opens_of_the_same_kind_is_a_leak(suite, library, keep, opened):
    """Who reads random numbers or a library in Python closes what was opened for it."""
    how = os.O_RDONLY if opened is os.open else "rb"
    with suite.run():
        for path in (str(library), "/dev/urandom"):
            keep(opened(path, how))
    leaks = suite.detector.judge()
    assert sorted(texts(leaks)) == [f"{library}.5.0", "character device /dev/urandom"]
    assert {leak.entry.made_by for leak in leaks} == {"python"}


def test_a_number_that_python_used_before_makes_no_opener(suite, library, keep):
    """A library may be given the number of a pipe that Python has read and closed."""
    with suite.run():
        reading, writing = os.pipe()
        os.close(writing)
        os.fdopen(reading).close()
        assert keep(_native("open", os.fsencode(library), os.O_RDONLY)) == reading
    assert suite.detector.judge() == []


@on_linux
def test_a_library_that_asks_the_kernel_is_nobodys(suite, keep):
    """Resolvers and network libraries keep sockets of a kind that Python announces."""
    netlink = (int(socket.AF_NETLINK), socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with suite.run():
        keep(_native("socket", *netlink))
    assert suite.detector.judge() == []
    with suite.run():
        keep(socket.socket(*netlink))
    assert texts(suite.detector.judge()) == ["AF_NETLINK socket"]


@pytest.mark.parametrize("patterns", [("read end of a pipe", "/dev/null")])
def test_the_ini_file_lets_things_stay(suite, keep, pauses):
    """Paths and words are asked about, and nobody waits for what may stay."""
    with suite.run():
        reading, writing = os.pipe()
        keep(reading)
        os.close(writing)
        keep(os.open("/dev/null", 0))
    assert suite.detector.due(ONE.id) == suite.detector.judge() == []
    assert pauses == []


def test_the_servants_of_multiprocessing_are_nobodys(suite, keep, monkeypatch):
    """They are started once for a process, by the first test that needs shared memory."""
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


def test_multiprocessing_calls_them_so_still():
    """The names are private: should one change, this test tells before a user does."""
    tracker = importlib.import_module("multiprocessing.resource_tracker")
    server = importlib.import_module("multiprocessing.forkserver")
    assert hasattr(tracker._resource_tracker, "_fd")
    assert hasattr(server._forkserver, "_forkserver_alive_fd")


# -- the second look


def test_garbage_closes_what_it_holds(suite, tmp_path, pauses):
    """An object in a reference cycle has its chance before anybody is accused."""

    class Holder:
        pass

    gc.disable()
    try:
        with suite.run():
            holder = Holder()
            holder.itself, holder.file = holder, os.fdopen(os.open(tmp_path / "a", os.O_CREAT))
            del holder
        with pytest.warns(ResourceWarning):
            assert suite.detector.due(ONE.id) == []
    finally:
        gc.enable()
    assert pauses == []


def test_garbage_is_collected_only_for_a_suspect(suite, tmp_path, keep, monkeypatch):
    """A collection costs more than most tests, so one without a suspect goes without."""
    collected = []
    monkeypatch.setattr(suite.detector, "_collect", lambda: collected.append(1))
    with suite.run():
        (tmp_path / "a").touch()
        keep(os.open(os.__file__, 0))
    suite.detector.due(ONE.id)
    suite.detector.judge()
    assert collected == []
    with suite.run():
        keep((tmp_path / "a").open())
    suite.detector.due(ONE.id)
    assert collected == [1]


def test_who_is_about_to_close_is_waited_for(suite, tmp_path, monkeypatch):
    """A server's thread closes a connection a moment after its client has gone."""
    slept = []
    with suite.run():
        number = os.open(tmp_path / "a", os.O_CREAT)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            os.close(number)

    monkeypatch.setattr(System, "sleep", staticmethod(sleep))
    assert suite.detector.due(ONE.id) == []
    assert slept == PAUSES[:3]


def test_who_is_alone_is_not_waited_for(suite, tmp_path, keep, pauses, monkeypatch):
    """Nobody else is there to close anything: hundreds of leaks would wait for nothing."""
    monkeypatch.setattr(module, "_has_threads_or_children", lambda: False)
    with suite.run():
        keep((tmp_path / "a").open("w"))
    assert len(suite.detector.due(ONE.id)) == 1
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
def test_threads_and_children_are_somebody(start, runs):
    """Either may be about to close what is open here; what cannot be told may be so."""
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


def test_the_wait_has_an_end(suite, tmp_path, keep, pauses):
    """It doubles, it is over in less than a tenth of a second, and it is one for all at the end."""
    with suite.run(ONE):
        keep((tmp_path / "a").open("w"))
    with suite.run(TWO):
        keep((tmp_path / "b").open("w"))
    assert len(suite.detector.judge()) == 2
    assert pauses == PAUSES == [PAUSES[0] * 2**each for each in range(len(PAUSES))]
    assert sum(PAUSES) < 0.1


def test_a_number_given_to_another_in_the_meantime_is_no_leak(suite, tmp_path, keep, monkeypatch):
    """Whoever got the number while we waited is not to blame either."""
    with suite.run():
        number = keep(os.open(tmp_path / "a", os.O_CREAT))

    def sleep(seconds: float) -> None:
        os.close(number)
        assert os.open(tmp_path / "b", os.O_CREAT) == number

    monkeypatch.setattr(System, "sleep", staticmethod(sleep))
    assert suite.detector.due(ONE.id) == []


# -- where nothing works as usual


def test_tests_may_replace_what_we_use(suite, tmp_path, keep, monkeypatch):
    """A test's own fakes reach neither the look nor the judgement."""

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
        assert texts(suite.detector.due(ONE.id)) == [str(tmp_path / "a")]


# Python warns of a fork in a process with threads, such as a worker.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_says_nothing(suite, tmp_path, keep):
    """The parent's book is not the child's, and what a child opens ends with it."""
    with suite.run():
        keep((tmp_path / "a").open("w"))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with suite.run(TWO):
                os.open(tmp_path / "b", os.O_CREAT)
            found = [suite.detector.due(ONE.id), suite.detector.due(TWO.id)]
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
    """Open all that this process may open."""
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


def test_not_a_single_descriptor_is_needed(suite, keep, exhausted):
    """Who has opened all that can be opened is told so, each with its line."""
    with suite.run():
        server = keep(socket.create_server(("127.0.0.1", 0)))
        opened = exhausted()
    leaks = suite.detector.due(ONE.id)
    assert sorted(leak.path for leak in leaks) == sorted(
        [f"fd {server.fileno()}: socket"]
        + [f"fd {each}: character device /dev/null" for each in opened]
    )
    assert "" not in lines(leaks)


def test_a_look_that_fails_is_made_up_for(suite, tmp_path, keep, monkeypatch):
    """When nobody can look, the events of that time are kept for the next look."""

    def fail(path: str) -> list[str]:
        raise OSError(errno.ENFILE, "too many in the whole system")

    with monkeypatch.context() as patch:
        patch.setattr(System, "listdir", staticmethod(fail))
        with suite.run(ONE):
            keep((tmp_path / "a").open("w"))
        assert suite.detector.due(ONE.id) == []
    with suite.run(TWO):
        pass
    assert [leak.owner for leak in suite.detector.judge()] == [ONE]


def test_a_session_can_begin_where_nobody_can_look(monkeypatch):
    """Then nothing is known to be old, and nobody is accused of what the session had."""
    with monkeypatch.context() as patch:
        patch.setattr(System, "listdir", staticmethod(lambda path: 1 / 0))
        patch.setattr(names, "_numbers", lambda known: None)
        suite = Suite()
    suite.detector.scan()
    suite.close()
    assert suite.detector.judge() == []


def test_other_platforms_are_refused_with_a_reason(monkeypatch):
    """Whoever asks for it in vain is told where it works."""
    assert module.unsupported() is None
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        reason = module.unsupported()
    assert reason == "file descriptors can be checked on Linux and macOS, not on win32"
    monkeypatch.setattr(System, "isdir", staticmethod(lambda path: False))
    assert names.TABLE in module.unsupported()
