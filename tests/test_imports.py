from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
import sys
from typing import NamedTuple

import pytest

import pytest_tempres

PACKAGE = "pytest_tempres"

#: What may import what: a part imports from the rows before its own, and a package from itself.
ROWS = (
    {"exceptions", "as_written"},
    {"primitives"},
    {"workspace", "leaks"},
    {"artifacts", "reports"},
    {"cli"},
    {"hookspecs", "markers", "options"},
    {"session"},
    {"fixtures", "workers"},
    {"plugin", "__main__"},
)
ROW_OF = {room: number for number, rooms in enumerate(ROWS) for room in rooms}
FRONT = ROW_OF["options"]
#: What the public face, which stands outside the rows, may import.
FACE = {"exceptions"}
#: What may import the public face: its version.
READERS = {"cli"}
WORKERS = {"execnet", "xdist"}
#: What the HTML report needs, from an optional extra.
TEMPLATES = {"jinja2"}
#: Modules that exist for type checkers alone, and what keeps them from being imported.
TYPES = {"_typeshed", "typing_extensions"}
GUARD = "TYPE_CHECKING"


class Import(NamedTuple):
    """One import statement's module, as far as it can be told without running it."""

    line: int
    module: str
    for_types: bool


def imports(path: Path, module: str) -> Iterator[Import]:
    """Yield what the file at *path* imports, in functions and under conditions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).removeprefix("typing.") == GUARD
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        for name in names(node, module, is_package=path.name == "__init__.py"):
            yield Import(node.lineno, name, id(node) in for_types)


def names(node: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield the full names that one statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = module.split(".")
            kept = above[: len(above) - node.level + is_package]
            base = ".".join((*kept, base) if base else kept)
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called == "__import__" or called.endswith("import_module"):
            yield "?"


def modules(root: Path) -> dict[str, Path]:
    """Return the modules of the package at *root* by their full names."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = (PACKAGE, *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    """Return the room that a module of the package is in; the package itself has none."""
    return f"{module}.".split(".")[1]


def violations(root: Path) -> list[str]:
    """Return what breaks the import rule in the package at *root*."""
    known = modules(root)
    graph: dict[str, set[str]] = {}
    found = []
    for module, path in known.items():
        graph[module] = set()
        if room(module) and room(module) not in ROW_OF:
            found.append(f"{module} has no row")
            continue
        for each in imports(path, module):
            problem = judge(module, each, known)
            if problem:
                found.append(f"{module}:{each.line} {problem}")
            graph[module].add(nearest(each.module, known))
    return found + circles(graph)


def judge(module: str, each: Import, known: dict[str, Path]) -> str | None:
    """Return what is wrong with an import, if anything."""
    if each.module == "?":
        return "imports what cannot be read"
    top = each.module.partition(".")[0]
    if top == PACKAGE:
        return judge_own(module, nearest(each.module, known))
    if top in sys.stdlib_module_names or (top in TYPES and each.for_types):
        return None
    return judge_foreign(room(module), top, for_types=each.for_types)


def judge_own(module: str, target: str) -> str | None:
    """Return what is wrong with an import of our own, if anything."""
    here, there = room(module), room(target)
    if not there:
        return None if here in READERS else "imports the public face"
    if not here:
        return None if there in FACE else f"imports {target}"
    allowed = here == there or ROW_OF.get(there, len(ROWS)) < ROW_OF[here]
    return None if allowed else f"imports {target}"


def judge_foreign(here: str, top: str, *, for_types: bool) -> str | None:
    """Return what is wrong with an import of somebody else's, if anything."""
    if top in WORKERS:
        return None if here == "workers" else f"imports {top}"
    if top in TEMPLATES:
        return None if here == "reports" else f"imports {top}"
    if top == "pytest" and (ROW_OF.get(here, -1) >= FRONT or (here == "reports" and for_types)):
        return None
    return f"imports {top}"


