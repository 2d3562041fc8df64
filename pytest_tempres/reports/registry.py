"""The types of reports that `--tempres-report` can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Final
from typing import NamedTuple

if TYPE_CHECKING:
    from pytest_tempres.reports.summary import Summary

__all__ = ["FORMATS", "Format", "Render"]

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
