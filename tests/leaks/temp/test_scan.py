from __future__ import annotations

import errno
import os
from pathlib import Path
import socket
import warnings

import pytest

from pytest_tempres.leaks.temp import scan as module
from pytest_tempres.leaks.temp.scan import Measure
from pytest_tempres.leaks.temp.scan import Scan
from pytest_tempres.leaks.temp.scan import exists
from pytest_tempres.leaks.temp.scan import identity
from pytest_tempres.leaks.temp.scan import measure

#: An mtime (nanoseconds) that is long past, so that any later change differs from it.
LONG_AGO = 10**18


@pytest.fixture
def directory(tmp_path) -> Path:
    """A directory without recent changes."""
    path = tmp_path / "main"
    path.mkdir()
    age(path)
    return path


@pytest.fixture
def clock(monkeypatch):
    """The clock for listings, which only tests advance."""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module.System, "monotonic", clock)
    return clock


def age(path: Path) -> None:
    """Set the mtime of *path* to long ago."""
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def listings_of(scanner: Scan) -> int:
    """Return how many of five scans need a listing."""
    return sum(scanner.changed() for _ in range(5))


# -- scans


def test_the_first_scan_needs_a_listing(directory):
    """It finds what exists already."""
    assert Scan(str(directory)).changed()


@pytest.mark.skipif(os.name == "nt", reason="modes mean little on Windows")
@pytest.mark.parametrize("mode", [0, 0o300, 0o500])
def test_missing_permissions_are_an_error_once(directory, mode):
    """They are one for root too, who could list the directory."""
    scanner = Scan(str(directory))
    scanner.changed()
    directory.chmod(mode)
    with pytest.raises(PermissionError):
        scanner.changed()
    scanner.changed()
    directory.chmod(0o700)
    scanner.changed()


def test_an_unchanged_directory_needs_no_listing(directory):
    """A scan costs one stat."""
    assert listings_of(Scan(str(directory))) == 1


@pytest.mark.parametrize("change", ["file", "directory", "link", "removal", "rename"])
def test_every_change_needs_a_listing(directory, change):
    """Creation, removal and renaming."""
    (directory / "old").write_text("x")
    age(directory)
    scanner = Scan(str(directory))
    scanner.changed()
    assert not scanner.changed()
    if change == "file":
        (directory / "new").write_text("x")
    elif change == "directory":
        (directory / "new").mkdir()
    elif change == "link":
        (directory / "new").symlink_to("nowhere")
    elif change == "removal":
        (directory / "old").unlink()
    else:
        (directory / "old").rename(directory / "new")
    assert scanner.changed()


def test_a_change_within_the_same_clock_tick_is_found(directory, monkeypatch):
    """A recently changed directory is listed once more."""
    scanner = Scan(str(directory))
    monkeypatch.setattr(module.System, "time_ns", lambda: LONG_AGO + 9_999_999)
    assert scanner.changed()
    (directory / "unseen").write_text("x")
    age(directory)
    assert scanner.changed()
    monkeypatch.setattr(module.System, "time_ns", lambda: LONG_AGO + 10_000_000)
    assert scanner.changed()
    assert not scanner.changed()


def test_a_skipped_listing_is_needed_again(directory):
    """The directory counts as changed until it is listed."""
    scanner = Scan(str(directory))
    scanner.changed()
    scanner.invalidate()
    assert scanner.changed()
    assert not scanner.changed()


def test_a_removed_directory_is_an_error(directory):
    """The caller creates it again."""
    scanner = Scan(str(directory))
    directory.rmdir()
    with pytest.raises(FileNotFoundError):
        scanner.changed()
    with pytest.raises(FileNotFoundError):
        scanner.names()


def test_another_directory_at_the_path_is_detected_once(directory, tmp_path):
    """It has another inode."""
    scanner = Scan(str(directory))
    scanner.changed()
    assert not scanner.was_replaced()
    directory.rename(tmp_path / "aside")
    directory.mkdir()
    scanner.changed()
    assert [scanner.was_replaced(), scanner.was_replaced()] == [True, False]


def test_a_listing_has_all_names_with_inodes(directory):
    """The inode shows whether a name was reused."""
    raw = os.path.join(os.fsencode(directory), b"\xff\n")
    os.mkdir(raw)
    (directory / "link").symlink_to("nowhere")
    names = Scan(str(directory)).names()
    assert names == {
        os.fsdecode(b"\xff\n"): os.lstat(raw).st_ino,
        "link": os.lstat(directory / "link").st_ino,
    }


def test_a_failed_listing_is_needed_again(directory, monkeypatch):
    """A test may use up all descriptors."""

    def refuse(path):
        raise OSError(errno.EMFILE, "Too many open files")

    scanner = Scan(str(directory))
    assert scanner.changed()
    with monkeypatch.context() as patch:
        patch.setattr(module.System, "scandir", refuse)
        with pytest.raises(OSError, match="Too many"):
            scanner.names()
    assert scanner.changed()


