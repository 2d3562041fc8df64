"""May it stay all the same? Other plugins and the baseline are asked."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.verdict import excuse
from pytest_tempres.state import SessionState

__all__ = ["excused", "pardoned"]


def excused(state: SessionState, leaks: Iterable[Leak]) -> list[Leak]:
    """Return *leaks* without those that a plugin lets pass, the known ones marked."""
    return excuse(leaks, pardoned=lambda leak: pardoned(state, leak), known=state.baseline)


def pardoned(state: SessionState, leak: Leak) -> bool:
    """Ask other plugins; one that fails must not silence the report, nor open the gate."""
    try:
        return bool(state.config.hook.pytest_tempres_ignore_leak(leak=leak))
    except Exception as error:  # noqa: BLE001 -- it is somebody else's code
        state.warn("ignore_leak", f"pytest_tempres_ignore_leak failed: {error!r}")
        return False
