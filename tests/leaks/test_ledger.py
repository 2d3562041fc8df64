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
    """A ledger that listens; what is called `ignored` may stay."""
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
def unseen(root) -> Callable[[str], Path]:
    """Make something that no audit event tells of."""

    def unseen(name: str) -> Path:
        os.mkfifo(root / name)
        return root / name

    return unseen


@pytest.fixture
def no_time(monkeypatch) -> Callable[[bool], None]:
    """Say whether listings have used up their share of the session."""

    def no_time(over: bool = True) -> None:
        monkeypatch.setattr(scan.Scan, "affordable", lambda look: not over)

    return no_time


def names(entries: list[Entry]) -> list[str]:
    """Return the names of *entries*, sorted."""
    return sorted(os.path.basename(entry.path) for entry in entries)


def owners(entries: list[Entry]) -> dict[str, str]:
    """Return the owner of each of *entries* by name."""
    return {os.path.basename(entry.path): entry.owner.id for entry in entries}


# -- who owns what


def test_an_entry_belongs_to_who_ran_when_it_was_made(ledger, root):
    """Even when the look comes later, the event tells the owner, the phase and the line."""
    before = ledger.enter(ONE, test=ONE.id, phase="call")
    (root / "x").mkdir()
    ledger.leave(before)
    (entry,) = ledger.scan()
    assert entry[:4] == (str(root / "x"), ONE, ONE.id, "call")
    assert entry.made_by == "python"
    assert entry.worker == "gw0"
    assert entry.origin[0].file == os.path.basename(__file__)
    assert entry.origin[0].function == "test_an_entry_belongs_to_who_ran_when_it_was_made"


def test_what_no_event_told_of_belongs_to_who_runs_at_the_look(ledger, unseen):
    """Native code and subprocesses are seen by looking, with the last command as a hint."""
    before = ledger.enter(ONE, test=ONE.id, phase="teardown")
    subprocess.run([sys.executable, "-c", "1"], check=True)
    path = unseen("fifo")
    (entry,) = ledger.scan()
    ledger.leave(before)
    assert entry[:5] == (str(path), ONE, ONE.id, "teardown", ())
    assert entry.made_by == "other"
    assert entry.command == f"{os.path.basename(sys.executable)} -c 1"


def test_who_ran_before_runs_again(ledger, unseen):
    """Fixtures run in the middle of tests, and tests in the middle of wider fixtures' lives."""
    outer = ledger.enter(ONE, test=ONE.id, phase="call")
    inner = ledger.enter(Owner("fixture", "f", "module"), test=ONE.id, phase="setup")
    ledger.leave(inner)
    running = ledger.running
    assert (running.owner, running.test, running.phase) == (ONE, ONE.id, "call")
    ledger.leave(outer)
    assert (running.owner, running.test, running.phase) == (SESSION, None, None)


def test_an_entry_is_found_once(ledger, root, unseen):
    """What has been booked is not booked again, by later looks and other owners."""
    (root / "x").write_text("x")
    unseen("y")
    assert names(ledger.scan()) == ["x", "y"]
    ledger.enter(TWO, test=TWO.id)
    (root / "x").write_text("more")
    assert ledger.scan() == []
    assert ledger.scan(final=True) == []
    assert names(ledger.not_yet_sent) == ["x", "y"]


def test_a_root_at_rest_is_not_listed(ledger, root, monkeypatch):
    """Around a test that makes nothing a look costs one stat, also when others are named."""
    os.utime(root, (10**9, 10**9))
    ledger.scan()
    monkeypatch.setattr(scan.System, "scandir", lambda path: 1 / 0)
    assert ledger.scan() == []
    left = tempfile.mkdtemp(dir=root.parent)
    assert [entry.path for entry in ledger.scan()] == [left]


def test_what_comes_and_goes_is_never_booked(ledger, root):
    """Who cleans up behind itself is not spoken of."""
    (root / "x").write_text("x")
    (root / "x").unlink()
    assert ledger.scan() == []
    assert ledger.paths() == []


