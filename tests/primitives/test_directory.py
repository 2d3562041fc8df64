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
def stuck(monkeypatch):
    """Nothing can be removed, for the reason given."""

    def make(error: OSError) -> None:
        monkeypatch.setattr(
            _directory, "remove_tree", lambda name: [Failure(f"{os.fsdecode(name)}/x", error)]
        )

    return make


class TestContext:
    @pytest.mark.parametrize("kind", [str, os.fsencode])
    def test_removed(self, kind, place):
        """The context gives the path, of the caller's type, and removes it with all it holds."""
        with primitives.TemporaryDirectory(dir=kind(place)) as path:
            assert type(path) is type(kind(place))
            (place / os.fsdecode(path) / "a" / "b").mkdir(parents=True)
        assert not os.path.exists(path)

    def test_repr(self, place):
        """The representation is CPython's."""
        with primitives.TemporaryDirectory() as path:
            pass
        directory = primitives.TemporaryDirectory()
        assert repr(directory) == f"<TemporaryDirectory {directory.name!r}>"
        assert path != directory.name
        directory.cleanup()

    def test_cleanup_any_number_of_times(self, place):
        """To clean up again, or what somebody else removed, is no error."""
        directory = primitives.TemporaryDirectory()
        directory.cleanup()
        directory.cleanup()
        with primitives.TemporaryDirectory() as path:
            os.rmdir(path)

    def test_generic(self):
        """It can be subscribed, as in CPython."""
        assert isinstance(primitives.TemporaryDirectory[str], types.GenericAlias)

    def test_name_taken_by_a_file(self, place):
        """What stands at the path goes, whatever it has become."""
        with primitives.TemporaryDirectory() as path:
            os.rmdir(path)
            Path(path).touch()


class TestDelete:
    """gh-128397: whether the directory is removed can be changed."""

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("last", [True, False])
    @pytest.mark.parametrize("how", ["context", "collected"])
    def test_last_word_counts(self, first, last, how, place):
        """What delete says at the end is done, in the context and by the finalizer."""
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
        """An explicit cleanup removes whatever delete says."""
        directory = primitives.TemporaryDirectory(delete=False)
        directory.cleanup()
        assert not os.path.exists(directory.name)

    def test_change_after_the_end(self, place):
        """A change after the end does not bring a finalizer back."""
        directory = primitives.TemporaryDirectory()
        directory.cleanup()
        directory.delete = False
        directory.delete = True
        assert not directory._finalizer.alive

    def test_finalizer_can_be_read(self, place):
        """A live finalizer says which path it will remove, as in CPython."""
        directory = primitives.TemporaryDirectory()
        owner, function, arguments, keywords = directory._finalizer.peek()
        assert owner is directory
        assert function.__qualname__ == "TemporaryDirectory._cleanup"
        assert arguments == (directory.name,)
        assert keywords["delete"]
        directory.delete = False
        assert not directory._finalizer.peek()[3]["delete"]
        directory.cleanup()


class TestForgotten:
    def test_warning(self, place):
        """A directory that nobody cleaned up goes with its object, with CPython's warning."""
        directory = primitives.TemporaryDirectory()
        described = f"^Implicitly cleaning up {directory!r}$"
        with pytest.warns(ResourceWarning, match=described):
            del directory

    def test_weak_reference(self, place):
        """It can be referred to weakly."""
        with primitives.TemporaryDirectory():
            directory = primitives.TemporaryDirectory()
            assert weakref.ref(directory)() is directory
            directory.cleanup()

    def test_creation_failed(self, tmp_path):
        """An object that was never made leaves no trace, and no second error."""
        with pytest.raises(FileNotFoundError) as caught:
            primitives.TemporaryDirectory(dir=tmp_path / "missing")
        assert caught.value.filename.startswith(str(tmp_path / "missing"))

    @pytest.mark.parametrize("module", ["builtins", "os", "sys", "weakref", "tempfile"])
    def test_interpreter_exit(self, module, python, tmp_path):
        """Whoever holds it at exit, it is removed, with a warning and no traceback."""
        out, complaints = python(
            f"""
import builtins, os, sys, weakref
from pytest_tempres import primitives as tempfile
{module}.kept = tempfile.TemporaryDirectory(dir={str(tmp_path)!r})
os.makedirs({module}.kept.name + "/a/b")
print({module}.kept.name)
"""
        )
        assert not os.path.exists(out.strip())
        assert "ResourceWarning: Implicitly cleaning up" in complaints
        assert "Traceback" not in complaints


class TestFork:
    def test_child_leaves_it_to_the_parent(self, place, in_child):
        """A child that ends, leaves the context or drops the object removes nothing."""

        def leave():
            directory.__exit__(None, None, None)

        def end():
            directory._finalizer()

        for act in (leave, end):
            directory = primitives.TemporaryDirectory()
            assert in_child(lambda act=act: act() is None)
            assert os.path.exists(directory.name)
            directory.cleanup()

    def test_child_that_takes_over(self, place, in_child):
        """A child that lives on as a daemon may clean up; it has to say so."""
        directory = primitives.TemporaryDirectory()
        assert in_child(lambda: directory.cleanup() is None)
        assert not os.path.exists(directory.name)
        directory.cleanup()


class TestErrors:
    def test_says_what_is_left_and_why(self, stuck, place):
        """The error carries the path, and each path that is left with its reason."""
        directory = primitives.TemporaryDirectory()
        reason = OSError(39, "Directory not empty")
        stuck(reason)
        with pytest.raises(
            RemovalError, match=r"could not remove .*/x: Directory not empty"
        ) as caught:
            directory.cleanup()
        assert caught.value.path == directory.name
        assert caught.value.remaining == [(f"{directory.name}/x", reason)]
        assert caught.value.errno == 39
        assert not isinstance(caught.value, PermissionError)
        os.rmdir(directory.name)

    def test_denied(self, stuck, place):
        """Where CPython raises PermissionError, that catches ours too."""
        stuck(PermissionError(13, "denied"))
        directory = primitives.TemporaryDirectory()
        with pytest.raises(PermissionError) as caught:
            directory.cleanup()
        assert isinstance(caught.value, RemovalError)
        os.rmdir(directory.name)

    @pytest.mark.parametrize("how", ["cleanup", "context", "collected"])
    @pytest.mark.filterwarnings("ignore:Implicitly")
    def test_ignored(self, how, stuck, place):
        """gh-135812: ignore_cleanup_errors ignores every one of them."""
        stuck(PermissionError(13, "denied"))
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
        """gh-135812: so it does for a tree that the system refuses to give up."""
        with unprivileged():
            directory = primitives.TemporaryDirectory(dir=open_place, ignore_cleanup_errors=True)
            (Path(directory.name) / "file").touch()
            open_place.chmod(0o500)
            directory.cleanup()
            assert os.path.exists(directory.name)
            open_place.chmod(0o700)
            directory.cleanup()
            assert not os.path.exists(directory.name)
