"""Temporary resources for pytest, and a report of what tests leave behind."""

from __future__ import annotations

from pytest_tempres.exceptions import TempresCleanupWarning
from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.exceptions import TempresWarning

__all__ = [
    "TempresCleanupWarning",
    "TempresLeakWarning",
    "TempresWarning",
    "__version__",
]

__version__ = "0.1.0"
