from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres.reports.escape import escaped
from pytest_tempres.reports.escape import raw
from pytest_tempres.reports.summary import Totals
from pytest_tempres.workspace.retention import Kept

ANY_TEXT = st.text(st.characters(codec=None))
ANY_NAME = st.binary().map(lambda name: name.decode("utf-8", "surrogateescape"))


def test_totals_count_each_status_separately(a_leak, summarize):
    """The bytes are those of leaks only."""
    leaks = [
        a_leak(size=10),
        a_leak(size=5),
        a_leak(size=100, status="deferred"),
        a_leak(size=100, status="failed-test"),
        a_leak(size=100, status="failed-test"),
        a_leak(size=100, status="known"),
    ]
    kept = (Kept("t", "/x", "failed", "main"),)
    assert summarize(*leaks, kept=kept).totals == Totals(
        leaks=2, known=1, deferred=1, from_failed=2, bytes=15, kept=1
    )


def test_totals_of_an_empty_session_are_zero(summarize):
    """A session without leaks and kept paths."""
    assert summarize().totals == Totals(0, 0, 0, 0, 0, 0)


@given(ANY_NAME | ANY_TEXT)
def test_escaped_text_can_always_be_written(text):
    """For any bytes or characters."""
    escaped(text).encode("utf-8")
    printable = escaped(text, controls=True)
    printable.encode("utf-8")
    assert printable.isprintable()


@given(st.text())
def test_printable_text_is_not_escaped(text):
    """In any script."""
    assert escaped(text) == text
    if text.isprintable():
        assert escaped(text, controls=True) == text


@given(st.binary())
def test_raw_returns_the_bytes_of_the_name_on_disk(name):
    """For any bytes."""
    assert raw(name.decode("utf-8", "surrogateescape")) == name


@pytest.mark.parametrize(
    "text, plain, printable",
    [
        ("a\nb", "a\nb", r"a\nb"),
        ("\x1b[31m", "\x1b[31m", r"\x1b[31m"),
        ("é", "é", "é"),
        (os.fsdecode(b"\xff\xfe"), r"\xff\xfe", r"\xff\xfe"),
        (os.fsdecode(b"\xc3\xa9\xff"), r"é\xff", r"é\xff"),
        ("\u202e", "\u202e", r"\u202e"),
        ("\ud800", r"\xed\xa0\x80", r"\xed\xa0\x80"),
    ],
)
def test_bytes_that_are_not_utf8_are_escaped(text, plain, printable):
    """Control characters too, on request."""
    assert escaped(text) == plain
    assert escaped(text, controls=True) == printable
