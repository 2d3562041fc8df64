from __future__ import annotations

from types import SimpleNamespace

import pytest
from report_checks import check_markdown

from pytest_tempres import reports
from pytest_tempres.reports.targets import FORMATS


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].needs is None])
def test_each_format_is_found(summarize, name):
    """Its module is imported when it is used, and makes a text."""
    text = FORMATS[name].load()(summarize())
    assert isinstance(text, str)
    if name.startswith("markdown"):
        check_markdown(text)


def test_html_is_a_format_with_an_extra(monkeypatch, summarize):
    """Its module needs a library that may be missing."""
    page = SimpleNamespace(render=lambda summary: f"<title>{summary.totals.leaks}</title>")
    monkeypatch.setattr(reports, "html", page, raising=False)
    assert FORMATS["html"].needs == "jinja2"
    assert FORMATS["html"].load()(summarize()) == "<title>0</title>"
