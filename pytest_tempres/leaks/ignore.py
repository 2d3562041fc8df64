"""What may stay? One matcher for the shipped list, the ini file and the marker."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import translate
import re
from typing import Final

from pytest_tempres.primitives._system import System

__all__ = ["SHIPPED", "Ignore"]

# Captured because tests replace it.
_compile = re.compile

#: What well-known tools leave in a temp directory on purpose, or remove themselves.
SHIPPED: Final = (
    # Sessions of this plugin in a subprocess, with what they kept.
    "tempres-????????",
    # The same of pytest, which keeps the last three sessions.
    "pytest-of-*",
    # multiprocessing removes it by a finalizer of its own (python/cpython#109295).
    "pymp-*",
)


class Ignore:
    """Matches paths against glob patterns.

    :param root: Paths in this directory are matched relative to it, others as they are.
    :param patterns: As for :mod:`fnmatch`, case-sensitive; `*` matches a separator too.
    """

    def __init__(self, root: str, patterns: Iterable[str]) -> None:
        self._root = System.join(root, "")
        self._matches = tuple(_compile(translate(pattern)).match for pattern in patterns)

    def matches(self, path: str) -> bool:
        """Whether any pattern matches *path*."""
        shown = path.removeprefix(self._root)
        return any(match(shown) for match in self._matches)
