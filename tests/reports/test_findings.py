from __future__ import annotations

from json import loads

import pytest

from pytest_tempres.reports import github
from pytest_tempres.reports import gitlab
from pytest_tempres.reports import json_report
from pytest_tempres.reports import junit
from pytest_tempres.reports import markdown
from pytest_tempres.reports import sarif
from pytest_tempres.reports.findings import by_origin
from pytest_tempres.reports.findings import by_owner
from pytest_tempres.reports.findings import findings


@pytest.fixture
def held(a_leak, summarize):
    """A file that a test has left open, and another test's descriptor of something else."""
    path = "/tmp/tempres-abcdefgh/main/held"
    return summarize(
        a_leak(path, size=3),
        a_leak(f"fd 14: {path}", kind="descriptor"),
        a_leak("fd 15: /etc/hosts", kind="descriptor"),
    )


def test_a_file_and_its_descriptor_are_one_finding(held):
    """A descriptor of something that was not left is a finding of its own."""
    found = [(each.leak.kind, each.note) for each in findings(held)]
    assert found == [("file", "is still open (fd 14)"), ("descriptor", "")]


def test_a_report_that_was_read_back_has_the_same_findings(held):
    """The command makes the reports of the session."""
    again = json_report.parse(json_report.render(held))
    assert [each.held_by for each in findings(again)] == [("fd 14",), ()]


def test_reports_for_people_count_findings(held):
    """Each says that the file is still open, and lists the other descriptor only."""
    text = markdown.render(held)
    assert text.startswith("### pytest-tempres: 2 leaks, 3 bytes\n")
    assert "| 1 file, 1 descriptor, 1 still open | 3 bytes |" in text
    (command,) = github.commands(held)
    assert "title=Left 1 file (3 bytes) and 1 descriptor:" in command
    assert "/main/held is still open (fd 14)%0A  fd 15: /etc/hosts%0A" in command
    text = junit.render(held)
    assert 'message="left 1 file (3 bytes) and 1 descriptor"' in text
    assert "/main/held (3 bytes); it is still open (fd 14)\n" in text
    assert "a descriptor: fd 14" not in text


def test_the_page_counts_findings(held):
    """The row of the file says that it is still open."""
    html = pytest.importorskip("pytest_tempres.reports.html")
    text = html.render(held)
    assert "<title>2 leaks in" in text
    assert "file · is still open (fd 14) · " in text
    assert "fd 14: /" not in text


def test_reports_for_programs_have_a_record_for_each_leak(held):
    """A fingerprint that is missing would be a leak that was fixed."""
    assert json_report.parse(json_report.render(held)).totals.leaks == 3
    assert len(loads(gitlab.render(held))) == 3
    assert len(loads(sarif.render(held))["runs"][0]["results"]) == 3


def test_what_was_changed_and_what_was_deleted_are_apart(a_leak, summarize):
    """One line of code can do both, and the paths of both are listed."""
    deleted, changed = a_leak("/p/gone", kind="deleted"), a_leak("/p/kept", kind="changed")
    summary = summarize(deleted, changed, a_leak("/p/other", kind="changed"))
    assert [[each.note for each in group] for group in by_origin(findings(summary))] == [
        ["was changed", "was changed"],
        ["was deleted"],
    ]
    (command,) = github.commands(summary)
    assert "%0A  /p/gone was deleted%0A  /p/kept was changed%0A" in command
    assert "%0Achanged by:%0A" in command


def test_known_leaks_are_findings_too(a_leak, summarize):
    """They are grouped apart from the others."""
    summary = summarize(a_leak(), a_leak(status="known", size=2))
    ((_, found),) = by_owner(findings(summary, "known"))
    assert [each.leak.bytes for each in found] == [2]
