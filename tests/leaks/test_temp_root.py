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

#: A time so far back that no clock tick can hide a change after it (nanoseconds).
LONG_AGO = 10**18


@pytest.fixture
def watched(tmp_path) -> Path:
    """A directory that nothing has happened in for a long time."""
    path = tmp_path / "main"
    path.mkdir()
    age(path)
    return path


@pytest.fixture
def clock(monkeypatch):
    """A clock for listings that moves only when a test moves it."""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module.System, "monotonic", clock)
    return clock


def age(path: Path) -> None:
    """Let *path* have been changed long ago."""
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def listings_of(look: Scan) -> int:
    """Return how many looks in a row find something to list, of five."""
    return sum(look.changed() for _ in range(5))


# -- looks


def test_the_first_look_always_lists(watched):
    """What was there before the first look is found by it."""
    assert Scan(str(watched)).changed()


@pytest.mark.skipif(os.name == "nt", reason="modes mean little on Windows")
@pytest.mark.parametrize("mode", [0, 0o300, 0o500])
def test_a_directory_that_was_closed_is_told_of_once(watched, mode):
    """Who took its modes away is found at the next look, though root could list it all the same."""
    look = Scan(str(watched))
    look.changed()
    watched.chmod(mode)
    with pytest.raises(PermissionError):
        look.changed()
    look.changed()
    watched.chmod(0o700)
    look.changed()


def test_a_directory_at_rest_is_not_listed_again(watched):
    """A look at what did not change costs one stat."""
    assert listings_of(Scan(str(watched))) == 1


@pytest.mark.parametrize("deed", ["file", "directory", "link", "removal", "rename"])
def test_every_change_is_seen(watched, deed):
    """Whatever appears, disappears or is renamed makes the next look list."""
    (watched / "old").write_text("x")
    age(watched)
    look = Scan(str(watched))
    look.changed()
    assert not look.changed()
    if deed == "file":
        (watched / "new").write_text("x")
    elif deed == "directory":
        (watched / "new").mkdir()
    elif deed == "link":
        (watched / "new").symlink_to("nowhere")
    elif deed == "removal":
        (watched / "old").unlink()
    else:
        (watched / "old").rename(watched / "new")
    assert look.changed()


def test_a_change_in_the_same_tick_of_the_clock_is_not_missed(watched, monkeypatch):
    """Where a young directory can change without a trace, the next look lists once more."""
    look = Scan(str(watched))
    monkeypatch.setattr(module.System, "time_ns", lambda: LONG_AGO + 9_999_999)
    assert look.changed()
    (watched / "unseen").write_text("x")
    age(watched)
    assert look.changed()
    monkeypatch.setattr(module.System, "time_ns", lambda: LONG_AGO + 10_000_000)
    assert look.changed()
    assert not look.changed()


def test_a_look_that_was_put_off_is_made_up_for(watched):
    """What was not listed at its time is listed when there is time."""
    look = Scan(str(watched))
    look.changed()
    look.put_off()
    assert look.changed()
    assert not look.changed()


def test_a_directory_that_is_gone_is_an_error(watched):
    """The caller learns that a test removed the temp directory."""
    look = Scan(str(watched))
    watched.rmdir()
    with pytest.raises(FileNotFoundError):
        look.changed()
    with pytest.raises(FileNotFoundError):
        look.names()


def test_another_directory_in_its_place_is_told_once(watched, tmp_path):
    """What is moved away and replaced is known by its inode."""
    look = Scan(str(watched))
    look.changed()
    assert not look.is_another()
    watched.rename(tmp_path / "aside")
    watched.mkdir()
    look.changed()
    assert [look.is_another(), look.is_another()] == [True, False]


def test_a_listing_names_everything_with_its_inode(watched):
    """A listing tells apart what has the same name but is not the same."""
    raw = os.path.join(os.fsencode(watched), b"\xff\n")
    os.mkdir(raw)
    (watched / "link").symlink_to("nowhere")
    names = Scan(str(watched)).names()
    assert names == {
        os.fsdecode(b"\xff\n"): os.lstat(raw).st_ino,
        "link": os.lstat(watched / "link").st_ino,
    }


def test_a_listing_that_failed_is_made_up_for(watched, monkeypatch):
    """A test that uses up all descriptors hides nothing for longer than it does so."""

    def refuse(path):
        raise OSError(errno.EMFILE, "Too many open files")

    look = Scan(str(watched))
    assert look.changed()
    with monkeypatch.context() as patch:
        patch.setattr(module.System, "scandir", refuse)
        with pytest.raises(OSError, match="Too many"):
            look.names()
    assert look.changed()


def test_listings_may_take_a_hundredth_of_the_session(watched, clock, monkeypatch):
    """A huge directory is not listed around each test, and is listed again in time."""

    def slow(path):
        clock.now += 0.2
        return os.scandir(path)

    look = Scan(str(watched))
    assert look.affordable()
    monkeypatch.setattr(module.System, "scandir", slow)
    look.names()
    assert not look.affordable()
    clock.now = 14.9
    assert not look.affordable()
    clock.now = 15.1
    assert look.affordable()


