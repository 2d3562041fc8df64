from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
from pathlib import Path
import sys
import traceback
import warnings

import pytest

from pytest_tempres.workspace import journal
from pytest_tempres.workspace import sweep as module
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import create

PROJECT = "/p"


class EndingSession:
    """A session that has written its index and can be ended step by step."""

    def __init__(self, place: Path, rootdir: str = PROJECT) -> None:
        self.place = str(place)
        self.rootdir = rootdir
        self.root = create(self.place, mode=0o700, metadata={"rootdir": rootdir})
        kept = os.path.join(self.root.add_worker("main", 0o700).fixture_dir, "t")
        os.mkdir(kept)
        self.journal = journal.Journal()
        self.journal.add(self.root, "t", [kept])
        write_index(self.root, [Kept("t", kept, "failed", "main")], rootdir=rootdir)

    def sweep(self, keep: int) -> None:
        """Sweep, as a session does after its report."""
        module.sweep(
            self.place,
            rootdir=self.rootdir,
            keep_sessions=keep,
            seconds=60,
            run=self.root.path,
            measure=lambda *_: (1, True),
            tick=int,
        )

    def end(self) -> None:
        """End, as a session that kept something does."""
        self.journal.close()
        journal.end(self.root)
        self.root.remove_if_empty()

    def remove_expired(self, keep: int) -> None:
        """Remove what older sessions kept, as a session does after its end."""
        module.remove_expired(self.place, rootdir=self.rootdir, keep_sessions=keep, seconds=60)

    def has_kept_path(self) -> bool:
        """Whether the kept path still exists."""
        return os.path.exists(os.path.join(self.root.path, "main.d", "t"))


@pytest.fixture
def start(tmp_path) -> Callable[..., EndingSession]:
    """Start sessions in one directory; their locks are released after the test."""
    started = []

    def start(rootdir: str = PROJECT) -> EndingSession:
        started.append(EndingSession(tmp_path, rootdir))
        return started[-1]

    yield start
    for session in started:
        session.journal.close()
        session.root.release()


@pytest.fixture
def before_the_lock(monkeypatch) -> Callable[[EndingSession, Callable[[], object]], None]:
    """Call a function immediately before the sweep takes the lock of a session."""

    def before_the_lock(session: EndingSession, function: Callable[[], object]) -> None:
        take, calls = module.take, []

        def take_late(path):
            if path == session.root.path and not calls:
                calls.append(function())
            return take(path)

        monkeypatch.setattr(module, "take", take_late)

    return before_the_lock


def test_a_session_that_ends_during_a_sweep_is_the_youngest(start, before_the_lock):
    """It is not removed in place of sessions that were younger when the sweep began."""
    first, second, third = start(), start(), start()

    def end():
        third.end()
        first.end()
        first.remove_expired(1)

    before_the_lock(first, end)
    second.sweep(1)
    assert first.has_kept_path()
    second.end()
    second.remove_expired(1)
    assert [session.has_kept_path() for session in (first, second, third)] == [False, True, False]


def test_a_sweep_does_not_lock_a_session_with_kept_paths_only(start, monkeypatch):
    """The lock would keep the sessions of its own project from removing it."""
    kept, other = start(), start("/other")
    kept.end()
    locked = []
    monkeypatch.setattr(module, "take", locked.append)
    other.sweep(3)
    assert kept.root.path not in locked


# -- many processes at once


def in_processes(count: int, function: Callable[[int, Callable[[], None]], None]) -> None:
    """Call *function* in forked children; each waits where it calls its second argument."""
    ready, is_ready = os.pipe()
    go, let_go = os.pipe()

    def wait() -> None:
        os.write(is_ready, b"x")
        os.read(go, 1)

    pids = [_fork(lambda number=number: function(number, wait)) for number in range(count)]
    # With this end closed, reading reaches the end of the pipe if a child has failed.
    os.close(is_ready)
    waiting = b""
    while len(waiting) < count and (more := os.read(ready, count)):
        waiting += more
    os.write(let_go, b"x" * count)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    for fd in (ready, go, let_go):
        os.close(fd)
    assert not any(statuses)


def _fork(function: Callable[[], object]) -> int:
    with warnings.catch_warnings():
        # Python warns because a worker of pytest-xdist has a second thread, which no child needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            try:
                function()
                status = 0
            except BaseException:  # noqa: BLE001 -- the child must exit with its status
                traceback.print_exc()
        os._exit(status)
    return pid


@pytest.mark.skipif(sys.platform == "win32", reason="this platform does not fork")
@pytest.mark.parametrize("projects", [1, 2])
@pytest.mark.parametrize("keep", [0, 1, 3])
def test_the_right_number_stays_when_many_sessions_end_at_once(tmp_path, keep, projects):
    """Each project keeps exactly as many sessions as the option says, but at least one."""
    for turn in range(3):
        place = tmp_path / str(turn)
        place.mkdir()

        def live(number, wait, place=place):
            session = EndingSession(place, f"/p{number % projects}")
            wait()
            session.sweep(keep)
            session.end()
            session.remove_expired(keep)

        in_processes(20, live)
        assert len(list(place.glob("tempres-*/main.d/t"))) == projects * max(keep, 1)
        assert len(list(place.iterdir())) == projects * max(keep, 1)
