from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
import socket
import sys
from types import SimpleNamespace

from fds_suite import IMPORT
from fds_suite import ONE
from fds_suite import WIDE
from fds_suite import FdsSuite
from fds_suite import native
from fds_suite import on_linux
from fds_suite import texts
import pytest

from pytest_tempres.leaks.frames import FrameFilter


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
    suite = FdsSuite()
    suite.detector._frame_filter = FrameFilter(str(tmp_path))
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
def test_builtin_patterns(suite, path):
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
def test_builtin_patterns_match_nothing_else(suite, path):
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
            keep(native("open", os.fsencode(path), os.O_RDONLY))
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
        assert keep(native("open", os.fsencode(library), os.O_RDONLY)) == reading
    assert suite.detector.judge() == []


@on_linux
def test_netlink_sockets_of_libraries_are_no_leaks(suite, keep):
    """Those from Python are."""
    netlink = (int(socket.AF_NETLINK), socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with suite.run():
        keep(native("socket", *netlink))
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
    helpers = {
        "multiprocessing.resource_tracker": SimpleNamespace(_resource_tracker=tracker),
        "loky.backend.resource_tracker": SimpleNamespace(_resource_tracker=copy),
        "multiprocessing.forkserver": SimpleNamespace(_forkserver=server),
    }
    for name, helper in helpers.items():
        monkeypatch.setitem(sys.modules, name, helper)
    (leak,) = suite.detector.judge()
    assert leak.path.startswith(f"fd {pipes[3]}: ")


def test_the_private_names_of_multiprocessing_still_exist():
    """CPython may rename them."""
    tracker = importlib.import_module("multiprocessing.resource_tracker")
    server = importlib.import_module("multiprocessing.forkserver")
    assert hasattr(tracker._resource_tracker, "_fd")
    assert hasattr(server._forkserver, "_forkserver_alive_fd")
