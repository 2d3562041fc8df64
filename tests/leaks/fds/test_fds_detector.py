from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import errno
import gc
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading

from fds_suite import NARROW
from fds_suite import ONE
from fds_suite import TWO
from fds_suite import WIDE
from fds_suite import FdsSuite
from fds_suite import close
from fds_suite import lines
from fds_suite import native
from fds_suite import on_linux
from fds_suite import texts
import pytest

from pytest_tempres.leaks.fds import detector as module
from pytest_tempres.leaks.fds import names
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Detector
from pytest_tempres.leaks.model import leak_from_plain
from pytest_tempres.primitives._system import System

HERE = os.path.basename(__file__)
PAUSES = list(module._PAUSES)


def test_it_implements_the_detector_protocol(suite):
    """The session can call every method of the protocol."""
    detector: Detector = suite.detector
    assert "open" in detector.events
    assert {"open", "socket.__new__"} <= suite.origins.events


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


# -- owners


def test_descriptors_that_were_open_before_are_no_leaks(tmp_path, keep):
    """They do not belong to a test."""
    keep((tmp_path / "before").open("w"))
    suite = FdsSuite()
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
    """A leak with the number of a descriptor that was open at the start is reported."""
    number = keep(os.open(tmp_path / "a", os.O_CREAT))
    suite = FdsSuite()
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
        assert keep(native("timerfd_create", 1, 0)) == number
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
    """It does not matter which test is running."""
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


@pytest.mark.skipif(sys.platform != "linux", reason="threads of libraries are seen on Linux only")
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
    """If the system cannot list them, the detector assumes that there are some."""
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
        close(each)


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


def fail(path: str) -> list[str]:
    """Raise an error instead of listing the descriptor table."""
    raise OSError(errno.ENFILE, "too many in the whole system")


def test_recorded_events_are_kept_after_a_failed_scan(suite, tmp_path, keep, monkeypatch):
    """The next scan uses them."""
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
        patch.setattr(System, "listdir", staticmethod(fail))
        suite = FdsSuite()
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
