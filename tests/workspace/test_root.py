from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
import re
import socket
import stat
import sys

from hypothesis import given
from hypothesis import strategies as st
import pytest
from safety_helpers import is_ours

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.exceptions import WorkspaceCreationError
from pytest_tempres.primitives._system import System
from pytest_tempres.workspace import lock
from pytest_tempres.workspace import root as module
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.proof import own_uid
from pytest_tempres.workspace.proof import remove_created
from pytest_tempres.workspace.root import attach
from pytest_tempres.workspace.root import create
from pytest_tempres.workspace.root import safe_name


@pytest.fixture(params=["descriptors", "paths"])
def dir_fd_support(request, monkeypatch):
    """Run the test with `dir_fd` support and without, as on Windows."""
    if request.param == "paths":
        monkeypatch.setattr(System, "supports_dir_fd", False)


@pytest.fixture
def worker(root):
    """A worker root in the session root."""
    return root.add_worker("main", 0o700)


@pytest.fixture
def outside(tmp_path) -> Path:
    """A directory with a file in it that no removal may touch."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "precious").write_text("precious")
    return path


def mode(path) -> int:
    """Return the permission bits of *path*."""
    return stat.S_IMODE(os.lstat(path).st_mode)


def identity(path) -> tuple[int, int]:
    """Return device and inode of *path*."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino


# -- names


@given(st.text(), st.integers(1, 300))
def test_safe_name_is_plain_ascii_and_not_longer_than_the_limit(text, limit):
    """It has no leading dot either."""
    name = safe_name(text, limit)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", name, re.ASCII)
    assert len(name) <= limit
    assert not name.startswith(".")


@given(st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,20}", fullmatch=True))
def test_safe_name_does_not_change_safe_names(text):
    """Users find a test's directory by the test's name."""
    assert safe_name(text, 24) == text[:24]


@pytest.mark.parametrize(
    "text, expected",
    [("", "_"), ("...", "_"), (".hidden", "hidden"), ("test[a/b c]", "test_a_b_c_"), ("é\n", "_")],
)
def test_safe_name_of_special_names(text, expected):
    """Empty names, dots, separators and control characters give a valid name."""
    assert safe_name(text, 24) == expected


# -- creation


def test_create_returns_a_private_locked_directory_with_a_breadcrumb(tmp_path, make):
    """The name is random, and the breadcrumb contains the metadata."""
    root = make(rootdir="/p")
    path = Path(root.path)
    assert path.parent == tmp_path
    assert re.fullmatch(r"tempres-[a-z0-9_]{8}", path.name)
    assert mode(path) == 0o700
    assert mode(path / BREADCRUMB) == 0o600
    assert {p.name for p in path.iterdir()} == {BREADCRUMB, LOCK}
    breadcrumb = json.loads((path / BREADCRUMB).read_text())
    assert breadcrumb["rootdir"] == "/p"
    assert breadcrumb["pid"] == os.getpid()
    assert lock.take(str(path / LOCK)) is None
    assert is_ours(root.path)


def test_create_sets_the_mode_whatever_the_umask(tmp_path, make):
    """Tests that start servers as another user need the permissions."""
    before = os.umask(0o077)
    try:
        root = make(mode=0o711)
        worker = root.add_worker("gw0", 0o1777)
    finally:
        os.umask(before)
    assert mode(root.path) == 0o711
    assert mode(worker.path) == 0o1777
    assert mode(worker.fixture_dir) == 0o711


