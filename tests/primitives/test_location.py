from __future__ import annotations

import errno
import os
from pathlib import Path
import tempfile

import pytest

from pytest_tempres import primitives
from pytest_tempres.primitives import _location
from pytest_tempres.primitives._location import candidate_directories
from pytest_tempres.primitives._location import first_usable
from pytest_tempres.primitives._location import path_type
from pytest_tempres.primitives._location import resolve
from pytest_tempres.primitives._location import taken_on_windows


@pytest.fixture
def no_tempdir(monkeypatch):
    """Set `tempdir` to None, as before the first call of `gettempdir`."""
    monkeypatch.setattr(primitives, "tempdir", None)


class TestCandidates:
    def test_environment_first_then_system_then_here(self, monkeypatch):
        """TMPDIR, TEMP and TMP come first unless empty, and the working directory last."""
        monkeypatch.setenv("TMPDIR", "/one")
        monkeypatch.setenv("TEMP", "")
        monkeypatch.setenv("TMP", "/three")
        expected = ["/one", "/three", "/tmp", "/var/tmp", "/usr/tmp", os.getcwd()]
        assert candidate_directories("posix") == expected

    def test_windows(self, monkeypatch):
        """On Windows the user's directory comes before the shared ones."""
        for name in ("TMPDIR", "TEMP", "TMP"):
            monkeypatch.delenv(name, raising=False)
        places = candidate_directories("nt")
        assert places[0].endswith(r"\AppData\Local\Temp")
        assert places[2:-1] == [r"c:\temp", r"c:\tmp", r"\temp", r"\tmp"]

    def test_removed_working_directory(self, monkeypatch):
        """Without a working directory the last candidate is "."."""

        def gone() -> str:
            raise FileNotFoundError

        monkeypatch.setattr(os, "getcwd", gone)
        assert candidate_directories()[-1] == os.curdir


class TestFirstUsable:
    def test_probe_is_removed(self, tmp_path):
        """The first writable directory is returned, and no file is left in it."""
        good = tmp_path / "good"
        good.mkdir()
        (tmp_path / "file").touch()
        candidates = [str(tmp_path / "missing"), str(tmp_path / "file"), str(good)]
        assert first_usable(candidates) == str(good)
        assert list(good.iterdir()) == []

    def test_unwritable_is_skipped(self, open_place, unprivileged):
        """A directory that is not writable is not used."""
        (open_place / "closed").mkdir()
        (open_place / "closed").chmod(0o555)
        with unprivileged():
            assert first_usable([str(open_place / "closed"), str(open_place)]) == str(open_place)

    def test_none(self, tmp_path):
        """If no candidate is usable, the error has CPython's errno and lists all candidates."""
        with pytest.raises(FileNotFoundError, match="No usable temporary directory") as caught:
            first_usable([str(tmp_path / "a"), str(tmp_path / "b")])
        assert caught.value.errno == errno.ENOENT
        assert str(tmp_path / "b") in str(caught.value)

    def test_names_that_are_taken(self, tmp_path, monkeypatch):
        """If a file has the name, another name is tried, up to TMP_MAX times."""
        (tmp_path / "taken").touch()
        names = iter(["taken", "free"])
        monkeypatch.setattr(_location, "random_name", lambda: next(names))
        assert first_usable([str(tmp_path)]) == str(tmp_path)
        monkeypatch.setattr(_location, "random_name", lambda: "taken")
        with pytest.raises(FileNotFoundError):
            first_usable([str(tmp_path)])
        assert [path.name for path in tmp_path.iterdir()] == ["taken"]

    def test_windows_denies_for_a_taken_name(self, tmp_path, monkeypatch):
        """A denial on Windows may mean that a directory has the name, so another one is tried."""
        denials = iter([PermissionError()])

        def open_or_deny(*arguments):
            for denial in denials:
                raise denial
            return real_open(*arguments)

        real_open = os.open
        monkeypatch.setattr(os, "open", open_or_deny)
        monkeypatch.setattr(_location, "taken_on_windows", lambda parent: True)
        assert first_usable([str(tmp_path)]) == str(tmp_path)


def test_taken_on_windows(tmp_path):
    """A denial may mean a taken name only on Windows, in a directory that exists."""
    assert taken_on_windows(str(tmp_path), "nt")
    assert not taken_on_windows(str(tmp_path / "missing"), "nt")
    assert not taken_on_windows(str(tmp_path), "posix")


class TestTempdir:
    def test_found_once(self, no_tempdir, tmp_path, monkeypatch):
        """The first call sets `tempdir`; later changes of TMPDIR have no effect."""
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        assert primitives.gettempdir() == str(tmp_path)
        assert primitives.tempdir == str(tmp_path)
        monkeypatch.setenv("TMPDIR", "/")
        assert primitives.gettempdir() == str(tmp_path)
        assert primitives.gettempdirb() == os.fsencode(tmp_path)

    @pytest.mark.parametrize("kind", [str, os.fsencode, Path])
    def test_assigned(self, kind, tmp_path, monkeypatch):
        """`tempdir` may be str, bytes or a path object; each function returns its own type."""
        monkeypatch.setattr(primitives, "tempdir", kind(tmp_path))
        assert primitives.gettempdir() == str(tmp_path)
        assert primitives.gettempdirb() == os.fsencode(tmp_path)

    def test_prefix(self, monkeypatch):
        """The default prefix is that of CPython; the variable `template` changes it."""
        assert (primitives.gettempprefix(), primitives.gettempprefixb()) == ("tmp", b"tmp")
        monkeypatch.setattr(primitives, "template", "mine")
        assert primitives.gettempprefixb() == b"mine"
        assert resolve(None, None, None)[0] == "mine"


PARTS = [None, "", b"", Path("x"), 3]


class TestPathType:
    @pytest.mark.parametrize("first", PARTS)
    @pytest.mark.parametrize("second", PARTS)
    @pytest.mark.parametrize("location", [None, "/x", b"/x", Path("/x")])
    def test_as_cpython(self, first, second, location, monkeypatch):
        """Every combination of arguments gives the same type or error as CPython."""
        monkeypatch.setattr(primitives, "tempdir", location)
        monkeypatch.setattr(tempfile, "tempdir", location)
        try:
            expected = tempfile._infer_return_type(first, second)
        except TypeError:
            with pytest.raises(TypeError, match="Can't mix bytes and non-bytes"):
                path_type(first, second)
        else:
            # CPython issue 40701: if no argument has a type, a `tempdir` of bytes decides.
            assert path_type(first, second) is expected

    def test_one_argument_of_bytes(self):
        """If one argument is bytes, all results are bytes."""
        assert resolve(None, b"x", None) == (b"tmp", b"x", primitives.gettempdirb())
        assert resolve("a", None, Path("/x")) == ("a", "", Path("/x"))
