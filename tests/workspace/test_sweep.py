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
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import children
from pytest_tempres.workspace.root import take

PROJECT = "/home/me/project"
LONG_AGO = 1_000_000_000


@pytest.fixture
def place(tmp_path) -> Path:
    """The directory in which session roots stand."""
    path = tmp_path / "place"
    path.mkdir()
    return path


@pytest.fixture
def dead(make, place) -> Callable[..., Path]:
    """Make the root of a session that died, with what it kept (paths relative to the root)."""

    def dead(*kept: str, rootdir: str = PROJECT, ended: int = LONG_AGO, **about: object) -> Path:
        root = make(place, rootdir=rootdir, **about)
        worker = root.add_worker("main", 0o700)
        Path(worker.path, "left").write_text("left")
        Path(worker.fixture_dir, "given").mkdir()
        for name in kept:
            Path(root.path, name).mkdir(parents=True)
            Path(root.path, name, "evidence").write_text("evidence")
        if kept:
            write_index(root, [Kept("t", f"{root.path}/{n}", "failed", "main") for n in kept])
            os.utime(os.path.join(root.path, INDEX), (ended, ended))
        lock.release(root.lock_fd)
        return Path(root.path)

    return dead


@pytest.fixture
def reclaim(place) -> Callable[..., module.Reclaimed]:
    """Sweep the place, with time enough, and return what was reclaimed."""

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
    """Sweep the place, with time enough, and return how many session roots went."""

    def sweep(*args, **options) -> int:
        before = len(os.listdir(place)) if place.exists() else 0
        reclaim(*args, **options)
        return before - len(os.listdir(place)) if before else 0

    return sweep


def unfinished(place: Path, name: str = "tempres-abcdefgh", *, locked: bool = True) -> Path:
    """Make what a process leaves that dies while it makes its root."""
    path = place / name
    path.mkdir()
    if locked:
        (path / LOCK).touch(0o600)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def forge(root: Path, content: object) -> None:
    """Let *content* be the index of a session."""
    (root / INDEX).write_text(content if isinstance(content, str) else json.dumps(content))


# -- dead and alive


def test_a_dead_session_goes_with_all_it_left(place, dead, sweep):
    """Who was killed leaves nothing for long, and the sweep counts it."""
    dead()
    dead()
    assert sweep() == 2
    assert list(place.iterdir()) == []


def test_a_session_that_lives_is_left_alone(make, place, sweep):
    """A session that holds its lock loses nothing, however old its directory looks."""
    root = make(place)
    worker = root.add_worker("main", 0o700)
    Path(worker.path, "at work").write_text("x")
    os.utime(root.path, (LONG_AGO, LONG_AGO))
    assert sweep() == 0
    assert Path(worker.path, "at work").exists()


def test_a_session_whose_lock_cannot_be_told_is_left_alone(dead, sweep, monkeypatch):
    """In doubt a session is alive: without a lock file, and without locks."""
    without = dead()
    (without / LOCK).unlink()
    other = dead()

    def refuse(fd):
        raise OSError

    monkeypatch.setattr(lock, "_lock", refuse)
    assert sweep() == 0
    assert (without / "main" / "left").exists()
    assert (other / "main" / "left").exists()


@pytest.mark.parametrize("name", ["tempres-short", "tempres-longer_than8", "pytest-of-me", "x"])
def test_other_names_are_left_alone(place, dead, sweep, name):
    """Only what is named like a session root is looked at at all."""
    other = dead().rename(place / name)
    assert sweep() == 0
    assert is_ours(str(other))


def test_without_a_breadcrumb_nothing_is_removed(dead, sweep):
    """A directory of our name that nothing proves ours stays with all that is in it."""
    root = dead()
    (root / BREADCRUMB).unlink()
    os.utime(root, (LONG_AGO, LONG_AGO))
    assert sweep() == 0
    assert (root / "main" / "left").exists()


def test_another_users_directories_are_left_alone(place, dead, sweep, monkeypatch):
    """What belongs to somebody else is not ours to remove, finished or not."""
    root = dead()
    half = unfinished(place)
    uid = root.stat().st_uid
    monkeypatch.setattr(module.System, "geteuid", lambda: uid + 1)
    assert sweep() == 0
    assert root.exists()
    assert half.exists()


def test_a_link_named_like_a_root_is_left_alone(place, dead, sweep, tmp_path):
    """Nothing is removed through a link, not even a dead session elsewhere."""
    root = dead().rename(tmp_path / "tempres-elsewher")
    (place / "tempres-elsewher").symlink_to(root)
    assert sweep() == 0
    assert (root / "main" / "left").exists()
    assert (place / "tempres-elsewher").is_symlink()


