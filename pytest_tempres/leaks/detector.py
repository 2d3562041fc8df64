"""What is a detector? Something that looks when the owner changes, and judges at the end."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any
from typing import Protocol

from pytest_tempres.leaks.model import Leak

__all__ = ["Detector"]


class Detector(Protocol):
    """One more way to find what was left behind, beside the worker root.

    A detector is made with what it has to know: who is running
    (:class:`~pytest_tempres.leaks.model.Running`), how frames are shown
    (:class:`~pytest_tempres.leaks.folding.Folder`) and what may stay.
    """

    #: The audit events that :meth:`saw` wants to hear of.
    events: AbstractSet[str]

    def saw(self, event: str, args: tuple[Any, ...]) -> None:
        """Take note of an audit event. What it raises is dropped; it has to be fast."""

    def look(self) -> None:
        """Book what is new, for whoever is running: called before the owner changes."""

    def due(self, test: str) -> list[Leak]:
        """Return what *test* and its function-scoped fixtures left, now that both are over."""

    def judge(self) -> list[Leak]:
        """Return what is still there at the end of the session, after a second look."""
