from __future__ import annotations

from errno import ENOSPC
import json
import os
from pathlib import Path
import subprocess
import sys
import sysconfig

import pytest

import pytest_tempres
from pytest_tempres.cli import inputs
from pytest_tempres.cli.main import main
from pytest_tempres.cli.output import Output
from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports import json_report
from pytest_tempres.reports import markdown
from pytest_tempres.reports.summary import SessionFacts
from pytest_tempres.reports.summary import Summary
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import create


@pytest.fixture(autouse=True)
def plain_output(monkeypatch):
    """Make the output the same everywhere."""
    for name in ("PY_COLORS", "NO_COLOR", "FORCE_COLOR", "PYTEST_TEMPRES_SYSTEM_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


def leak(name: str = "x", test: str = "t.py::test", *, root: str = "aaaaaaaa", **more) -> Leak:
    """Create a leak of a test, created by a function of the same name."""
    path = f"/tmp/tempres-{root}/main/{name}"
    owner = Owner("test", test, None, "t.py:3")
    entry = Entry(path, owner, origin=(Frame("t.py", 4, name),), made_by="python", worker="main")
    return Leak("file", path, 5, 1, True, "leak", entry)._replace(**more)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write JSON reports to the current directory."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, *leaks: Leak, root: str = "aaaaaaaa", **more) -> str:
        facts = SessionFacts(
            id=f"tempres-{root}",
            rootdir="/project",
            started="2026-01-02T03:04:05+00:00",
            seconds=1.5,
            exit_status=0,
            python="3.13.0",
            pytest="9.0.0",
            platform="Linux",
            workers=("main",),
        )
        defaults = {"session": facts, "root": f"/tmp/tempres-{root}", "kept": ()}
        summary = Summary(leaks=leaks, **{**defaults, **more})
        Path(name).write_text(json_report.render(summary), encoding="ascii")
        return name

    return write


@pytest.fixture
def command(capsys):
    """Run the command; return the exit status and the lines of the output."""

    def command(*arguments: str) -> tuple[int, list[str]]:
        status = main(arguments)
        output, errors = capsys.readouterr()
        assert errors == ""
        return status, output.splitlines()

    return command


@pytest.fixture
def refused(capsys):
    """Run a command that refuses its input; return what it says."""

    def refused(*arguments: str) -> str:
        assert main(arguments) == 2
        output, errors = capsys.readouterr()
        assert output == ""
        (line,) = errors.splitlines()
        assert line.startswith("pytest-tempres: ")
        return line.removeprefix("pytest-tempres: ")

    return refused


# -- report


def test_one_report_is_rendered_as_the_session_printed_it(write, command):
    """Without a shard to name."""
    write("a.json", leak())
    status, lines = command("report", "a.json")
    assert status == 0
    assert lines[0].strip("=") == " temporary resources "
    assert lines[1:4] == [
        "t.py::test left 1 file (5 bytes)",
        "  tempres-aaaaaaaa/main/x",
        "    t.py:4 in x",
    ]
    assert lines[4].strip("=") == " 1 leak from 1 test, 5 bytes; removed "
    assert {len(lines[0]), len(lines[4])} == {80}


def test_the_same_leak_in_several_shards_is_reported_once(write, command):
    """With the names of its shards, and as often as the shard that has it most often."""
    write("a.json", leak("x"), leak("y", "t.py::other"))
    write("b.json", leak("x", root="bbbbbbbb"), leak("x", root="bbbbbbbb"), root="bbbbbbbb")
    status, lines = command("report", "a.json", "b.json")
    assert status == 0
    assert lines[1:3] == [
        "t.py::test left 2 files (10 bytes) in a, b",
        "  tempres-bbbbbbbb/main/x and 1 more like it",
    ]
    assert "t.py::other left 1 file (5 bytes) in a" in lines
    assert lines[-1].strip("=") == " 3 leaks from 2 tests, 15 bytes; removed "


def test_a_merged_report_can_be_written_and_read_again(write, command):
    """The JSON of several shards is a report like any other."""
    kept = (Kept("t.py::a", "/tmp/tempres-bbbbbbbb/main.d/a", "failed", "main"),)
    write("a.json", leak(), gate_failed=True)
    write("b.json", leak(root="bbbbbbbb"), root="bbbbbbbb", kept=kept)
    assert command("report", "a.json", "b.json", "--to", "json:all.json") == (0, [])
    merged = json_report.parse(Path("all.json").read_text())
    assert merged.session.workers == ("a", "b")
    assert merged.session.seconds == 3
    assert [each.entry.worker for each in merged.leaks] == ["a, b"]
    assert [(each.nodeid, each.worker) for each in merged.kept] == [("t.py::a", "b")]
    assert merged.gate_failed
    status, lines = command("report", "all.json", "--to=json:-", "--to=term")
    assert status == 0
    assert json.loads("\n".join(lines[: lines.index("}") + 1]))["version"] == 1
    assert "kept: t.py::a  /tmp/tempres-bbbbbbbb/main.d/a" in lines


def test_a_known_leak_is_stale_only_if_no_shard_has_found_it(write, command):
    """Each shard runs only some of the tests."""
    found = leak(status="known")
    gone = Known("test", "t.py::old", "file", "t.py:old", "0" * 16)
    write("a.json", stale=(Known.of(found), gone))
    write("b.json", found)
    _, lines = command("report", "a.json", "b.json")
    assert lines[1:-1] == ["stale in the baseline: t.py::old leaves no file any more"]
    assert lines[-1].strip("=") == " no leaks; 1 known "


def test_a_leak_on_another_host_keeps_its_host(write, command):
    """Its path begins with the host, and it was not removed with the session of this one."""
    far = leak(path="far:/tmp/tempres-ffffffff/gw1/x")
    far = far._replace(entry=far.entry._replace(worker="gw1", path=far.path))
    more = {"hosts": {"gw1": "far"}, "other_roots": ("far:/tmp/tempres-ffffffff",)}
    write("a.json", far, **more)
    write("b.json")
    _, lines = command("report", "a.json", "b.json")
    assert lines[1:3] == [
        "t.py::test left 1 file (5 bytes) in a (far)",
        "  far:tempres-ffffffff/gw1/x",
    ]


def test_shards_with_the_same_file_name_are_named_by_their_paths():
    """CI jobs often download each report to a directory of its own."""
    names = inputs.shard_names(["1/tempres.json", "2/tempres.json", "c.json"])
    assert names == ["1/tempres.json", "2/tempres.json", "c"]


def test_verbosity_is_as_in_pytest(write, command):
    """`-q` leaves out the paths, `-qq` all but the last line, `-v` shows whole stacks."""
    frames = tuple(Frame("t.py", number, "f") for number in range(9))
    deep = leak()
    write("a.json", deep._replace(entry=deep.entry._replace(origin=frames)))
    lengths = [
        len(command("report", "a.json", *option)[1]) for option in (["-qq"], ["-q"], [], ["-v"])
    ]
    assert lengths == [1, 3, 9, 13]


def test_a_report_without_leaks_says_so(write, command):
    """A command that prints nothing could have failed."""
    write("a.json")
    status, (line,) = command("report", "a.json")
    assert (status, line.strip("=")) == (0, " no leaks ")


@pytest.mark.parametrize(
    "target", ["nope", "nope:x", "json", "json:", "json:.", "term:x", "term:none", "github:x"]
)
def test_a_target_that_is_not_possible_is_refused(write, refused, target):
    """The message names it, and says what is possible."""
    write("a.json")
    assert refused("report", "a.json", "--to", target).startswith(f"--to={target}: ")


def test_two_reports_to_one_file_are_refused(write, refused, command):
    """The second would replace the first; several reports can go to standard output."""
    write("a.json", leak())
    arguments = ("report", "a.json", "--to=sarif:out", "--to=junit:./out")
    assert "another report is written to this file" in refused(*arguments)
    assert not Path("out").exists()
    status, _ = command("report", "a.json", "--to=sarif:-", "--to=junit:-")
    assert status == 0


def test_a_job_summary_that_is_full_is_not_exceeded(write, refused):
    """The limit is that of the whole file, not that of each report in it."""
    write("a.json", leak())
    Path("summary.md").write_text("x" * (markdown.LIMIT - 10))
    refusal = refused("report", "a.json", "--to=markdown-append:summary.md")
    assert refusal.endswith("summary.md: there is no room left in the file")
    assert Path("summary.md").stat().st_size == markdown.LIMIT - 10


def test_a_file_that_cannot_be_written_is_named(write, refused):
    """With the reason."""
    write("a.json")
    Path("file").touch()
    assert "file is not a directory" in refused("report", "a.json", "--to=json:file/x.json")


def test_every_other_format_can_be_written(write, command):
    """To a file, added to the end of one, to standard output, or as annotations."""
    write("a.json", leak(), repository="/project")
    Path("summary.md").write_text("# Before\n")
    to = ["markdown-append:summary.md", "junit:new/junit.xml", "github", "gitlab:-"]
    status, lines = command("report", "a.json", *(f"--to={each}" for each in to))
    assert status == 0
    assert Path("summary.md").read_text().startswith("# Before\n\n")
    assert "t.py::test" in Path("summary.md").read_text()
    assert Path("new", "junit.xml").read_text().startswith("<?xml")
    assert lines[0].startswith("::")
    assert json.loads("\n".join(lines[1:]))[0]["location"]["path"] == "t.py"


# -- diff


def test_diff_lists_new_and_fixed_leaks_by_fingerprint(write, command):
    """The exit status is 1 if there are new ones."""
    write("old.json", leak("same"), leak("gone", "t.py::test[1]"), leak("gone", "t.py::test[2]"))
    write("new.json", leak("same", root="bbbbbbbb"), leak("added"), root="bbbbbbbb")
    status, lines = command("diff", "old.json", "new.json")
    assert status == 1
    assert lines == [
        "new: t.py::test left 1 file (5 bytes)",
        f"  t.py:4 in added  [{leak('added').fingerprint}]",
        "fixed: t.py::test left 2 files (10 bytes)",
        f"  t.py:4 in gone  [{leak('gone').fingerprint}]",
        lines[-1],
    ]
    assert lines[-1].strip("=") == " 1 new, 1 fixed, 1 unchanged "


def test_diff_escapes_what_a_terminal_would_obey(write, command):
    """A report may come from anywhere."""
    write("old.json")
    write("new.json", leak(reported_fingerprint="\x1b[31m"))
    _, lines = command("diff", "old.json", "new.json")
    assert r"[\x1b[31m]" in lines[1]


def test_diff_without_new_leaks_succeeds(write, command):
    """What came into the baseline since is not new, nor is it fixed if its test has failed."""
    write("old.json", leak("known"), leak("unsure"))
    write("new.json", leak("known", status="known"), leak("unsure", status="failed-test"))
    status, (line,) = command("diff", "old.json", "new.json")
    assert (status, line.strip("=")) == (0, " 0 new, 0 fixed, 1 unchanged ")


NEWER = '{"version": 2, "session": {}, "leaks": [], "kept": []}'


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", NEWER, "\\xff", '{"version": 1'])
@pytest.mark.parametrize("name", ["diff", "report"])
def test_a_file_that_is_no_report_is_refused_in_one_line(write, refused, name, text):
    """Truncated, of a newer version, or not ours: with the path and what is wrong."""
    write("good.json")
    Path("bad.json").write_text(text)
    line = refused(name, "good.json", "bad.json")
    assert line.startswith("bad.json: ")
    assert ("newer" in line) == (text == NEWER)


def test_a_file_that_cannot_be_read_is_refused(write, refused):
    """Missing, a directory, or bytes that are no text."""
    write("good.json")
    assert refused("diff", "good.json", "gone.json").startswith("gone.json: No such file")
    Path("bytes.json").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refused("diff", "bytes.json", "good.json")


# -- sweep and kept


@pytest.fixture
def place(tmp_path) -> Path:
    """The directory that contains the session roots."""
    path = tmp_path / "place"
    path.mkdir()
    return path


@pytest.fixture
def session(place):
    """Create the root of a session that has left a file, and kept directories for tests."""
    roots = []

    def session(*kept: str, alive: bool = False) -> SessionRoot:
        root = create(str(place), mode=0o700, metadata={"rootdir": "/project"})
        roots.append(root)
        worker = root.add_worker("main", 0o700)
        Path(worker.path, "left").write_bytes(b"x" * 2000)
        for name in kept:
            Path(worker.fixture_dir, name).mkdir()
            Path(worker.fixture_dir, name, "evidence").write_text("abc")
        if kept:
            paths = [os.path.join(worker.fixture_dir, name) for name in kept]
            write_index(
                root,
                [Kept(f"t.py::{os.path.basename(p)}", p, "failed", "main") for p in paths],
                rootdir="/project",
            )
        if not alive:
            lock.release(root.lock_fd)
        return root

    yield session
    for root in roots:
        lock.release(root.lock_fd)


def test_sweep_removes_what_dead_sessions_left_and_nothing_else(place, session, command):
    """What was kept stays, and what belongs to a running session."""
    dead, kept, alive = session(), session("test_a"), session(alive=True)
    (place / "tempres-foreign0").mkdir()
    before = sorted(place.rglob("*"))
    status, lines = command("sweep", "--root", str(place), "--dry-run")
    assert status == 0
    size = "(1 file, 2.0 kB), from 0 seconds ago"
    assert sorted(lines) == sorted(
        [
            f"would reclaim {dead.path} {size}",
            f"would reclaim {kept.path} {size}, except for 1 kept path",
        ]
    )
    assert sorted(place.rglob("*")) == before
    status, (line,) = command("sweep", "--root", str(place))
    assert status == 0
    assert line.startswith("reclaimed 2 dead sessions (")
    assert sorted(path.name for path in place.iterdir()) == sorted(
        ["tempres-foreign0", os.path.basename(kept.path), os.path.basename(alive.path)]
    )
    assert Path(kept.path, "main.d", "test_a", "evidence").exists()
    assert Path(alive.path, "main", "left").exists()
    for option in ([], ["--dry-run"]):
        nothing = [f"nothing to reclaim in {place}"]
        assert command("sweep", "--root", str(place), *option) == (0, nothing)


def test_kept_lists_test_age_size_and_project(place, session, command):
    """Those of the latest session first."""
    old, new = session("test_a"), session("test_b", "test_c")
    os.utime(os.path.join(old.path, "index.json"), (1e9, 1e9))
    status, lines = command("kept", "--root", str(place))
    assert status == 0
    assert lines[:6] == [
        "/project, 0 seconds ago",
        "  t.py::test_b (1 file, 3 bytes)",
        f"    {new.path}/main.d/test_b".replace("/main.d/", f"{os.sep}main.d{os.sep}"),
        "  t.py::test_c (1 file, 3 bytes)",
        f"    {os.path.join(new.path, 'main.d', 'test_c')}",
        lines[5],
    ]
    assert lines[5].startswith("/project, ")
    assert lines[5].endswith(" days ago")
    assert lines[6:8] == [
        "  t.py::test_a (1 file, 3 bytes)",
        f"    {os.path.join(old.path, 'main.d', 'test_a')}",
    ]
    assert lines[8:] == ["3 paths kept by 2 sessions, 9 bytes"]


def test_kept_paths_of_a_killed_session_are_in_its_journal(place, session, command):
    """Also the test, as long as there is no index."""
    root = session("test_a")
    path = os.path.join(root.path, "main.d", "test_a")
    record = json.dumps({"test": "t.py::from_journal", "path": path})
    Path(root.path, "index.json").rename(Path(root.path, ".kept.jsonl"))
    Path(root.path, ".kept.jsonl").write_text(f"\n{record}\n{{")
    assert "  t.py::from_journal (1 file, 3 bytes)" in command("kept", "--root", str(place))[1]


def test_without_kept_paths_that_is_said(place, session, command):
    """The session may have kept something that the user has removed."""
    root = session("test_a")
    Path(root.path, "main.d", "test_a", "evidence").unlink()
    Path(root.path, "main.d", "test_a").rmdir()
    assert command("kept", "--root", str(place)) == (0, [f"nothing is kept in {place}"])


@pytest.mark.parametrize("name", ["kept", "sweep"])
def test_a_root_that_does_not_exist_is_refused(tmp_path, refused, name):
    """It is most likely misspelt."""
    assert refused(name, "--root", str(tmp_path / "gone")).endswith("there is no such directory")


def test_the_system_temp_directory_is_the_default(place, session, command, monkeypatch):
    """Also where a test session has moved the temp location."""
    session("test_a")
    monkeypatch.setenv("PYTEST_TEMPRES_SYSTEM_TMPDIR", str(place))
    assert command("kept")[1][-1].startswith("1 path kept by 1 session")


# -- output


class Stream:
    """A stream that may be a terminal."""

    encoding = "ascii"

    def __init__(self, *, is_terminal: bool) -> None:
        self.is_terminal = is_terminal
        self.text = ""

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.is_terminal

    def write(self, text: str) -> None:
        """Write text that is ASCII."""
        self.text += text.encode("ascii").decode("ascii")


@pytest.mark.parametrize(
    "variables, is_terminal, expected",
    [
        ({}, False, False),
        ({}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"PY_COLORS": "1", "NO_COLOR": "1"}, False, True),
        ({"PY_COLORS": "0"}, True, False),
    ],
)
def test_colours_follow_the_environment(monkeypatch, variables, is_terminal, expected):
    """In the same way as in pytest."""
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stream = Stream(is_terminal=is_terminal)
    Output(stream).line("text", bold=True, red=False)
    assert stream.text == ("\x1b[1mtext\x1b[0m\n" if expected else "text\n")


