"""Renders JSON reports, merged into one, in any format."""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Final

from pytest_tempres.cli.inputs import merge
from pytest_tempres.cli.inputs import read_report
from pytest_tempres.cli.inputs import shard_names
from pytest_tempres.cli.output import InputError
from pytest_tempres.cli.output import Output
from pytest_tempres.reports import output as files
from pytest_tempres.reports import targets
from pytest_tempres.reports import terminal
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.targets import FORMATS
from pytest_tempres.reports.targets import ReportTarget
from pytest_tempres.reports.wording import printable

__all__ = ["run"]

#: The destination that stands for standard output.
_STDOUT: Final = "-"


def run(paths: list[str], wanted: Sequence[str], output: Output, *, verbosity: int) -> int:
    """Write the reports at *paths*, merged, to each target in *wanted*; return the exit status."""
    to = [_target(text) for text in wanted]
    double = targets.clash(each for each in to if each.destination != _STDOUT)
    if double is not None:
        text = f"--to={double.type}:{double.destination}"
        raise InputError(printable(f"{text}: another report is written to this file"))
    # The same report twice, through two patterns of the shell, is one shard.
    paths = list(dict.fromkeys(paths))
    shards = dict(zip(shard_names(paths), map(read_report, paths), strict=True))
    summary = merge(shards)
    for target in to:
        if target.type == "term":
            _write_term(summary, output, verbosity, shards=len(shards) > 1)
        elif target.type == "github":
            _write_annotations(summary, output)
        else:
            _write(target, summary, output)
    return 0


def _target(text: str) -> ReportTarget:
    kind, _, destination = text.partition(":")
    if kind not in targets.TYPES:
        known = ", ".join(targets.TYPES)
        raise InputError(printable(f"--to={text}: there is no such type; choose one of {known}"))
    if kind == "term" and destination:
        raise InputError(printable(f"--to={text}: term takes no destination here"))
    if kind in FORMATS and destination == _STDOUT:
        return ReportTarget(kind, _STDOUT)
    try:
        target = targets.parse(text, os.getcwd())
        targets.check(target)
    except ValueError as error:
        raise InputError(printable(f"--to={text}: {error}")) from error
    return target


def _write_term(summary: Summary, output: Output, verbosity: int, *, shards: bool) -> None:
    if terminal.is_needed(summary):
        terminal.write(summary, output, verbosity=verbosity, is_here=False, shards=shards)
    else:
        output.sep("=", "no leaks", green=True)


def _write_annotations(summary: Summary, output: Output) -> None:
    from pytest_tempres.reports import github  # noqa: PLC0415 -- formats load when used

    for command in github.commands(summary):
        output.line(command)


def _write(target: ReportTarget, summary: Summary, output: Output) -> None:
    found = FORMATS[target.type]
    path = target.destination or _STDOUT
    if path == _STDOUT:
        output.write(found.load()(summary))
        return
    # A report may go to the file that standard output is redirected to.
    output.flush()
    try:
        if found.appends:
            _append(path, summary)
        else:
            files.replace(path, found.load()(summary))
    except OSError as error:
        raise InputError(printable(f"{path}: {error.strerror or error}")) from error


def _append(path: str, summary: Summary) -> None:
    from pytest_tempres.reports import markdown  # noqa: PLC0415 -- formats load when used

    files.append(path, markdown.text_to_append(summary, path, files.size(path)))