def test_links_in_a_dead_session_lead_nowhere(place, dead, sweep, tmp_path):
    """A worker root that was swapped for a link goes as a link; what it points to stays."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("x")
    root = dead()
    (root / "gw0").symlink_to(tmp_path / "outside")
    (root / "main" / "link").symlink_to(tmp_path / "outside")
    assert sweep() == 1
    assert (tmp_path / "outside" / "precious").exists()
    assert list(place.iterdir()) == []


def test_everything_that_can_stand_in_a_root_goes(place, dead, sweep):
    """Fifos, closed directories, bytes that are no text: none keeps a dead session on disk."""
    root = dead()
    os.mkfifo(root / "main" / "fifo")
    os.mkfifo(root / INDEX)
    os.mkdir(os.path.join(os.fsencode(root), b"main", b"\xff\n"))
    (root / "main" / "closed").mkdir()
    (root / "main" / "closed" / "x").write_text("x")
    (root / "main" / "closed").chmod(0)
    assert sweep() == 1
    assert list(place.iterdir()) == []


def test_a_place_that_is_gone_has_nothing_to_sweep(place, sweep):
    """A temp directory that vanished is no error at the end of a session."""
    place.rmdir()
    assert sweep() == 0
    assert children(str(place)) == []


def test_what_was_reclaimed_is_counted(dead, reclaim):
    """A person learns how many sessions died, what they left and how old it was."""
    assert reclaim() == module.Reclaimed()
    for age in (100, 5000):
        root = dead()
        os.utime(root / BREADCRUMB, (time.time() - age, time.time() - age))
    # Each has a worker root and what lies beside it, which are measured as ten bytes each.
    found = reclaim()
    assert found._replace(age=0) == module.Reclaimed(2, 4, 40)
    assert 5000 <= found.age < 5100


def test_sessions_that_ended_well_are_no_news(dead, reclaim):
    """Evidence that is too old goes quietly, and so does what is left of tidied up evidence."""
    old = dead("main.d/t")
    shutil.rmtree(old / "main")
    shutil.rmtree(old / "main.d" / "given")
    tidied = dead("main.d/t", ended=LONG_AGO + 1)
    shutil.rmtree(tidied / "main.d")
    assert reclaim(keep=1) == module.Reclaimed(any_kept=True)
    assert (old.exists(), tidied.exists()) == (True, False)
    assert reclaim(keep=0) == module.Reclaimed(any_kept=True)
    assert not old.exists()


def test_what_cannot_be_removed_is_told_and_not_counted(dead, reclaim, monkeypatch):
    """A dead session that somebody made undeletable is no secret, and nobody boasts of it."""
    root = dead()
    failure = module.Failure("there", PermissionError())
    monkeypatch.setattr(module.SessionRoot, "remove", lambda *_: [failure])
    found = reclaim()
    assert found.failure == (f"{root}/there", failure.error)
    assert found == module.Reclaimed(failure=found.failure)
    assert (root / "main" / "left").exists()


# -- what others do meanwhile


def test_a_session_that_ends_while_it_is_looked_at_is_no_error(dead, sweep, monkeypatch):
    """A lock that came free because its session had just removed itself is given back."""
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


def test_two_sweeps_at_once_do_not_meet(dead, sweep):
    """A dead session that another process is sweeping is left to that process."""
    root = dead()
    fd = lock.take(str(root / LOCK))
    assert sweep() == 0
    assert (root / "main" / "left").exists()
    lock.release(fd)
    assert sweep() == 1


def test_a_root_that_loses_its_proof_during_the_sweep_stays(dead, sweep, monkeypatch):
    """The proof is asked for at each removal, not once."""
    root = dead()

    def children(path):
        (root / BREADCRUMB).unlink(missing_ok=True)
        return [str(child) for child in Path(path).iterdir()]

    monkeypatch.setattr(module, "children", children)
    assert sweep() == 0
    assert (root / "main" / "left").exists()


def test_a_living_root_that_takes_the_place_of_a_dead_one_is_left_alone(
    make, place, dead, sweep, monkeypatch
):
    """Where others may rename what is ours, a path leads elsewhere from one moment to the next."""
    root, living = dead(), make(place)
    Path(living.add_worker("main", 0o700).path, "at work").write_text("x")
    take = lock.take

    def swap(path, at):
        there = os.stat(root)
        fd = take(path, at)
        if fd is not None and os.path.samestat(os.fstat(at), there):
            os.rename(root, place / "away")
            os.rename(living.path, root)
        return fd

    monkeypatch.setattr(lock, "take", swap)
    sweep()
    assert (root / "main" / "at work").exists()
    assert is_ours(str(root))


def test_a_root_that_is_being_made_is_left_alone(place, sweep):
    """A young directory without a breadcrumb is a session about to start."""
    for name in ("tempres-aaaaaaaa", "tempres-bbbbbbbb"):
        (place / name).mkdir()
    (place / "tempres-bbbbbbbb" / LOCK).write_text("")
    assert sweep() == 0
    assert len(list(place.iterdir())) == 2


def test_what_a_failed_start_left_goes_after_a_minute(place, sweep):
    """An old directory that holds nothing but a free lock of ours is tidied away."""
    unfinished(place)
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
def test_what_merely_looks_like_a_failed_start_stays(place, sweep, name, mode, content):
    """A name of our pattern proves nothing, nor does a lock that we would not have made."""
    path = unfinished(place, name, locked=False)
    if mode is not None:
        (path / LOCK).touch(mode)
        (path / LOCK).write_text(content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert sweep() == 0
    assert path.exists()


def test_an_old_unfinished_root_whose_lock_is_held_stays(place, sweep):
    """A process that was stopped while it made its root finds it when it goes on."""
    path = unfinished(place)
    fd = lock.take(str(path / LOCK))
    assert sweep() == 0
    assert path.exists()
    lock.release(fd)


@pytest.mark.parametrize("other", ["file", "directory", LOCK])
def test_an_unfinished_root_with_anything_else_in_it_stays(place, sweep, other):
    """Without a breadcrumb no tree goes and no file but a regular lock that can be taken."""
    path = unfinished(place, locked=False)
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
    """Only directories are session roots."""
    path = place / "tempres-abcdefgh"
    path.write_text("x")
    os.utime(path, (LONG_AGO, LONG_AGO))
    sweep()
    assert path.exists()


def test_a_lock_that_cannot_be_removed_is_given_back(place, sweep, monkeypatch):
    """A removal that fails half way holds on to no lock."""
    unfinished(place)

    def refuse(path):
        raise PermissionError

    held = set(lock._held)
    monkeypatch.setattr(module.os, "unlink", refuse)
    sweep()
    assert lock._held == held


# -- what was kept


def test_a_dead_session_keeps_what_its_index_names_and_nothing_else(dead, sweep):
    """Evidence stays where the failure said it is; what lay beside it goes."""
    root = dead("main.d/test-1", "gw0/stray")
    assert sweep() == 0
    assert (root / "main.d" / "test-1" / "evidence").read_text() == "evidence"
    assert (root / "gw0" / "stray" / "evidence").read_text() == "evidence"
    assert {p.name for p in root.iterdir()} == {BREADCRUMB, LOCK, INDEX, "main.d", "gw0"}
    assert [p.name for p in (root / "main.d").iterdir()] == ["test-1"]


def test_a_kept_path_inside_another_directory_stays_with_it(dead, sweep):
    """A kept path never changes, however deep it lies."""
    root = dead("main.d/outer/inner")
    sweep()
    assert (root / "main.d" / "outer" / "inner" / "evidence").exists()
    assert not (root / "main.d" / "given").exists()


def test_a_whole_worker_root_can_be_kept(dead, sweep):
    """Where an index names a worker root, all of it stays."""
    root = dead("gw0")
    sweep()
    assert (root / "gw0" / "evidence").exists()
    assert not (root / "main").exists()


def test_only_the_last_sessions_that_kept_something_stay(dead, sweep):
    """The newest ones stay, as many as were asked for; those that kept nothing do not count."""
    roots = [dead("main.d/t", ended=LONG_AGO + age) for age in (30, 10, 20, 0)]
    dead()
    assert sweep(keep=2) == 3
    assert [root.exists() for root in roots] == [True, False, True, False]
    assert sweep(keep=2) == 0
    assert sweep(keep=0) == 2
    assert not any(root.exists() for root in roots)


def test_a_session_that_ends_just_now_counts_among_those_that_kept_something(
    make, place, dead, sweep
):
    """Of sessions that end at the same time the last leaves as many as were asked for."""
    old, new = dead("main.d/t"), dead("main.d/t", ended=LONG_AGO + 1)
    living = make(place, rootdir=PROJECT)
    kept = Path(living.add_worker("main", 0o700).fixture_dir, "t")
    kept.mkdir()
    write_index(living, [Kept("t", str(kept), "failed", "main")])
    assert sweep(keep=2) == 1
    assert (old.exists(), new.exists(), kept.exists()) == (False, True, True)
    assert sweep(keep=1) == 1
    assert (new.exists(), kept.exists()) == (False, True)
    assert sweep(keep=0) == 0
    assert kept.exists()


def test_all_workers_of_a_run_count_as_one_session(dead, sweep):
    """Workers on another host have roots of their own, and none removes what another one kept."""
    old = [dead("main.d/a", ended=LONG_AGO - 20) for _ in range(2)]
    earlier = [dead("main.d/a", ended=LONG_AGO - 10 - age, run="earlier") for age in range(4)]
    same = [dead("main.d/a", ended=LONG_AGO - age, run="this") for age in range(4)]
    assert sweep(keep=2, run="this") == len(old)
    assert all((root / "main.d" / "a").exists() for root in (*earlier, *same))
    assert sweep(keep=0, run="this") == len(earlier)
    assert all((root / "main.d" / "a").exists() for root in same)


def test_each_project_counts_its_own_sessions(dead, sweep):
    """Another project's evidence stays until that project runs again; its rubbish goes."""
    other = dead("main.d/t", rootdir="/other")
    assert sweep(keep=0) == 0
    assert (other / "main.d" / "t" / "evidence").exists()
    assert not (other / "main").exists()
    assert sweep("/other", keep=0) == 1
    assert not other.exists()


