from __future__ import annotations

from report_checks import check_github

from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports.github import commands


def test_leaks_of_one_line_and_test_are_one_annotation(a_leak, summarize):
    """GitHub shows few of them; long lists are cut."""
    leaks = [a_leak(f"/x/{i}", size=1) for i in range(7)]
    ((level, properties, message),) = check_github(list(commands(summarize(*leaks))))
    assert level == "warning"
    assert properties == {"file": "t.py", "line": "4", "title": "Left 7 files (7 bytes)"}
    assert message.splitlines() == [
        "t.py::test left 7 files (7 bytes):",
        *(f"  /x/{i}" for i in range(5)),
        "  and 2 more",
        "created by:",
        "  t.py:4 in test",
    ]


def test_a_leak_without_a_place_is_an_annotation_of_the_job(a_leak, summarize):
    """It has a title and neither file nor line."""
    leak = a_leak(owner=SESSION, origin=(), made_by="other")
    ((_, properties, message),) = check_github(list(commands(summarize(leak))))
    assert properties.keys() == {"title"}
    assert message.endswith("created by:\n  a subprocess or native code")


def test_only_leaks_are_annotated(a_leak, summarize):
    """Not what is known, deferred or left by a failed test."""
    leaks = [a_leak(status=status) for status in ("known", "deferred", "failed-test")]
    assert list(commands(summarize(*leaks))) == []


def test_the_rest_is_counted(a_leak, summarize):
    """In leaks and in places."""
    leaks = [
        a_leak(
            f"/x/{i}", owner=Owner("test", f"t.py::{i // 2}"), origin=(Frame("t.py", i // 2, "f"),)
        )
        for i in range(24)
    ]
    found = check_github(list(commands(summarize(*leaks, leaks_fail=True))))
    assert [level for level, _, _ in found] == ["error"] * 10 + ["notice"]
    assert found[-1][2] == "4 more leaks from 2 places are not annotated"
