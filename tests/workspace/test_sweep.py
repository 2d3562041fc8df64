from __future__ import annotations

from collections.abc import Callable
import errno
import json
import os
from pathlib import Path
import shutil
import stat
import time

import pytest
from safety_helpers import is_ours

from pytest_tempres.workspace import lock
from pytest_tempres.workspace import sweep as module
from pytest_tempres.workspace.dirfd import children
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import take

PROJECT = "/home/me/project"
LONG_AGO = 1_000_000_000


@pytest.fixture
def place(tmp_path) -> Path:
    """The directory that contains session roots."""
    path = tmp_path / "place"
    path.mkdir()
    return path


@pytest.fixture
def dead(make, place) -> Callable[..., Path]:
    """Create the root of a dead session with kept paths, which are relative to the root."""

    def dead(*kept: str, rootdir: str = PROJECT, ended: int = LONG_AGO, **metadata: object) -> Path:
        root = make(place, rootdir=rootdir, **metadata)
        worker = root.add_worker("main", 0o700)
        Path(worker.path, "left").write_text("left")
        Path(worker.fixture_dir, "created").mkdir()
        for name in kept:
            Path(root.path, name).mkdir(parents=True)
            Path(root.path, name, "file").write_text("kept")
        if kept:
            write_index(root, [Kept("t", f"{root.path}/{n}", "failed", "main") for n in kept])
            os.utime(os.path.join(root.path, INDEX), (ended, ended))
        lock.release(root.lock_fd)
        return Path(root.path)

    return dead


@pytest.fixture
def reclaim(place) -> Callable[..., module.Reclaimed]:
    """Sweep *place* with enough time; return what was removed."""

    def reclaim(
        rootdir: str = PROJECT, keep: int = 3, seconds: float = 60, run: str = "", tick=int
    ):
        return module.sweep(
            str(place),
            rootdir=rootdir,
            keep_sessions=keep,
            seconds=seconds,
            run=run,
            measure=lambda path, until: (10, True),
            tick=tick,
        )

    return reclaim


@pytest.fixture
def sweep(place, reclaim) -> Callable[..., int]:
    """Sweep *place* with enough time; return how many session roots were removed."""

    def sweep(*args, **options) -> int:
        before = len(os.listdir(place)) if place.exists() else 0
        reclaim(*args, **options)
        return before - len(os.listdir(place)) if before else 0

    return sweep


def make_unfinished(place: Path, name: str = "tempres-abcdefgh", *, locked: bool = True) -> Path:
    """Create what a process leaves that died while it created its root."""
    path = place / name
    path.mkdir()
    if locked:
        (path / LOCK).touch(0o600)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def write_index_text(root: Path, content: object) -> None:
    """Write *content* as the index of a session."""
    (root / INDEX).write_text(content if isinstance(content, str) else json.dumps(content))


# -- dead and alive


def test_a_dead_session_is_removed_with_its_content(place, dead, sweep):
    """The result counts the session."""
    dead()
    dead()
    assert sweep() == 2
    assert list(place.iterdir()) == []


def test_a_session_that_is_alive_is_left_alone(make, place, sweep):
    """A session that holds its lock is alive, however old its directory is."""
    root = make(place)
    worker = root.add_worker("main", 0o700)
    Path(worker.path, "at work").write_text("x")
    os.utime(root.path, (LONG_AGO, LONG_AGO))
    assert sweep() == 0
    assert Path(worker.path, "at work").exists()


def test_a_session_whose_lock_is_unknown_is_left_alone(dead, sweep, monkeypatch):
    """Without a lock file, or on a file system without locks, a session counts as alive."""
    without = dead()
    (without / LOCK).unlink()
    other = dead()

    def refuse(fd):
        raise OSError

    monkeypatch.setattr(lock, "_lock_exclusive", refuse)
    assert sweep() == 0
    assert (without / "main" / "left").exists()
    assert (other / "main" / "left").exists()


@pytest.mark.parametrize("name", ["tempres-short", "tempres-longer_than8", "pytest-of-me", "x"])
def test_other_names_are_left_alone(place, dead, sweep, name):
    """Only directories with the name of a session root are inspected."""
    other = dead().rename(place / name)
    assert sweep() == 0
    assert is_ours(str(other))


