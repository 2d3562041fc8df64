from __future__ import annotations

import gc
import os
import sys

import pytest

from pytest_tempres.primitives import _process as module


@pytest.fixture
def fresh(monkeypatch):
    """A process in which nothing is installed."""
    monkeypatch.setattr(sys, module._ATTRIBUTE, {})


@pytest.fixture
def hooks(fresh, monkeypatch) -> list[object]:
    """The audit hooks that are installed in it."""
    hooks: list[object] = []
    monkeypatch.setattr(sys, "addaudithook", hooks.append)
    return hooks


@pytest.fixture
def calls(fresh, monkeypatch) -> list[object]:
    """What is called in its forked children."""
    calls: list[object] = []
    monkeypatch.setattr(
        os,
        "register_at_fork",
        lambda *, after_in_child: calls.append(after_in_child),
        raising=False,
    )
    return calls


def heard():
    """Return a listener and what it has heard."""
    told: list[object] = []
    return lambda event, args: told.append((event, args)), told


def test_what_is_shared_is_made_and_installed_once(fresh):
    """Whoever asks first installs it, and everybody has the same."""
    installed: list[object] = []
    first = module.shared("it", list, installed.append)
    assert module.shared("it", list, installed.append) is first
    assert installed == [first]


def test_what_could_not_be_installed_is_tried_again(fresh):
    """A failure is nobody's but the one who asked."""
    with pytest.raises(ZeroDivisionError):
        module.shared("it", list, lambda _: 1 / 0)
    installed: list[object] = []
    module.shared("it", list, installed.append)
    assert installed == [[]]


def test_one_hook_serves_all_listeners(hooks):
    """Each hears the events that it wants, once, and others hear theirs."""
    (one, by_one), (two, by_two) = heard(), heard()
    module.listen(["a", "b"], one)
    module.listen(["b", "c"], two)
    module.listen(["a"], one)
    for event in "abcd":
        hooks[0](event, (1,))
    assert len(hooks) == 1
    assert by_one == [("a", (1,)), ("b", (1,))]
    assert by_two == [("b", (1,)), ("c", (1,))]


def test_who_stops_listening_hears_no_more(hooks):
    """The hook stays, and holds nobody who has gone."""
    (one, by_one), (two, by_two) = heard(), heard()
    for each in (one, two):
        module.listen(["a"], each)
    module.stop_listening(one)
    module.stop_listening(one)
    hooks[0]("a", ())
    assert (by_one, by_two) == ([], [("a", ())])


def test_the_hook_is_called_as_stacks_know_it(hooks):
    """Who reads a stack tells it by its name, whichever copy of us installed it."""
    module.listen([], print)
    assert hooks[0].__code__.co_name == module.AUDIT_HOOK


def test_functions_are_called_in_children_while_they_live(calls):
    """A module that nobody can use any more has nothing to do there, and takes no memory."""
    told: list[str] = []
    functions = [lambda: told.append("one"), lambda: told.append("two")]
    for index in (0, 1):
        module.after_fork_in_child(functions[index])
    calls[0]()
    del functions[0]
    gc.collect()
    calls[0]()
    assert told == ["one", "two", "two"]
    module.after_fork_in_child(functions[0])
    assert len(calls) == 1
    assert len(getattr(sys, module._ATTRIBUTE)["fork"]) == 2


def test_where_nothing_forks_nothing_is_called(fresh, monkeypatch):
    """Windows has no such hook."""
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    module.after_fork_in_child(heard)