def test_create_makes_a_relative_parent_absolute_without_resolving_links(tmp_path, monkeypatch):
    """So the root's path stays as short as that of the temp directory."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    root = create("link", mode=0o700, metadata={})
    assert os.path.dirname(root.path) == str(tmp_path / "link")
    assert root.remove_if_empty()


def test_create_says_where_it_failed_and_what_to_do(tmp_path):
    """The error has the path of the parent and names the option to change it."""
    with pytest.raises(WorkspaceCreationError, match="--tempres-root") as caught:
        create(str(tmp_path / "missing"), mode=0o700, metadata={})
    assert caught.value.errno == errno.ENOENT
    assert caught.value.path == str(tmp_path / "missing")


@pytest.mark.parametrize("step", ["acquire", "write_breadcrumb"])
def test_create_leaves_nothing_when_it_fails_half_way(tmp_path, monkeypatch, step):
    """After an error neither a directory nor an open descriptor is left."""

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    held = set(lock._held)
    monkeypatch.setattr(lock if step == "acquire" else module, step, full)
    with pytest.raises(WorkspaceCreationError, match="No space left"):
        create(str(tmp_path), mode=0o700, metadata={})
    assert list(tmp_path.iterdir()) == []
    assert lock._held == held


def test_a_worker_root_adds_at_most_24_bytes_to_the_temp_path(tmp_path, root):
    """A socket path that is short enough in the temp directory is short enough here too."""
    worker = root.add_worker("gw123456789", 0o700)
    assert len(os.fsencode(worker.path)) - len(os.fsencode(tmp_path)) <= 24


def test_a_socket_can_be_bound_in_a_worker_root(tmp_path_factory, monkeypatch, make, worker):
    """AF_UNIX sockets work in a worker root as in the temp directory."""
    monkeypatch.chdir(worker.path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
    assert stat.S_ISSOCK(os.lstat(os.path.join(worker.path, "s")).st_mode)


def test_workers_with_equal_shortened_names_have_separate_roots(root):
    """Two workers never share a root."""
    first = root.add_worker("worker-one", 0o700)
    second = root.add_worker("worker-two", 0o700)
    assert first.path != second.path
    assert first.fixture_dir != second.fixture_dir
    for path in (*first[1:], *second[1:]):
        assert os.path.isdir(path)


@pytest.mark.parametrize("missing", ["root", "names"])
def test_a_worker_root_that_cannot_be_created_is_one_error(root, monkeypatch, missing):
    """The second attempt raises the same error."""
    if missing == "root":
        os.rename(root.path, f"{root.path}.away")
    else:
        monkeypatch.setattr(module, "random_name", lambda: "main")
        root.add_worker("main", 0o700)
    with pytest.raises(WorkspaceCreationError) as caught:
        root.add_worker("main", 0o700)
    assert caught.value.path == root.path


# -- recognition


def test_a_worker_holds_the_lock_of_the_root_that_it_joined(root):
    """The root outlives a controller that dies, until the worker has ended too."""
    joined = attach(root.path)
    assert (joined.path, joined.joined) == (root.path, True)
    root.release()
    assert lock.take(os.path.join(root.path, LOCK)) is None
    assert not joined.remove_if_empty()
    joined.release()
    fd = lock.take(os.path.join(root.path, LOCK))
    assert fd is not None
    lock.release(fd)


def test_a_root_that_is_being_swept_is_not_joined(root):
    """A late worker whose controller is dead creates a root of its own."""
    root.release()
    fd = lock.take(os.path.join(root.path, LOCK))
    assert attach(root.path) is None
    lock.release(fd)


def test_attach_refuses_a_path_that_is_not_a_session_root(tmp_path):
    """A path on another host, or a directory without our breadcrumb, is refused."""
    assert attach(str(tmp_path / "missing")) is None
    assert attach(str(tmp_path)) is None


@pytest.mark.parametrize("fake", ["directory", "symlink", "fifo"])
def test_a_breadcrumb_that_is_no_regular_file_proves_nothing(tmp_path, fake):
    """A link or a fifo of that name could have been created by another user."""
    breadcrumb = tmp_path / BREADCRUMB
    if fake == "directory":
        breadcrumb.mkdir()
    elif fake == "symlink":
        (tmp_path / "real").write_text("{}")
        breadcrumb.symlink_to("real")
    else:
        os.mkfifo(breadcrumb)
    assert not is_ours(str(tmp_path))


def test_a_link_to_a_root_is_no_root(tmp_path, root):
    """A link with the name of a root is not used as the root."""
    os.symlink(root.path, tmp_path / "tempres-00000000")
    assert not is_ours(str(tmp_path / "tempres-00000000"))


def test_another_users_root_is_not_ours(root, monkeypatch):
    """A directory of another user is refused, whatever is in it."""
    monkeypatch.setattr(System, "geteuid", lambda: os.lstat(root.path).st_uid + 1)
    assert not is_ours(root.path)
    assert attach(root.path) is None


def test_without_uids_the_owner_is_that_of_the_path(root, tmp_path, monkeypatch):
    """On Windows everything in the user's temp directory belongs to the user."""
    monkeypatch.setattr(System, "geteuid", None)
    assert own_uid(root.path) == os.lstat(root.path).st_uid
    assert own_uid(str(tmp_path / "missing")) == -1
    assert is_ours(root.path)
    assert not is_ours(str(tmp_path / "missing"))