def test_listings_may_take_one_percent_of_the_session(directory, clock, monkeypatch):
    """A huge directory is not listed around each test."""

    def slow(path):
        clock.now += 0.2
        return os.scandir(path)

    scanner = Scan(str(directory))
    assert scanner.is_within_budget()
    monkeypatch.setattr(module.System, "scandir", slow)
    scanner.names()
    assert not scanner.is_within_budget()
    clock.now = 14.9
    assert not scanner.is_within_budget()
    clock.now = 15.1
    assert scanner.is_within_budget()


def test_scans_work_while_a_test_has_replaced_os_and_the_clock(directory, monkeypatch):
    """The original functions are captured."""
    scanner = Scan(str(directory))
    with monkeypatch.context() as patch:
        for name in ("stat", "lstat", "scandir"):
            patch.setattr(os, name, lambda *args, **kwargs: 1 / 0)
        patch.setattr("time.time_ns", lambda: 1 / 0)
        patch.setattr("time.monotonic", lambda: 1 / 0)
        results = scanner.changed(), scanner.names(), measure(str(directory))
    assert results == (True, {}, Measure("directory", 0, 0, complete=True))


# -- single paths


def test_identity_follows_no_link(tmp_path):
    """It is the inode of the link."""
    (tmp_path / "link").symlink_to("nowhere")
    assert identity(str(tmp_path / "link")) == os.lstat(tmp_path / "link").st_ino
    assert exists(str(tmp_path / "link"))


@pytest.mark.parametrize("name", ["gone", "a\0b", "\ud800", "x" * 300, "file/below"])
def test_an_impossible_path_does_not_exist(tmp_path, name):
    """A hint may have such a name."""
    (tmp_path / "file").write_text("x")
    assert identity(f"{tmp_path}/{name}") is None
    assert not exists(f"{tmp_path}/{name}")


# -- sizes


def test_a_missing_path_has_no_size(tmp_path):
    """It may be removed between two scans."""
    assert measure(str(tmp_path / "gone")) is None


def test_a_file_has_its_size(tmp_path):
    """It is one item."""
    (tmp_path / "f").write_bytes(b"12345")
    assert measure(str(tmp_path / "f")) == Measure("file", 5, 1, complete=True)


def test_special_files_have_a_kind_and_no_size(tmp_path, monkeypatch):
    """Links, fifos and sockets are not opened."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "big").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to("big")
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    for kind in ("fifo", "socket"):
        assert measure(kind) == Measure(kind, 0, 1, complete=True)
    assert measure("link") == Measure("symlink", 0, 1, complete=True)


def test_a_directory_has_the_total_size_of_its_files(tmp_path):
    """Links are not followed."""
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "f").write_bytes(b"x" * 7)
    (tree / "g\nh").write_bytes(b"x" * 5)
    (tmp_path / "big").write_bytes(b"x" * 10_000)
    (tree / "link").symlink_to(tmp_path / "big")
    (tree / "loop").symlink_to(tree)
    links = sum(os.lstat(tree / name).st_size for name in ("link", "loop"))
    assert measure(str(tree)) == Measure("directory", 12 + links, 4, complete=True)


def test_the_size_of_an_empty_directory_is_complete(tmp_path):
    """It has no items."""
    assert measure(str(tmp_path)) == Measure("directory", 0, 0, complete=True)


@pytest.mark.parametrize("items, counted", [(10_000, True), (10_001, False)])
def test_a_walk_ends_after_ten_thousand_items(tmp_path, items, counted):
    """The size is a lower bound then."""
    source = tmp_path / "source"
    source.write_bytes(b"x")
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(items):
        os.link(source, tree / str(number))
    assert measure(str(tree)) == Measure("directory", 10_000, 10_000, complete=counted)


def test_directories_count_towards_the_limit(tmp_path, monkeypatch):
    """A tree may consist of directories alone."""
    monkeypatch.setattr(module, "_MAX_ITEMS", 3)
    for name in "abcd":
        (tmp_path / name).mkdir()
    assert measure(str(tmp_path)) == Measure("directory", 0, 0, complete=False)


def test_with_an_unreadable_directory_the_size_is_a_lower_bound(tmp_path):
    """Its permissions are not changed."""
    if not hasattr(os, "fork"):
        pytest.skip("this platform has no modes to close a directory with")
    (tmp_path / "tree" / "closed").mkdir(parents=True)
    (tmp_path / "tree" / "file").write_bytes(b"abc")
    (tmp_path / "tree" / "closed").chmod(0)
    with warnings.catch_warnings():
        # The child of a pytest-xdist worker does not need the second thread.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            # From inside, because other users cannot enter the parent directories.
            os.chdir(tmp_path / "tree")
            if os.geteuid() == 0:
                os.chmod(os.curdir, 0o755)
                os.setuid(65534)
            status = measure(os.curdir) != Measure("directory", 3, 1, complete=False)
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    (tmp_path / "tree" / "closed").chmod(0o700)


def test_the_size_of_a_tree_beyond_the_path_limit_is_a_lower_bound(tmp_path, monkeypatch):
    """The path of an item may be too long."""
    monkeypatch.chdir(tmp_path)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "top").write_bytes(b"abc")
    monkeypatch.chdir(tree)
    for _ in range(25):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    found = measure(str(tree))
    assert found == Measure("directory", 3, 1, complete=False)
