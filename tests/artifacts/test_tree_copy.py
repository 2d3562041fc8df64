from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
import socket
import stat

import pytest

from pytest_tempres.artifacts import tree_copy
from pytest_tempres.artifacts.tree_copy import Limits
from pytest_tempres.artifacts.tree_copy import TreeCopy
from pytest_tempres.workspace import dirfd
from pytest_tempres.workspace.dirfd import Directory

NOBODY = 65534
BIG = 10**9
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files, names and modes")


@pytest.fixture(params=["by descriptor", "by path"])
def platform(request, monkeypatch):
    """Run the test with `dir_fd` support and without, as on Windows."""
    if request.param == "by path":
        monkeypatch.setattr(dirfd.System, "supports_dir_fd", False)
    elif not dirfd.System.supports_dir_fd:
        pytest.skip("this platform works by path alone")


@pytest.fixture
def source(tmp_path) -> Path:
    """The directory to copy."""
    path = tmp_path / "from" / "kept"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def target(tmp_path) -> Path:
    """The directory to copy to."""
    path = tmp_path / "to"
    path.mkdir()
    return path


@pytest.fixture
def copy(source, target):
    """Copy *source* to *target* and return the `TreeCopy`."""

    def copy(
        path: Path = source, to: Path = target, limits: Limits | None = None, before=lambda: None
    ) -> TreeCopy:
        with Directory.at(str(path.parent)) as parent, Directory.at(str(to)) as destination:
            status = destination.status()
            limits = limits or Limits(BIG, (status.st_dev, status.st_ino))
            tree = TreeCopy(parent, path.name, destination, "copy", limits)
            before()
            tree.run()
        return tree

    return copy


def describe(top: Path) -> dict[str, tuple]:
    """Return what a copy and its original must have in common."""
    found = {}
    for path in (top, *top.rglob("*")):
        status = path.lstat()
        text = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        text = os.fsencode(os.readlink(path)) if path.is_symlink() else text
        mode = 0 if path.is_symlink() else stat.S_IMODE(status.st_mode)
        found[str(path.relative_to(top))] = (
            stat.S_IFMT(status.st_mode),
            mode,
            status.st_mtime_ns,
            text,
        )
    return found


def make_tree(top: Path) -> None:
    """Create a tree of many kinds of entries, with old times."""
    (top / "empty").mkdir()
    (top / "deep" / "er").mkdir(parents=True)
    (top / "deep" / "er" / "file").write_bytes(bytes(range(256)) * 2000)
    (top / "nothing").touch()
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o755)
    (top / "here").symlink_to("deep/er")
    (top / "away").symlink_to(top.parent)
    (top / "broken").symlink_to("/does/not/exist")
    for number, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        if not path.is_symlink():
            os.utime(path, ns=(10**18, 10**18 + number))
    os.utime(top, ns=(10**18, 10**18))


@posix
def test_a_copy_equals_its_original(platform, source, target, copy):
    """Content, modes, times and links are the same, and the original does not change."""
    make_tree(source)
    for path in source.rglob("*"):
        if path.is_symlink():
            os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)
    before = describe(source)
    tree = copy()
    assert describe(target / "copy") == before == describe(source)
    assert (tree.skipped, tree.renamed) == ([], {})
    assert (tree.files, tree.bytes, tree.is_directory) == (6, 256 * 2000 + 10, True)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_a_link_is_copied_by_itself(platform, source, target, copy, kind):
    """A link is copied as a link, not as its target."""
    path = source / "it"
    path.write_text("text") if kind == "file" else path.symlink_to(target)
    tree = copy(path)
    assert (tree.files, tree.is_directory, tree.skipped) == (1, False, [])
    copied = target / "copy"
    assert copied.is_symlink() is (kind == "link")
    assert copied.read_text() == "text" if kind == "file" else copied.readlink() == target