def test_a_session_whose_evidence_was_removed_by_hand_goes(dead, sweep):
    """When a person has tidied up what was kept, the rest is not kept either."""
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
def test_a_forged_index_neither_keeps_nor_removes_anything_elsewhere(place, dead, sweep, path):
    """A path outside the session, or spelled oddly, is as if the index did not name it."""
    (place / "precious").mkdir()
    root = dead()
    neighbour = root.with_name(root.name + "x")
    (neighbour / "main").mkdir(parents=True)
    if isinstance(path, str):
        path = path.format(root=root, place=place)
    forge(root, {"kept": {"t": [path]}})
    assert sweep() == 1
    assert not root.exists()
    assert (place / "precious").exists()
    assert (neighbour / "main").exists()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "é", '{"kept": 1}', '{"kept": {"t": "path"}}', "[" * 100_000, {}],
)
def test_an_index_that_cannot_be_understood_keeps_nothing(dead, sweep, content):
    """Rubbish in the index is no error: it names nothing that could be kept."""
    root = dead()
    forge(root, content)
    assert sweep() == 1
    assert not root.exists()


def test_a_breadcrumb_that_cannot_be_understood_proves_and_says_nothing(dead, sweep):
    """That it exists is the proof; what it says is advice."""
    plain = dead()
    kept = dead("main.d/t")
    for root in (plain, kept):
        (root / BREADCRUMB).write_text("not JSON")
    assert sweep(keep=0) == 1
    assert not plain.exists()
    assert (kept / "main.d" / "t").exists()


