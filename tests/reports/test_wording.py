from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres.reports.wording import count
from pytest_tempres.reports.wording import size


@pytest.mark.parametrize(
    "amount, text",
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
def test_size_has_a_unit_of_a_thousand(amount, text):
    """With at most three digits, except in the largest unit."""
    assert size(amount) == text


@given(st.integers(0, 10**18 - 10**15))
def test_size_is_rounded_to_two_or_three_digits(amount):
    """The error is at most five percent."""
    number, unit = size(amount).split()
    scale = {"byte": 1, "bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}[unit]
    assert re.fullmatch(r"\d{1,3}|\d\.\d", number)
    assert abs(float(number) * scale - amount) <= 0.051 * amount


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
