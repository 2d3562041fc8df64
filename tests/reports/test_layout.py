from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres.reports.layout import columns
from pytest_tempres.reports.layout import shorten


@pytest.mark.parametrize(
    "text, number", [("abc", 3), ("日本", 4), ("e\u0301", 1), ("é", 1), ("", 0)]
)
def test_columns_are_counted_as_a_terminal_shows_them(text, number):
    """Wide characters take two, combining ones none."""
    assert columns(text) == number


@pytest.mark.parametrize(
    "text, room, expected",
    [
        ("abcdefghij", 10, "abcdefghij"),
        ("abcdefghij", 9, "abc...hij"),
        ("abcdefghij", 8, "ab...hij"),
        ("日本日本日本", 9, "日...本"),
    ],
)
def test_the_middle_is_left_out(text, room, expected):
    """Only if the text is too long."""
    assert shorten(text, room) == expected


@given(st.text(), st.integers(5, 40))
def test_shortened_text_fits(text, room):
    """Text in any script keeps its beginning and its end."""
    short = shorten(text, room)
    assert columns(short) <= room
    start, _, end = short.partition("...")
    assert short == text or (text.startswith(start) and text.endswith(end))
