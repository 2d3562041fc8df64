"""Checked access to the values of a decoded JSON report."""

from __future__ import annotations

import base64
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from math import isfinite
from typing import Any
from typing import Final
from typing import TypeVar

__all__ = ["Fields"]

_T = TypeVar("_T")
_MISSING: Final = object()


class Fields:
    """The values of one JSON object; each is checked when it is read.

    :param value: The decoded object.
    :param where: The name of the object in error messages, such as ``leaks[3].owner``.
    :raises ValueError: If *value* is not an object. The methods raise it for a value that is
        missing or of another type.
    """

    def __init__(self, value: object, where: str = "") -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{where or 'the report'} is not an object")  # noqa: TRY004 -- documented
        self._values: dict[str, Any] = value
        self._where = where

    def __contains__(self, key: str) -> bool:
        """Whether there is a value at *key* that is not null."""
        return self._values.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        """Yield the keys."""
        return iter(self._values)

    def text(self, key: str, default: Any = _MISSING) -> str:
        """Return the string at *key*."""
        return self._checked(key, str, "a string", default)

    def text_or_none(self, key: str) -> str | None:
        """Return the string at *key*; None if it is null or missing."""
        return self.text(key) if key in self else None

    def choice(self, key: str, allowed: Collection[str]) -> Any:
        """Return the string at *key*, which must be one of *allowed*."""
        value = self.text(key)
        if value not in allowed:
            raise ValueError(f"{self._name(key)} is none of {', '.join(allowed)}")
        return value

    def number(self, key: str) -> int:
        """Return the whole number at *key*."""
        return self._checked(key, int, "a whole number")

    def real(self, key: str) -> float:
        """Return the finite number at *key*."""
        value = self._values.get(key)
        return value if isinstance(value, float) and isfinite(value) else self.number(key)

    def flag(self, key: str, default: Any = _MISSING) -> bool:
        """Return the truth value at *key*."""
        return self._checked(key, bool, "true or false", default)

    def path(self, key: str = "path") -> str:
        """Return the path at *key*: from its bytes if they are given, else from its text."""
        text = self.text(key)
        encoded = self.text_or_none(f"{key}_bytes")
        if encoded is None:
            return text
        try:
            return base64.b64decode(encoded, validate=True).decode("utf-8", "surrogateescape")
        except ValueError:
            raise ValueError(f"{self._name(f'{key}_bytes')} is not base64") from None

    def object(self, key: str) -> Fields:
        """Return the object at *key*."""
        return Fields(self._checked(key, dict, "an object"), self._name(key))

    def each(
        self, key: str, read: Callable[[Fields], _T], default: Any = _MISSING
    ) -> tuple[_T, ...]:
        """Return what *read* returns for each object of the array at *key*."""
        values: list[Any] = self._checked(key, list, "an array", default)
        name = self._name(key)
        return tuple(read(Fields(each, f"{name}[{i}]")) for i, each in enumerate(values))

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the array of strings at *key*."""
        values: list[Any] = self._checked(key, list, "an array")
        if not all(isinstance(each, str) for each in values):
            raise ValueError(f"{self._name(key)} has values that are not strings")
        return tuple(values)

    def _checked(self, key: str, kind: type[_T], name: str, default: Any = _MISSING) -> _T:
        value: Any = self._values.get(key, default)
        if value is _MISSING:
            raise ValueError(f"{self._name(key)} is missing")
        # `True` is an `int` too.
        if type(value) is not kind:
            raise ValueError(f"{self._name(key)} is not {name}")
        found: _T = value
        return found

    def _name(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key
