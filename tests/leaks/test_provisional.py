from __future__ import annotations

import itertools
import os

import pytest

from pytest_tempres.leaks.deferred import Provisional
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Owner
from pytest_tempres.primitives._system import System

TEST = Owner("test", "t.py::test")
NARROW = Owner("fixture", "narrow", "function")
WIDE = Owner("fixture", "wide", "module")


@pytest.fixture
def scheduled() -> set[str]:
    """The paths that exit handlers will remove; tests change it."""
    return set()


@pytest.fixture
def provisional(scheduled) -> Provisional:
    """The record of a worker."""
    return Provisional(lambda: scheduled)


@pytest.fixture
def left(tmp_path):
    """Create a file, and return its entry."""
    numbers = itertools.count()

    def left(owner: Owner = TEST, **more: bool) -> Entry:
        path = tmp_path / f"left-{next(numbers)}"
        path.touch()
        return Entry(str(path), owner, TEST.id, **more)

    return left


def sent(provisional: Provisional, *entries: Entry) -> list[tuple[str, bool]]:
    """Return the paths that are sent, and whether as left by a failed test."""
    return [(entry.path, entry.from_failed) for entry in provisional.to_send(entries)]


@pytest.mark.parametrize("owner", [TEST, NARROW], ids=["test", "fixture"])
def test_an_entry_of_a_test_is_sent_in_its_final_form(provisional, left, owner):
    """All that could remove it has run before the report."""
    entry = left(owner)
    provisional.finish_owner(owner, [entry])
    assert sent(provisional, entry) == [(entry.path, False)]
    assert provisional.remaining() == []


def test_an_entry_of_a_wider_fixture_is_final_after_its_teardown(provisional, left):
    """That includes entries that the teardown creates."""
    setup, other = left(WIDE), left(SESSION)
    assert sent(provisional, setup, other) == [(setup.path, True), (other.path, True)]
    teardown = left(WIDE)
    provisional.finish_owner(WIDE, [teardown])
    assert sorted(sent(provisional, teardown)) == [(setup.path, False), (teardown.path, False)]
    assert provisional.remaining() == [other]


def test_a_fixture_may_be_set_up_again_before_a_report(provisional, left):
    """Entries of the previous parameter are final; those of the next are not."""
    before = left(WIDE)
    provisional.finish_owner(WIDE, [before])
    after = left(WIDE)
    assert sorted(sent(provisional, before, after)) == [(before.path, False), (after.path, True)]


def test_final_entries_are_sent_with_a_report_without_new_ones(provisional, left):
    """An owner may finish after its entries were sent."""
    entry = left(WIDE)
    sent(provisional, entry)
    provisional.finish_owner(WIDE, [])
    assert sent(provisional) == [(entry.path, False)]
    assert sent(provisional) == []


def test_an_entry_is_final_when_nothing_can_remove_it_any_more(provisional, left, scheduled):
    """An exit handler, or the object of an open file, may remove it before."""
    by_handler, gone, new = left(), left(), left()
    scheduled.update((by_handler.path, gone.path))
    with open(new.path) as held:
        names = [by_handler.path, gone.path, held.name]
        assert sent(provisional, by_handler, gone, new) == [(name, True) for name in names]
    scheduled.clear()
    os.unlink(gone.path)
    last = left()
    due = [(entry.path, False) for entry in (last, by_handler, new)]
    assert sent(provisional, last) == due
    assert provisional.remaining() == []


def test_marked_entries_are_sent_unchanged(provisional, left):
    """They are from a failed test, or ignored."""
    of_failed, ignored = left(WIDE, from_failed=True), left(WIDE, ignored=True)
    assert provisional.to_send([of_failed, ignored]) == [of_failed, ignored]
    assert provisional.remaining() == []


def test_entries_that_were_not_checked_are_checked_later(left, monkeypatch):
    """Checks have a time budget."""
    now = 0.0
    monkeypatch.setattr(System, "monotonic", lambda: now)

    def asked() -> set[str]:
        nonlocal now
        now += 1
        return set()

    provisional = Provisional(asked)
    first, second = left(), left()
    assert sent(provisional, first) == [(first.path, False)]
    assert sent(provisional, second) == [(second.path, True)]
    assert sent(provisional) == []
    now += 100
    assert sent(provisional) == [(second.path, False)]
