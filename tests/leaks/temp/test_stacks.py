from __future__ import annotations

import os
import threading

from owner_suite import functions
import pytest

from pytest_tempres.leaks.temp import audit as module


@pytest.mark.parametrize(
    "variable, phase",
    [
        ("t.py::test (setup)", "setup"),
        ("t.py::test[a (call)] (teardown)", "teardown"),
        ("t.py::test (call)", "call"),
        ("nonsense", None),
        (None, None),
    ],
)
def test_the_phase_of_a_test_is_read_from_the_environment(
    origins, root, running, monkeypatch, variable, phase
):
    """Pytest sets `PYTEST_CURRENT_TEST`."""
    running.phase = None
    if variable is None:
        monkeypatch.delenv("PYTEST_CURRENT_TEST")
    else:
        monkeypatch.setenv("PYTEST_CURRENT_TEST", variable)
    module._forward("os.mkdir", (str(root / "x"), 0o777, -1))
    assert origins.hints["x"].phase == phase


def test_a_hint_from_a_thread_has_the_stack_of_the_thread(origins, root):
    """The owner is the test that started it."""

    def in_a_thread():
        os.mkdir(root / "x")

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    names = functions(origins.hints["x"])
    assert names[0] == "in_a_thread"
    assert "test_a_hint_from_a_thread_has_the_stack_of_the_thread" not in names


def test_generated_code_is_on_the_stack(origins, root):
    """Code from `exec` has a file name too."""
    code = compile("def f(): os.mkdir(path)\nf()", "<generated>", "exec")
    exec(code, {"os": os, "path": root / "x"})
    files = [frame.co_filename for frame, _ in origins.hints["x"].stack]
    assert files[:3] == ["<generated>", "<generated>", __file__]


def called_from(filename, function):
    """Call *function* from code with the file name *filename*."""
    exec(compile("def call(): function()\ncall()", filename, "exec"), {"function": function})


def test_a_stack_ends_at_the_first_frame_of_pytest(origins, root):
    """Frames of plugins beyond it are left out too."""

    def a_test():
        (root / "x").mkdir()

    called_from(os.path.join("lib", "_pytest", "runner.py"), a_test)
    assert functions(origins.hints["x"])[-1] == "a_test"
    # The file of a package whose name only ends in _pytest does not count.
    called_from(os.path.join("my_pytest", "runner.py"), (root / "y").mkdir)
    assert "test_a_stack_ends_at_the_first_frame_of_pytest" in functions(origins.hints["y"])


def test_a_deep_stack_is_cut_at_a_hundred_frames(origins, root):
    """The nearest frames are kept."""

    def dive(depth):
        if depth:
            dive(depth - 1)
        else:
            os.mkdir(root / "x")

    dive(300)
    assert functions(origins.hints["x"]) == ["dive"] * 100


def test_the_recursion_limit_in_the_hook_does_not_break_the_call(origins, root):
    """There may be no hint, but the file is created."""
    made = []

    def dive(depth):
        try:
            dive(depth + 1)
        except RecursionError:
            if not made:
                os.mkdir(root / str(depth))
                made.append(str(depth))

    dive(0)
    assert os.listdir(root) == made
