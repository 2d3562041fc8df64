from __future__ import annotations

import errno
import os
from pathlib import Path
import shutil
import socket
import stat
import tempfile
import threading

from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from pytest_tempres.primitives import _rmtree
from pytest_tempres.primitives import _windows
from pytest_tempres.primitives._rmtree import remove_tree


@pytest.fixture
def tree(tmp_path) -> Path:
    """A directory with three levels, two files and an empty directory."""
    top = tmp_path / "tree"
    (top / "a" / "b").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "file").write_text("x")
    (top / "a" / "b" / "file").write_text("x")
    return top


@pytest.fixture
def meddle(monkeypatch):
    """Call a function immediately before the removal calls a function of the system."""

    def before(name: str, act, matches=lambda *arguments, **keywords: True) -> None:
        real = getattr(_rmtree.System, name)
        pending = [act]

        def call(*arguments, **keywords):
            if pending and matches(*arguments, **keywords):
                pending.pop()()
            return real(*arguments, **keywords)

        monkeypatch.setattr(_rmtree.System, name, staticmethod(call))

    return before


class TestKinds:
    """Paths of every kind are removed."""

    def test_tree(self, tree):
        """A directory is removed with its contents."""
        assert remove_tree(str(tree)) == []
        assert not tree.exists()

    def test_missing(self, tmp_path):
        """A missing path is no error, and neither is a path in a missing directory."""
        assert remove_tree(str(tmp_path / "missing")) == []
        assert remove_tree(str(tmp_path / "missing" / "below")) == []

    def test_special_files(self, tmp_path):
        """Files, fifos, sockets and links are removed, at the top and inside."""
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "kept").touch()
        for where in (tmp_path, tmp_path / "tree"):
            where.mkdir(exist_ok=True)
            (where / "file").touch()
            os.mkfifo(where / "fifo")
            (where / "dead").symlink_to("nowhere")
            (where / "alive").symlink_to(tmp_path / "outside", target_is_directory=True)
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(os.path.relpath(where / "socket"))
        for name in ("file", "fifo", "dead", "alive", "socket", "tree"):
            assert remove_tree(str(tmp_path / name)) == []
        assert [path.name for path in tmp_path.rglob("*")] == ["outside", "kept"]

    def test_bytes_and_slashes(self, tree):
        """A path may be bytes and may end in slashes."""
        assert remove_tree(os.fsencode(tree) + b"//") == []
        assert not tree.exists()

    def test_relative_to_a_descriptor(self, tree):
        """A relative path starts from the directory that the descriptor is open on."""
        descriptor = os.open(tree, os.O_RDONLY)
        assert remove_tree("a", dir_fd=descriptor) == []
        assert remove_tree("file", dir_fd=descriptor) == []
        os.close(descriptor)
        assert sorted(os.listdir(tree)) == ["empty"]

    def test_names(self, tmp_path):
        """Names may have 255 bytes, bytes that are not UTF-8, and newlines."""
        top = os.fsencode(tmp_path / "tree")
        os.mkdir(top)
        for name in (b"n" * 255, b"\xff\xfe", b"a\nb", b" ", b"-rf"):
            os.mkdir(top + b"/" + name)
            os.close(os.open(top + b"/" + name + b"/" + name, os.O_CREAT))
        assert remove_tree(top) == []
        assert not os.path.exists(top)

    @pytest.mark.parametrize("path", ["/", "//"])
    def test_root(self, path):
        """The root directory of the file system is refused."""
        (failure,) = remove_tree(path)
        assert failure.error.errno == errno.EBUSY

    def test_file_in_place_of_a_parent(self, tree):
        """If a parent in the path is a file, the failure has the error of the system."""
        (failure,) = remove_tree(str(tree / "file" / "below"))
        assert isinstance(failure.error, NotADirectoryError)
        assert tree.exists()


@pytest.fixture
def memory() -> Path:
    """A directory in memory if there is one, since a disk is slow for each level."""
    where = "/dev/shm" if os.path.isdir("/dev/shm") else None
    path = tempfile.mkdtemp(dir=where)
    yield Path(path)
    shutil.rmtree(path)


def test_depth(memory):
    """5,000 levels are removed with a few descriptors and without recursion."""
    top = memory / "deep"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(5_000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT, dir_fd=here))
    os.close(here)
    highest: list[int] = []
    real_open = _rmtree.System.open

    class Watched(_rmtree.System):
        @staticmethod
        def open(*arguments, **keywords):
            descriptor = real_open(*arguments, **keywords)
            highest.append(descriptor)
            return descriptor

    lowest = os.dup(0)
    os.close(lowest)
    original, _rmtree.System = _rmtree.System, Watched
    try:
        assert remove_tree(str(top)) == []
    finally:
        _rmtree.System = original
    assert not top.exists()
    assert max(highest) - lowest < 12


