from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile

from owner_suite import TEST
from owner_suite import functions
import pytest

from pytest_tempres import primitives
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.temp import audit as module
from pytest_tempres.leaks.temp.audit import Origins
from pytest_tempres.leaks.temp.audit import activate
from pytest_tempres.leaks.temp.audit import deactivate
from pytest_tempres.leaks.temp.audit import path_events
from pytest_tempres.primitives import _process

PYTHON = os.path.basename(sys.executable)


# -- single events, passed directly: coverage does not trace an audit hook

AT = os.O_CREAT | os.O_WRONLY


@pytest.mark.parametrize(
    "event, args",
    [
        ("open", ("{x}", "w", AT)),
        ("open", (b"{x}", None, AT)),
        ("os.mkdir", ("{x}", 0o777)),
        ("os.mkdir", ("{x}", 0o777, -1)),
        ("os.rename", ("/elsewhere", "{x}")),
        ("os.rename", ("/elsewhere", "{x}", -1, -1)),
        ("os.link", ("/elsewhere", "{x}", 5, -1)),
        ("os.symlink", ("nowhere", "{x}")),
        ("os.symlink", ("nowhere", "{x}", -1)),
        ("socket.bind", (None, "{x}")),
        ("socket.bind", (None, b"{x}")),
        ("sqlite3.connect", ("{x}",)),
        ("tempfile.mkdtemp", ("{x}",)),
        ("tempfile.mkstemp", (b"{x}",)),
    ],
)
def test_events_that_create_a_path_give_a_hint(origins, root, event, args):
    """The hint has the name in the worker root."""
    module._forward(event, tuple(filled(arg, root) for arg in args))
    assert list(origins.hints) == ["x"]
    assert origins.hints["x"][:3] == (TEST, TEST.id, "call")
    assert functions(origins.hints["x"])[0] == "test_events_that_create_a_path_give_a_hint"


@pytest.mark.parametrize(
    "event, args",
    [
        ("open", ("{x}", "r", os.O_RDONLY)),
        ("open", ("{x}", "w", None)),
        ("open", (3, "w", AT)),
        ("os.mkdir", ("{x}", 0o777, 5)),
        ("os.rename", ("/elsewhere", "{x}", -1, 5)),
        ("os.symlink", ("nowhere", "{x}", 5)),
        ("os.remove", ("{x}", 5)),
        ("os.remove", ("{x}", -1)),
        ("socket.bind", (None, ("127.0.0.1", 0))),
        ("sqlite3.connect", ("/elsewhere",)),
        ("os.mkdir", ("/elsewhere", 0o777, -1)),
        ("os.chmod", ("{x}", 0o777, -1)),
    ],
)
def test_other_events_give_no_hint(origins, root, event, args):
    """Events of reading, of numbers, and of paths relative to a descriptor are ignored."""
    module._forward(event, tuple(filled(arg, root) for arg in args))
    assert (origins.hints, origins.outside, origins.being_removed) == ({}, {}, set())


def filled(argument, root):
    """Return *argument* with the path of an entry in it."""
    if isinstance(argument, bytes):
        return argument.replace(b"{x}", os.fsencode(root / "x"))
    return argument.replace("{x}", str(root / "x")) if isinstance(argument, str) else argument


def test_hints_after_several_events(origins, root, tmp_path, monkeypatch):
    """Renames, other spellings and paths below an entry lead to the entry."""
    monkeypatch.chdir(root)
    for event, *args in (
        ("os.mkdir", "a", 0o777, -1),
        ("os.mkdir", "./b//c", 0o777, -1),
        ("os.mkdir", f"{root}/b/d", 0o777, -1),
        ("os.rename", "a", f"{root}/e", -1, -1),
        ("os.rename", f"{root}/unknown", "f", -1, -1),
        ("os.rename", f"{root}/b/c", "g", -1, -1),
        ("tempfile.mkstemp", f"{tmp_path}/h"),
        ("subprocess.Popen", "sh", ["sh", "-c", b"x"], None, None),
    ):
        module._forward(event, tuple(args))
    renamed = {name: hint.renamed for name, hint in origins.hints.items()}
    assert renamed == {"a": None, "b": None, "e": "a", "f": "unknown", "g": None}
    assert list(origins.outside) == [f"{tmp_path}/h"]
    assert origins.processes.last_command == "sh -c x"
    module._forward("subprocess.Popen", (None, "true", None, None))
    assert origins.processes.last_command == "true"
    module._forward("subprocess.Popen", ("false", "", None, None))
    assert origins.processes.last_command == "false"


