from __future__ import annotations

import gc
import io
import os
from pathlib import Path
import pickle
import resource
import signal
import stat
import sys
import weakref

import pytest

from pytest_tempres import primitives
from pytest_tempres.primitives import _file
from pytest_tempres.primitives import _wrapper
from pytest_tempres.primitives._file import TemporaryFileCloser
from pytest_tempres.primitives._file import close_and_keep

KINDS = [
    ("w+b", -1, io.BufferedRandom),
    ("wb", -1, io.BufferedWriter),
    ("rb", -1, io.BufferedReader),
    ("w+b", 0, io.FileIO),
    ("w+", -1, io.TextIOWrapper),
]


def text(mode: str) -> str | None:
    """Return the encoding to open a file of *mode* with."""
    return None if "b" in mode else "utf-8"


class TestTemporaryFile:
    @pytest.mark.parametrize("mode,buffering,kind", KINDS)
    def test_kinds(self, mode, buffering, kind, place):
        """In each mode the file has the class that `open` uses; its name is the descriptor."""
        with primitives.TemporaryFile(mode, buffering, text(mode)) as file:
            assert type(file) is kind
            assert file.name == file.fileno()
            assert os.fstat(file.fileno()).st_nlink == 0
            assert list(place.iterdir()) == []

    def test_private(self, place):
        """No other user can open it, not even through /proc."""
        with primitives.TemporaryFile() as file:
            assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600

    def test_in_a_directory_that_is_a_link(self, place, tmp_path):
        """The temp location may be a link."""
        (tmp_path / "link").symlink_to(place)
        with primitives.TemporaryFile(dir=str(tmp_path / "link")) as file:
            assert file.write(b"x") == 1

    @pytest.mark.parametrize("arguments", [{"mode": "wr"}, {"mode": 2}, {"newline": "x"}])
    @pytest.mark.parametrize("name", ["TemporaryFile", "NamedTemporaryFile"])
    def test_bad_arguments(self, name, arguments, place):
        """Invalid arguments raise the same error as `open`, and no file is left."""
        with pytest.raises((ValueError, TypeError)):
            getattr(primitives, name)(**arguments)
        with pytest.raises(LookupError):
            getattr(primitives, name)("w", encoding="no-such-encoding")

    @pytest.mark.parametrize("name", ["TemporaryFile", "NamedTemporaryFile"])
    def test_patched_open(self, name, place, monkeypatch):
        """A test that replaces the builtin `open` does not affect it."""
        monkeypatch.setattr("builtins.open", None)
        with getattr(primitives, name)("w+", encoding="utf-8") as file:
            file.write("x")

    @pytest.mark.parametrize("name", ["TemporaryFile", "NamedTemporaryFile"])
    def test_directory_is_missing(self, name, tmp_path):
        """The error has a path in the missing directory."""
        with pytest.raises(FileNotFoundError) as caught:
            getattr(primitives, name)(dir=str(tmp_path / "missing"))
        assert caught.value.filename.startswith(str(tmp_path / "missing" / "tmp"))