# -- removal


@pytest.mark.usefixtures("dir_fd_support")
def test_remove_removes_entries_of_every_kind(root, worker):
    """Files, trees, links, fifos, odd names and directories without permissions."""
    base = Path(worker.path)
    (base / "file").write_text("x")
    (base / "a" / "b").mkdir(parents=True)
    (base / "a" / "b" / "c\nd").write_text("x")
    (base / "a").chmod(0)
    (base / "link").symlink_to("nowhere")
    os.mkfifo(base / "fifo")
    os.mkdir(os.path.join(os.fsencode(base), b"\xff"))
    for name in os.listdir(base):
        assert root.remove(os.path.join(worker.path, name)) == []
    assert os.listdir(base) == []


@pytest.mark.usefixtures("dir_fd_support")
def test_remove_of_a_missing_path_is_no_failure(root, worker):
    """A test may have removed the path, or its parents."""
    assert root.remove(os.path.join(worker.path, "gone")) == []
    assert root.remove(os.path.join(root.path, "gone", "deeper")) == []
    os.rename(root.path, f"{root.path}.away")
    assert root.remove(os.path.join(worker.path, "gone")) == []


@pytest.mark.parametrize(
    "path",
    [
        "{root}",
        "{root}/",
        "{root}/.",
        "{root}/..",
        "{root}/../outside",
        "{root}/main/../../outside",
        "{root}//main",
        "{root}x/main",
        "{outside}",
        "main",
        "",
    ],
)
@pytest.mark.usefixtures("dir_fd_support", "worker")
def test_remove_refuses_every_path_outside_the_root(root, outside, path):
    """Paths that are not normalized are refused too."""
    with pytest.raises(NotOurDirectoryError, match="it is not inside"):
        root.remove(path.format(root=root.path, outside=outside))
    assert (outside / "precious").exists()
    assert os.path.isdir(os.path.join(root.path, "main"))


@pytest.mark.usefixtures("dir_fd_support")
def test_remove_refuses_a_root_without_its_breadcrumb(root, worker):
    """Nothing is removed from a directory that is not proved to be ours."""
    created = Path(worker.path, "created")
    created.mkdir()
    os.unlink(os.path.join(root.path, BREADCRUMB))
    with pytest.raises(NotOurDirectoryError, match=re.escape(f"has no {BREADCRUMB}")):
        root.remove(str(created))
    assert created.exists()


def test_remove_refuses_a_root_of_another_user(root, worker, monkeypatch):
    """The owner of the root may have changed."""
    created = Path(worker.path, "created")
    created.mkdir()
    foreign = dataclasses.replace(root, uid=root.uid + 1, lock_fd=-1)
    with pytest.raises(NotOurDirectoryError, match="another user"):
        foreign.remove(str(created))
    assert created.exists()


def test_remove_does_not_follow_a_root_that_was_swapped_for_a_link(root, worker, outside):
    """The link may lead to a directory that looks like ours."""
    (outside / "main").mkdir()
    (outside / "main" / "created").mkdir()
    (outside / BREADCRUMB).write_text("{}")
    os.rename(root.path, f"{root.path}.away")
    os.symlink(outside, root.path)
    failures = root.remove(os.path.join(worker.path, "created"))
    assert [failure.path for failure in failures] == [os.path.join(worker.path, "created")]
    assert (outside / "main" / "created").exists()


