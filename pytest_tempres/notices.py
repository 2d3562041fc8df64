"""How is a failure of ours told? As one warning that changes nothing else."""

from __future__ import annotations

import warnings

import pytest

from pytest_tempres.exceptions import TempresWarning

__all__ = ["tell"]


def tell(config: pytest.Config, warning: TempresWarning) -> None:
    """Have *warning* in pytest's summary, under the filters of the moment.

    A filter that turns warnings into errors must not make a failure of ours one
    of the test or of the session, so what it raises is recorded all the same.
    """
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