class TestModes:
    @pytest.mark.parametrize("mode", [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600])
    def test_any_mode(self, mode, open_place, unprivileged):
        """No mode of a directory or file of this user prevents its removal."""
        with unprivileged():
            top = open_place / "top"
            (top / "a" / "b").mkdir(parents=True)
            (top / "empty").mkdir()
            (top / "a" / "file").touch(mode=mode)
            (top / "a" / "b" / "file").touch()
            for path in (top / "a" / "b", top / "empty", top / "a", top):
                path.chmod(mode)
            assert remove_tree(str(top)) == []
            assert not os.path.lexists(top)

    def test_parent_is_not_changed(self, open_place, unprivileged):
        """If the parent of the tree is not writable, it is not changed: that is a failure."""
        with unprivileged():
            (open_place / "top").mkdir()
            (open_place / "top" / "file").touch()
            open_place.chmod(0o500)
            failures = remove_tree(str(open_place / "top"))
            assert stat.S_IMODE(open_place.stat().st_mode) == 0o500
            assert [failure.path for failure in failures] == [str(open_place / "top")]
            assert isinstance(failures[0].error, PermissionError)
            open_place.chmod(0o700)
            assert os.listdir(open_place / "top") == []

    def test_target_of_a_link_keeps_its_mode(self, open_place, unprivileged):
        """CVE-2023-6597: the mode of the target of a link is never changed."""
        with unprivileged():
            outside = open_place / "outside"
            outside.mkdir()
            top = open_place / "top"
            top.mkdir()
            (top / "link").symlink_to(outside)
            outside.chmod(0o500)
            top.chmod(0o000)
            assert remove_tree(str(top)) == []
            assert stat.S_IMODE(outside.stat().st_mode) == 0o500

    def test_directory_of_another_user(self, open_place, unprivileged):
        """A path that cannot be removed is returned with the error, and the rest is removed."""
        if os.geteuid() != 0:
            foreign, reason = Path("/proc/self/fd"), PermissionError
        else:
            foreign, reason = open_place / "top" / "foreign", PermissionError
            (foreign / "below").mkdir(parents=True)
            (open_place / "top" / "mine").touch()
            os.chown(open_place / "top", 65534, 65534)
        with unprivileged():
            failures = remove_tree(str(foreign.parent if os.getuid() == 0 else foreign))
        assert all(isinstance(failure.error, reason) for failure in failures)
        assert str(foreign) in str(failures[0].path)
        assert not (open_place / "top" / "mine").exists()

    def test_chmod_by_name(self, tree, monkeypatch, unprivileged, open_place):
        """Without /proc, a chmod that follows no link is used."""
        calls = []

        def chmod(name, mode, *, dir_fd, follow_symlinks):
            calls.append((name, follow_symlinks))
            os.chmod(name, mode, dir_fd=dir_fd)

        monkeypatch.setattr(_rmtree, "_LINUX", False)
        monkeypatch.setattr(_rmtree, "_CHMOD_AT", True)
        with unprivileged():
            (open_place / "top" / "sub" / "x").mkdir(parents=True)
            (open_place / "top" / "sub").chmod(0)
            real = _rmtree.System.chmod
            monkeypatch.setattr(_rmtree.System, "chmod", staticmethod(chmod))
            assert remove_tree(str(open_place / "top")) == []
            monkeypatch.setattr(_rmtree.System, "chmod", real)
        assert calls == [("sub", False)]

    def test_no_safe_chmod(self, monkeypatch, unprivileged, open_place):
        """Without a chmod that follows no link, a directory that cannot be opened is a failure."""
        monkeypatch.setattr(_rmtree, "_LINUX", False)
        monkeypatch.setattr(_rmtree, "_CHMOD_AT", False)
        with unprivileged():
            (open_place / "top" / "sub" / "x").mkdir(parents=True)
            (open_place / "top" / "sub").chmod(0)
            (failure,) = remove_tree(str(open_place / "top"))
        assert failure.path == str(open_place / "top" / "sub")
        assert isinstance(failure.error, PermissionError)

    def test_no_proc(self, meddle, unprivileged, open_place, monkeypatch):
        """Without /proc the failure has the error of the first attempt to open the directory."""

        def missing():
            raise FileNotFoundError

        with unprivileged():
            (open_place / "top" / "sub" / "x").mkdir(parents=True)
            (open_place / "top" / "sub").chmod(0)
            meddle("chmod", missing, lambda path, mode: str(path).startswith("/proc"))
            (failure,) = remove_tree(str(open_place / "top"))
        assert isinstance(failure.error, PermissionError)


