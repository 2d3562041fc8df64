from __future__ import annotations

import os
import time

import pytest

from pytest_tempres.leaks import ledger
from pytest_tempres.leaks.fds import detector
from pytest_tempres.leaks.fds import names
from pytest_tempres.leaks.temp import audit
from pytest_tempres.leaks.temp import scan
from pytest_tempres.leaks.watch import detector as watch_detector
from pytest_tempres.leaks.watch import tree
from pytest_tempres.primitives._system import System

LOOKING = [detector, names, ledger, audit, scan, tree, watch_detector]
FUNCTIONS = [name for name, value in vars(System).items() if isinstance(value, staticmethod)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_replaced_functions_are_not_called(monkeypatch, name):
    """A test may replace any of these functions."""
    with monkeypatch.context() as patch:
        for module in (os, os.path, time):
            if hasattr(module, name):
                patch.setattr(module, name, None)
        ours = getattr(System, name)
    assert callable(ours)


@pytest.mark.parametrize("name", ["fspath", "getcwd", "lstat", "readlink", "stat"])
def test_replaced_functions_are_not_called_indirectly(monkeypatch, tmp_path, name):
    """The functions of `os.path` call those of `os`, which a test may have replaced too."""
    path = os.path.realpath(tmp_path)
    link = os.path.join(path, "link")
    os.symlink(path, link)
    monkeypatch.chdir(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, None)
        found = [
            System.abspath("link"),
            System.join(path, "link"),
            System.normpath(f"{path}/x/../link"),
            System.fsdecode(os.fsencode(link) if name != "fspath" else link.encode()),
        ]
        assert System.realpath("link") == path
        assert System.isabs(link)
        assert System.isdir(link)
        assert System.lexists(link)
    assert found == [link] * 4


@pytest.mark.parametrize("module", LOOKING, ids=lambda module: module.__name__)
def test_no_module_refers_to_a_function_that_fakes_replace(module):
    """Fakes search all modules for the functions that they replace."""
    originals = [vars(System)[name].__func__ for name in FUNCTIONS]
    assert not [name for name, value in vars(module).items() if value in originals]
