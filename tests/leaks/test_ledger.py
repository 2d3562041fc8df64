from __future__ import annotations

from collections.abc import Callable
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile

import pytest

from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import entry_from_plain
from pytest_tempres.leaks.temp import scan
from pytest_tempres.leaks.temp.audit import activate
from pytest_tempres.leaks.temp.audit import deactivate
from pytest_tempres.primitives._system import System

ONE = Owner("test", "t.py::one")
TWO = Owner("test", "t.py::two")


@pytest.fixture
def root(tmp_path) -> Path:
    """The worker root."""
    path = tmp_path / "main"
    path.mkdir()
    return path


@pytest.fixture
def ledger(tmp_path, root) -> Ledger:
    """A ledger that receives audit events; the ini file ignores the name `ignored`."""
    ledger = Ledger(
        str(root),
        worker="gw0",
        rootdir=os.path.dirname(__file__),
        prefixes=(),
        inside=(f"{tmp_path}/inside/",),
        ignored=lambda path: os.path.basename(path) == "ignored",
    )
    activate(ledger.origins)
    yield ledger
    deactivate(ledger.origins)


@pytest.fixture
def create_without_event(root) -> Callable[[str], Path]:
    """Create a path without an audit event."""

    def create_without_event(name: str) -> Path:
        os.mkfifo(root / name)
        return root / name

    return create_without_event


@pytest.fixture
def exhaust_time(monkeypatch) -> Callable[[bool], None]:
    """Set whether the time budget for listings is used up."""

    def exhaust_time(over: bool = True) -> None:
        monkeypatch.setattr(scan.Scan, "is_within_budget", lambda scanner: not over)

    return exhaust_time


def names(entries: list[Entry]) -> list[str]:
    """Return the names of *entries*, sorted."""
    return sorted(os.path.basename(entry.path) for entry in entries)


def owners(entries: list[Entry]) -> dict[str, str]:
    """Return the owner of each of *entries* by name."""
    return {os.path.basename(entry.path): entry.owner.id for entry in entries}


# -- owners


def test_an_entry_has_the_time_of_the_scan_that_found_it(
    ledger, root, create_without_event, monkeypatch
):
    """A report can show when during the session the paths appeared."""
    monkeypatch.setattr(ledger.running, "_began", System.monotonic() - 1000)
    (root / "x").mkdir()
    create_without_event("fifo")
    assert [entry.seen is not None and entry.seen >= 1000 for entry in ledger.scan()] == [True] * 2


def test_an_entry_belongs_to_the_owner_at_its_creation(ledger, root):
    """The event determines owner, phase and line, even if the scan runs later."""
    before = ledger.enter(ONE, test=ONE.id, phase="call")
    (root / "x").mkdir()
    ledger.leave(before)
    (entry,) = ledger.scan()
    assert entry[:4] == (str(root / "x"), ONE, ONE.id, "call")
    assert entry.made_by == "python"
    assert entry.worker == "gw0"
    assert entry.origin[0].file == os.path.basename(__file__)
    assert entry.origin[0].function == "test_an_entry_belongs_to_the_owner_at_its_creation"


def test_an_entry_without_event_belongs_to_the_owner_at_the_scan(ledger, create_without_event):
    """Native code and subprocesses raise no event; the last command is recorded."""
    before = ledger.enter(ONE, test=ONE.id, phase="teardown")
    subprocess.run([sys.executable, "-c", "1"], check=True)
    path = create_without_event("fifo")
    (entry,) = ledger.scan()
    ledger.leave(before)
    assert entry[:5] == (str(path), ONE, ONE.id, "teardown", ())
    assert entry.made_by == "other"
    assert entry.command == f"{os.path.basename(sys.executable)} -c 1"


def test_leave_restores_the_previous_owner(ledger, create_without_event):
    """Fixtures run during tests, and wider fixtures exist across tests."""
    outer = ledger.enter(ONE, test=ONE.id, phase="call")
    inner = ledger.enter(Owner("fixture", "f", "module"), test=ONE.id, phase="setup")
    ledger.leave(inner)
    running = ledger.running
    assert (running.owner, running.test, running.phase) == (ONE, ONE.id, "call")
    ledger.leave(outer)
    assert (running.owner, running.test, running.phase) == (SESSION, None, None)


def test_an_entry_is_found_once(ledger, root, create_without_event):
    """Later scans with other owners do not return it again."""
    (root / "x").write_text("x")
    create_without_event("y")
    assert names(ledger.scan()) == ["x", "y"]
    ledger.enter(TWO, test=TWO.id)
    (root / "x").write_text("more")
    assert ledger.scan() == []
    assert ledger.scan(final=True) == []
    assert names(ledger.not_yet_sent) == ["x", "y"]


