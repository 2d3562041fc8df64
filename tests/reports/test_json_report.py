from __future__ import annotations

import base64
import json
import os

from any_summary import ANY_SUMMARY
from hypothesis import given
from hypothesis import settings
import pytest
from report_schema import validated

from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Process
from pytest_tempres.reports.escape import raw
from pytest_tempres.reports.json_report import parse
from pytest_tempres.reports.json_report import render
from pytest_tempres.workspace.retention import Artifacts
from pytest_tempres.workspace.retention import Kept


def test_a_report_has_all_keys_of_version_1(a_leak, summarize):
    """A complete example."""
    starter = Owner("test", "t.py::starter")
    leak = a_leak(
        "/tmp/tempres-abcdefgh/gw0/x",
        kind="directory",
        size=7,
        items=2,
        owner=Owner("fixture", "f", "module", "conftest.py:3"),
        test="t.py::test",
        phase="setup",
        processes=(Process("cc x.c", starter),),
        origin=(Frame("lib.py", 7, "make"), Frame("conftest.py", 4, "f")),
        worker="gw0",
    )
    path = "/tmp/tempres-abcdefgh/main.d/test-1"
    kept = Kept("t.py::test", path, "failed", "main", "/artifacts/t/test-1")
    summary = summarize(
        leak,
        kept=(kept,),
        stale=(Known("test", "t.py::gone", "file", "lib.py:make", "0123456789abcdef"),),
        artifacts=Artifacts("/artifacts", 1, 2, 30, 4, "manifest.json"),
        hosts={"gw1": "away"},
        other_roots=("away:/tmp/tempres-other", "away:/tmp/tempres-lost"),
        abandoned=("away:/tmp/tempres-lost",),
        gate_failed=True,
        leaks_fail=True,
        repository="/",
    )
    assert validated(render(summary)) == {
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
                "test": "t.py::test",
                "phase": "setup",
                "origin": [
                    {"file": "lib.py", "line": 7, "function": "make"},
                    {"file": "conftest.py", "line": 4, "function": "f"},
                ],
                "made_by": "python",
                "command": None,
                "processes": [
                    {
                        "command": "cc x.c",
                        "owner": {
                            "kind": "test",
                            "id": "t.py::starter",
                            "scope": None,
                            "location": None,
                        },
                    }
                ],
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
        "root": "/tmp/tempres-abcdefgh",
        "gate_failed": True,
        "leaks_fail": True,
        "repository": "/",
        "stale": [
            {
                "owner_kind": "test",
                "owner": "t.py::gone",
                "kind": "file",
                "place": "lib.py:make",
                "fingerprint": "0123456789abcdef",
            }
        ],
        "artifacts": {
            "directory": "/artifacts",
            "directories": 1,
            "files": 2,
            "bytes": 30,
            "skipped": 4,
            "manifest": "manifest.json",
        },
        "hosts": {"gw1": "away"},
        "other_roots": [
            {"path": "away:/tmp/tempres-other", "abandoned": False},
            {"path": "away:/tmp/tempres-lost", "abandoned": True},
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
    record = validated(render(summarize(a_leak(os.fsdecode(raw)), kept=(kept,))))
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


def test_the_file_is_indented_and_ends_with_a_newline(summarize):
    """People and diff read it too."""
    text = render(summarize())
    assert text.endswith("}\n")
    assert text.isascii()
    assert len(text.splitlines()) > 10


@settings(deadline=None)
@given(ANY_SUMMARY)
def test_a_parsed_report_is_rendered_as_it_was(summary):
    """Nothing is lost, whatever the names are, and the file is valid ASCII."""
    text = render(summary)
    assert text.isascii()
    validated(text)
    again = parse(text)
    assert render(again) == text
    assert [leak.path for leak in again.leaks] == [_on_disk(leak.path) for leak in summary.leaks]
    assert again.totals == summary.totals


def _on_disk(path):
    # A lone surrogate that stands for no byte becomes three bytes.
    return raw(path).decode("utf-8", "surrogateescape")


def test_a_fingerprint_is_not_computed_again(a_leak, summarize):
    """On another machine the names in the report would give another fingerprint."""
    leak = a_leak(origin=(Frame(os.fsdecode(b"\xff.py"), 1, "f"),))
    (again,) = parse(render(summarize(leak))).leaks
    assert again.fingerprint == leak.fingerprint
    assert again.entry.origin != leak.entry.origin


def test_a_report_of_the_first_release_can_be_read(a_leak, summarize):
    """It lacks the keys that were added later."""
    record = json.loads(render(summarize(a_leak(size=3))))
    for key in (
        "root",
        "gate_failed",
        "leaks_fail",
        "repository",
        "stale",
        "artifacts",
        "hosts",
        "other_roots",
    ):
        del record[key]
    for key in ("test", "command", "processes"):
        del record["leaks"][0][key]
    summary = parse(json.dumps(record))
    assert summary.totals.bytes == 3
    assert (summary.root, summary.stale, summary.artifacts) == ("", (), None)


def test_a_key_that_was_added_later_is_ignored(summarize):
    """A newer release may have written the report."""
    record = json.loads(render(summarize()))
    assert parse(json.dumps({**record, "new": 1})) == parse(json.dumps(record))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"version": NaN}', "not JSON: NaN is not a number"),
        ("1" * 10_000, "not"),
        ("null", "not a JSON report of pytest-tempres"),
        ("[]", "not a JSON report of pytest-tempres"),
        ('{"version": 1}', "not a JSON report of pytest-tempres"),
    ],
)
def test_text_that_is_not_a_report_is_refused(text, message):
    """The message says what it is not."""
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize("version", [True, "1", None, 1.0])
def test_a_version_that_is_not_a_number_is_refused(summarize, version):
    """Also one that is equal to 1 in Python."""
    record = {**json.loads(render(summarize())), "version": version}
    with pytest.raises(ValueError, match="version is not a whole number"):
        parse(json.dumps(record))


