from __future__ import annotations

import os
import re

from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Process
from pytest_tempres.reports.terminal import count
from pytest_tempres.reports.terminal import size
from pytest_tempres.reports.terminal import write
from pytest_tempres.reports.terminal import write_reclaimed
from pytest_tempres.workspace.retention import Artifacts
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.sweep import Reclaimed

ROOT = "/tmp/tempres-abcdefgh"


class Terminal:
    """A terminal that records the lines and their markup."""

    def __init__(self, verbosity: int = 0) -> None:
        self.config = self
        self.verbosity = verbosity
        self.lines: list[str] = []
        self.marks: dict[str, dict[str, bool]] = {}

    def get_verbosity(self) -> int:
        """Return the number of -v options."""
        return self.verbosity

    def write_line(self, line: str, **markup: bool) -> None:
        """Write a line."""
        self.lines.append(line)
        self.marks[line] = markup

    def write_sep(self, sep: str, title: str, **markup: bool) -> None:
        """Write a separator line."""
        self.write_line(f"{sep * 3} {title}", **markup)


@pytest.fixture
def lines(summarize):
    """Return the lines of a report."""

    def lines(*leaks, verbosity=0, **more):
        terminal = Terminal(verbosity)
        write(summarize(*leaks, **more), terminal)
        return terminal.lines

    return lines


def test_without_leaks_and_kept_paths_nothing_is_written(a_leak, lines):
    """Nor with deferred leaks, or those of failed tests."""
    assert lines() == []
    others = [a_leak(status=status) for status in ("deferred", "failed-test")]
    assert lines(*others) == []


def test_known_leaks_are_counted_and_stale_ones_listed(a_leak, lines):
    """The user can remove the stale ones from the baseline."""
    stale = Known("test", "t.py::old", "file", "t.py:old", "0" * 16)
    assert lines(a_leak(status="known"), stale=(stale,)) == [
        "=== temporary resources",
        "stale in the baseline: t.py::old leaves no file any more",
        "=== no leaks; 1 known",
    ]


def test_descriptors_and_changes_have_their_own_words(a_leak, lines):
    """They have no size and are not removed."""
    kinds = ("descriptor", "descriptor", "deleted", "changed", "file")
    first, *others = lines(*(a_leak(kind=kind) for kind in kinds[:4]))[1:]
    assert first == "t.py::test left 2 descriptors, changed 1 path, deleted 1 path"
    assert others[-1] == "=== 4 leaks from 1 test"
    first, *others = lines(*(a_leak(kind=kind, size=5) for kind in kinds))[1:]
    assert first.startswith("t.py::test left 2 descriptors and 1 file (5 bytes), changed")
    assert others[-1].endswith("; removed")


def test_a_leak_is_reported_with_owner_size_path_and_origin(a_leak, lines):
    """A complete example."""
    leak = a_leak(size=12_345, origin=(Frame("lib.py", 7, "make"), Frame("t.py", 4, "test")))
    assert lines(leak) == [
        "=== temporary resources",
        "t.py::test left 1 file (12 kB)",
        "  tempres-abcdefgh/main/x",
        "    lib.py:7 in make",
        "    t.py:4 in test",
        "=== 1 leak from 1 test, 12 kB; removed",
    ]


@pytest.mark.parametrize(
    "owner, name",
    [
        (Owner("test", "t.py::test[a]"), "t.py::test[a]"),
        (Owner("fixture", "f", "module", "conftest.py:3"), "fixture f (module) in conftest.py:3"),
        (Owner("fixture", "f", "session"), "fixture f (session)"),
        (Owner("collection", "t.py"), "collecting t.py"),
        (Owner("session", "session"), "the session"),
    ],
)
def test_each_kind_of_owner_has_its_own_form(a_leak, lines, owner, name):
    """Tests, fixtures, collected modules and the session."""
    assert lines(a_leak(owner=owner))[1] == f"{name} left 1 file (0 bytes)"


