from __future__ import annotations

import errno
import io
import os
import pickle
import resource
import signal
import sys
import types
import weakref

import pytest

from pytest_tempres import primitives
from pytest_tempres.primitives import _spooled

SpooledTemporaryFile = primitives.SpooledTemporaryFile


class Subclass(SpooledTemporaryFile):
    """A subclass that overrides a method."""

    def write(self, s):
        """Write in upper case."""
        return super().write(s.upper())


class TestRollover:
    def test_by_size(self, place):
        """The contents stay in memory up to the limit, and are on disk beyond it."""
        with SpooledTemporaryFile(max_size=3) as file:
            file.write(b"abc")
            assert (file._rolled, file.name, file.mode) == (False, None, "w+b")
            assert file._file.getvalue() == b"abc"
            file.write(b"d")
            assert file._rolled
            assert file.name == file.fileno() == file._file.fileno()
            # io.FileIO remembers since 3.15 that the file was opened with "w".
            assert file.mode == ("wb+" if sys.version_info >= (3, 15) else "rb+")
            file.seek(0)
            assert file.read() == b"abcd"

    @pytest.mark.parametrize("act", ["fileno", "rollover"])
    def test_on_demand(self, act, place):
        """A call that needs a descriptor moves the contents to disk; the position stays."""
        with SpooledTemporaryFile() as file:
            file.write(b"abcdef")
            file.seek(2)
            getattr(file, act)()
            assert file._rolled
            assert file.tell() == 2
            file.rollover()
            assert file.read() == b"cdef"

    def test_truncate(self, place):
        """Extending the file beyond the limit moves it to disk."""
        with SpooledTemporaryFile(max_size=10) as file:
            file.write(b"abcdef")
            assert file.truncate(4) == 4
            assert file.truncate() == 6 or file.tell() == 6
            assert not file._rolled
            assert file.truncate(20) == 20
            assert os.fstat(file.fileno()).st_size == 20

    def test_text(self, place):
        """A text file has the same encoding, errors, line ends and position after a rollover."""
        arguments = {"encoding": "utf-16", "errors": "replace", "newline": None}
        with SpooledTemporaryFile(20, "w+", **arguments) as file:
            file.write("ä\n")
            file.seek(0)
            assert file.readline() == "ä\n"
            before = (file.encoding, file.errors)
            file.seek(0, 2)
            file.write("ö\n" * 20)
            assert file._rolled
            assert (file.encoding, file.errors) == before
            file.seek(0)
            assert file.readlines() == ["ä\n", *["ö\n"] * 20]

    @pytest.mark.parametrize("items", [[b"ab", b"cd", b"ef"], [b"abcdef"], []])
    def test_writelines(self, items, place):
        """Each line is written once, in order, before and after the rollover."""
        for limit in (0, 3, 100):
            with SpooledTemporaryFile(limit) as file:
                file.writelines(iter(items))
                assert file._rolled is bool(limit == 3 and items)
                file.seek(0)
                assert file.read() == b"".join(items)

    def test_methods_bound_before(self, place):
        """A method that was bound before the rollover uses the file on disk after it."""
        with SpooledTemporaryFile(max_size=3) as file:
            write, read, seek = file.write, file.read, file.seek
            write(b"abcd")
            write(b"efgh")
            seek(0)
            assert read() == b"abcdefgh"

    def test_method_bound_after_is_that_of_the_file(self, place):
        """After the rollover, `write` is the method of the file on disk."""
        with SpooledTemporaryFile(max_size=3) as file:
            file.write(b"abcd")
            assert file.write.__self__ is file._file

    def test_subclass(self, place):
        """The methods of a subclass, and its type, are the same before and after the rollover."""
        with Subclass(max_size=3) as file:
            file.write(b"ab")
            file.write(b"cd")
            file.write(b"ef")
            assert file._rolled
            assert type(file) is Subclass
            file.seek(0)
            assert file.read() == b"ABCDEF"

    def test_type(self, place):
        """The rollover changes neither the result of isinstance nor the repr."""
        with SpooledTemporaryFile() as file:
            before = repr(file)
            file.rollover()
            assert isinstance(file, SpooledTemporaryFile)
            assert isinstance(file, io.IOBase)
            assert repr(file) == before


class TestIteration:
    """gh-87034: a rollover during an iteration."""

    @pytest.mark.parametrize("mode", ["w+b", "w+"])
    def test_continues_on_disk(self, mode, place):
        """A loop that began in memory continues in the file on disk."""
        lines = ["a\n", "b\n", "c\n"] if mode == "w+" else [b"a\n", b"b\n", b"c\n"]
        encoding = "utf-8" if mode == "w+" else None
        with SpooledTemporaryFile(mode=mode, encoding=encoding) as file:
            file.writelines(lines)
            file.seek(0)
            seen = []
            for line in file:
                seen.append(line)
                if len(seen) == 1:
                    position = file.tell()
                    file.seek(0, 2)
                    file.write(lines[0])
                    file.rollover()
                    file.seek(position)
            assert seen == [*lines, lines[0]]

    def test_on_disk(self, place):
        """A file on disk supports iteration, and `next` too."""
        with SpooledTemporaryFile() as file:
            file.writelines([b"a\n", b"b\n"])
            file.rollover()
            file.seek(0)
            assert next(file) == b"a\n"
            assert list(file) == [b"b\n"]

    def test_closed(self):
        """Iterating over a closed file raises ValueError."""
        file = SpooledTemporaryFile()
        file.close()
        with pytest.raises(ValueError, match="closed file"):
            iter(file)


