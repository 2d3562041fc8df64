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
from pytest_tempres.leaks.deferred import delete_open_files
from pytest_tempres.leaks.deferred import removed_at_exit

LIBRARIES = [tempfile, primitives]


class FakeAtexit:
    """Records callbacks, and never runs them."""

    def __init__(self) -> None:
        self.registered: list[tuple[object, ...]] = []

    def register(self, func, /, *args, **kwargs):
        """Record a callback."""
        self.registered.append((func, args, kwargs))
        return func

    def unregister(self, func):
        """Remove a callback."""
        self.registered = [each for each in self.registered if each[0] != func]


@pytest.fixture
def fake_atexit() -> FakeAtexit:
    """A replacement for `atexit`."""
    return FakeAtexit()


@pytest.fixture
def callbacks(fake_atexit) -> ExitCallbacks:
    """The wrapper of `fake_atexit`."""
    return ExitCallbacks(fake_atexit.register, fake_atexit.unregister)


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.__name__.rpartition(".")[2])
def library(request):
    """The standard library's tempfile, or `pytest_tempres.primitives`."""
    return request.param


@pytest.fixture
def place(tmp_path) -> str:
    """The directory for temporary paths."""
    return str(tmp_path)


GLOBAL = "/t/x"


def closure_over(path):
    """Return a function that has *path* in its closure."""
    return lambda: shutil.rmtree(path)


class Server:
    """An object with a method that removes its path."""

    def __init__(self, path) -> None:
        self.path = path

    def stop(self):
        """Remove the path."""
        shutil.rmtree(self.path)


# -- exit callbacks


def test_a_callback_is_registered_unchanged(callbacks, fake_atexit):
    """The wrapper passes on all arguments."""
    assert callbacks.register(shutil.rmtree, "/x", ignore_errors=True) is shutil.rmtree
    assert fake_atexit.registered == [(shutil.rmtree, ("/x",), {"ignore_errors": True})]


def test_register_works_as_a_decorator(callbacks, fake_atexit):
    """It returns the function."""

    @callbacks.register
    def clean_up():
        pass

    assert fake_atexit.registered == [(clean_up, (), {})]
    assert set(callbacks.scheduled_removals()) == set()


def test_an_argument_may_be_called_func(callbacks, fake_atexit):
    """Keywords of a callback do not collide with parameters of the wrapper."""
    callbacks.register(dict, self="/a", func="/b")
    assert fake_atexit.registered == [(dict, (), {"self": "/a", "func": "/b"})]
    assert set(callbacks.scheduled_removals()) == {"/a", "/b"}


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
    """They may be str, bytes, path objects, or in collections and partials."""
    callbacks.register(print, *arguments, **keywords)
    assert set(callbacks.scheduled_removals()) == {"/t/x"}


@pytest.mark.parametrize(
    "func",
    [
        functools.partial(shutil.rmtree, "/t/x"),
        functools.partial(functools.partial(shutil.rmtree), "/t/x", True),
        Path("/t/x").unlink,
        functools.partial(Path("/t/x").unlink, missing_ok=True),
        lambda path="/t/x": shutil.rmtree(path),
        lambda *, path="/t/x": shutil.rmtree(path),
        closure_over("/t/x"),
        closure_over(["/t/x"]),
        lambda: shutil.rmtree(GLOBAL),
        functools.partial(lambda: shutil.rmtree(GLOBAL)),
        Server("/t/x").stop,
    ],
)
def test_paths_are_found_in_the_callback_itself(callbacks, func):
    """Partials, methods, closures, defaults and globals count."""
    callbacks.register(func)
    assert set(callbacks.scheduled_removals()) == {"/t/x"}


def test_paths_are_read_when_they_are_needed(callbacks):
    """A list may be filled, and a name assigned, after registration."""
    to_remove = []

    def clean_up():
        shutil.rmtree(later)

    callbacks.register(print, to_remove)
    callbacks.register(clean_up)
    assert set(callbacks.scheduled_removals()) == set()
    to_remove.append("/t/x")
    later = "/t/y"
    assert set(callbacks.scheduled_removals()) == {"/t/x", "/t/y"}