def test_what_may_stay_is_booked_as_such(ledger, root, unseen):
    """What the ini file lets stay is marked, whoever made it."""
    (root / "ignored").mkdir()
    (root / "other").mkdir()
    assert {os.path.basename(e.path): e.ignored for e in ledger.scan()} == {
        "ignored": True,
        "other": False,
    }
    (root / "ignored").rmdir()
    ledger.scan()
    unseen("ignored")
    assert [entry.ignored for entry in ledger.scan()] == [True]


def test_paths_are_those_of_the_last_look(ledger, root):
    """What was removed is not asked about at the end."""
    (root / "a").mkdir()
    (root / "b").mkdir()
    ledger.scan()
    (root / "a").rmdir()
    ledger.scan()
    assert ledger.paths() == [str(root / "b")]


# -- names that change hands


def test_a_renamed_entry_belongs_to_who_made_it(ledger, root):
    """Renaming what another test left makes it nobody else's."""
    ledger.enter(ONE, test=ONE.id)
    (root / "a").write_text("x")
    (made,) = ledger.scan()
    ledger.enter(TWO, test=TWO.id)
    (root / "a").rename(root / "b")
    (renamed,) = ledger.scan()
    assert renamed == made._replace(path=str(root / "b"))
    assert ledger.paths() == [str(root / "b")]


def test_an_entry_renamed_before_any_look_belongs_to_who_made_it(ledger, root):
    """A file written under another name and renamed has the line that wrote it."""

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


def test_what_takes_the_name_of_another_entry_is_new(ledger, root):
    """The file that replaces another one belongs to who replaced it."""
    ledger.enter(ONE, test=ONE.id)
    (root / "a").write_text("x")
    ledger.scan()
    ledger.enter(TWO, test=TWO.id)
    (root / "part").write_text("x")
    (root / "part").replace(root / "a")
    assert owners(ledger.scan()) == {"a": TWO.id}


def test_a_new_file_of_an_old_temporary_name_is_not_the_old_one(ledger, root):
    """A name that was used before, for something else, does not bring its old owner back."""
    ledger.enter(ONE, test=ONE.id)
    (root / "part").write_text("x")
    ledger.scan()
    ledger.enter(TWO, test=TWO.id)
    (root / "part").rename(root / "elsewhere")
    (root / "part").write_text("y")
    (root / "part").rename(root / "whole")
    assert owners(ledger.scan()) == {"elsewhere": ONE.id, "whole": TWO.id}


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_made_anew_belongs_to_who_made_it_anew(ledger, root, kind):
    """A file system may give the new one the inode of the old; it is a new one nevertheless."""
    make, remove = {"file": (Path.touch, Path.unlink), "directory": (Path.mkdir, Path.rmdir)}[kind]
    ledger.enter(ONE, test=ONE.id)
    make(root / "x")
    ledger.scan()
    ledger.enter(TWO, test=TWO.id)
    remove(root / "x")
    make(root / "x")
    assert owners(ledger.scan(final=True)) == {"x": TWO.id}
    assert ledger.scan(final=True) == []


def test_what_could_not_be_removed_keeps_its_owner(ledger, root):
    """A removal that failed changes nothing."""
    ledger.enter(ONE, test=ONE.id)
    (root / "x").mkdir()
    (root / "x" / "f").write_text("x")
    ledger.scan()
    ledger.enter(TWO, test=TWO.id)
    with pytest.raises(OSError, match="not empty"):
        (root / "x").rmdir()
    assert ledger.scan(final=True) == []


def test_hints_do_not_outlive_a_look(ledger, root, unseen):
    """A file that somebody wrote and removed long ago does not explain a later one."""
    ledger.enter(ONE, test=ONE.id)
    (root / "x").write_text("x")
    (root / "x").unlink()
    ledger.scan()
    ledger.enter(TWO, test=TWO.id)
    unseen("x")
    (entry,) = ledger.scan()
    assert entry.owner == TWO
    assert entry.made_by == "other"


