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
def fresh(monkeypatch):
    """Nobody has asked for the temp location yet."""
    monkeypatch.setattr(primitives, "tempdir", None)


class TestCandidates:
    def test_environment_first_then_system_then_here(self, monkeypatch):
        """TMPDIR, TEMP and TMP win in this order, empty ones do not count; here comes last."""
        monkeypatch.setenv("TMPDIR", "/one")
        monkeypatch.setenv("TEMP", "")
        monkeypatch.setenv("TMP", "/three")
        expected = ["/one", "/three", "/tmp", "/var/tmp", "/usr/tmp", os.getcwd()]
        assert candidate_directories("posix") == expected

    def test_windows(self, monkeypatch):
        """On Windows the user's own directory comes before the shared ones."""
        for name in ("TMPDIR", "TEMP", "TMP"):
            monkeypatch.delenv(name, raising=False)
        places = candidate_directories("nt")
        assert places[0].endswith(r"\AppData\Local\Temp")
        assert places[2:-1] == [r"c:\temp", r"c:\tmp", r"\temp", r"\tmp"]

    def test_working_directory_that_is_gone(self, monkeypatch):
        """Without a working directory the last candidate is a dot."""

        def gone() -> str:
            raise FileNotFoundError

        monkeypatch.setattr(os, "getcwd", gone)
        assert candidate_directories()[-1] == os.curdir


class TestFirstUsable:
    def test_probe_is_removed(self, tmp_path):
        """The first directory that can be written to is found, and nothing stays in it."""
        good = tmp_path / "good"
        good.mkdir()
        (tmp_path / "file").touch()
        candidates = [str(tmp_path / "missing"), str(tmp_path / "file"), str(good)]
        assert first_usable(candidates) == str(good)
        assert list(good.iterdir()) == []

    def test_unwritable_is_passed_over(self, open_place, unprivileged):
        """A directory that may not be written to is no temp location."""
        (open_place / "closed").mkdir()
        (open_place / "closed").chmod(0o555)
        with unprivileged():
            assert first_usable([str(open_place / "closed"), str(open_place)]) == str(open_place)

    def test_none(self, tmp_path):
        """When none is usable, the error has CPython's errno and names all that were tried."""
        with pytest.raises(FileNotFoundError, match="No usable temporary directory") as caught:
            first_usable([str(tmp_path / "a"), str(tmp_path / "b")])
        assert caught.value.errno == errno.ENOENT
        assert str(tmp_path / "b") in str(caught.value)

    def test_names_that_are_taken(self, tmp_path, monkeypatch):
        """A name that exists is not the end: the next one is tried, a hundred times at most."""
        (tmp_path / "taken").touch()
        names = iter(["taken", "free"])
        monkeypatch.setattr(_location, "random_name", lambda: next(names))
        assert first_usable([str(tmp_path)]) == str(tmp_path)
        monkeypatch.setattr(_location, "random_name", lambda: "taken")
        with pytest.raises(FileNotFoundError):
            first_usable([str(tmp_path)])
        assert [path.name for path in tmp_path.iterdir()] == ["taken"]

    def test_windows_denies_for_a_taken_name(self, tmp_path, monkeypatch):
        """Windows may deny because the name is a directory's, so it is asked again."""
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
    """A denial is only ambiguous on Windows, and only in a directory that looks writable."""
    assert taken_on_windows(str(tmp_path), "nt")
    assert not taken_on_windows(str(tmp_path / "missing"), "nt")
    assert not taken_on_windows(str(tmp_path), "posix")


class TestTempdir:
    def test_found_once(self, fresh, tmp_path, monkeypatch):
        """The first call finds the location and later ones keep it, whatever TMPDIR says then."""
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        assert primitives.gettempdir() == str(tmp_path)
        assert primitives.tempdir == str(tmp_path)
        monkeypatch.setenv("TMPDIR", "/")
        assert primitives.gettempdir() == str(tmp_path)
        assert primitives.gettempdirb() == os.fsencode(tmp_path)

    @pytest.mark.parametrize("kind", [str, os.fsencode, Path])
    def test_assigned(self, kind, tmp_path, monkeypatch):
        """What is assigned may be str, bytes or a path; each accessor has its own type."""
        monkeypatch.setattr(primitives, "tempdir", kind(tmp_path))
        assert primitives.gettempdir() == str(tmp_path)
        assert primitives.gettempdirb() == os.fsencode(tmp_path)

    def test_prefix(self, monkeypatch):
        """The default prefix is CPython's and follows the variable template, as there."""
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
        """Every mixture of arguments gives the type, or the error, that CPython gives."""
        monkeypatch.setattr(primitives, "tempdir", location)
        monkeypatch.setattr(tempfile, "tempdir", location)
        try:
            expected = tempfile._infer_return_type(first, second)
        except TypeError:
            with pytest.raises(TypeError, match="Can't mix bytes and non-bytes"):
                path_type(first, second)
        else:
            # gh-40701 came to the older ones by and by: without a type from the arguments, bytes
            # in tempdir decide.
            assert path_type(first, second) is expected

    def test_bytes_all_through(self):
        """One part of bytes makes all of them bytes."""
        assert resolve(None, b"x", None) == (b"tmp", b"x", primitives.gettempdirb())
        assert resolve("a", None, Path("/x")) == ("a", "", Path("/x"))
