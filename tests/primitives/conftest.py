"""Fixtures and functions for the tests of the primitives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

import pytest
from safety_helpers import NOBODY

from pytest_tempres import primitives


def open_descriptors() -> set[str]:
    """Return the open descriptors of this process, each with the inode of its file."""
    found = set()
    for number in os.listdir("/dev/fd"):
        try:
            found.add(f"{number} {os.fstat(int(number)).st_ino}")
        except OSError:
            continue
    return found


@pytest.fixture
def place(tmp_path, monkeypatch) -> Iterator[Path]:
    """The temp location of the primitives, which must be empty after the test."""
    directory = tmp_path / "place"
    directory.mkdir()
    monkeypatch.setattr(primitives, "tempdir", str(directory))
    before = open_descriptors()
    yield directory
    assert list(directory.iterdir()) == []
    assert open_descriptors() <= before


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that an unprivileged user owns and can access."""
    directory = tempfile.mkdtemp(prefix="open-", dir="/tmp")
    if os.geteuid() == 0:
        os.chown(directory, NOBODY, NOBODY)
    yield Path(directory)
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _unprivileged() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def unprivileged():
    """A context manager that drops root's privileges, so that modes are enforced."""
    return _unprivileged


@pytest.fixture
def python():
    """Run a program in a new interpreter; return its standard output and standard error."""

    def run(program: str, *options: str) -> tuple[str, str]:
        root = Path(primitives.__file__).parents[2]
        done = subprocess.run(
            [sys.executable, *options, "-c", program],
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "always"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout, done.stderr

    return run
