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


def test_what_is_there_is_a_suspect(entry):
    """What outlived its owner is looked at."""
    assert suspects([entry]) == [entry]


def test_what_is_gone_or_may_stay_is_no_suspect(entry):
    """What was removed in time, or may stay, is not spoken of."""
    gone = entry._replace(path=f"{entry.path}.gone")
    assert suspects([gone, entry._replace(ignored=True)]) == []


def test_a_dangling_link_is_there(tmp_path, entry):
    """A link that leads nowhere is left behind like anything else."""
    (tmp_path / "link").symlink_to("nowhere")
    link = entry._replace(path=str(tmp_path / "link"))
    assert suspects([link]) == [link]


def test_what_garbage_was_going_to_remove_is_no_suspect(entry):
    """An object in a reference cycle has its chance to clean up before anybody is accused."""

    class Owner:
        pass

    owner = Owner()
    owner.itself = owner
    weakref.finalize(owner, os.unlink, entry.path)
    del owner
    assert suspects([entry]) == []


def test_without_a_suspect_no_garbage_is_collected(entry, monkeypatch):
    """A session that left nothing does not pay for a collection."""
    monkeypatch.setattr(gc, "collect", lambda: pytest.fail("collected"))
    assert suspects([entry._replace(path=f"{entry.path}.gone")]) == []


def test_a_leak_is_measured(entry):
    """The record says what is there and how big it is, as it is now."""
    (leak,) = judge([entry], deferred=set(), failed=(), is_ignored_by_hook=lambda leak: False)
    assert leak[:6] == ("file", entry.path, 3, 1, True, "leak")
    assert leak.entry is entry


def test_what_goes_at_the_last_moment_is_no_leak(entry):
    """A thread may still be cleaning up while the verdict is made."""
    os.unlink(entry.path)
    assert verdict(entry) == []


def test_what_somebody_promised_to_remove_is_deferred(entry):
    """A live object or an exit callback that names it will remove it."""
    assert verdict(entry, deferred=[entry.path]) == ["deferred"]
    assert verdict(entry, deferred=[f"{entry.path}x"]) == ["leak"]


def test_who_removes_a_directory_removes_what_is_in_it(tmp_path, entry):
    """A promise for a directory covers what lies in it."""
    assert verdict(entry, deferred=[str(tmp_path)]) == ["deferred"]


def test_a_promise_may_be_spelled_without_the_link(tmp_path, entry):
    """The temp directory may be a link, as on macOS, and a promise may name the real place."""
    (tmp_path / "link").symlink_to(tmp_path)
    linked = entry._replace(path=str(tmp_path / "link" / "left"))
    assert verdict(linked, deferred=[os.path.realpath(entry.path)]) == ["deferred"]


def test_no_promise_is_asked_for_that_matters_to_nobody(tmp_path, entry):
    """A promise for all clears all; the rest of the promises may take long to collect."""
    other = entry._replace(path=str(tmp_path))
    leaks = judge([entry, other], deferred=set(), failed=(), is_ignored_by_hook=lambda leak: False)
    promises = iter(["/elsewhere", entry.path, str(tmp_path), "/more"])
    assert not_scheduled(leaks, promises) == []
    assert list(promises) == ["/more"]
    assert not_scheduled(leaks, ["/elsewhere", entry.path]) == leaks[1:]
    assert not_scheduled([], iter(lambda: 1 / 0, None)) == []


def test_a_promise_for_what_a_link_points_to_is_none_for_the_link(tmp_path, entry):
    """Removing what a link points to leaves the link behind."""
    (tmp_path / "link").symlink_to(entry.path)
    link = entry._replace(path=str(tmp_path / "link"))
    assert verdict(link, deferred=[os.path.realpath(entry.path)]) == ["leak"]


@pytest.mark.parametrize(
    "owner",
    [Owner("test", TEST), Owner("fixture", "f", "function")],
)
def test_what_a_failed_test_left_is_evidence(entry, owner):
    """A failed test is told already; what it and its own fixtures left is counted apart."""
    assert verdict(entry._replace(owner=owner), failed=[TEST]) == ["failed-test"]
    assert verdict(entry._replace(owner=owner), failed=["other"]) == ["leak"]


def test_what_a_wider_fixture_left_is_no_evidence_of_one_test(entry):
    """A module's fixture leaks whichever of its tests failed."""
    owner = Owner("fixture", "f", "module")
    assert verdict(entry._replace(owner=owner), failed=[TEST]) == ["leak"]


def test_what_was_marked_as_evidence_is(entry):
    """What a fixture whose setup failed left, or an attempt that failed, is evidence."""
    marked = entry._replace(owner=Owner("fixture", "f", "module"), from_failed=True)
    assert verdict(marked) == ["failed-test"]


def test_a_leak_can_be_pardoned_and_nothing_else_can(entry):
    """Other plugins are asked about leaks alone."""
    asked = []
    assert verdict(entry, is_ignored_by_hook=lambda leak: asked.append(leak.status) or True) == []
    assert verdict(entry, deferred=[entry.path], is_ignored_by_hook=asked.append) == ["deferred"]
    assert verdict(entry, failed=[TEST], is_ignored_by_hook=asked.append) == ["failed-test"]
    assert asked == ["leak"]


def test_parents_of_a_path():
    """A path and all above it, up to the root, relative ones too."""
    assert parents("/a/b") == {"/a/b", "/a", "/"}
    assert parents("a") == {"a", ""}


def test_evidence_is_marked_for_who_does_not_know_the_failures(entry):
    """What a failed test left, and no wider fixture, is marked before it travels."""
    wide = entry._replace(owner=Owner("fixture", "wide", "module"))
    assert as_from_failed(entry, {TEST}).from_failed
    assert not as_from_failed(entry, {"t.py::other"}).from_failed
    assert not as_from_failed(wide, {TEST}).from_failed
