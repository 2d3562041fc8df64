"""The suites whose sessions are killed, and the suite of a session that runs at the same time."""

from __future__ import annotations

from pathlib import Path

__all__ = ["NEIGHBOUR", "SUITES", "write_neighbour", "write_project"]

_INI = "[pytest]\ntempres_keep_sessions = 3\naddopts = -p no:cacheprovider\n"

#: Writes a letter for each step that the session reaches to the file KILLING_PROGRESS.
_CONFTEST = """\
import os


def step(letter):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        fd = os.open(os.environ["KILLING_PROGRESS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(fd, letter.encode())
        os.close(fd)


step("c")


def pytest_runtest_logstart():
    step("t")


def pytest_sessionfinish():
    step("f")


def pytest_terminal_summary():
    step("r")


def pytest_unconfigure():
    step("u")
"""

_PASSING = """\
import os
import tempfile

import pytest


class TestClass:
    @pytest.mark.parametrize("n", range(3))
    def test_wide(self, n, temp_resources_class, temp_resources_module, temp_resources_session):
        for factory in (temp_resources_class, temp_resources_module, temp_resources_session):
            (factory.dir() / "x").write_text("x" * n)
            factory.named_file().write(b"x")


@pytest.mark.parametrize("n", range(30))
def test_each(n, temp_dir, temp_file, named_temp_file, spooled_file, temp_resources):
    for deep in range(n % 5):
        (temp_dir / str(deep) / "below").mkdir(parents=True)
        (temp_dir / str(deep) / "below" / "x").write_text("x")
    temp_file.write(b"x")
    named_temp_file.write(b"x")
    spooled_file.write(b"x" * 100_000)
    temp_resources.dir().joinpath("closed").mkdir(mode=0)
    temp_resources.spooled().rollover()
    with tempfile.TemporaryDirectory() as own:
        os.mkfifo(os.path.join(own, "fifo"))
"""

_FAILING = """\
import os
import tempfile

import pytest


@pytest.mark.parametrize("n", range(3))
def test_failing(n, temp_dir, named_temp_file, temp_resources_module):
    (temp_dir / "own").write_text(f"own {n}")
    (temp_resources_module.dir() / "wide").write_text("wide")
    with open(os.path.join(tempfile.mkdtemp(), "left"), "w") as left:
        left.write("left")
    assert n == 1


@pytest.fixture
def broken(temp_resources):
    yield temp_resources.dir()
    raise RuntimeError


def test_broken(broken):
    (broken / "own").write_text("own")
"""

_LEAKING = """\
import os
import tempfile

import pytest

tempfile.mkdtemp()


@pytest.fixture(scope="module")
def careless():
    return tempfile.mkdtemp()


@pytest.mark.parametrize("n", range(20))
def test_leaking(n, careless, temp_dir):
    os.makedirs(os.path.join(tempfile.mkdtemp(), "a", "b", "c"))
    tempfile.NamedTemporaryFile(delete=False).close()
    open(os.path.join(tempfile.gettempdir(), f"left {n}"), "w").close()
"""

SUITES = {"passing": _PASSING, "failing": _FAILING, "leaking": _LEAKING}

#: A test that waits until the kills are over, and then checks that its files still exist.
NEIGHBOUR = """\
import os
import tempfile


def test_lives(temp_dir, named_temp_file, spooled_file, temp_resources_session):
    spooled_file.rollover()
    (temp_dir / "here").write_text("here")
    named_temp_file.write(b"here")
    named_temp_file.flush()
    wide = temp_resources_session.dir()
    own = tempfile.mkdtemp()
    open(os.environ["KILLING_READY"], "w").close()
    with open(os.environ["KILLING_GO"]) as go:
        go.read()
    assert (temp_dir / "here").read_text() == "here"
    with open(named_temp_file.name) as file:
        assert file.read() == "here"
    assert wide.is_dir()
    os.rmdir(own)
"""


def write_project(place: Path) -> None:
    """Write the project whose sessions are killed."""
    place.mkdir()
    (place / "pytest.ini").write_text(_INI, "utf-8")
    (place / "conftest.py").write_text(_CONFTEST, "utf-8")
    for name, text in SUITES.items():
        (place / f"test_{name}.py").write_text(text, "utf-8")


def write_neighbour(place: Path) -> None:
    """Write the project whose session must not be disturbed."""
    place.mkdir()
    (place / "pytest.ini").write_text(_INI, "utf-8")
    (place / "test_neighbour.py").write_text(NEIGHBOUR, "utf-8")
