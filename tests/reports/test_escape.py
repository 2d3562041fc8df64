from __future__ import annotations

from any_summary import ANY_TEXT
from hypothesis import given
from hypothesis import settings
from markdown_it import MarkdownIt
import pytest

from pytest_tempres.reports.escape import command_data
from pytest_tempres.reports.escape import command_property
from pytest_tempres.reports.escape import markdown_code
from pytest_tempres.reports.escape import sarif
from pytest_tempres.reports.escape import xml

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a\tb\nc <&>]]>", "a\tb\nc <&>]]>"),
        ("\x00\x1b\x7f", "#x00#x1B#x7F"),
        ("\ufffe\ud800", "#xFFFE#xD800"),
        ("é\U0001f600", "é\U0001f600"),
    ],
)
def test_xml_has_no_forbidden_characters(text, expected):
    """They are written as in pytest's own JUnit report."""
    assert xml(text) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("t.py::test[a-1]", "`t.py::test[a-1]`"),
        ("@me https://x **b**", "`@me https://x **b**`"),
        ("a|b", "<code>a&#124;b</code>"),
        ("a`b", "<code>a&#96;b</code>"),
        ("a\\b\n", "<code>a&#92;b&#92;n</code>"),
        ("", "<code></code>"),
    ],
)
def test_markdown_code_is_a_code_span_where_it_can_be(text, expected):
    """That is easy to read without a renderer too."""
    assert markdown_code(text) == expected


@settings(deadline=None)
@given(ANY_TEXT)
def test_markdown_code_is_one_cell(text):
    """Nothing in a name ends the code or the cell."""
    html = MARKDOWN.render(f"| a | b |\n| --- | --- |\n| {markdown_code(text)} | end |\n")
    assert html.count("<td>") == 2
    assert html.count("<code>") == html.count("</code>") == 1
    assert "<td>end</td>" in html
    assert not {"<a", "<em", "<script", "<img"} & set(html.replace(">", " ").split())


@pytest.mark.parametrize(
    "text, data, prop",
    [
        ("50%\r\n", "50%25%0D%0A", "50%25%0D%0A"),
        ("a:b,c", "a:b,c", "a%3Ab%2Cc"),
        ("%0A", "%250A", "%250A"),
        ("::error::", "::error::", "%3A%3Aerror%3A%3A"),
    ],
)
def test_workflow_commands_are_escaped_as_github_reads_them(text, data, prop):
    """A message keeps its colons and commas, a property does not."""
    assert command_data(text) == data
    assert command_property(text) == prop


@pytest.mark.parametrize(
    "text, expected",
    [
        ("t.py::test[a]", "t.py::test[a]"),
        ("{0} {", "{{0}} {{"),
        ("[a](b)", r"\[a](b)"),
        (r"\[a](b)", r"\\\[a](b)"),
    ],
)
def test_sarif_messages_have_no_links_and_placeholders(text, expected):
    """A node id with parameters is not changed."""
    assert sarif(text) == expected
