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
    """Whether the platform can work relative to descriptors; Windows can't."""
    if request.param == "by path":
        monkeypatch.setattr(dirfd.System, "by_descriptor", False)
    elif not dirfd.System.by_descriptor:
        pytest.skip("this platform works by path alone")


@pytest.fixture
def source(tmp_path) -> Path:
    """A directory to copy."""
    path = tmp_path / "from" / "kept"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def target(tmp_path) -> Path:
    """Where copies go."""
    path = tmp_path / "to"
    path.mkdir()
    return path


@pytest.fixture
def copy(source, target):
    """Copy *source* to *target* and return the copy's record."""

    def copy(
        path: Path = source, to: Path = target, limits: Limits | None = None, before=lambda: None
    ) -> TreeCopy:
        with Directory.at(str(path.parent)) as above, Directory.at(str(to)) as below:
            status = below.status()
            limits = limits or Limits(BIG, (status.st_dev, status.st_ino))
            tree = TreeCopy(above, path.name, below, "copy", limits)
            before()
            tree.run()
        return tree

    return copy


def described(top: Path) -> dict[str, tuple]:
    """Return all that a copy should share with its original."""
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


def fill(top: Path) -> None:
    """Make a tree with much of what a test may leave, and old times."""
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
def test_a_copy_is_like_its_original(platform, source, target, copy):
    """Contents, modes, times and links are the same, and the original does not change."""
    fill(source)
    for path in source.rglob("*"):
        if path.is_symlink():
            os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)
    before = described(source)
    tree = copy()
    assert described(target / "copy") == before == described(source)
    assert (tree.skipped, tree.renamed) == ([], {})
    assert (tree.files, tree.bytes, tree.is_directory) == (6, 256 * 2000 + 10, True)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_directory_is_copied_alone(platform, source, target, copy, kind):
    """A kept path may be a file; a kept link is not what it leads to."""
    path = source / "it"
    path.write_text("text") if kind == "file" else path.symlink_to(target)
    tree = copy(path)
    assert (tree.files, tree.is_directory, tree.skipped) == (1, False, [])
    copied = target / "copy"
    assert copied.is_symlink() is (kind == "link")
    assert copied.read_text() == "text" if kind == "file" else copied.readlink() == target