class TestFullDisk:
    @pytest.fixture
    def full(self):
        """Limit files to ten bytes; the result removes the limit."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)

    @pytest.mark.parametrize("mode", ["w+b", "w+"])
    def test_nothing_is_lost(self, mode, full, place):
        """When the disk is full, the contents stay in memory and the rollover can be repeated."""
        data = "x" * 100 if mode == "w+" else b"x" * 100
        with SpooledTemporaryFile(50, mode, encoding="utf-8" if mode == "w+" else None) as file:
            with pytest.raises(OSError, match="too large") as caught:
                file.write(data)
            assert caught.value.errno == errno.EFBIG
            assert not file._rolled
            file.seek(0)
            assert file.read() == data
            full()
            file.rollover()
            file.seek(0)
            assert file.read() == data

    def test_missing_directory(self, place, monkeypatch):
        """If the directory is missing, the contents stay in memory; the error has the path."""
        with SpooledTemporaryFile(dir=str(place / "missing")) as file:
            file.write(b"abc")
            with pytest.raises(FileNotFoundError) as caught:
                file.fileno()
            assert caught.value.filename.startswith(str(place / "missing"))
            file.seek(0)
            assert file.read() == b"abc"


class TestLifetime:
    @pytest.mark.parametrize("rolled", [True, False])
    @pytest.mark.parametrize("buffering", [-1, 0])
    def test_warning(self, rolled, buffering, place):
        """A file that is collected while open is closed, with one warning, that of CPython."""
        file = SpooledTemporaryFile(buffering=buffering)
        if rolled:
            file.rollover()
        described = r"^Unclosed file <.*SpooledTemporaryFile object at 0x[0-9a-f]+>$"
        with pytest.warns(ResourceWarning, match=described) as caught:
            del file
        assert len(caught) == 1

    def test_method_keeps_the_file_open(self, place):
        """CPython issue 18879: a bound method keeps the file on disk open."""
        file = SpooledTemporaryFile()
        file.rollover()
        write, descriptor = file.write, file.fileno()
        with pytest.warns(ResourceWarning, match="Unclosed"):
            del file
        assert write(b"x") == 1
        os.fstat(descriptor)
        del write
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)

    def test_explicit_del(self, place):
        """Calling `__del__` closes the file on disk, as in CPython."""
        file = SpooledTemporaryFile()
        file.rollover()
        descriptor = file.fileno()
        with pytest.warns(ResourceWarning, match="Unclosed"):
            file.__del__()
        assert file.closed
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)

    def test_bad_arguments(self, recwarn):
        """An object whose creation failed causes no warning about an unclosed file."""
        with pytest.raises(TypeError):
            SpooledTemporaryFile(mode=2)
        with pytest.raises(LookupError):
            SpooledTemporaryFile(mode="w", encoding="no-such-encoding")
        with pytest.raises(TypeError):
            SpooledTemporaryFile(no_such_argument=1)
        assert not recwarn.list

    def test_weak_reference_and_pickle(self):
        """It supports weak references; a file on disk can't be pickled, as in CPython."""
        with SpooledTemporaryFile() as file:
            assert weakref.ref(file)() is file
            file.rollover()
            with pytest.raises(TypeError, match="cannot pickle"):
                pickle.dumps(file)

    def test_generic(self):
        """The class can be subscripted, as in CPython."""
        assert isinstance(SpooledTemporaryFile[bytes], types.GenericAlias)


class TestInterface:
    """The full interface of io.IOBase, which CPython has since 3.11 (gh-70363)."""

    @pytest.mark.parametrize("rolled", [True, False])
    def test_binary(self, rolled, place):
        """Every method of a binary file works, in memory and on disk."""
        with SpooledTemporaryFile() as file:
            file.write(b"ab\ncd\nef")
            if rolled:
                file.rollover()
            file.flush()
            file.seek(0)
            buffer = bytearray(2)
            assert (file.readable(), file.writable(), file.seekable(), file.isatty()) == (
                *(True, True, True),
                False,
            )
            assert file.read1(1) == b"a"
            assert file.readline() == b"b\n"
            assert (file.readinto(buffer), bytes(buffer)) == (2, b"cd")
            assert (file.readinto1(buffer), bytes(buffer)) == (2, b"\ne")
            assert file.tell() == 7
            assert not hasattr(file, "encoding")
            assert not hasattr(file, "errors")
            assert not hasattr(file, "newlines")

    def test_detach(self):
        """The file in memory below a text file can be detached."""
        file = SpooledTemporaryFile(mode="w", encoding="utf-8")
        file.write("x")
        assert file.detach().getvalue() == b"x"
        file._file = _spooled._CLOSED

    def test_closed_context(self):
        """Entering a closed file raises ValueError; closing it again is no error."""
        file = SpooledTemporaryFile()
        file.close()
        file.close()
        with pytest.raises(ValueError, match="closed file"), file:
            pass
