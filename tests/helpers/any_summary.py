"""Summaries with any names, for property tests of the reports."""

from __future__ import annotations

import os

from hypothesis import strategies as st

from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Process
from pytest_tempres.reports.summary import SessionFacts
from pytest_tempres.reports.summary import Summary
from pytest_tempres.workspace.retention import Artifacts
from pytest_tempres.workspace.retention import Kept

#: Names that mean something to a terminal, to XML, to Markdown or to a CI system.
HOSTILE = (
    "\x1b[31mred\x1b[0m",
    "a\nb\r\n::error::x",
    "::error file=x::y",
    "%0A::warning::",
    "]]>",
    "<script>alert(1)</script>",
    "<!-- -->",
    "&amp;",
    "a|b",
    "a\\|b",
    "`code`",
    "``",
    "**bold** _it_",
    "[link](http://example.com)",
    "![i](x)",
    "https://example.com",
    "@someone #1",
    "\u202egnp.exe",
    "\u2066\u2069",
    "\ud800",
    os.fsdecode(b"\xff\xfe"),
    "\ufffe\x00\x7f\x85",
    "{0} {",
    "../../etc/passwd",
    "a b,c:d",
    "x/" * 2048,
    "",
    " ",
)
ANY_TEXT = st.sampled_from(HOSTILE) | st.text(st.characters(codec=None), max_size=10)
# A path that exists, and text that is no path.
ANY_PATH = (
    st.binary(max_size=10).map(lambda name: name.decode("utf-8", "surrogateescape")) | ANY_TEXT
)
ANY_OWNER = st.builds(
    Owner,
    st.sampled_from(["test", "fixture", "collection", "session"]),
    ANY_TEXT,
    st.none() | ANY_TEXT,
    st.none() | ANY_TEXT,
)
ANY_ENTRY = st.builds(
    Entry,
    path=ANY_PATH,
    owner=ANY_OWNER,
    test=st.none() | ANY_TEXT,
    phase=st.sampled_from([None, "setup", "call", "teardown"]),
    origin=st.lists(st.builds(Frame, ANY_PATH, st.integers(0, 9), ANY_TEXT), max_size=2).map(tuple),
    made_by=st.sampled_from(["python", "other"]),
    command=st.none() | ANY_TEXT,
    worker=ANY_TEXT,
    seen=st.none() | st.floats(0, allow_infinity=False),
    processes=st.lists(st.builds(Process, ANY_TEXT, ANY_OWNER), max_size=2).map(tuple),
)
ANY_LEAK = st.builds(
    lambda entry, **more: Leak(path=entry.path, entry=entry, **more),
    entry=ANY_ENTRY,
    kind=st.sampled_from(["file", "directory", "descriptor", "changed"]),
    bytes=st.integers(0),
    items=st.integers(0, 9),
    complete=st.booleans(),
    status=st.sampled_from(["leak", "known", "deferred", "failed-test"]),
)
ANY_KEPT = st.builds(
    Kept, ANY_TEXT, ANY_PATH, st.sampled_from(["failed", "hook"]), ANY_TEXT, st.none() | ANY_TEXT
)
ANY_SUMMARY = st.builds(
    Summary,
    session=st.builds(
        SessionFacts,
        id=ANY_TEXT,
        rootdir=ANY_PATH,
        started=st.just("2026-01-02T03:04:05+00:00"),
        seconds=st.floats(0, allow_infinity=False),
        exit_status=st.integers(),
        python=st.just("3.13.0"),
        pytest=st.just("9.0.0"),
        platform=ANY_TEXT,
        workers=st.lists(ANY_TEXT, min_size=1, max_size=2).map(tuple),
    ),
    root=ANY_PATH,
    leaks=st.lists(ANY_LEAK, max_size=3).map(tuple),
    kept=st.lists(ANY_KEPT, max_size=2).map(tuple),
    stale=st.lists(
        st.builds(Known, st.just("test"), ANY_TEXT, ANY_TEXT, ANY_TEXT, st.just("0" * 16)),
        max_size=2,
    ).map(tuple),
    hosts=st.dictionaries(st.text(max_size=3), ANY_TEXT, max_size=2),
    other_roots=st.just(("away:/tmp/one", os.fsdecode(b"away:/tmp/\xff"))),
    abandoned=st.sampled_from([(), (os.fsdecode(b"away:/tmp/\xff"),)]),
    artifacts=st.none()
    | st.builds(Artifacts, ANY_PATH, *[st.integers(0, 9)] * 4, manifest=st.none() | ANY_TEXT),
    gate_failed=st.booleans(),
    leaks_fail=st.booleans(),
    repository=st.none() | ANY_TEXT,
)