# -- the paths of events


@pytest.mark.parametrize(
    "event, args, expected",
    [
        ("open", ("/x", "w", os.O_WRONLY), [("/x", False)]),
        ("open", ("/x", "r+", os.O_RDWR), [("/x", False)]),
        ("open", (b"/x", None, os.O_CREAT), [("/x", False)]),
        ("os.mkdir", ("/x/", 0o777, -1), [("/x", False)]),
        ("os.mkdir", (b"/x\xff", 0o777, -1), [(os.fsdecode(b"/x\xff"), False)]),
        ("os.rename", ("/x", "/y", -1, -1), [("/x", True), ("/y", False)]),
        ("os.rename", ("x", "/y", 5, -1), [("/y", False)]),
        ("os.rename", ("/x", "y", -1, 5), [("/x", True)]),
        ("os.link", ("/x", "/y", -1, -1), [("/y", False)]),
        ("os.symlink", ("/x", "/y", -1), [("/y", False)]),
        ("os.remove", ("/x", -1), [("/x", True)]),
        ("os.rmdir", (Path("/x"), -1), [("/x", True)]),
        ("os.truncate", ("/x", 1), [("/x", False)]),
        ("os.utime", ("/x", None, None, -1), [("/x", False)]),
        ("shutil.rmtree", ("/x",), [("/x", True)]),
        ("shutil.rmtree", ("/x", None), [("/x", True)]),
        ("socket.bind", (None, "/x"), [("/x", False)]),
        ("sqlite3.connect", (Path("/x"),), [("/x", False)]),
        ("sqlite3.connect", (b"file:/x?mode=rwc",), [("/x", False)]),
        ("sqlite3.connect", ("file://localhost/x",), [("/x", False)]),
        ("tempfile.mkdtemp", ("/x",), [("/x", False)]),
        ("tempfile.mkstemp", (b"/x",), [("/x", False)]),
    ],
)
def test_events_that_name_a_path(event, args, expected):
    """Paths may be str, bytes or path objects; a rename has two."""
    assert list(path_events(event, args)) == expected


@pytest.mark.parametrize(
    "event, args",
    [
        ("open", ("/x", "r", os.O_RDONLY)),
        ("open", ("/x", "w", None)),
        ("open", (3, "w", os.O_WRONLY)),
        ("os.mkdir", ("x", 0o777, 5)),
        ("os.remove", ("x", 5)),
        ("os.rmdir", ("x", 5)),
        ("os.symlink", ("/x", "y", 5)),
        ("os.truncate", (3, 1)),
        ("os.utime", (3, None, None, -1)),
        ("shutil.rmtree", ("x", 5)),
        ("socket.bind", (None, ("127.0.0.1", 0))),
        ("socket.bind", (None, None)),
    ],
)
def test_events_that_name_no_path(event, args):
    """Reading, numbers, addresses and paths relative to a descriptor are left out."""
    assert list(path_events(event, args)) == []


def test_relative_paths_are_made_absolute(tmp_path, monkeypatch):
    """They start from the current working directory."""
    monkeypatch.chdir(tmp_path)
    found = [path for path, _ in path_events("os.rename", ("a", "./b//../c", -1, -1))]
    assert found == [os.path.join(os.getcwd(), name) for name in ("a", "c")]


# -- real events


def create_by_open(path):
    """Create a file with `open`."""
    with open(path, "w"):
        pass


