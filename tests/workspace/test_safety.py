"""What an enemy with another account, an odd mount or an early death must not achieve."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import ctypes
import errno
import json
import os
from pathlib import Path
import re
import select
import signal
import stat
import subprocess
import sys
import threading
from typing import Any

import pytest

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.exceptions import WorkspaceCreationError
from pytest_tempres.primitives import _rmtree
from pytest_tempres.primitives._rmtree import remove_tree
from pytest_tempres.workspace import lock
from pytest_tempres.workspace import sweep as sweep_module
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.proof import is_ours
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import create
from pytest_tempres.workspace.system import System

#: A second user: the one that has no rights at all.
NOBODY = 65534
LONG_AGO = 1_000_000_000
MOUNT_ERRORS = {errno.EBUSY, errno.EXDEV}


def sweep(place: object, keep: int = 0) -> int:
    """Sweep *place* as any session does, with time enough; return how many roots went."""
    before = len(os.listdir(str(place)))
    sweep_module.sweep(
        str(place),
        rootdir="/p",
        keep_sessions=keep,
        seconds=60,
        run="",
        measure=lambda path, until: (0, True),
        tick=lambda: None,
    )
    return before - len(os.listdir(str(place)))


def age(place: Path) -> None:
    """Let what stands in *place* be older than any session that is just being made."""
    for path in place.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)


def snapshot(path: Path) -> dict[str, tuple[object, ...]]:
    """Return all that a removal could have harmed in a tree."""
    found = {}
    for each in (path, *path.rglob("*")):
        status = each.lstat()
        content = each.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[str(each)] = (status.st_mode, status.st_uid, status.st_mtime_ns, content)
    return found


def plant(path: Path) -> Path:
    """Make a tree of two levels with files in both."""
    for directory in (path, path / "deep", path / "deep" / "deeper"):
        directory.mkdir()
        (directory / "file").write_text(str(directory))
    return path


def lowest_descriptor() -> int:
    """Return the number that the next open file will have."""
    fd = os.dup(0)
    os.close(fd)
    return fd


@pytest.fixture
def precious(tmp_path) -> Iterator[Path]:
    """A tree outside, which is whole afterwards."""
    path = plant(tmp_path / "precious")
    (path / "closed").mkdir(mode=0o500)
    # What looks like a root of ours, to who was led here.
    (path / "main").mkdir()
    for directory in (path, path / "main"):
        plant(directory / "tree")
    for name in (LOCK, BREADCRUMB):
        (path / name).write_text("{}" if name == BREADCRUMB else "")
    before = snapshot(path)
    yield path
    assert snapshot(path) == before


@pytest.fixture
def dead(make, tmp_path) -> Callable[..., SessionRoot]:
    """Make the root of a session that died, with a tree in its worker root."""

    def dead(place: Path | None = None) -> SessionRoot:
        place = place or tmp_path / "place"
        place.mkdir(exist_ok=True)
        root = make(place, rootdir="/p")
        plant(Path(root.add_worker("main", 0o700).path, "tree"))
        lock.release(root.lock_fd)
        return root

    return dead


# -- creation: whatever step fails or is the last


#: What the system is asked to do while a root is made or dissolved.
DEEDS = {"os.mkdir", "os.chmod", "open", "fcntl.flock", "os.remove", "os.rmdir", "os.listdir"}


def watch_deeds(act: Callable[[int, str, object], None]) -> None:
    """Call *act* before each deed, with its number; only for a child that will end soon."""
    count = [0]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in DEEDS:
            count[0] += 1
            act(count[0], event, arguments[0])

    sys.addaudithook(hook)


def test_a_root_is_made_in_the_order_that_a_sweep_relies_on(tmp_path, in_child):
    """Directory, lock file, lock, breadcrumb: at no moment is a root proved that is not locked."""

    def child() -> bool:
        seen = []
        watch_deeds(lambda number, event, what: seen.append((event, what)))
        root = create(str(tmp_path), mode=0o711, about={})
        wanted = [
            ("os.mkdir", root.path),
            ("open", LOCK),
            ("fcntl.flock", root.lock_fd),
            ("open", BREADCRUMB),
        ]
        made = [deed for deed in seen if deed in wanted]
        return made == wanted

    assert in_child(child)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_whatever_step_of_the_creation_fails_nothing_is_left(tmp_path, in_child, error):
    """Neither a directory nor a lock nor a descriptor survives a creation that failed."""

    def fails_at(step: int) -> bool:
        before, held, failed = lowest_descriptor(), set(lock._held), []

        def act(number: int, event: str, what: object) -> None:
            if number == step:
                failed.append(event)
                raise error

        watch_deeds(act)
        try:
            root = create(str(tmp_path), mode=0o711, about={})
        except (WorkspaceCreationError, KeyboardInterrupt):
            pass
        else:
            if not failed:
                return True
            # A session can do without its lock, and with nothing else.
            assert failed == ["fcntl.flock"]
            assert root.dissolve()
        return not os.listdir(tmp_path) and lock._held == held and lowest_descriptor() == before

    # What Python imports for it counts for no step.
    create(str(tmp_path), mode=0o711, about={}).dissolve()
    for step in range(1, 100):
        assert in_child(lambda step=step: fails_at(step)), f"step {step}"
        if os.listdir(tmp_path):
            break
    assert 4 < step < 99


@pytest.mark.parametrize("life", ["creation", "end"])
def test_whatever_step_a_process_dies_at_the_next_session_finds_nothing_odd(
    tmp_path, in_child, life
):
    """A process that is killed while it makes or dissolves its root leaves nothing for long."""

    def dies_at(step: int) -> bool:
        def act(number: int, event: str, what: object) -> None:
            if number == step:
                os.kill(os.getpid(), signal.SIGKILL)

        if life == "creation":
            watch_deeds(act)
        root = create(str(tmp_path), mode=0o711, about={})
        root.add_worker("main", 0o700)
        if life == "end":
            watch_deeds(act)
        return root.dissolve()

    for step in range(1, 100):
        if in_child(lambda step=step: dies_at(step)):
            break
        age(tmp_path)
        sweep(tmp_path)
        assert not os.listdir(tmp_path), f"step {step}"
    assert 4 < step < 99


def test_names_cannot_be_guessed(tmp_path, make, in_child):
    """Neither a later name nor that of a forked child follows from those before."""
    names = [os.path.basename(make().path) for _ in range(50)]
    # Children of one parent would all draw the same if they went on with its state.
    for _ in range(10):
        assert in_child(lambda: create(str(tmp_path), mode=0o700, about={}))
    found = os.listdir(tmp_path)
    assert len(found) == 60
    assert set(names) < set(found)
    for column in range(len("tempres-"), len(names[0])):
        assert len({name[column] for name in found}) > 10


@pytest.mark.parametrize("when", ["os.chmod", LOCK, "fcntl.flock", BREADCRUMB])
@pytest.mark.parametrize("what", ["link", "directory"])
def test_nothing_is_made_behind_what_takes_a_new_roots_place(
    tmp_path, precious, in_child, when, what
):
    """Where others may rename what is ours, a swapped root ends the creation and harms nothing."""
    place = tmp_path / "place"
    place.mkdir()

    def child() -> bool:
        def act(number: int, event: str, argument: object) -> None:
            names = os.listdir(place) if event != "os.listdir" else []
            if when in (event, argument) and names and not (tmp_path / "away").exists():
                os.rename(place / names[0], tmp_path / "away")
                if what == "link":
                    os.symlink(precious, place / names[0])
                else:
                    plant(place / names[0])

        watch_deeds(act)
        held = set(lock._held)
        with pytest.raises(WorkspaceCreationError):
            create(str(place), mode=0o755, about={})
        return (tmp_path / "away").exists() and lock._held == held

    assert in_child(child)
    if what == "directory":
        (left,) = place.iterdir()
        assert len(list(left.rglob("*"))) == 5
    assert os.listdir(tmp_path / "away") == []


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o755])
def test_a_root_in_a_set_gid_directory_is_as_promised(tmp_path, make, mode):
    """A directory that hands its group down, sticky or not, changes no permission of a root."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o3777)
    root = make(place, mode=mode)
    worker = root.add_worker("main", mode)
    for path, bits in ((root.path, mode), (worker.path, mode), (worker.given, mode & 0o711)):
        assert os.lstat(path).st_mode & 0o1777 == bits
    plant(Path(worker.path, "tree"))
    assert root.remove(os.path.join(worker.path, "tree")) == []
    assert root.dissolve()