def test_looks_work_while_a_test_has_replaced_os_and_the_clock(watched, monkeypatch):
    """A frozen clock or a mock of `os` does not make the looks blind."""
    look = Scan(str(watched))
    with monkeypatch.context() as patch:
        for name in ("stat", "lstat", "scandir"):
            patch.setattr(os, name, lambda *args, **kwargs: 1 / 0)
        patch.setattr("time.time_ns", lambda: 1 / 0)
        patch.setattr("time.monotonic", lambda: 1 / 0)
        results = look.changed(), look.names(), measure(str(watched))
    assert results == (True, {}, Measure("directory", 0, 0, complete=True))


# -- single paths


def test_identity_follows_no_link(tmp_path):
    """A link is itself, wherever it leads."""
    (tmp_path / "link").symlink_to("nowhere")
    assert identity(str(tmp_path / "link")) == os.lstat(tmp_path / "link").st_ino
    assert exists(str(tmp_path / "link"))


@pytest.mark.parametrize("name", ["gone", "a\0b", "\ud800", "x" * 300, "file/below"])
def test_what_cannot_be_is_not_there(tmp_path, name):
    """A hint may name what no file system can hold: nothing is there, and nothing fails."""
    (tmp_path / "file").write_text("x")
    assert identity(f"{tmp_path}/{name}") is None
    assert not exists(f"{tmp_path}/{name}")


# -- sizes


def test_what_is_gone_has_no_size(tmp_path):
    """What disappears between two looks is no error."""
    assert measure(str(tmp_path / "gone")) is None


def test_a_file_has_its_size(tmp_path):
    """A file counts its bytes, and is one item."""
    (tmp_path / "f").write_bytes(b"12345")
    assert measure(str(tmp_path / "f")) == Measure("file", 5, 1, complete=True)


def test_special_files_are_named_and_empty(tmp_path, monkeypatch):
    """Links, fifos and sockets are told apart; none is opened, followed or waited for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "big").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to("big")
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    for kind in ("fifo", "socket"):
        assert measure(kind) == Measure(kind, 0, 1, complete=True)
    assert measure("link") == Measure("symlink", 0, 1, complete=True)


def test_a_directory_has_the_size_of_all_files_in_it(tmp_path):
    """A tree counts its files and their bytes, links as links and directories not at all."""
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "f").write_bytes(b"x" * 7)
    (tree / "g\nh").write_bytes(b"x" * 5)
    (tmp_path / "big").write_bytes(b"x" * 10_000)
    (tree / "link").symlink_to(tmp_path / "big")
    (tree / "loop").symlink_to(tree)
    links = sum(os.lstat(tree / name).st_size for name in ("link", "loop"))
    assert measure(str(tree)) == Measure("directory", 12 + links, 4, complete=True)


def test_an_empty_directory_is_measured_whole(tmp_path):
    """Nothing in it is a complete answer."""
    assert measure(str(tmp_path)) == Measure("directory", 0, 0, complete=True)


@pytest.mark.parametrize("items, counted", [(10_000, True), (10_001, False)])
def test_a_walk_ends_after_ten_thousand_items(tmp_path, items, counted):
    """A huge tree is measured in bounded time, and the answer says that it is a lower bound."""
    source = tmp_path / "source"
    source.write_bytes(b"x")
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(items):
        os.link(source, tree / str(number))
    assert measure(str(tree)) == Measure("directory", 10_000, 10_000, complete=counted)


def test_directories_count_towards_the_bound(tmp_path, monkeypatch):
    """A tree of empty directories does not keep a walk busy for ever."""
    monkeypatch.setattr(module, "_MOST_ITEMS", 3)
    for name in "abcd":
        (tmp_path / name).mkdir()
    assert measure(str(tmp_path)) == Measure("directory", 0, 0, complete=False)


def test_what_cannot_be_read_makes_the_answer_a_lower_bound(tmp_path):
    """A closed directory is not opened by force: the answer says "at least"."""
    if not hasattr(os, "fork"):
        pytest.skip("this platform has no modes to close a directory with")
    (tmp_path / "tree" / "closed").mkdir(parents=True)
    (tmp_path / "tree" / "file").write_bytes(b"abc")
    (tmp_path / "tree" / "closed").chmod(0)
    with warnings.catch_warnings():
        # A worker of pytest-xdist has a second thread, which the child does without.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            # From inside, since the way there is closed to other users.
            os.chdir(tmp_path / "tree")
            if os.geteuid() == 0:
                os.chmod(os.curdir, 0o755)
                os.setuid(65534)
            status = measure(os.curdir) != Measure("directory", 3, 1, complete=False)
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    (tmp_path / "tree" / "closed").chmod(0o700)


def test_a_tree_too_deep_for_paths_is_a_lower_bound(tmp_path, monkeypatch):
    """A tree deeper than a path can be long is measured as far as it can be."""
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
