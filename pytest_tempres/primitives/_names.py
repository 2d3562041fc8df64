"""How are temporary things named?"""

from __future__ import annotations

from os import urandom
from typing import Final

__all__ = ["ALPHABET", "is_random_name", "random_name"]

ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789_"

# 37 does not divide 256, so three characters come up 6 times in 256 instead of 7. That costs
# 0.002 of 5.209 bits a character and turns a name into one call of bytes.translate.
_CHARACTERS: Final = frozenset(ALPHABET)
_CHARACTER_OF_BYTE: Final = (ALPHABET * 7)[:256].encode()


def random_name() -> str:
    """Return a name that nobody can guess.

    The characters come from the kernel at each call. There is no state that a forked child could
    share with its parent, that two threads could disturb or that ``random.seed`` could reset.

    :returns: 8 characters of CPython's alphabet, lower case so that they stay distinct on a file
        system that folds case.
    """
    return urandom(8).translate(_CHARACTER_OF_BYTE).decode("ascii")


def is_random_name(text: str) -> bool:
    """Whether :func:`random_name` may have returned *text*."""
    return len(text) == 8 and set(text) <= _CHARACTERS