def test_a_newer_version_is_refused(summarize):
    """The message says what to do."""
    text = render(summarize()).replace('"version": 1', '"version": 2')
    with pytest.raises(ValueError, match=r"version 2, not 1; use a newer pytest-tempres"):
        parse(text)


@pytest.mark.parametrize("length", [1, 10, 100, 500])
def test_a_truncated_report_is_refused(summarize, length):
    """A disk may have been full."""
    with pytest.raises(ValueError, match="not JSON"):
        parse(render(summarize())[:length])


@pytest.mark.parametrize(
    "place, value, message",
    [
        (["session"], 7, "session is not an object"),
        (["session", "seconds"], "1", "session.seconds is not a whole number"),
        (["session", "workers"], [1], "session.workers has values that are not strings"),
        (["leaks"], {}, "leaks is not an array"),
        (["leaks", 0], [], r"leaks\[0\] is not an object"),
        (["leaks", 0, "path"], None, r"leaks\[0\].path is not a string"),
        (["leaks", 0, "path_bytes"], "?", r"leaks\[0\].path_bytes is not base64"),
        (["leaks", 0, "bytes"], True, r"leaks\[0\].bytes is not a whole number"),
        (["leaks", 0, "status"], "fine", r"leaks\[0\].status is none of leak, known, "),
        (["leaks", 0, "phase"], "late", r"leaks\[0\].phase is none of setup, call, teardown"),
        (["leaks", 0, "owner", "kind"], "dog", r"leaks\[0\].owner.kind is none of test, "),
        (["leaks", 0, "origin", 0, "line"], 1.5, r"leaks\[0\].origin\[0\].line is not a whole"),
        (["gate_failed"], 1, "gate_failed is not true or false"),
    ],
)
def test_a_wrong_value_is_refused(a_leak, summarize, place, value, message):
    """The message names the place and what is expected there."""
    record = json.loads(render(summarize(a_leak())))
    *way, key = place
    target = record
    for step in way:
        target = target[step]
    target[key] = value
    with pytest.raises(ValueError, match=message):
        parse(json.dumps(record))


def test_each_required_key_is_missed(a_leak, summarize):
    """None of them is replaced by a guess."""
    record = json.loads(render(summarize(a_leak())))
    optional = {"scope", "location", "test", "phase", "command", "processes"}
    for get in (lambda r: r["session"], lambda r: r["leaks"][0], lambda r: r["leaks"][0]["owner"]):
        for key in get(record).keys() - optional:
            damaged = json.loads(json.dumps(record))
            del get(damaged)[key]
            with pytest.raises(ValueError, match=f"{key} is missing"):
                parse(json.dumps(damaged))
