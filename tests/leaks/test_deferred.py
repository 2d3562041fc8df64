from __future__ import annotations

import functools
import os
from pathlib import Path
import shutil
import sys
import tempfile
import weakref

import pytest

from pytest_tempres import primitives
from pytest_tempres.leaks import deferred as module
from pytest_tempres.leaks.deferred import ExitCallbacks
from pytest_tempres.leaks.deferred import LiveDirectories
from pytest_tempres.leaks.deferred import removed_at_exit
from pytest_tempres.leaks.deferred import settle

LIBRARIES = [tempfile, primitives]


class Exit:
    """An exit of the interpreter that never comes."""

    def __init__(self) -> None:
        self.registered: list[tuple[object, ...]] = []

    def register(self, func, /, *args, **kwargs):
        """Note what is to be called."""
        self.registered.append((func, args, kwargs))
        return func

    def unregister(self, func):
        """Forget it."""
        self.registered = [each for each in self.registered if each[0] != func]


@pytest.fixture
def exit_() -> Exit:
    """What stands in for `atexit`."""
    return Exit()


@pytest.fixture
def callbacks(exit_) -> ExitCallbacks:
    """What stands before `atexit`."""
    return ExitCallbacks(exit_.register, exit_.unregister)


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.__name__.rpartition(".")[2])
def library(request):
    """The standard library's tempfile, or ours."""
    return request.param


@pytest.fixture
def place(tmp_path) -> str:
    """Where temporary things are made."""
    return str(tmp_path)


GLOBAL = "/t/x"


def around(path):
    """Return a function that knows *path* from outside."""
    return lambda: shutil.rmtree(path)


class Server:
    """Something that cleans up behind itself."""

    def __init__(self, path) -> None:
        self.path = path

    def stop(self):
        """Clean up."""
        shutil.rmtree(self.path)


# -- exit callbacks


def test_a_callback_is_registered_as_it_was_given(callbacks, exit_):
    """What stands before `atexit` changes nothing of what is called at exit."""
    assert callbacks.register(shutil.rmtree, "/x", ignore_errors=True) is shutil.rmtree
    assert exit_.registered == [(shutil.rmtree, ("/x",), {"ignore_errors": True})]


def test_register_serves_as_a_decorator(callbacks, exit_):
    """`@atexit.register` gives the function back."""

    @callbacks.register
    def clean_up():
        pass

    assert exit_.registered == [(clean_up, (), {})]
    assert callbacks.paths() == set()


def test_an_argument_may_be_called_func(callbacks, exit_):
    """No keyword of a callback collides with a parameter of ours."""
    callbacks.register(dict, self="/a", func="/b")
    assert exit_.registered == [(dict, (), {"self": "/a", "func": "/b"})]
    assert callbacks.paths() == {"/a", "/b"}


@pytest.mark.parametrize(
    "arguments, keywords",
    [
        (("/t/x",), {}),
        ((b"/t/x",), {}),
        ((Path("/t/x"),), {}),
        (("/t/x/",), {}),
        (("/t//y/../x",), {}),
        ((), {"path": "/t/x"}),
        ((["/t/x"],), {}),
        ((("a", {"/t/x"}),), {}),
        (({"path": "/t/x"},), {}),
        (({"/t/x": 1},), {}),
        ((functools.partial(shutil.rmtree, "/t/x"),), {}),
        ((functools.partial(shutil.rmtree, path="/t/x"),), {}),
        ((Path("/t/x").rmdir,), {}),
        ((1, None, object(), "/t/x"), {}),
    ],
)
def test_paths_are_found_in_arguments(callbacks, arguments, keywords):
    """A path counts as text, as bytes, as an object, in a collection and in a partial."""
    callbacks.register(print, *arguments, **keywords)
    assert callbacks.paths() == {"/t/x"}


@pytest.mark.parametrize(
    "func",
    [
        functools.partial(shutil.rmtree, "/t/x"),
        functools.partial(functools.partial(shutil.rmtree), "/t/x", True),
        Path("/t/x").unlink,
        functools.partial(Path("/t/x").unlink, missing_ok=True),
        lambda path="/t/x": shutil.rmtree(path),
        lambda *, path="/t/x": shutil.rmtree(path),
        around("/t/x"),
        around(["/t/x"]),
        lambda: shutil.rmtree(GLOBAL),
        functools.partial(lambda: shutil.rmtree(GLOBAL)),
        Server("/t/x").stop,
    ],
)
def test_paths_are_found_in_the_callback_itself(callbacks, func):
    """Partials, methods, closures, defaults and globals bring their paths along."""
    callbacks.register(func)
    assert callbacks.paths() == {"/t/x"}


def test_paths_are_those_of_the_moment(callbacks):
    """A list that fills later, and a name that is assigned later, count with what they hold."""
    to_remove = []

    def clean_up():
        shutil.rmtree(later)

    callbacks.register(print, to_remove)
    callbacks.register(clean_up)
    assert callbacks.paths() == set()
    to_remove.append("/t/x")
    later = "/t/y"
    assert callbacks.paths() == {"/t/x", "/t/y"}