@posix
def test_special_files_are_skipped_and_listed(platform, source, target, copy):
    """Fifos, sockets and devices are skipped without being opened."""
    os.mkfifo(source / "fifo")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        here = os.getcwd()
        stack.callback(os.chdir, here)
        # The path of a socket is limited to about 100 bytes.
        os.chdir(source)
        server.bind("socket")
    skipped = {("fifo",): "a fifo", ("socket",): "a socket"}
    with contextlib.suppress(PermissionError):
        os.mknod(source / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        skipped["null",] = "a device"
    assert dict(copy().skipped) == skipped
    assert os.listdir(target / "copy") == []


@posix
def test_names_are_made_portable_and_the_changes_listed(source, target, copy):
    """One name that is not portable would make the whole upload fail."""
    (source / "a:b").mkdir()
    (source / "a:b" / "x?").touch()
    (source / os.fsdecode(b"\xff")).symlink_to("a:b")
    tree = copy()
    assert sorted(os.listdir(target / "copy")) == ["_", "a_b"]
    assert os.listdir(target / "copy" / "a_b") == ["x_"]
    assert tree.renamed == {
        ("a:b",): ("a_b",),
        ("a:b", "x?"): ("a_b", "x_"),
        (os.fsdecode(b"\xff"),): ("_",),
    }
    assert tree.path_in_copy(("a:b", "x?", "more")) == ("a_b", "x_", "more")


def test_a_file_over_the_limit_is_listed_and_smaller_files_still_fit(source, target, copy):
    """Sparse files count with their full size."""
    for name, size in (("a", 60), ("b", 50), ("c", 40), ("d", 1)):
        (source / name).write_bytes(bytes(size))
    os.truncate(source / "b", 10**12)
    limits = Limits(100, (0, 0))
    tree = copy(limits=limits)
    assert sorted(os.listdir(target / "copy")) == ["a", "c"]
    assert tree.skipped == [
        (("b",), "over the size limit: 1000000000000 bytes"),
        (("d",), "over the size limit: 1 bytes"),
    ]
    assert (tree.bytes, limits.left, limits.failure) == (100, 0, None)


def test_the_number_of_items_is_limited(source, target, copy, monkeypatch):
    """Empty files, links and directories count too, and the list of skipped paths is limited."""
    monkeypatch.setattr(tree_copy, "_MIN_ITEMS", 6)
    monkeypatch.setattr(tree_copy, "_MAX_SKIPPED", 2)
    for number in range(4):
        (source / f"directory{number}").mkdir()
        (source / f"file{number}").touch()
        (source / f"link{number}").symlink_to("nowhere")
    limits = Limits(1000, (0, 0))
    tree = copy(limits=limits)
    # The copied directory itself counts as one item.
    assert len(list((target / "copy").iterdir())) == 5
    assert len(tree.skipped) == 2
    assert {reason for _, reason in tree.skipped} == {"over the size limit: too many files"}
    assert (tree.more_skipped, limits.left, limits.failure) == (5, 1000, None)
    assert Limits(512 * 7, (0, 0)).items_left == 7


def test_a_growing_file_is_copied_up_to_its_first_size(tmp_path):
    """The copy ends even if another process keeps writing to the file."""
    (tmp_path / "from").write_bytes(b"0123456789")
    with open(tmp_path / "from", "rb") as file, open(tmp_path / "to", "wb") as copied:
        assert tree_copy._copy_bytes(file.fileno(), copied.fileno(), 4) == 4
    assert (tmp_path / "to").read_bytes() == b"0123"


def test_a_shrinking_file_is_copied_up_to_its_end(tmp_path):
    """Bytes that were truncated are not counted as copied."""
    (tmp_path / "from").write_bytes(b"01")
    with open(tmp_path / "from", "rb") as file, open(tmp_path / "to", "wb") as copied:
        assert tree_copy._copy_bytes(file.fileno(), copied.fileno(), 4) == 2


@posix
def test_a_swapped_entry_is_not_followed(platform, source, tmp_path, target, copy, monkeypatch):
    """A directory becomes a link, or a file a link or a fifo, between the check and the copy."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    for name in ("directory", "file", "fifo"):
        (source / name).mkdir() if name == "directory" else (source / name).touch()
    lstat = Directory.lstat

    def swap(self, name):
        status = lstat(self, name)
        if name in ("directory", "file", "fifo"):
            path = Path(self.path, name)
            path.rmdir() if name == "directory" else path.unlink()
            if name == "fifo":
                os.mkfifo(path)
            else:
                path.symlink_to(secret if name == "directory" else secret / "key")
        return status

    monkeypatch.setattr(Directory, "lstat", swap)
    tree = copy()
    assert {parts for parts, _ in tree.skipped} == {("directory",), ("file",), ("fifo",)}
    assert dict(tree.skipped)["fifo",] == "no longer a file"
    assert list((target / "copy").rglob("*")) == [target / "copy" / "directory"]


def test_an_entry_that_vanishes_is_listed(source, copy, monkeypatch):
    """Another process may change the tree during the copy."""
    monkeypatch.setattr(Directory, "names", lambda self: ["gone"])
    tree = copy()
    assert tree.skipped == [(("gone",), os.strerror(errno.ENOENT))]
    assert tree.is_directory


def test_the_artifacts_directory_is_not_copied(platform, source, copy):
    """A kept directory may contain the artifacts directory."""
    (source / "x").write_text("x")
    to = source / "artifacts"
    to.mkdir()
    tree = copy(to=to)
    assert tree.skipped == [(("artifacts",), "the artifacts directory itself")]
    assert sorted(path.name for path in to.rglob("*")) == ["copy", "x"]


def test_the_depth_is_limited(source, target, copy, monkeypatch):
    """The path at which the copy stops is listed."""
    monkeypatch.setattr(tree_copy, "_MAX_DEPTH", 3)
    (source / "1" / "2" / "3").mkdir(parents=True)
    tree = copy()
    assert tree.skipped == [(("1", "2", "3"), "more than 3 directories deep")]
    assert (target / "copy" / "1" / "2").is_dir()


def test_mount_points_are_skipped_and_listed(source, target, copy, tmpfs):
    """A mounted file system is not part of the directory."""
    (source / "mnt").mkdir()
    tmpfs("size=64k", source / "mnt")
    (source / "mnt" / "x").touch()
    tree = copy()
    assert tree.skipped == [(("mnt",), "a mount point")]
    assert os.listdir(target / "copy") == []


def test_a_tree_is_copied_to_another_file_system(source, copy, tmpfs):
    """The artifacts directory is often on another disk."""
    make_tree(source)
    to = tmpfs("size=2m")
    tree = copy(to=to)
    assert tree.skipped == []
    assert describe(to / "copy") == {
        name: (
            kind,
            mode,
            time if not stat.S_ISLNK(kind) else describe(to / "copy")[name][2],
            text,
        )
        for name, (kind, mode, time, text) in describe(source).items()
    }


def test_a_full_disk_stops_the_copy(source, copy, tmpfs):
    """No partial file is left, complete copies stay, and the rest is listed."""
    for name, size in (("a", 200_000), ("b", 2_000_000), ("c", 10)):
        (source / name).write_bytes(b"x" * size)
    to = tmpfs("size=1m")
    limits = Limits(BIG, (0, 0))
    tree = copy(to=to, limits=limits)
    full = os.strerror(errno.ENOSPC)
    assert tree.skipped == [(("b",), full), (("c",), full)]
    assert os.listdir(to / "copy") == ["a"]
    assert (to / "copy" / "a").stat().st_size == 200_000
    assert limits.stopped == full
    assert limits.failure == f"{to / 'copy' / 'b'}: {full}"


def test_a_read_only_disk_stops_the_copy(source, copy, tmpfs):
    """The copy makes only one attempt to write."""
    make_tree(source)
    limits = Limits(BIG, (0, 0))
    tree = copy(to=tmpfs("ro"), limits=limits)
    assert tree.skipped == [((), os.strerror(errno.EROFS))]
    assert limits.stopped is not None
    assert not tree.is_directory


@posix
def test_a_name_that_the_disk_refuses_does_not_stop_the_copy(source, target, copy, monkeypatch):
    """The failure is reported, and the other files are copied."""
    for name in ("a", "b", "c"):
        (source / name).touch()
    make_file = Directory.make_file

    def refuse(self, name, mode):
        if name == "b":
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        return make_file(self, name, mode)

    monkeypatch.setattr(Directory, "make_file", refuse)
    limits = Limits(BIG, (0, 0))
    tree = copy(limits=limits)
    assert tree.skipped == [(("b",), "File name too long")]
    assert sorted(os.listdir(target / "copy")) == ["a", "c"]
    assert (limits.failure, limits.stopped) == (f"{target}/copy/b: File name too long", None)


def test_an_interrupt_leaves_no_partial_file(source, target, copy, monkeypatch):
    """The part that is already copied is removed."""
    (source / "a").write_bytes(b"x" * 100)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(tree_copy, "_copy_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        copy()
    assert os.listdir(target / "copy") == []


@posix
def test_unreadable_entries_are_listed(source, target, copy):
    """The copy changes no mode in order to read an entry."""
    (source / "secret").write_text("x")
    (source / "closed").mkdir()
    (source / "open").write_text("x")
    for path, mode in ((source, 0o755), (source / "secret", 0), (source / "closed", 0)):
        path.chmod(mode)
    is_root = os.geteuid() == 0
    with contextlib.ExitStack() as stack:
        if is_root:
            os.chown(target, NOBODY, NOBODY)
            stack.callback(os.seteuid, 0)
        tree = copy(before=lambda: os.seteuid(NOBODY) if is_root else None)
    denied = os.strerror(errno.EACCES)
    assert tree.skipped == [(("secret",), denied), (("closed",), denied)]
    assert (target / "copy" / "open").read_text() == "x"
    assert stat.S_IMODE((source / "closed").stat().st_mode) == 0


@posix
def test_a_copy_gives_other_users_no_more_access(source, target, copy):
    """Set-uid bits are not copied, and the owner can read and remove the copy."""
    for name, mode in (("locked", 0o500), ("sticky", 0o1777)):
        (source / name).mkdir()
        (source / name).chmod(mode)
    for name, mode in (("readonly", 0o400), ("setuid", 0o4755), ("private", 0o600)):
        (source / name).touch()
        (source / name).chmod(mode)
    before = os.umask(0o022)
    try:
        copy()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in target.glob("copy/*")}
    assert modes == {
        "locked": 0o700,
        "sticky": 0o755,
        "readonly": 0o600,
        "setuid": 0o755,
        "private": 0o600,
    }
