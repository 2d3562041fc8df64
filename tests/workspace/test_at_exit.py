from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytest_tempres.primitives import _process

#: A session that ends before the exit handlers have cleaned up in its root.
PROGRAM = """
import atexit, os, sys, tempfile
{before}
from pytest_tempres.leaks.deferred import delete_open_files
from pytest_tempres.primitives import _process
from pytest_tempres.workspace.root import create
_process.install_exit_finalizer()
root = create(sys.argv[1], mode=0o700, metadata={{}})
worker = root.add_worker("main", 0o700)
{after}
_process.call_at_exit(lambda: (delete_open_files(root.path), root.remove_if_empty()))
"""


@pytest.fixture
def callbacks(monkeypatch) -> list[object]:
    """An empty list of exit callbacks in place of those of the outer session."""
    callbacks: list[object] = []
    monkeypatch.setattr(_process, "_callbacks", lambda: callbacks)
    return callbacks


@pytest.fixture
def run(tmp_path):
    """Run a program that registers the removal of its root; return what is left of the root."""

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


def test_each_callback_runs_once_even_if_another_one_fails(callbacks):
    """An exception in one callback is ignored."""
    done = []
    _process.call_at_exit(lambda: done.append("first"))
    _process.call_at_exit(lambda: 1 / 0)
    _process.call_at_exit(lambda: done.append("last"))
    _process._run_all(callbacks)
    assert sorted(done) == ["first", "last"]
    assert callbacks == []


def test_a_forked_child_does_not_run_the_callbacks_of_its_parent(callbacks, in_child):
    """A child that exits does not remove its parent's root."""
    done = []
    _process.call_at_exit(lambda: done.append(1))
    assert in_child(lambda: _process._run_all(callbacks) is None and not done)
    _process._run_all(callbacks)
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
def test_the_root_is_removed_after_all_exit_handlers_have_cleaned_up(run, after):
    """Exit handlers and finalizers remove their directories in it first."""
    assert run(after) == []


def test_the_root_is_removed_even_if_a_finalizer_is_older_than_ours(run):
    """All finalizers run at the exit position of the first one, and ours runs last."""
    before = "early = tempfile.TemporaryDirectory(dir=sys.argv[1])"
    after = "kept = tempfile.TemporaryDirectory(dir=worker.path)"
    assert run(after, before) == []


def test_a_root_that_is_not_empty_at_exit_is_left_to_a_sweep(run):
    """The root keeps the breadcrumb that proves it to be ours."""
    left = run("tempfile.mkstemp(dir=worker.path)")
    assert {os.path.basename(path) for path in left} >= {".tempres.json", ".lock", "main"}