def test_remove_does_not_follow_a_worker_root_that_was_swapped_for_a_link(root, worker, outside):
    """No parent of the path may be a link."""
    os.rmdir(worker.path)
    os.symlink(outside, worker.path)
    failures = root.remove(os.path.join(worker.path, "precious"))
    assert [failure.error.errno for failure in failures] in ([errno.ENOTDIR], [errno.ELOOP])
    assert (outside / "precious").exists()
    assert root.remove(worker.path) == []
    assert (outside / "precious").exists()
    assert not os.path.lexists(worker.path)


def test_remove_does_not_follow_links_inside_a_tree(root, worker, outside):
    """The link is removed, and its target stays."""
    tree = Path(worker.path, "tree")
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    assert root.remove(str(tree)) == []
    assert (outside / "precious").exists()


def test_remove_works_while_a_test_has_replaced_the_functions_of_os(root, worker, monkeypatch):
    """A mock of `os` that was not undone does not affect the cleanup."""
    created = Path(worker.path, "created")
    created.mkdir()

    def broken(*args, **kwargs):
        raise AssertionError(args)

    with monkeypatch.context() as patch:
        for name in ("open", "close", "stat", "lstat", "fstat", "unlink", "rmdir", "listdir"):
            patch.setattr(os, name, broken)
        failures = root.remove(str(created))
    assert failures == []
    assert not created.exists()


def test_remove_leaves_no_descriptor_open(root, worker, outside):
    """This applies after a removal and after a refusal."""
    probe = os.dup(0)
    os.close(probe)
    os.makedirs(os.path.join(worker.path, "a", "b"))
    root.remove(os.path.join(worker.path, "a", "b"))
    root.remove(os.path.join(worker.path, "gone", "b"))
    os.unlink(os.path.join(root.path, BREADCRUMB))
    with pytest.raises(NotOurDirectoryError):
        root.remove(os.path.join(worker.path, "a"))
    after = os.dup(0)
    os.close(after)
    assert after == probe


# -- paths outside any root


@pytest.mark.usefixtures("dir_fd_support")
def test_remove_created_removes_the_directory(tmp_path):
    """It is removed while it is the directory that was created."""
    created = tmp_path / "created"
    (created / "deep").mkdir(parents=True)
    assert remove_created(str(created), identity(created)) == []
    assert not created.exists()


@pytest.mark.usefixtures("dir_fd_support")
def test_remove_created_refuses_a_directory_that_was_replaced(tmp_path):
    """Neither the moved directory nor the new one is removed."""
    created = tmp_path / "created"
    created.mkdir()
    before = identity(created)
    created.rename(tmp_path / "moved")
    created.mkdir()
    with pytest.raises(NotOurDirectoryError, match="it has been replaced"):
        remove_created(str(created), before)
    assert created.exists()
    assert (tmp_path / "moved").exists()


@pytest.mark.usefixtures("dir_fd_support")
def test_remove_created_of_a_missing_path_is_no_failure(tmp_path):
    """The parent directory may be missing too."""
    assert remove_created(str(tmp_path / "gone"), (0, 0)) == []
    assert remove_created(str(tmp_path / "gone" / "deeper"), (0, 0)) == []


