"""Temporary resources for pytest, and a report of what tests leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_tempres.exceptions import TempresCleanupWarning
from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.exceptions import TempresWarning

if TYPE_CHECKING:
    from pytest_tempres.content import Executable
    from pytest_tempres.fixtures import TempResources
    from pytest_tempres.leaks.model import Leak
    from pytest_tempres.leaks.model import Owner
    from pytest_tempres.primitives._wrapper import TemporaryFileWrapper
    from pytest_tempres.reports.summary import Summary
    from pytest_tempres.session.leak_check import LeakCheck

__all__ = [
    "Executable",
    "Leak",
    "LeakCheck",
    "Owner",
    "Summary",
    "TempResources",
    "TemporaryFileWrapper",
    "TempresCleanupWarning",
    "TempresLeakWarning",
    "TempresWarning",
    "__version__",
]

__version__ = "0.1.0"

# Imported when they are first used: so `import pytest_tempres` is fast, and needs no pytest.
_LAZY = {
    "Executable": "content",
    "Leak": "leaks.model",
    "LeakCheck": "session.leak_check",
    "Owner": "leaks.model",
    "Summary": "reports.summary",
    "TempResources": "fixtures",
    "TemporaryFileWrapper": "primitives._wrapper",
}

if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415 -- as above

        value = globals()[name] = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
