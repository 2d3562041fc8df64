from __future__ import annotations

from io import StringIO

from any_summary import ANY_SUMMARY
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest
from report_checks import check_github
from report_checks import check_gitlab
from report_checks import check_junit
from report_checks import check_markdown
from report_checks import check_sarif

from pytest_tempres.cli.output import Output
from pytest_tempres.reports import github
from pytest_tempres.reports import gitlab
from pytest_tempres.reports import junit
from pytest_tempres.reports import markdown
from pytest_tempres.reports import sarif
from pytest_tempres.reports import terminal


@settings(deadline=None)
@given(ANY_SUMMARY, st.integers(-2, 1))
def test_no_name_can_control_the_terminal(summary, verbosity):
    """Each line is printable, and UTF-8 can encode it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PY_COLORS", "0")
        file = StringIO()
        terminal.write(summary, Output(file), verbosity=verbosity, is_here=False)
    lines = file.getvalue().split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    file.getvalue().encode("utf-8")


@settings(deadline=None)
@given(ANY_SUMMARY)
def test_no_name_breaks_the_junit_report(summary):
    """It remains valid XML that follows the schema."""
    check_junit(junit.render(summary))


@settings(deadline=None)
@given(ANY_SUMMARY)
def test_no_name_breaks_the_markdown_report(summary):
    """It adds no markup, no link, no mention and no row."""
    html = check_markdown(markdown.render(summary))
    owners = {leak.owner for leak in summary.leaks if leak.status == "leak"}
    assert html.count("<tr>") == (len(owners) + 1 if owners else 0)


@settings(deadline=None)
@given(ANY_SUMMARY)
def test_no_name_adds_a_workflow_command(summary):
    """Each leak is one line with the properties that it should have."""
    check_github(list(github.commands(summary)))


@settings(deadline=None)
@given(ANY_SUMMARY)
def test_no_name_breaks_the_gitlab_report(summary):
    """Paths are relative, and fingerprints are unique."""
    check_gitlab(gitlab.render(summary))


@settings(deadline=None)
@given(ANY_SUMMARY)
def test_no_name_breaks_the_sarif_report(summary):
    """It follows the schema, and its URIs are valid."""
    check_sarif(sarif.render(summary))
