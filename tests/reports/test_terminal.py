from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Process
from pytest_tempres.reports.terminal import in_short
from pytest_tempres.reports.terminal import write
from pytest_tempres.reports.terminal import write_reclaimed
from pytest_tempres.workspace.retention import Artifacts
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.sweep import Reclaimed

ROOT = "/tmp/tempres-abcdefgh"


class Writer:
    """A terminal writer that records the lines and their markup."""

    def __init__(self, fullwidth: int = 80) -> None:
        self.fullwidth = fullwidth
        self.lines: list[str] = []
        self.marks: dict[str, dict[str, bool]] = {}

    def line(self, s: str = "", **markup: bool) -> None:
        """Write a line."""
        self.lines.append(s)
        self.marks[s] = markup

    def sep(self, sepchar: str, title: str | None = None, **markup: bool) -> None:
        """Write a separator line."""
        self.line(f"{sepchar * 3} {title}", **markup)


@pytest.fixture
def lines(summarize):
    """Return the lines of a report."""

    def lines(*leaks, verbosity=0, width=80, **more):
        writer = Writer(width)
        write(summarize(*leaks, **more), writer, verbosity=verbosity)
        return writer.lines

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
    """They have no size, and the last line does not say that they are removed."""
    kinds = ("descriptor", "descriptor", "deleted", "changed", "file")
    leaks = [a_leak(f"/{number}", kind=kind) for number, kind in enumerate(kinds[:4])]
    first, *others = lines(*leaks)[1:]
    assert first == "t.py::test left 2 descriptors, changed 1 path, deleted 1 path"
    assert others[-1] == "=== 4 leaks from 1 test"
    first, *others = lines(*leaks, a_leak(kind="file", size=5), width=100)[1:]
    assert first.startswith("t.py::test left 1 file (5 bytes) and 2 descriptors, changed")
    end = "; removed except for 2 open descriptors and 2 modified paths"
    assert others[-1] == f"=== 5 leaks from 1 test, 5 bytes{end}"


def test_a_file_and_its_open_descriptors_are_one_finding(a_leak, lines):
    """The descriptor may name the file through another path to the session root."""
    path = f"{ROOT}/main/x"
    fds = [a_leak(f"fd {number}: {path}", kind="descriptor", origin=()) for number in (14, 15, 16)]
    real = f"/private{path}"
    named = [
        fd._replace(entry=fd.entry._replace(path=target))
        for fd, target in zip(fds, (path, real, f"{path}x"), strict=True)
    ]
    assert lines(*named[:2], a_leak(size=5))[1:] == [
        "t.py::test left 1 file (5 bytes)",
        "  tempres-abcdefgh/main/x is still open (fd 14, fd 15)",
        "    t.py:4 in test",
        "=== 1 leak from 1 test, 5 bytes; removed",
    ]
    # A report that was read back does not have the target of a descriptor on its own.
    assert lines(fds[0], a_leak())[2].endswith("/x is still open (fd 14)")
    others = [a_leak(f"{path}{number}") for number in (1, 2)]
    text = lines(a_leak(size=5), named[0], named[2], *others)
    assert text[1] == "t.py::test left 3 files (5 bytes) and 1 descriptor"
    assert "  tempres-abcdefgh/main/x1 and 1 more like it" in text
    assert text[-1].startswith("=== 4 leaks from 1 test")