# -- the lock: fork, exec, other namespaces


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
    assert root.dissolve()
    assert os.listdir(tmp_path) == []


# -- the proof


@pytest.mark.parametrize("fake", ["missing", "empty", "link", "fifo", "directory", "socket"])
def test_only_a_regular_breadcrumb_lets_anything_go(tmp_path, dead, precious, fake):
    """What else bears the breadcrumb's name removes nothing, dissolves nothing, blocks nobody."""
    root = dead()
    crumb = Path(root.path, BREADCRUMB)
    crumb.unlink()
    if fake == "empty":
        crumb.touch()
    elif fake == "link":
        crumb.symlink_to(precious / "file")
    elif fake == "fifo":
        os.mkfifo(crumb)
    elif fake == "directory":
        crumb.mkdir()
    elif fake == "socket":
        os.mknod(crumb, stat.S_IFSOCK | 0o600)
    age(tmp_path / "place")
    tree = os.path.join(root.path, "main", "tree")
    if fake == "empty":
        assert root.remove(os.path.join(tree, "deep")) == []
        assert sweep(tmp_path / "place") == 1
        return
    with pytest.raises(NotOurDirectoryError):
        root.remove(tree)
    assert not root.dissolve()
    assert sweep(tmp_path / "place") == 0
    assert os.path.exists(os.path.join(tree, "deep", "deeper", "file"))


