"""Mounts in a root, and errors of the file system during a removal."""

from __future__ import annotations

import errno
import os
from pathlib import Path
import re

import pytest
from safety_helpers import NOBODY
from safety_helpers import lowest_descriptor
from safety_helpers import make_old
from safety_helpers import make_tree
from safety_helpers import snapshot
from safety_helpers import sweep

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
    "fixture directory": "main.d",
    "lock": LOCK,
    "breadcrumb": BREADCRUMB,
}


@pytest.mark.parametrize("where", MOUNTS)
def test_a_mount_in_a_root_is_not_crossed(tmp_path, make, outside_tree, namespace, in_child, where):
    """This includes a bind mount, which is on the same device as the root."""
    place = tmp_path / "place"
    place.mkdir()
    root = make(place, rootdir="/p")
    worker = root.add_worker("main", 0o700)
    tree = make_tree(Path(worker.path, "tree"))
    target = os.path.join(root.path, MOUNTS[where])
    entries = {tree}
    if os.path.dirname(target) == root.path and not os.path.isfile(target):
        # The mount covers the worker root, so its entries are those of the mounted directory.
        entries = {Path(target, name) for name in os.listdir(outside_tree)}

    def child() -> bool:
        namespace.enter("mount")
        namespace.bind(outside_tree / "file" if os.path.isfile(target) else outside_tree, target)
        failures = [failure for path in entries for failure in root.remove(str(path))]
        assert {failure.error.errno for failure in failures} <= MOUNT_ERRORS
        assert bool(failures) == (where not in ("lock", "breadcrumb"))
        assert not root.remove_if_empty()
        assert sweep(place) == 0
        namespace.unmount(target)
        return True

    before = snapshot(outside_tree)
    assert in_child(child)
    assert snapshot(outside_tree) == before
    lock.release(root.lock_fd)
    make_old(place)
    sweep(place)
    assert os.listdir(place) == []


@pytest.mark.parametrize("kind", ["read-only", "another user's", "memory"])
def test_a_mount_is_not_crossed_if_the_system_reports_another_error(
    shared_place, namespace, in_child, kind
):
    """In a directory that is not writable, the error is not EBUSY."""
    tree = make_tree(shared_place / "tree")
    victim = make_tree(shared_place / "victim")
    (tree / "mounted").mkdir()
    for path in (victim, *victim.rglob("*")):
        os.chown(path, NOBODY, NOBODY)

    def child() -> bool:
        namespace.enter("mount")
        if kind == "read-only":
            namespace.make_read_only(tree)
        if kind == "memory":
            namespace.mount_tmpfs(tree / "mounted")
            (tree / "mounted" / "file").touch()
            os.chown(tree / "mounted", NOBODY, NOBODY)
        else:
            namespace.bind(victim, tree / "mounted")
        before = snapshot(tree / "mounted")
        if kind != "read-only":
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        # Remove both the mount itself and the tree that contains it.
        failures = [*remove_tree(str(tree / "mounted")), *remove_tree(str(tree))]
        os.seteuid(0)
        assert failures
        return snapshot(tree / "mounted") == before

    assert in_child(child)
    assert len(list(victim.rglob("*"))) == 5


def test_a_root_cannot_be_created_on_a_read_only_mount(tmp_path, namespace, in_child):
    """The error has the path and names the option to change it."""

    def child() -> bool:
        namespace.enter("mount")
        namespace.mount_tmpfs(tmp_path, read_only=True)
        with pytest.raises(WorkspaceCreationError, match="--tempres-root") as caught:
            create(str(tmp_path), mode=0o700, metadata={})
        return caught.value.errno == errno.EROFS and sweep(tmp_path) == 0

    assert in_child(child)


def test_a_root_that_becomes_read_only_is_removed_by_the_next_session(
    make, tmp_path, namespace, in_child
):
    """The paths that cannot be removed are reported with their errors."""
    root = make(rootdir="/p")
    tree = make_tree(Path(root.add_worker("main", 0o700).path, "tree"))

    def child() -> bool:
        namespace.enter("mount")
        namespace.make_read_only(tmp_path)
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
def test_an_error_of_a_server_is_reported_and_the_rest_removed(
    tmp_path, dead, monkeypatch, call, code
):
    """A path with a stale handle, or that is open elsewhere, is removed by a later sweep."""
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


def test_the_lock_file_is_closed_before_it_is_removed(tmp_path, make, monkeypatch):
    """On NFS the removal of an open file only renames it to `.nfs...`."""
    root = make(tmp_path)
    root.add_worker("main", 0o700)
    names = {os.fstat(root.lock_fd).st_ino: root.lock_fd}
    real = System.unlink

    def silly_rename(name: str, *, dir_fd: int | None = None) -> None:
        inode = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_ino
        if names.get(inode) in lock._held:
            os.rename(name, ".nfs0001", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        else:
            real(name, dir_fd=dir_fd)

    monkeypatch.setattr(System, "unlink", staticmethod(silly_rename))
    assert root.remove_if_empty()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EXDEV, errno.EBUSY])
def test_an_index_that_cannot_be_renamed_is_an_error(tmp_path, dead, monkeypatch, code):
    """A partial index counts as none, and a sweep removes it."""
    root = dead()

    def refuse(*names: str, **options: int | None) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(System, "replace", refuse)
        with pytest.raises(OSError, match=re.escape(os.strerror(code))):
            write_index(root, [Kept("t", f"{root.path}/main/tree", "failed", "main")])
    assert not os.path.exists(os.path.join(root.path, INDEX))
    assert sweep(tmp_path / "place") == 1
    assert os.listdir(tmp_path / "place") == []
