"""What type checkers know of the primitives; checked by mypy and pyright, never run."""

from __future__ import annotations

import io
from pathlib import Path
import sys
from typing import IO
from typing import Any

from typing_extensions import assert_type

from pytest_tempres.primitives import TMP_MAX
from pytest_tempres.primitives import NamedTemporaryFile
from pytest_tempres.primitives import SpooledTemporaryFile
from pytest_tempres.primitives import TemporaryDirectory
from pytest_tempres.primitives import TemporaryFile
from pytest_tempres.primitives import gettempdir
from pytest_tempres.primitives import gettempdirb
from pytest_tempres.primitives import gettempprefix
from pytest_tempres.primitives import gettempprefixb
from pytest_tempres.primitives import mkdtemp
from pytest_tempres.primitives import mkstemp
from pytest_tempres.primitives import mktemp
from pytest_tempres.primitives import tempdir


def constants() -> None:
    assert_type(TMP_MAX, int)
    assert_type(tempdir, "str | None")
    assert_type(gettempdir(), str)
    assert_type(gettempdirb(), bytes)
    assert_type(gettempprefix(), str)
    assert_type(gettempprefixb(), bytes)


def names_by_argument() -> None:
    assert_type(mkstemp(), "tuple[int, str]")
    assert_type(mkstemp(b".txt"), "tuple[int, bytes]")
    assert_type(mkstemp(dir=Path()), "tuple[int, str]")
    assert_type(mkdtemp(), str)
    assert_type(mkdtemp(prefix=b"x"), bytes)
    assert_type(mkdtemp(dir=b"/tmp"), bytes)
    assert_type(mktemp("x"), str)


def unnamed_by_mode(mode: str) -> None:
    if sys.platform == "win32":
        # There it is NamedTemporaryFile.
        return
    assert_type(TemporaryFile(), io.BufferedRandom)
    assert_type(TemporaryFile("w+b"), io.BufferedRandom)
    assert_type(TemporaryFile("wb"), io.BufferedWriter)
    assert_type(TemporaryFile("rb"), io.BufferedReader)
    assert_type(TemporaryFile("wb", 0), io.FileIO)
    assert_type(TemporaryFile(buffering=0), io.FileIO)
    assert_type(TemporaryFile("w+"), io.TextIOWrapper)
    assert_type(TemporaryFile(mode), IO[Any])


def named_by_mode(mode: str) -> None:
    with NamedTemporaryFile() as binary:
        assert_type(binary.read(), bytes)
        assert_type(binary.write(b""), int)
        assert_type(binary.write(bytearray()), int)
        assert_type(binary.name, str)
        assert_type(binary.file, IO[bytes])
        assert_type(binary.delete, bool)
        assert_type(binary.closed, bool)
        for line in binary:
            assert_type(line, bytes)
    with NamedTemporaryFile("w+", delete_on_close=False) as text:
        assert_type(text.readline(), str)
        text.writelines(["a"])
    assert_type(NamedTemporaryFile(mode).read(), Any)
    accepts_file(NamedTemporaryFile())


def spooled_by_mode(mode: str) -> None:
    assert_type(SpooledTemporaryFile(), SpooledTemporaryFile[bytes])
    assert_type(SpooledTemporaryFile(10), SpooledTemporaryFile[bytes])
    assert_type(SpooledTemporaryFile(mode="w"), SpooledTemporaryFile[str])
    assert_type(SpooledTemporaryFile(10, "w+"), SpooledTemporaryFile[str])
    with SpooledTemporaryFile() as binary:
        assert_type(binary.read(), bytes)
        assert_type(binary.readlines(), list[bytes])
        assert_type(binary.rollover(), None)
        assert_type(binary.truncate(), int)
        assert_type(binary.write(b""), int)
        accepts_file(binary)
    anything: SpooledTemporaryFile[Any] = SpooledTemporaryFile(mode=mode)
    anything.close()


def directory_by_argument() -> None:
    assert_type(TemporaryDirectory(), TemporaryDirectory[str])
    assert_type(TemporaryDirectory(prefix=b"x"), TemporaryDirectory[bytes])
    with TemporaryDirectory(dir=Path(), delete=False) as text:
        assert_type(text, str)
    with TemporaryDirectory(b"x") as binary:
        assert_type(binary, bytes)
    directory = TemporaryDirectory()
    directory.delete = False
    assert_type(directory.cleanup(), None)


def refused() -> None:
    mkstemp("a", b"b")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    mkdtemp("a", dir=b"b")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    TemporaryDirectory("a", b"b")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    NamedTemporaryFile("w").write(b"")  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    NamedTemporaryFile().write("")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    NamedTemporaryFile("w", keep=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def accepts_file(file: IO[bytes]) -> None:
    file.close()