class TestRaces:
    """Another process changes the tree during the removal."""

    @pytest.fixture
    def victim(self, tmp_path) -> Path:
        """A directory outside the tree, whose file must not be removed."""
        (tmp_path / "victim").mkdir()
        (tmp_path / "victim" / "kept").touch()
        (tmp_path / "victim").chmod(0o750)
        return tmp_path / "victim"

    @pytest.mark.parametrize("when", ["open", "rmdir", "listdir"])
    def test_directory_swapped_for_a_link(self, when, tree, victim, meddle):
        """gh-157579: a directory that is swapped for a link is not followed."""

        def swap():
            if (tree / "a").exists():
                shutil.move(tree / "a", tree.parent / "moved")
                (tree / "a").symlink_to(victim)

        meddle(when, swap, lambda path, *_, **__: when == "listdir" or path == "a")
        remove_tree(str(tree))
        assert (victim / "kept").exists()
        assert stat.S_IMODE(victim.stat().st_mode) == 0o750
        assert not tree.exists()

    def test_closed_directory_swapped_for_a_link(self, open_place, unprivileged, meddle):
        """gh-157579: a mode is changed only of the directory that was opened."""
        with unprivileged():
            victim = open_place / "victim"
            victim.mkdir()
            (victim / "kept").touch()
            top = open_place / "top"
            (top / "a" / "b").mkdir(parents=True)
            (top / "a").chmod(0)

            def swap():
                (top / "a").rename(open_place / "moved")
                (top / "a").symlink_to(victim)

            meddle("chmod", swap)
            victim.chmod(0o500)
            remove_tree(str(top))
            assert (victim / "kept").exists()
            assert stat.S_IMODE(victim.stat().st_mode) == 0o500
            victim.chmod(0o700)

    def test_directory_moved_while_inside(self, tree, meddle):
        """A directory that is moved away during its removal stays; the rest is removed."""
        elsewhere = tree.parent / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "kept").mkdir()

        def move():
            (tree / "a" / "b").rename(elsewhere / "b")

        meddle("open", move, lambda path, *_, **__: path == "..")
        assert remove_tree(str(tree)) == []
        assert not tree.exists()
        assert (elsewhere / "kept").exists()

    def test_directory_that_keeps_moving(self, tree, monkeypatch):
        """A directory that is moved away at each attempt is a failure."""
        deepest = tree.joinpath(*"d" * 20)
        deepest.mkdir(parents=True)
        for path in (deepest, *deepest.parents[:20]):
            (path / "file").touch()
        real = _rmtree.System.fstat

        class Status:
            def __init__(self, descriptor):
                self.st_dev = real(descriptor).st_dev
                self.st_ino = object()

        monkeypatch.setattr(_rmtree.System, "fstat", staticmethod(Status))
        (failure,) = remove_tree(str(tree))
        assert failure.error.errno == errno.ESTALE
        assert failure.path.startswith(str(tree / "d"))

    def test_file_appears(self, tree, meddle):
        """A file that appears in a directory that was just emptied is removed too."""
        meddle("open", (tree / "a" / "new").touch, lambda path, *_, **__: path == "..")
        assert remove_tree(str(tree)) == []
        assert not tree.exists()

    def test_files_reappear_again_and_again(self, tree, monkeypatch):
        """After some attempts, files that reappear are a failure with their path."""
        real = _rmtree.System.rmdir

        def refill(name, *, dir_fd):
            if name == "tree" or str(name).endswith("/tree"):
                (tree / "again").touch()
            real(name, dir_fd=dir_fd)

        monkeypatch.setattr(_rmtree.System, "rmdir", staticmethod(refill))
        (failure,) = remove_tree(str(tree))
        assert (failure.path, failure.error.errno) == (str(tree), errno.ENOTEMPTY)

    @pytest.mark.parametrize("when", ["unlink", "open", "rmdir"])
    def test_vanishes(self, when, tree, meddle):
        """A path that another process removes first is not a failure."""
        meddle(when, lambda: shutil.rmtree(tree / "a"), lambda path, *_, **__: path == "a")
        meddle("unlink", (tree / "file").unlink, lambda path, **_: path == "file")
        assert remove_tree(str(tree)) == []
        assert not tree.exists()

    def test_file_in_place_of_a_directory(self, tree, meddle):
        """A directory that was replaced by a file is removed as a file."""

        def swap():
            shutil.rmtree(tree / "a")
            (tree / "a").touch()

        meddle("open", swap, lambda path, *_, **__: path == "a")
        assert remove_tree(str(tree)) == []
        assert not tree.exists()

    def test_many_at_once(self, tmp_path):
        """Eight threads can remove one tree at the same time without an error."""
        top = tmp_path / "top"
        for number in range(40):
            (top / f"{number}" / "x" / "y").mkdir(parents=True)
            (top / f"{number}" / "x" / "f").touch()
        results: list[list[_rmtree.Failure]] = []
        threads = [
            threading.Thread(target=lambda: results.append(remove_tree(str(top)))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [[]] * 8
        assert not top.exists()


class TestBoundaries:
    def test_other_file_system(self, tree, monkeypatch):
        """A directory on another file system is a failure, and is not entered."""
        real = _rmtree.System.fstat
        inode = (tree / "a").stat().st_ino

        class Status:
            def __init__(self, descriptor):
                status = real(descriptor)
                self.st_ino = status.st_ino
                self.st_dev = -1 if status.st_ino == inode else status.st_dev

        monkeypatch.setattr(_rmtree.System, "fstat", staticmethod(Status))
        (failure,) = remove_tree(str(tree))
        assert (failure.path, failure.error.errno) == (str(tree / "a"), errno.EXDEV)
        assert (tree / "a" / "b" / "file").exists()
        assert sorted(os.listdir(tree)) == ["a"]

    def test_mount_point(self, tree, monkeypatch):
        """A mount point is a failure even on the same file system."""
        real = _rmtree.System.rmdir

        def busy(name, *, dir_fd):
            if name == "a":
                raise OSError(errno.EBUSY, "busy", name)
            real(name, dir_fd=dir_fd)

        monkeypatch.setattr(_rmtree.System, "rmdir", staticmethod(busy))
        (failure,) = remove_tree(str(tree))
        assert (failure.path, failure.error.errno) == (str(tree / "a"), errno.EBUSY)
        assert (tree / "a" / "b" / "file").exists()

    def test_directory_that_can_not_be_read(self, tree, monkeypatch):
        """A disk error is a failure with the path of its directory."""

        def broken(descriptor):
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr(_rmtree.System, "listdir", staticmethod(broken))
        (failure,) = remove_tree(str(tree))
        assert (failure.path, failure.error.errno) == (str(tree), errno.EIO)

    def test_no_descriptor_left(self, tree, meddle):
        """If no descriptor is available, the result is a failure and not an exception."""

        def exhausted():
            raise OSError(errno.EMFILE, "too many")

        meddle("open", exhausted)
        (failure,) = remove_tree(str(tree))
        assert failure.error.errno == errno.EMFILE
        assert remove_tree(str(tree)) == []


def test_patched_system(tree, monkeypatch):
    """A test that replaces functions of os or shutil does not affect the removal."""

    def wrong(*arguments, **keywords):
        raise AssertionError

    names = [name for name in dir(os) if callable(getattr(os, name))]
    reached = {"chmod", "close", "fstat", "listdir", "lstat", "open", "rmdir", "scandir", "stat"}
    with monkeypatch.context() as patched:
        for name in reached | {"remove", "unlink"}:
            assert name in names
            patched.setattr(os, name, wrong)
        patched.setattr(shutil, "rmtree", wrong)
        for name, value in vars(_rmtree).items():
            if getattr(value, "__module__", None) in {"posix", "nt"}:
                patched.setattr(_rmtree, name, wrong)
        failures = remove_tree(str(tree))
    assert failures == []
    assert not tree.exists()


class TestByPath:
    """The removal on platforms without directory descriptors."""

    @pytest.fixture(autouse=True)
    def without_descriptors(self, monkeypatch):
        """Let the platform seem to have no directory descriptors."""
        monkeypatch.setattr(_rmtree.System, "supports_dir_fd", False)

    def test_tree(self, tree):
        """A directory is removed with its contents."""
        assert remove_tree(str(tree)) == []
        assert not tree.exists()

    @pytest.mark.parametrize("inside", [True, False])
    @pytest.mark.parametrize("tick", [None, lambda: None], ids=["silent", "counted"])
    def test_read_only_file(self, inside, tick, tree, monkeypatch):
        """A read-only file, which Windows does not remove, is made writable first."""
        path = tree / "file"
        path.chmod(0o400)
        real = os.unlink

        def unlink(target, *, dir_fd=None):
            status = os.stat(target, dir_fd=dir_fd)
            if status.st_mode & stat.S_IWUSR == 0:
                raise PermissionError(errno.EACCES, "read-only", target)
            real(target, dir_fd=dir_fd)

        monkeypatch.setattr(_rmtree.System, "unlink", staticmethod(unlink))
        target = tree if inside else path
        assert remove_tree(str(target), tick=tick) == []
        assert not target.exists()

    @pytest.mark.parametrize("tick", [None, lambda: None], ids=["silent", "counted"])
    def test_what_stays(self, tree, monkeypatch, tick):
        """A path that cannot be removed is returned with the error."""

        def unlink(target, *, dir_fd=None):
            raise PermissionError(errno.EACCES, "in use", target)

        monkeypatch.setattr(_rmtree.System, "unlink", staticmethod(unlink))
        failures = remove_tree(str(tree), tick=tick)
        assert {failure.path for failure in failures} >= {
            str(tree / "file"),
            str(tree / "a" / "b" / "file"),
        }

    def test_each_item_is_counted_and_nothing_is_followed(self, tree, tmp_path):
        """Each item is counted once, and links are removed, not followed."""
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "precious").touch()
        (tree / "link").symlink_to(outside)
        (tree / "a" / "dead").symlink_to("nowhere")
        count = len(list(tree.rglob("*")))
        ticks = []
        assert remove_tree(str(tree), tick=lambda: ticks.append(1)) == []
        assert len(ticks) == count
        assert not tree.exists()
        assert (outside / "precious").exists()

    def test_tick_can_stop_the_removal(self, tree):
        """An exception of tick stops the removal at that item."""
        for number in range(20):
            (tree / f"more{number}").touch()
        items = iter(range(10))
        with pytest.raises(StopIteration):
            remove_tree(str(tree), tick=lambda: next(items))
        assert tree.exists()
        assert len([path for path in tree.iterdir() if path.is_file()]) < 21

    @pytest.mark.parametrize("where", ["top", "inside"])
    def test_a_junction_is_not_entered(self, tree, monkeypatch, where):
        """A junction looks like a directory, but it is removed like a link."""
        junction = tree if where == "top" else tree / "a"
        same = junction.lstat().st_ino

        def is_directory(status):
            return stat.S_ISDIR(status.st_mode) and status.st_ino != same

        monkeypatch.setattr(_windows, "is_directory", is_directory)
        failures = remove_tree(str(tree), tick=lambda: None)
        # Only Windows can unlink a directory.
        assert str(junction) in {failure.path for failure in failures}
        assert (junction / ("file" if where == "top" else "b/file")).exists()

    def test_what_another_process_removes_meanwhile_is_no_failure(self, tree, monkeypatch):
        """Files and directories that another process removes at the same time are no failures."""

        def twice(real):
            def remove(target, *, dir_fd=None):
                real(target, dir_fd=dir_fd)
                real(target, dir_fd=dir_fd)

            return staticmethod(remove)

        for name in ("unlink", "rmdir"):
            monkeypatch.setattr(_rmtree.System, name, twice(getattr(_rmtree.System, name)))
        assert remove_tree(str(tree)) == []
        assert not tree.exists()


TREES = st.recursive(
    st.sampled_from(["file", "link", "fifo", "dead"]),
    lambda below: st.dictionaries(
        st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=20).filter(
            lambda name: name not in {".", ".."}
        ),
        below,
        max_size=4,
    ),
    max_leaves=15,
)


def build(where: bytes, shape, outside: Path) -> None:
    """Create the tree *shape* in the directory *where*."""
    for name, kind in shape.items():
        path = where + b"/" + os.fsencode(name.encode("utf-8", "surrogatepass"))
        if isinstance(kind, dict):
            os.mkdir(path)
            build(path, kind, outside)
        elif kind == "file":
            os.close(os.open(path, os.O_CREAT))
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            os.symlink(outside if kind == "link" else "nowhere", path)


@given(TREES.filter(lambda shape: isinstance(shape, dict)))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_tree(tmp_path, shape):
    """Any tree is removed, and the targets of its links are not."""
    outside = tmp_path / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "kept").touch()
    top = os.fsencode(tmp_path / "top")
    os.mkdir(top)
    build(top, shape, outside)
    assert remove_tree(top) == []
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(outside) == ["kept"]