def test_a_descriptor_of_another_owner_stays_a_finding_of_its_own(a_leak, lines):
    """That owner has to close it."""
    fd = a_leak(f"fd 14: {ROOT}/main/x", kind="descriptor", owner=Owner("test", "t.py::other"))
    fd = fd._replace(entry=fd.entry._replace(path=f"{ROOT}/main/x"))
    text = lines(a_leak(), fd)
    assert "t.py::other left 1 descriptor" in text
    assert text[-1].startswith("=== 2 leaks from 2 tests")


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
        ([{"kind": "fifo"}, {"kind": "socket"}], "1 fifo and 1 socket"),
        (
            [{"kind": "directory", "items": 10_000, "size": 10**7, "complete": False}],
            "1 directory (at least 10,000 files, 10 MB)",
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
    assert lines(known, width=60)[3:5] == expected.replace("; ", "\n    ").splitlines()
    one, fixture = Owner("test", "t.py::\x1b"), Owner("fixture", "server", "module", "t.py:3")
    ran = [Process("a", one), Process("a", one), Process("b", fixture)]
    entry = known.entry._replace(processes=tuple(ran))
    named = r"a of t.py::\x1b, b of fixture server (module) in t.py:3"
    assert lines(known._replace(entry=entry))[5] == f"    still running then: {named}"
    entry = entry._replace(processes=tuple(Process(name, one) for name in "abcde"))
    assert lines(known._replace(entry=entry))[5].endswith(r"c of t.py::\x1b and 2 more")


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
    owners = [a_leak(owner=Owner("test", str(number)), size=9) for number in (*range(23), 22)]
    text = lines(*owners)
    assert text[1] == "22 left 2 files (18 bytes)"
    assert text[-2] == "... and 3 more owners with 3 leaks, 27 bytes (-v: all)"
    assert len(text) == 1 + 20 * 3 + 2
    assert "=== 24 leaks from 23 tests" in text[-1]
    assert len(lines(*owners, verbosity=1)) == 1 + 23 * 3 + 1


def test_the_largest_owner_comes_first(a_leak, lines):
    """By bytes, then by number, then in the order in which they were seen."""
    sizes = {"one": [5], "two": [5], "many": [3, 2], "large": [6]}
    leaks = [
        a_leak(f"{ROOT}/main/{name}{number}", size=size, owner=Owner("test", name))
        for name, group in sizes.items()
        for number, size in enumerate(group)
    ]
    text = lines(*leaks, verbosity=-1)[1:-1]
    assert [line.partition(" ")[0] for line in text] == ["large", "many", "one", "two"]


def test_q_leaves_out_paths_and_origins_and_qq_all_but_the_last_line(a_leak, lines):
    """The last line has the same form at every verbosity, for programs that search it."""
    kept = (Kept("t.py::a", "/nowhere/a", "failed", "main"),)
    last = "=== 1 leak from 1 test, 0 bytes; removed"
    assert lines(a_leak(), kept=kept, verbosity=-1) == [
        "=== temporary resources",
        "t.py::test left 1 file (0 bytes)",
        "kept: t.py::a  /nowhere/a",
        last,
    ]
    for verbosity in (-2, -3):
        assert lines(a_leak(), kept=kept, gate_failed=True, verbosity=verbosity) == [last]
    assert lines(verbosity=-2) == []
    for verbosity in (0, 1):
        assert lines(a_leak(), verbosity=verbosity)[-1] == last


def test_long_names_are_complete(a_leak, lines):
    """They can be copied; what follows the name of an owner is on the next line."""
    nodeid = f"tests/{'long/' * 20}test_it.py::test_something"
    frame = Frame(f"/usr/{'deep/' * 20}lib.py", 7, "make")
    leak = a_leak(owner=Owner("test", nodeid), origin=(frame,))
    name, amount, _, origin = lines(leak)[1:-1]
    assert name == nodeid
    assert amount == "  left 1 file (0 bytes)"
    assert origin == f"    {frame.file}:7 in make"


def test_the_path_of_a_leak_is_never_cut(a_leak, lines):
    """Rather than that, what follows it is on a line of its own."""
    path = f"main/{'x' * 90}"
    leaks = [a_leak(f"{ROOT}/{path}"), a_leak(f"{ROOT}/main/y")]
    assert lines(*leaks)[2:4] == [f"  tempres-abcdefgh/{path}", "    and 1 more like it"]


def test_paths_in_the_project_are_relative_to_it(a_leak, lines):
    """Also those that a descriptor holds open; other paths are complete."""
    assert lines(a_leak("/project/out/x.csv"))[2] == "  out/x.csv"
    assert lines(a_leak("/projects/x.csv"))[2] == "  /projects/x.csv"
    fd = a_leak("fd 7: directory /project/out", kind="descriptor")
    fd = fd._replace(entry=fd.entry._replace(path="/project/out"))
    assert lines(fd)[2] == "  fd 7: directory out"


def test_a_library_has_its_path_below_site_packages(a_leak, lines):
    """The installation directory is omitted."""
    for site in ("site-packages", "dist-packages"):
        path = os.path.join(os.sep, "venv", "lib", site, "requests", "api.py")
        text = lines(a_leak(origin=(Frame(path, 3, "get"),)))
        assert text[3] == f"    {os.path.join('requests', 'api.py')}:3 in get"


def test_kept_paths_are_listed_with_their_size(lines, tmp_path, summarize):
    """The path stays complete: if the line is too long, it has a line of its own."""
    Path(tmp_path, "x").write_bytes(b"abc")
    kept = (Kept("t.py::a", str(tmp_path), "failed", "main"),)
    end = ["=== no leaks; 1 path kept"]
    assert lines(kept=kept, width=40)[1:] == [
        "kept: t.py::a (1 file, 3 bytes)",
        f"  {tmp_path}",
        *end,
    ]
    assert lines(kept=kept, width=400)[1:] == [f"kept: t.py::a (1 file, 3 bytes)  {tmp_path}", *end]
    writer = Writer(400)
    write(summarize(kept=kept), writer, is_here=False)
    assert writer.lines[1] == f"kept: t.py::a  {tmp_path}"
    assert list(in_short(summarize(kept=kept), ())) == [
        f"kept: t.py::a  {tmp_path}",
        "pytest-tempres: no leaks; 1 path kept",
    ]
    last = ["pytest-tempres: no leaks; 1 path kept"]
    assert list(in_short(summarize(kept=kept), (), with_paths=False)) == last
    assert list(in_short(None, kept, with_paths=False)) == []


def test_kept_paths_that_are_gone_are_listed_too(lines):
    """Another process may have removed them; then their size is unknown."""
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
    assert lines(kept=kept, artifacts=copied, width=100) == [
        "=== temporary resources",
        f"kept: t.py::a  {ROOT}/main.d/a-1",
        f"artifacts: /ci/out\\n (3 directories, 12 files, 1.2 MB){end}",
        "=== no leaks; 1 path kept",
    ]
    assert lines(kept=kept, artifacts=copied, width=40)[-3:-1] == [
        "artifacts: /ci/out\\n",
        f"  (3 directories, 12 files, 1.2 MB){end}",
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
    writer = Writer()
    write(summarize(a_leak(), gate_failed=failed), writer)
    assert writer.marks[writer.lines[-1]] == {colour: True}
    assert ("(--tempres-leaks)" in writer.lines[-2]) is failed


def test_owners_are_bold_and_a_report_without_leaks_ends_green(a_leak, summarize):
    """Paths have no colour, and kept paths are no warning."""
    writer = Writer()
    kept = (Kept("t", "/x", "all", "main"),)
    write(summarize(a_leak(), kept=kept), writer)
    bold = [line for line, markup in writer.marks.items() if markup == {"bold": True}]
    assert bold == ["t.py::test left 1 file (0 bytes)"]
    assert writer.marks["kept: t  /x"] == writer.marks["  tempres-abcdefgh/main/x"] == {}
    write(summarize(kept=kept), writer)
    assert writer.marks[writer.lines[-1]] == {"green": True}


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
    writer = Writer()
    write_reclaimed(found, writer)
    assert writer.lines == [line]


def test_without_dead_sessions_nothing_is_written():
    """The usual case."""
    writer = Writer()
    write_reclaimed(Reclaimed(), writer)
    assert writer.lines == []