def create_by_os_open(path):
    """Create a file with `os.open`."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def bind(path):
    """Create a socket; the path is relative because it must be short."""
    here = os.getcwd()
    os.chdir(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.basename(path))
    os.chdir(here)


def connect(path):
    """Create a database."""
    sqlite3.connect(path).close()


@pytest.mark.parametrize(
    "create",
    [
        create_by_open,
        create_by_os_open,
        os.mkdir,
        functools.partial(os.symlink, "nowhere"),
        functools.partial(os.link, __file__),
        bind,
        connect,
    ],
)
def test_every_way_to_create_a_path_gives_a_hint(origins, root, create, tmp_path):
    """It has owner, phase and line."""
    with contextlib.suppress(OSError):  # The event comes even if linking across file systems fails.
        create(os.path.join(root, "x"))
    hint = origins.hints["x"]
    assert hint[:3] == (TEST, TEST.id, "call")
    assert "test_every_way_to_create_a_path_gives_a_hint" in functions(hint)
    assert hint.stack[0][0].co_filename == __file__


@pytest.mark.parametrize("library", [tempfile, primitives])
def test_both_libraries_give_hints(origins, root, library):
    """The standard library's `tempfile` and `pytest_tempres.primitives`."""
    fd, file = library.mkstemp(dir=root)
    os.close(fd)
    made = [library.mkdtemp(dir=root), file, library.mkdtemp(dir=os.fsencode(root))]
    assert {os.path.basename(os.fsdecode(path)) for path in made} <= set(origins.hints)
    assert not origins.outside


@pytest.mark.parametrize("path", ["x", b"x", Path("x"), "./x", "../main/x", ".//x", "x/"])
def test_a_relative_path_is_resolved(origins, root, monkeypatch, path):
    """It starts from the working directory."""
    monkeypatch.chdir(root)
    os.mkdir(path)
    assert list(origins.hints) == ["x"]


@pytest.mark.parametrize("spelling", ["{}//x", "{}/./x", "{}/../main/x", "{}/y/../x"])
def test_an_absolute_path_is_normalized(origins, root, spelling):
    """It may contain double separators and dots."""
    (root / "y").mkdir()
    os.mkdir(spelling.format(root))
    assert "x" in origins.hints


def test_each_spelling_of_the_worker_root_counts(root, running, tmp_path):
    """The temp directory may be a link."""
    (tmp_path / "link").symlink_to(root)
    origins = Origins((f"{tmp_path}/link/", f"{root}/"), (), {}, running)
    origins.on_event("os.mkdir", (f"{tmp_path}/link/a", 0o777, -1))
    origins.on_event("os.mkdir", (f"{root}/b", 0o777, -1))
    assert set(origins.hints) == {"a", "b"}


def test_names_that_are_not_utf_8_give_hints(origins, root):
    """They are spelled as in a listing."""
    os.mkdir(os.path.join(os.fsencode(root), b"\xff\n"))
    assert set(origins.hints) == set(os.listdir(root))


def test_reading_gives_no_hint(origins, root):
    """Opening for reading and listing create nothing."""
    (root / "x").write_text("x")
    origins.hints.clear()
    (root / "x").read_text()
    os.close(os.open(root / "x", os.O_RDWR))
    os.listdir(root)
    with open(os.open(root / "x", os.O_RDONLY)):
        pass
    assert origins.hints == {}


def test_paths_below_an_entry_do_not_change_its_hint(origins, root):
    """The first event of an entry counts."""
    os.mkdir(root / "d")
    before = origins.hints["d"]
    (root / "d" / "f").write_text("x")
    assert origins.hints == {"d": before}


@pytest.mark.parametrize("library", [tempfile, primitives], ids=lambda library: library.__name__)
def test_a_file_in_a_directory_does_not_change_the_hint_of_the_directory(origins, root, library):
    """NamedTemporaryFile opens its directory with O_CREAT (CPython 3.12 and newer)."""

    def makes():
        return library.mkdtemp(dir=root)

    path = makes()
    with library.NamedTemporaryFile(dir=path), library.TemporaryFile(dir=path):
        pass
    (hint,) = origins.hints.values()
    assert "makes" in functions(hint)


@pytest.mark.parametrize("use", ["open", "touch", "connect"])
def test_writing_to_an_existing_file_does_not_change_its_hint(origins, root, use):
    """Creating it again after its removal does."""
    path = root / "x"

    def makes():
        path.write_text("")

    def uses():
        if use == "connect":
            sqlite3.connect(path).close()
        else:
            path.touch() if use == "touch" else path.write_text("x")

    makes()
    uses()
    assert "makes" in functions(origins.hints["x"])
    path.unlink()
    uses()
    assert "uses" in functions(origins.hints["x"])