def test_without_a_breadcrumb_nothing_is_removed(dead, sweep):
    """A directory that is not proved to be ours stays with its content."""
    root = dead()
    (root / BREADCRUMB).unlink()
    os.utime(root, (LONG_AGO, LONG_AGO))
    assert sweep() == 0
    assert (root / "main" / "left").exists()


def test_another_users_directories_are_left_alone(place, dead, sweep, monkeypatch):
    """This includes directories that were never finished."""
    root = dead()
    half = make_unfinished(place)
    uid = root.stat().st_uid
    monkeypatch.setattr(module.System, "geteuid", lambda: uid + 1)
    assert sweep() == 0
    assert root.exists()
    assert half.exists()


def test_a_link_named_like_a_root_is_left_alone(place, dead, sweep, tmp_path):
    """Nothing is removed through a link, not even a dead session."""
    root = dead().rename(tmp_path / "tempres-elsewher")
    (place / "tempres-elsewher").symlink_to(root)
    assert sweep() == 0
    assert (root / "main" / "left").exists()
    assert (place / "tempres-elsewher").is_symlink()


def test_links_in_a_dead_session_are_not_followed(place, dead, sweep, tmp_path):
    """The link is removed, its target is not."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("x")
    root = dead()
    (root / "gw0").symlink_to(tmp_path / "outside")
    (root / "main" / "link").symlink_to(tmp_path / "outside")
    assert sweep() == 1
    assert (tmp_path / "outside" / "precious").exists()
    assert list(place.iterdir()) == []


def test_entries_of_every_kind_are_removed(place, dead, sweep):
    """Fifos, directories without permissions, and names that are not UTF-8."""
    root = dead()
    os.mkfifo(root / "main" / "fifo")
    os.mkfifo(root / INDEX)
    os.mkdir(os.path.join(os.fsencode(root), b"main", b"\xff\n"))
    (root / "main" / "closed").mkdir()
    (root / "main" / "closed" / "x").write_text("x")
    (root / "main" / "closed").chmod(0)
    assert sweep() == 1
    assert list(place.iterdir()) == []


def test_a_missing_directory_is_no_error(place, sweep):
    """The temp directory may have been removed during the session."""
    place.rmdir()
    assert sweep() == 0
    assert children(str(place)) == []


def test_the_result_counts_sessions_items_and_bytes(dead, reclaim):
    """The result has the age of the oldest session too."""
    assert reclaim() == module.Reclaimed()
    for age in (100, 5000):
        root = dead()
        os.utime(root / BREADCRUMB, (time.time() - age, time.time() - age))
    # Each has a worker root and a fixture directory, which are measured as ten bytes each.
    found = reclaim()
    assert found._replace(age=0) == module.Reclaimed(2, 4, 40)
    assert 5000 <= found.age < 5100


def test_sessions_that_kept_something_are_not_counted(dead, reclaim):
    """They are not counted when they expire, nor when a user has removed the kept paths."""
    old = dead("main.d/t")
    shutil.rmtree(old / "main")
    shutil.rmtree(old / "main.d" / "created")
    tidied = dead("main.d/t", ended=LONG_AGO + 1)
    shutil.rmtree(tidied / "main.d")
    assert reclaim(keep=1) == module.Reclaimed(any_kept=True)
    assert (old.exists(), tidied.exists()) == (True, False)
    assert reclaim(keep=0) == module.Reclaimed(any_kept=True)
    assert not old.exists()


def test_a_path_that_cannot_be_removed_is_reported_and_not_counted(dead, reclaim, monkeypatch):
    """The result has the path and the error."""
    root = dead()
    failure = module.Failure("path", PermissionError())
    monkeypatch.setattr(module.SessionRoot, "remove", lambda *_: [failure])
    found = reclaim()
    assert found.failure == (f"{root}/path", failure.error)
    assert found == module.Reclaimed(failure=found.failure)
    assert (root / "main" / "left").exists()


# -- other processes during the sweep


def test_a_session_that_ends_while_it_is_inspected_is_no_error(dead, sweep, monkeypatch):
    """The lock of the removed root is released."""
    root = dead()
    take = lock.take

    def take_late(*where):
        fd = take(*where)
        (root / BREADCRUMB).unlink()
        os.rename(root, f"{root}.gone")
        return fd

    held = set(lock._held)
    monkeypatch.setattr(lock, "take", take_late)
    assert sweep() == 0
    assert lock._held == held


def test_a_session_that_another_process_sweeps_is_left_alone(dead, sweep):
    """The other process holds the lock."""
    root = dead()
    fd = lock.take(str(root / LOCK))
    assert sweep() == 0
    assert (root / "main" / "left").exists()
    lock.release(fd)
    assert sweep() == 1


def test_a_root_that_loses_its_breadcrumb_during_the_sweep_stays(dead, sweep, monkeypatch):
    """The proof is checked at each removal."""
    root = dead()

    def children(path):
        (root / BREADCRUMB).unlink(missing_ok=True)
        return [str(child) for child in Path(path).iterdir()]

    monkeypatch.setattr(module, "children", children)
    assert sweep() == 0
    assert (root / "main" / "left").exists()


def test_a_live_root_that_replaces_a_dead_one_is_left_alone(make, place, dead, sweep, monkeypatch):
    """In a directory without the sticky bit another user may swap the two at any time."""
    root, live = dead(), make(place)
    Path(live.add_worker("main", 0o700).path, "at work").write_text("x")
    take = lock.take

    def swap(path, at):
        status = os.stat(root)
        fd = take(path, at)
        if fd is not None and os.path.samestat(os.fstat(at), status):
            os.rename(root, place / "away")
            os.rename(live.path, root)
        return fd

    monkeypatch.setattr(lock, "take", swap)
    sweep()
    assert (root / "main" / "at work").exists()
    assert is_ours(str(root))


def test_a_root_in_creation_is_left_alone(place, sweep):
    """A young directory without a breadcrumb may belong to a session that starts."""
    for name in ("tempres-aaaaaaaa", "tempres-bbbbbbbb"):
        (place / name).mkdir()
    (place / "tempres-bbbbbbbb" / LOCK).write_text("")
    assert sweep() == 0
    assert len(list(place.iterdir())) == 2


def test_an_unfinished_root_is_removed_after_a_minute(place, sweep):
    """It is removed if it contains only a lock file of this user that no process holds."""
    make_unfinished(place)
    sweep()
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "name, mode, content",
    [
        ("tempres-coverage", None, ""),
        ("tempres-coverage", 0o644, ""),
        ("tempres-coverage", 0o600, "content"),
        ("tempres-Coverage", 0o600, ""),
        ("tempres-cover.py", 0o600, ""),
    ],
)
def test_a_directory_that_is_no_unfinished_root_stays(place, sweep, name, mode, content):
    """The name proves nothing, and the lock file must be exactly as a session creates it."""
    path = make_unfinished(place, name, locked=False)
    if mode is not None:
        (path / LOCK).touch(mode)
        (path / LOCK).write_text(content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert sweep() == 0
    assert path.exists()


def test_an_old_unfinished_root_whose_lock_is_held_stays(place, sweep):
    """Its process may only be suspended."""
    path = make_unfinished(place)
    fd = lock.take(str(path / LOCK))
    assert sweep() == 0
    assert path.exists()
    lock.release(fd)


@pytest.mark.parametrize("other", ["file", "directory", LOCK])
def test_an_unfinished_root_with_anything_else_in_it_stays(place, sweep, other):
    """Without a breadcrumb nothing but a regular lock file is removed."""
    path = make_unfinished(place, locked=False)
    if other == LOCK:
        (path / LOCK).mkdir()
    elif other == "file":
        (path / "file").write_text("x")
    else:
        (path / "directory").mkdir()
    os.utime(path, (LONG_AGO, LONG_AGO))
    sweep()
    assert (path / other).exists()


def test_a_file_named_like_a_root_stays(place, sweep):
    """A session root is always a directory."""
    path = place / "tempres-abcdefgh"
    path.write_text("x")
    os.utime(path, (LONG_AGO, LONG_AGO))
    sweep()
    assert path.exists()


def test_a_lock_file_that_cannot_be_removed_is_released(place, sweep, monkeypatch):
    """After a failed removal no lock is held."""
    path = make_unfinished(place)
    tried = []

    def refuse(path, **options):
        tried.append(path)
        raise PermissionError

    held = set(lock._held)
    monkeypatch.setattr(module.System, "unlink", refuse)
    sweep()
    assert tried == [LOCK]
    assert (path / LOCK).exists()
    assert lock._held == held


# -- kept paths


def test_of_a_dead_session_only_the_paths_in_the_index_stay(dead, sweep):
    """Everything else in the session root is removed."""
    root = dead("main.d/test-1", "gw0/stray")
    assert sweep() == 0
    assert (root / "main.d" / "test-1" / "file").read_text() == "kept"
    assert (root / "gw0" / "stray" / "file").read_text() == "kept"
    assert {p.name for p in root.iterdir()} == {BREADCRUMB, LOCK, INDEX, "main.d", "gw0"}
    assert [p.name for p in (root / "main.d").iterdir()] == ["test-1"]


def test_a_kept_path_stays_with_its_parent_directories(dead, sweep):
    """The path does not change, at whatever depth it is."""
    root = dead("main.d/outer/inner")
    sweep()
    assert (root / "main.d" / "outer" / "inner" / "file").exists()
    assert not (root / "main.d" / "created").exists()


def test_a_whole_worker_root_can_be_kept(dead, sweep):
    """All contents of the worker root stay."""
    root = dead("gw0")
    sweep()
    assert (root / "gw0" / "file").exists()
    assert not (root / "main").exists()


def test_only_the_last_sessions_that_kept_something_stay(dead, sweep):
    """Sessions that kept nothing do not count."""
    roots = [dead("main.d/t", ended=LONG_AGO + age) for age in (30, 10, 20, 0)]
    dead()
    assert sweep(keep=2) == 3
    assert [root.exists() for root in roots] == [True, False, True, False]
    assert sweep(keep=2) == 0
    assert sweep(keep=0) == 2
    assert not any(root.exists() for root in roots)


def test_a_live_session_with_an_index_counts_as_one_that_kept_something(make, place, dead, sweep):
    """When several sessions end at the same time, the last one leaves the right number."""
    old, new = dead("main.d/t"), dead("main.d/t", ended=LONG_AGO + 1)
    live = make(place, rootdir=PROJECT)
    kept = Path(live.add_worker("main", 0o700).fixture_dir, "t")
    kept.mkdir()
    write_index(live, [Kept("t", str(kept), "failed", "main")])
    assert sweep(keep=2) == 1
    assert (old.exists(), new.exists(), kept.exists()) == (False, True, True)
    assert sweep(keep=1) == 1
    assert (new.exists(), kept.exists()) == (False, True)
    assert sweep(keep=0) == 0
    assert kept.exists()


def test_all_workers_of_a_run_count_as_one_session(dead, sweep):
    """Workers on another host have separate roots, and do not remove what the others kept."""
    old = [dead("main.d/a", ended=LONG_AGO - 20) for _ in range(2)]
    earlier = [dead("main.d/a", ended=LONG_AGO - 10 - age, run="earlier") for age in range(4)]
    same = [dead("main.d/a", ended=LONG_AGO - age, run="this") for age in range(4)]
    assert sweep(keep=2, run="this") == len(old)
    assert all((root / "main.d" / "a").exists() for root in (*earlier, *same))
    assert sweep(keep=0, run="this") == len(earlier)
    assert all((root / "main.d" / "a").exists() for root in same)


def test_each_project_counts_its_own_sessions(dead, sweep):
    """What another project kept stays until that project runs again, and the rest is removed."""
    other = dead("main.d/t", rootdir="/other")
    assert sweep(keep=0) == 0
    assert (other / "main.d" / "t" / "file").exists()
    assert not (other / "main").exists()
    assert sweep("/other", keep=0) == 1
    assert not other.exists()


def test_a_session_whose_kept_paths_are_gone_is_removed(dead, sweep):
    """A user may have removed the kept paths."""
    root = dead("main.d/t")
    shutil.rmtree(root / "main.d" / "t")
    assert sweep() == 1
    assert not root.exists()


@pytest.mark.parametrize(
    "path",
    [
        "{place}/precious",
        "{root}",
        "{root}/",
        "{root}/../precious",
        "{root}/main/../../precious",
        "{root}/main//left",
        "{root}x/main",
        "/",
        "",
        "main/left",
        "\ud800",
        "{root}/main/\0",
        None,
        7,
    ],
)
def test_paths_in_the_index_that_are_not_in_the_root_are_ignored(place, dead, sweep, path):
    """Paths outside the root or not normalized are neither kept nor removed."""
    (place / "precious").mkdir()
    root = dead()
    neighbour = root.with_name(root.name + "x")
    (neighbour / "main").mkdir(parents=True)
    if isinstance(path, str):
        path = path.format(root=root, place=place)
    write_index_text(root, {"kept": {"t": [path]}})
    assert sweep() == 1
    assert not root.exists()
    assert (place / "precious").exists()
    assert (neighbour / "main").exists()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "é", '{"kept": 1}', '{"kept": {"t": "path"}}', "[" * 100_000, {}],
)
def test_an_index_that_is_not_valid_keeps_nothing(dead, sweep, content):
    """An invalid index counts as missing and raises no error."""
    root = dead()
    write_index_text(root, content)
    assert sweep() == 1
    assert not root.exists()


def test_a_breadcrumb_that_is_not_valid_is_still_a_proof(dead, sweep):
    """The existence of the file is the proof, and its content only information."""
    plain = dead()
    kept = dead("main.d/t")
    for root in (plain, kept):
        (root / BREADCRUMB).write_text("not JSON")
    assert sweep(keep=0) == 1
    assert not plain.exists()
    assert (kept / "main.d" / "t").exists()


@pytest.mark.parametrize("crumb", ["", "not JSON", '{"rootdir"'])
def test_the_index_has_the_project_when_the_breadcrumb_is_damaged(dead, sweep, crumb):
    """Kept paths expire with their project even after a power cut damaged the breadcrumb."""
    root = dead("main.d/t")
    kept = [Kept("t", f"{root}/main.d/t", "failed", "main")]
    found = take(str(root))
    write_index(found, kept, rootdir=PROJECT)
    found.release()
    (root / BREADCRUMB).write_text(crumb)
    assert sweep("/other", keep=0) == 0
    assert (root / "main.d" / "t").exists()
    assert sweep(keep=0) == 1


def test_an_index_behind_a_link_is_not_read(dead, sweep, tmp_path):
    """An index counts only if it is a file in the root itself."""
    root = dead()
    index = {"kept": {"t": [str(root / "main" / "left")]}}
    (tmp_path / "elsewhere").write_text(json.dumps(index))
    (root / INDEX).symlink_to(tmp_path / "elsewhere")
    assert sweep() == 1
    assert (tmp_path / "elsewhere").exists()


def test_kept_paths_are_recognised_when_the_root_has_another_path(place, dead, reclaim, tmp_path):
    """The root may have been moved, or be reached through a link or in a container."""
    root = dead("main.d/t")
    root = root.rename(root.with_name("tempres-called00"))
    moved = place.rename(tmp_path / "moved")
    (tmp_path / "linked").symlink_to(moved)
    for parent in (moved, tmp_path / "linked"):
        options = {"rootdir": PROJECT, "seconds": 60, "run": "", "tick": int}
        for keep in (3, 1):
            module.sweep(
                str(parent), keep_sessions=keep, measure=lambda path, until: (0, True), **options
            )
    assert (moved / root.name / "main.d" / "t" / "file").exists()
    assert not (moved / root.name / "main").exists()


# -- the time limit


class Clock:
    """A clock that passes the time limit after a number of calls."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self) -> float:
        """Return the time, in seconds."""
        self.calls -= 1
        return 0.0 if self.calls >= 0 else 100.0


