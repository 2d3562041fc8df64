"""What another user, or something that looks like ours, must not achieve."""

from __future__ import annotations

import os
from pathlib import Path
import stat

from dangers import NOBODY
from dangers import age
from dangers import is_ours
from dangers import plant
from dangers import snapshot
from dangers import sweep
import pytest

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
    assert not root.remove_if_empty()
    assert sweep(tmp_path / "place") == 0
    assert os.path.exists(os.path.join(tree, "deep", "deeper", "file"))


@pytest.mark.parametrize("length", [0, 1, -1])
def test_an_index_that_a_power_cut_has_truncated(tmp_path, dead, length):
    """A truncated index is no index: nothing elsewhere is touched and nothing stumbles."""
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
        there = identity_of(os.lstat(path))
        stranger = SessionRoot(path=path, uid=0, pid=os.getpid(), lock_fd=-1, identity=there)
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