def test_text_that_the_stream_cannot_encode_is_escaped():
    """A name in another script must not end the command."""
    stream = Stream(is_terminal=False)
    Output(stream).line("é")
    assert stream.text == "\\xe9\n"


def test_a_title_that_is_too_long_still_has_a_line_around_it(capsys):
    """So that the last line of the report can be recognized."""
    output = Output(sys.stdout)
    output.sep("=", "x" * 100)
    output.sep("=")
    assert capsys.readouterr().out.splitlines() == [f"= {'x' * 100} =", "=" * 80]


# -- processes


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in another process."""
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def test_the_module_runs_the_command_without_pytest(write):
    """It starts fast, and works where the tests do not run."""
    write("a.json", leak())
    code = (
        "import runpy, sys; sys.argv = ['x', 'diff', 'a.json', 'a.json']\n"
        "try: runpy.run_module('pytest_tempres', run_name='__main__')\n"
        "finally: print(sorted({'pytest', '_pytest', 'xdist'} & set(sys.modules)))"
    )
    done = run(sys.executable, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"


def test_python_m_runs_the_command():
    """With the exit status of the command."""
    done = run(sys.executable, "-m", "pytest_tempres", "diff", "gone.json", "gone.json")
    assert done.returncode == 2
    assert done.stderr.startswith("pytest-tempres: gone.json: ")


def test_the_script_is_installed():
    """It has the version of the package."""
    script = os.path.join(sysconfig.get_path("scripts"), "pytest-tempres")
    done = run(script, "--version")
    assert done.stdout == f"pytest-tempres {pytest_tempres.__version__}\n"


def test_a_reader_that_closes_the_pipe_early_causes_no_traceback(place, session):
    """As with `head`."""
    session(*(f"test_{number}" for number in range(200)))
    command = (sys.executable, "-m", "pytest_tempres", "kept", "--root", str(place))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_cannot_be_written_is_an_error_in_one_line(write):
    """The exit status is not 1, which would mean new leaks."""
    write("old.json")
    write("new.json", leak())
    command = (sys.executable, "-m", "pytest_tempres", "diff", "old.json", "new.json")
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"pytest-tempres: standard output: {os.strerror(ENOSPC)}"]


def test_without_standard_output_the_command_still_works(write, monkeypatch):
    """A shell can close the stream; the exit status says what was found."""
    write("old.json")
    write("new.json", leak())
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["diff", "old.json", "new.json"]) == 1
    sys.stdout.close()
