from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres.reports.layout import columns
from pytest_tempres.reports.layout import fit


@pytest.mark.parametrize(
    "text, number", [("abc", 3), ("日本", 4), ("e\u0301", 1), ("é", 1), ("", 0)]
)
def test_columns_are_counted_as_a_terminal_shows_them(text, number):
    """Wide characters take two, combining ones none."""
    assert columns(text) == number


@given(first=st.text("a日"), rest=st.text("a日"), width=st.integers(1, 30))
def test_lines_get_a_break_and_are_never_cut(first, rest, width):
    """There are two lines only if one would be too long."""
    lines = fit(first, rest, width)
    assert len(lines) == 1 + (columns(f"{first} {rest}".rstrip()) > width)
    assert "".join(lines).replace(" ", "") == f"{first}{rest}".replace(" ", "")