@pytest.mark.parametrize("length", [0, 1, -1])
def test_an_index_that_a_power_cut_has_truncated(tmp_path, dead, length):
    """A truncated index is no index: nothing elsewhere is touched and nothing stumbles."""
    root = dead()
    kept = os.path.join(root.path, "main", "tree")
    write_index(root.path, [Kept("t", kept, "failed", "main")])
    index = Path(root.path, INDEX)
    index.write_bytes(index.read_bytes()[:length])
    (tmp_path / "place" / "other").mkdir()
    assert sweep(tmp_path / "place") == 1
    assert os.listdir(tmp_path / "place") == ["other"]


# -- a second user


def test_a_root_that_another_user_forged_is_left_alone(shared_place, as_nobody, in_child):
    """Not even root removes what another user made to look like a dead session of ours."""

    def forge() -> bool:
        forged = shared_place / "tempres-forged00"
        forged.mkdir(0o777)
        (forged / LOCK).touch()
        (forged / BREADCRUMB).write_text('{"rootdir": "/p"}')
        plant(forged / "main")
        unfinished = shared_place / "tempres-halfmade"
        unfinished.mkdir(0o777)
        (unfinished / LOCK).touch()
        return True

    assert as_nobody(forge)
    # Nor is a breadcrumb of ours in somebody else's directory a proof, nor one of theirs in ours.
    theirs = shared_place / "tempres-ourcrumb"
    theirs.mkdir()
    ours = shared_place / "tempres-theircru"
    ours.mkdir()
    for path, owned in ((theirs, theirs), (ours, ours / BREADCRUMB)):
        (path / LOCK).touch()
        (path / BREADCRUMB).write_text("{}")
        plant(path / "main")
        os.chown(owned, NOBODY, NOBODY)
    age(shared_place)
    before = snapshot(shared_place)
    assert sweep(shared_place) == 0
    for name in os.listdir(shared_place):
        path = str(shared_place / name)
        assert not is_ours(path)
        stranger = SessionRoot(path=path, uid=0, pid=os.getpid(), lock_fd=-1)
        with pytest.raises(NotOurDirectoryError):
            stranger.remove(os.path.join(path, "main"))
    assert snapshot(shared_place) == before


def test_two_users_of_one_sticky_directory_sweep_their_own(shared_place, as_nobody, dead):
    """In /tmp each session tidies up after its own user and nobody else."""

    def dies() -> bool:
        root = create(str(shared_place), mode=0o755, about={"rootdir": "/p"})
        plant(Path(root.add_worker("main", 0o755).path, "tree"))
        return True

    assert as_nobody(dies)
    mine = dead(shared_place)
    os.chmod(mine.path, 0o755)
    os.chmod(os.path.join(mine.path, LOCK), 0o666)
    (theirs,) = set(os.listdir(shared_place)) - {os.path.basename(mine.path)}
    whole = snapshot(shared_place / theirs)
    assert sweep(shared_place) == 1
    assert os.listdir(shared_place) == [theirs]
    assert snapshot(shared_place / theirs) == whole
    mine = dead(shared_place)
    whole = snapshot(Path(mine.path))
    assert as_nobody(lambda: sweep(shared_place) == 1)
    assert os.listdir(shared_place) == [os.path.basename(mine.path)]
    assert snapshot(Path(mine.path)) == whole


