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
    """Return an entry with every field set that a payload contains."""
    origin = (Frame("a.py", 3, "f"),)
    return Entry(path, owner, owner.id, "call", origin, "python", worker=worker)


def change(path: str, modification: str = "created", **fields) -> Change:
    """Return a change of *path*."""
    return Change(
        modification, None if modification == "created" else DIRECTORY, entry(path, **fields)
    )


def send(sender: Changes, receiver: Changes) -> None:
    """Send the changes of *sender* to *receiver*, as JSON."""
    receiver.adopt(json.loads(json.dumps(sender.take_changes())))


def record(*found: Change, worker: str = "gw0") -> Changes:
    """Return the changes that a process has recorded."""
    record = Changes(worker)
    for each in found:
        record.keep(each.entry.path, each)
    return record


def test_a_modification_is_explained_by_the_change_of_the_same_kind():
    """Another kind may have another owner."""
    known = record(change("/a"), change("/b", "deleted"))
    assert known.entry_of("/a", "created") == entry("/a")
    assert known.entry_of("/b", "deleted") == entry("/b")
    assert known.entry_of("/a", "deleted").owner == SESSION
    assert known.entry_of("/b", "created") == Entry("/b", SESSION, worker="gw0")


def test_a_changed_path_is_explained_by_its_creation():
    """A walk cannot know that it was removed in between."""
    assert record(change("/a")).entry_of("/a", "changed").owner == ONE


@pytest.mark.parametrize("modification", ["created", "deleted"])
def test_a_directory_is_explained_by_its_contents(modification):
    """Its owner is known if all its contents have the same one."""
    known = record(
        change("/d/x", modification),
        change("/d/y", modification),
        change("/dd", modification, owner=TWO),
    )
    assert known.entry_of("/d", modification) == entry("/d")
    send(record(change("/d/z", modification, worker="gw1"), worker="gw1"), known)
    assert known.entry_of("/d", modification) == entry("/d")
    send(record(change("/d/w", modification, owner=TWO, worker="gw1"), worker="gw1"), known)
    assert known.entry_of("/d", modification).owner == SESSION


def test_a_payload_survives_json():
    """Names may contain any bytes."""
    path = os.fsdecode(b"/new\nline\xff")
    controller = Changes("main")
    send(record(change(path)), controller)
    assert controller.entry_of(path, "created") == entry(path)
    assert controller.get(path) is None


def test_a_change_is_sent_once():
    """A change that is dropped before is never sent."""
    known = record(change("/a"), change("/b"))
    known.drop("/b")
    known.drop("/none")
    assert [plain[0] for _, plain in known.take_changes()] == ["/a"]
    assert known.take_changes() == []
    known.drop("/a")
    assert [modification for modification, _ in known.take_changes()] == ["undone"]
    known.drop("/a")
    assert known.take_changes() == []


def test_the_first_worker_to_report_a_path_counts():
    """Two payloads are never mixed."""
    controller = Changes("main")
    send(record(change("/a")), controller)
    send(record(change("/a", owner=TWO, worker="gw1"), worker="gw1"), controller)
    assert controller.entry_of("/a", "created") == entry("/a")


def test_a_worker_can_correct_its_own_changes():
    """It does not affect those of other workers."""
    controller, worker = Changes("main"), record(change("/a"))
    other = record(change("/a", owner=TWO, worker="gw1"), worker="gw1")
    send(worker, controller)
    worker.keep("/a", change("/a", "deleted"))
    send(worker, controller)
    assert controller.entry_of("/a", "created").owner == SESSION
    assert controller.entry_of("/a", "deleted").owner == ONE
    send(other, controller)
    worker.drop("/a")
    send(worker, controller)
    assert controller.entry_of("/a", "deleted").owner == SESSION
    assert controller.entry_of("/a", "created").owner == TWO


@pytest.mark.parametrize("data", [["x"], [["created", []]], [["created", None]], [[1, 2, 3]], [3]])
def test_a_malformed_payload_is_an_error(data):
    """The caller can distinguish it from a bug."""
    with pytest.raises((TypeError, ValueError)):
        Changes("main").adopt(data)


def test_changes_during_a_test():
    """They may belong to any owner."""
    known = record(change("/a"), change("/b", owner=TWO))
    assert [each.entry.path for each in known.of(ONE.id)] == ["/a"]


def test_undone_changes_are_dropped(tmp_path):
    """The others are kept."""
    known = Changes("main")
    Path(tmp_path, "real").touch()
    for name in ("real", *map(str, range(2_000))):
        path = str(tmp_path / name)
        known.keep(path, change(path))
        known.prune()
    assert known.get(str(tmp_path / "real")) is not None
    assert sum(known.get(str(tmp_path / f"{n}")) is not None for n in range(2_000)) < 1_010