def test_whenever_the_time_is_over_no_lock_is_held(dead, sweep, monkeypatch):
    """The next session can continue the sweep."""
    for calls in range(1, 40):
        roots = [dead(), dead("main.d/t"), dead("main.d/t", ended=LONG_AGO + 1)]
        held = set(lock._held)
        with monkeypatch.context() as patch:
            patch.setattr(module.System, "monotonic", Clock(calls))
            sweep(keep=1, seconds=10)
        assert lock._held == held
        assert (roots[2] / "main.d" / "t" / "file").exists()
        sweep(keep=0)
        assert not any(root.exists() for root in roots)


def test_reading_the_sessions_is_limited_in_time_too(dead, place, monkeypatch):
    """The limit applies even if reading the sessions alone takes too long."""
    for _ in range(9):
        dead("main.d/t")
    read, now = [], [0.0]
    real = module.read_session

    def slow(*args):
        read.append(args)
        now[0] += 1
        return real(*args)

    monkeypatch.setattr(module.System, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "read_session", slow)
    module.remove_expired(str(place), rootdir=PROJECT, keep_sessions=1, seconds=4)
    assert 2 <= len(read) < 9


def test_a_huge_tree_is_removed_in_several_sweeps(dead, reclaim):
    """One dead session does not delay the end of a session for long."""
    root = dead()
    shutil.rmtree(root / "main.d")
    for number in range(30):
        (root / "main" / str(number)).touch()
    seen = []

    def tick():
        seen.append(1)
        if len(seen) == 10:
            # The time is checked after each tick, so the limit is reached from here on.
            patch.setattr(module.System, "monotonic", lambda: float("inf"))

    held = set(lock._held)
    with pytest.MonkeyPatch.context() as patch:
        found = reclaim(tick=tick)
    assert (found.sessions, found.complete) == (1, False)
    assert 0 < found.items <= 10
    assert lock._held == held
    assert is_ours(str(root))
    left = len(list((root / "main").iterdir()))
    assert 0 < left < 31
    assert reclaim().complete
    assert not root.exists()


