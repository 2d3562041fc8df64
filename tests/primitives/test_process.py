from __future__ import annotations

import gc
import os
import sys

import pytest

from pytest_tempres.primitives import _process as module


@pytest.fixture
def no_hooks(monkeypatch):
    """Let the process seem to have no hooks."""
    monkeypatch.setattr(sys, module._ATTRIBUTE, {})


@pytest.fixture
def hooks(no_hooks, monkeypatch) -> list[object]:
    """The audit hooks that the test installs."""
    hooks: list[object] = []
    monkeypatch.setattr(sys, "addaudithook", hooks.append)
    return hooks


@pytest.fixture
def calls(no_hooks, monkeypatch) -> list[object]:
    """The functions that the test registers for forked children."""
    calls: list[object] = []
    monkeypatch.setattr(
        os,
        "register_at_fork",
        lambda *, after_in_child: calls.append(after_in_child),
        raising=False,
    )
    return calls


def recorder():
    """Return a listener and the list in which it records the events."""
    received: list[object] = []
    return lambda event, args: received.append((event, args)), received


def test_a_shared_object_is_created_and_installed_once(no_hooks):
    """The first call creates it, and all others return the same object."""
    installed: list[object] = []
    first = module.shared("it", list, installed.append)
    assert module.shared("it", list, installed.append) is first
    assert installed == [first]


def test_a_failed_installation_is_repeated(no_hooks):
    """The call that failed raises the error, and the next one installs a new object."""
    with pytest.raises(ZeroDivisionError):
        module.shared("it", list, lambda _: 1 / 0)
    installed: list[object] = []
    module.shared("it", list, installed.append)
    assert installed == [[]]


def test_one_hook_serves_all_listeners(hooks):
    """Each listener receives each of its events once, and no others."""
    (one, by_one), (two, by_two) = recorder(), recorder()
    module.listen(["a", "b"], one)
    module.listen(["b", "c"], two)
    module.listen(["a"], one)
    for event in "abcd":
        hooks[0](event, (1,))
    assert len(hooks) == 1
    assert by_one == [("a", (1,)), ("b", (1,))]
    assert by_two == [("b", (1,)), ("c", (1,))]


def test_a_stopped_listener_receives_no_events(hooks):
    """The other listeners still receive theirs, and stopping twice is no error."""
    (one, by_one), (two, by_two) = recorder(), recorder()
    for each in (one, two):
        module.listen(["a"], each)
    module.stop_listening(one)
    module.stop_listening(one)
    hooks[0]("a", ())
    assert (by_one, by_two) == ([], [("a", ())])


def test_the_hook_has_the_name_that_is_searched_in_stacks(hooks):
    """Any copy of the package recognises the hook by this name."""
    module.listen([], print)
    assert hooks[0].__code__.co_name == module.AUDIT_HOOK


def test_functions_are_called_in_children_until_they_are_collected(calls):
    """A function of a module that is no longer in use is neither called nor kept alive."""
    called: list[str] = []
    functions = [lambda: called.append("one"), lambda: called.append("two")]
    for index in (0, 1):
        module.after_fork_in_child(functions[index])
    calls[0]()
    del functions[0]
    gc.collect()
    calls[0]()
    assert called == ["one", "two", "two"]
    module.after_fork_in_child(functions[0])
    assert len(calls) == 1
    assert len(getattr(sys, module._ATTRIBUTE)["fork"]) == 2


def test_without_fork_registration_is_no_error(no_hooks, monkeypatch):
    """Windows has no `os.register_at_fork`."""
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    module.after_fork_in_child(recorder)