class TestNamedTemporaryFile:
    @pytest.mark.parametrize("mode,buffering,kind", KINDS)
    def test_kinds(self, mode, buffering, kind, place):
        """The inner file has the class that `open` uses, and the path as its name."""
        with primitives.NamedTemporaryFile(mode, buffering, text(mode)) as file:
            assert isinstance(file.file, kind)
            assert file.name == file.file.name
            assert Path(file.name).parent == place
            assert stat.S_IMODE(os.stat(file.name).st_mode) == 0o600
            assert repr(file).startswith("<_TemporaryFileWrapper file=<")
        assert not os.path.exists(file.name)

    def test_bytes(self, place):
        """A directory of type bytes gives a name of type bytes."""
        with primitives.NamedTemporaryFile(dir=os.fsencode(place)) as file:
            assert type(file.name) is bytes

    def test_attributes_of_the_file(self, place):
        """The wrapper has the attributes of the file, and no others."""
        with primitives.NamedTemporaryFile("w+", encoding="utf-8", newline="") as file:
            assert (file.encoding, file.newlines, file.closed) == ("utf-8", None, False)
            file.writelines(["a\r\n", "b"])
            file.seek(0)
            assert list(file) == ["a\r\n", "b"]
            assert not hasattr(file, "no_such_attribute")
            assert file.buffer.raw.name == file.name
        assert file.closed
        with primitives.NamedTemporaryFile() as file:
            assert not hasattr(file, "encoding")

    def test_methods_are_those_of_the_file(self, place):
        """A method of the wrapper is that of the file, so that it is as fast."""
        with primitives.NamedTemporaryFile() as file:
            assert file.write.__self__ is file.file
            assert file.seek is file.seek

    def test_closed_at_once(self, place):
        """Closing removes the path and can be repeated; a closed file cannot be entered."""
        file = primitives.NamedTemporaryFile()
        file.close()
        file.close()
        assert not os.path.exists(file.name)
        with pytest.raises(ValueError, match="closed file"), file:
            pass

    @pytest.mark.parametrize("delete", [True, False])
    @pytest.mark.parametrize("delete_on_close", [True, False])
    def test_when_the_path_is_removed(self, delete, delete_on_close, place):
        """The path is removed on close, at the end of the `with` block, or never, as requested."""
        with primitives.NamedTemporaryFile(delete=delete, delete_on_close=delete_on_close) as file:
            file.close()
            assert os.path.exists(file.name) is not (delete and delete_on_close)
        assert os.path.exists(file.name) is not delete
        if not delete:
            os.unlink(file.name)

    def test_removed_by_another_program(self, place):
        """It is no error if the path or its directory no longer exists."""
        (place / "sub").mkdir()
        with primitives.NamedTemporaryFile(dir=place / "sub") as file:
            os.unlink(file.name)
            (place / "sub").rmdir()
            file.write(b"x")

    def test_close_the_file_alone(self, place):
        """Closing the inner file keeps the path until the wrapper is closed."""
        with primitives.NamedTemporaryFile() as file:
            file.file.close()
            assert os.path.exists(file.name)
        assert not os.path.exists(file.name)

    def test_close_that_fails(self, place):
        """An error of the last write is raised, and the path is removed."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            file = primitives.NamedTemporaryFile()
            file.write(b"x" * 100)
            with pytest.raises(OSError, match="File too large"):
                file.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, old)

    def test_can_not_be_pickled(self, place):
        """Pickling raises the same error as in CPython."""
        with primitives.NamedTemporaryFile() as file, pytest.raises(TypeError, match="pickle"):
            pickle.dumps(file)


class TestLifetime:
    """CPython issues 18879 and 23700, gh-126639: the lifetime of the file, and its warning."""

    @pytest.mark.parametrize("mode,buffering,kind", KINDS)
    def test_warning(self, mode, buffering, kind, place):
        """An unclosed file is closed and removed when collected, with CPython 3.14's warning."""
        file = primitives.NamedTemporaryFile(mode, buffering, text(mode))
        name = file.name
        described = (
            f"^Implicitly cleaning up <_TemporaryFileWrapper file=<_io.{kind.__name__} .*{name}"
        )
        with pytest.warns(ResourceWarning, match=described) as caught:
            del file
        assert len(caught) == 1
        assert not os.path.exists(name)

    @pytest.mark.parametrize("mode,buffering,kind", KINDS)
    def test_method_keeps_the_file_open(self, mode, buffering, kind, place):
        """A bound method that outlives the wrapper keeps the file open and the path on disk."""
        file = primitives.NamedTemporaryFile(mode, buffering, text(mode))
        name, wrapper, tell = file.name, weakref.ref(file), file.tell
        del file
        assert wrapper() is None
        assert os.path.exists(name)
        assert tell() == 0
        with pytest.warns(ResourceWarning, match="Implicitly"):
            del tell
        assert not os.path.exists(name)

    def test_loop_keeps_the_file_open(self, place):
        """A loop over a file keeps it alive, and leaving the loop early does not close it."""

        def lines():
            file = primitives.NamedTemporaryFile()
            file.writelines([b"a\n", b"b\n"])
            file.seek(0)
            return iter(file)

        with pytest.warns(ResourceWarning, match="Implicitly"):
            assert list(lines()) == [b"a\n", b"b\n"]
        with primitives.NamedTemporaryFile() as file:
            file.writelines([b"a\n", b"b\n"])
            file.seek(0)
            for _ in file:
                break
            assert not file.closed

    def test_only_the_file_was_closed(self, place):
        """Closing only the inner file does not suppress the warning."""
        file = primitives.NamedTemporaryFile()
        file.file.close()
        with pytest.warns(ResourceWarning, match="Implicitly cleaning up"):
            del file

    def test_no_warning_after_close(self, place, recwarn):
        """There is no warning for a closed file, even if its path is kept."""
        file = primitives.NamedTemporaryFile(delete_on_close=False)
        file.close()
        name = file.name
        assert os.path.exists(name)
        del file
        assert not os.path.exists(name)
        assert not recwarn.list

    def test_weak_references(self, place):
        """Wrappers and files support weak references."""
        with primitives.NamedTemporaryFile() as file:
            assert weakref.ref(file)() is file
            assert weakref.ref(file.file)() is file.file

    @pytest.mark.parametrize("module", ["builtins", "os", "sys", "warnings", "tempfile"])
    def test_interpreter_exit(self, module, python, tmp_path):
        """A file that is open at exit is removed with a warning and without a traceback."""
        out, err = python(
            f"""
import builtins, os, sys, warnings
from pytest_tempres import primitives as tempfile
{module}.kept = tempfile.NamedTemporaryFile(dir={str(tmp_path)!r})
{module}.kept.write(b"x")
print({module}.kept.name)
"""
        )
        assert not os.path.exists(out.strip())
        assert "Exception" not in err
        assert "Traceback" not in err


