"""Reads the JSON reports that the command line names."""

from __future__ import annotations

from pytest_tempres.cli.output import InputError
from pytest_tempres.reports.json_report import parse
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.terminal_words import printable

__all__ = ["read_report"]


def read_report(path: str) -> Summary:
    """Return the summary in the JSON report at *path*.

    :raises InputError: If it cannot be read, or is no report of this plugin that this version
        understands.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return parse(file.read())
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError:
        reason = "this is not JSON: it is not encoded as UTF-8"
    except ValueError as error:
        reason = str(error)
    raise InputError(printable(f"{path}: {reason}"))