def test_where_the_process_stands_is_no_promise(exit_, tmp_path, monkeypatch):
    """A callback that knows the project or the temp directory does not excuse all in it."""
    monkeypatch.chdir(tmp_path)
    callbacks = ExitCallbacks(exit_.register, exit_.unregister)
    callbacks.register(os.chdir, os.getcwd())
    callbacks.register(os.chdir, "/")
    callbacks.register(print, tempfile.gettempdir(), os.path.dirname(tmp_path))
    assert callbacks.paths() == set()
    callbacks.register(print, f"{tmp_path}/x")
    assert callbacks.paths() == {f"{tmp_path}/x"}


@pytest.mark.parametrize("argument", ["relative", "", b"", ".", 3, None, [], [[["/too/deep"]]]])
def test_what_is_no_absolute_path_promises_nothing(callbacks, argument):
    """Other arguments are not taken for paths."""
    callbacks.register(print, argument)
    assert callbacks.paths() == set()


class Unbound:
    """An object that refuses every question, as a proxy without its context does."""

    @property
    def __class__(self):
        """Refuse to be an instance of anything."""
        raise RuntimeError("unbound")

    def __getattr__(self, name):
        """Refuse to have anything."""
        raise RuntimeError("unbound")


class Lying(os.PathLike):
    """A path that is none."""

    def __fspath__(self):
        """Refuse to be text."""
        raise ValueError("no path")


@pytest.mark.parametrize("make", [Unbound, Lying, lambda: "\0", lambda: "/\ud800"])
def test_odd_arguments_break_nothing(callbacks, exit_, make):
    """Whatever a callback is given, it is registered."""
    callbacks.register(print, "/t/x", make())
    assert len(exit_.registered) == 1
    assert "/t/x" in callbacks.paths()


def test_unregistering_takes_the_promise_back(callbacks, exit_):
    """A path is promised as long as its callback stands."""
    callbacks.register(shutil.rmtree, "/a")
    callbacks.register(shutil.rmtree, "/b")
    callbacks.register(os.unlink, "/c")
    path = Path("/d")
    callbacks.register(path.unlink)
    callbacks.unregister(shutil.rmtree)
    callbacks.unregister(path.unlink)
    callbacks.unregister(print)
    assert callbacks.paths() == {"/c"}
    assert [func for func, _, _ in exit_.registered] == [os.unlink]


def test_what_cannot_be_registered_is_an_error_as_before(callbacks):
    """The error of `atexit` reaches the caller."""

    def refuse(func, *args, **kwargs):
        raise TypeError("the first argument must be callable")

    with pytest.raises(TypeError, match="callable"):
        ExitCallbacks(refuse, refuse).register(7)


# -- live objects


def test_a_live_directory_is_promised(library, place):
    """A directory object removes its directory when it goes, until it is cleaned up."""
    directory = library.TemporaryDirectory(dir=place)
    assert directory.name in removed_at_exit(None)
    directory.cleanup()
    assert directory.name not in removed_at_exit(None)


def test_a_live_file_is_promised(library, place):
    """A named file removes its path when it is closed, and promises nothing afterwards."""
    file = library.NamedTemporaryFile(dir=place)
    assert file.name in removed_at_exit(None)
    file.close()
    assert file.name not in removed_at_exit(None)


def test_a_file_that_deletes_nothing_promises_nothing(library, place):
    """What was made with delete=False is for its maker to remove."""
    with library.NamedTemporaryFile(dir=place, delete=False) as file:
        assert file.name not in removed_at_exit(None)
    os.unlink(file.name)


def test_a_directory_that_deletes_nothing_promises_nothing(place):
    """A directory made with delete=False is for its maker to remove, from Python 3.12 on."""
    directory = primitives.TemporaryDirectory(dir=place, delete=False)
    assert directory.name not in removed_at_exit(None)
    directory.delete = True
    assert directory.name in removed_at_exit(None)
    directory.cleanup()


def test_bytes_are_promised_as_text(library, place):
    """Paths are compared as text, whatever they were made from."""
    file = library.NamedTemporaryFile(dir=os.fsencode(place))
    directory = primitives.TemporaryDirectory(dir=os.fsencode(place))
    assert {os.fsdecode(file.name), os.fsdecode(directory.name)} <= removed_at_exit(None)
    file.close()
    directory.cleanup()


def test_a_relative_path_is_promised_by_its_full_name(library, place, monkeypatch):
    """Older Pythons keep a relative name; what it means now is what will be removed."""
    monkeypatch.chdir(place)
    directory = library.TemporaryDirectory(dir=".")
    assert os.path.join(place, os.path.basename(directory.name)) in removed_at_exit(None)
    directory.cleanup()


