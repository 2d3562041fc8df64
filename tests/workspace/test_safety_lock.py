"""Nothing but the end of a session gives its lock up: no fork, no exec, no other container."""

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

from dangers import lowest_descriptor
from dangers import plant
from dangers import sweep
import pytest

from pytest_tempres.workspace import lock
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.root import create


def wait_for(pipe: int) -> bytes:
    """Read what a child has to say; nothing when all who could say it are gone."""
    return os.read(pipe, 1)


def test_no_way_to_start_a_program_hands_the_lock_on(tmp_path, root):
    """Neither exec nor posix_spawn: the lock ends with its process, not with a daemon of its."""
    assert not os.get_inheritable(root.lock_fd)
    program = [sys.executable, "-S", "-c", f"import os; os.fstat({root.lock_fd})"]
    quiet = subprocess.run(program, close_fds=False, capture_output=True, check=False)
    null = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(program[0], program, os.environ, file_actions=null)
    spawned = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert (quiet.returncode, spawned) == (1, 1)


@pytest.mark.parametrize("native", [False, True])
def test_a_child_that_outlives_a_killed_session(tmp_path, dead, in_child, native):
    """A forked child does not hold its parent's root; one of native code does: late, not wrong."""
    place = tmp_path / "place"
    place.mkdir()
    told, tell = os.pipe()
    go, let_go = os.pipe()

    def session() -> None:
        root = create(str(place), mode=0o700, about={})
        plant(Path(root.add_worker("main", 0o700).path, "tree"))
        pid = ctypes.PyDLL(None).fork() if native else os.fork()
        if pid == 0:
            os.close(let_go)
            os.write(tell, b"x")
            os.read(go, 1)
            os._exit(0)
        os.waitpid(-1, os.WNOHANG)
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        in_child(session)
        assert wait_for(told) == b"x"
        assert sweep(place) == (0 if native else 1)
        os.close(tell)
        os.close(let_go)
        assert wait_for(told) == b""
        # Its descriptors go one by one, and the end of the pipe may come before that of the lock.
        for _ in range(10_000):
            if not native or sweep(place):
                break
        assert os.listdir(place) == []
    finally:
        os.close(told)
        os.close(go)


def test_a_session_in_another_container_is_alive_until_it_dies(tmp_path, namespace, in_child):
    """A process number means nothing across containers that share a directory; the lock does."""
    told, tell = os.pipe()

    def child() -> None:
        namespace.enter("mount", "pid")
        pid = os.fork()
        if pid:
            os.write(tell, b"%d\n" % pid)
            os.waitpid(pid, 0)
            return
        root = create(str(tmp_path), mode=0o700, about={})
        plant(Path(root.add_worker("main", 0o700).path, "tree"))
        os.write(tell, b"%d\n" % os.getpid())
        signal.pause()

    def elsewhere() -> bool:
        namespace.enter("pid")
        pid = os.fork()
        if pid == 0:
            os._exit(sweep(tmp_path))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    thread = threading.Thread(target=in_child, args=(child,))
    thread.start()
    with os.fdopen(told) as lines:
        outside, inside = sorted((int(lines.readline()), int(lines.readline())), reverse=True)
        assert inside == 1
        try:
            assert sweep(tmp_path) == 0
            assert in_child(elsewhere)
            (root,) = tmp_path.iterdir()
            assert json.loads((root / BREADCRUMB).read_text())["pid"] == 1
            assert (root / "main" / "tree" / "deep" / "deeper" / "file").exists()
        finally:
            os.kill(outside, signal.SIGKILL)
            thread.join()
            os.close(tell)
    assert sweep(tmp_path) == 1
    assert os.listdir(tmp_path) == []


def test_a_session_that_could_not_lock_is_not_dead_when_locks_come_back(
    tmp_path, make, monkeypatch
):
    """NFS without its lock service for a while: who began then is never taken for dead."""
    real = lock._lock

    def refuse(fd: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    for name in ("_lock", "_share"):
        if hasattr(lock, name):
            monkeypatch.setattr(lock, name, refuse)
    root = make(tmp_path)
    plant(Path(root.add_worker("main", 0o700).path, "tree"))
    monkeypatch.undo()
    assert lock._lock is real
    before = lowest_descriptor()
    assert sweep(tmp_path) == 0
    assert lowest_descriptor() == before
    assert os.path.exists(os.path.join(root.path, "main", "tree", "file"))
    assert root.remove(os.path.join(root.path, "main", "tree")) == []
    assert root.remove_if_empty()
    assert os.listdir(tmp_path) == []
