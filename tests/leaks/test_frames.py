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
def frame_filter() -> FrameFilter:
    """The filter for a project."""
    return FrameFilter(ROOT)


def frame(filename, line=1, function="f"):
    """Return a raw frame."""
    code = compile("pass", filename, "exec").replace(co_name=function)
    return code, line


def test_a_file_of_the_project_is_relative_to_rootdir(frame_filter):
    """A report does not depend on the location of the checkout."""
    assert frame_filter.report_name(os.path.join(ROOT, "src", "lib.py")) == os.path.join(
        "src", "lib.py"
    )


def test_a_file_elsewhere_keeps_its_full_path(frame_filter):
    """Its directory may have rootdir as a string prefix."""
    for path in (f"{ROOT}-other{os.sep}lib.py", os.path.join(os.sep, "opt", "lib.py")):
        assert frame_filter.report_name(path) == path


def test_an_installed_library_is_shown(frame_filter):
    """It may be the cause of the leak."""
    path = os.path.join(SITE, "requests", "api.py")
    assert frame_filter.report_name(path) == os.path.relpath(path, ROOT)
    assert frame_filter.report_name(os.path.join(STDLIB, "site-packages", "x.py")) is not None


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
def test_frames_that_the_user_cannot_change_are_hidden(frame_filter, filename):
    """The standard library, generated code, and packages that run tests."""
    assert frame_filter.report_name(filename) is None


def test_a_doctest_is_shown(frame_filter):
    """It is code of the project."""
    assert frame_filter.report_name("<doctest README.md[0]>") == "<doctest README.md[0]>"


TEMPFILE = frame(tempfile.__file__, 384, "mkdtemp")
POOL = frame(os.path.join(STDLIB, "concurrent", "futures", "thread.py"), 59, "run")
PLUGIN_CODE = frame(
    os.path.join(os.path.dirname(pytest_tempres.__file__), "primitives", "_create.py")
)


@pytest.mark.parametrize(
    "stack, named",
    [
        ([TEMPFILE, POOL], TEMPFILE),
        ([PLUGIN_CODE, POOL], POOL),
        ([frame("<string>"), POOL], POOL),
        # Created by pytest itself, not by the code that it calls.
        ([TEMPFILE, frame(pytest.__file__, 7), POOL], frame(pytest.__file__, 7)),
    ],
    ids=["pool", "plugin code", "generated", "pytest"],
)
def test_a_stack_without_project_code_keeps_one_frame(frame_filter, stack, named):
    """A thread pool may call `tempfile.mkdtemp` directly."""
    code, line = named
    assert frame_filter.origin(stack) == (Frame(code.co_filename, line, code.co_name),)


@pytest.mark.parametrize("stack", [[], [PLUGIN_CODE], [frame("<frozen importlib._bootstrap>")]])
def test_a_stack_of_plugin_code_alone_is_empty(frame_filter, stack):
    """Frames without a file are left out too."""
    assert frame_filter.origin(stack) == ()


def plugin(name, *path, package=False):
    """Return a module as pytest registers it."""
    module = ModuleType(name)
    module.__file__ = os.path.join(*path)
    if package:
        module.__path__ = [os.path.dirname(module.__file__)]
    return module


def installed(name, *path, package=False):
    """Return a plugin in site-packages."""
    return plugin(name, SITE, *path, package=package)


@pytest.fixture
def registered(monkeypatch):
    """The plugins that are imported and registered."""
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
def test_frames_of_installed_plugins_are_hidden(registered, path):
    """All modules of a plugin's package count."""
    frame_filter = FrameFilter(ROOT, lambda: registered)
    own = frame(os.path.join(ROOT, "t.py"))
    assert frame_filter.origin([own, frame(os.path.join(*path))]) == (Frame("t.py", 1, "f"),)


@pytest.mark.parametrize(
    "path",
    [
        (ROOT, "conftest.py"),
        (ROOT, "tests", "local_pytest.py"),
        # A library that includes a plugin is code under test.
        (SITE, "library", "core.py"),
        (SITE, "library", "conftest.py"),
        (SITE, "pytest_thing_else", "core.py"),
        (SITE, "pytest_alone.py.d", "core.py"),
    ],
)
def test_frames_of_conftest_and_local_plugins_are_shown(registered, path):
    """They are code of the project."""
    frame_filter = FrameFilter(ROOT, lambda: registered)
    own = frame(os.path.join(*path))
    below = frame(os.path.join(SITE, "pytest_thing", "plugin.py"))
    assert [each.function for each in frame_filter.origin([own, below])] == ["f"]
    assert frame_filter.origin([own])[0].file == os.path.relpath(os.path.join(*path), ROOT)


@pytest.mark.parametrize("where", ["pytest_thing", os.path.join("src", "pytest_thing")])
def test_a_plugin_under_test_is_shown(registered, tmp_path, where):
    """A plugin that rootdir contains is code under test, even if it is installed."""
    (tmp_path / where).mkdir(parents=True)
    frame_filter = FrameFilter(str(tmp_path), lambda: registered)
    path = os.path.join(SITE, "pytest_thing", "plugin.py")
    assert frame_filter.origin([frame(path), frame(path)]) == (Frame(path, 1, "f"),) * 2


def test_a_plugin_is_shown_if_no_other_frame_is_left(registered):
    """Its line is more useful than that of `tempfile`."""
    frame_filter = FrameFilter(ROOT, lambda: registered)
    path = os.path.join(SITE, "pytest_thing", "plugin.py")
    named = os.path.relpath(path, ROOT)
    assert frame_filter.origin([TEMPFILE, frame(path)]) == (Frame(named, 1, "f"),)
    assert frame_filter.nearest([TEMPFILE, frame(path)]) == named


def test_a_plugin_is_hidden_if_a_library_frame_is_left(registered):
    """A plugin's event loop calls code of the test."""
    frame_filter = FrameFilter(ROOT, lambda: registered)
    loop = frame(os.path.join(STDLIB, "asyncio", "events.py"))
    stack = [TEMPFILE, loop, frame(os.path.join(SITE, "pytest_thing", "plugin.py"))]
    assert [each.function for each in frame_filter.origin(stack)] == ["mkdtemp"]


def test_the_result_for_a_filename_is_cached(frame_filter, monkeypatch):
    """Many leaks may come from one file."""
    judged = []
    monkeypatch.setattr(frame_filter, "_is_hidden", lambda name: judged.append(name) or False)
    for _ in range(3):
        frame_filter.report_name("a.py")
    assert judged == ["a.py"]
