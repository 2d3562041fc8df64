from __future__ import annotations

import errno
from fnmatch import fnmatchcase
import importlib
import os
from pathlib import Path
import socket
import stat
from types import SimpleNamespace

from fds_suite import native
from fds_suite import on_linux
from fds_suite import texts
from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres.leaks.fds import names


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


def _signals(path: Path) -> int:
    ctypes = importlib.import_module("ctypes")
    return native("signalfd", -1, (ctypes.c_ulong * 16)(), 0)


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
        pytest.param(lambda p: native("epoll_create", 1), "epoll", "epoll", 0, marks=on_linux),
        pytest.param(lambda p: os.eventfd(0), "eventfd", "eventfd", 0, marks=on_linux),
        pytest.param(
            lambda p: native("timerfd_create", 1, 0), "timerfd", "timerfd", 0, marks=on_linux
        ),
        pytest.param(_signals, "signalfd", "signalfd", 0, marks=on_linux),
        pytest.param(lambda p: native("inotify_init"), "inotify", "inotify", 0, marks=on_linux),
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
    assert names._unnamed(0, SimpleNamespace(st_mode=0), "") == "unknown descriptor"


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
