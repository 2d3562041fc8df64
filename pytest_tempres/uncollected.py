"""What must pytest not take for tests? Session roots that stand where tests are collected."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_tempres.primitives._system import System
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import bears_our_name

__all__ = ["UncollectedHooks"]


class UncollectedHooks:
    """Registered only where roots stand among tests: pytest asks for each file and directory."""

    @pytest.hookimpl
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Pass session roots by, whoever made them: nothing is removed here."""
        if not bears_our_name(collection_path.name):
            return None
        path = str(collection_path)
        if System.lexists(System.join(path, BREADCRUMB)):
            return True
        # In another user's root not even the breadcrumb can be seen.
        return None if System.access(path, os.R_OK | os.X_OK) else True
