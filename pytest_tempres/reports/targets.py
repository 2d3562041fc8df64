"""The types of reports, and the values of `--tempres-report`: which to write, and where."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from importlib.util import find_spec
import os
import stat
from typing import TYPE_CHECKING
from typing import Final
from typing import NamedTuple

if TYPE_CHECKING:
    from pytest_tempres.reports.summary import Summary

__all__ = [
    "FORMATS",
    "GITHUB",
    "TERM",
    "TYPES",
    "USAGE",
    "Format",
    "Render",
    "ReportTarget",
    "check",
    "clash",
    "parse",
]

Render = Callable[["Summary"], str]


class Format(NamedTuple):
    """A type of report that is a file."""

    #: Its name in messages.
    title: str
    #: Imports the format and returns the function that makes the text of a report.
    load: Callable[[], Render]
    #: Whether the text is added to the end of a file.
    appends: bool = False
    #: The package that it needs, which is installed with an extra of the same name as the format.
    needs: str | None = None


def _json() -> Render:
    from pytest_tempres.reports import json_report  # noqa: PLC0415 -- formats load when used

    return json_report.render


def _junit() -> Render:
    from pytest_tempres.reports import junit  # noqa: PLC0415 -- formats load when used

    return junit.render


def _markdown() -> Render:
    from pytest_tempres.reports import markdown  # noqa: PLC0415 -- formats load when used

    return markdown.render


def _gitlab() -> Render:
    from pytest_tempres.reports import gitlab  # noqa: PLC0415 -- formats load when used

    return gitlab.render


def _sarif() -> Render:
    from pytest_tempres.reports import sarif  # noqa: PLC0415 -- formats load when used

    return sarif.render


def _html() -> Render:
    from pytest_tempres.reports import html  # noqa: PLC0415 -- formats load when used

    return html.render


#: The types that are files, by name.
FORMATS: Final = {
    "json": Format("JSON", _json),
    "junit": Format("JUnit", _junit),
    "markdown": Format("Markdown", _markdown),
    "markdown-append": Format("Markdown", _markdown, appends=True),
    "gitlab": Format("GitLab", _gitlab),
    "sarif": Format("SARIF", _sarif),
    "html": Format("HTML", _html, needs="jinja2"),
}


class ReportTarget(NamedTuple):
    """A report to write: its type and destination."""

    type: str
    destination: str | None


TERM: Final = ReportTarget("term", None)
GITHUB: Final = ReportTarget("github", None)
#: All types, and how to write each in the option.
TYPES: Final = ("term", "github", *FORMATS)
USAGE: Final = ("term", "term:none", "github", *(f"{name}:PATH" for name in FORMATS))


def parse(text: str, base: str) -> ReportTarget:
    """Return the report that *text* names, ``TYPE`` or ``TYPE:DEST``.

    :param text: Its type is one of :data:`TYPES`.
    :param base: The directory that a path is relative to.
    :raises ValueError: With what to write instead.
    """
    kind, _, destination = text.partition(":")
    if kind == "term":
        if destination not in ("", "none"):
            raise ValueError("term takes no destination other than none")
        return ReportTarget(kind, destination or None)
    if kind == "github":
        if destination:
            raise ValueError("github takes no destination; it writes to the output")
        return GITHUB
    if not destination or "\0" in destination:
        raise ValueError(f"name the file: {kind}:PATH")
    return ReportTarget(kind, os.path.join(base, os.path.expanduser(destination)))


def check(target: ReportTarget) -> None:
    """Check before the first test that a report can be made, and that its file can be written.

    :raises ValueError: With what to do.
    """
    if target.type not in FORMATS or target.destination is None:
        return
    found = FORMATS[target.type]
    if found.needs is not None and find_spec(found.needs) is None:
        extra = f'pip install "pytest-tempres[{target.type}]"'
        raise ValueError(f"this report needs {found.needs}: {extra}")
    path = target.destination
    if os.path.isdir(path) or not os.path.basename(path):
        raise ValueError("this is a directory; name a file in it")
    if os.path.exists(path):
        if not os.access(path, os.W_OK):
            raise ValueError("the file is not writable")
        return
    _check_can_be_created(os.path.dirname(os.path.realpath(path)))


def _check_can_be_created(directory: str) -> None:
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    if not os.path.isdir(directory):
        raise ValueError(f"{directory} is not a directory")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ValueError(f"the directory {directory} is not writable")


def clash(targets: Iterable[ReportTarget]) -> ReportTarget | None:
    """Return the first report that is written to the same file as an earlier one."""
    seen = set()
    for target in targets:
        if target.type in FORMATS and target.destination is not None:
            path = os.path.normcase(os.path.realpath(target.destination))
            if path in seen and not _is_special(path):
                return target
            seen.add(path)
    return None


def _is_special(path: str) -> bool:
    """Whether *path* is a device or a pipe, which several reports can be written to."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False
