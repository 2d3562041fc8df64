"""The lock of a session, which no fork, exec or other container releases."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading

import pytest
from safety_helpers import lowest_descriptor
from safety_helpers import make_tree
from safety_helpers import sweep

from pytest_tempres.workspace import lock
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.root import create


def read_byte(pipe: int) -> bytes:
    """Read one byte from a child; return nothing if it has closed the pipe."""
    return os.read(pipe, 1)


def test_no_subprocess_inherits_the_lock(tmp_path, root):
    """A daemon that was started with exec or posix_spawn does not keep a session alive."""
    assert not os.get_inheritable(root.lock_fd)
    program = [sys.executable, "-S", "-c", f"import os; os.fstat({root.lock_fd})"]
    quiet = subprocess.run(program, close_fds=False, capture_output=True, check=False)
    null = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(program[0], program, os.environ, file_actions=null)
    spawned = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert (quiet.returncode, spawned) == (1, 1)


@pytest.mark.parametrize("native", [False, True])
def test_a_child_that_outlives_a_killed_session(tmp_path, dead, in_child, native):
    """A forked child does not hold the root; a child of native code does until it exits."""
    place = tmp_path / "place"
    place.mkdir()
    reader, writer = os.pipe()
    go_reader, go_writer = os.pipe()

    def session() -> None:
        root = create(str(place), mode=0o700, metadata={})
        make_tree(Path(root.add_worker("main", 0o700).path, "tree"))
        pid = ctypes.PyDLL(None).fork() if native else os.fork()
        if pid == 0:
            os.close(go_writer)
            os.write(writer, b"x")
            os.read(go_reader, 1)
            os._exit(0)
        os.waitpid(-1, os.WNOHANG)
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        in_child(session)
        assert read_byte(reader) == b"x"
        assert sweep(place) == (0 if native else 1)
        os.close(writer)
        os.close(go_writer)
        assert read_byte(reader) == b""
        # The kernel closes its descriptors one by one, and the pipe may be closed before the lock.
        for _ in range(10_000):
            if not native or sweep(place):
                break
        assert os.listdir(place) == []
    finally:
        os.close(reader)
        os.close(go_reader)


def test_a_session_in_another_container_is_alive_until_it_dies(tmp_path, namespace, in_child):
    """The lock works across process namespaces, in which process numbers have no meaning."""
    reader, writer = os.pipe()

    def child() -> None:
        namespace.enter("mount", "pid")
        pid = os.fork()
        if pid:
            os.write(writer, b"%d\n" % pid)
            os.waitpid(pid, 0)
            return
        root = create(str(tmp_path), mode=0o700, metadata={})
        make_tree(Path(root.add_worker("main", 0o700).path, "tree"))
        os.write(writer, b"%d\n" % os.getpid())
        signal.pause()

    def sweep_in_container() -> bool:
        namespace.enter("pid")
        pid = os.fork()
        if pid == 0:
            os._exit(sweep(tmp_path))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    thread = threading.Thread(target=in_child, args=(child,))
    thread.start()
    with os.fdopen(reader) as lines:
        outside, inside = sorted((int(lines.readline()), int(lines.readline())), reverse=True)
        assert inside == 1
        try:
            assert sweep(tmp_path) == 0
            assert in_child(sweep_in_container)
            (root,) = tmp_path.iterdir()
            assert json.loads((root / BREADCRUMB).read_text())["pid"] == 1
            assert (root / "main" / "tree" / "deep" / "deeper" / "file").exists()
        finally:
            os.kill(outside, signal.SIGKILL)
            thread.join()
            os.close(writer)
    assert sweep(tmp_path) == 1
    assert os.listdir(tmp_path) == []


def test_a_session_without_a_lock_counts_as_alive_when_locks_work_again(
    tmp_path, make, monkeypatch
):
    """On NFS the lock service may be unavailable for some time."""
    real = lock._lock_exclusive

    def refuse(fd: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    for name in ("_lock_exclusive", "_lock_shared"):
        if hasattr(lock, name):
            monkeypatch.setattr(lock, name, refuse)
    root = make(tmp_path)
    make_tree(Path(root.add_worker("main", 0o700).path, "tree"))
    monkeypatch.undo()
    assert lock._lock_exclusive is real
    before = lowest_descriptor()
    assert sweep(tmp_path) == 0
    assert lowest_descriptor() == before
    assert os.path.exists(os.path.join(root.path, "main", "tree", "file"))
    assert root.remove(os.path.join(root.path, "main", "tree")) == []
    assert root.remove_if_empty()
    assert os.listdir(tmp_path) == []
