"""Renders JSON reports, merged into one, in any format."""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Final
from typing import NamedTuple

from pytest_tempres.cli.inputs import read_report
from pytest_tempres.cli.merge import merge
from pytest_tempres.cli.merge import shard_names
from pytest_tempres.cli.output import InputError
from pytest_tempres.cli.output import Output
from pytest_tempres.reports import json_report
from pytest_tempres.reports import terminal
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.words import printable

__all__ = ["run"]

_STDOUT: Final = "-"
_FORMATS: Final = {"json": json_report.render}


class _Target(NamedTuple):
    kind: str
    destination: str


def run(paths: list[str], targets: Sequence[str], output: Output, *, verbosity: int) -> int:
    """Write the reports at *paths*, merged, to each of *targets*; return the exit status."""
    wanted = [_target(text) for text in targets]
    # The same report twice, through two patterns of the shell, is one shard.
    paths = list(dict.fromkeys(paths))
    shards = dict(zip(shard_names(paths), map(read_report, paths), strict=True))
    summary = merge(shards)
    for target in wanted:
        if target.kind == "term":
            _write_term(summary, output, verbosity, shards=len(shards) > 1)
        else:
            _write(target, _FORMATS[target.kind](summary), output)
    return 0


def _target(text: str) -> _Target:
    kind, _, destination = text.partition(":")
    if kind not in ("term", *_FORMATS):
        known = ", ".join(("term", *_FORMATS))
        raise InputError(printable(f"--to={text}: there is no such type; choose one of {known}"))
    if kind == "term" and destination not in ("", _STDOUT):
        raise InputError(printable(f"--to={text}: term is for standard output"))
    if kind != "term" and not destination:
        raise InputError(printable(f"--to={text}: name the file: {kind}:PATH, or {kind}:-"))
    return _Target(kind, destination)


def _write_term(summary: Summary, output: Output, verbosity: int, *, shards: bool) -> None:
    if terminal.is_needed(summary):
        terminal.write(summary, output, verbosity=verbosity, is_here=False, shards=shards)
    else:
        output.sep("=", "no leaks", green=True)


def _write(target: _Target, text: str, output: Output) -> None:
    if target.destination == _STDOUT:
        output.write(text)
        return
    try:
        with open(os.path.expanduser(target.destination), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(printable(f"{target.destination}: {reason}")) from error