def test_paths_below_a_known_entry_give_no_hint(root, running):
    """Stacks are expensive."""
    origins = Origins((f"{root}/",), (), {"d": 1}, running)
    origins.on_event("os.mkdir", (f"{root}/d/e", 0o777, -1))
    assert origins.hints == {}


def test_a_path_below_an_unknown_entry_gives_a_hint(root, running):
    """The entry may have been created without an event."""
    origins = Origins((f"{root}/",), (), {}, running)
    origins.on_event("os.mkdir", (f"{root}/d/e", 0o777, -1))
    assert list(origins.hints) == ["d"]


def test_the_worker_root_itself_gives_no_hint(origins, root):
    """Code may create it with `exist_ok=True`."""
    os.makedirs(root, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(f"{root}/")
    assert origins.hints == {}


@pytest.mark.parametrize("library", [tempfile, primitives])
def test_a_removed_root_is_recreated_for_temporary_paths(origins, root, library):
    """Other events do not recreate it."""
    made = []

    def recreate():
        made.append(root)
        root.mkdir()

    origins.recreate = recreate
    with library.TemporaryDirectory(dir=root), library.NamedTemporaryFile(dir=root):
        pass
    assert made == []
    root.rmdir()
    with pytest.raises(FileNotFoundError):
        (root / "x").mkdir()
    for make in (library.mkdtemp, library.mkstemp, library.NamedTemporaryFile):
        shutil.rmtree(root, ignore_errors=True)
        made.clear()
        thing = make(dir=root)
        assert made == [root]
        if make is library.mkstemp:
            os.close(thing[0])
        elif make is library.NamedTemporaryFile:
            thing.close()


def test_paths_relative_to_a_descriptor_give_no_hint(origins, root, monkeypatch):
    """The directory is unknown."""
    monkeypatch.chdir(root)
    (root / "d").mkdir()
    (root / "e").mkdir()
    fd = os.open(root / "d", os.O_RDONLY)
    origins.hints.clear()
    os.mkdir("a", dir_fd=fd)
    os.symlink("nowhere", "b", dir_fd=fd)
    os.rename("b", "c", src_dir_fd=fd, dst_dir_fd=fd)
    os.rmdir("a", dir_fd=fd)
    os.close(fd)
    assert origins.hints == {}
    assert origins.being_removed == set()


def test_sockets_without_a_path_give_no_hint(origins, root, monkeypatch):
    """They may be bound to a port."""
    monkeypatch.chdir(root)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
    assert origins.hints == {}


# -- renaming and removing


def test_a_renamed_entry_keeps_its_hint(origins, root, running):
    """It belongs to the code that created it."""
    (root / "part").write_text("x")
    made = origins.hints["part"]
    running.owner = Owner("test", "other")
    (root / "part").rename(root / "whole")
    hint = origins.hints["whole"]
    assert hint.owner == made.owner == TEST
    assert hint.stack == made.stack
    assert hint.renamed == "part"


def test_an_entry_renamed_twice_has_its_first_name_in_the_hint(origins, root):
    """The ledger looks it up by that name."""
    (root / "a").write_text("x")
    (root / "a").rename(root / "b")
    os.replace(root / "b", root / "c")
    assert origins.hints["c"].renamed == "a"


def test_a_path_moved_into_the_root_has_the_hint_of_the_move(origins, root, tmp_path):
    """It may come from outside or from within an entry."""
    (tmp_path / "elsewhere").write_text("x")
    (tmp_path / "elsewhere").rename(root / "a")
    (root / "d").mkdir()
    (root / "d" / "f").write_text("x")
    (root / "d" / "f").rename(root / "b")
    for name in ("a", "b"):
        assert origins.hints[name].renamed is None
        assert origins.hints[name].owner == TEST


def test_the_removal_of_a_known_entry_is_recorded(root, running):
    """A new path may reuse its inode."""
    origins = Origins((f"{root}/",), (), dict.fromkeys(("known", "also_known", "d")), running)
    names = ("known", "also_known/", "unknown", "d/below")
    for event, name in zip(("os.remove", "os.rmdir", "os.rmdir", "os.remove"), names, strict=True):
        origins.on_event(event, (f"{root}/{name}", -1))
    assert origins.being_removed == {"known", "also_known"}
    assert origins.hints == {}


def test_other_spellings_of_the_root_are_no_entries(origins, root):
    """The root may be spelled with a dot or a separator at its end."""
    origins.on_event("os.mkdir", (f"{root}/.", 0o777, -1))
    origins.on_event("os.rename", ("/elsewhere", f"{root}/", -1, -1))
    assert origins.hints == {}


# -- outside the worker root


@pytest.mark.parametrize("make", [tempfile.mkdtemp, primitives.mkdtemp])
def test_temporary_paths_elsewhere_give_hints(origins, tmp_path, make):
    """They have their full path."""
    path = make(dir=tmp_path)
    assert list(origins.outside) == [path]
    assert origins.outside[path].owner == TEST
    assert origins.hints == {}


def test_other_paths_elsewhere_give_no_hints(origins, tmp_path):
    """Only `tempfile` creates temporary paths."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "f").write_text("x")
    assert origins.outside == {}


def test_excluded_directories_give_no_hints(origins, tmp_path):
    """Directories next to them do."""
    (tmp_path / "cache").mkdir()
    origins.exclude(str(tmp_path / "cache"))
    tempfile.mkdtemp(dir=tmp_path / "cache")
    assert origins.outside == {}
    beside = tempfile.mkdtemp(prefix="cache", dir=tmp_path)
    assert list(origins.outside) == [beside]


# -- commands


@pytest.mark.parametrize(
    "command, said",
    [
        ([sys.executable, "-c", ""], f"{PYTHON} -c ''"),
        ((sys.executable, Path("-h")), f"{PYTHON} -h"),
        ([os.fsencode(sys.executable), b"-c\xff", ""], f"{PYTHON} '-c\udcff' ''"),
        ("exit 0", "sh -c 'exit 0'"),
    ],
)
def test_the_last_command_is_recorded(origins, command, said):
    """It is reported for paths without an event."""
    subprocess.run(command, shell=isinstance(command, str), capture_output=True, check=False)
    assert origins.processes.last_command == said


def test_a_malformed_command_does_not_break_the_call(origins):
    """`subprocess` raises its own error."""
    with pytest.raises(TypeError, match="str, bytes"):
        subprocess.run([sys.executable, 7], check=False)
    assert origins.processes.last_command == f"{PYTHON} …"


# -- the hook


def test_only_the_innermost_session_receives_events(origins, root, running):
    """The outer one continues afterwards."""
    inner = Origins((f"{root}/",), (), {}, running)
    activate(inner)
    os.mkdir(root / "a")
    deactivate(inner)
    os.mkdir(root / "b")
    assert list(inner.hints) == ["a"]
    assert list(origins.hints) == ["b"]


def test_sessions_may_end_in_any_order(origins, root, running):
    """The inner session goes on when the outer one has ended."""
    inner = Origins((f"{root}/",), (), {}, running)
    activate(inner)
    deactivate(origins)
    os.mkdir(root / "a")
    deactivate(inner)
    deactivate(inner)
    assert list(inner.hints) == ["a"]
    assert origins.hints == {}


def test_without_a_session_the_hook_does_nothing(origins, root, monkeypatch):
    """An audit hook cannot be removed."""
    monkeypatch.setattr(module, "_active", [])
    os.mkdir(root / "a")
    assert origins.hints == {}


def test_no_events_are_handled_outside_of_sessions(origins):
    """Nothing keeps the session alive."""
    listeners = _process._listeners()
    assert module._forward in listeners["os.mkdir"]
    others = list(module._active)
    for each in others:
        deactivate(each)
    assert not any(module._forward in each for each in listeners.values())
    for each in others:
        activate(each)


@pytest.mark.parametrize(
    "event, args",
    [
        ("open", ()),
        ("open", (object(), "w", os.O_CREAT)),
        ("os.mkdir", (None, 0, -1)),
        ("os.rename", ("a",)),
        ("subprocess.Popen", ()),
        ("tempfile.mkdtemp", (3,)),
    ],
)
def test_the_hook_never_raises(origins, event, args):
    """An exception would break the audited call."""
    sys.audit(event, *args)
    assert origins.hints == {}


def test_a_removed_working_directory_does_not_break_the_call(origins, tmp_path, monkeypatch):
    """The operating system raises the error."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError):
        os.mkdir("x")
    assert origins.hints == {}
