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
import threading

import pytest

from pytest_tempres import primitives
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.temp import audit as module
from pytest_tempres.leaks.temp.audit import Origins
from pytest_tempres.leaks.temp.audit import activate
from pytest_tempres.leaks.temp.audit import deactivate
from pytest_tempres.primitives import _process

TEST = Owner("test", "t.py::test")
PYTHON = os.path.basename(sys.executable)


@pytest.fixture
def root(tmp_path) -> Path:
    """The worker root."""
    path = tmp_path / "main"
    path.mkdir()
    return path


@pytest.fixture
def running() -> Running:
    """A test that runs."""
    running = Running()
    running.owner, running.test, running.phase = TEST, TEST.id, "call"
    return running


@pytest.fixture
def origins(root, running):
    """The detector, listening."""
    origins = Origins((f"{root}/",), (), {}, running)
    activate(origins)
    yield origins
    deactivate(origins)


def functions(hint) -> list[str]:
    """Return the names of the functions in a hint's stack, nearest first."""
    return [code.co_name for code, _ in hint.stack]


# -- what events say (a hook is not traced, so its work is also looked at from outside it)

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
def test_what_announces_a_path(origins, root, event, args):
    """Every event that comes before a creation tells the path, in the form that it has there."""
    module._forward(event, tuple(filled(arg, root) for arg in args))
    assert list(origins.hints) == ["x"]
    assert origins.hints["x"][:3] == (TEST, TEST.id, "call")
    assert functions(origins.hints["x"])[0] == "test_what_announces_a_path"


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
def test_what_announces_nothing(origins, root, event, args):
    """Reading, numbers, descriptors to start from and other events are no hint."""
    module._forward(event, tuple(filled(arg, root) for arg in args))
    assert (origins.hints, origins.outside, origins.being_removed) == ({}, {}, set())


def filled(argument, root):
    """Return *argument* with the path of an entry in it."""
    if isinstance(argument, bytes):
        return argument.replace(b"{x}", os.fsencode(root / "x"))
    return argument.replace("{x}", str(root / "x")) if isinstance(argument, str) else argument


def test_a_chain_of_events(origins, root, tmp_path, monkeypatch):
    """Names are followed as events come; odd spellings and lower paths lead to the entry."""
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


# -- what is seen


def open_for_writing(path):
    """Create by the plainest of all calls."""
    with open(path, "w"):
        pass


def open_by_descriptor(path):
    """Create by the system call."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def bind(path):
    """Create a socket; its path may not be long."""
    here = os.getcwd()
    os.chdir(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.basename(path))
    os.chdir(here)


def connect(path):
    """Create a database."""
    sqlite3.connect(path).close()


@pytest.mark.parametrize(
    "deed",
    [
        open_for_writing,
        open_by_descriptor,
        os.mkdir,
        functools.partial(os.symlink, "nowhere"),
        functools.partial(os.link, __file__),
        bind,
        connect,
    ],
)
def test_whatever_creates_is_seen(origins, root, deed, tmp_path):
    """Each way of creating something names who did it, where, and in which phase."""
    with contextlib.suppress(OSError):  # a link across file systems is seen all the same
        deed(os.path.join(root, "x"))
    hint = origins.hints["x"]
    assert hint[:3] == (TEST, TEST.id, "call")
    assert "test_whatever_creates_is_seen" in functions(hint)
    assert hint.stack[0][0].co_filename == __file__


@pytest.mark.parametrize("library", [tempfile, primitives])
def test_both_libraries_are_seen_alike(origins, root, library):
    """The standard library's functions and ours tell of what they make, in the worker root."""
    fd, file = library.mkstemp(dir=root)
    os.close(fd)
    made = [library.mkdtemp(dir=root), file, library.mkdtemp(dir=os.fsencode(root))]
    assert {os.path.basename(os.fsdecode(path)) for path in made} <= set(origins.hints)
    assert not origins.outside


@pytest.mark.parametrize("path", ["x", b"x", Path("x"), "./x", "../main/x", ".//x", "x/"])
def test_a_relative_path_is_seen_however_it_is_spelled(origins, root, monkeypatch, path):
    """What is made in the working directory is found by its plain name."""
    monkeypatch.chdir(root)
    os.mkdir(path)
    assert list(origins.hints) == ["x"]


