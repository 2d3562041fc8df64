from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from pytest_tempres.workspace import lock
from pytest_tempres.workspace.proof import identity_of


@pytest.fixture
def path(tmp_path):
    """The path of the lock file."""
    return str(tmp_path / ".lock")


@pytest.fixture
def held(path):
    """A descriptor that holds the lock."""
    fd = lock.acquire(path)
    yield fd
    lock.release(fd)


def no_locks(fd):
    """Refuse to lock, as a file system without locks does."""
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_lock_that_is_held_cannot_be_taken(path, held):
    """A live session does not look dead, not even to its own process."""
    assert lock.take(path) is None


def test_a_released_lock_can_be_taken(path, held):
    """A session that has ended can be swept by one process at a time."""
    lock.release(held)
    fd = lock.take(path)
    assert fd is not None
    assert lock.take(path) is None
    lock.release(fd)


def test_a_second_release_does_not_close_another_descriptor(path, held):
    """The descriptor number may belong to another file by then."""
    lock.release(held)
    other = os.open(path, os.O_RDONLY)
    if other != held:
        os.dup2(other, held)
        os.close(other)
    lock.release(held)
    os.fstat(held)
    os.close(held)


def test_release_accepts_a_closed_descriptor(held):
    """A program that closes all descriptors does not break the end of the session."""
    os.close(held)
    lock.release(held)
    assert held not in lock._held


def reuse(fd, path) -> tuple[int, int]:
    """Close *fd*, open the file *path* under its number, and return the identity of the file."""
    os.close(fd)
    path.touch()
    other = os.open(path, os.O_RDWR)
    if other != fd:
        os.dup2(other, fd)
        os.close(other)
    return identity_of(os.fstat(fd))


def test_release_does_not_close_a_file_that_reuses_the_number(tmp_path, path, in_child):
    """The file stays open both in the process and in a forked child."""
    fd = lock.acquire(path)
    identity = reuse(fd, tmp_path / "precious")
    try:
        assert in_child(lambda: identity_of(os.fstat(fd)) == identity)
        lock.release(fd)
        assert identity_of(os.fstat(fd)) == identity
        assert fd not in lock._held
    finally:
        os.close(fd)


def test_a_second_release_does_not_release_the_lock_of_another_session(tmp_path, path):
    """The descriptor number may belong to another lock by then."""
    first = lock.acquire(path)
    lock.release(first)
    other = str(tmp_path / "other")
    second = lock.acquire(other)
    assert second == first
    lock.release(first)
    assert lock.take(other) is None
    lock.release(second)
    assert lock.take(str(tmp_path / "missing")) is None
    assert second not in lock._held


@pytest.mark.parametrize("locks", [True, False])
def test_a_recreated_lock_file_is_locked_before_it_has_its_name(path, held, monkeypatch, locks):
    """A sweep never finds it unlocked, and so never takes the session for dead."""
    os.unlink(path)
    share = lock._lock_shared if locks else no_locks

    def check_share(fd):
        assert not os.path.lexists(path)
        share(fd)

    link = lock.System.link

    def check_link(source, target, **options):
        assert bool(os.stat(source).st_size) is not locks
        link(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(lock, "_lock_shared", check_share)
        patch.setattr(lock.System, "link", check_link)
        now = lock.renew(held, path, proved=True)
    assert lock.take(path) is None
    assert held not in lock._held
    assert os.listdir(os.path.dirname(path)) == [".lock"]
    lock.release(now)


@pytest.mark.parametrize("proved", [True, False])
@pytest.mark.parametrize("links", [True, False])
def test_processes_that_recreate_the_lock_file_share_one(path, held, monkeypatch, proved, links):
    """They share it on file systems without hard links too, and leave no draft."""
    other = lock.join(path)
    os.unlink(path)
    hold, found = lock.hold, []

    def late(fd, path, dir_fd):
        if found:
            return hold(fd, path, dir_fd)
        found.append(lock.acquire(path))
        raise FileNotFoundError

    def no_links(source, target, **options):
        if os.path.lexists(target):
            raise FileExistsError
        raise PermissionError

    if not links:
        monkeypatch.setattr(lock.System, "link", no_links)
    with monkeypatch.context() as patch:
        patch.setattr(lock, "hold", late)
        second = lock.renew(other, path, proved=proved)
    first = found.pop()
    assert identity_of(os.fstat(first)) == identity_of(os.fstat(second))
    assert lock.hold(first, path) is first
    for fd in (first, second):
        assert lock.take(path) is None
        lock.release(fd)
    os.unlink(path)
    again = lock.renew(second, path, proved=proved)
    assert lock.take(path) is None
    assert os.listdir(os.path.dirname(path)) == [".lock"]
    lock.release(again)


def test_hold_fails_during_a_sweep(path, held):
    """The caller still holds its own lock after the error."""
    os.unlink(path)
    lock.release(lock.acquire(path))
    sweeping = lock.take(path)
    with pytest.raises(BlockingIOError):
        lock.hold(held, path)
    assert held in lock._held
    lock.release(sweeping)


def test_acquire_refuses_a_file_that_exists(path, held):
    """An existing lock file may belong to another user."""
    with pytest.raises(FileExistsError):
        lock.acquire(path)


def test_take_does_not_follow_a_link(tmp_path, path):
    """A session whose lock file is a link counts as alive."""
    (tmp_path / "real").write_text("")
    os.symlink("real", path)
    assert lock.take(path) is None


def test_take_creates_no_file(tmp_path, path):
    """A session without a lock file counts as alive, and none is created."""
    assert lock.take(path) is None
    assert list(tmp_path.iterdir()) == []


def test_without_locks_a_session_starts_and_counts_as_alive(path, monkeypatch):
    """Some file systems have no locks; no descriptor is left open there."""
    monkeypatch.setattr(lock, "_lock_exclusive", no_locks)
    fd = lock.acquire(path)
    probe = os.dup(0)
    os.close(probe)
    assert lock.take(path) is None
    again = os.dup(0)
    os.close(again)
    assert again == probe
    lock.release(fd)


def test_a_child_process_does_not_inherit_the_lock(path):
    """A subprocess that outlives the session does not keep it alive."""
    fd = lock.acquire(path)
    try:
        program = f"import os, sys; os.fstat({fd})"
        child = subprocess.run(
            [sys.executable, "-c", program], close_fds=False, capture_output=True, check=False
        )
    finally:
        lock.release(fd)
    assert b"Bad file descriptor" in child.stderr


def test_a_forked_child_neither_holds_nor_releases_the_lock(path, held, in_child):
    """Releasing the lock in the child does not release that of the parent."""

    def child() -> bool:
        lock.release(held)
        return held not in lock._held and lock.take(path) is None

    assert in_child(child)
    assert lock.take(path) is None


def test_the_lock_of_a_killed_process_is_released(path):
    """After a kill the session can be swept."""
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