@posix
def test_what_is_no_file_is_named(platform, source, target, copy):
    """Fifos, sockets and devices are skipped; nothing waits for somebody at their other end."""
    os.mkfifo(source / "fifo")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        here = os.getcwd()
        stack.callback(os.chdir, here)
        # Their paths may not be long.
        os.chdir(source)
        server.bind("socket")
    skipped = {("fifo",): "a fifo", ("socket",): "a socket"}
    with contextlib.suppress(PermissionError):
        os.mknod(source / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        skipped["null",] = "a device"
    assert dict(copy().skipped) == skipped
    assert os.listdir(target / "copy") == []


@posix
def test_names_are_made_safe_and_told(source, target, copy):
    """One awkward name must not cost the upload of all the others."""
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
    assert tree.place(("a:b", "x?", "more")) == ("a_b", "x_", "more")


def test_the_limit_is_shared_and_smaller_files_still_fit(source, target, copy):
    """What would pass the limit is named; sparse files count as long as they are."""
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


def test_items_are_limited_as_bytes_are(source, target, copy, monkeypatch):
    """Empty files, links and directories have an end too, and no list grows with what is left."""
    monkeypatch.setattr(tree_copy, "_MIN_ITEMS", 6)
    monkeypatch.setattr(tree_copy, "_MAX_SKIPPED", 2)
    for number in range(4):
        (source / f"directory{number}").mkdir()
        (source / f"file{number}").touch()
        (source / f"link{number}").symlink_to("nowhere")
    limits = Limits(1000, (0, 0))
    tree = copy(limits=limits)
    # The directory that is copied is one of them.
    assert len(list((target / "copy").iterdir())) == 5
    assert len(tree.skipped) == 2
    assert {reason for _, reason in tree.skipped} == {"over the size limit: too many files"}
    assert (tree.more_skipped, limits.left, limits.failure) == (5, 1000, None)
    assert Limits(512 * 7, (0, 0)).items_left == 7


def test_a_file_that_grows_has_an_end(tmp_path):
    """Who writes for ever into a file does not keep us for ever."""
    (tmp_path / "from").write_bytes(b"0123456789")
    with open(tmp_path / "from", "rb") as file, open(tmp_path / "to", "wb") as made:
        assert tree_copy._copy_bytes(file.fileno(), made.fileno(), 4) == 4
    assert (tmp_path / "to").read_bytes() == b"0123"


def test_a_file_that_shrinks_is_copied_as_far_as_it_goes(tmp_path):
    """What is gone can't be copied, and is not counted."""
    (tmp_path / "from").write_bytes(b"01")
    with open(tmp_path / "from", "rb") as file, open(tmp_path / "to", "wb") as made:
        assert tree_copy._copy_bytes(file.fileno(), made.fileno(), 4) == 2


@posix
def test_a_swap_does_not_lead_out(platform, source, tmp_path, target, copy, monkeypatch):
    """Between look and deed a directory becomes a link, a file becomes a link or a fifo."""
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


def test_what_vanishes_meanwhile_is_named(source, copy, monkeypatch):
    """Somebody else may be at work in the tree."""
    monkeypatch.setattr(Directory, "names", lambda self: ["gone"])
    tree = copy()
    assert tree.skipped == [(("gone",), os.strerror(errno.ENOENT))]
    assert tree.is_directory


def test_a_copy_into_itself_ends(platform, source, copy):
    """The directory of artifacts may lie in what is kept."""
    (source / "x").write_text("x")
    to = source / "artifacts"
    to.mkdir()
    tree = copy(to=to)
    assert tree.skipped == [(("artifacts",), "the artifacts directory itself")]
    assert sorted(path.name for path in to.rglob("*")) == ["copy", "x"]


def test_a_very_deep_tree_is_cut(source, target, copy, monkeypatch):
    """Depth is bounded, and where it was cut is told."""
    monkeypatch.setattr(tree_copy, "_MAX_DEPTH", 3)
    (source / "1" / "2" / "3").mkdir(parents=True)
    tree = copy()
    assert tree.skipped == [(("1", "2", "3"), "more than 3 directories deep")]
    assert (target / "copy" / "1" / "2").is_dir()


def test_mount_points_are_named_and_not_entered(source, target, copy, tmpfs):
    """What is mounted in a directory is no part of it."""
    (source / "mnt").mkdir()
    tmpfs("size=64k", source / "mnt")
    (source / "mnt" / "x").touch()
    tree = copy()
    assert tree.skipped == [(("mnt",), "a mount point")]
    assert os.listdir(target / "copy") == []


def test_another_file_system_will_do(source, copy, tmpfs):
    """Artifacts go to where the machine's life does not matter, which is another disk."""
    fill(source)
    to = tmpfs("size=2m")
    tree = copy(to=to)
    assert tree.skipped == []
    assert described(to / "copy") == {
        name: (
            kind,
            mode,
            time if not stat.S_ISLNK(kind) else described(to / "copy")[name][2],
            text,
        )
        for name, (kind, mode, time, text) in described(source).items()
    }


def test_a_full_disk_ends_the_copying(source, copy, tmpfs):
    """No half file stays, what was copied stays, and all the rest is named."""
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


def test_a_read_only_disk_ends_the_copying(source, copy, tmpfs):
    """Where nothing can be written, one attempt is enough."""
    fill(source)
    limits = Limits(BIG, (0, 0))
    tree = copy(to=tmpfs("ro"), limits=limits)
    assert tree.skipped == [((), os.strerror(errno.EROFS))]
    assert limits.stopped is not None
    assert not tree.is_directory


@posix
def test_one_name_that_the_disk_refuses_does_not_end_it(source, target, copy, monkeypatch):
    """A failure that concerns one file is told, and the others are copied."""
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


def test_an_interruption_leaves_no_half_file(source, target, copy, monkeypatch):
    """Ctrl-C while a file is being copied does not leave a part that looks like the whole."""
    (source / "a").write_bytes(b"x" * 100)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(tree_copy, "_copy_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        copy()
    assert os.listdir(target / "copy") == []


@posix
def test_what_may_not_be_read_is_named(source, target, copy):
    """Nobody's rights are changed in order to copy."""
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
def test_others_may_read_no_more_than_before(source, target, copy):
    """Set-uid bits are not carried on; whoever owns the copy can read and remove it."""
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
