from __future__ import annotations

import gc
import os
import weakref

import pytest

from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.verdict import as_from_failed
from pytest_tempres.leaks.verdict import judge
from pytest_tempres.leaks.verdict import not_scheduled
from pytest_tempres.leaks.verdict import parents
from pytest_tempres.leaks.verdict import suspects

TEST = "t.py::test"


@pytest.fixture
def entry(tmp_path) -> Entry:
    """A file of three bytes that a test left."""
    path = tmp_path / "left"
    path.write_text("abc")
    return Entry(str(path), Owner("test", TEST), TEST)


def verdict(*entries, deferred=(), failed=(), is_ignored_by_hook=lambda leak: False):
    """Return the statuses of *entries*."""
    leaks = judge(
        entries, deferred=set(deferred), failed=set(failed), is_ignored_by_hook=is_ignored_by_hook
    )
    return [leak.status for leak in leaks]


def test_an_existing_entry_is_a_suspect(entry):
    """It has outlived its owner."""
    assert suspects([entry]) == [entry]


def test_a_removed_or_ignored_entry_is_no_suspect(entry):
    """Neither is reported."""
    gone = entry._replace(path=f"{entry.path}.gone")
    assert suspects([gone, entry._replace(ignored=True)]) == []


def test_a_dangling_link_is_a_suspect(tmp_path, entry):
    """Links are not followed."""
    (tmp_path / "link").symlink_to("nowhere")
    link = entry._replace(path=str(tmp_path / "link"))
    assert suspects([link]) == [link]


def test_a_path_that_a_garbage_collection_removes_is_no_suspect(entry):
    """An object in a reference cycle may own it."""

    class Owner:
        pass

    owner = Owner()
    owner.itself = owner
    weakref.finalize(owner, os.unlink, entry.path)
    del owner
    assert suspects([entry]) == []


def test_without_a_suspect_no_garbage_is_collected(entry, monkeypatch):
    """A collection is expensive."""
    monkeypatch.setattr(gc, "collect", lambda: pytest.fail("collected"))
    assert suspects([entry._replace(path=f"{entry.path}.gone")]) == []


def test_a_leak_is_measured(entry):
    """The size is that at the verdict."""
    (leak,) = judge([entry], deferred=set(), failed=(), is_ignored_by_hook=lambda leak: False)
    assert leak[:6] == ("file", entry.path, 3, 1, True, "leak")
    assert leak.entry is entry


def test_an_entry_removed_during_the_verdict_is_no_leak(entry):
    """A thread may still be cleaning up."""
    os.unlink(entry.path)
    assert verdict(entry) == []


def test_an_entry_scheduled_for_removal_is_deferred(entry):
    """A live object or an exit callback will remove it."""
    assert verdict(entry, deferred=[entry.path]) == ["deferred"]
    assert verdict(entry, deferred=[f"{entry.path}x"]) == ["leak"]


def test_an_entry_in_a_directory_scheduled_for_removal_is_deferred(tmp_path, entry):
    """Removing a directory removes its contents."""
    assert verdict(entry, deferred=[str(tmp_path)]) == ["deferred"]


def test_a_removal_may_be_scheduled_by_the_resolved_path(tmp_path, entry):
    """The temp directory may be a link, as on macOS."""
    (tmp_path / "link").symlink_to(tmp_path)
    linked = entry._replace(path=str(tmp_path / "link" / "left"))
    assert verdict(linked, deferred=[os.path.realpath(entry.path)]) == ["deferred"]


def test_scheduled_removals_are_iterated_only_as_far_as_needed(tmp_path, entry):
    """They may be expensive to find."""
    other = entry._replace(path=str(tmp_path))
    leaks = judge([entry, other], deferred=set(), failed=(), is_ignored_by_hook=lambda leak: False)
    scheduled = iter(["/elsewhere", entry.path, str(tmp_path), "/more"])
    assert not_scheduled(leaks, scheduled) == []
    assert list(scheduled) == ["/more"]
    assert not_scheduled(leaks, ["/elsewhere", entry.path]) == leaks[1:]
    assert not_scheduled([], iter(lambda: 1 / 0, None)) == []


def test_removing_the_target_of_a_link_does_not_remove_the_link(tmp_path, entry):
    """The link itself is still a leak."""
    (tmp_path / "link").symlink_to(entry.path)
    link = entry._replace(path=str(tmp_path / "link"))
    assert verdict(link, deferred=[os.path.realpath(entry.path)]) == ["leak"]


@pytest.mark.parametrize(
    "owner",
    [Owner("test", TEST), Owner("fixture", "f", "function")],
)
def test_an_entry_of_a_failed_test_is_no_leak(entry, owner):
    """That includes its function-scoped fixtures."""
    assert verdict(entry._replace(owner=owner), failed=[TEST]) == ["failed-test"]
    assert verdict(entry._replace(owner=owner), failed=["other"]) == ["leak"]


def test_an_entry_of_a_wider_fixture_is_a_leak_if_a_test_failed(entry):
    """The fixture does not belong to that test."""
    owner = Owner("fixture", "f", "module")
    assert verdict(entry._replace(owner=owner), failed=[TEST]) == ["leak"]


def test_an_entry_marked_as_from_failed_is_no_leak(entry):
    """A failed fixture setup or a failed attempt left it."""
    marked = entry._replace(owner=Owner("fixture", "f", "module"), from_failed=True)
    assert verdict(marked) == ["failed-test"]


def test_a_hook_can_ignore_leaks_only(entry):
    """Other statuses are not passed to the hook."""
    asked = []
    assert verdict(entry, is_ignored_by_hook=lambda leak: asked.append(leak.status) or True) == []
    assert verdict(entry, deferred=[entry.path], is_ignored_by_hook=asked.append) == ["deferred"]
    assert verdict(entry, failed=[TEST], is_ignored_by_hook=asked.append) == ["failed-test"]
    assert asked == ["leak"]


def test_parents_of_a_path():
    """They include the path itself."""
    assert parents("/a/b") == {"/a/b", "/a", "/"}
    assert parents("a") == {"a", ""}


def test_entries_of_failed_tests_are_marked_before_they_are_sent(entry):
    """The receiver does not know which tests failed."""
    wide = entry._replace(owner=Owner("fixture", "wide", "module"))
    assert as_from_failed(entry, {TEST}).from_failed
    assert not as_from_failed(entry, {"t.py::other"}).from_failed
    assert not as_from_failed(wide, {TEST}).from_failed
