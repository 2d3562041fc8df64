from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports.wording import amount
from pytest_tempres.reports.wording import count
from pytest_tempres.reports.wording import kinds
from pytest_tempres.reports.wording import name
from pytest_tempres.reports.wording import origin
from pytest_tempres.reports.wording import size
from pytest_tempres.reports.wording import totals
from pytest_tempres.reports.wording import where


@pytest.mark.parametrize(
    "number, text",
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_950, "10 kB"),
        (12_345, "12 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (1_200_000, "1.2 MB"),
        (5 * 10**9, "5.0 GB"),
        (10**12, "1.0 TB"),
        (10**15, "1.0 PB"),
        (10**18, "1000 PB"),
    ],
)
def test_size_has_a_unit_of_a_thousand(number, text):
    """With at most three digits, except in the largest unit."""
    assert size(number) == text


@given(st.integers(0, 10**18 - 10**15))
def test_size_is_rounded_to_two_or_three_digits(number):
    """The error is at most five percent."""
    digits, unit = size(number).split()
    scale = {"byte": 1, "bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}[unit]
    assert re.fullmatch(r"\d{1,3}|\d\.\d", digits)
    assert abs(float(digits) * scale - number) <= 0.051 * number


@pytest.mark.parametrize(
    "number, noun, text",
    [
        (0, "file", "0 files"),
        (1, "directory", "1 directory"),
        (2, "directory", "2 directories"),
        (2, "leak", "2 leaks"),
    ],
)
def test_count_uses_the_plural(number, noun, text):
    """Except for 1."""
    assert count(number, noun) == text


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
    assert name(owner) == text


def test_a_path_is_relative_to_the_parent_of_its_session_root(a_leak, summarize):
    """With the host if it is on another one."""
    here = a_leak("/tmp/tempres-abcdefgh/main/x")
    far = a_leak("away:/tmp/tempres-remote00/gw1/x", worker="gw1")
    outside = a_leak("/elsewhere/x")
    summary = summarize(hosts={"gw1": "away"}, other_roots=("away:/tmp/tempres-remote00",))
    assert [where(summary, leak) for leak in (here, far, outside)] == [
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
    text = "left 2 directories (4 files, 2.0 kB) and 1 socket, changed 1 path"
    assert amount(leaks) == text
    several = [a_leak(kind=kind) for kind in ("fifo", "socket", "symlink")]
    assert amount(several) == "left 1 fifo, 1 socket and 1 symlink"
    assert kinds(leaks) == "1 socket, 2 directories, 1 changed path"
    assert amount([a_leak(kind="directory", items=0)]) == "left 1 directory (empty)"
    assert amount([a_leak(complete=False, size=3)]) == "left 1 file (at least 3 bytes)"


def test_the_origin_of_a_leak_of_a_process_names_the_last_one(a_leak):
    """As it was typed; nothing is known of who opened a descriptor."""
    leak = a_leak(origin=(), made_by="other", command="sh -c 'x > y'\n")
    (line,) = origin(leak)
    assert line == r"a subprocess or native code; last process: sh -c 'x > y'\n"
    assert list(origin(leak._replace(kind="descriptor"))) == []


def test_totals_name_what_there_is(a_leak, summarize):
    """And say so if there are no leaks."""
    assert totals(summarize(), 0) == "no leaks"
    statuses = ("leak", "leak", "known", "deferred", "failed-test")
    summary = summarize(*(a_leak(size=5, status=status) for status in statuses))
    text = "2 leaks, 10 bytes; 1 known; 1 removed at exit; 1 from failed tests"
    assert totals(summary, 2) == text
