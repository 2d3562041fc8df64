from __future__ import annotations

import gc
import os
from pathlib import Path
import types
import warnings
import weakref

import pytest

from pytest_tempres import primitives
from pytest_tempres.exceptions import RemovalError
from pytest_tempres.primitives import _directory
from pytest_tempres.primitives._rmtree import Failure


@pytest.fixture
def fail_to_remove(monkeypatch):
    """Let every removal fail with the given error."""

    def make(error: OSError) -> None:
        monkeypatch.setattr(
            _directory, "remove_tree", lambda name: [Failure(f"{os.fsdecode(name)}/x", error)]
        )

    return make


class TestContext:
    @pytest.mark.parametrize("kind", [str, os.fsencode])
    def test_removed(self, kind, place):
        """The block gets the path, in the caller's type; at its end the whole tree is removed."""
        with primitives.TemporaryDirectory(dir=kind(place)) as path:
            assert type(path) is type(kind(place))
            (place / os.fsdecode(path) / "a" / "b").mkdir(parents=True)
        assert not os.path.exists(path)

    def test_repr(self, place):
        """The repr is that of CPython."""
        with primitives.TemporaryDirectory() as path:
            pass
        directory = primitives.TemporaryDirectory()
        assert repr(directory) == f"<TemporaryDirectory {directory.name!r}>"
        assert path != directory.name
        directory.cleanup()

    def test_cleanup_any_number_of_times(self, place):
        """It is no error if the directory was already removed, by `cleanup` or otherwise."""
        directory = primitives.TemporaryDirectory()
        directory.cleanup()
        directory.cleanup()
        with primitives.TemporaryDirectory() as path:
            os.rmdir(path)

    def test_generic(self):
        """The class can be subscripted, as in CPython."""
        assert isinstance(primitives.TemporaryDirectory[str], types.GenericAlias)

    def test_file_in_place_of_the_directory(self, place):
        """A file that replaced the directory is removed too."""
        with primitives.TemporaryDirectory() as path:
            os.rmdir(path)
            Path(path).touch()


class TestDelete:
    """gh-128397: the attribute `delete` can be changed."""

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("last", [True, False])
    @pytest.mark.parametrize("how", ["context", "collected"])
    def test_last_value_applies(self, first, last, how, place):
        """The `with` block and the finalizer use the last value of `delete`."""
        directory = primitives.TemporaryDirectory(delete=first)
        directory.delete = last
        assert directory.delete is last
        path = directory.name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if how == "context":
                with directory:
                    pass
            del directory
            gc.collect()
        assert os.path.exists(path) is not last
        if not last:
            os.rmdir(path)

    def test_explicit_cleanup(self, place):
        """`cleanup` removes the directory even if `delete` is false."""
        directory = primitives.TemporaryDirectory(delete=False)
        directory.cleanup()
        assert not os.path.exists(directory.name)

    def test_change_after_the_end(self, place):
        """Setting `delete` after the cleanup does not create a new finalizer."""
        directory = primitives.TemporaryDirectory()
        directory.cleanup()
        directory.delete = False
        directory.delete = True
        assert not directory._finalizer.alive

    def test_finalizer_can_be_read(self, place):
        """The arguments of a live finalizer have the path to remove, as in CPython."""
        directory = primitives.TemporaryDirectory()
        owner, function, arguments, keywords = directory._finalizer.peek()
        assert owner is directory
        assert function.__qualname__ == "TemporaryDirectory._cleanup"
        assert arguments == (directory.name,)
        assert keywords["delete"]
        directory.delete = False
        assert not directory._finalizer.peek()[3]["delete"]
        directory.cleanup()


