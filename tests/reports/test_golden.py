from __future__ import annotations

from io import StringIO
import os
from pathlib import Path
import re

import pytest
from report_checks import check_github
from report_checks import check_gitlab
from report_checks import check_json
from report_checks import check_junit
from report_checks import check_markdown
from report_checks import check_sarif

from pytest_tempres import __version__
from pytest_tempres.cli.output import Output
from pytest_tempres.reports import github
from pytest_tempres.reports import gitlab
from pytest_tempres.reports import json_report
from pytest_tempres.reports import junit
from pytest_tempres.reports import markdown
from pytest_tempres.reports import sarif
from pytest_tempres.reports import terminal

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def plain_output(monkeypatch):
    """Make the terminal report the same everywhere."""
    for name in ("PY_COLORS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


def render_terminal(summary):
    """Return the terminal report, 80 columns wide."""
    file = StringIO()
    terminal.write(summary, Output(file), is_here=False)
    return file.getvalue()


def check_terminal(text):
    """Check that nothing in the terminal report can control a terminal."""
    assert all(line.isprintable() for line in text.splitlines())


def render_html(summary):
    """Return the page without its style and its script, which other tests are about."""
    html = pytest.importorskip("pytest_tempres.reports.html")
    page = re.sub("sha256-[^']+", "sha256-...", html.render(summary))
    return re.sub(r"(<(style|script)[^>]*>).*?(</\2>)", r"\1...\3", page, flags=re.DOTALL)


def render_sarif(summary):
    """Return the SARIF report as every version of this package writes it."""
    return sarif.render(summary).replace(f'"version": "{__version__}"', '"version": "1"')


def check_html(text):
    """Check that the page is complete."""
    assert text.startswith("<!doctype html>\n")
    assert text.endswith("</html>\n")


FORMATS = {
    "report.json": (json_report.render, check_json),
    "report.xml": (junit.render, check_junit),
    "report.md": (markdown.render, check_markdown),
    "gitlab.json": (gitlab.render, check_gitlab),
    "report.sarif": (render_sarif, check_sarif),
    "report.html": (render_html, check_html),
    "term.txt": (render_terminal, check_terminal),
    "github.txt": (
        lambda summary: "".join(f"{line}\n" for line in github.commands(summary)),
        lambda text: check_github(text.splitlines()),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_as_in_its_golden_file(example, name):
    """Set WRITE_GOLDEN=1 to write these files again, and read the difference."""
    render, check = FORMATS[name]
    text = render(example)
    if os.environ.get("WRITE_GOLDEN"):
        (GOLDEN / name).write_text(text, encoding="utf-8", newline="\n")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")
    check(text)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_the_same_from_a_parsed_report(example, name):
    """A program can make every report from the JSON file, on another machine."""
    render, _ = FORMATS[name]
    again = json_report.parse(json_report.render(example))
    assert render(again) == render(example)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_can_report_an_empty_session(summarize, name):
    """Nothing was left behind and nothing kept."""
    render, check = FORMATS[name]
    check(render(summarize()))