def test_working_and_temp_directory_are_never_scheduled_for_removal(
    fake_atexit, tmp_path, monkeypatch
):
    """A callback may refer to them for other reasons."""
    monkeypatch.chdir(tmp_path)
    callbacks = ExitCallbacks(fake_atexit.register, fake_atexit.unregister)
    callbacks.register(os.chdir, os.getcwd())
    callbacks.register(os.chdir, "/")
    callbacks.register(print, tempfile.gettempdir(), os.path.dirname(tmp_path))
    assert set(callbacks.scheduled_removals()) == set()
    callbacks.register(print, f"{tmp_path}/x")
    assert set(callbacks.scheduled_removals()) == {f"{tmp_path}/x"}


@pytest.mark.parametrize("argument", ["relative", "", b"", ".", 3, None, [], [[["/too/deep"]]]])
def test_other_arguments_are_not_taken_for_paths(callbacks, argument):
    """Only absolute paths count."""
    callbacks.register(print, argument)
    assert set(callbacks.scheduled_removals()) == set()


class Unbound:
    """An object that raises on every access, like an unbound proxy."""

    @property
    def __class__(self):
        """Raise."""
        raise RuntimeError("unbound")

    def __getattr__(self, name):
        """Raise."""
        raise RuntimeError("unbound")


class BrokenPath(os.PathLike):
    """A path object that raises."""

    def __fspath__(self):
        """Raise."""
        raise ValueError("no path")


@pytest.mark.parametrize("make", [Unbound, BrokenPath, lambda: "\0", lambda: "/\ud800"])
def test_a_callback_with_broken_arguments_is_registered(callbacks, fake_atexit, make):
    """Errors while paths are searched are ignored."""
    callbacks.register(print, "/t/x", make())
    assert len(fake_atexit.registered) == 1
    assert "/t/x" in set(callbacks.scheduled_removals())


def test_paths_of_an_unregistered_callback_do_not_count(callbacks, fake_atexit):
    """Only the callbacks that are still registered count."""
    callbacks.register(shutil.rmtree, "/a")
    callbacks.register(shutil.rmtree, "/b")
    callbacks.register(os.unlink, "/c")
    path = Path("/d")
    callbacks.register(path.unlink)
    callbacks.unregister(shutil.rmtree)
    callbacks.unregister(path.unlink)
    callbacks.unregister(print)
    assert set(callbacks.scheduled_removals()) == {"/c"}
    assert [func for func, _, _ in fake_atexit.registered] == [os.unlink]


def test_errors_of_register_reach_the_caller(callbacks):
    """`atexit` rejects what is not callable."""

    def refuse(func, *args, **kwargs):
        raise TypeError("the first argument must be callable")

    with pytest.raises(TypeError, match="callable"):
        ExitCallbacks(refuse, refuse).register(7)


# -- live objects


def test_a_live_directory_is_scheduled_for_removal(library, place):
    """It is until `cleanup` is called."""
    directory = library.TemporaryDirectory(dir=place)
    assert directory.name in removed_at_exit(None)
    directory.cleanup()
    assert directory.name not in removed_at_exit(None)


def test_a_live_file_is_scheduled_for_removal(library, place):
    """It is until the file is closed."""
    file = library.NamedTemporaryFile(dir=place)
    assert file.name in removed_at_exit(None)
    file.close()
    assert file.name not in removed_at_exit(None)


def test_a_file_with_delete_false_is_not_scheduled(library, place):
    """The caller has to remove it."""
    with library.NamedTemporaryFile(dir=place, delete=False) as file:
        assert file.name not in removed_at_exit(None)
    os.unlink(file.name)


def test_a_directory_with_delete_false_is_not_scheduled(place):
    """The option is new in Python 3.12."""
    directory = primitives.TemporaryDirectory(dir=place, delete=False)
    assert directory.name not in removed_at_exit(None)
    directory.delete = True
    assert directory.name in removed_at_exit(None)
    directory.cleanup()


def test_bytes_paths_are_decoded(library, place):
    """Paths are compared as text."""
    file = library.NamedTemporaryFile(dir=os.fsencode(place))
    directory = primitives.TemporaryDirectory(dir=os.fsencode(place))
    assert {os.fsdecode(file.name), os.fsdecode(directory.name)} <= removed_at_exit(None)
    file.close()
    directory.cleanup()