def test_an_unchanged_root_is_not_listed(ledger, root, monkeypatch):
    """The scan costs one stat, also if a path outside was created."""
    os.utime(root, (10**9, 10**9))
    ledger.scan()
    monkeypatch.setattr(scan.System, "scandir", lambda path: 1 / 0)
    assert ledger.scan() == []
    left = tempfile.mkdtemp(dir=root.parent)
    assert [entry.path for entry in ledger.scan()] == [left]


def test_a_path_removed_before_the_scan_is_not_recorded(ledger, root):
    """A test may remove what it creates."""
    (root / "x").write_text("x")
    (root / "x").unlink()
    assert ledger.scan() == []
    assert ledger.paths() == []


def test_an_ignored_path_is_recorded_as_ignored(ledger, root, create_without_event):
    """The ini file applies with and without an event."""
    (root / "ignored").mkdir()
    (root / "other").mkdir()
    assert {os.path.basename(e.path): e.ignored for e in ledger.scan()} == {
        "ignored": True,
        "other": False,
    }
    (root / "ignored").rmdir()
    ledger.scan()
    create_without_event("ignored")
    assert [entry.ignored for entry in ledger.scan()] == [True]


def test_paths_are_those_of_the_last_scan(ledger, root):
    """Removed paths are left out."""
    (root / "a").mkdir()
    (root / "b").mkdir()
    ledger.scan()
    (root / "a").rmdir()
    ledger.scan()
    assert ledger.paths() == [str(root / "b")]


# -- renamed and replaced entries


def test_a_renamed_entry_keeps_its_owner(ledger, root):
    """Another test may rename it."""
    ledger.enter(ONE, test=ONE.id)
    (root / "a").write_text("x")
    (made,) = ledger.scan()
    ledger.enter(TWO, test=TWO.id)
    (root / "a").rename(root / "b")
    (renamed,) = ledger.scan()
    assert renamed == made._replace(path=str(root / "b"))
    assert ledger.paths() == [str(root / "b")]


def test_an_entry_renamed_before_the_scan_keeps_its_owner(ledger, root):
    """The origin is the line that wrote the file under its first name."""

    def write(path):
        path.write_text("x")

    ledger.enter(ONE, test=ONE.id)
    write(root / "a")
    ledger.enter(TWO, test=TWO.id)
    (root / "a").rename(root / "b")
    (entry,) = ledger.scan()
    assert entry.path == str(root / "b")
    assert entry.owner == ONE
    assert entry.origin[0].function == "write"


def test_a_file_that_replaces_an_entry_is_new(ledger, root):
    """It belongs to the owner that replaced the entry."""
    ledger.enter(ONE, test=ONE.id)
    (root / "a").write_text("x")
    ledger.scan()
    ledger.enter(TWO, test=TWO.id)
    (root / "part").write_text("x")
    (root / "part").replace(root / "a")
    assert owners(ledger.scan()) == {"a": TWO.id}


def test_a_reused_name_does_not_restore_the_old_owner(ledger, root):
    """A temporary name may be used again for another file."""
    ledger.enter(ONE, test=ONE.id)
    (root / "part").write_text("x")
    ledger.scan()
    ledger.enter(TWO, test=TWO.id)
    (root / "part").rename(root / "elsewhere")
    (root / "part").write_text("y")
    (root / "part").rename(root / "whole")
    assert owners(ledger.scan()) == {"elsewhere": ONE.id, "whole": TWO.id}


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_recreated_path_belongs_to_its_new_creator(ledger, root, kind):
    """The file system may reuse the inode."""
    make, remove = {"file": (Path.touch, Path.unlink), "directory": (Path.mkdir, Path.rmdir)}[kind]
    ledger.enter(ONE, test=ONE.id)
    make(root / "x")
    ledger.scan()
    ledger.enter(TWO, test=TWO.id)
    remove(root / "x")
    make(root / "x")
    assert owners(ledger.scan(final=True)) == {"x": TWO.id}
    assert ledger.scan(final=True) == []


def test_an_entry_keeps_its_owner_if_its_removal_fails(ledger, root):
    """The event comes before the removal."""
    ledger.enter(ONE, test=ONE.id)
    (root / "x").mkdir()
    (root / "x" / "f").write_text("x")
    ledger.scan()
    ledger.enter(TWO, test=TWO.id)
    with pytest.raises(OSError, match="not empty"):
        (root / "x").rmdir()
    assert ledger.scan(final=True) == []