@pytest.mark.usefixtures("dir_fd_support")
def test_remove_created_follows_a_parent_that_is_a_link(tmp_path):
    """The user's directory may be a link, as /tmp is on macOS."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    created = tmp_path / "link" / "created"
    created.mkdir()
    assert remove_created(str(created), identity(created)) == []
    assert not created.exists()


# -- a root that a test has damaged


def test_restore_recreates_the_parts_that_a_test_removed(root):
    """The next test has a temp directory again."""
    worker = root.add_worker("main", 0o711)
    module.remove_tree(root.path)
    root.restore(worker, 0o711, {})
    assert is_ours(root.path)
    assert mode(root.path) == 0o711
    assert mode(worker.path) == 0o711
    assert os.path.isdir(worker.fixture_dir)


def test_restore_changes_no_part_that_still_exists(root, worker):
    """Paths that fixtures created are still there afterwards."""
    Path(worker.fixture_dir, "created").mkdir()
    os.rmdir(worker.path)
    breadcrumb = Path(root.path, BREADCRUMB).read_text()
    root.restore(worker, 0o700, {})
    assert os.path.isdir(worker.path)
    assert Path(worker.fixture_dir, "created").exists()
    assert Path(root.path, BREADCRUMB).read_text() == breadcrumb


@pytest.mark.usefixtures("dir_fd_support")
def test_a_restored_root_is_alive_and_can_be_removed(tmp_path, root, worker):
    """The restored root behaves like the first one."""
    module.remove_tree(root.path)
    now = root.restore(worker, 0o700, {"rootdir": "here"})
    assert lock.take(os.path.join(root.path, LOCK)) is None
    assert json.loads(Path(root.path, BREADCRUMB).read_text())["rootdir"] == "here"
    assert now.remove_if_empty()
    assert now.lock_fd not in lock._held
    assert list(tmp_path.iterdir()) == []


def test_two_workers_restore_the_root_at_the_same_time(root, monkeypatch):
    """Each has its worker root afterwards, and only one of them writes the breadcrumb."""
    one, two = attach(root.path), attach(root.path)
    mine, others = one.add_worker("gw0", 0o700), two.add_worker("gw1", 0o700)
    module.remove_tree(root.path)
    write = module.write_breadcrumb
    now = []

    def race(*args):
        monkeypatch.setattr(module, "write_breadcrumb", write)
        now.append(two.restore(others, 0o700, {"by": "gw1"}))
        write(*args)

    monkeypatch.setattr(module, "write_breadcrumb", race)
    now.append(one.restore(mine, 0o700, {"by": "gw0"}))
    for path in (*mine[1:], *others[1:]):
        assert os.path.isdir(path)
    assert json.loads(Path(root.path, BREADCRUMB).read_text())["by"] == "gw1"
    for each in now:
        assert lock.take(os.path.join(root.path, LOCK)) is None
        each.release()


@pytest.mark.parametrize("gone", ["root", "lock"])
def test_a_root_that_a_worker_restored_is_alive_while_a_process_is(root, gone):
    """It outlives that worker while the controller lives, and can be swept after both."""
    joined = attach(root.path)
    worker = joined.add_worker("gw0", 0o700)
    module.remove_tree(root.path if gone == "root" else os.path.join(root.path, LOCK))
    joined = joined.restore(worker, 0o700, {})
    root = root.hold()
    assert root.hold() is root
    for each in (joined, root):
        assert lock.take(os.path.join(root.path, LOCK)) is None
        each.release()
    fd = lock.take(os.path.join(root.path, LOCK))
    assert fd is not None
    lock.release(fd)


def test_removal_in_a_restored_worker_root_does_not_check_for_mounts(root, worker, monkeypatch):
    """A removal there costs no more than in the first worker root."""
    module.remove_tree(worker.path)
    module.remove_tree(worker.fixture_dir)
    # The new directories may have the inodes of the old ones.
    root.created.clear()
    root.restore(worker, 0o700, {})
    monkeypatch.setattr(module, "mount_of", None)
    for path in worker[1:]:
        Path(path, "created").mkdir()
        assert root.remove(os.path.join(path, "created")) == []


def test_restore_does_not_follow_a_link_in_place_of_the_root(root, worker, outside):
    """The name is known by then, so another user may create a link of that name."""
    module.remove_tree(root.path)
    os.symlink(outside, root.path)
    with pytest.raises(OSError):  # noqa: PT011 -- the error depends on the platform
        root.restore(worker, 0o700, {})
    assert os.listdir(outside) == ["precious"]


def test_restore_raises_the_error_of_the_system(root, worker):
    """A file in place of the worker root is not removed."""
    os.rmdir(worker.path)
    Path(worker.path).write_text("x")
    with pytest.raises(FileExistsError):
        root.restore(worker, 0o700, {})
    assert Path(worker.path).read_text() == "x"


# -- the end


@pytest.mark.usefixtures("dir_fd_support", "worker")
def test_remove_if_empty_removes_an_empty_root_and_releases_the_lock(tmp_path, root):
    """A session that left nothing leaves no directory."""
    assert root.remove_if_empty()
    assert list(tmp_path.iterdir()) == []
    assert root.lock_fd not in lock._held


@pytest.mark.usefixtures("dir_fd_support")
def test_remove_if_empty_leaves_a_root_that_is_not_empty(root, worker):
    """A later session can take the lock and sweep the root."""
    Path(worker.path, "late").write_text("x")
    assert not root.remove_if_empty()
    assert Path(worker.path, "late").read_text() == "x"
    assert is_ours(root.path)
    taken = lock.take(os.path.join(root.path, LOCK))
    assert taken is not None
    lock.release(taken)


def test_remove_if_empty_of_a_missing_root_returns_true(root):
    """The result of a second call is true too."""
    module.remove_tree(root.path)
    assert root.remove_if_empty()
    assert root.remove_if_empty()


@pytest.mark.usefixtures("worker")
def test_remove_if_empty_leaves_a_root_without_its_breadcrumb(root):
    """Not even an empty directory is removed unless it is proved to be ours."""
    os.unlink(os.path.join(root.path, BREADCRUMB))
    assert not root.remove_if_empty()
    assert os.path.isdir(os.path.join(root.path, "main"))


@pytest.mark.usefixtures("worker")
def test_remove_if_empty_does_not_follow_a_root_that_was_swapped_for_a_link(root, outside):
    """Not even an empty directory is removed behind a link."""
    (outside / "main").mkdir()
    (outside / BREADCRUMB).write_text("{}")
    os.rename(root.path, f"{root.path}.away")
    os.symlink(outside, root.path)
    assert not root.remove_if_empty()
    assert (outside / "main").exists()
    assert (outside / BREADCRUMB).exists()


def test_a_worker_that_joined_does_not_remove_the_root(root):
    """Only the controller removes it, even if it is empty."""
    assert not attach(root.path).remove_if_empty()
    assert is_ours(root.path)


def test_a_forked_child_does_not_remove_the_root(root, in_child):
    """Only the process that created the root removes it."""
    assert in_child(lambda: not root.remove_if_empty())
    assert is_ours(root.path)


@pytest.mark.skipif(sys.platform == "win32", reason="modes mean little on Windows")
@pytest.mark.parametrize("mode", [0, 0o300, 0o500])
def test_restore_modes_restores_the_modes_that_a_test_changed(root, worker, mode):
    """This applies to the root and to its worker roots."""
    paths = (worker.fixture_dir, worker.path, root.path)
    for path in paths:
        os.chmod(path, mode)
    assert root.restore_modes(0o1777)
    assert [stat.S_IMODE(os.stat(path).st_mode) for path in paths] == [0o711, 0o1777, 0o711]
    assert not root.restore_modes(0o1777)


@pytest.mark.skipif(sys.platform == "win32", reason="modes mean little on Windows")
def test_restore_modes_changes_only_our_unusable_directories(root, worker, outside, monkeypatch):
    """The target of a link and another user's directory are not changed."""
    for path in (outside, worker.fixture_dir):
        os.chmod(path, 0o500)
    os.rmdir(worker.path)
    os.symlink(outside, worker.path)
    other = dataclasses.replace(root, uid=root.uid + 1)
    assert not other.restore_modes(0o755)
    assert stat.S_IMODE(os.stat(worker.fixture_dir).st_mode) == 0o500
    assert root.restore_modes(0o755)
    assert stat.S_IMODE(os.stat(worker.fixture_dir).st_mode) == 0o711
    assert stat.S_IMODE(os.stat(outside).st_mode) == 0o500
    assert stat.S_IMODE(os.stat(root.path).st_mode) == 0o700