@pytest.mark.parametrize(
    "leaks, expected",
    [
        ([{"size": 1}], "1 file (1 byte)"),
        ([{"size": 1}, {"size": 1}], "2 files (2 bytes)"),
        ([{"kind": "directory", "items": 0}], "1 directory (empty)"),
        ([{"kind": "directory", "items": 1, "size": 9}], "1 directory (1 file, 9 bytes)"),
        ([{"kind": "directory", "items": 0}] * 2, "2 directories (empty)"),
        (
            [{"kind": "directory", "items": 3, "size": 5}, {"size": 2}],
            "1 directory and 1 file (4 files, 7 bytes)",
        ),
        ([{"kind": "fifo"}, {"kind": "socket"}], "1 fifo and 1 socket (0 bytes)"),
        (
            [{"kind": "directory", "items": 10_000, "size": 10**7, "complete": False}],
            "1 directory (at least 10000 files, 10 MB)",
        ),
        (
            [{"kind": "directory", "items": 0, "complete": False}],
            "1 directory (at least 0 files, 0 bytes)",
        ),
    ],
)
def test_leaks_are_counted_by_kind_with_files_and_bytes(a_leak, lines, leaks, expected):
    """A lower bound is marked as such."""
    assert lines(*(a_leak(**leak) for leak in leaks))[1] == f"t.py::test left {expected}"


def test_leaks_of_one_origin_are_reported_once(a_leak, lines):
    """A loop that leaves a hundred files takes two lines."""
    leaks = [a_leak(f"{ROOT}/main/{number}") for number in range(100)]
    assert lines(*leaks)[1:-1] == [
        "t.py::test left 100 files (0 bytes)",
        "  tempres-abcdefgh/main/0 and 99 more like it",
        "    t.py:4 in test",
    ]


def test_several_workers_are_named(a_leak, lines):
    """Leaks of the same owner in several workers are reported once."""
    owner = Owner("fixture", "f", "session")
    leaks = [a_leak(owner=owner, worker=worker) for worker in ("gw1", "gw0", "gw1")]
    assert lines(*leaks)[1] == "fixture f (session) left 3 files (0 bytes) in gw0, gw1"


def test_leaks_of_subprocesses_are_reported_with_commands(a_leak, lines):
    """The last command, and the processes that were running."""
    unknown = a_leak(made_by="other", origin=())
    known = a_leak(made_by="other", origin=(), command="touch \x1b")
    assert lines(unknown)[3] == "    made by a subprocess or native code"
    expected = "    made by a subprocess or native code; last process: touch \\x1b"
    assert lines(known)[3] == expected
    one, fixture = Owner("test", "t.py::\x1b"), Owner("fixture", "server", "module", "t.py:3")
    ran = [Process("a", one), Process("a", one), Process("b", fixture)]
    entry = known.entry._replace(processes=tuple(ran))
    named = r"a of t.py::\x1b, b of fixture server (module) in t.py:3"
    assert lines(known._replace(entry=entry))[3] == f"{expected}; still running then: {named}"
    entry = entry._replace(processes=tuple(Process(name, one) for name in "abcde"))
    assert lines(known._replace(entry=entry))[3].endswith(r"c of t.py::\x1b and 2 more")


def test_a_long_stack_is_shortened_in_the_middle(a_leak, lines):
    """With -v it is complete."""
    frames = tuple(Frame(f"{number}.py", number, "f") for number in range(9))
    shown = [line.strip() for line in lines(a_leak(origin=frames))[3:-1]]
    assert shown == ["0.py:0 in f", "1.py:1 in f", "2.py:2 in f", "...", "8.py:8 in f"]
    assert len(lines(a_leak(origin=frames), verbosity=1)[3:-1]) == 9
    assert len(lines(a_leak(origin=frames[:4]))[3:-1]) == 4


def test_the_number_of_origins_and_owners_is_limited(a_leak, lines):
    """With -v all are listed."""
    places = [a_leak(origin=(Frame("t.py", number, "f"),)) for number in range(7)]
    text = lines(*places)
    assert text[-2] == "  ... from 2 more places (-v: all)"
    assert len(text) == 2 + 5 * 2 + 2
    assert len(lines(*places, verbosity=1)) == 2 + 7 * 2 + 1
    owners = [a_leak(owner=Owner("test", str(number))) for number in range(53)]
    text = lines(*owners)
    assert text[-2] == "... and 3 more that left something (-v: all)"
    assert len(text) == 1 + 50 * 3 + 2
    assert "=== 53 leaks from 53 tests" in text[-1]
    assert len(lines(*owners, verbosity=1)) == 1 + 53 * 3 + 1


def test_a_library_has_its_path_below_site_packages(a_leak, lines):
    """The installation directory is omitted."""
    path = os.path.join(os.sep, "venv", "lib", "site-packages", "requests", "api.py")
    frame = Frame(path, 3, "get")
    assert lines(a_leak(origin=(frame,)))[3] == f"    {os.path.join('requests', 'api.py')}:3 in get"


