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


class Session:
    """A session that has written its index, and what it does from there to its end."""

    def __init__(self, place: Path, rootdir: str = PROJECT) -> None:
        self.place = str(place)
        self.rootdir = rootdir
        self.root = create(self.place, mode=0o700, about={"rootdir": rootdir})
        kept = os.path.join(self.root.add_worker("main", 0o700).fixture_dir, "t")
        os.mkdir(kept)
        self.journal = journal.Journal()
        self.journal.add(self.root, "t", [kept])
        write_index(self.root, [Kept("t", kept, "failed", "main")], rootdir=rootdir)

    def sweep(self, keep: int) -> None:
        """Sweep as a session does after its report."""
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
        """Let go of the root as a session does that kept something."""
        self.journal.close()
        journal.end(self.root)
        self.root.remove_if_empty()

    def retire(self, keep: int) -> None:
        """Look after the others once more."""
        module.retire(self.place, rootdir=self.rootdir, keep_sessions=keep, seconds=60)

    def remains(self) -> bool:
        """Whether it still has what it kept."""
        return os.path.exists(os.path.join(self.root.path, "main.d", "t"))


@pytest.fixture
def begin(tmp_path) -> Callable[..., Session]:
    """Begin sessions in one place; those that a test does not end, end with it."""
    begun = []

    def begin(rootdir: str = PROJECT) -> Session:
        begun.append(Session(tmp_path, rootdir))
        return begun[-1]

    yield begin
    for session in begun:
        session.journal.close()
        session.root.release()


@pytest.fixture
def before_the_lock(monkeypatch) -> Callable[[Session, Callable[[], object]], None]:
    """Do something at the moment at which the lock of a session is about to be asked for."""

    def before_the_lock(session: Session, deed: Callable[[], object]) -> None:
        take, done = module.take, []

        def take_late(path):
            if path == session.root.path and not done:
                done.append(deed())
            return take(path)

        monkeypatch.setattr(module, "take", take_late)

    return before_the_lock


def test_a_session_that_ends_while_another_one_sweeps_is_the_youngest(begin, before_the_lock):
    """What seemed to be younger when it was looked at may go on its account."""
    first, second, third = begin(), begin(), begin()

    def end():
        third.end()
        first.end()
        first.retire(1)

    before_the_lock(first, end)
    second.sweep(1)
    assert first.remains()
    second.end()
    second.retire(1)
    assert [session.remains() for session in (first, second, third)] == [False, True, False]


def test_a_session_that_has_nothing_to_lose_is_not_locked(begin, monkeypatch):
    """Another project's sweep would keep its own sessions from removing it."""
    kept, other = begin(), begin("/other")
    kept.end()
    asked = []
    monkeypatch.setattr(module, "take", asked.append)
    other.sweep(3)
    assert kept.root.path not in asked


# -- many processes at once


def in_processes(count: int, deed: Callable[[int, Callable[[], None]], None]) -> None:
    """Do *deed* in forked children; each waits where it calls the function that it is given."""
    ready, is_ready = os.pipe()
    go, let_go = os.pipe()

    def wait() -> None:
        os.write(is_ready, b"x")
        os.read(go, 1)

    pids = [_fork(lambda number=number: deed(number, wait)) for number in range(count)]
    # From now on it is at its end when a child has failed.
    os.close(is_ready)
    waiting = b""
    while len(waiting) < count and (more := os.read(ready, count)):
        waiting += more
    os.write(let_go, b"x" * count)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    for fd in (ready, go, let_go):
        os.close(fd)
    assert not any(statuses)


def _fork(deed: Callable[[], object]) -> int:
    with warnings.catch_warnings():
        # A worker of pytest-xdist has a second thread, which the child does without.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            try:
                deed()
                status = 0
            except BaseException:  # noqa: BLE001 -- nothing may leave the child but its status
                traceback.print_exc()
        os._exit(status)
    return pid


@pytest.mark.skipif(sys.platform == "win32", reason="this platform does not fork")
@pytest.mark.parametrize("projects", [1, 2])
@pytest.mark.parametrize("keep", [0, 1, 3])
def test_as_many_stay_as_should_when_many_end_at_once(tmp_path, keep, projects):
    """Neither does one take another's place that is gone, nor is one left that nobody removes."""
    for turn in range(3):
        place = tmp_path / str(turn)
        place.mkdir()

        def live(number, wait, place=place):
            session = Session(place, f"/p{number % projects}")
            wait()
            session.sweep(keep)
            session.end()
            session.retire(keep)

        in_processes(20, live)
        assert len(list(place.glob("tempres-*/main.d/t"))) == projects * max(keep, 1)
        assert len(list(place.iterdir())) == projects * max(keep, 1)
