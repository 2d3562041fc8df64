from __future__ import annotations

import ast
from importlib import import_module
import inspect
import subprocess
import sys
import typing

import pytest

import pytest_tempres


def imported_for_types():
    """Yield the names that type checkers see, and the module of each."""
    for node in ast.parse(inspect.getsource(pytest_tempres)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                for alias in statement.names:
                    yield alias.name, statement.module


@pytest.mark.parametrize("name, module", list(imported_for_types()))
def test_name_is_what_type_checkers_see(name, module):
    """Each name that is imported on use is the object that type checkers take it for."""
    assert name in pytest_tempres.__all__
    assert name in dir(pytest_tempres)
    assert getattr(pytest_tempres, name) is getattr(import_module(module), name)


def test_all_names_exist():
    """Each public name can be imported."""
    assert [n for n in pytest_tempres.__all__ if getattr(pytest_tempres, n, None) is None] == []


def test_unknown_name():
    """The error is that of any module."""
    with pytest.raises(AttributeError, match=r"^module 'pytest_tempres' has no attribute 'Leek'$"):
        _ = pytest_tempres.Leek


def test_annotations_can_be_evaluated():
    """Tools that evaluate annotations find the names."""

    def test(resources: pytest_tempres.TempResources, leak: pytest_tempres.Leak) -> None: ...

    hints = typing.get_type_hints(test, {"pytest_tempres": pytest_tempres})
    assert hints["resources"].__name__ == "TempResources"
    assert hints["leak"].__name__ == "Leak"


@pytest.mark.parametrize("use, loaded", [("", False), (".Leak", False), (".TempResources", True)])
def test_import_is_light(use, loaded):
    """Neither the package nor its records need pytest; the signatures are never imported."""
    code = (
        "import sys, pytest_tempres\n"
        f"pytest_tempres{use}\n"
        "print('pytest' in sys.modules, 'pytest_tempres.signatures' in sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.split() == [str(loaded), "False"]


def test_package_alone_loads_only_exceptions():
    """The import of the package loads none of the modules whose names it exports."""
    code = "import sys, pytest_tempres; print(*(m for m in sys.modules if 'tempres' in m))"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert set(output.split()) == {"pytest_tempres", "pytest_tempres.exceptions"}
