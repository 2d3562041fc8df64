"""How is a failure of ours told? As one warning that changes nothing else."""

from __future__ import annotations

from contextlib import suppress
import sys
import warnings

import pytest

from pytest_tempres.exceptions import TempresWarning
from pytest_tempres.reports.shown import shown

__all__ = ["tell", "tell_late", "write_late"]


def tell(config: pytest.Config, warning: TempresWarning) -> None:
    """Have *warning* in pytest's summary, under the filters of the moment.

    A filter that turns warnings into errors must not make a failure of ours one
    of the test or of the session, so what it raises is recorded all the same.
    """
    # On one line, which any terminal shows and xdist can send.
    warning = type(warning)(shown(str(warning), controls=True))
    with warnings.catch_warnings(record=True) as caught:
        try:
            warnings.warn(warning, stacklevel=2)
        except TempresWarning as error:
            caught.append(warnings.WarningMessage(error, type(error), __file__, 0))
    for message in caught:
        config.hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": message,
                "when": "config",
                "nodeid": "",
                "location": None,
            }
        )


def tell_late(message: str) -> None:
    """Say *message* on standard error, when pytest has printed its last warning."""
    write_late(f"pytest-tempres: {shown(message, controls=True)}\n")


def write_late(text: str) -> None:
    """Write *text* to standard error, if there is one."""
    # A stream that a test has closed, or taken away, is nobody's to write to.
    with suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(text)
