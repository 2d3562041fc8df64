from __future__ import annotations

import errno
import io
import os
import pickle
import resource
import signal
import types
import weakref

import pytest

from pytest_tempres import primitives
from pytest_tempres.primitives import _spooled

SpooledTemporaryFile = primitives.SpooledTemporaryFile


class Mine(SpooledTemporaryFile):
    """A subclass: what it overrides must stay overridden."""

    def write(self, s):
        """Write in capitals."""
        return super().write(s.upper())


class TestRollover:
    def test_by_size(self, place):
        """Contents stay in memory up to the limit and go to disk beyond it."""
        with SpooledTemporaryFile(max_size=3) as file:
            file.write(b"abc")
            assert (file._rolled, file.name, file.mode) == (False, None, "w+b")
            assert file._file.getvalue() == b"abc"
            file.write(b"d")
            assert file._rolled
            assert file.name == file.fileno() == file._file.fileno()
            assert file.mode == "rb+"
            file.seek(0)
            assert file.read() == b"abcd"

    @pytest.mark.parametrize("act", ["fileno", "rollover"])
    def test_on_demand(self, act, place):
        """Whoever needs a descriptor gets one, with the position unchanged."""
        with SpooledTemporaryFile() as file:
            file.write(b"abcdef")
            file.seek(2)
            getattr(file, act)()
            assert file._rolled
            assert file.tell() == 2
            file.rollover()
            assert file.read() == b"cdef"

    def test_truncate(self, place):
        """To extend a file over the limit moves it to disk."""
        with SpooledTemporaryFile(max_size=10) as file:
            file.write(b"abcdef")
            assert file.truncate(4) == 4
            assert file.truncate() == 6 or file.tell() == 6
            assert not file._rolled
            assert file.truncate(20) == 20
            assert os.fstat(file.fileno()).st_size == 20

    def test_text(self, place):
        """Text keeps its encoding, its errors, its line ends and its position."""
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
        """Lines go to disk from the rollover on, each once, in order."""
        for limit in (0, 3, 100):
            with SpooledTemporaryFile(limit) as file:
                file.writelines(iter(items))
                assert file._rolled is bool(limit == 3 and items)
                file.seek(0)
                assert file.read() == b"".join(items)

    def test_methods_taken_before(self, place):
        """A method taken before the rollover goes on in the file on disk."""
        with SpooledTemporaryFile(max_size=3) as file:
            write, read, seek = file.write, file.read, file.seek
            write(b"abcd")
            write(b"efgh")
            seek(0)
            assert read() == b"abcdefgh"

    def test_method_taken_after_is_the_files(self, place):
        """After the rollover a write takes no step of Python."""
        with SpooledTemporaryFile(max_size=3) as file:
            file.write(b"abcd")
            assert file.write.__self__ is file._file

    def test_subclass(self, place):
        """A subclass keeps its own methods, before and after; its type stays what it is."""
        with Mine(max_size=3) as file:
            file.write(b"ab")
            file.write(b"cd")
            file.write(b"ef")
            assert file._rolled
            assert type(file) is Mine
            file.seek(0)
            assert file.read() == b"ABCDEF"

    def test_type(self, place):
        """It is the same kind of thing before and after, for isinstance and to look at."""
        with SpooledTemporaryFile() as file:
            before = repr(file)
            file.rollover()
            assert isinstance(file, SpooledTemporaryFile)
            assert isinstance(file, io.IOBase)
            assert repr(file) == before


class TestIteration:
    """gh-87034: a rollover in the middle of a loop."""

    @pytest.mark.parametrize("mode", ["w+b", "w+"])
    def test_goes_on(self, mode, place):
        """A loop that was begun in memory sees what is on disk after a rollover."""
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
        """A file on disk can be looped over, with next too."""
        with SpooledTemporaryFile() as file:
            file.writelines([b"a\n", b"b\n"])
            file.rollover()
            file.seek(0)
            assert next(file) == b"a\n"
            assert list(file) == [b"b\n"]

    def test_closed(self):
        """A closed file can't be looped over."""
        file = SpooledTemporaryFile()
        file.close()
        with pytest.raises(ValueError, match="closed file"):
            iter(file)


class TestFullDisk:
    @pytest.fixture
    def full(self):
        """Files may not grow beyond ten bytes."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)

    @pytest.mark.parametrize("mode", ["w+b", "w+"])
    def test_nothing_is_lost(self, mode, full, place):
        """When the disk is full the contents stay in memory, whole, and can be moved later."""
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

    def test_no_file_to_be_had(self, place, monkeypatch):
        """Without a place on disk it is the same; the error names the path."""
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
        """A file that nobody closed is closed, with one warning, CPython's."""
        file = SpooledTemporaryFile(buffering=buffering)
        if rolled:
            file.rollover()
        described = r"^Unclosed file <.*SpooledTemporaryFile object at 0x[0-9a-f]+>$"
        with pytest.warns(ResourceWarning, match=described) as caught:
            del file
        assert len(caught) == 1

    def test_method_on_disk_keeps_the_file(self, place):
        """CPython issue 18879: a method that outlives its file goes on working."""
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
        """To call __del__ closes the file on disk, as in CPython."""
        file = SpooledTemporaryFile()
        file.rollover()
        descriptor = file.fileno()
        with pytest.warns(ResourceWarning, match="Unclosed"):
            file.__del__()
        assert file.closed
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)

    def test_bad_arguments(self, recwarn):
        """An object that was never made is no unclosed file."""
        with pytest.raises(TypeError):
            SpooledTemporaryFile(mode=2)
        with pytest.raises(LookupError):
            SpooledTemporaryFile(mode="w", encoding="no-such-encoding")
        with pytest.raises(TypeError):
            SpooledTemporaryFile(no_such_argument=1)
        assert not recwarn.list

    def test_weak_reference_and_pickle(self):
        """It can be referred to weakly; on disk it can't be pickled, as in CPython."""
        with SpooledTemporaryFile() as file:
            assert weakref.ref(file)() is file
            file.rollover()
            with pytest.raises(TypeError, match="cannot pickle"):
                pickle.dumps(file)

    def test_generic(self):
        """It can be subscribed, as in CPython."""
        assert isinstance(SpooledTemporaryFile[bytes], types.GenericAlias)


class TestInterface:
    """Python 3.11's full io.IOBase, on every Python (gh-70363)."""

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
        """What is below a text file can be taken away."""
        file = SpooledTemporaryFile(mode="w", encoding="utf-8")
        file.write("x")
        assert file.detach().getvalue() == b"x"
        file._file = _spooled._CLOSED

    def test_closed_context(self):
        """A closed file can't be entered; closing again is no error."""
        file = SpooledTemporaryFile()
        file.close()
        file.close()
        with pytest.raises(ValueError, match="closed file"), file:
            pass