def nearest(name: str, known: dict[str, Path]) -> str:
    """Return the module that *name* is, or is in."""
    while name not in known and "." in name:
        name = name.rpartition(".")[0]
    return name


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules that cannot be put in any order."""
    left = {module: needs - {module} for module, needs in graph.items()}
    while True:
        needed = set().union(*left.values())
        bound = {m: needs & left.keys() for m, needs in left.items() if m in needed}
        bound = {module: needs for module, needs in bound.items() if needs}
        if bound == left:
            return [f"{module} is in a circle" for module in left]
        left = bound


# -- the package


def test_modules_import_only_from_rows_below():
    """A part can be read, tested and replaced without those above it."""
    assert violations(Path(pytest_tempres.__file__).parent) == []


def test_every_row_has_its_modules():
    """The table above names each module that exists, and nothing else."""
    rooms = {room(module) for module in modules(Path(pytest_tempres.__file__).parent)}
    assert rooms - {""} == set(ROW_OF)


# -- the test of the test


@pytest.fixture
def check(tmp_path):
    """Return the violations in a small package in which one file was changed."""

    def check(*changes: tuple[str, str]) -> list[str]:
        sources = {
            "__init__": "",
            "exceptions": "import os",
            "primitives/__init__": "from pytest_tempres.primitives._create import make",
            "primitives/_create": "from pytest_tempres.exceptions import RemovalError",
            "workspace/__init__": "",
            "workspace/root": "from pytest_tempres.primitives import make",
            "workspace/lock": "",
            "leaks/__init__": "",
            "leaks/model": "",
            "reports/__init__": "",
            "reports/terminal": "from pytest_tempres.leaks.model import Leak",
            "options": "import pytest",
            "markers": "",
            "session/__init__": "",
            "session/state": "from pytest_tempres.options import Settings",
            "workers/__init__": "",
            "workers/xdist": "",
            "plugin": "from pytest_tempres.session import state",
            **dict(changes),
        }
        for name, text in sources.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return violations(tmp_path)

    return check


def test_package_that_follows_the_rule_has_no_violations(check):
    """Allowed imports are not reported."""
    assert check() == []


@pytest.mark.parametrize(
    "module, source",
    [
        ("__init__", "from pytest_tempres.exceptions import RemovalError"),
        ("workspace/root", "from pytest_tempres.workspace import lock"),
        ("workspace/root", "from . import lock\nfrom .lock import take"),
        ("workspace/root", "from ..primitives import make\nfrom .. import exceptions"),
        ("reports/terminal", "import typing\nif typing.TYPE_CHECKING:\n    import pytest"),
        ("reports/terminal", "if TYPE_CHECKING:\n    from typing_extensions import Self"),
        ("reports/terminal", "import jinja2"),
        ("workers/xdist", "import execnet\nfrom xdist import plugin\nimport pytest"),
        ("plugin", "def f():\n    from pytest_tempres.reports import terminal"),
    ],
)
def test_allowed_imports(check, module, source):
    """Lower rows, the same package, types and the workers' module."""
    assert check((module, source)) == []


@pytest.mark.parametrize(
    "module, source, problem",
    [
        ("exceptions", "import pytest_tempres.primitives", "imports pytest_tempres.primitives"),
        ("primitives/_create", "x = 1\nfrom pytest_tempres.leaks import model", None),
        ("workspace/root", "from pytest_tempres.leaks.model import Leak", None),
        ("workspace/root", "from ..leaks import model", None),
        ("leaks/model", "from pytest_tempres import workspace", None),
        ("leaks/model", "def f():\n    from pytest_tempres.options import read", None),
        ("leaks/model", "if TYPE_CHECKING:\n    from pytest_tempres.session import state", None),
        ("leaks/model", "import pytest", "imports pytest"),
        ("leaks/model", "if TYPE_CHECKING:\n    import pytest", "imports pytest"),
        ("leaks/model", "from pytest_tempres import __version__", "imports the public face"),
        ("leaks/model", "import importlib\nimportlib.import_module(name)", "cannot be read"),
        ("leaks/model", "__import__('pytest')", "cannot be read"),
        ("reports/terminal", "import pytest", "imports pytest"),
        ("reports/terminal", "if not TYPE_CHECKING:\n    import pytest", "imports pytest"),
        ("reports/terminal", "if TYPE_CHECKING:\n    pass\nelse:\n    import pytest", "pytest"),
        ("reports/terminal", "from typing_extensions import Self", "typing_extensions"),
        ("options", "import requests", "imports requests"),
        ("options", "import jinja2", "imports jinja2"),
        ("options", "from _pytest.config import Config", "imports _pytest"),
        ("options", "from pytest_tempres.session.state import SessionState", None),
        ("options", "from pytest_tempres import markers", "imports pytest_tempres.markers"),
        (
            "session/state",
            "from pytest_tempres.workers import xdist",
            "imports pytest_tempres.workers",
        ),
        ("session/state", "from xdist import plugin", "imports xdist"),
        ("__init__", "import pytest", "imports pytest"),
        ("__init__", "from pytest_tempres import plugin", "imports pytest_tempres.plugin"),
        ("newcomer", "", "pytest_tempres.newcomer has no row"),
    ],
)
def test_forbidden_imports(check, module, source, problem):
    """Imports that lead up, sideways or out are found wherever in a module they are."""
    found = check((module, source))
    assert len(found) >= 1
    assert found[0].startswith(f"{PACKAGE}.{module.replace('/', '.')}".removesuffix(".__init__"))
    assert (problem or "imports pytest_tempres.") in found[0]


def test_import_cycle_in_a_package_is_found(check):
    """Modules of one package may import one another in one direction only."""
    found = check(
        ("workspace/root", "from pytest_tempres.workspace import lock"),
        ("workspace/lock", "def f():\n    from pytest_tempres.workspace.root import create"),
        ("reports/terminal", "from pytest_tempres.workspace import root"),
    )
    assert found == [
        "pytest_tempres.workspace.lock is in a circle",
        "pytest_tempres.workspace.root is in a circle",
    ]
