from __future__ import annotations

import base64
import json
import os

from hypothesis import given
from hypothesis import strategies as st

from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports import json_report
from pytest_tempres.reports.json_report import render
from pytest_tempres.reports.summary import escaped
from pytest_tempres.workspace.retention import Kept


def test_a_report_has_all_keys_of_version_1(a_leak, summarize):
    """A complete example."""
    leak = a_leak(
        "/tmp/tempres-abcdefgh/gw0/x",
        kind="directory",
        size=7,
        items=2,
        owner=Owner("fixture", "f", "module", "conftest.py:3"),
        phase="setup",
        origin=(Frame("lib.py", 7, "make"), Frame("conftest.py", 4, "f")),
        worker="gw0",
    )
    path = "/tmp/tempres-abcdefgh/main.d/test-1"
    kept = Kept("t.py::test", path, "failed", "main", "/artifacts/t/test-1")
    assert json.loads(render(summarize(leak, kept=(kept,)))) == {
        "version": 1,
        "session": {
            "id": "tempres-abcdefgh",
            "rootdir": "/project",
            "started": "2026-01-02T03:04:05+00:00",
            "seconds": 1.5,
            "exit_status": 0,
            "python": "3.13.0",
            "pytest": "9.0.0",
            "platform": "Linux",
            "workers": ["main"],
        },
        "totals": {
            "leaks": 1,
            "known": 0,
            "deferred": 0,
            "from_failed": 0,
            "bytes": 7,
            "kept": 1,
        },
        "leaks": [
            {
                "kind": "directory",
                "path": "/tmp/tempres-abcdefgh/gw0/x",
                "bytes": 7,
                "items": 2,
                "complete": True,
                "status": "leak",
                "owner": {
                    "kind": "fixture",
                    "id": "f",
                    "scope": "module",
                    "location": "conftest.py:3",
                },
                "phase": "setup",
                "origin": [
                    {"file": "lib.py", "line": 7, "function": "make"},
                    {"file": "conftest.py", "line": 4, "function": "f"},
                ],
                "made_by": "python",
                "worker": "gw0",
                "fingerprint": leak.fingerprint,
            }
        ],
        "kept": [
            {
                "nodeid": "t.py::test",
                "path": "/tmp/tempres-abcdefgh/main.d/test-1",
                "reason": "failed",
                "artifact": "/artifacts/t/test-1",
                "worker": "main",
            }
        ],
    }


def test_leaks_of_every_status_are_listed(a_leak, summarize):
    """The terminal report omits some of them."""
    statuses = ["leak", "known", "deferred", "failed-test"]
    record = json.loads(render(summarize(*(a_leak(status=status) for status in statuses))))
    assert [leak["status"] for leak in record["leaks"]] == statuses


def test_unknown_values_are_null_or_empty(a_leak, summarize):
    """Every key is always present."""
    leak = a_leak(owner=Owner("session", "session"), origin=(), made_by="other")
    (record,) = json.loads(render(summarize(leak)))["leaks"]
    assert record["owner"] == {
        "kind": "session",
        "id": "session",
        "scope": None,
        "location": None,
    }
    assert record["phase"] is None
    assert record["origin"] == []


def test_a_leak_has_the_time_when_it_was_seen(a_leak, summarize):
    """The key is absent where the time is unknown, as in older reports."""
    text = render(summarize(a_leak(seen=12.5), a_leak()))
    assert [leak.get("seconds") for leak in json.loads(text)["leaks"]] == [12.5, None]
    assert text.count('"seconds"') == 2  # The session has one too.


def test_a_path_that_is_not_utf8_has_its_bytes_too(a_leak, summarize):
    """The path is readable, and `path_bytes` is exact."""
    raw = b"/tmp/\xff\xc3\xa9"
    kept = Kept("t", os.fsdecode(raw), "failed", "main")
    record = json.loads(render(summarize(a_leak(os.fsdecode(raw)), kept=(kept,))))
    for each in (*record["leaks"], *record["kept"]):
        assert each["path"] == r"/tmp/\xffé"
        assert base64.b64decode(each["path_bytes"]) == raw


def test_a_path_that_is_text_has_no_bytes(a_leak, summarize):
    """Backslashes and control characters are text."""
    (record,) = json.loads(render(summarize(a_leak("/tmp/\\xff\n"))))["leaks"]
    assert record["path"] == "/tmp/\\xff\n"
    assert "path_bytes" not in record


def test_a_rootdir_that_is_not_utf8_is_escaped(summarize):
    """It is readable, without its bytes."""
    summary = summarize()
    session = summary.session._replace(rootdir=os.fsdecode(b"/home/\xff"))
    record = json.loads(render(summarize(session=session)))
    assert record["session"]["rootdir"] == r"/home/\xff"


ANY_TEXT = st.text(st.characters(codec=None), max_size=10)


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_any_text_can_be_written_and_read_back(path, owner, file, location):
    """No name makes the file unreadable."""
    entry = Entry(path, Owner("test", owner, None, location), origin=(Frame(file, 1, "f"),))
    record = json_report._leak(Leak("file", path, 0, 1, True, "leak", entry))
    text = json.dumps(record)
    assert text.isascii()
    again = json.loads(text)
    assert again["path"] == escaped(path)
    json.dumps(again, ensure_ascii=False).encode("utf-8")


def test_the_file_is_indented_and_ends_with_a_newline(summarize):
    """People and diff read it too."""
    text = render(summarize())
    assert text.endswith("}\n")
    assert text.isascii()
    assert len(text.splitlines()) > 10
