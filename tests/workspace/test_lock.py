from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from pytest_tempres.workspace import lock


@pytest.fixture
def path(tmp_path):
    """Where the lock file is to stand."""
    return str(tmp_path / ".lock")


@pytest.fixture
def held(path):
    """A descriptor that holds the lock."""
    fd = lock.acquire(path)
    yield fd
    lock.release(fd)


def refuse(fd):
    """Lock nothing, as a file system without locks."""
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_lock_that_is_held_cannot_be_taken(path, held):
    """A session that lives cannot be mistaken for a dead one, not even by its own process."""
    assert lock.take(path) is None


def test_a_lock_that_was_released_can_be_taken(path, held):
    """A session that ended can be swept."""
    lock.release(held)
    fd = lock.take(path)
    assert fd is not None
    assert lock.take(path) is None
    lock.release(fd)


def test_releasing_twice_does_not_close_somebody_elses_descriptor(path, held):
    """A second release does nothing, since the number may be another file's by then."""
    lock.release(held)
    other = os.open(path, os.O_RDONLY)
    if other != held:
        os.dup2(other, held)
        os.close(other)
    lock.release(held)
    os.fstat(held)
    os.close(held)


def test_releasing_survives_a_descriptor_that_was_closed(held):
    """A program that closes every descriptor does not break the end of the session."""
    os.close(held)
    lock.release(held)
    assert held not in lock._held


def test_acquire_refuses_a_file_that_exists(path, held):
    """A lock is made, never found: what stands there may be anybody's."""
    with pytest.raises(FileExistsError):
        lock.acquire(path)


def test_take_does_not_follow_a_link(tmp_path, path):
    """A link in the lock's place opens nothing, so its session counts as alive."""
    (tmp_path / "real").write_text("")
    os.symlink("real", path)
    assert lock.take(path) is None


def test_take_makes_nothing(tmp_path, path):
    """Where there is no lock file nobody can tell, and none is made."""
    assert lock.take(path) is None
    assert list(tmp_path.iterdir()) == []


def test_without_locks_a_session_starts_and_is_never_taken_for_dead(path, monkeypatch):
    """On a file system without locks a session works, and in doubt it is alive."""
    monkeypatch.setattr(lock, "_lock", refuse)
    fd = lock.acquire(path)
    probe = os.dup(0)
    os.close(probe)
    assert lock.take(path) is None
    again = os.dup(0)
    os.close(again)
    assert again == probe
    lock.release(fd)


def test_a_child_process_does_not_inherit_the_lock(path):
    """A subprocess that lives longer does not keep its session's directory alive."""
    fd = lock.acquire(path)
    try:
        program = f"import os, sys; os.fstat({fd})"
        child = subprocess.run(
            [sys.executable, "-c", program], close_fds=False, capture_output=True, check=False
        )
    finally:
        lock.release(fd)
    assert b"Bad file descriptor" in child.stderr


def test_a_forked_child_lets_go_and_the_parent_holds_on(path, held, in_child):
    """A child of the session neither holds its lock nor gives it up."""

    def child() -> bool:
        lock.release(held)
        return held not in lock._held and lock.take(path) is None

    assert in_child(child)
    assert lock.take(path) is None


def test_a_lock_ends_with_its_process_however_that_dies(path):
    """The kernel gives up the lock of a process that was killed."""
    program = (
        "import os, signal, sys\n"
        "from pytest_tempres.workspace import lock\n"
        "lock.acquire(sys.argv[1])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert child.returncode < 0
    fd = lock.take(path)
    assert fd is not None
    lock.release(fd)
