from __future__ import annotations

import pytest
from report_checks import check_junit

from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports.junit import address
from pytest_tempres.reports.junit import render


@pytest.mark.parametrize(
    "owner, expected",
    [
        (Owner("test", "a/t.py::test"), ("a.t", "test")),
        (Owner("test", "t.py::A::B::test[x::y]"), ("t.A.B", "test[x::y]")),
        (Owner("test", "doc.rst::doc.rst"), ("doc.rst", "doc.rst")),
        (Owner("collection", "a/t.py"), ("", "a.t")),
        (Owner("fixture", "f", "module", "a/conftest.py:3"), ("a.conftest", "fixture f (module)")),
        (Owner("fixture", "f", "session"), ("", "fixture f (session)")),
        (SESSION, ("pytest_tempres", "session")),
    ],
)
def test_an_owner_is_a_test_case(owner, expected):
    """A test has the names that it has in pytest's own report."""
    assert address(owner) == expected


def test_the_leaks_of_an_owner_are_one_failure(a_leak, summarize):
    """A test has one result, with all that it left."""
    root = check_junit(render(summarize(a_leak("/x/one"), a_leak("/x/two"))))
    (case,) = root.iter("testcase")
    (failure,) = case
    assert failure.get("message") == "left 2 files (0 bytes)"
    assert "/x/one" in failure.text
    assert "/x/two" in failure.text


def test_known_leaks_are_skipped(a_leak, summarize):
    """They do not fail the job, but the test fails if it left something new too."""
    known = a_leak(status="known")
    (suite,) = check_junit(render(summarize(known)))
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")
    (suite,) = check_junit(render(summarize(known, a_leak())))
    assert (suite.get("failures"), suite.get("skipped")) == ("1", "0")


@pytest.mark.parametrize("status", ["deferred", "failed-test"])
def test_what_is_no_leak_has_no_test_case(a_leak, summarize, status):
    """It would count as a passed test."""
    (suite,) = check_junit(render(summarize(a_leak(status=status))))
    assert suite.get("tests") == "0"
