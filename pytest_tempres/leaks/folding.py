"""Which frames of a stack can a person change? The others are folded away."""

from __future__ import annotations

from collections.abc import Iterable
import os
import sys
from typing import Final

from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.origins import RawFrame
from pytest_tempres.primitives._system import System

__all__ = ["Folder"]

#: Packages that run tests: their lines never are the ones to change.
_MACHINERY: Final = ("_pytest", "execnet", "pluggy", "pytest", "pytest_tempres", "xdist")

_SITE: Final = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))


class Folder:
    """Turns raw stacks into origins.

    :param rootdir: Files in it are named relative to it, others by their full path.
    """

    def __init__(self, rootdir: str) -> None:
        self._root = os.path.join(rootdir, "")
        self._library = os.path.join(os.path.dirname(os.__file__), "")
        self._seen: dict[str, str | None] = {}

    def fold(self, stack: Iterable[RawFrame]) -> tuple[Frame, ...]:
        """Return what is left of *stack*, nearest frame first."""
        frames: list[Frame] = []
        for code, line in stack:
            file = self.show(code.co_filename)
            if file is not None:
                frames.append(Frame(file, line, code.co_name))
        return tuple(frames)

    def show(self, filename: str) -> str | None:
        """Return how *filename* is named in a report, or None where it is folded away."""
        try:
            return self._seen[filename]
        except KeyError:
            shown = None if self._is_folded(filename) else self.relative(filename)
            return self._seen.setdefault(filename, shown)

    def relative(self, filename: str) -> str:
        """Return *filename* relative to rootdir where it lies in it."""
        return System.normpath(filename).removeprefix(self._root)

    def _is_folded(self, filename: str) -> bool:
        if filename.startswith("<"):
            return not filename.startswith("<doctest")
        if any(site in filename for site in _SITE):
            return filename.startswith(_machinery())
        return filename.startswith((self._library, *_machinery()))


def _machinery() -> tuple[str, ...]:
    """Return the directories of the packages that run tests, as far as they are imported."""
    modules = (sys.modules.get(name) for name in _MACHINERY)
    files = (getattr(module, "__file__", None) for module in modules)
    return tuple(os.path.join(os.path.dirname(file), "") for file in files if file)