def test_instances_of_subclasses_promise_too(place):
    """A class of one's own that is a temporary directory cleans up like one."""

    class Mine(tempfile.TemporaryDirectory):
        def delete(self):
            """Have nothing to do with the argument of that name."""

    mine = Mine(dir=place)
    assert mine.name in removed_at_exit(None)
    mine.cleanup()
    assert mine.name not in removed_at_exit(None)


def test_live_directories_are_told_youngest_first(library, place):
    """What a test has just made is found at once, and one that is gone is told of no more."""
    live = LiveDirectories()
    made = [library.TemporaryDirectory(dir=place) for _ in range(3)]
    names = [each.name for each in reversed(made)]
    assert [path for path in live.scheduled_removals() if path in names] == names
    made[1].cleanup()
    younger = library.TemporaryDirectory(dir=place)
    names = [younger.name, names[0], names[2]]
    assert [path for path in live.scheduled_removals() if path.startswith(place)] == names
    for each in (made[0], made[2], younger):
        each.cleanup()


def test_a_live_directory_may_change_its_mind(place):
    """One that was asked before is not taken at its word."""
    live = LiveDirectories()
    directory = primitives.TemporaryDirectory(dir=place)
    for wanted in (True, False, True):
        directory.delete = wanted
        assert (directory.name in live.scheduled_removals()) == wanted
    directory.cleanup()


def test_directories_that_are_gone_are_forgotten(library, place, monkeypatch):
    """A suite that makes many needs no more memory for those that it has removed."""
    monkeypatch.setattr(module, "_MAX_DEAD", 1)
    live = LiveDirectories()
    alive = len(module._finalizers())
    for _ in range(3 * (alive + 2)):
        with library.TemporaryDirectory(dir=place):
            list(live.scheduled_removals())
    assert len(live._paths) <= 2 * (alive + 2)


def test_half_made_objects_break_nothing(place):
    """An object whose construction failed, or that has other ideas, is passed over."""
    nameless = tempfile.TemporaryDirectory(dir=place)
    name = nameless.name
    del nameless.name
    half = tempfile.TemporaryDirectory.__new__(tempfile.TemporaryDirectory)
    other = tempfile.TemporaryDirectory(dir=place)
    found = removed_at_exit(None)
    assert other.name in found
    assert name not in found
    other.cleanup()
    nameless.name = name
    nameless.cleanup()
    del half


def test_a_detached_finalizer_promises_nothing(place):
    """Who detached the finalizer has taken the promise back."""
    directory = tempfile.TemporaryDirectory(dir=place)
    directory._finalizer.detach()
    assert directory.name not in removed_at_exit(None)


def test_callbacks_and_objects_promise_together(callbacks, place):
    """What somebody will remove is one set, whoever will."""
    callbacks.register(shutil.rmtree, "/t/x")
    with tempfile.TemporaryDirectory(dir=place) as path:
        assert {"/t/x", path} <= removed_at_exit(callbacks)


# -- at exit


def test_a_finalizer_that_runs_at_exit_promises(callbacks, place):
    """`weakref.finalize` calls at exit what it was given, unless it is told not to."""

    class Holder:
        pass

    holder = Holder()
    paths = [os.path.join(place, name) for name in ("kept", "dropped", "run")]
    finalizers = [weakref.finalize(holder, shutil.rmtree, path, True) for path in paths]
    finalizers[1].atexit = False
    finalizers[2].detach()
    assert {path for path in callbacks.paths() if path.startswith(place)} == {paths[0]}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the standard library's has no such option")
def test_the_finalizer_of_a_directory_that_stays_promises_nothing(callbacks, place):
    """Its finalizer runs at exit and removes nothing."""
    made = [library.TemporaryDirectory(dir=place, delete=False) for library in LIBRARIES]
    assert not {each.name for each in made} & removed_at_exit(callbacks)


def test_settling_lets_go_of_files_in_a_root(library, place, tmp_path):
    """Files still open in a root go at exit, before the root does; others are left alone."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root2").mkdir()
    inside = library.NamedTemporaryFile(dir=tmp_path / "root")
    beside = library.NamedTemporaryFile(dir=tmp_path / "root2")
    kept = library.NamedTemporaryFile(dir=tmp_path / "root", delete=False)
    settle(str(tmp_path / "root"))
    assert not os.path.exists(inside.name)
    assert os.path.exists(beside.name)
    assert os.path.exists(kept.name)
    inside.close()
    beside.close()
    kept.close()


def test_settling_survives_what_cannot_be_removed(library, place):
    """A file that cannot go does not keep the others from it."""
    stuck = library.NamedTemporaryFile(dir=place)
    other = library.NamedTemporaryFile(dir=place)
    os.unlink(stuck.name)
    os.mkdir(stuck.name)
    settle(place)
    assert not os.path.exists(other.name)
    assert os.path.isdir(stuck.name)


def test_the_standard_librarys_own_closer_is_known():
    """Should CPython rename its private class, this test says so before users do."""
    assert len(module._CLOSERS) == 2