def test_hints_are_dropped_after_a_scan(ledger, root, create_without_event):
    """A removed file must not explain a later one of the same name."""
    ledger.enter(ONE, test=ONE.id)
    (root / "x").write_text("x")
    (root / "x").unlink()
    ledger.scan()
    ledger.enter(TWO, test=TWO.id)
    create_without_event("x")
    (entry,) = ledger.scan()
    assert entry.owner == TWO
    assert entry.made_by == "other"


# -- outside the worker root


def test_temporary_paths_elsewhere_are_recorded_if_they_exist(ledger, root, tmp_path):
    """Their entries have the full path."""
    ledger.enter(ONE, test=ONE.id)
    left = tempfile.mkdtemp(dir=tmp_path)
    os.rmdir(tempfile.mkdtemp(dir=tmp_path))
    (tmp_path / "inside").mkdir()
    tempfile.mkdtemp(dir=tmp_path / "inside")
    (entry,) = ledger.scan()
    assert entry.path == left
    assert entry.owner == ONE
    assert ledger.paths() == [left]
    assert ledger.scan() == []


def test_paths_elsewhere_are_reported_without_a_worker_root(ledger, root, tmp_path):
    """A test may remove the worker root."""
    left = tempfile.mkdtemp(dir=tmp_path)
    root.rmdir()
    with pytest.raises(FileNotFoundError):
        ledger.scan()
    ledger.forget()
    root.mkdir()
    assert [entry.path for entry in ledger.scan()] == [left]


# -- skipped listings


def test_hints_are_used_when_listings_take_too_long(
    ledger, root, create_without_event, exhaust_time
):
    """Each hinted name is checked without a listing."""
    ledger.scan()
    exhaust_time()
    ledger.enter(ONE, test=ONE.id)
    (root / "seen").mkdir()
    (root / "gone").mkdir()
    (root / "gone").rmdir()
    create_without_event("unseen")
    assert owners(ledger.scan()) == {"seen": ONE.id}
    assert ledger.scan() == []


def test_a_path_found_by_a_late_listing_belongs_to_the_last_test(
    ledger, create_without_event, exhaust_time
):
    """This applies to paths without an event."""
    ledger.scan()
    exhaust_time()
    ledger.enter(ONE, test=ONE.id, phase="call")
    ledger.scan()
    before = ledger.enter(TWO, test=TWO.id, phase="call")
    create_without_event("late")
    ledger.scan()
    ledger.leave(before)
    exhaust_time(False)
    fixture = ledger.enter(Owner("fixture", "f", "module"), test=ONE.id, phase="teardown")
    (entry,) = ledger.scan()
    assert entry[:4] == (entry.path, TWO, TWO.id, None)
    create_without_event("punctual")
    (entry,) = ledger.scan()
    assert entry.owner.id == "f"
    ledger.leave(fixture)


def test_the_final_scan_always_lists(ledger, create_without_event, exhaust_time):
    """Time does not matter at the end of a session."""
    ledger.scan()
    exhaust_time()
    create_without_event("late")
    assert ledger.scan() == []
    assert names(ledger.scan(final=True)) == ["late"]


def test_a_late_listing_before_any_test_uses_the_current_owner(
    ledger, create_without_event, exhaust_time
):
    """There is no last test."""
    create_without_event("late")
    exhaust_time()
    ledger.scan()
    exhaust_time(False)
    assert owners(ledger.scan()) == {"late": "session"}


