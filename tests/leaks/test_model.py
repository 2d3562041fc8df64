from __future__ import annotations

import json
import os
import re
import tempfile
import threading

from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.model import entry_from_plain
from pytest_tempres.leaks.model import fingerprint
from pytest_tempres.leaks.model import leak_from_plain
from pytest_tempres.primitives._system import System

#: Text as in paths: any character, including lone surrogates.
TEXT = st.text(st.characters(codec=None), max_size=20) | st.binary(max_size=20).map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
)
FRAMES = st.builds(Frame, TEXT, st.integers(0, 10**6), TEXT)
OWNERS = st.builds(
    Owner,
    st.sampled_from(["test", "fixture", "collection", "session"]),
    TEXT,
    st.none() | st.sampled_from(["function", "module", "session"]),
    st.none() | TEXT,
)
ENTRIES = st.builds(
    Entry,
    TEXT,
    OWNERS,
    st.none() | TEXT,
    st.none() | st.sampled_from(["setup", "call", "teardown"]),
    st.lists(FRAMES, max_size=4).map(tuple),
    st.sampled_from(["python", "other"]),
    st.none() | TEXT,
    st.booleans(),
    st.booleans(),
    TEXT,
    st.none() | st.floats(0, 10**6),
)
LEAKS = st.builds(
    Leak,
    st.sampled_from(["file", "directory", "symlink", "socket", "fifo"]),
    TEXT,
    st.integers(0, 2**63),
    st.integers(0, 10_000),
    st.booleans(),
    st.sampled_from(["leak", "known", "deferred", "failed-test"]),
    ENTRIES,
)


@pytest.fixture
def entry() -> Entry:
    """An entry that a helper function of a test created."""
    return Entry(
        "/tmp/tempres-abcdefgh/main/x",
        Owner("test", "t.py::test[a/b]", None, "t.py:3"),
        "t.py::test[a/b]",
        "call",
        (Frame("lib.py", 7, "make"), Frame("t.py", 4, "test")),
        "python",
    )


@given(ENTRIES)
def test_an_entry_survives_a_round_trip_through_json(entry):
    """A worker sends entries to the controller as ASCII."""
    text = json.dumps(entry)
    assert text.isascii()
    again = entry_from_plain(json.loads(text))
    assert again == entry
    assert isinstance(again.owner, Owner)
    assert all(isinstance(frame, Frame) for frame in again.origin)
    assert hash(again) == hash(entry)


@given(LEAKS)
def test_a_leak_survives_a_round_trip_through_json(leak):
    """A remote worker sends leaks to the controller."""
    again = leak_from_plain(json.loads(json.dumps(leak)))
    assert again == leak
    assert again.owner == leak.entry.owner
    assert again.fingerprint == leak.fingerprint


@given(ENTRIES, st.sampled_from(["file", "directory"]))
def test_a_fingerprint_is_16_hex_digits_for_any_name(entry, kind):
    """Names may contain any bytes."""
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint(kind, entry))


def test_a_fingerprint_is_the_same_in_every_version(entry):
    """A baseline file must stay valid after an upgrade."""
    assert fingerprint("file", entry) == "99db9d676fc907f9"


def test_a_fingerprint_ignores_what_changes_between_runs(entry):
    """Random names, parameters, lines, workers and outer frames do not count."""
    moved = entry._replace(
        path="/tmp/tempres-zzzzzzzz/gw3/y",
        owner=Owner("test", "t.py::test[c]", None, "t.py:99"),
        test="t.py::test[c]",
        phase="teardown",
        origin=(Frame("lib.py", 70, "make"),),
        command="ls",
        from_failed=True,
        worker="gw3",
    )
    assert fingerprint("file", moved) == fingerprint("file", entry)


@pytest.mark.parametrize("library", [tempfile, threading])
def test_a_fingerprint_ignores_the_standard_library(entry, library):
    """The lines of the standard library differ between Python versions."""
    leak = entry._replace(origin=(Frame(library.__file__, 7, "make"),))
    assert fingerprint("file", leak) == fingerprint("file", entry._replace(origin=()))
    site = os.path.join(os.path.dirname(library.__file__), "site-packages", "lib.py")
    leak = entry._replace(origin=(Frame(site, 7, "make"),))
    assert fingerprint("file", leak) != fingerprint("file", entry._replace(origin=()))


@pytest.mark.parametrize(
    "kind, changes",
    [
        ("directory", {}),
        ("file", {"owner": Owner("fixture", "t.py::test")}),
        ("file", {"owner": Owner("test", "t.py::other")}),
        ("file", {"origin": (Frame("other.py", 7, "make"),)}),
        ("file", {"origin": (Frame("lib.py", 7, "other"),)}),
        ("file", {"origin": ()}),
        ("file", {"made_by": "other"}),
    ],
)
def test_different_leaks_have_different_fingerprints(entry, kind, changes):
    """Owner, kind, nearest frame and kind of creator count."""
    assert fingerprint(kind, entry._replace(**changes)) != fingerprint("file", entry)


def test_seconds_count_from_the_creation_of_the_record(monkeypatch):
    """They are rounded to milliseconds, because each entry sends them to the controller."""
    clock = iter([100.0, 101.23456, 102.0])
    monkeypatch.setattr(System, "monotonic", lambda: next(clock))
    running = Running()
    assert [running.seconds(), running.seconds()] == [1.235, 2.0]


def test_the_first_owner_is_the_session():
    """It owns what appears before the first test or import."""
    running = Running()
    assert running.owner is SESSION
    assert running.test is None
    assert running.phase is None
