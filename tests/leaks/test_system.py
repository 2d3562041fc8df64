from __future__ import annotations

import os
import time

import pytest

from pytest_tempres.leaks import ledger
from pytest_tempres.leaks import origins
from pytest_tempres.leaks import temp_root
from pytest_tempres.leaks.system import System


@pytest.mark.parametrize("name", [name for name in vars(System) if not name.startswith("_")])
def test_replacements_do_not_reach_us(monkeypatch, name):
    """What a test puts in the place of a function is not what we call."""
    for module in (os, os.path, time):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, None)
    assert callable(getattr(System, name))


@pytest.mark.parametrize("module", [ledger, origins, temp_root], ids=lambda module: module.__name__)
def test_no_module_holds_what_a_fake_would_replace(module):
    """Fakes look through the namespaces of all modules for the functions that they stand for."""
    originals = [vars(System)[name].__func__ for name in vars(System) if not name.startswith("_")]
    assert not [name for name, value in vars(module).items() if value in originals]
