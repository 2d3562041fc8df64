from __future__ import annotations

import pytest

from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports import wording


@pytest.mark.parametrize(
    "owner, text",
    [
        (Owner("test", "t.py::test\n"), r"t.py::test\n"),
        (Owner("fixture", "f", "module"), "fixture f (module)"),
        (Owner("collection", "t.py"), "collecting t.py"),
        (SESSION, "the session"),
    ],
)
def test_an_owner_has_a_name(owner, text):
    """It is printable, on one line."""
    assert wording.name(owner) == text


def test_a_path_is_relative_to_the_parent_of_its_session_root(a_leak, summarize):
    """With the host if it is on another one."""
    here = a_leak("/tmp/tempres-abcdefgh/main/x")
    far = a_leak("away:/tmp/tempres-remote00/gw1/x", worker="gw1")
    outside = a_leak("/elsewhere/x")
    summary = summarize(hosts={"gw1": "away"}, other_roots=("away:/tmp/tempres-remote00",))
    assert [wording.where(summary, leak) for leak in (here, far, outside)] == [
        "tempres-abcdefgh/main/x",
        "away:tempres-remote00/gw1/x",
        "/elsewhere/x",
    ]


def test_amounts_name_kinds_and_sizes(a_leak):
    """A size is that of files and directories only."""
    leaks = [
        a_leak(kind="socket"),
        a_leak(kind="directory", size=1500, items=3),
        a_leak(kind="directory", size=500, items=1),
        a_leak(kind="changed", size=70),
    ]
    assert wording.amount(leaks) == "2 directories (4 files, 2.0 kB), 1 socket, 1 changed path"
    assert wording.amount([a_leak(kind="directory", items=0)]) == "1 directory (empty)"
    assert wording.amount([a_leak(complete=False, size=3)]) == "1 file (at least 3 bytes)"


def test_totals_name_what_there_is(a_leak, summarize):
    """And say so if there are no leaks."""
    assert wording.totals(summarize()) == "no leaks"
    statuses = ("leak", "leak", "known", "deferred", "failed-test")
    summary = summarize(*(a_leak(size=5, status=status) for status in statuses))
    text = "2 leaks, 10 bytes; 1 known; 1 removed at exit; 1 from failed tests"
    assert wording.totals(summary) == text
