"""What is mounted in a root is not crossed, and what a file system refuses is told."""

from __future__ import annotations

import errno
import os
from pathlib import Path
import re

from dangers import NOBODY
from dangers import age
from dangers import lowest_descriptor
from dangers import plant
from dangers import snapshot
from dangers import sweep
import pytest

from pytest_tempres.exceptions import WorkspaceCreationError
from pytest_tempres.primitives import _rmtree
from pytest_tempres.primitives._rmtree import remove_tree
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import create

MOUNT_ERRORS = {errno.EBUSY, errno.EXDEV}

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
        assert not root.remove_if_empty()
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
        assert not root.remove_if_empty()
        assert sweep(tmp_path) == 0
        return {failure.error.errno for failure in failures} == {errno.EROFS}

    assert in_child(child)
    lock.release(root.lock_fd)
    assert sweep(tmp_path) == 1


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
    assert root.remove_if_empty()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EXDEV, errno.EBUSY])
def test_an_index_that_cannot_be_moved_into_place(tmp_path, dead, monkeypatch, code):
    """Half an index is none: it is an error for who writes it, and a sweep takes it away."""
    root = dead()

    def refuse(*names: str, **folders: int | None) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(System, "replace", refuse)
        with pytest.raises(OSError, match=re.escape(os.strerror(code))):
            write_index(root, [Kept("t", f"{root.path}/main/tree", "failed", "main")])
    assert not os.path.exists(os.path.join(root.path, INDEX))
    assert sweep(tmp_path / "place") == 1
    assert os.listdir(tmp_path / "place") == []
