from __future__ import annotations

import gc

import pytest

from pytest_tempres.leaks import verdict as module
from pytest_tempres.leaks.verdict import CollectionBudget


class Thing:
    """Something that can be in a cycle."""

    def __init__(self, gone: list[str], name: str) -> None:
        self.itself = self
        self._gone, self._name = gone, name

    def __del__(self):
        """Tell of the end."""
        self._gone.append(self._name)


@pytest.fixture(autouse=True)
def automatic_off():
    """Only what a test asks for is collected."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def gone() -> list[str]:
    """The names of things that have gone."""
    return []


@pytest.fixture
def dear(monkeypatch):
    """Full collections have used up their share."""
    monkeypatch.setattr(module, "_FREE_SECONDS", -1)
    monkeypatch.setattr(module, "_SHARE", 0)


def old(gone):
    """Return something that has survived a full collection."""
    thing = Thing(gone, "old")
    gc.collect()
    return thing


def test_everything_is_collected_where_nothing_is_known_to_be_young(gone, dear):
    """Outside of a test, and at the end of a session, all garbage goes."""
    garbage = CollectionBudget()
    for begins in (False, True):
        thing = old(gone)
        if begins:
            garbage.begin()
            garbage.end()
        del thing
        garbage.collect()
    assert gone == ["old", "old"]


def test_everything_is_collected_while_it_costs_little(gone):
    """What a test dropped may be older than the test."""
    garbage, thing = CollectionBudget(), old(gone)
    garbage.begin()
    del thing
    garbage.collect()
    assert gone == ["old"]


def test_what_a_test_has_made_is_collected_when_it_costs_much(gone, dear):
    """The young alone are looked at, and all that the test made are among them."""
    garbage, thing = CollectionBudget(), old(gone)
    garbage.begin()
    del thing
    Thing(gone, "young")
    gc.collect(0)
    garbage.collect()
    assert gone == ["young"]
    gc.collect()


@pytest.mark.parametrize("generation", [1, 2])
def test_what_has_grown_old_in_a_test_is_collected_too(gone, dear, generation):
    """A collection within the test leaves nothing young: then all is looked at."""
    garbage = CollectionBudget()
    garbage.begin()
    thing = Thing(gone, "young")
    gc.collect(generation)
    del thing
    garbage.collect()
    assert gone == ["young"]


def test_objects_of_a_test_are_found_without_a_look_at_all(gone):
    """What is new in memory is little, however much there is."""
    garbage = CollectionBudget()
    before = old(gone)
    garbage.begin()
    made = Thing(gone, "young")
    gc.collect(0)
    found = {id(each) for each in garbage.objects()}
    assert id(made) in found
    assert id(before) not in found
    assert len(found) < len(gc.get_objects()) / 10


@pytest.mark.parametrize("generation", [1, 2])
def test_objects_that_have_grown_old_in_a_test_are_found(gone, generation):
    """A collection within the test hides nothing that the test has made."""
    garbage = CollectionBudget()
    garbage.begin()
    made = Thing(gone, "young")
    gc.collect(generation)
    assert any(each is made for each in garbage.objects())


def test_all_objects_are_found_where_nothing_is_known_to_be_young(gone):
    """Outside of a test everything may be to blame."""
    before = old(gone)
    assert any(each is before for each in CollectionBudget().objects())
