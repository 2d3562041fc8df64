"""What adapts the model to the functions that it tests: actors that sweep, die and keep apart."""

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

__all__ = ["do_sweep", "dying", "far_descriptors", "look"]


class DiedError(BaseException):
    """A process ends here; whatever would have come is not done."""


class Clock:
    """Stands still for some looks at it, and has then run out."""

    def __init__(self, looks: int | None) -> None:
        self._left = looks

    def monotonic(self) -> float:
        """Return the time of this look."""
        if self._left is None:
            return 0.0
        self._left -= 1
        return 0.0 if self._left >= 0 else 1000.0


def do_sweep(
    place: Path,
    project: str,
    keep: int,
    looks: int | None = None,
    tick: Callable[[], object] = int,
) -> None:
    """Sweep as a session of *project* does; the budget lasts for that many looks at the clock.

    :param tick: Called before each removal, within trees too.
    """
    # It may be one of who dies already.
    timed = type("Timed", (sweep_module.System,), {"monotonic": Clock(looks).monotonic})
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
    """Let this process die before the deed that follows *after* deeds on the file system."""
    left = after

    def live_on() -> None:
        nonlocal left
        if left <= 0:
            raise DiedError
        left -= 1

    def deadly(deed: Callable[..., object]) -> Callable[..., object]:
        def do(*args: object, **options: object) -> object:
            live_on()
            return deed(*args, **options)

        return do

    class Mortal(System):
        """What the root removes by itself; removals of trees count by their ticks."""

    with contextlib.ExitStack() as stack:
        for module in (root_module, dirfd, lock, sweep_module):
            stack.enter_context(mock.patch.object(module, "System", Mortal))
        for owner, name in (
            (Mortal, "unlink"),
            (Mortal, "rmdir"),
            (root_module, "write_breadcrumb"),
            (lock, "acquire"),
            (Mortal, "replace"),
        ):
            deed = deadly(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, deed))
        stack.enter_context(contextlib.suppress(DiedError))
        yield live_on


@contextlib.contextmanager
def far_descriptors() -> Iterator[None]:
    """Take no number that another actor has just given up: processes have tables of their own."""
    low = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    yield
    for fd in low:
        os.close(fd)


def look(place: Path) -> dict[str, object]:
    """Return all that is in *place*: kind and content, by path."""
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