def test_kept_paths_are_listed(lines):
    """With the complete path, to be copied."""
    kept = (
        Kept("t.py::a", f"{ROOT}/main.d/a-1", "failed", "main"),
        Kept("t.py::b", f"{ROOT}/main.d/b-1", "failed", "main"),
    )
    assert lines(kept=kept) == [
        "=== temporary resources",
        f"kept: t.py::a  {ROOT}/main.d/a-1",
        f"kept: t.py::b  {ROOT}/main.d/b-1",
        "=== no leaks; 2 paths kept",
    ]


@pytest.mark.parametrize(
    "skipped, manifest, end",
    [
        (0, "manifest.json", ""),
        (2, "manifest.json", "; 2 skipped, see manifest.json"),
        (1, None, "; 1 skipped"),
    ],
)
def test_the_totals_of_the_artifacts_are_reported(lines, skipped, manifest, end):
    """And whether something was skipped."""
    kept = (Kept("t.py::a", f"{ROOT}/main.d/a-1", "failed", "main"),)
    copied = Artifacts("/ci/out\n", 3, 12, 1_234_567, skipped, manifest)
    assert lines(kept=kept, artifacts=copied) == [
        "=== temporary resources",
        f"kept: t.py::a  {ROOT}/main.d/a-1",
        f"artifacts: /ci/out\\n (3 directories, 12 files, 1.2 MB){end}",
        "=== no leaks; 1 path kept",
    ]


def test_the_last_line_counts_leaks_and_owners_and_reports_the_removal(a_leak, lines):
    """A complete example."""
    leaks = [
        a_leak(size=1000, owner=Owner("test", "a")),
        a_leak(owner=Owner("test", "a")),
        a_leak(owner=Owner("test", "b")),
        a_leak(owner=Owner("fixture", "f")),
        a_leak(owner=Owner("collection", "t.py")),
        a_leak(owner=Owner("session", "session")),
        a_leak("/elsewhere/x", owner=Owner("session", "session")),
        a_leak(status="failed-test"),
    ]
    assert lines(*leaks)[-1] == (
        "=== 7 leaks from 2 tests, 1 fixture, collection and the session, 1.0 kB; "
        "removed except for 1 outside the temp location; 1 more from failed tests"
    )


def test_leaks_on_another_host_are_reported_with_the_host(a_leak, lines):
    """The last line reports which of them are removed."""
    owners = [Owner("test", name) for name in "abcd"]
    leaks = [
        a_leak("far:/tmp/tempres-xxxxxxxx/gw1/x", owner=owners[0], worker="gw1"),
        a_leak("far:/var/x", owner=owners[1], worker="gw1"),
        a_leak("win:C:\\tmp\\tempres-yyyyyyyy\\gw2\\x", owner=owners[2], worker="gw2"),
        a_leak("far:/tmp/tempres-zzzzzzzz/gw3/x", owner=owners[3], worker="gw3"),
    ]
    roots = ("far:/tmp/tempres-xxxxxxxx", "win:C:\\tmp\\tempres-yyyyyyyy")
    dead = "far:/tmp/tempres-zzzzzzzz"
    more = {
        "hosts": {"gw1": "far", "gw2": "win", "gw3": "far"},
        "other_roots": (*roots, dead),
        "abandoned": (dead,),
    }
    text = lines(*leaks, **more)
    assert [line.strip() for line in text if line.startswith("  ") and line[2] != " "] == [
        "far:tempres-xxxxxxxx/gw1/x",
        "far:/var/x",
        "win:tempres-yyyyyyyy\\gw2\\x",
        "far:tempres-zzzzzzzz/gw3/x",
    ]
    assert text[-1].endswith(
        "; removed except for 1 outside the temp location"
        " and 1 left to the next session on their host"
    )
    assert lines(leaks[2], **more)[-1].endswith("; removed")
    assert lines(leaks[3], **more)[-1].endswith("; left to the next session on their host")


def test_leaks_outside_the_root_have_absolute_paths_and_stay(a_leak, lines):
    """The last line says so."""
    text = lines(a_leak("/elsewhere/x"), a_leak(f"{ROOT}x/y"))
    assert text[2] == "  /elsewhere/x and 1 more like it"
    assert text[-1].endswith("; not removed, since outside the temp location")


