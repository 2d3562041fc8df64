from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_tempres.session import messages
from pytest_tempres.session.messages import Progress


class Terminal:
    """Stands for pytest's reporter, and remembers what is on the screen."""

    def __init__(self, *, isatty: bool = True) -> None:
        self.isatty = isatty
        self.escaped: list[str] = []
        self.line = "...."

    def ensure_newline(self) -> None:
        """Begin a line."""
        self.line = ""

    def rewrite(self, text: str, *, erase: bool = False) -> None:
        """Write in the place of what stands in the line."""
        self.line = text.ljust(len(self.line)) if erase else text
        self.escaped.append(text)

    def flush(self) -> None:
        """Show what was written."""


@pytest.fixture
def counted(monkeypatch):
    """Count items for some seconds, and return what the terminal showed."""

    def counted(items: int, seconds: float, terminal: Terminal | None) -> None:
        times = iter([0.0, *(seconds * n / items for n in range(1, items + 1))])
        monkeypatch.setattr(messages.System, "monotonic", lambda: next(times, seconds))
        manager = SimpleNamespace(get_plugin=lambda _: terminal)
        tick = Progress(SimpleNamespace(pluginmanager=manager), "what was left", silent=False)
        for _ in range(items):
            tick()
        tick.close()

    return counted


def test_long_removal_shows_its_progress(counted):
    """A line on the terminal counts the files, and disappears when the removal is over."""
    terminal = Terminal()
    counted(100_000, 1000.0, terminal)
    assert terminal.escaped[0].startswith("removing what was left: ")
    numbers = [int(text.split()[-2].replace(",", "")) for text in terminal.escaped if text.strip()]
    assert numbers == sorted(set(numbers))
    assert 1 < len(numbers) < 100_000 / 100
    assert not terminal.line.strip()


@pytest.mark.parametrize(
    "items, seconds, terminal",
    [
        (100_000, 0.4, Terminal()),
        (100, 1000.0, Terminal()),
        (100_000, 1000.0, Terminal(isatty=False)),
        (100_000, 1000.0, None),
    ],
    ids=["short", "few", "no terminal", "no reporter"],
)
def test_progress_is_not_shown_if_short_or_not_on_a_terminal(counted, items, seconds, terminal):
    """Neither a log nor a quick removal has a progress line."""
    counted(items, seconds, terminal)
    assert terminal is None or terminal.escaped == []
