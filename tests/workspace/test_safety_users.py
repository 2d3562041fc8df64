"""Directories and files that belong to other users or look like ours."""

from __future__ import annotations

import os
from pathlib import Path
import stat

import pytest
from safety_helpers import NOBODY
from safety_helpers import is_ours
from safety_helpers import make_old
from safety_helpers import make_tree
from safety_helpers import snapshot
from safety_helpers import sweep

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.proof import identity_of
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import create


@pytest.mark.parametrize("fake", ["missing", "empty", "link", "fifo", "directory", "socket"])
def test_without_a_regular_breadcrumb_nothing_is_removed(tmp_path, dead, outside_tree, fake):
    """A link, directory or fifo of that name is no proof, and a fifo does not block."""
    root = dead()
    breadcrumb = Path(root.path, BREADCRUMB)
    breadcrumb.unlink()
    if fake == "empty":
        breadcrumb.touch()
    elif fake == "link":
        breadcrumb.symlink_to(outside_tree / "file")
    elif fake == "fifo":
        os.mkfifo(breadcrumb)
    elif fake == "directory":
        breadcrumb.mkdir()
    elif fake == "socket":
        os.mknod(breadcrumb, stat.S_IFSOCK | 0o600)
    make_old(tmp_path / "place")
    tree = os.path.join(root.path, "main", "tree")
    if fake == "empty":
        assert root.remove(os.path.join(tree, "deep")) == []
        assert sweep(tmp_path / "place") == 1
        return
    with pytest.raises(NotOurDirectoryError):
        root.remove(tree)
    assert not root.remove_if_empty()
    assert sweep(tmp_path / "place") == 0
    assert os.path.exists(os.path.join(tree, "deep", "deeper", "file"))


@pytest.mark.parametrize("length", [0, 1, -1])
def test_a_truncated_index_counts_as_none(tmp_path, dead, length):
    """After a power cut the index may be incomplete."""
    root = dead()
    kept = os.path.join(root.path, "main", "tree")
    write_index(root, [Kept("t", kept, "failed", "main")])
    index = Path(root.path, INDEX)
    index.write_bytes(index.read_bytes()[:length])
    (tmp_path / "place" / "other").mkdir()
    assert sweep(tmp_path / "place") == 1
    assert os.listdir(tmp_path / "place") == ["other"]


# -- a second user


def test_a_root_that_another_user_forged_is_left_alone(shared_place, as_nobody, in_child):
    """Not even root removes a directory that another user made look like a dead session."""

    def forge() -> bool:
        forged = shared_place / "tempres-forged00"
        forged.mkdir(0o777)
        (forged / LOCK).touch()
        (forged / BREADCRUMB).write_text('{"rootdir": "/p"}')
        make_tree(forged / "main")
        unfinished = shared_place / "tempres-halfmade"
        unfinished.mkdir(0o777)
        (unfinished / LOCK).touch()
        return True

    assert as_nobody(forge)
    # The directory and its breadcrumb must both belong to us.
    theirs = shared_place / "tempres-ourcrumb"
    theirs.mkdir()
    ours = shared_place / "tempres-theircru"
    ours.mkdir()
    for path, owned in ((theirs, theirs), (ours, ours / BREADCRUMB)):
        (path / LOCK).touch()
        (path / BREADCRUMB).write_text("{}")
        make_tree(path / "main")
        os.chown(owned, NOBODY, NOBODY)
    make_old(shared_place)
    before = snapshot(shared_place)
    assert sweep(shared_place) == 0
    for name in os.listdir(shared_place):
        path = str(shared_place / name)
        assert not is_ours(path)
        identity = identity_of(os.lstat(path))
        foreign = SessionRoot(path=path, uid=0, pid=os.getpid(), lock_fd=-1, identity=identity)
        with pytest.raises(NotOurDirectoryError):
            foreign.remove(os.path.join(path, "main"))
    assert snapshot(shared_place) == before


def test_each_user_of_a_sticky_directory_sweeps_only_their_own_sessions(
    shared_place, as_nobody, dead
):
    """In a directory like /tmp the sessions of other users are not removed."""

    def dies() -> bool:
        root = create(str(shared_place), mode=0o755, metadata={"rootdir": "/p"})
        make_tree(Path(root.add_worker("main", 0o755).path, "tree"))
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


def test_directories_of_other_users_in_a_worker_root_are_removed(shared_place, as_nobody, make):
    """With `tempres_root_mode=1777` other users may create them; links in them are not followed."""
    root = make(shared_place, mode=0o711)
    worker = root.add_worker("main", 0o1777)
    outside = make_tree(shared_place / "outside")
    before = snapshot(outside)

    def leaves() -> bool:
        theirs = make_tree(Path(worker.path, "theirs"))
        (theirs / "link").symlink_to(outside)
        (theirs / "deep" / "up").symlink_to("../../../../outside")
        (theirs / "deep").chmod(0)
        return True

    assert as_nobody(leaves)
    assert root.remove(os.path.join(worker.path, "theirs")) == []
    assert os.listdir(worker.path) == []
    assert snapshot(outside) == before


# -- hard links


def test_files_with_other_hard_links_are_not_changed(shared_place, as_nobody):
    """One name of the file is removed; its content, mode and times do not change."""

    def child() -> bool:
        place = shared_place / "mine"
        place.mkdir()
        outside = [place / name for name in ("closed", "open")]
        for path in outside:
            path.write_text("precious")
            os.utime(path, ns=(1, 2))
        root = create(str(place), mode=0o700, metadata={"rootdir": "/p"})
        tree = Path(root.add_worker("main", 0o700).path, "tree")
        (tree / "deep").mkdir(parents=True)
        for path, bits in zip(outside, (0o000, 0o644), strict=True):
            os.link(path, tree / path.name)
            os.link(path, tree / "deep" / path.name)
            path.chmod(bits)
        # The removal changes the modes of directories where it must, but not those of files.
        (tree / "deep").chmod(0)
        tree.chmod(0o500)
        assert root.remove(str(tree)) == []
        os.link(outside[0], os.path.join(root.path, "main", "again"))
        lock.release(root.lock_fd)
        assert sweep(place) == 1
        status = [path.lstat() for path in outside]
        assert [stat.S_IMODE(each.st_mode) for each in status] == [0o000, 0o644]
        assert all((each.st_atime_ns, each.st_mtime_ns) == (1, 2) for each in status)
        assert all(each.st_nlink == 1 for each in status)
        outside[0].chmod(0o600)
        return all(path.read_text() == "precious" for path in outside)

    assert as_nobody(child)