def test_leaks_of_failed_tests_are_counted_separately(a_leak, lines):
    """In the last line."""
    kept = (Kept("t", "/x", "failed", "main"),)
    text = lines(a_leak(status="failed-test"), kept=kept)
    assert text[-1] == "=== no leaks; 1 path kept; 1 more from failed tests"


@pytest.mark.parametrize("failed, colour", [(False, "yellow"), (True, "red")])
def test_a_failed_gate_is_red_and_names_the_option(a_leak, summarize, failed, colour):
    """The run may fail without a failed test."""
    terminal = Terminal()
    write(summarize(a_leak(), gate_failed=failed), terminal)
    assert terminal.marks[terminal.lines[-1]] == {colour: True}
    assert ("(--tempres-leaks)" in terminal.lines[-2]) is failed


def test_kept_paths_alone_have_no_colour(summarize):
    """They are no warning."""
    terminal = Terminal()
    write(summarize(kept=(Kept("t", "/x", "all", "main"),)), terminal)
    assert terminal.marks[terminal.lines[-1]] == {}


def test_names_are_escaped(a_leak, lines):
    """Control characters and bytes that are not UTF-8, in every position."""
    bad = os.fsdecode(b"\x1b[2J\xff\n")
    text = lines(
        a_leak(
            f"{ROOT}/main/{bad}",
            owner=Owner("fixture", bad, "module", bad),
            origin=(Frame(bad, 1, "f"),),
        ),
        a_leak(f"/{bad}", owner=Owner("test", bad), made_by="other", command=bad),
        kept=(Kept(bad, bad, "failed", "main"),),
    )
    assert all(line.isprintable() for line in text)
    assert sum(r"\x1b[2J\xff\n" in line for line in text) == 7


# -- numbers


@pytest.mark.parametrize(
    "amount, text",
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_950, "10 kB"),
        (12_345, "12 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (1_200_000, "1.2 MB"),
        (5 * 10**9, "5.0 GB"),
        (10**12, "1.0 TB"),
        (10**15, "1.0 PB"),
        (10**18, "1000 PB"),
    ],
)
def test_size_has_a_unit_of_a_thousand(amount, text):
    """With at most three digits, except in the largest unit."""
    assert size(amount) == text


@given(st.integers(0, 10**18 - 10**15))
def test_size_is_rounded_to_two_or_three_digits(amount):
    """The error is at most five percent."""
    number, unit = size(amount).split()
    scale = {"byte": 1, "bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}[unit]
    assert re.fullmatch(r"\d{1,3}|\d\.\d", number)
    assert abs(float(number) * scale - amount) <= 0.051 * amount


@pytest.mark.parametrize(
    "number, noun, text",
    [
        (0, "file", "0 files"),
        (1, "directory", "1 directory"),
        (2, "directory", "2 directories"),
        (2, "leak", "2 leaks"),
    ],
)
def test_count_uses_the_plural(number, noun, text):
    """Except for 1."""
    assert count(number, noun) == text


# -- dead sessions


@pytest.mark.parametrize(
    "found, line",
    [
        (Reclaimed(1), "reclaimed 1 dead session (empty), from 0 seconds ago"),
        (Reclaimed(1, 1, 0, age=59.9), "reclaimed 1 dead session (1 item), from 59 seconds ago"),
        (
            Reclaimed(2, 3, 1500, age=60),
            "reclaimed 2 dead sessions (3 items, 1.5 kB), the oldest from 1 minute ago",
        ),
        (
            Reclaimed(1, 9, 1500, complete=False, age=7200),
            "reclaimed 1 dead session (9 items, at least 1.5 kB), from 2 hours ago",
        ),
        (
            Reclaimed(1, 9, 0, complete=False, age=86400 * 9.5),
            "reclaimed 1 dead session (9 items), from 9 days ago",
        ),
        (Reclaimed(1, age=-5.0), "reclaimed 1 dead session (empty), from 0 seconds ago"),
    ],
)
def test_removed_dead_sessions_are_reported_in_one_line(found, line):
    """Their number, size and age."""
    terminal = Terminal()
    write_reclaimed(found, terminal)
    assert terminal.lines == [line]


def test_without_dead_sessions_nothing_is_written():
    """The usual case."""
    terminal = Terminal()
    write_reclaimed(Reclaimed(), terminal)
    assert terminal.lines == []