def test_a_directory_of_another_user_in_an_open_worker_root(shared_place, as_nobody, make):
    """With `tempres_root_mode=1777` others leave things too: they go, and harm nobody's files."""
    root = make(shared_place, mode=0o711)
    worker = root.add_worker("main", 0o1777)
    outside = plant(shared_place / "outside")
    before = snapshot(outside)

    def leaves() -> bool:
        theirs = plant(Path(worker.path, "theirs"))
        (theirs / "link").symlink_to(outside)
        (theirs / "deep" / "up").symlink_to("../../../../outside")
        (theirs / "deep").chmod(0)
        return True

    assert as_nobody(leaves)
    assert root.remove(os.path.join(worker.path, "theirs")) == []
    assert os.listdir(worker.path) == []
    assert snapshot(outside) == before


# -- links that come and go


@pytest.fixture
def racer(in_child, tmp_path, shared_place) -> Callable[..., Any]:
    """Have another process swap a directory for a link again and again, a bounded number of times.

    It may be another user. It says how often it succeeded, so that no test passes for want of it.
    """
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is None:
        pytest.skip("only Linux swaps two names at once")
    aside = shared_place / "aside"
    aside.mkdir()
    aside.chmod(0o777)

    def race(path: Path, victim: Path, over: int) -> int:
        swaps, links, here = 0, 0, os.fsencode(path)
        link = b""
        for step in range(1_000_000):
            if step % 100 == 0 and select.select([over], [], [], 0)[0]:
                break
            if link and exchange(-100, here, -100, link, 2) == 0:
                swaps += 1
                continue
            # The tree was removed, and what is aside may be the directory: begin anew.
            link = b""
            if os.path.lexists(here):
                links += 1
                link = os.fsencode(aside / f"link{links}")
                os.symlink(victim, link)
        return swaps

    @contextlib.contextmanager
    def racer(path: Path, victim: Path, *, uid: int | None = None) -> Iterator[None]:
        over, end = os.pipe()
        counted, count = os.pipe()

        def child() -> None:
            os.close(end)
            if uid is not None:
                os.setuid(uid)
            os.write(count, b"%d" % race(path, victim, over))

        thread = threading.Thread(target=in_child, args=(child,))
        thread.start()
        try:
            yield
        finally:
            os.close(end)
            thread.join()
            os.close(count)
            swaps = int(os.read(counted, 100))
            os.close(over)
            os.close(counted)
        assert swaps > 0

    return racer


