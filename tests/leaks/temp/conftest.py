from __future__ import annotations

from pathlib import Path

from owner_suite import TEST
import pytest

from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.temp.audit import Origins
from pytest_tempres.leaks.temp.audit import activate
from pytest_tempres.leaks.temp.audit import deactivate


@pytest.fixture
def root(tmp_path) -> Path:
    """The worker root."""
    path = tmp_path / "main"
    path.mkdir()
    return path


@pytest.fixture
def running() -> Running:
    """The current owner is a test."""
    running = Running()
    running.owner, running.test, running.phase = TEST, TEST.id, "call"
    return running


@pytest.fixture
def origins(root, running):
    """The hints of a session that receives audit events."""
    origins = Origins((f"{root}/",), (), {}, running)
    activate(origins)
    yield origins
    deactivate(origins)
