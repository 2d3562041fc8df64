"""Tests and a conftest as users write them; checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO
from typing import Any

import pytest
from typing_extensions import assert_type

import pytest_tempres
from pytest_tempres import Leak
from pytest_tempres import Owner
from pytest_tempres import Summary
from pytest_tempres import TemporaryFileWrapper
from pytest_tempres import TempresLeakWarning
from pytest_tempres import TempResources
from pytest_tempres.primitives import SpooledTemporaryFile

# -- conftest.py


@pytest.fixture(scope="module")
def repository(temp_resources_module: TempResources) -> Path:
    return temp_resources_module.dir(prefix="repository-")


@pytest.fixture
def log(temp_resources: TempResources) -> Iterator[TemporaryFileWrapper[str]]:
    with temp_resources.named_file(mode="w+", encoding="utf-8", suffix=".log") as file:
        yield file


@pytest.hookimpl(optionalhook=True)
def pytest_tempres_ignore_leak(leak: Leak) -> bool | None:
    assert_type(leak.path, str)
    assert_type(leak.bytes, int)
    assert_type(leak.owner, Owner)
    return True if is_session_wide(leak.owner) else None


def is_session_wide(owner: Owner) -> bool:
    return owner.kind == "session" or owner.scope == "session"


def pytest_tempres_summary(config: pytest.Config, summary: Summary) -> None:
    for leak in summary.leaks:
        assert_type(leak, Leak)


# -- tests


def test_unnamed(temp_resources: TempResources, mode: str) -> None:
    assert_type(temp_resources.file(), IO[bytes])
    assert_type(temp_resources.file(mode="rb+", content=b"x", suffix=".bin"), IO[bytes])
    assert_type(temp_resources.file(mode="w+", content="x", dir=Path()), IO[str])
    assert_type(temp_resources.file(mode=mode), IO[Any])


def test_named(temp_resources: TempResources, mode: str) -> None:
    with temp_resources.named_file(content=b"x", delete=False) as binary:
        assert_type(binary, TemporaryFileWrapper[bytes])
        assert_type(binary.name, str)
        assert_type(binary.read(), bytes)
    with temp_resources.named_file(mode="w", delete_on_close=False) as text:
        assert_type(text, TemporaryFileWrapper[str])
    assert_type(temp_resources.named_file(mode=mode), TemporaryFileWrapper[Any])


def test_spooled(temp_resources: TempResources, mode: str) -> None:
    assert_type(temp_resources.spooled(max_size=10), SpooledTemporaryFile[bytes])
    assert_type(temp_resources.spooled(mode="w+", content="x"), SpooledTemporaryFile[str])
    assert_type(temp_resources.spooled(mode=mode), SpooledTemporaryFile[Any])


def test_fixtures(
    temp_dir: Path,
    temp_file: IO[bytes],
    named_temp_file: TemporaryFileWrapper[bytes],
    spooled_file: SpooledTemporaryFile[bytes],
    log: TemporaryFileWrapper[str],
) -> None:
    (temp_dir / Path(named_temp_file.name).name).write_bytes(temp_file.read())
    log.write("text")
    spooled_file.rollover()


def test_passed_on(temp_resources: TempResources) -> None:
    accepts_file(temp_resources.file())
    accepts_file(temp_resources.named_file())
    accepts_file(temp_resources.spooled())
    with pytest.warns(TempresLeakWarning):
        pass


def accepts_file(file: IO[bytes]) -> None:
    file.close()


def refused(temp_resources: TempResources) -> None:
    temp_resources.file(content="x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    temp_resources.file("w")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    temp_resources.named_file(mode="w").write(b"")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    temp_resources.spooled(maxsize=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    pytest_tempres.Leek  # type: ignore[attr-defined]  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