@pytest.mark.parametrize("spelling", ["{}//x", "{}/./x", "{}/../main/x", "{}/y/../x"])
def test_an_absolute_path_is_seen_however_it_is_spelled(origins, root, spelling):
    """Doubled separators and dots do not hide who made it."""
    (root / "y").mkdir()
    os.mkdir(spelling.format(root))
    assert "x" in origins.hints


def test_each_spelling_of_the_worker_root_counts(root, running, tmp_path):
    """Where the temp directory is a link, its real path leads to the same entries."""
    (tmp_path / "link").symlink_to(root)
    origins = Origins((f"{tmp_path}/link/", f"{root}/"), (), {}, running)
    origins.on_event("os.mkdir", (f"{tmp_path}/link/a", 0o777, -1))
    origins.on_event("os.mkdir", (f"{root}/b", 0o777, -1))
    assert set(origins.hints) == {"a", "b"}


def test_names_that_are_no_text_are_seen(origins, root):
    """Bytes that are not UTF-8 and newlines stand in the hints as in a listing."""
    os.mkdir(os.path.join(os.fsencode(root), b"\xff\n"))
    assert set(origins.hints) == set(os.listdir(root))


def test_reading_is_not_creating(origins, root):
    """What is only opened, listed or looked at leaves no hint."""
    (root / "x").write_text("x")
    origins.hints.clear()
    (root / "x").read_text()
    os.close(os.open(root / "x", os.O_RDWR))
    os.listdir(root)
    with open(os.open(root / "x", os.O_RDONLY)):
        pass
    assert origins.hints == {}


def test_what_lies_below_belongs_to_its_entry(origins, root):
    """The first event names the maker of an entry, and not who wrote into it later."""
    os.mkdir(root / "d")
    before = origins.hints["d"]
    (root / "d" / "f").write_text("x")
    assert origins.hints == {"d": before}


@pytest.mark.parametrize("library", [tempfile, primitives], ids=lambda library: library.__name__)
def test_a_directory_is_not_made_by_what_is_made_in_it(origins, root, library):
    """A named temporary file opens its directory as if to create it (CPython since 3.12)."""

    def makes():
        return library.mkdtemp(dir=root)

    path = makes()
    with library.NamedTemporaryFile(dir=path), library.TemporaryFile(dir=path):
        pass
    (hint,) = origins.hints.values()
    assert "makes" in functions(hint)


@pytest.mark.parametrize("use", ["open", "touch", "connect"])
def test_what_stands_there_is_not_made_again(origins, root, use):
    """Who writes to a file did not make it; who makes it again after it went did."""
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


def test_what_lies_below_a_known_entry_needs_no_hint(root, running):
    """A large tree in an entry that was found already costs no stack."""
    origins = Origins((f"{root}/",), (), {"d": 1}, running)
    origins.on_event("os.mkdir", (f"{root}/d/e", 0o777, -1))
    assert origins.hints == {}


def test_the_first_sight_of_an_unknown_entry_is_a_hint(root, running):
    """When a tree was made unseen, who writes into it is the best guess."""
    origins = Origins((f"{root}/",), (), {}, running)
    origins.on_event("os.mkdir", (f"{root}/d/e", 0o777, -1))
    assert list(origins.hints) == ["d"]


