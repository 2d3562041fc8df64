"""Lists and sweeps the sessions in a directory."""

from __future__ import annotations

import math
import os
from typing import Final

from pytest_tempres.cli.output import InputError
from pytest_tempres.cli.output import Output
from pytest_tempres.leaks.temp.scan import measure
from pytest_tempres.primitives._location import gettempdir
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.terminal import reclaimed_line
from pytest_tempres.reports.wording import age
from pytest_tempres.reports.wording import contents
from pytest_tempres.reports.wording import count
from pytest_tempres.reports.wording import printable
from pytest_tempres.reports.wording import size
from pytest_tempres.workspace import sweep as sweeping
from pytest_tempres.workspace.stored import Stored
from pytest_tempres.workspace.stored import find
from pytest_tempres.workspace.stored import is_dead
from pytest_tempres.workspace.stored import reclaimable

__all__ = ["kept", "sweep"]

_NOT_REMOVED: Final = 1
#: The progress line is updated after this many seconds.
_INTERVAL: Final = 0.5
#: The variable that names the system's temp directory while a test session runs.
_SYSTEM_TMPDIR: Final = "PYTEST_TEMPRES_SYSTEM_TMPDIR"


def _directory(root: str | None) -> str:
    path = root if root is not None else os.environ.get(_SYSTEM_TMPDIR) or gettempdir()
    if not os.path.isdir(path):
        raise InputError(printable(f"--root={path}: there is no such directory"))
    return os.path.abspath(path)


def _find(directory: str) -> list[Stored]:
    try:
        return list(find(directory))
    except OSError as error:
        raise InputError(printable(f"{directory}: {error.strerror or error}")) from error


def sweep(root: str | None, output: Output, *, dry_run: bool) -> int:
    """Remove what dead sessions left, and say what; return the exit status."""
    directory = _directory(root)
    if dry_run:
        return _list_reclaimable(directory, output)
    progress = _Progress(output)
    try:
        found = sweeping.sweep(
            directory,
            # Of no project: what sessions kept stays, however many they are.
            rootdir="",
            keep_sessions=0,
            seconds=math.inf,
            run="",
            measure=_measure,
            tick=progress,
        )
    finally:
        progress.close()
    output.line(reclaimed_line(found) or f"nothing to reclaim in {printable(directory)}")
    if found.failure is None:
        return 0
    path, error = found.failure
    output.line(printable(f"{path} could not be removed: {error.strerror or error}"), red=True)
    return _NOT_REMOVED


def _measure(path: str, until: float) -> tuple[int, bool]:
    found = measure(path, until)
    return (0, True) if found is None else (found.bytes, found.complete)


def _list_reclaimable(directory: str, output: Output) -> int:
    number = 0
    for stored in _find(directory):
        paths = reclaimable(stored)
        if (not paths and stored.kept) or not is_dead(stored.session):
            continue
        number += 1
        output.line(f"would reclaim {printable(stored.session.path)}{_details(stored, paths)}")
    if not number:
        output.line(f"nothing to reclaim in {printable(directory)}")
    return 0


def _details(stored: Stored, paths: list[str]) -> str:
    stays = f", except for {count(len(stored.kept), 'kept path')}" if stored.kept else ""
    since = f", from {age(System.time() - stored.session.began)} ago"
    return f" ({_size(paths)}){since}{stays}"


def _size(paths: list[str]) -> str:
    found = [each for each in map(measure, paths) if each is not None]
    return contents(
        "directory",
        sum(each.items for each in found),
        sum(each.bytes for each in found),
        complete=all(each.complete for each in found),
    )


def kept(root: str | None, output: Output) -> int:
    """List the kept paths, those of the latest session first; return the exit status."""
    directory = _directory(root)
    sessions = [each for each in _find(directory) if each.kept]
    sessions.sort(key=lambda each: each.session.ended, reverse=True)
    total = 0
    for stored in sessions:
        ended = age(System.time() - stored.session.ended)
        output.line(f"{printable(stored.session.rootdir)}, {ended} ago", bold=True)
        for each in stored.kept:
            found = measure(each.path)
            total += found.bytes if found is not None else 0
            output.line(f"  {printable(each.test or 'unknown test')} ({_size([each.path])})")
            output.line(f"    {printable(each.path)}")
    number = sum(len(each.kept) for each in sessions)
    what = f"{count(number, 'path')} kept by {count(len(sessions), 'session')}, {size(total)}"
    output.line(what if sessions else f"nothing is kept in {printable(directory)}")
    return 0


class _Progress:
    """Counts removed items, and shows the count on a terminal."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._count = 0
        self._shown = System.monotonic()
        self._width = 0

    def __call__(self) -> None:
        """Count one item."""
        self._count += 1
        now = System.monotonic()
        if self._output.is_terminal and now - self._shown > _INTERVAL:
            self._shown = now
            self._show(f"removing what dead sessions left: {self._count:,} items")

    def close(self) -> None:
        """Erase the line."""
        if self._width:
            self._show("")
            self._output.write("\r")

    def _show(self, text: str) -> None:
        self._output.write(f"\r{text.ljust(self._width)}")
        self._output.flush()
        self._width = len(text)
