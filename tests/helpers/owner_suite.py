"""Owners that run one after the other, and the hints of their events."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path

from pytest_tempres.leaks.frames import Hint
from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.model import Owner

__all__ = ["TEST", "OwnerSuite", "functions"]

TEST = Owner("test", "t.py::test")


def functions(hint: Hint) -> list[str]:
    """Return the names of the functions in a hint's stack, nearest first."""
    return [code.co_name for code, _ in hint.stack]


class OwnerSuite:
    """Runs owners one after the other, with a scan before each change, as a session does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ledger = Ledger(
            str(root),
            worker="main",
            rootdir=os.path.dirname(__file__),
            prefixes=(),
            inside=(),
            ignored=lambda path: False,
        )

    @contextlib.contextmanager
    def run(self, owner: Owner, test: str | None = None) -> Iterator[None]:
        """Make *owner* the current owner."""
        self.ledger.scan()
        before = self.ledger.enter(owner, test=test or owner.id, phase="call")
        try:
            yield
        finally:
            self.ledger.scan()
            self.ledger.leave(before)

    def owners(self) -> dict[str, str]:
        """Return the owner of each entry by name."""
        self.ledger.scan(final=True)
        return {os.path.basename(e.path): e.owner.id for e in self.ledger.not_yet_sent}
