"""A model test of the workspace and the sweep: many sessions, in any order.

Before each step the model computes what that step may remove, and compares the directory before and
after. A `flock` belongs to an open file, so actors in one process conflict as processes do.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
from dataclasses import field
import json
import os
from pathlib import Path
import shutil
import sys
import time
from unittest import mock

from actors import do_sweep
from actors import dying
from actors import high_descriptors
from actors import snapshot
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule
from hypothesis.stateful import run_state_machine_as_test
import pytest

from pytest_tempres.workspace import lock
from pytest_tempres.workspace import root as root_module
from pytest_tempres.workspace import sweep as sweep_module
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import WorkerRoot
from pytest_tempres.workspace.root import attach
from pytest_tempres.workspace.root import create

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="an open lock file cannot be removed on Windows"
)

PROJECTS = ("/home/me/one", "/home/me/two")
OURS = (BREADCRUMB, LOCK, INDEX)
#: The kinds of foreign entries that are named like our session roots.
DISGUISES = (
    "file",
    "tree",
    "no breadcrumb",
    "breadcrumb directory",
    "link",
    "dangling",
    "lock only",
)


# -- the model


@dataclass
class SessionModel:
    """A session in the model: its live processes, and the paths that they created."""

    path: str
    project: str
    #: The descriptors with which its processes hold the lock.
    held: set[int] = field(default_factory=set)
    root: SessionRoot | None = None
    workers: list[WorkerRoot] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)
    #: Whether a file was removed that proves it to be ours or dead.
    damaged: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether any of its processes is alive."""
        return bool(self.held)


def parts(path: str, root: str) -> list[str]:
    """Return the names that lead from *root* to *path*."""
    return path.removeprefix(root).strip(os.sep).split(os.sep)


def paths_in_index(root: str) -> list[str]:
    """Return the existing paths in the index of *root*, if that can be read."""
    try:
        index = json.loads(Path(root, INDEX).read_text("ascii"))
    except (OSError, ValueError):
        return []
    return [path for (path,) in index["kept"].values() if os.path.lexists(path)]