class TestCloser:
    def test_can_be_found(self, place):
        """`gc.get_objects` finds the closers, which show what will be removed."""
        with primitives.NamedTemporaryFile() as file:
            (closer,) = [
                item
                for item in gc.get_objects()
                if type(item).__name__ == "TemporaryFileCloser" and item.name == file.name
            ]
            assert isinstance(closer, TemporaryFileCloser)
            assert (closer.delete, closer.cleanup_called) == (True, False)
            closer.cleanup()
            assert closer.cleanup_called
            assert file.closed
            assert not os.path.exists(file.name)

    def test_delete_may_change(self, place):
        """The attribute delete can be set while the file is open."""
        with primitives.NamedTemporaryFile() as file:
            assert file.delete
            file.delete = False
        assert os.path.exists(file.name)
        os.unlink(file.name)

    @pytest.mark.parametrize("delete_on_close", [True, False])
    def test_close_and_keep(self, delete_on_close, place, recwarn):
        """A file can be closed and kept, without a warning when it is collected."""
        file = primitives.NamedTemporaryFile(delete_on_close=delete_on_close)
        file.write(b"x")
        close_and_keep(file)
        close_and_keep(file)
        name = file.name
        del file
        assert Path(name).read_bytes() == b"x"
        os.unlink(name)
        assert not recwarn.list

    def test_removed_by_windows(self, place, tmp_path):
        """A path that Windows has removed on close is not removed again."""
        removed = []
        for delete_on_close in (True, False):
            with primitives.TemporaryFile() as file:
                closer = TemporaryFileCloser(file, "x", True, delete_on_close)
                closer._remove(unlink=removed.append, system="nt")
                closer.delete = False
                closer.cleanup()
        assert removed == ["x"]

    def test_forked_child(self, place, in_child):
        """A forked child closes its copy of the file and does not remove the path."""

        def leave():
            file.close()

        def forget():
            nonlocal file
            file = None

        for act in (leave, forget):
            file = primitives.NamedTemporaryFile()
            assert in_child(lambda act=act: act() is None)
            assert os.path.exists(file.name)
            file.close()

    def test_child_removes_its_own(self, place, in_child):
        """A forked child removes the files that it created."""

        def make():
            with primitives.NamedTemporaryFile() as file:
                name = file.name
            return not os.path.exists(name)

        assert in_child(make)


def test_windows_flags(monkeypatch):
    """Only on Windows does the system remove the file on close, if requested."""
    assert _file._named_flags(delete=True) == _file.OPEN_FLAGS
    monkeypatch.setattr(os, "O_TEMPORARY", 1 << 30, raising=False)
    assert _file._named_flags(delete=True) == _file.OPEN_FLAGS | 1 << 30
    assert _file._named_flags(delete=False) == _file.OPEN_FLAGS


@pytest.mark.parametrize("name", ["TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile"])
def test_encoding_warning(name, python):
    """Under -X warn_default_encoding the warning points to the caller, as in CPython."""
    _, err = python(
        f"""
from pytest_tempres import primitives
with primitives.{name}(mode="w") as file:
    file.fileno()
with primitives.{name}(mode="w", encoding="utf-8") as file:
    file.fileno()
""",
        "-X",
        "warn_default_encoding",
    )
    assert err.count("EncodingWarning: 'encoding' argument not specified") == 1
    assert "<string>:3" in err


def test_raw_file(place):
    """The raw file of every kind of file is found."""
    for mode, buffering, _ in KINDS:
        with primitives.TemporaryFile(mode, buffering, text(mode)) as file:
            assert type(_wrapper.raw_file(file)) is io.FileIO


def test_failed_wrapper(place, monkeypatch):
    """If the last step of the creation fails, the file is closed and removed."""

    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(_file, "_TemporaryFileWrapper", fail)
    with pytest.raises(MemoryError):
        primitives.NamedTemporaryFile()
    assert sys.exc_info() == (None, None, None)
