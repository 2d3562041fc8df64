from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from types import ModuleType

import pluggy
import pytest

import pytest_tempres
from pytest_tempres.leaks.frames import FrameFilter
from pytest_tempres.leaks.model import Frame

ROOT = os.path.abspath(os.path.join(os.sep, "home", "me", "project"))
SITE = os.path.join(ROOT, ".venv", "lib", "site-packages")
STDLIB = sysconfig.get_paths()["stdlib"]


@pytest.fixture
def folder() -> FrameFilter:
    """A folder for a project."""
    return FrameFilter(ROOT)


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
def test_what_nobody_can_change_is_hidden_away(folder, filename):
    """The standard library, generated code and what runs tests are never the line to change."""
    assert folder.show(filename) is None


def test_a_doctest_is_shown(folder):
    """An example in a docstring can be changed by a person."""
    assert folder.show("<doctest README.md[0]>") == "<doctest README.md[0]>"


TEMPFILE = frame(tempfile.__file__, 384, "mkdtemp")
POOL = frame(os.path.join(STDLIB, "concurrent", "futures", "thread.py"), 59, "run")
OURS = frame(os.path.join(os.path.dirname(pytest_tempres.__file__), "primitives", "_create.py"))


@pytest.mark.parametrize(
    "stack, shown",
    [
        ([TEMPFILE, POOL], TEMPFILE),
        ([OURS, POOL], POOL),
        ([frame("<string>"), POOL], POOL),
        # It is pytest itself that makes something, not what it was told to call.
        ([TEMPFILE, frame(pytest.__file__, 7), POOL], frame(pytest.__file__, 7)),
    ],
    ids=["pool", "ours", "generated", "pytest"],
)
def test_a_stack_without_any_code_of_ones_own_keeps_one_line(folder, stack, shown):
    """A thread pool that is given `tempfile.mkdtemp` itself has one line to show, not none."""
    code, line = shown
    assert folder.origin(stack) == (Frame(code.co_filename, line, code.co_name),)


@pytest.mark.parametrize("stack", [[], [OURS], [frame("<frozen importlib._bootstrap>")]])
def test_a_stack_of_ours_alone_is_empty(folder, stack):
    """What is ours or has no file is no line to show."""
    assert folder.origin(stack) == ()


def plugin(name, *path, package=False):
    """Return a module as pytest would have registered it."""
    module = ModuleType(name)
    module.__file__ = os.path.join(*path)
    if package:
        module.__path__ = [os.path.dirname(module.__file__)]
    return module


def installed(name, *path, package=False):
    """Return a plugin in the environment of the project."""
    return plugin(name, SITE, *path, package=package)


@pytest.fixture
def registered(monkeypatch):
    """The plugins that stand around the tests, imported and registered."""
    asyncio = installed("pytest_thing", "pytest_thing", "__init__.py", package=True)
    monkeypatch.setitem(sys.modules, "pytest_thing", asyncio)
    return [
        installed("pytest_thing.plugin", "pytest_thing", "plugin.py"),
        installed("pytest_alone", "pytest_alone.py"),
        installed("library.pytest_plugin", "library", "pytest_plugin.py"),
        installed("library.conftest", "library", "conftest.py"),
        ModuleType("pytest_without_a_file"),
        plugin("conftest", ROOT, "conftest.py"),
        plugin("local_pytest", ROOT, "tests", "local_pytest.py"),
        object(),
    ]


@pytest.mark.parametrize(
    "path",
    [
        (SITE, "pytest_thing", "plugin.py"),
        (SITE, "pytest_thing", "deep", "loops.py"),
        (SITE, "pytest_alone.py"),
        (SITE, "library", "pytest_plugin.py"),
    ],
)
def test_installed_plugins_are_folded_away(registered, path):
    """A plugin that calls the test is no line to change, in whatever module of it that is."""
    folder = FrameFilter(ROOT, lambda: registered)
    own = frame(os.path.join(ROOT, "t.py"))
    assert folder.origin([own, frame(os.path.join(*path))]) == (Frame("t.py", 1, "f"),)


@pytest.mark.parametrize(
    "path",
    [
        (ROOT, "conftest.py"),
        (ROOT, "tests", "local_pytest.py"),
        # A library that has a plugin besides is code under test.
        (SITE, "library", "core.py"),
        (SITE, "library", "conftest.py"),
        (SITE, "pytest_thing_else", "core.py"),
        (SITE, "pytest_alone.py.d", "core.py"),
    ],
)
def test_what_is_no_installed_plugin_is_shown(registered, path):
    """A conftest and a plugin of the project are lines that a person can change."""
    folder = FrameFilter(ROOT, lambda: registered)
    own = frame(os.path.join(*path))
    below = frame(os.path.join(SITE, "pytest_thing", "plugin.py"))
    assert [each.function for each in folder.origin([own, below])] == ["f"]
    assert folder.origin([own])[0].file == os.path.relpath(os.path.join(*path), ROOT)


@pytest.mark.parametrize("where", ["pytest_thing", os.path.join("src", "pytest_thing")])
def test_a_plugin_under_test_is_shown(registered, tmp_path, where):
    """What rootdir develops is the code under test, though tox installs it for the tests."""
    (tmp_path / where).mkdir(parents=True)
    folder = FrameFilter(str(tmp_path), lambda: registered)
    path = os.path.join(SITE, "pytest_thing", "plugin.py")
    assert folder.origin([frame(path), frame(path)]) == (Frame(path, 1, "f"),) * 2


def test_a_plugin_that_makes_something_itself_is_named(registered):
    """Where nobody else's line is on the stack, the plugin's tells more than that of `tempfile`."""
    folder = FrameFilter(ROOT, lambda: registered)
    path = os.path.join(SITE, "pytest_thing", "plugin.py")
    shown = os.path.relpath(path, ROOT)
    assert folder.origin([TEMPFILE, frame(path)]) == (Frame(shown, 1, "f"),)
    assert folder.nearest([TEMPFILE, frame(path)]) == shown


def test_a_plugin_that_calls_a_library_is_not_named(registered):
    """An event loop that a plugin runs calls what the test has given it."""
    folder = FrameFilter(ROOT, lambda: registered)
    loop = frame(os.path.join(STDLIB, "asyncio", "events.py"))
    stack = [TEMPFILE, loop, frame(os.path.join(SITE, "pytest_thing", "plugin.py"))]
    assert [each.function for each in folder.origin(stack)] == ["mkdtemp"]


def test_a_filename_is_judged_once(folder, monkeypatch):
    """Ten thousand leaks from one line cost one look at its file."""
    judged = []
    monkeypatch.setattr(folder, "_is_hidden", lambda name: judged.append(name) or False)
    for _ in range(3):
        folder.show("a.py")
    assert judged == ["a.py"]
