"""The optional detectors (file descriptors, watched directories): checked and added."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import suppress
import os
import sys

import pytest

from pytest_tempres.leaks.verdict import Ignore
from pytest_tempres.options import Settings
from pytest_tempres.primitives._system import System
from pytest_tempres.session.detection import LeakDetection
from pytest_tempres.session.state import Membership
from pytest_tempres.session.state import SessionState

__all__ = ["add", "check_supported"]


def check_supported(settings: Settings) -> None:
    """Check that this platform supports the detectors asked for.

    :raises pytest.UsageError: If it does not.
    """
    if "fds" in settings.detect:
        from pytest_tempres.leaks.fds import detector  # noqa: PLC0415 -- loads when used

        reason = detector.unsupported()
        if reason is not None:
            raise pytest.UsageError(f"--tempres-detect=fds: {reason}; leave it out")


def add(state: SessionState, membership: Membership) -> None:
    """Add the detectors asked for to the ledger."""
    ignore = Ignore(str(state.config.rootpath), state.settings.ignore)
    if "fds" in state.settings.detect:
        _add_descriptors(state.leaks, ignore)
    if "watch" in state.settings.detect:
        _add_watched(state, membership, ignore)


def _add_descriptors(leaks: LeakDetection, ignore: Ignore) -> None:
    from pytest_tempres.leaks.fds.detector import Descriptors  # noqa: PLC0415 -- as above

    leaks.ledger.add(
        Descriptors(
            running=leaks.ledger.running,
            frame_filter=leaks.ledger.frame_filter,
            ignored=ignore.matches,
            worker=leaks.workspace.worker.name,
            collect=leaks.gc_budget.collect,
        )
    )


def _add_watched(state: SessionState, membership: Membership, ignore: Ignore) -> None:
    from pytest_tempres.leaks.watch.detector import Watched  # noqa: PLC0415 -- as above

    leaks = state.leaks
    leaks.watched = Watched(
        state.settings.watch,
        running=leaks.ledger.running,
        frame_filter=leaks.ledger.frame_filter,
        ignored=ignore.matches,
        worker=leaks.workspace.worker.name,
        # Other workers change files at the same time, so a new mtime has no certain owner.
        attributes_mtimes=not membership.is_worker and not membership.has_workers,
        walks=not membership.is_worker,
        exclude=_expected_paths(state),
        collect=leaks.gc_budget.collect,
    )
    leaks.ledger.add(leaks.watched)


def _expected_paths(state: SessionState) -> Iterator[str]:
    """Yield the paths that this session writes, and those that the command line names."""
    yield state.workspace.root.path
    with suppress(ValueError):
        yield System.join(state.config.rootpath, state.config.getini("cache_dir"))
    for target in state.settings.reports:
        if target.destination is not None and target.type != "term":
            yield target.destination
    if state.settings.artifacts is not None:
        yield state.settings.artifacts
        yield from _path_to_create(state.settings.artifacts)
    if state.settings.baseline is not None:
        yield state.settings.baseline
    # For example a file to which the output of pytest is redirected.
    yield from _open_files()
    yield from _named_files(state.config)


def _named_files(config: pytest.Config) -> Iterator[str]:
    """Yield the paths that option values may name, unless they are directories."""
    values = dict(vars(config.known_args_namespace))
    values.pop("file_or_dir", None)
    cwd = str(config.invocation_params.dir)
    for value in _strings(values.values()):
        yield from _path_to_create(System.join(cwd, os.path.expanduser(value)))
    # The only ini option of pytest that names a file to write.
    with suppress(ValueError):
        log_file = config.getini("log_file")
        if log_file:
            yield from _path_to_create(System.join(config.rootpath, log_file))


def _strings(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield from filter(None, (value, value.partition(":")[2]))
        elif isinstance(value, dict):
            yield from _strings(value.values())
        elif isinstance(value, (list, tuple)):
            yield from _strings(value)


def _path_to_create(path: str) -> Iterator[str]:
    """Yield *path*, or its topmost missing parent; nothing if *path* is a directory."""
    if not System.isdir(path):
        while not System.lexists(System.dirname(path)):
            path = System.dirname(path)
        yield path


def _open_files() -> Iterator[str]:
    """Yield the paths of the files that are open in this process, if the system lists them."""
    for directory in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            for number in System.listdir(directory):
                with suppress(OSError, ValueError):
                    yield _path_of(System.join(directory, number), int(number))
            return


def _path_of(link: str, number: int) -> str:
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415 -- not on Windows

        # MAXPATHLEN on macOS.
        return System.fsdecode(fcntl.fcntl(number, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
    return System.readlink(link)
