from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
import sys
from typing import NamedTuple

import pytest

import pytest_tempres

PACKAGE = "pytest_tempres"

#: The modules and subpackages, lowest level first. Each may import from lower levels and itself.
LEVELS = (
    {"exceptions", "assertion_rewriting"},
    {"primitives"},
    {"content", "workspace", "leaks"},
    {"artifacts", "reports"},
    {"cli", "hookspecs", "markers", "options", "signatures"},
    {"session"},
    {"fixtures", "workers"},
    {"plugin", "__main__"},
)
LEVEL_OF = {part: number for number, parts in enumerate(LEVELS) for part in parts}
FIRST_WITH_PYTEST = LEVEL_OF["options"]
#: The command starts faster without it.
WITHOUT_PYTEST = {"cli"}
#: What `pytest_tempres/__init__.py`, which has no level, may import at once. What it imports for
#: types is imported when it is used.
PUBLIC = {"exceptions"}
#: What may import `pytest_tempres/__init__.py`: its version.
READS_VERSION = {"cli", "reports"}
XDIST = {"execnet", "xdist"}
#: What the HTML report needs, from an optional extra.
TEMPLATES = {"jinja2"}
#: Modules that exist for type checkers only, and the condition under which they are imported.
TYPE_MODULES = {"_typeshed", "typing_extensions"}
TYPE_GUARD = "TYPE_CHECKING"


class Import(NamedTuple):
    """A module that a statement imports, as far as the source shows it."""

    line: int
    module: str
    for_types: bool


def imports(path: Path, module: str) -> Iterator[Import]:
    """Yield what the file at *path* imports, also in functions and under conditions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).removeprefix("typing.") == TYPE_GUARD
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


def part_of(module: str) -> str:
    """Return the top-level module or subpackage that *module* is in; "" for the package itself."""
    return f"{module}.".split(".")[1]


def violations(root: Path) -> list[str]:
    """Return the imports in the package at *root* that break the rule."""
    known = modules(root)
    graph: dict[str, set[str]] = {}
    found = []
    for module, path in known.items():
        graph[module] = set()
        if part_of(module) and part_of(module) not in LEVEL_OF:
            found.append(f"{module} has no level")
            continue
        for each in imports(path, module):
            problem = problem_of(module, each, known)
            if problem:
                found.append(f"{module}:{each.line} {problem}")
            if module != PACKAGE or not each.for_types:
                graph[module].add(nearest(each.module, known))
    return found + cycles(graph)


def problem_of(module: str, each: Import, known: dict[str, Path]) -> str | None:
    """Return what is wrong with an import, if anything."""
    if module == PACKAGE and (each.module == "?" or each.for_types):
        return None
    if each.module == "?":
        return "imports a module that the source does not name"
    top = each.module.partition(".")[0]
    if top == PACKAGE:
        return problem_in_package(module, nearest(each.module, known))
    if top in sys.stdlib_module_names or (top in TYPE_MODULES and each.for_types):
        return None
    return problem_outside(part_of(module), top, for_types=each.for_types)


def problem_in_package(module: str, target: str) -> str | None:
    """Return what is wrong with an import from the package, if anything."""
    own, imported = part_of(module), part_of(target)
    if not imported:
        return None if own in READS_VERSION else "imports the package itself"
    if not own:
        return None if imported in PUBLIC else f"imports {target}"
    allowed = own == imported or LEVEL_OF.get(imported, len(LEVELS)) < LEVEL_OF[own]
    return None if allowed else f"imports {target}"


def problem_outside(own: str, top: str, *, for_types: bool) -> str | None:
    """Return what is wrong with an import of a third-party package, if anything."""
    if top in XDIST:
        return None if own == "workers" else f"imports {top}"
    if top in TEMPLATES:
        return None if own == "reports" else f"imports {top}"
    may_import_pytest = LEVEL_OF.get(own, -1) >= FIRST_WITH_PYTEST and own not in WITHOUT_PYTEST
    if top == "pytest" and (may_import_pytest or (own == "reports" and for_types)):
        return None
    return f"imports {top}"


def nearest(name: str, known: dict[str, Path]) -> str:
    """Return the module that *name* is, or is in."""
    while name not in known and "." in name:
        name = name.rpartition(".")[0]
    return name


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules in import cycles."""
    left = {module: needs - {module} for module, needs in graph.items()}
    while True:
        needed = set().union(*left.values())
        bound = {m: needs & left.keys() for m, needs in left.items() if m in needed}
        bound = {module: needs for module, needs in bound.items() if needs}
        if bound == left:
            return [f"{module} is in a cycle" for module in left]
        left = bound


# -- the package


def test_modules_import_only_from_lower_levels():
    """A module can be understood and tested without those above it."""
    assert violations(Path(pytest_tempres.__file__).parent) == []


def test_each_module_has_a_level():
    """The levels name every module and subpackage, and nothing else."""
    parts = {part_of(module) for module in modules(Path(pytest_tempres.__file__).parent)}
    assert parts - {""} == set(LEVEL_OF)


# -- the check itself


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
        ("__init__", "if TYPE_CHECKING:\n    from pytest_tempres.leaks.model import Leak"),
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
    """Lower levels, the same subpackage, types, and pytest-xdist in `workers`."""
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
        ("leaks/model", "from pytest_tempres import __version__", "imports the package itself"),
        (
            "leaks/model",
            "import importlib\nimportlib.import_module(name)",
            "the source does not name",
        ),
        ("leaks/model", "__import__('pytest')", "the source does not name"),
        ("reports/terminal", "import pytest", "imports pytest"),
        ("cli/main", "import pytest", "imports pytest"),
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
        ("new_module", "", "pytest_tempres.new_module has no level"),
    ],
)
def test_forbidden_imports(check, module, source, problem):
    """Imports from higher levels, the same level and other packages are found anywhere."""
    found = check((module, source))
    assert len(found) >= 1
    assert found[0].startswith(f"{PACKAGE}.{module.replace('/', '.')}".removesuffix(".__init__"))
    assert (problem or "imports pytest_tempres.") in found[0]


def test_import_cycle_in_a_package_is_found(check):
    """Modules of a subpackage import one another in one direction only."""
    found = check(
        ("workspace/root", "from pytest_tempres.workspace import lock"),
        ("workspace/lock", "def f():\n    from pytest_tempres.workspace.root import create"),
        ("reports/terminal", "from pytest_tempres.workspace import root"),
    )
    assert found == [
        "pytest_tempres.workspace.lock is in a cycle",
        "pytest_tempres.workspace.root is in a cycle",
    ]