class TestNotCleanedUp:
    def test_warning(self, place):
        """A directory without cleanup is removed when collected, with CPython's warning."""
        directory = primitives.TemporaryDirectory()
        described = f"^Implicitly cleaning up {directory!r}$"
        with pytest.warns(ResourceWarning, match=described):
            del directory

    def test_weak_reference(self, place):
        """The object supports weak references."""
        with primitives.TemporaryDirectory():
            directory = primitives.TemporaryDirectory()
            assert weakref.ref(directory)() is directory
            directory.cleanup()

    def test_creation_failed(self, tmp_path):
        """A failed creation raises one error, and nothing when the object is collected."""
        with pytest.raises(FileNotFoundError) as caught:
            primitives.TemporaryDirectory(dir=tmp_path / "missing")
        assert caught.value.filename.startswith(str(tmp_path / "missing"))

    @pytest.mark.parametrize("module", ["builtins", "os", "sys", "weakref", "tempfile"])
    def test_interpreter_exit(self, module, python, tmp_path):
        """At exit it is removed with a warning and no traceback, whichever module refers to it."""
        out, err = python(
            f"""
import builtins, os, sys, weakref
from pytest_tempres import primitives as tempfile
{module}.kept = tempfile.TemporaryDirectory(dir={str(tmp_path)!r})
os.makedirs({module}.kept.name + "/a/b")
print({module}.kept.name)
"""
        )
        assert not os.path.exists(out.strip())
        assert "ResourceWarning: Implicitly cleaning up" in err
        assert "Traceback" not in err


class TestFork:
    def test_child_leaves_it_to_the_parent(self, place, in_child):
        """A child that leaves the `with` block or runs the finalizer removes nothing."""

        def leave():
            directory.__exit__(None, None, None)

        def end():
            directory._finalizer()

        for act in (leave, end):
            directory = primitives.TemporaryDirectory()
            assert in_child(lambda act=act: act() is None)
            assert os.path.exists(directory.name)
            directory.cleanup()

    def test_explicit_cleanup_in_child(self, place, in_child):
        """A child, such as a daemon, can remove the directory with `cleanup`."""
        directory = primitives.TemporaryDirectory()
        assert in_child(lambda: directory.cleanup() is None)
        assert not os.path.exists(directory.name)
        directory.cleanup()


class TestErrors:
    def test_lists_what_is_left(self, fail_to_remove, place):
        """The error has the path, and each remaining path with the reason."""
        directory = primitives.TemporaryDirectory()
        reason = OSError(39, "Directory not empty")
        fail_to_remove(reason)
        with pytest.raises(
            RemovalError, match=r"could not remove .*/x: Directory not empty"
        ) as caught:
            directory.cleanup()
        assert caught.value.path == directory.name
        assert caught.value.remaining == [(f"{directory.name}/x", reason)]
        assert caught.value.errno == 39
        assert not isinstance(caught.value, PermissionError)
        os.rmdir(directory.name)

    def test_denied(self, fail_to_remove, place):
        """Code that catches PermissionError, which CPython raises, catches our error too."""
        fail_to_remove(PermissionError(13, "denied"))
        directory = primitives.TemporaryDirectory()
        with pytest.raises(PermissionError) as caught:
            directory.cleanup()
        assert isinstance(caught.value, RemovalError)
        os.rmdir(directory.name)

    @pytest.mark.parametrize("how", ["cleanup", "context", "collected"])
    @pytest.mark.filterwarnings("ignore:Implicitly")
    def test_ignored(self, how, fail_to_remove, place):
        """gh-135812: `ignore_cleanup_errors` ignores all errors."""
        fail_to_remove(PermissionError(13, "denied"))
        directory = primitives.TemporaryDirectory(ignore_cleanup_errors=True)
        name = directory.name
        if how == "cleanup":
            directory.cleanup()
        elif how == "context":
            with directory:
                pass
        del directory
        os.rmdir(name)

    def test_really_denied_and_ignored(self, open_place, unprivileged):
        """gh-135812: it also ignores errors of the operating system."""
        with unprivileged():
            directory = primitives.TemporaryDirectory(dir=open_place, ignore_cleanup_errors=True)
            (Path(directory.name) / "file").touch()
            open_place.chmod(0o500)
            directory.cleanup()
            assert os.path.exists(directory.name)
            open_place.chmod(0o700)
            directory.cleanup()
            assert not os.path.exists(directory.name)