def plant_again(stage: Path, worker: Path) -> None:
    """Let a tree that is open to everybody stand in *worker* again, wherever the racer is now."""
    if not stage.exists():
        os.makedirs(stage / "deep" / "deeper")
        for directory in (stage, stage / "deep", stage / "deep" / "deeper"):
            (directory / "file").touch()
            directory.chmod(0o777)
    # All this must not be led astray itself.
    with contextlib.suppress(OSError):
        os.mkdir(worker)
    with contextlib.suppress(OSError):
        inside = os.open(worker, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.rename(stage, "tree", dst_dir_fd=inside)
        finally:
            os.close(inside)


@pytest.mark.parametrize(
    "how, swapped, stranger",
    [
        ("remove_tree", "main/tree/deep", True),
        ("remove", "", False),
        ("remove", "main", False),
        ("remove", "main/tree", False),
        ("remove", "main/tree/deep", True),
        ("sweep", "main", False),
        ("sweep", "main/tree/deep", True),
    ],
)
def test_a_directory_that_is_swapped_for_a_link_again_and_again(
    shared_place, precious, make, racer, how, swapped, stranger
):
    """However often, whenever and by whomever it is swapped, no removal goes where it points."""
    root = make(shared_place, mode=0o711, rootdir="/p")
    aside = shared_place / "aside"
    kept = Path(root.path, "main.d", "kept")
    kept.mkdir(parents=True)
    write_index(root.path, [Kept("t", str(kept), "failed", "main")])
    if how == "sweep":
        # What is kept holds the root, so that the racer finds it for as long as it runs.
        lock.release(root.lock_fd)
    tree = Path(root.path, "main", "tree")
    os.mkdir(tree.parent)
    uid = NOBODY if stranger and os.geteuid() == 0 else None
    with racer(Path(root.path, swapped), precious, uid=uid):
        for _ in range(60):
            plant_again(shared_place / "stage", tree.parent)
            if how == "remove_tree":
                remove_tree(str(tree))
            elif how == "remove":
                with contextlib.suppress(NotOurDirectoryError):
                    root.remove(str(tree))
            else:
                sweep(shared_place, keep=1)
    where = [Path(root.path), *(path for path in aside.iterdir() if not path.is_symlink())]
    assert any((path / "main.d" / "kept").exists() for path in where)


# -- mounts


MOUNTS = {
    "entry": "main/tree",
    "inside": "main/tree/deep/deeper",
    "file": "main/tree/deep/deeper/file",
    "worker root": "main",
    "given": "main.d",
    "lock": LOCK,
    "breadcrumb": BREADCRUMB,
}


@pytest.mark.parametrize("where", MOUNTS)
def test_what_is_mounted_in_a_root_is_not_crossed(
    tmp_path, make, precious, namespace, in_child, where
):
    """A bind mount lies on the same device as all the rest, and what is behind it stays."""
    place = tmp_path / "place"
    place.mkdir()
    root = make(place, rootdir="/p")
    worker = root.add_worker("main", 0o700)
    tree = plant(Path(worker.path, "tree"))
    target = os.path.join(root.path, MOUNTS[where])
    entries = {tree}
    if os.path.dirname(target) == root.path and not os.path.isfile(target):
        # What is seen in a worker root is what anybody would remove in it.
        entries = {Path(target, name) for name in os.listdir(precious)}

    def child() -> bool:
        namespace.enter("mount")
        namespace.bind(precious / "file" if os.path.isfile(target) else precious, target)
        failures = [failure for path in entries for failure in root.remove(str(path))]
        assert {failure.error.errno for failure in failures} <= MOUNT_ERRORS
        assert bool(failures) == (where not in ("lock", "breadcrumb"))
        assert not root.dissolve()
        assert sweep(place) == 0
        namespace.unmount(target)
        return True

    before = snapshot(precious)
    assert in_child(child)
    assert snapshot(precious) == before
    lock.release(root.lock_fd)
    age(place)
    sweep(place)
    assert os.listdir(place) == []


@pytest.mark.parametrize("kind", ["read-only", "another user's", "memory"])
def test_a_mount_that_the_system_does_not_call_busy_is_not_crossed_either(
    shared_place, namespace, in_child, kind
):
    """Below a directory that may not be changed that is what the system says, mount or not."""
    tree = plant(shared_place / "tree")
    victim = plant(shared_place / "victim")
    (tree / "mounted").mkdir()
    for path in (victim, *victim.rglob("*")):
        os.chown(path, NOBODY, NOBODY)

    def child() -> bool:
        namespace.enter("mount")
        if kind == "read-only":
            namespace.protect(tree)
        if kind == "memory":
            namespace.memory(tree / "mounted")
            (tree / "mounted" / "file").touch()
            os.chown(tree / "mounted", NOBODY, NOBODY)
        else:
            namespace.bind(victim, tree / "mounted")
        before = snapshot(tree / "mounted")
        if kind != "read-only":
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        # Both the mount itself, and the tree that it is in.
        failures = [*remove_tree(str(tree / "mounted")), *remove_tree(str(tree))]
        os.seteuid(0)
        assert failures
        return snapshot(tree / "mounted") == before

    assert in_child(child)
    assert len(list(victim.rglob("*"))) == 5


def test_a_root_cannot_be_made_on_a_read_only_mount(tmp_path, namespace, in_child):
    """It is one clear error, which names the place and the option that helps."""

    def child() -> bool:
        namespace.enter("mount")
        namespace.memory(tmp_path, read_only=True)
        with pytest.raises(WorkspaceCreationError, match="--tempres-root") as caught:
            create(str(tmp_path), mode=0o700, about={})
        return caught.value.errno == errno.EROFS and sweep(tmp_path) == 0

    assert in_child(child)


def test_a_root_that_becomes_read_only_loses_nothing_but_time(make, tmp_path, namespace, in_child):
    """What cannot be removed is told, path and reason, and the next session removes it."""
    root = make(rootdir="/p")
    tree = plant(Path(root.add_worker("main", 0o700).path, "tree"))

    def child() -> bool:
        namespace.enter("mount")
        namespace.protect(tmp_path)
        failures = root.remove(str(tree))
        assert not root.dissolve()
        assert sweep(tmp_path) == 0
        return {failure.error.errno for failure in failures} == {errno.EROFS}

    assert in_child(child)
    lock.release(root.lock_fd)
    assert sweep(tmp_path) == 1


# -- hard links


def test_hard_links_to_files_outside_harm_nobody(shared_place, as_nobody):
    """One name of a file goes; what is in it, its modes and its times stay as they are."""

    def child() -> bool:
        place = shared_place / "mine"
        place.mkdir()
        outside = [place / name for name in ("closed", "open")]
        for path in outside:
            path.write_text("precious")
            os.utime(path, ns=(1, 2))
        root = create(str(place), mode=0o700, about={"rootdir": "/p"})
        tree = Path(root.add_worker("main", 0o700).path, "tree")
        (tree / "deep").mkdir(parents=True)
        for path, bits in zip(outside, (0o000, 0o644), strict=True):
            os.link(path, tree / path.name)
            os.link(path, tree / "deep" / path.name)
            path.chmod(bits)
        # Directories that are in the way by their mode are repaired, files are not.
        (tree / "deep").chmod(0)
        tree.chmod(0o500)
        assert root.remove(str(tree)) == []
        os.link(outside[0], os.path.join(root.path, "main", "again"))
        lock.release(root.lock_fd)
        assert sweep(place) == 1
        told = [path.lstat() for path in outside]
        assert [stat.S_IMODE(each.st_mode) for each in told] == [0o000, 0o644]
        assert all((each.st_atime_ns, each.st_mtime_ns) == (1, 2) for each in told)
        assert all(each.st_nlink == 1 for each in told)
        outside[0].chmod(0o600)
        return all(path.read_text() == "precious" for path in outside)

    assert as_nobody(child)


# -- a file system that fails as NFS does


@pytest.mark.parametrize("code", ["ESTALE", "EIO", "EBUSY", "ENOTEMPTY"])
@pytest.mark.parametrize("call", ["unlink", "rmdir"])
def test_what_a_server_refuses_is_told_and_goes_next_time(tmp_path, dead, monkeypatch, call, code):
    """A handle that is stale, a file that is open elsewhere: the rest goes, and later all does."""
    root = dead()
    left = "deeper" if call == "rmdir" else "file"
    real = getattr(_rmtree.System, call)

    def refuse(name: str, **where: int) -> None:
        if name == left:
            real_errors.append(name)
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)), name)
        real(name, **where)

    real_errors: list[str] = []
    monkeypatch.setattr(_rmtree.System, call, staticmethod(refuse))
    before = lowest_descriptor()
    failures = root.remove(os.path.join(root.path, "main", "tree"))
    assert {failure.error.errno for failure in failures} >= {getattr(errno, code)}
    assert len(real_errors) < 50
    assert sweep(tmp_path / "place") == 0
    assert lowest_descriptor() == before
    monkeypatch.undo()
    lock.release(root.lock_fd)
    assert sweep(tmp_path / "place") == 1
    assert os.listdir(tmp_path / "place") == []


def test_a_file_that_nfs_renames_while_it_is_open(tmp_path, make, monkeypatch):
    """NFS keeps a removed file that is open as `.nfs…`: a root's own lock never becomes one."""
    root = make(tmp_path)
    root.add_worker("main", 0o700)
    names = {os.fstat(root.lock_fd).st_ino: root.lock_fd}
    real = System.unlink

    def silly(name: str, *, dir_fd: int | None = None) -> None:
        inode = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_ino
        if names.get(inode) in lock._held:
            os.rename(name, ".nfs0001", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        else:
            real(name, dir_fd=dir_fd)

    monkeypatch.setattr(System, "unlink", staticmethod(silly))
    assert root.dissolve()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EXDEV, errno.EBUSY])
def test_an_index_that_cannot_be_moved_into_place(tmp_path, dead, monkeypatch, code):
    """Half an index is none: it is an error for who writes it, and a sweep takes it away."""
    root = dead()

    def refuse(*names: str) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match=re.escape(os.strerror(code))):
            write_index(root.path, [Kept("t", f"{root.path}/main/tree", "failed", "main")])
    assert not os.path.exists(os.path.join(root.path, INDEX))
    assert sweep(tmp_path / "place") == 1
    assert os.listdir(tmp_path / "place") == []
