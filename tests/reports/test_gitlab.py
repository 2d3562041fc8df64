from __future__ import annotations

import random

from report_checks import check_gitlab

from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports.gitlab import render


def fingerprints(leaks, summarize):
    """Return the fingerprint of each leak by its owner."""
    issues = check_gitlab(render(summarize(*leaks)))
    return {issue["description"].split()[0]: issue["fingerprint"] for issue in issues}


def test_leaks_of_one_line_have_different_fingerprints(a_leak, summarize):
    """GitLab would show only the first of them. They do not depend on order, path and line."""

    def leaks(line, path):
        owners = [Owner("test", f"t.py::test[{i}]") for i in range(5)]
        origin = (Frame("t.py", line, "test"),)
        return [a_leak(f"{path}/{i}", owner=owner, origin=origin) for i, owner in enumerate(owners)]

    first = fingerprints(leaks(4, "/x"), summarize)
    again = leaks(40, "/y")
    random.Random(1).shuffle(again)
    assert len(set(first.values())) == 5
    assert fingerprints(again, summarize) == first


def test_a_leak_alone_has_the_fingerprint_of_the_baseline(a_leak, summarize):
    """It is the same in all reports."""
    leak = a_leak()
    (issue,) = check_gitlab(render(summarize(leak)))
    assert issue["fingerprint"] == leak.fingerprint


def test_severity_says_what_fails(a_leak, summarize):
    """Known leaks never do, others if the options say so."""
    leaks = (a_leak(), a_leak(status="known"), a_leak(status="deferred"))
    for fail, severity in ((True, "major"), (False, "minor")):
        issues = check_gitlab(render(summarize(*leaks, leaks_fail=fail)))
        assert [issue["severity"] for issue in issues] == [severity, "info"]


def test_a_leak_without_a_place_has_the_repository(a_leak, summarize):
    """GitLab refuses an issue without a path."""
    (issue,) = check_gitlab(render(summarize(a_leak(owner=SESSION, origin=()))))
    assert issue["location"] == {"path": ".", "lines": {"begin": 1}}
