from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.watch.changes import Change
from pytest_tempres.leaks.watch.changes import Changes

ONE = Owner("test", "t.py::one")
TWO = Owner("test", "t.py::two")
DIRECTORY = ("directory", 0, 0)


def entry(path: str, owner: Owner = ONE, worker: str = "gw0") -> Entry:
    """Return an entry with everything that travels."""
    origin = (Frame("a.py", 3, "f"),)
    return Entry(path, owner, owner.id, "call", origin, "python", worker=worker)


def trace(path: str, deed: str = "created", **fields) -> Change:
    """Return a trace of *path*."""
    return Change(deed, None if deed == "created" else DIRECTORY, entry(path, **fields))


def send(sender: Changes, receiver: Changes) -> None:
    """Hand over what *sender* has found, through JSON."""
    receiver.adopt(json.loads(json.dumps(sender.travelling())))


def traces(*found: Change, worker: str = "gw0") -> Changes:
    """Return what a process knows."""
    traces = Changes(worker)
    for each in found:
        traces.keep(each.entry.path, each)
    return traces


def test_a_deed_is_explained_by_its_trace():
    """And by no trace of another deed, which somebody else may have done."""
    known = traces(trace("/a"), trace("/b", "deleted"))
    assert known.explain("/a", "created") == entry("/a")
    assert known.explain("/b", "deleted") == entry("/b")
    assert known.explain("/a", "deleted").owner == SESSION
    assert known.explain("/b", "created") == Entry("/b", SESSION, worker="gw0")


def test_a_change_is_explained_by_who_made_it_anew():
    """A walk cannot tell that it was gone in between."""
    assert traces(trace("/a")).explain("/a", "changed").owner == ONE


@pytest.mark.parametrize("deed", ["created", "deleted"])
def test_a_directory_is_explained_by_what_is_in_it(deed):
    """As long as one test did all of it; what is only called alike is not in it."""
    known = traces(trace("/d/x", deed), trace("/d/y", deed), trace("/dd", deed, owner=TWO))
    assert known.explain("/d", deed) == entry("/d")
    send(traces(trace("/d/z", deed, worker="gw1"), worker="gw1"), known)
    assert known.explain("/d", deed) == entry("/d")
    send(traces(trace("/d/w", deed, owner=TWO, worker="gw1"), worker="gw1"), known)
    assert known.explain("/d", deed).owner == SESSION


def test_what_a_worker_tells_survives_json():
    """Odd names too."""
    path = os.fsdecode(b"/new\nline\xff")
    controller = Changes("main")
    send(traces(trace(path)), controller)
    assert controller.explain(path, "created") == entry(path)
    assert controller.get(path) is None


def test_what_was_told_is_told_once():
    """And what was dropped before it was told is never told."""
    known = traces(trace("/a"), trace("/b"))
    known.drop("/b")
    known.drop("/none")
    assert [plain[0] for _, plain in known.travelling()] == ["/a"]
    assert known.travelling() == []
    known.drop("/a")
    assert [deed for deed, _ in known.travelling()] == ["undone"]
    known.drop("/a")
    assert known.travelling() == []


def test_the_first_worker_is_believed():
    """Who made it comes from one record or the other, never from both."""
    controller = Changes("main")
    send(traces(trace("/a")), controller)
    send(traces(trace("/a", owner=TWO, worker="gw1"), worker="gw1"), controller)
    assert controller.explain("/a", "created") == entry("/a")


def test_a_worker_may_know_better_than_before():
    """Its own later word counts, and takes back what it said, not what others did."""
    controller, worker = Changes("main"), traces(trace("/a"))
    other = traces(trace("/a", owner=TWO, worker="gw1"), worker="gw1")
    send(worker, controller)
    worker.keep("/a", trace("/a", "deleted"))
    send(worker, controller)
    assert controller.explain("/a", "created").owner == SESSION
    assert controller.explain("/a", "deleted").owner == ONE
    send(other, controller)
    worker.drop("/a")
    send(worker, controller)
    assert controller.explain("/a", "deleted").owner == SESSION
    assert controller.explain("/a", "created").owner == TWO


@pytest.mark.parametrize("data", [["x"], [["created", []]], [["created", None]], [[1, 2, 3]], [3]])
def test_what_is_something_else_is_refused(data):
    """The caller can tell it from a bug."""
    with pytest.raises((TypeError, ValueError)):
        Changes("main").adopt(data)


def test_what_a_test_did():
    """Whoever owns it."""
    known = traces(trace("/a"), trace("/b", owner=TWO))
    assert [each.entry.path for each in known.of(ONE.id)] == ["/a"]


def test_traces_of_what_is_undone_go(tmp_path):
    """Now and then, so that their number follows that of the leaks; real ones stay."""
    known = Changes("main")
    Path(tmp_path, "real").touch()
    for name in ("real", *map(str, range(2_000))):
        path = str(tmp_path / name)
        known.keep(path, trace(path))
        known.prune()
    assert known.get(str(tmp_path / "real")) is not None
    assert sum(known.get(str(tmp_path / f"{n}")) is not None for n in range(2_000)) < 1_010
