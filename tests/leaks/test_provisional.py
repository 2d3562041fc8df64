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
def promises() -> set[str]:
    """The paths that exit handlers will remove; a test changes them as it goes on."""
    return set()


@pytest.fixture
def provisional(promises) -> Provisional:
    """A worker's record that asks for `scheduled_removals`."""
    return Provisional(lambda: promises)


@pytest.fixture
def left(tmp_path):
    """Make a file, and return the entry of whoever left it."""
    numbers = itertools.count()

    def left(owner: Owner = TEST, **more: bool) -> Entry:
        path = tmp_path / f"left-{next(numbers)}"
        path.touch()
        return Entry(str(path), owner, TEST.id, **more)

    return left


def told(provisional: Provisional, *entries: Entry) -> list[tuple[str, bool]]:
    """Return the paths that are told, and whether as evidence."""
    return [(entry.path, entry.from_failed) for entry in provisional.told(entries)]


@pytest.mark.parametrize("owner", [TEST, NARROW], ids=["test", "fixture"])
def test_what_a_test_left_is_told_for_good(provisional, left, owner):
    """When its report is made, all that could remove it has run."""
    entry = left(owner)
    provisional.over(owner, [entry])
    assert told(provisional, entry) == [(entry.path, False)]
    assert provisional.rest() == []


def test_what_a_wider_owner_left_waits_for_its_end(provisional, left):
    """A fixture may remove what its setup made; what is there after its teardown is a leak.

    What its teardown made, which nobody was told of before, is one too.
    """
    setup, other = left(WIDE), left(SESSION)
    assert told(provisional, setup, other) == [(setup.path, True), (other.path, True)]
    teardown = left(WIDE)
    provisional.over(WIDE, [teardown])
    assert sorted(told(provisional, teardown)) == [(setup.path, False), (teardown.path, False)]
    assert provisional.rest() == [other]


def test_a_fixture_may_end_and_begin_again_before_a_report(provisional, left):
    """The setup of its next parameter is in use, though what the last one left is told."""
    before = left(WIDE)
    provisional.over(WIDE, [before])
    after = left(WIDE)
    assert sorted(told(provisional, before, after)) == [(before.path, False), (after.path, True)]


def test_the_end_of_an_owner_is_told_without_anything_new(provisional, left):
    """The report of a test that left nothing carries what is known for good by now."""
    entry = left(WIDE)
    told(provisional, entry)
    provisional.over(WIDE, [])
    assert told(provisional) == [(entry.path, False)]
    assert told(provisional) == []


def test_a_promise_stands_until_nobody_is_left_to_keep_it(provisional, left, promises):
    """What an exit handler, or an open file's owner, may remove is told once that is over."""
    promised, gone, new = left(), left(), left()
    promises.update((promised.path, gone.path))
    with open(new.path) as held:
        names = [promised.path, gone.path, held.name]
        assert told(provisional, promised, gone, new) == [(name, True) for name in names]
    promises.clear()
    os.unlink(gone.path)
    last = left()
    due = [(entry.path, False) for entry in (last, promised, new)]
    assert told(provisional, last) == due
    assert provisional.rest() == []


def test_marked_entries_are_told_as_they_are(provisional, left):
    """Nothing is asked about what is evidence, or may stay."""
    evidence, ignored = left(WIDE, from_failed=True), left(WIDE, ignored=True)
    assert provisional.told([evidence, ignored]) == [evidence, ignored]
    assert provisional.rest() == []


def test_what_was_not_asked_about_is_asked_about_later(left, monkeypatch):
    """Asking may take its share of the time; what is put off until then is not lost."""
    now = 0.0
    monkeypatch.setattr(System, "monotonic", lambda: now)

    def asked() -> set[str]:
        nonlocal now
        now += 1
        return set()

    provisional = Provisional(asked)
    first, second = left(), left()
    assert told(provisional, first) == [(first.path, False)]
    assert told(provisional, second) == [(second.path, True)]
    assert told(provisional) == []
    now += 100
    assert told(provisional) == [(second.path, False)]