class WorkspaceMachine(RuleBasedStateMachine):
    """Sessions, sweeps, users and foreign files in one temp directory."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = place
        self.outside = place.with_name(f"{place.name}-outside")
        self.outside.mkdir()
        (self.outside / "precious").write_text("precious", "utf-8")
        # With random names Hypothesis could not repeat a failure.
        self.naming = mock.patch.object(root_module, "make_directory", self.make_directory)
        self.naming.start()
        # The same applies to a random order.
        self.order = mock.patch.object(sweep_module, "random_name", str)
        self.order.start()
        self.sessions: list[SessionModel] = []
        self.number = 0
        self.held_before = set(lock._held)

    def teardown(self) -> None:
        """Check at the end that all dead sessions are removed, if they are proved ours and dead."""
        for session in self.sessions:
            self.end(session)
        self.let_time_pass()
        for project in PROJECTS:
            self.sweep(project, keep=0, calls=None)
        for session in self.dead():
            # An empty directory is not proved to be ours.
            left = sorted(snapshot(Path(session.path)))
            assert session.damaged or not left, f"left: {left}"
        self.order.stop()
        self.naming.stop()
        shutil.rmtree(self.place)
        shutil.rmtree(self.outside)

    def make_directory(self, parent: str, prefix: str, suffix: str) -> str:
        """Create a directory with the next number as its name."""
        self.number += 1
        path = os.path.join(parent, f"{prefix}{self.number:08}{suffix}")
        os.mkdir(path, 0o700)
        return path

    # -- what a step may remove

    @contextlib.contextmanager
    def step(self, may_change: Callable[[str], bool]) -> Iterator[None]:
        """Check that this step removes and changes only what it may."""
        before = snapshot(self.place)
        yield
        after = snapshot(self.place)
        for path, content in before.items():
            if after.get(path) != content:
                assert may_change(path), f"{path} is gone or changed"

    def removable(self, project: str, keep: int) -> set[str]:
        """Return everything that a sweep with enough time would remove now."""
        kept = {each.path: paths_in_index(each.path) for each in self.sessions}
        # Live sessions count too.
        own = [root for root, paths in kept.items() if paths and self.project_of(root) == project]
        own.sort(key=lambda root: os.lstat(os.path.join(root, INDEX)).st_mtime_ns, reverse=True)
        old = own[keep:]
        dead = [each.path for each in self.dead()]
        return {path for root in dead for path in self.removable_in(root, kept[root], root in old)}

    def removable_in(self, root: str, kept: list[str], is_old: bool) -> set[str]:
        """Return what a sweep would remove of a dead session: everything if *is_old*."""
        names = set(os.listdir(root))
        if BREADCRUMB not in names:
            old = time.time() - os.lstat(root).st_mtime > 60
            gone = {root, *(os.path.join(root, name) for name in names)}
            return gone if names == {LOCK} and old else set()
        if LOCK not in names:
            # A session counts as alive unless it is proved to be dead.
            return set()
        if is_old or not kept:
            return {root, *snapshot(Path(root))}
        return {path for path in snapshot(Path(root)) if not self.is_kept(path, root, kept)}

    def is_kept(self, path: str, root: str, kept: list[str]) -> bool:
        """Whether *path* is kept, contains a kept path, or is in an entry that contains one."""
        names = parts(path, root)
        if names in ([name] for name in OURS):
            return True
        return any(names[:2] == parts(each, root)[: len(names)][:2] for each in kept)

    def project_of(self, root: str) -> str | None:
        """Return the project of a session, if the breadcrumb can be read."""
        try:
            breadcrumb = json.loads(Path(root, BREADCRUMB).read_text("ascii"))
        except (OSError, ValueError):
            return None
        return str(breadcrumb["rootdir"])

    def dead(self) -> list[SessionModel]:
        """Return the sessions that have ended and left files."""
        return [each for each in self.sessions if not each.is_alive and os.path.lexists(each.path)]

    def alive(self) -> list[SessionModel]:
        """Return the sessions that can continue."""
        return [each for each in self.sessions if each.root is not None and each.is_alive]

    def pick(self, data: st.DataObject, sessions: list[SessionModel]) -> SessionModel:
        """Draw one of *sessions*."""
        return sessions[data.draw(st.integers(0, len(sessions) - 1))]

    # -- sessions

    @initialize(projects=st.lists(st.sampled_from(PROJECTS), max_size=4))
    def run_earlier_sessions(self, projects: list[str]) -> None:
        """Earlier sessions have kept paths."""
        for project in projects:
            self.run_completely(project, kept=[True], killed=False)

    @rule(project=st.sampled_from(PROJECTS))
    def start(self, project: str) -> None:
        """A session creates its root and its first worker root."""
        with self.step(lambda path: False):
            root = create(str(self.place), mode=0o700, metadata={"rootdir": project})
            session = SessionModel(root.path, project, {root.lock_fd}, root)
            session.workers.append(root.add_worker("main", 0o700))
        self.sessions.append(session)

    @rule(project=st.sampled_from(PROJECTS), after=st.integers(0, 2), stopped=st.booleans())
    def die_while_starting(self, project: str, after: int, stopped: bool) -> None:
        """A session dies or stops after it has created its directory or its lock."""
        before = set(os.listdir(self.place))
        held = set(lock._held)
        with self.step(lambda path: False), dying(after):
            create(str(self.place), mode=0o700, metadata={"rootdir": project})
        (name,) = set(os.listdir(self.place)) - before
        session = SessionModel(os.path.join(self.place, name), project, lock._held - held)
        self.sessions.append(session)
        if not stopped:
            self.end(session)

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def add_worker(self, data: st.DataObject) -> None:
        """A worker joins a session and holds its lock."""
        session = self.pick(data, self.alive())
        with self.step(lambda path: False):
            root = attach(session.path)
            session.held.add(root.lock_fd)
            session.workers.append(root.add_worker(f"gw{len(session.workers)}", 0o700))

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), by_fixture=st.booleans(), deep=st.booleans())
    def make_entry(self, data: st.DataObject, by_fixture: bool, deep: bool) -> None:
        """A test creates an entry in its temp location, or a fixture in its directory."""
        session = self.pick(data, self.alive())
        worker = data.draw(st.sampled_from(session.workers))
        self.add_entry(session, worker.fixture_dir if by_fixture else worker.path, deep)

    def add_entry(self, session: SessionModel, folder: str, deep: bool) -> None:
        """Create a file, or a tree with a link in it."""
        self.number += 1
        entry = Path(folder, f"e{self.number}")
        with self.step(lambda path: False):
            if deep:
                (entry / "inner").mkdir(parents=True)
                (entry / "inner" / "file").write_text("x", "utf-8")
                (entry / "link").symlink_to(self.outside)
            else:
                entry.write_text("x", "utf-8")
        session.entries.append(str(entry))

    @precondition(lambda self: any(each.entries for each in self.alive()))
    @rule(data=st.data(), inner=st.booleans(), half=st.booleans())
    def keep(self, data: st.DataObject, inner: bool, half: bool) -> None:
        """A session writes its index, and may die before the file is renamed."""
        session = self.pick(data, [each for each in self.alive() if each.entries])
        chosen = data.draw(st.sets(st.sampled_from(session.entries), min_size=1))
        if inner:
            deeper = (os.path.join(path, "inner") for path in chosen)
            chosen = {path for path in deeper if os.path.lexists(path)} or chosen
        if not half:
            self.write_index(session, chosen)
            return
        with self.step(lambda path: False), dying(0):
            write_index(session.root, [Kept("t", path, "failed", "main") for path in chosen])
        self.end(session)

    def write_index(self, session: SessionModel, chosen: set[str]) -> None:
        """Write the index, with a later modification time than all earlier ones."""
        index = os.path.join(session.path, INDEX)
        with self.step(lambda path: path == index):
            kept = [Kept(path, path, "failed", "main") for path in sorted(chosen)]
            write_index(session.root, kept)
        self.number += 1
        os.utime(index, (self.number, self.number))

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), after=st.none() | st.integers(0, 6))
    def end_cleanly(self, data: st.DataObject, after: int | None) -> None:
        """A session that kept nothing removes its root; it may die at any step."""
        session = self.pick(data, self.alive())
        root, entries = session.root, tuple(session.entries)
        own_files = (
            session.path,
            *(os.path.join(session.path, name) for name in (BREADCRUMB, LOCK)),
        )
        workers = [path for worker in session.workers for path in (worker.path, worker.fixture_dir)]
        empty = not entries and not os.path.lexists(os.path.join(session.path, INDEX))
        # The controller ends last.
        for fd in session.held - {root.lock_fd}:
            lock.release(fd)
            session.held.discard(fd)
        with self.step(lambda path: path in (*own_files, *workers) and path not in entries):
            if after is None:
                root.remove_if_empty()
            else:
                with dying(after):
                    root.remove_if_empty()
        self.end(session)
        assert after is not None or empty != os.path.lexists(session.path)

    @rule(
        project=st.sampled_from(PROJECTS),
        kept=st.lists(st.booleans(), min_size=1, max_size=3),
        killed=st.booleans(),
    )
    def run_completely(self, project: str, kept: list[bool], killed: bool) -> None:
        """A session creates some entries, keeps some of them, and ends or is killed."""
        self.start(project)
        session = self.sessions[-1]
        worker = session.workers[0]
        for _ in kept:
            self.add_entry(session, worker.fixture_dir, deep=True)
        if any(kept) and not killed:
            chosen = (entry for entry, keep in zip(session.entries, kept, strict=True) if keep)
            self.write_index(session, set(chosen))
        self.end(session)

    @precondition(lambda self: any(each.is_alive for each in self.sessions))
    @rule(data=st.data(), orphans=st.booleans())
    def die(self, data: st.DataObject, orphans: bool) -> None:
        """All processes of a session are killed, or the controller alone."""
        session = self.pick(data, [each for each in self.sessions if each.is_alive])
        root = session.root
        if orphans and root is not None:
            lock.release(root.lock_fd)
            session.held.discard(root.lock_fd)
            session.root = None
        else:
            self.end(session)

    def end(self, session: SessionModel) -> None:
        """End all processes of *session*: the kernel releases their locks."""
        for fd in session.held:
            lock.release(fd)
        session.held.clear()
        session.root = None

    # -- sweepers

    @rule(
        project=st.sampled_from(PROJECTS),
        keep=st.integers(0, 3),
        calls=st.none() | st.integers(0, 30),
    )
    def sweep(self, project: str, keep: int, calls: int | None) -> None:
        """A sweep removes only what it may, and all of that if it has enough time."""
        removable = self.removable(project, keep)
        with self.step(removable.__contains__):
            do_sweep(self.place, project, keep, calls)
        if calls is None:
            left = sorted(path for path in removable if os.path.lexists(path))
            assert not left, f"not swept: {left}"

    @rule(project=st.sampled_from(PROJECTS), keep=st.integers(0, 3), after=st.integers(0, 8))
    def die_while_sweeping(self, project: str, keep: int, after: int) -> None:
        """A sweeping process is killed; the root that it was removing is still a dead session."""
        removable = self.removable(project, keep)
        held = set(lock._held)
        with self.step(removable.__contains__), dying(after) as tick:
            do_sweep(self.place, project, keep, tick=tick)
        for fd in lock._held - held:
            lock.release(fd)

    @rule(
        projects=st.tuples(st.sampled_from(PROJECTS), st.sampled_from(PROJECTS)),
        keeps=st.tuples(st.integers(0, 3), st.integers(0, 3)),
        after=st.integers(0, 5),
    )
    def sweep_together(self, projects: tuple[str, str], keeps: tuple[int, int], after: int) -> None:
        """A second sweep runs, and a new session starts, during a sweep."""
        first, second = (self.removable(*each) for each in zip(projects, keeps, strict=True))
        begun = after
        remove = SessionRoot.remove

        def interfere(root: SessionRoot, *args: object) -> object:
            nonlocal begun
            begun -= 1
            if begun == 0:
                do_sweep(self.place, projects[1], keeps[1])
                with high_descriptors():
                    self.start(projects[0])
            return remove(root, *args)

        with (
            self.step((first | second).__contains__),
            mock.patch.object(SessionRoot, "remove", interfere),
        ):
            do_sweep(self.place, projects[0], keeps[0])

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), project=st.sampled_from(PROJECTS))
    def sweep_while_one_ends(self, data: st.DataObject, project: str) -> None:
        """A session removes its root while a sweep has its lock file open."""
        session = self.pick(data, self.alive())
        take = lock._lock_exclusive
        removable = self.removable(project, 3)

        def end_first(fd: int) -> None:
            if session.is_alive and os.path.samestat(os.fstat(fd), os.fstat(session.root.lock_fd)):
                for each in session.held - {session.root.lock_fd}:
                    lock.release(each)
                session.root.remove_if_empty()
                self.end(session)
                # It may be dead now, and removed by this sweep.
                removable.update(self.removable(project, 3), own)
            take(fd)

        own = {session.path, *(os.path.join(session.path, name) for name in (BREADCRUMB, LOCK))}
        own |= {path for worker in session.workers for path in (worker.path, worker.fixture_dir)}
        with (
            self.step(removable.__contains__),
            mock.patch.object(lock, "_lock_exclusive", end_first),
        ):
            do_sweep(self.place, project, 3)

    @rule()
    def let_time_pass(self) -> None:
        """More than a minute passes."""
        for path in self.place.iterdir():
            os.utime(path, (1_000, 1_000), follow_symlinks=False)

    # -- users and foreign files

    @precondition(lambda self: self.dead())
    @rule(data=st.data(), name=st.sampled_from((*OURS, "kept")))
    def prune(self, data: st.DataObject, name: str) -> None:
        """A user removes a kept path, or one of our files."""
        session = self.pick(data, self.dead())
        if name == "kept":
            for path in paths_in_index(session.path)[:1]:
                (shutil.rmtree if os.path.isdir(path) else os.unlink)(path)
        else:
            Path(session.path, name).unlink(missing_ok=True)
            session.damaged |= name != INDEX

    @precondition(lambda self: self.dead())
    @rule(data=st.data(), name=st.sampled_from(OURS), share=st.floats(0, 1))
    def truncate(self, data: st.DataObject, name: str, share: float) -> None:
        """A file of ours is truncated, as after a power cut."""
        session = self.pick(data, self.dead())
        path = os.path.join(session.path, name)
        if os.path.lexists(path):
            os.truncate(path, int(os.lstat(path).st_size * share))
            # The project of the kept paths is unknown from now on.
            session.damaged |= name == BREADCRUMB

    @rule(disguise=st.sampled_from(DISGUISES), data=st.data())
    def add_foreign_entry(self, disguise: str, data: st.DataObject) -> None:
        """Another program creates an entry that is named like a session root."""
        self.number += 1
        path = self.place / f"tempres-{self.number:08}"
        if disguise == "file":
            path.write_text("precious", "utf-8")
        elif disguise == "link":
            targets = [str(self.outside), *(each.path for each in self.sessions)]
            path.symlink_to(data.draw(st.sampled_from(targets)))
        elif disguise == "dangling":
            path.symlink_to("nowhere")
        else:
            path.mkdir()
            self.fill_foreign_directory(path, disguise)

    def fill_foreign_directory(self, path: Path, disguise: str) -> None:
        """Fill a foreign directory so that it looks like a root, but is not proved to be ours."""
        if disguise != "tree":
            (path / LOCK).write_text("", "utf-8")
        if disguise == "breadcrumb directory":
            (path / BREADCRUMB).mkdir()
        if disguise != "lock only":
            (path / "precious").write_text("precious", "utf-8")

    # -- invariants

    @invariant()
    def nothing_outside_is_changed(self) -> None:
        """No link is followed out of the temp directory."""
        assert snapshot(self.outside) == {str(self.outside / "precious"): b"precious"}

    @invariant()
    def only_live_processes_hold_locks(self) -> None:
        """The lock of a dead process is released."""
        alive = {fd for session in self.sessions for fd in session.held}
        assert lock._held - self.held_before == alive

    @invariant()
    def live_sessions_are_complete(self) -> None:
        """The root, the worker roots and all their entries exist."""
        for session in (each for each in self.sessions if each.is_alive):
            for path in (session.path, *session.entries):
                assert os.path.lexists(path), f"{path} is gone"
            assert all(Path(worker.path).is_dir() for worker in session.workers)


def test_in_any_order_live_sessions_are_complete_and_dead_ones_removed(tmp_path_factory):
    """Sessions start, die and sweep, and users remove files, in any order."""
    run_state_machine_as_test(
        lambda: WorkspaceMachine(tmp_path_factory.mktemp("model")),
        settings=settings(
            deadline=None,
            max_examples=50,
            stateful_step_count=25,
            suppress_health_check=list(HealthCheck),
        ),
    )
