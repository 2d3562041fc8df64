"""A path that another process swaps while the plugin uses it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import ctypes
import os
from pathlib import Path
import select
import shutil
import socket
import threading
from typing import Any

import pytest
from safety_helpers import NOBODY
from safety_helpers import make_tree
from safety_helpers import snapshot
from safety_helpers import sweep

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace.journal import Journal
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import JOURNAL
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.proof import identity_of_new
from pytest_tempres.workspace.proof import remove_created
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import WorkerRoot
from pytest_tempres.workspace.root import create

#: The least number of swaps by the racing process, and the most attempts of a removal.
SWAPS, ROUNDS = 10_000, 1_000_000
#: The least number of attempts of each operation on a root.
TIMES = 300


@pytest.fixture
def open_place(shared_place) -> Path:
    """A directory in which all users may rename all entries."""
    shared_place.chmod(0o777)
    return shared_place


@pytest.fixture
def victim(open_place) -> Path:
    """A private directory of another user in a world-writable directory."""
    path = open_place / "victim"
    path.mkdir(mode=0o700)
    (path / "precious").write_text("precious")
    os.chown(path, NOBODY, NOBODY)
    return path


def race(path: Path, victim: Path, stop: int, report: int) -> None:
    """Swap the two until *stop* is closed; write a byte after each swap."""
    exchange = ctypes.CDLL(None).renameat2
    paths = os.fsencode(path), os.fsencode(victim)
    while not select.select([stop], [], [], 0)[0]:
        if exchange(-100, paths[0], -100, paths[1], 2) == 0:
            os.write(report, b"x")


@pytest.fixture
def racer(in_child, open_place, victim) -> Callable[..., Any]:
    """Let another user swap *victim* with one of our directories; return a counter of the swaps."""
    if not hasattr(ctypes.CDLL(None), "renameat2"):
        pytest.skip("only Linux swaps two names at once")

    @contextlib.contextmanager
    def racer(path: Path) -> Iterator[Callable[[], int]]:
        stop, stop_now = os.pipe()
        reported, report = os.pipe()
        swaps = 0

        def child() -> None:
            os.close(stop_now)
            os.setuid(NOBODY)
            race(path, victim, stop, report)

        def count() -> int:
            nonlocal swaps
            if select.select([reported], [], [], 0)[0]:
                swaps += len(os.read(reported, 1 << 16))
            return swaps

        thread = threading.Thread(target=in_child, args=(child,))
        thread.start()
        try:
            yield count
        finally:
            os.close(stop_now)
            thread.join()
            for fd in (reported, report, stop):
                os.close(fd)

    return racer


def test_remove_created_does_not_empty_a_swapped_directory(open_place, victim, racer):
    """The directory of the other user still has its files."""
    path, inode = open_place / "created", victim.stat().st_ino
    with racer(path) as count:
        for _ in range(ROUNDS):
            with contextlib.suppress(OSError):
                path.mkdir(mode=0o700)
            with contextlib.suppress(OSError):
                created = path.lstat()
                if created.st_uid == NOBODY:
                    continue
                (path / "file").touch()
                remove_created(str(path), (created.st_dev, created.st_ino))
            if count() >= SWAPS:
                break
        assert count() >= SWAPS
    (found,) = (each for each in open_place.iterdir() if each.stat().st_ino == inode)
    assert (found / "precious").read_text() == "precious"


def test_no_operation_on_a_root_changes_a_swapped_directory(
    open_place, victim, racer, make, tmp_path
):
    """Nothing is written to the directory of the other user, and nothing is removed from it."""
    root = make(open_place, rootdir="/p")
    worker = root.add_worker("main", 0o700)
    private = tmp_path / "private"
    private.write_text("private")
    for name in (INDEX, f"{INDEX}.new", JOURNAL, LOCK, BREADCRUMB):
        (victim / name).symlink_to(private)
    for name in ("main", "main.d", "main.d/kept"):
        make_tree(victim / name)
    before, inode = snapshot(victim), victim.stat().st_ino
    kept = f"{worker.fixture_dir}/kept"
    journal, fixture_fd = Journal(), os.open(worker.fixture_dir, os.O_RDONLY)
    operations = (
        lambda: write_index(root, [Kept("t", kept, "failed", "main")]),
        lambda: journal.add(root, "t", [kept]),
        lambda: root.remove(kept),
        lambda: root.add_worker("gw0", 0o700),
        lambda: root.restore(worker, 0o700, {}),
        root.hold,
    )
    with racer(Path(root.path)) as count:
        for attempt in range(ROUNDS):
            with contextlib.suppress(FileExistsError):
                os.mkdir("kept", dir_fd=fixture_fd)
            for operation in operations:
                with contextlib.suppress(OSError):
                    operation()
            if count() >= SWAPS and attempt >= TIMES:
                break
        assert count() >= SWAPS
    journal.close()
    os.close(fixture_fd)
    (found,) = (each for each in open_place.iterdir() if each.stat().st_ino == inode)
    if found != victim:
        # The root is at the path of the victim.
        victim.rename(open_place / "root")
        found.rename(victim)
    assert private.read_text() == "private"
    assert snapshot(victim) == before


@pytest.mark.parametrize("mode", [0o700, 0o000])
def test_a_directory_that_is_swapped_after_the_check_is_not_emptied(tmp_path, monkeypatch, mode):
    """The removal works on the directory that was checked, which is still open."""
    created, other = tmp_path / "created", tmp_path / "other"
    for path in (created, other):
        make_tree(path)
    before, whole = created.stat(), snapshot(other)
    rmdir = System.rmdir

    def swap(path, *, dir_fd=None):
        if created.exists() and other.exists():
            created.rename(tmp_path / "away")
            other.rename(created)
            created.chmod(mode)
        rmdir(path, dir_fd=dir_fd)

    monkeypatch.setattr(System, "rmdir", swap)
    (failure, *_) = remove_created(str(created), (before.st_dev, before.st_ino))
    assert "taken its place" in str(failure.error)
    assert created.stat().st_mode & 0o777 == mode
    created.chmod(0o700)
    assert [len(each) for each in (snapshot(created), whole)] == [len(whole)] * 2


@pytest.mark.parametrize("what", ["of another user", "with something in it"])
def test_a_directory_that_cannot_be_the_new_one_is_not_removed(shared_place, what):
    """A directory that has entries, or belongs to another user, is not the new one."""
    path = shared_place / "created"
    path.mkdir(mode=0o700)
    if what == "of another user":
        os.chown(path, NOBODY, NOBODY)
    else:
        (path / "precious").touch()
    with pytest.raises(NotOurDirectoryError):
        remove_created(str(path), identity_of_new(str(path)))
    assert path.exists()


# -- the session root


@pytest.fixture
def moved(make, tmp_path) -> Callable[[], object]:
    """Create a live root, and replace it with another root of this user that has kept paths."""

    def moved():
        root, other = make(rootdir="/p"), make(rootdir="/p")
        worker = root.add_worker("main", 0o700)
        make_tree(Path(other.add_worker("main", 0o700).fixture_dir, "kept"))
        write_index(other, [Kept("t", f"{other.path}/main.d/kept", "failed", "main")])
        os.rename(root.path, tmp_path / "away")
        os.rename(other.path, root.path)
        return root, worker, Path(root.path)

    return moved


def test_another_root_of_this_user_is_not_used_as_the_live_one(moved):
    """Nothing in the other root is changed, and its lock is not released."""
    root, worker, place = moved()
    before = snapshot(place)
    for operation in (
        lambda: root.restore(worker, 0o700, {"rootdir": "/p"}),
        lambda: root.remove(f"{place}/main.d/kept"),
        lambda: write_index(root, []),
        lambda: root.add_worker("gw0", 0o700).path,
    ):
        with pytest.raises(OSError, match="taken its place"):
            operation()
    place.chmod(0o500)
    assert not root.restore_modes(0o700)
    place.chmod(0o700)
    assert root.hold() is root
    assert not root.remove_if_empty()
    assert snapshot(place) == before


def test_a_recreated_root_is_recognised_by_the_other_processes(make, tmp_path):
    """Its inode is another one, but its breadcrumb has the name of the root."""
    root = make(rootdir="/p")
    worker = root.add_worker("main", 0o700)
    shutil.rmtree(root.path)
    again = root.restore(worker, 0o700, {"rootdir": "/p"})
    assert again.identity != root.identity
    held = root.hold()
    assert held.identity == again.identity
    assert held.remove(f"{root.path}/main") == []
    assert again.remove_if_empty()
    held.release()


def test_nothing_is_written_through_links_in_a_replaced_root(make, tmp_path):
    """The targets of links in place of our files are not changed."""
    root = make()
    private = tmp_path / "private"
    private.write_text("private")
    os.rename(root.path, tmp_path / "away")
    place = Path(root.path)
    place.mkdir()
    for name in (INDEX, f"{INDEX}.new", BREADCRUMB, LOCK):
        (place / name).symlink_to(private)
    with pytest.raises(NotOurDirectoryError):
        write_index(root, [])
    with pytest.raises(NotOurDirectoryError):
        root.restore(root_worker(root), 0o700, {})
    assert private.read_text() == "private"
    assert len(list(place.iterdir())) == 4


def root_worker(root):
    """Return a worker root that was never created."""
    return WorkerRoot("main", f"{root.path}/main", f"{root.path}/main.d")


@pytest.mark.skipif(os.name == "nt", reason="modes are not kept there")
@pytest.mark.parametrize("umask", [0, 0o777])
def test_our_files_are_private_whatever_the_umask(tmp_path, umask):
    """Their mode is 0600: node ids may be secret, and a sweep trusts their content."""
    before = os.umask(umask)
    try:
        root = create(str(tmp_path), mode=0o711, metadata={})
        worker = root.add_worker("main", 0o711)
        write_index(root, [Kept("t", f"{root.path}/main.d/t", "failed", "main")])
    finally:
        os.umask(before)
    for name in (LOCK, BREADCRUMB, INDEX):
        assert Path(root.path, name).stat().st_mode & 0o777 == 0o600
    for path in (root.path, worker.path, worker.fixture_dir):
        assert Path(path).stat().st_mode & 0o777 == 0o711
    root.release()


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "directory", "of another user"])
@pytest.mark.parametrize("name", [INDEX, BREADCRUMB, LOCK])
def test_a_special_file_in_place_of_ours_does_not_block_a_sweep(shared_place, dead, kind, name):
    """It counts as missing: no path is kept, or the session counts as alive."""
    if kind in ("device", "of another user") and os.geteuid() != 0:
        pytest.skip("only root can make that")
    root = dead(shared_place)
    write_index(root, [Kept("t", f"{root.path}/main/tree", "failed", "main")])
    path = Path(root.path, name)
    content = path.read_bytes()
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        before = os.getcwd()
        os.chdir(root.path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
        os.chdir(before)
    elif kind == "device":
        # The device number of /dev/zero.
        os.mknod(path, 0o20600, os.makedev(1, 5))
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(content)
        os.chown(path, NOBODY, NOBODY)
    assert sweep(shared_place) == (name == INDEX)