# -- outside


def test_temporary_paths_elsewhere_are_booked_while_they_are_there(ledger, root, tmp_path):
    """What is made as temporary elsewhere is an entry by its full path, if it is left."""
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


def test_what_lies_elsewhere_survives_the_loss_of_the_worker_root(ledger, root, tmp_path):
    """A test that removes the temp directory hides nothing that it left elsewhere."""
    left = tempfile.mkdtemp(dir=tmp_path)
    root.rmdir()
    with pytest.raises(FileNotFoundError):
        ledger.scan()
    ledger.forget()
    root.mkdir()
    assert [entry.path for entry in ledger.scan()] == [left]


# -- looks that are spaced out


def test_without_time_hints_find_what_a_listing_would(ledger, root, unseen, no_time):
    """When listings are too dear, what events told of is booked all the same."""
    ledger.scan()
    no_time()
    ledger.enter(ONE, test=ONE.id)
    (root / "seen").mkdir()
    (root / "gone").mkdir()
    (root / "gone").rmdir()
    unseen("unseen")
    assert owners(ledger.scan()) == {"seen": ONE.id}
    assert ledger.scan() == []


def test_what_a_late_listing_finds_belongs_to_the_last_test(ledger, unseen, no_time):
    """Where listings were left out, the last test that ran answers for what no event explains."""
    ledger.scan()
    no_time()
    ledger.enter(ONE, test=ONE.id, phase="call")
    ledger.scan()
    before = ledger.enter(TWO, test=TWO.id, phase="call")
    unseen("late")
    ledger.scan()
    ledger.leave(before)
    no_time(False)
    fixture = ledger.enter(Owner("fixture", "f", "module"), test=ONE.id, phase="teardown")
    (entry,) = ledger.scan()
    assert entry[:4] == (entry.path, TWO, TWO.id, None)
    unseen("punctual")
    (entry,) = ledger.scan()
    assert entry.owner.id == "f"
    ledger.leave(fixture)


def test_the_last_look_lists_whatever_it_costs(ledger, unseen, no_time):
    """At the end of a session nothing is left to chance."""
    ledger.scan()
    no_time()
    unseen("late")
    assert ledger.scan() == []
    assert names(ledger.scan(final=True)) == ["late"]


def test_a_late_listing_before_any_test_belongs_to_who_runs(ledger, unseen, no_time):
    """Without a test nobody but the one who runs can be named."""
    unseen("late")
    no_time()
    ledger.scan()
    no_time(False)
    assert owners(ledger.scan()) == {"late": "session"}