def test_the_worker_root_itself_is_no_entry(origins, root):
    """Making the directory that exists already is nothing new in it."""
    os.makedirs(root, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(f"{root}/")
    assert origins.hints == {}


@pytest.mark.parametrize("library", [tempfile, primitives])
def test_who_needs_a_root_that_is_gone_has_it_made_again(origins, root, library):
    """Whatever is temporary finds its place; nothing else asks for it, and nobody in vain."""
    made = []

    def make_again():
        made.append(root)
        root.mkdir()

    origins.recreate = make_again
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


def test_paths_relative_to_a_descriptor_are_not_guessed(origins, root, monkeypatch):
    """Where a path begins at a descriptor nobody can say here what it means."""
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


def test_sockets_without_a_path_are_no_files(origins, root, monkeypatch):
    """A bound port is not a name in the working directory."""
    monkeypatch.chdir(root)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
    assert origins.hints == {}


# -- renaming and removing


def test_a_renamed_entry_keeps_its_maker(origins, root, running):
    """Written under another name first, it still belongs to who wrote it."""
    (root / "part").write_text("x")
    made = origins.hints["part"]
    running.owner = Owner("test", "other")
    (root / "part").rename(root / "whole")
    hint = origins.hints["whole"]
    assert hint.owner == made.owner == TEST
    assert hint.stack == made.stack
    assert hint.renamed == "part"


def test_an_entry_renamed_twice_is_known_by_its_first_name(origins, root):
    """A chain of names leads back to the first."""
    (root / "a").write_text("x")
    (root / "a").rename(root / "b")
    os.replace(root / "b", root / "c")
    assert origins.hints["c"].renamed == "a"


def test_what_is_moved_in_belongs_to_the_mover(origins, root, tmp_path):
    """Renaming something from elsewhere, or from within an entry, is adopting it."""
    (tmp_path / "elsewhere").write_text("x")
    (tmp_path / "elsewhere").rename(root / "a")
    (root / "d").mkdir()
    (root / "d" / "f").write_text("x")
    (root / "d" / "f").rename(root / "b")
    for name in ("a", "b"):
        assert origins.hints[name].renamed is None
        assert origins.hints[name].owner == TEST


def test_the_going_of_a_known_entry_is_noted(root, running):
    """An entry that goes and comes again is not the same, even with the same inode."""
    origins = Origins((f"{root}/",), (), {"known": 1, "d": 2}, running)
    for event, name in [("os.remove", "known"), ("os.rmdir", "unknown"), ("os.remove", "d/below")]:
        origins.on_event(event, (f"{root}/{name}", -1))
    assert origins.being_removed == {"known"}
    assert origins.hints == {}


def test_what_lies_below_a_name_of_other_spelling_is_nothing_new(origins, root):
    """The root itself, however it is spelled, is no entry of its own."""
    origins.on_event("os.mkdir", (f"{root}/.", 0o777, -1))
    origins.on_event("os.rename", ("/elsewhere", f"{root}/", -1, -1))
    assert origins.hints == {}


# -- outside the worker root


@pytest.mark.parametrize("make", [tempfile.mkdtemp, primitives.mkdtemp])
def test_temporary_paths_elsewhere_are_seen(origins, tmp_path, make):
    """What is made as temporary in a directory of one's own is found there too."""
    path = make(dir=tmp_path)
    assert list(origins.outside) == [path]
    assert origins.outside[path].owner == TEST
    assert origins.hints == {}


def test_other_paths_elsewhere_are_nobodys_business(origins, tmp_path):
    """What is created elsewhere by plain means is not temporary."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "f").write_text("x")
    assert origins.outside == {}


def test_excluded_directories_are_somebody_elses(origins, tmp_path):
    """Below pytest's own directories nothing is foreign; beside them it is."""
    (tmp_path / "cache").mkdir()
    origins.exclude(str(tmp_path / "cache"))
    tempfile.mkdtemp(dir=tmp_path / "cache")
    assert origins.outside == {}
    beside = tempfile.mkdtemp(prefix="cache", dir=tmp_path)
    assert list(origins.outside) == [beside]


# -- who, when and where


@pytest.mark.parametrize(
    "variable, phase",
    [
        ("t.py::test (setup)", "setup"),
        ("t.py::test[a (call)] (teardown)", "teardown"),
        ("t.py::test (call)", "call"),
        ("nonsense", None),
        (None, None),
    ],
)
def test_the_phase_of_a_test_is_what_pytest_says(
    origins, root, running, monkeypatch, variable, phase
):
    """Where no fixture runs, pytest's own variable tells the phase, if it is there."""
    running.phase = None
    if variable is None:
        monkeypatch.delenv("PYTEST_CURRENT_TEST")
    else:
        monkeypatch.setenv("PYTEST_CURRENT_TEST", variable)
    module._forward("os.mkdir", (str(root / "x"), 0o777, -1))
    assert origins.hints["x"].phase == phase


def test_a_thread_is_seen_with_its_own_stack(origins, root):
    """What a thread makes belongs to the test that runs, on the thread's own lines."""

    def in_a_thread():
        os.mkdir(root / "x")

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    names = functions(origins.hints["x"])
    assert names[0] == "in_a_thread"
    assert "test_a_thread_is_seen_with_its_own_stack" not in names


def test_generated_code_is_on_the_stack(origins, root):
    """Code made by `exec` stands on the stack by the name of its file."""
    code = compile("def f(): os.mkdir(path)\nf()", "<generated>", "exec")
    exec(code, {"os": os, "path": root / "x"})
    files = [frame.co_filename for frame, _ in origins.hints["x"].stack]
    assert files[:3] == ["<generated>", "<generated>", __file__]


def called_from(filename, function):
    """Call *function* from code that says it stands in *filename*."""
    exec(compile("def call(): function()\ncall()", filename, "exec"), {"function": function})


def test_a_stack_ends_where_pytest_begins(origins, root):
    """What called the test is pytest's own way there, plugins' frames included."""

    def a_test():
        (root / "x").mkdir()

    called_from(os.path.join("lib", "_pytest", "runner.py"), a_test)
    assert functions(origins.hints["x"])[-1] == "a_test"
    # Only pytest's own file is meant, not that of a package whose name ends so.
    called_from(os.path.join("my_pytest", "runner.py"), (root / "y").mkdir)
    assert "test_a_stack_ends_where_pytest_begins" in functions(origins.hints["y"])


def test_a_deep_stack_is_cut_at_a_hundred_frames(origins, root):
    """A recursion costs no more than its nearest hundred frames."""

    def dive(depth):
        if depth:
            dive(depth - 1)
        else:
            os.mkdir(root / "x")

    dive(300)
    assert functions(origins.hints["x"]) == ["dive"] * 100


def test_a_stack_that_is_used_up_does_not_break_the_call(origins, root):
    """At the limit of recursion there may be no hint, but the file is made."""
    made = []

    def dive(depth):
        try:
            dive(depth + 1)
        except RecursionError:
            if not made:
                os.mkdir(root / str(depth))
                made.append(str(depth))

    dive(0)
    assert os.listdir(root) == made


@pytest.mark.parametrize(
    "command, said",
    [
        ([sys.executable, "-c", ""], f"{PYTHON} -c ''"),
        ((sys.executable, Path("-h")), f"{PYTHON} -h"),
        ([os.fsencode(sys.executable), b"-c\xff", ""], f"{PYTHON} '-c\udcff' ''"),
        ("exit 0", "sh -c 'exit 0'"),
    ],
)
def test_the_last_command_is_remembered(origins, command, said):
    """What a subprocess made can be told from the last command, as far as anybody knows."""
    subprocess.run(command, shell=isinstance(command, str), capture_output=True, check=False)
    assert origins.processes.last_command == said


def test_a_command_that_is_no_text_breaks_nothing(origins):
    """A wrong argument is refused by `subprocess`, and by nobody else."""
    with pytest.raises(TypeError, match="str, bytes"):
        subprocess.run([sys.executable, 7], check=False)
    assert origins.processes.last_command == f"{PYTHON} …"


# -- the hook


def test_only_the_innermost_session_listens(origins, root, running):
    """A session inside another one takes over for its time, and gives back."""
    inner = Origins((f"{root}/",), (), {}, running)
    activate(inner)
    os.mkdir(root / "a")
    deactivate(inner)
    os.mkdir(root / "b")
    assert list(inner.hints) == ["a"]
    assert list(origins.hints) == ["b"]


def test_sessions_may_end_in_any_order(origins, root, running):
    """An outer session that ends first does not take the inner one's ears."""
    inner = Origins((f"{root}/",), (), {}, running)
    activate(inner)
    deactivate(origins)
    os.mkdir(root / "a")
    deactivate(inner)
    deactivate(inner)
    assert list(inner.hints) == ["a"]
    assert origins.hints == {}


def test_without_a_session_the_hook_does_nothing(origins, root, monkeypatch):
    """A hook cannot be taken back, but it can be deaf."""
    monkeypatch.setattr(module, "_active", [])
    os.mkdir(root / "a")
    assert origins.hints == {}


def test_only_a_session_that_goes_on_listens(origins):
    """Outside of sessions no event is looked at, and nothing is held."""
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
    """Whatever an event carries, the call under test goes on."""
    sys.audit(event, *args)
    assert origins.hints == {}


def test_a_working_directory_that_is_gone_breaks_nothing(origins, tmp_path, monkeypatch):
    """Without a working directory a relative path means nothing, and the system says so."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError):
        os.mkdir("x")
    assert origins.hints == {}
