"""Which paths does an audit event announce, and is each about to be written, or to go?"""

from __future__ import annotations

from collections.abc import Iterator
import os
from typing import Any
from typing import Final
from typing import NamedTuple

from pytest_tempres.leaks.origins import absolute

__all__ = ["EVENTS", "Announced", "announced"]

_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

#: Which arguments of an event are paths, the descriptors they may start from, and what goes.
_ROLES: Final[dict[str, tuple[tuple[int, int | None, bool], ...]]] = {
    "open": ((0, None, False),),
    "os.link": ((1, 3, False),),
    "os.mkdir": ((0, 2, False),),
    "os.remove": ((0, 1, True),),
    "os.rename": ((0, 2, True), (1, 3, False)),
    "os.rmdir": ((0, 1, True),),
    "os.symlink": ((1, 2, False),),
    "os.truncate": ((0, None, False),),
    # What `Path.touch` does to a file that exists.
    "os.utime": ((0, 3, False),),
    # It removes relative to descriptors, which no later event can tell.
    "shutil.rmtree": ((0, 1, True),),
    "socket.bind": ((1, None, False),),
    "sqlite3.connect": ((0, None, False),),
    "tempfile.mkdtemp": ((0, None, False),),
    "tempfile.mkstemp": ((0, None, False),),
}

EVENTS: Final = frozenset(_ROLES)


class Announced(NamedTuple):
    """A path that an event tells of."""

    path: str
    #: It is removed or renamed, and not made or written.
    goes: bool


def announced(event: str, args: tuple[Any, ...]) -> Iterator[Announced]:
    """Yield what *event*, one of `EVENTS`, is about to make, to write or to remove.

    Reading announces nothing, and a path relative to a descriptor cannot be told.
    """
    if event == "open" and not (isinstance(args[2], int) and args[2] & _WRITING):
        return
    for path_at, start_at, goes in _ROLES[event]:
        given = args[path_at]
        start = args[start_at] if start_at is not None and start_at < len(args) else None
        if start in (None, -1) and isinstance(given, (str, bytes, os.PathLike)):
            yield Announced(absolute(given).rstrip(os.sep), goes)
