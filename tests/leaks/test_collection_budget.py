from __future__ import annotations

import gc

import pytest

from pytest_tempres.leaks import verdict as module
from pytest_tempres.leaks.verdict import CollectionBudget


class Node:
    """An object that can be part of a cycle."""

    def __init__(self, deallocated: list[str], name: str) -> None:
        self.itself = self
        self._deallocated, self._name = deallocated, name

    def __del__(self):
        """Record the deallocation."""
        self._deallocated.append(self._name)


@pytest.fixture(autouse=True)
def no_automatic_collection():
    """Switch automatic collections off."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def deallocated() -> list[str]:
    """The names of deallocated nodes."""
    return []


@pytest.fixture
def over_budget(monkeypatch):
    """Use up the budget for full collections."""
    monkeypatch.setattr(module, "_FREE_SECONDS", -1)
    monkeypatch.setattr(module, "_SHARE", 0)


def old(deallocated):
    """Return an object that has survived a full collection."""
    node = Node(deallocated, "old")
    gc.collect()
    return node


def test_outside_of_a_test_all_garbage_is_collected(deallocated, over_budget):
    """This is so beyond the budget too."""
    budget = CollectionBudget()
    for begins in (False, True):
        node = old(deallocated)
        if begins:
            budget.begin()
            budget.end()
        del node
        budget.collect()
    assert deallocated == ["old", "old"]


def test_within_the_budget_all_garbage_is_collected(deallocated):
    """A test may drop objects older than itself."""
    budget, node = CollectionBudget(), old(deallocated)
    budget.begin()
    del node
    budget.collect()
    assert deallocated == ["old"]


def test_beyond_the_budget_young_garbage_is_collected(deallocated, over_budget):
    """All objects of the test are young."""
    budget, node = CollectionBudget(), old(deallocated)
    budget.begin()
    del node
    Node(deallocated, "young")
    gc.collect(0)
    budget.collect()
    assert deallocated == ["young"]
    gc.collect()


@pytest.mark.parametrize("generation", [1, 2])
def test_objects_that_a_collection_has_aged_are_collected(deallocated, over_budget, generation):
    """After a collection in the test everything is collected."""
    budget = CollectionBudget()
    budget.begin()
    node = Node(deallocated, "young")
    gc.collect(generation)
    del node
    budget.collect()
    assert deallocated == ["young"]


def test_objects_of_a_test_are_found_among_the_young_ones(deallocated):
    """Listing all objects is expensive."""
    budget = CollectionBudget()
    before = old(deallocated)
    budget.begin()
    created = Node(deallocated, "young")
    gc.collect(0)
    found = {id(each) for each in budget.objects()}
    assert id(created) in found
    assert id(before) not in found
    assert len(found) < len(gc.get_objects()) / 10


@pytest.mark.parametrize("generation", [1, 2])
def test_objects_that_a_collection_has_aged_are_found(deallocated, generation):
    """After a collection in the test all objects are listed."""
    budget = CollectionBudget()
    budget.begin()
    created = Node(deallocated, "young")
    gc.collect(generation)
    assert any(each is created for each in budget.objects())


def test_outside_of_a_test_all_objects_are_listed(deallocated):
    """Any of them may hold the path."""
    before = old(deallocated)
    assert any(each is before for each in CollectionBudget().objects())