def test_a_listing_that_failed_loses_nothing(ledger, unseen, monkeypatch):
    """What a look could not find for want of descriptors, the next one finds."""
    ledger.scan()
    path = unseen("x")
    os.utime(path.parent, (10**9, 10**9))

    def refuse(path):
        raise OSError("Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(scan.System, "scandir", refuse)
        with pytest.raises(OSError, match="Too many"):
            ledger.scan()
    assert names(ledger.scan()) == ["x"]


# -- evidence, children and a root that was removed


def test_evidence_is_marked_where_it_waits(ledger, root):
    """What a failed setup left is known as evidence, and what was there before is not."""
    (root / "before").mkdir()
    ledger.scan()
    (root / "failed").mkdir()
    ledger.mark_as_from_failed(ledger.scan())
    assert {os.path.basename(e.path): e.from_failed for e in ledger.not_yet_sent} == {
        "before": False,
        "failed": True,
    }


def test_what_a_forked_child_told_of_is_not_found_again(ledger, root, tmp_path, unseen):
    """An entry that came with a child's report has its owner already."""
    unseen("x")
    told = [
        Entry(str(root / "x"), ONE, ONE.id),
        Entry(str(root / "gone"), ONE, ONE.id),
        Entry(str(tmp_path / "elsewhere"), ONE, ONE.id),
    ]
    ledger.adopt([entry_from_plain(json.loads(json.dumps(entry))) for entry in told])
    ledger.enter(TWO, test=TWO.id)
    assert ledger.scan() == []
    assert ledger.paths() == [str(root / "x")]


def test_a_root_made_anew_is_empty(ledger, root, unseen):
    """Names from before the temp directory was removed mean nothing in the new one."""
    unseen("x")
    ledger.scan()
    (root / "x").unlink()
    root.rmdir()
    with pytest.raises(FileNotFoundError):
        ledger.scan()
    ledger.forget()
    assert ledger.paths() == []
    root.mkdir()
    ledger.enter(TWO, test=TWO.id)
    unseen("x")
    assert owners(ledger.scan()) == {"x": TWO.id}


def _stays_away(ledger, root):
    """Nobody needs it in the meantime."""
    with pytest.raises(FileNotFoundError):
        ledger.scan()


def _is_made_again(ledger, root):
    """Something needs it in the meantime, and makes an entry in it."""
    _stays_away(ledger, root)
    ledger.forget()
    root.mkdir()
    assert ledger.scan() == []
    (root / "between").touch()
    assert owners(ledger.scan()) == {"between": TWO.id}
    (root / "between").unlink()
    root.rmdir()


def _is_replaced(ledger, root):
    """Somebody else puts a directory in its place."""
    root.mkdir()
    assert ledger.scan() == []
    root.rmdir()


@pytest.mark.parametrize("meanwhile", [_stays_away, _is_made_again, _is_replaced])
def test_a_root_that_comes_back_holds_what_it_held(ledger, root, tmp_path, unseen, meanwhile):
    """Who moves the temp directory aside and back has made nothing of what is in it."""
    ledger.enter(ONE, test=ONE.id)
    unseen("fifo")
    (root / "file").touch()
    assert names(ledger.scan()) == ["fifo", "file"]
    ledger.enter(TWO, test=TWO.id)
    root.rename(tmp_path / "aside")
    meanwhile(ledger, root)
    (tmp_path / "aside").rename(root)
    unseen("new")
    assert owners(ledger.scan()) == {"new": TWO.id}
    assert sorted(map(os.path.basename, ledger.paths())) == ["fifo", "file", "new"]
    (root / "file").rename(root / "moved")
    assert owners(ledger.scan()) == {"moved": ONE.id}


def test_what_was_made_before_the_root_moved_keeps_its_line(ledger, root, tmp_path):
    """Hints wait for the directory to come back."""
    ledger.enter(ONE, test=ONE.id)
    (root / "file").touch()
    root.rename(tmp_path / "aside")
    _stays_away(ledger, root)
    ledger.enter(TWO, test=TWO.id)
    (tmp_path / "aside").rename(root)
    (entry,) = ledger.scan()
    assert (entry.owner, entry.made_by) == (ONE, "python")


def test_many_entries_are_each_found_once(ledger, root):
    """A test that leaves a thousand files has a thousand entries, and a look more finds none."""
    ledger.enter(ONE, test=ONE.id)
    for number in range(1000):
        (root / str(number)).touch()
    assert len(ledger.scan()) == 1000
    assert ledger.scan(final=True) == []
    assert len(ledger.paths()) == 1000


def test_names_that_are_no_text_are_booked(ledger, root):
    """Bytes that are not UTF-8 and newlines are names like others."""
    path = os.path.join(os.fsencode(root), b"\xff\n\xc3\xa9")
    os.mkdir(path)
    (entry,) = ledger.scan()
    assert os.fsencode(entry.path) == path
    assert entry.made_by == "python"


def test_the_real_spelling_of_the_root_leads_to_the_same_entry(tmp_path, root):
    """Where the temp directory is a link, what is made by its real path is seen as Python's."""
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
