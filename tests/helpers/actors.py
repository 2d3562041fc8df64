"""Helpers of the model test: a sweep with a clock, processes that die, and snapshots."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import stat
from unittest import mock

from pytest_tempres.primitives._system import System
from pytest_tempres.workspace import dirfd
from pytest_tempres.workspace import lock
from pytest_tempres.workspace import root as root_module
from pytest_tempres.workspace import sweep as sweep_module

__all__ = ["do_sweep", "dying", "high_descriptors", "snapshot"]


class DiedError(BaseException):
    """The process dies here."""


class Clock:
    """A clock that stands still for a number of calls, and then passes the time limit."""

    def __init__(self, calls: int | None) -> None:
        self._left = calls

    def monotonic(self) -> float:
        """Return the time of this call."""
        if self._left is None:
            return 0.0
        self._left -= 1
        return 0.0 if self._left >= 0 else 1000.0


def do_sweep(
    place: Path,
    project: str,
    keep: int,
    calls: int | None = None,
    tick: Callable[[], object] = int,
) -> None:
    """Sweep as a session of *project* does.

    :param calls: The time limit is reached after so many calls of the clock; None for no limit.
    :param tick: Called before each removal, within trees too.
    """
    # It may already be the class that `dying` has put there.
    timed = type("Timed", (sweep_module.System,), {"monotonic": Clock(calls).monotonic})
    with mock.patch.object(sweep_module, "System", timed):
        sweep_module.sweep(
            str(place),
            rootdir=project,
            keep_sessions=keep,
            seconds=10,
            run="that of the sweeper, which has kept nothing",
            measure=lambda path, until: (1, True),
            tick=tick,
        )


@contextlib.contextmanager
def dying(after: int) -> Iterator[Callable[[], object]]:
    """Let this process die before the operation that follows *after* operations."""
    left = after

    def count_operation() -> None:
        nonlocal left
        if left <= 0:
            raise DiedError
        left -= 1

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            count_operation()
            return function(*args, **options)

        return call

    class Mortal(System):
        """The functions that the root calls itself; removals of trees count by their ticks."""

    with contextlib.ExitStack() as stack:
        for module in (root_module, dirfd, lock, sweep_module):
            stack.enter_context(mock.patch.object(module, "System", Mortal))
        for namespace, name in (
            (Mortal, "unlink"),
            (Mortal, "rmdir"),
            (root_module, "write_breadcrumb"),
            (lock, "acquire"),
            (Mortal, "replace"),
        ):
            function = counted(getattr(namespace, name))
            stack.enter_context(mock.patch.object(namespace, name, function))
        stack.enter_context(contextlib.suppress(DiedError))
        yield count_operation


@contextlib.contextmanager
def high_descriptors() -> Iterator[None]:
    """Avoid the descriptor numbers of other actors, as separate processes would."""
    low = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    yield
    for fd in low:
        os.close(fd)


def snapshot(place: Path) -> dict[str, object]:
    """Return the entries of *place*: kind and content, by path."""
    found: dict[str, object] = {}
    for top, directories, files in os.walk(place):
        for name in (*directories, *files):
            path = os.path.join(top, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                found[path] = os.readlink(path)
            else:
                found[path] = Path(path).read_bytes() if stat.S_ISREG(mode) else "directory"
    return found
