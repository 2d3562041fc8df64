from __future__ import annotations

import os
from pathlib import Path

import pytest
from report_checks import check_github
from report_checks import check_gitlab
from report_checks import check_json
from report_checks import check_junit
from report_checks import check_markdown
from report_checks import check_sarif

from pytest_tempres.reports import github
from pytest_tempres.reports import gitlab
from pytest_tempres.reports import json_report
from pytest_tempres.reports import junit
from pytest_tempres.reports import markdown
from pytest_tempres.reports import sarif

GOLDEN = Path(__file__).parent / "golden"
FORMATS = {
    "report.json": (json_report.render, check_json),
    "report.xml": (junit.render, check_junit),
    "report.md": (markdown.render, check_markdown),
    "gitlab.json": (gitlab.render, check_gitlab),
    "report.sarif": (sarif.render, check_sarif),
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
