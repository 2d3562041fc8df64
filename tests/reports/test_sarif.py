from __future__ import annotations

import os

import pytest
from report_checks import check_sarif

from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Frame
from pytest_tempres.reports.json_report import KINDS
from pytest_tempres.reports.sarif import render


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_leak_has_a_rule(a_leak, summarize, kind):
    """The result refers to it by its id and its index."""
    (result,) = check_sarif(render(summarize(a_leak(kind=kind))))["results"]
    assert result["ruleId"] == f"tempres-{kind}"


def test_known_leaks_are_suppressed(a_leak, summarize):
    """A scanning service does not open an alert for them."""
    leaks = (a_leak(), a_leak(status="known"), a_leak(status="failed-test"))
    new, known = check_sarif(render(summarize(*leaks)))["results"]
    assert (new["baselineState"], known["baselineState"]) == ("new", "unchanged")
    assert "suppressions" not in new
    assert known["suppressions"][0]["kind"] == "external"
    assert known["level"] == "note"


def test_without_a_baseline_no_result_is_compared_with_one(a_leak, summarize):
    """Nothing says that a leak is new."""
    (result,) = check_sarif(render(summarize(a_leak())))["results"]
    assert "baselineState" not in result
    stale = (Known("test", "t", "file", "-", "0" * 16),)
    (result,) = check_sarif(render(summarize(a_leak(), stale=stale)))["results"]
    assert result["baselineState"] == "new"


@pytest.mark.parametrize("fail, level", [(True, "error"), (False, "warning")])
def test_the_level_says_what_fails(a_leak, summarize, fail, level):
    """As in the annotations."""
    (result,) = check_sarif(render(summarize(a_leak(), leaks_fail=fail)))["results"]
    assert result["level"] == level


def test_paths_are_percent_encoded(a_leak, summarize):
    """Bytes that are not UTF-8 too; files outside the repository are absolute."""
    frames = (
        Frame(os.fsdecode(b"a b/\xff%#:.py"), 3, "f"),
        Frame("/usr/lib/é.py", 5, "g"),
        Frame("t.py", 7, "h"),
    )
    (result,) = check_sarif(render(summarize(a_leak(origin=frames))))["results"]
    inside = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert inside == {"uri": "a%20b/%FF%25%23%3A.py", "uriBaseId": "SRCROOT"}
    uris = [
        each["physicalLocation"]["artifactLocation"]["uri"] for each in result["relatedLocations"]
    ]
    assert uris == ["file:///usr/lib/%C3%A9.py", "t.py"]
    assert [each["message"]["text"] for each in result["relatedLocations"]] == ["in g", "in h"]


def test_the_repository_is_an_absolute_directory(summarize):
    """Its URI ends with a slash, so that others can be relative to it."""
    for directory, uri in (("/a b", "file:///a%20b/"), ("C:\\a b", "file:///C:/a%20b/")):
        session = summarize().session._replace(rootdir=directory)
        run = check_sarif(render(summarize(session=session, repository=directory)))
        assert run["originalUriBaseIds"] == {"SRCROOT": {"uri": uri}}


def test_a_leak_without_a_line_has_its_owner(a_leak, summarize):
    """There is no physical location."""
    (result,) = check_sarif(render(summarize(a_leak(owner=SESSION, origin=()))))["results"]
    assert result["locations"] == [{"logicalLocations": [{"fullyQualifiedName": "session"}]}]
    assert "relatedLocations" not in result


@pytest.mark.parametrize("status, success", [(0, True), (1, True), (5, True), (2, False)])
def test_a_session_that_was_interrupted_was_not_successful(summarize, status, success):
    """Tests that fail are no failure of the program."""
    session = summarize().session._replace(exit_status=status)
    (invocation,) = check_sarif(render(summarize(session=session)))["invocations"]
    assert invocation["executionSuccessful"] is success
