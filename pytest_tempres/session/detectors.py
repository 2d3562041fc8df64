"""What is looked at besides the temp location? The detectors that the user asked for."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import suppress
import os
import sys

import pytest

from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.verdict import Ignore
from pytest_tempres.options import Settings
from pytest_tempres.primitives._system import System
from pytest_tempres.session.state import Membership
from pytest_tempres.session.state import SessionState

__all__ = ["add", "refuse"]


def refuse(settings: Settings) -> None:
    """Refuse a detector that this platform has no means for.

    :raises pytest.UsageError: Naming it.
    """
    if "fds" in settings.detect:
        from pytest_tempres.leaks.fds import detector  # noqa: PLC0415 -- loads when used

        reason = detector.unsupported()
        if reason is not None:
            raise pytest.UsageError(f"--tempres-detect=fds: {reason}; leave it out here")


def add(state: SessionState, ledger: Ledger, membership: Membership) -> None:
    """Add the detectors to *ledger*; a worker's controller judges, and others run beside it."""
    worker = membership.is_worker
    settings = state.settings
    ignore = Ignore(str(state.config.rootpath), settings.ignore)
    if "fds" in settings.detect:
        from pytest_tempres.leaks.fds.detector import Descriptors  # noqa: PLC0415 -- as above

        ledger.add(
            Descriptors(
                running=ledger.running,
                folder=ledger.folder,
                ignored=ignore.matches,
                worker=state.workspace.worker.name,
                collect=state.leaks.gc_budget.collect,
            )
        )
    if "watch" in settings.detect:
        from pytest_tempres.leaks.watch.detector import Watched  # noqa: PLC0415 -- as above

        state.leaks.watched = Watched(
            settings.watch,
            running=ledger.running,
            folder=ledger.folder,
            ignored=ignore.matches,
            worker=state.workspace.worker.name,
            # What others do at the same time must not be taken for the doing of who runs here.
            attributes_mtimes=not worker and not membership.has_workers,
            walks=not worker,
            exclude=_wished_for(state),
            collect=state.leaks.gc_budget.collect,
        )
        ledger.add(state.leaks.watched)


def _wished_for(state: SessionState) -> Iterator[str]:
    """Yield our own paths, and the files that somebody named in an option: they are no litter."""
    yield state.workspace.root.path
    with suppress(ValueError):
        yield System.join(state.config.rootpath, state.config.getini("cache_dir"))
    for target in state.settings.reports:
        if target.destination is not None and target.type != "term":
            yield target.destination
    if state.settings.artifacts is not None:
        yield state.settings.artifacts
        yield from _to_be_made(state.settings.artifacts)
    if state.settings.baseline is not None:
        yield state.settings.baseline
    # Whoever sends the output of pytest to a file in the repository wants it there.
    yield from _open_files()
    yield from _named_files(state.config)


def _named_files(config: pytest.Config) -> Iterator[str]:
    """Yield what options name and no directory is yet, with the directory made for it."""
    given = dict(vars(config.known_args_namespace))
    given.pop("file_or_dir", None)
    here = str(config.invocation_params.dir)
    for value in _texts(given.values()):
        yield from _to_be_made(System.join(here, os.path.expanduser(value)))
    # The one file that pytest itself writes by its configuration file.
    with suppress(ValueError):
        log_file = config.getini("log_file")
        if log_file:
            yield from _to_be_made(System.join(config.rootpath, log_file))


def _texts(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield from filter(None, (value, value.partition(":")[2]))
        elif isinstance(value, dict):
            yield from _texts(value.values())
        elif isinstance(value, (list, tuple)):
            yield from _texts(value)


def _to_be_made(path: str) -> Iterator[str]:
    if not System.isdir(path):
        while not System.lexists(System.dirname(path)):
            path = System.dirname(path)
        yield path


def _open_files() -> Iterator[str]:
    """Yield the paths of what is open in this process, as far as the system tells."""
    for directory in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            for number in System.listdir(directory):
                with suppress(OSError, ValueError):
                    yield _path_of(System.join(directory, number), int(number))
            return


def _path_of(link: str, number: int) -> str:
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415 -- not everywhere

        # The most bytes that macOS gives a path.
        return System.fsdecode(fcntl.fcntl(number, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
    return System.readlink(link)
