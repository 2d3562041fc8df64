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


def reused(fd, path) -> tuple[int, int]:
    """Let a test close *fd*, and give the number to the file *path*; return what that is."""
    os.close(fd)
    path.touch()
    other = os.open(path, os.O_RDWR)
    if other != fd:
        os.dup2(other, fd)
        os.close(other)
    return identity_of(os.fstat(fd))


def test_releasing_does_not_close_what_has_the_number_of_a_closed_descriptor(
    tmp_path, path, in_child
):
    """A test closed our descriptor and opened a file of its own: that stays open, and in a fork."""
    fd = lock.acquire(path)
    there = reused(fd, tmp_path / "precious")
    try:
        assert in_child(lambda: identity_of(os.fstat(fd)) == there)
        lock.release(fd)
        assert identity_of(os.fstat(fd)) == there
        assert fd not in lock._held
    finally:
        os.close(fd)


def test_releasing_twice_does_not_give_up_another_sessions_lock(tmp_path, path):
    """The number may be that of another lock of ours by then."""
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
def test_a_lock_that_is_made_again_has_its_name_when_it_is_locked(path, held, monkeypatch, locks):
    """A sweep between making and locking finds no file, and takes no living session for dead."""
    os.unlink(path)
    share = lock._share if locks else refuse

    def check(fd):
        assert not os.path.lexists(path)
        share(fd)

    link = lock.System.link

    def look(source, target, **options):
        assert bool(os.stat(source).st_size) is not locks
        link(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(lock, "_share", check)
        patch.setattr(lock.System, "link", look)
        now = lock.renew(held, path, proved=True)
    assert lock.take(path) is None
    assert held not in lock._held
    assert os.listdir(os.path.dirname(path)) == [".lock"]
    lock.release(now)


@pytest.mark.parametrize("proved", [True, False])
@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_make_it_again_one_joins_the_other(path, held, monkeypatch, proved, links):
    """Both hold the same file, on a disk without hard links too; nothing else stays there."""
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


def test_a_lock_that_a_sweep_has_is_not_held(path, held):
    """Who comes when a sweep is at work learns it, and keeps what it has."""
    os.unlink(path)
    lock.release(lock.acquire(path))
    sweeping = lock.take(path)
    with pytest.raises(BlockingIOError):
        lock.hold(held, path)
    assert held in lock._held
    lock.release(sweeping)


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
