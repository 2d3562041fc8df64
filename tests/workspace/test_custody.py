from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytest_tempres.primitives import _process

#: A session that ends while others still have to clean up in its root.
PROGRAM = """
import atexit, os, sys, tempfile
{before}
from pytest_tempres.leaks.deferred import settle
from pytest_tempres.primitives import _process
from pytest_tempres.workspace.root import create
_process.at_exit()
root = create(sys.argv[1], mode=0o700, about={{}})
worker = root.add_worker("main", 0o700)
{after}
_process.call_at_exit(lambda: (settle(root.path), root.remove_if_empty()))
"""


@pytest.fixture
def handed(monkeypatch) -> list[object]:
    """What was handed over; what the outer session has is set aside."""
    duties: list[object] = []
    monkeypatch.setattr(_process, "_duties", lambda: duties)
    return duties


@pytest.fixture
def run(tmp_path):
    """Run a program that hands over a root, and return what is left of it."""

    def run(after: str, before: str = "") -> list[str]:
        place = tmp_path / "place"
        place.mkdir()
        program = PROGRAM.format(before=before, after=after)
        child = subprocess.run(
            [sys.executable, "-c", program, str(place)], capture_output=True, text=True, check=False
        )
        assert child.returncode == 0, child.stderr
        assert "Error" not in child.stderr
        return [str(path.relative_to(place)) for path in place.rglob("*")]

    return run


def test_duties_are_done_once_and_one_that_fails_hinders_none(handed):
    """At the end of the process nobody is left to be told of a failure."""
    done = []
    _process.call_at_exit(lambda: done.append("first"))
    _process.call_at_exit(lambda: 1 / 0)
    _process.call_at_exit(lambda: done.append("last"))
    _process._do_all(handed)
    assert sorted(done) == ["first", "last"]
    assert handed == []


def test_a_forked_child_does_no_duty_of_its_parent(handed, in_child):
    """A child that ends by itself leaves its parent's root alone."""
    done = []
    _process.call_at_exit(lambda: done.append(1))
    assert in_child(lambda: _process._do_all(handed) is None and not done)
    _process._do_all(handed)
    assert done == [1]


@pytest.mark.parametrize(
    "after",
    [
        "kept = tempfile.TemporaryDirectory(dir=worker.path)",
        "kept = tempfile.NamedTemporaryFile(dir=worker.path)",
        "import pytest_tempres.primitives as ours; kept = ours.TemporaryDirectory(dir=worker.path)",
        "import pytest_tempres.primitives as ours; kept = ours.NamedTemporaryFile(dir=worker.path)",
        "import shutil; atexit.register(shutil.rmtree, tempfile.mkdtemp(dir=worker.path))",
    ],
)
def test_the_root_goes_after_everybody_else_has_cleaned_up(run, after):
    """Whoever promised to clean up at exit does so in time, and then the root is gone."""
    assert run(after) == []


def test_the_root_goes_also_when_finalizers_began_before_us(run):
    """All finalizers run where the first one ever made stands; ours comes last among them."""
    before = "early = tempfile.TemporaryDirectory(dir=sys.argv[1])"
    after = "kept = tempfile.TemporaryDirectory(dir=worker.path)"
    assert run(after, before) == []


def test_a_root_that_is_not_empty_at_exit_waits_for_a_sweep(run):
    """What nobody removed is not ours to remove here: it stays, with the proof that it is ours."""
    left = run("tempfile.mkstemp(dir=worker.path)")
    assert {os.path.basename(path) for path in left} >= {".tempres.json", ".lock", "main"}