def test_a_huge_directory_is_swept_as_far_as_it_was_listed(dead, sweep, monkeypatch):
    """If listing takes too long, the sessions listed so far are removed."""
    roots = [dead() for _ in range(50)]
    seconds = iter([0.0, *(n / 10 for n in range(20)), *[2.0] * 100_000])
    with monkeypatch.context() as patch:
        patch.setattr(module.System, "monotonic", lambda: next(seconds))
        assert sweep(seconds=4.5) > 0
    while any(root.exists() for root in roots):
        assert sweep() > 0


def test_when_inspecting_takes_too_long_the_sweep_still_removes_some(dead, reclaim, monkeypatch):
    """Each sweep makes progress, however many sessions there are."""
    roots = [dead() for _ in range(20)]
    now, inspect = [0.0], module._Sweep._inspect

    def slow(self, path):
        now[0] += 1.0
        return inspect(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(module.System, "monotonic", lambda: now[0])
        patch.setattr(module._Sweep, "_inspect", slow)
        found = reclaim(seconds=10)
    assert (found.sessions, found.unfinished) == (6, True)
    assert sum(root.exists() for root in roots) == 14
    assert not reclaim().unfinished


def test_kept_sessions_of_other_projects_come_last(dead, sweep, monkeypatch):
    """The oldest sessions of this project are removed in time."""
    others = [dead("main.d/t", rootdir="/other") for _ in range(20)]
    own = [dead("main.d/t", ended=LONG_AGO + age) for age in range(4)]
    remove = module._Sweep._remove_if_dead

    def slow(self, session, *, keep):
        if session.rootdir != PROJECT:
            raise module._OutOfTimeError
        remove(self, session, keep=keep)

    with monkeypatch.context() as patch:
        patch.setattr(module._Sweep, "_remove_if_dead", slow)
        assert sweep(keep=1) == 3
    assert [root.exists() for root in own] == [False, False, False, True]
    assert all(root.exists() for root in others)


def test_an_interrupt_only_ends_the_sweep(dead, reclaim):
    """After Ctrl-C no lock is held, and the session ends as usual."""
    root = dead()

    def tick():
        raise KeyboardInterrupt

    held = set(lock._held)
    assert reclaim(tick=tick).unfinished
    assert lock._held == held
    assert root.exists()
    assert reclaim().sessions == 1


def test_a_huge_directory_is_left_when_the_time_is_over(place, dead, sweep, monkeypatch):
    """A shared directory with very many entries does not delay the end of a session."""
    root = dead()
    monkeypatch.setattr(module.System, "monotonic", Clock(1))
    assert sweep(seconds=10) == 0
    assert root.exists()


def test_the_modes_of_kept_paths_are_not_changed(dead, sweep):
    """The modes stay as the test left them."""
    root = dead("main.d/t")
    (root / "main.d" / "t" / "file").chmod(0o400)
    sweep()
    assert stat.S_IMODE((root / "main.d" / "t" / "file").stat().st_mode) == 0o400


@pytest.mark.parametrize("name", [INDEX, BREADCRUMB])
@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_a_session_that_cannot_be_read_is_left_alone(dead, sweep, monkeypatch, name, code):
    """Its kept paths are unknown, so a later sweep removes the rest."""
    root = dead("main.d/t")
    real = module.System.open

    def refuse(path, *args, **options):
        if os.path.basename(path) == name:
            raise OSError(code, os.strerror(code), path)
        return real(path, *args, **options)

    held = set(lock._held)
    with monkeypatch.context() as patch:
        patch.setattr(module.System, "open", refuse)
        assert sweep(keep=0) == 0
    assert (root / "main.d" / "t" / "file").exists()
    assert (root / "main" / "left").exists()
    assert lock._held == held
    assert sweep(keep=0) == 1
