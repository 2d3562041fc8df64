from __future__ import annotations

import os
import sysconfig

import pluggy
import pytest

import pytest_tempres
from pytest_tempres.leaks.folding import Folder

ROOT = os.path.abspath(os.path.join(os.sep, "home", "me", "project"))
SITE = os.path.join(ROOT, ".venv", "lib", "site-packages")
STDLIB = sysconfig.get_paths()["stdlib"]


@pytest.fixture
def folder() -> Folder:
    """A folder for a project."""
    return Folder(ROOT)


def frame(filename, line=1, function="f"):
    """Return a raw frame as the detector keeps it."""
    code = compile("pass", filename, "exec").replace(co_name=function)
    return code, line


def test_a_file_of_the_project_is_named_relative_to_it(folder):
    """A report reads the same wherever the project is checked out."""
    assert folder.show(os.path.join(ROOT, "src", "lib.py")) == os.path.join("src", "lib.py")


def test_a_file_elsewhere_keeps_its_full_path(folder):
    """A neighbour whose name only begins like the project's is not in it."""
    for path in (f"{ROOT}-other{os.sep}lib.py", os.path.join(os.sep, "opt", "lib.py")):
        assert folder.show(path) == path


def test_an_installed_library_is_shown(folder):
    """A library is what the code under test calls, and may be what leaks."""
    path = os.path.join(SITE, "requests", "api.py")
    assert folder.show(path) == os.path.relpath(path, ROOT)
    assert folder.show(os.path.join(STDLIB, "site-packages", "x.py")) is not None


@pytest.mark.parametrize(
    "filename",
    [
        os.path.join(STDLIB, "tempfile.py"),
        os.path.join(STDLIB, "json", "decoder.py"),
        "<frozen importlib._bootstrap>",
        "<string>",
        "<stdin>",
        pytest.__file__,
        os.path.join(os.path.dirname(pluggy.__file__), "_callers.py"),
        os.path.join(os.path.dirname(pytest_tempres.__file__), "fixtures.py"),
    ],
)
def test_what_nobody_can_change_is_folded_away(folder, filename):
    """The standard library, generated code and what runs tests are never the line to change."""
    assert folder.show(filename) is None


def test_a_doctest_is_shown(folder):
    """An example in a docstring can be changed by a person."""
    assert folder.show("<doctest README.md[0]>") == "<doctest README.md[0]>"


def test_a_stack_without_any_code_of_ones_own_is_empty(folder):
    """A thread of the standard library alone has no line to show."""
    assert folder.fold([frame(os.path.join(STDLIB, "threading.py"))]) == ()


def test_a_filename_is_judged_once(folder, monkeypatch):
    """Ten thousand leaks from one line cost one look at its file."""
    judged = []
    monkeypatch.setattr(folder, "_is_folded", lambda name: judged.append(name) or False)
    for _ in range(3):
        folder.show("a.py")
    assert judged == ["a.py"]