def test_a_relative_path_is_made_absolute(library, place, monkeypatch):
    """Older Pythons keep a relative name."""
    monkeypatch.chdir(place)
    directory = library.TemporaryDirectory(dir=".")
    assert os.path.join(place, os.path.basename(directory.name)) in removed_at_exit(None)
    directory.cleanup()


def test_instances_of_subclasses_are_found(place):
    """A subclass of a temporary directory cleans up too."""

    class Mine(tempfile.TemporaryDirectory):
        def delete(self):
            """Have the name of an option."""

    mine = Mine(dir=place)
    assert mine.name in removed_at_exit(None)
    mine.cleanup()
    assert mine.name not in removed_at_exit(None)


def test_live_directories_are_yielded_newest_first(library, place):
    """Removed ones are left out."""
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


def test_a_live_directory_that_is_detached_later_is_left_out(place):
    """The cache must not keep it."""
    live = LiveDirectories()
    directory = primitives.TemporaryDirectory(dir=place)
    for wanted in (True, False, True):
        directory.delete = wanted
        assert (directory.name in live.scheduled_removals()) == wanted
    directory.cleanup()


def test_removed_directories_are_dropped_from_the_cache(library, place, monkeypatch):
    """The cache must not grow for ever."""
    monkeypatch.setattr(module, "_MAX_DEAD", 1)
    live = LiveDirectories()
    alive = len(module._finalizers())
    for _ in range(3 * (alive + 2)):
        with library.TemporaryDirectory(dir=place):
            list(live.scheduled_removals())
    assert len(live._paths) <= 2 * (alive + 2)


def test_partially_initialized_objects_are_ignored(place):
    """A constructor may have failed."""
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


def test_a_directory_with_a_detached_finalizer_is_not_scheduled(place):
    """It will not be removed."""
    directory = tempfile.TemporaryDirectory(dir=place)
    directory._finalizer.detach()
    assert directory.name not in removed_at_exit(None)


def test_paths_of_callbacks_and_objects_are_one_set(callbacks, place):
    """It does not matter what removes a path."""
    callbacks.register(shutil.rmtree, "/t/x")
    with tempfile.TemporaryDirectory(dir=place) as path:
        assert {"/t/x", path} <= removed_at_exit(callbacks)


# -- at exit


def test_paths_of_a_finalizer_that_runs_at_exit_count(callbacks, place):
    """`weakref.finalize` has an `atexit` attribute."""

    class Holder:
        pass

    holder = Holder()
    paths = [os.path.join(place, name) for name in ("kept", "dropped", "run")]
    finalizers = [weakref.finalize(holder, shutil.rmtree, path, True) for path in paths]
    finalizers[1].atexit = False
    finalizers[2].detach()
    assert {path for path in set(callbacks.scheduled_removals()) if path.startswith(place)} == {
        paths[0]
    }


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the standard library's has no such option")
def test_the_finalizer_of_a_directory_with_delete_false_does_not_count(callbacks, place):
    """It removes nothing."""
    made = [library.TemporaryDirectory(dir=place, delete=False) for library in LIBRARIES]
    assert not {each.name for each in made} & removed_at_exit(callbacks)


def test_open_files_in_a_root_are_deleted(library, place, tmp_path):
    """Other files stay open."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root2").mkdir()
    inside = library.NamedTemporaryFile(dir=tmp_path / "root")
    beside = library.NamedTemporaryFile(dir=tmp_path / "root2")
    kept = library.NamedTemporaryFile(dir=tmp_path / "root", delete=False)
    delete_open_files(str(tmp_path / "root"))
    assert not os.path.exists(inside.name)
    assert os.path.exists(beside.name)
    assert os.path.exists(kept.name)
    inside.close()
    beside.close()
    kept.close()


def test_an_error_does_not_keep_other_files_open(library, place):
    """One file must not keep the others."""
    stuck = library.NamedTemporaryFile(dir=place)
    other = library.NamedTemporaryFile(dir=place)
    os.unlink(stuck.name)
    os.mkdir(stuck.name)
    delete_open_files(place)
    assert not os.path.exists(other.name)
    assert os.path.isdir(stuck.name)


def test_the_private_class_of_tempfile_still_exists():
    """CPython may rename it."""
    assert len(module._CLOSERS) == 2