@pytest.mark.parametrize("crumb", ["", "not JSON", '{"rootdir"'])
def test_evidence_finds_its_project_when_the_breadcrumb_comes_to_harm(dead, sweep, crumb):
    """What a power cut leaves of our files does not keep evidence for ever."""
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
    """What is kept is said in the root itself and nowhere else."""
    root = dead()
    index = {"kept": {"t": [str(root / "main" / "left")]}}
    (tmp_path / "elsewhere").write_text(json.dumps(index))
    (root / INDEX).symlink_to(tmp_path / "elsewhere")
    assert sweep() == 1
    assert (tmp_path / "elsewhere").exists()


def test_evidence_is_known_by_whatever_path_its_root_is_reached(place, dead, reclaim, tmp_path):
    """A link, a container that mounts it elsewhere, a moved directory: what was kept stays."""
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
    assert (moved / root.name / "main.d" / "t" / "evidence").exists()
    assert not (moved / root.name / "main").exists()


# -- the budget


class Clock:
    """A clock that stands still for some looks at it, and has then run out."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __call__(self) -> float:
        """Return the time, in seconds."""
        self.looks -= 1
        return 0.0 if self.looks >= 0 else 100.0


def test_without_time_nothing_is_swept_and_nothing_is_held(dead, sweep, monkeypatch):
    """Whenever the time runs out, no lock is held and the next session can go on."""
    for looks in range(1, 40):
        roots = [dead(), dead("main.d/t"), dead("main.d/t", ended=LONG_AGO + 1)]
        held = set(lock._held)
        with monkeypatch.context() as patch:
            patch.setattr(module.System, "monotonic", Clock(looks))
            sweep(keep=1, seconds=10)
        assert lock._held == held
        assert (roots[2] / "main.d" / "t" / "evidence").exists()
        sweep(keep=0)
        assert not any(root.exists() for root in roots)


def test_files_are_read_within_the_time_too(dead, place, monkeypatch):
    """However many sessions there are, and however long it takes to read what they say."""
    for _ in range(9):
        dead("main.d/t")
    read, now = [], [0.0]
    real = module.read

    def slow(*args):
        read.append(args)
        now[0] += 1
        return real(*args)

    monkeypatch.setattr(module.System, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "read", slow)
    module.retire(str(place), rootdir=PROJECT, keep_sessions=1, seconds=4)
    assert 2 <= len(read) < 9


def test_a_huge_tree_is_left_half_removed_and_gone_on_with_next_time(dead, reclaim):
    """Not even one dead directory of very many files holds up the end of a session for long."""
    root = dead()
    shutil.rmtree(root / "main.d")
    for number in range(30):
        (root / "main" / str(number)).touch()
    seen = []

    def tick():
        seen.append(1)
        if len(seen) == 10:
            # The clock is asked after each tick: from here on it has run out.
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
    """Where listing alone takes too long, what was found goes, and the rest another time."""
    roots = [dead() for _ in range(50)]
    seconds = iter([0.0, *(n / 10 for n in range(20)), *[2.0] * 100_000])
    with monkeypatch.context() as patch:
        patch.setattr(module.System, "monotonic", lambda: next(seconds))
        assert sweep(seconds=4.5) > 0
    while any(root.exists() for root in roots):
        assert sweep() > 0


def test_what_was_looked_at_goes_when_looking_takes_too_long(dead, reclaim, monkeypatch):
    """A place with very many sessions is swept bit by bit, and never not at all."""
    roots = [dead() for _ in range(20)]
    now, look = [0.0], module._Sweep._inspect

    def slow(self, path):
        now[0] += 1.0
        return look(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(module.System, "monotonic", lambda: now[0])
        patch.setattr(module._Sweep, "_inspect", slow)
        found = reclaim(seconds=10)
    assert (found.sessions, found.unfinished) == (6, True)
    assert sum(root.exists() for root in roots) == 14
    assert not reclaim().unfinished


def test_evidence_of_other_projects_does_not_delay_the_own(dead, sweep, monkeypatch):
    """However much others have kept, old evidence of this project goes in time."""
    others = [dead("main.d/t", rootdir="/other") for _ in range(20)]
    own = [dead("main.d/t", ended=LONG_AGO + age) for age in range(4)]
    clear = module._Sweep._clear

    def slow(self, sweep, *, stays):
        if sweep.rootdir != PROJECT:
            raise module._OutOfTimeError
        clear(self, sweep, stays=stays)

    with monkeypatch.context() as patch:
        patch.setattr(module._Sweep, "_clear", slow)
        assert sweep(keep=1) == 3
    assert [root.exists() for root in own] == [False, False, False, True]
    assert all(root.exists() for root in others)


def test_an_interrupt_ends_the_sweep_and_nothing_else(dead, reclaim):
    """Whoever presses Ctrl-C again at the end gets the end, with no lock left behind."""
    root = dead()

    def tick():
        raise KeyboardInterrupt

    held = set(lock._held)
    assert reclaim(tick=tick).unfinished
    assert lock._held == held
    assert root.exists()
    assert reclaim().sessions == 1


def test_a_huge_directory_is_left_when_the_time_is_over(place, dead, sweep, monkeypatch):
    """A shared directory with very many entries does not hold up the end of a session."""
    root = dead()
    monkeypatch.setattr(module.System, "monotonic", Clock(1))
    assert sweep(seconds=10) == 0
    assert root.exists()


def test_the_modes_of_a_kept_directory_are_not_touched(dead, sweep):
    """What is kept stays as the test left it."""
    root = dead("main.d/t")
    (root / "main.d" / "t" / "evidence").chmod(0o400)
    sweep()
    assert stat.S_IMODE((root / "main.d" / "t" / "evidence").stat().st_mode) == 0o400


@pytest.mark.parametrize("name", [INDEX, BREADCRUMB])
@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_what_cannot_be_read_just_now_is_left_alone(dead, sweep, monkeypatch, name, code):
    """Where nobody knows what was kept, nothing goes; once it can be read the rest does."""
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
    assert (root / "main.d" / "t" / "evidence").exists()
    assert (root / "main" / "left").exists()
    assert lock._held == held
    assert sweep(keep=0) == 1
