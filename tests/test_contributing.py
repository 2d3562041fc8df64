from __future__ import annotations

from pathlib import Path
import re

import pytest

CHECKOUT = Path(__file__).parent.parent
PACKAGE = CHECKOUT / "pytest_tempres"
CONTRIBUTING = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def modules_in_map():
    """Yield the paths of the modules in the map, relative to the package."""
    directories = []
    _, _, text = CONTRIBUTING.partition("```text\npytest_tempres/\n")
    for line in text.partition("```")[0].splitlines():
        name, *description = line.split(maxsplit=1)
        depth = (len(line) - len(line.lstrip())) // 4 - 1
        del directories[depth:]
        if name.endswith("/"):
            directories.append(name)
        else:
            assert description, f"{name} has no description"
            yield "".join((*directories, name))


def rows_of_changes():
    """Return the rows of the table of changes: what to do, and where."""
    _, _, table = CONTRIBUTING.partition("| to | open |\n| --- | --- |\n")
    return [row.strip("| ").split(" | ") for row in table.splitlines()]


def test_map_lists_each_module_once_and_nothing_else():
    """A module that is added, moved or removed changes the map."""
    modules = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    assert sorted(modules_in_map()) == sorted(path for path in modules if "__init__" not in path)


@pytest.mark.parametrize("change, answer", rows_of_changes())
def test_files_and_code_of_where_to_change_what_exist(change, answer):
    """Each row names at least one file, and the code that it names is in these files."""
    words = re.findall("`([^`]+)`", answer)
    files = [PACKAGE / word for word in words if word.endswith(".py")]
    assert files, f"no file is named: {change}"
    code = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [word for word in words if not word.endswith(".py") and word not in code] == []
