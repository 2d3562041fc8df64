from __future__ import annotations

import pytest
from report_checks import check_markdown

from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports.markdown import LIMIT
from pytest_tempres.reports.markdown import render
from pytest_tempres.workspace.retention import Kept


@pytest.fixture
def many(a_leak, summarize):
    """A summary that is longer than the limit: with leaks, or with kept paths."""

    def many(leaks, kept):
        return summarize(
            *(
                a_leak(f"/x/{i}", owner=Owner("test", f"t.py::{'é' * 500}{i}"))
                for i in range(leaks)
            ),
            kept=[Kept("t.py::test", f"/{'k' * 1000}/{i}", "failed", "main") for i in range(kept)],
        )

    return many


def test_the_largest_owner_is_first(a_leak, summarize):
    """Then the one with more leaks."""
    small, large, several = (Owner("test", name) for name in ("small", "large", "several"))
    leaks = [a_leak(size=1, owner=small), a_leak(size=9, owner=large)]
    leaks += [a_leak(size=1, owner=several), a_leak(owner=several)]
    text = render(summarize(*leaks))
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["large", "several", "small"]


@pytest.mark.parametrize("leaks, kept", [(2000, 0), (0, 2000), (2000, 2000)])
@pytest.mark.parametrize("limit", [LIMIT, 50_000, 5_000])
def test_a_long_report_is_cut(many, leaks, kept, limit):
    """It stays within the limit, in bytes, and says how much is missing."""
    text = render(many(leaks, kept), limit)
    size = len(text.encode())
    assert size <= limit
    assert size > limit // 4
    check_markdown(text)
    cut = [line for line in text.splitlines() if "more owners" in line or "more kept" in line]
    cut += [line for line in text.splitlines() if line.endswith("not listed here.")]
    assert cut


def test_a_cut_report_counts_the_rest(many):
    """The rows and the number are all of them."""
    text = render(many(2000, 0), 100_000)
    rows = sum(line.startswith("| `") for line in text.splitlines())
    assert f"... and {2000 - rows:,} more owners that left something." in text


@pytest.mark.parametrize("limit", [0, -5, 10])
def test_without_room_there_is_no_text(many, limit):
    """Not half a heading."""
    assert render(many(1, 1), limit) == ""


def test_a_short_report_is_not_cut(many):
    """Everything is listed."""
    assert "more" not in render(many(3, 3))
