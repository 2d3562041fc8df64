"""Temporary resources for pytest, and a report of what tests leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_tempres.exceptions import TempresCleanupWarning
from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.exceptions import TempresWarning

__all__ = [
    "Executable",
    "TempresCleanupWarning",
    "TempresLeakWarning",
    "TempresWarning",
    "__version__",
]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pytest_tempres.content import Executable
else:

    def __getattr__(name: str) -> object:
        """Import `Executable` when it is used, which few sessions do."""
        if name != "Executable":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from pytest_tempres.content import Executable  # noqa: PLC0415 -- see the docstring

        return Executable