def test_a_scan_after_a_failed_listing_finds_everything(ledger, create_without_event, monkeypatch):
    """A listing fails if no descriptor is left."""
    ledger.scan()
    path = create_without_event("x")
    os.utime(path.parent, (10**9, 10**9))

    def refuse(path):
        raise OSError("Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(scan.System, "scandir", refuse)
        with pytest.raises(OSError, match="Too many"):
            ledger.scan()
    assert names(ledger.scan()) == ["x"]


# -- failed owners, forked children and a removed root


def test_entries_of_a_failed_owner_are_marked_before_they_are_sent(ledger, root):
    """Earlier entries are not marked."""
    (root / "before").mkdir()
    ledger.scan()
    (root / "failed").mkdir()
    ledger.mark_as_from_failed(ledger.scan())
    assert {os.path.basename(e.path): e.from_failed for e in ledger.not_yet_sent} == {
        "before": False,
        "failed": True,
    }


def test_an_entry_from_a_forked_child_is_not_found_again(
    ledger, root, tmp_path, create_without_event
):
    """The child's report names its owner."""
    create_without_event("x")
    payload = [
        Entry(str(root / "x"), ONE, ONE.id),
        Entry(str(root / "gone"), ONE, ONE.id),
        Entry(str(tmp_path / "elsewhere"), ONE, ONE.id),
    ]
    ledger.adopt([entry_from_plain(json.loads(json.dumps(entry))) for entry in payload])
    ledger.enter(TWO, test=TWO.id)
    assert ledger.scan() == []
    assert ledger.paths() == [str(root / "x")]


def test_a_recreated_root_has_no_old_entries(ledger, root, create_without_event):
    """Names in the removed root are forgotten."""
    create_without_event("x")
    ledger.scan()
    (root / "x").unlink()
    root.rmdir()
    with pytest.raises(FileNotFoundError):
        ledger.scan()
    ledger.forget()
    assert ledger.paths() == []
    root.mkdir()
    ledger.enter(TWO, test=TWO.id)
    create_without_event("x")
    assert owners(ledger.scan()) == {"x": TWO.id}


def _remains_missing(ledger, root):
    """Scan while the root is missing."""
    with pytest.raises(FileNotFoundError):
        ledger.scan()


def _is_recreated(ledger, root):
    """Create the root again, with an entry in it, and remove it."""
    _remains_missing(ledger, root)
    ledger.forget()
    root.mkdir()
    assert ledger.scan() == []
    (root / "between").touch()
    assert owners(ledger.scan()) == {"between": TWO.id}
    (root / "between").unlink()
    root.rmdir()


def _is_replaced(ledger, root):
    """Put another directory in its place, and remove it."""
    root.mkdir()
    assert ledger.scan() == []
    root.rmdir()


@pytest.mark.parametrize("meanwhile", [_remains_missing, _is_recreated, _is_replaced])
def test_a_root_that_is_moved_back_keeps_its_entries(
    ledger, root, tmp_path, create_without_event, meanwhile
):
    """Moving the root away and back creates nothing."""
    ledger.enter(ONE, test=ONE.id)
    create_without_event("fifo")
    (root / "file").touch()
    assert names(ledger.scan()) == ["fifo", "file"]
    ledger.enter(TWO, test=TWO.id)
    root.rename(tmp_path / "aside")
    meanwhile(ledger, root)
    (tmp_path / "aside").rename(root)
    create_without_event("new")
    assert owners(ledger.scan()) == {"new": TWO.id}
    assert sorted(map(os.path.basename, ledger.paths())) == ["fifo", "file", "new"]
    (root / "file").rename(root / "moved")
    assert owners(ledger.scan()) == {"moved": ONE.id}


def test_hints_are_kept_while_the_root_is_missing(ledger, root, tmp_path):
    """An entry keeps its origin when the root comes back."""
    ledger.enter(ONE, test=ONE.id)
    (root / "file").touch()
    root.rename(tmp_path / "aside")
    _remains_missing(ledger, root)
    ledger.enter(TWO, test=TWO.id)
    (tmp_path / "aside").rename(root)
    (entry,) = ledger.scan()
    assert (entry.owner, entry.made_by) == (ONE, "python")


def test_many_entries_are_each_found_once(ledger, root):
    """A second scan finds nothing."""
    ledger.enter(ONE, test=ONE.id)
    for number in range(1000):
        (root / str(number)).touch()
    assert len(ledger.scan()) == 1000
    assert ledger.scan(final=True) == []
    assert len(ledger.paths()) == 1000


def test_names_that_are_not_utf_8_are_recorded(ledger, root):
    """Newlines are allowed too."""
    path = os.path.join(os.fsencode(root), b"\xff\n\xc3\xa9")
    os.mkdir(path)
    (entry,) = ledger.scan()
    assert os.fsencode(entry.path) == path
    assert entry.made_by == "python"


def test_the_resolved_path_of_the_root_leads_to_the_same_entry(tmp_path, root):
    """The temp directory may be a link."""
    (tmp_path / "link").symlink_to(root)
    ledger = Ledger(
        str(tmp_path / "link"),
        worker="main",
        rootdir="/",
        prefixes=(str(root),),
        inside=(),
        ignored=lambda path: False,
    )
    activate(ledger.origins)
    (root / "x").mkdir()
    deactivate(ledger.origins)
    (entry,) = ledger.scan()
    assert entry.path == str(tmp_path / "link" / "x")
    assert entry.made_by == "python"
