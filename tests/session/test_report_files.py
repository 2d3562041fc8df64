from __future__ import annotations

from importlib.util import find_spec
import json
import os
from pathlib import Path
import stat
import sys
import threading
from xml.etree import ElementTree as ET

import pytest
from report_checks import check_github
from report_checks import check_gitlab
from report_checks import check_junit
from report_checks import check_markdown
from report_checks import check_sarif
from report_schema import read_report

from pytest_tempres.session.report_files import find_repository

TESTS = """
    import os, tempfile
    import pytest

    class TestIt:
        @pytest.mark.parametrize("name", ["a::b", "c[d]", "\\x1b", "\\xe9"])
        def test_leaks(self, name):
            tempfile.mkdtemp(prefix="left-")

    def test_fails(temp_dir):
        assert 0
"""
EVERY = {
    "json": "report.json",
    "junit": "report.xml",
    "markdown": "report.md",
    "markdown-append": "appended.md",
    "gitlab": "gitlab.json",
    "sarif": "report.sarif",
}
if find_spec("jinja2") is not None:
    EVERY["html"] = "report.html"
ALL = [f"--tempres-report={kind}:out/{name}" for kind, name in EVERY.items()]


@pytest.fixture
def out(pytester) -> Path:
    """The directory of the reports, which does not exist yet."""
    return pytester.path / "out"


def annotations(result):
    """Return the workflow commands that an inner session printed."""
    return check_github([line for line in result.stdout.lines if line.startswith("::")])


def test_every_report_is_written(pytester, run, out, nothing_left):
    """All of one session, and the directory is created; they agree on the number of leaks."""
    pytester.makepyfile(TESTS)
    result = run(*ALL, "--tempres-report=github", "--tempres-keep=none", "--junitxml=pytest.xml")
    assert {path.name for path in out.iterdir()} == set(EVERY.values())
    report = read_report(out / "report.json")
    assert report["totals"]["leaks"] == 4
    junit = check_junit((out / "report.xml").read_text(encoding="utf-8"))
    assert {case.find("failure") is None for case in junit.iter("testcase")} == {False}
    assert "4 leaks" in check_markdown((out / "report.md").read_text(encoding="utf-8"))
    assert (out / "appended.md").read_bytes() == (out / "report.md").read_bytes()
    issues = check_gitlab((out / "gitlab.json").read_text(encoding="utf-8"))
    results = check_sarif((out / "report.sarif").read_text(encoding="utf-8"))["results"]
    line = {("test_every_report_is_written.py", 7)}
    assert {(i["location"]["path"], i["location"]["lines"]["begin"]) for i in issues} == line
    assert len(issues) == len(results) == len(annotations(result)) == 4
    # The same names, whatever pytest makes of them, and its own report is not changed.
    own = cases(ET.parse(pytester.path / "pytest.xml").getroot())
    assert cases(junit) < own
    assert len(own) == 5
    nothing_left()


def cases(root):
    """Return the class names and the names of all test cases."""
    return {(case.get("classname"), case.get("name")) for case in root.iter("testcase")}


@pytest.mark.parametrize("mode", ["xdist"], indirect=True)
def test_a_crashed_worker_is_in_every_report(pytester, run, out):
    """What the crashed test left is kept, and the reports are written by the controller alone."""
    pytester.makepyfile(
        """
        import os, tempfile

        def test_crashes(temp_dir):
            tempfile.mkdtemp(prefix="left-")
            os._exit(3)

        def test_leaks():
            tempfile.mkdtemp(prefix="left-")
        """
    )
    result = run(*ALL, "--tempres-report=github", "--max-worker-restart=0")
    report = read_report(out / "report.json")
    assert "crashed" in {kept["reason"] for kept in report["kept"]}
    check_junit((out / "report.xml").read_text(encoding="utf-8"))
    markdown = (out / "report.md").read_text(encoding="utf-8")
    assert all(kept["path"] in markdown for kept in report["kept"])
    check_markdown(markdown)
    leaks = report["totals"]["leaks"]
    assert len(check_gitlab((out / "gitlab.json").read_text(encoding="utf-8"))) == leaks
    assert len(check_sarif((out / "report.sarif").read_text(encoding="utf-8"))["results"]) == leaks
    assert len(annotations(result)) == leaks


def test_reports_of_an_interrupted_session_are_written(pytester, run, out):
    """Ctrl-C ends the tests and not the reports."""
    pytester.makepyfile(
        """
        import tempfile

        def test_leaks():
            tempfile.mkdtemp(prefix="left-")

        def test_interrupts():
            raise KeyboardInterrupt
        """
    )
    result = run(*ALL, "--dist=loadfile")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert {path.name for path in out.iterdir()} == set(EVERY.values())


def test_a_report_that_cannot_be_written_costs_only_itself(pytester, run_plain, out):
    """It is one warning, also if the format itself fails, and the others are written."""
    pytester.makeconftest(
        """
        from pytest_tempres.reports import gitlab

        def fails(summary):
            raise RuntimeError("here")
        gitlab.render = fails
        """
    )
    pytester.makepyfile("def test_it(pytestconfig): pytestconfig.rootpath.joinpath('f').touch()")
    result = run_plain("--tempres-report=json:f/report.json", *ALL)
    result.assert_outcomes(passed=1, warnings=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines_random(
        [
            "*the JSON report was not written: *",
            "*the GitLab report was not written: RuntimeError('here')",
        ]
    )
    assert {path.name for path in out.iterdir()} == set(EVERY.values()) - {"gitlab.json"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_a_report_replaces_the_file_and_keeps_its_mode(pytester, run_plain, out):
    """A reader sees the old report or the new one; a link remains a link."""
    out.mkdir()
    (out / "report.json").write_text("old", encoding="utf-8")
    (out / "report.json").chmod(0o640)
    (out / "link.json").symlink_to("report.json")
    pytester.makepyfile("def test_it(): pass")
    with (out / "report.json").open(encoding="utf-8") as before:
        run_plain("--tempres-report=json:out/link.json")
        assert before.read() == "old"
    read_report(out / "report.json")
    assert (out / "link.json").is_symlink()
    assert sorted(os.listdir(out)) == ["link.json", "report.json"]
    assert stat.S_IMODE((out / "report.json").stat().st_mode) == 0o640


def test_a_session_adds_its_summary_to_a_file(pytester, run_plain, out):
    """A step of a job may run pytest several times; a correction at exit replaces the section."""
    out.mkdir()
    (out / "summary.md").write_text("# Mine\n", encoding="utf-8")
    pytester.makepyfile(
        """
        import atexit, shutil, tempfile

        class Far:
            def __init__(self, path): self.hidden = {"a": {"b": {"c": [path]}}}
            def clean(self): shutil.rmtree(self.hidden["a"]["b"]["c"][0])

        def test_leaks(): tempfile.mkdtemp()
        def test_removed_at_exit(): atexit.register(Far(tempfile.mkdtemp()).clean)
        """
    )
    for _ in range(2):
        run_plain("--tempres-report=markdown-append:out/summary.md")
    text = (out / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("# Mine\n\n### pytest-tempres: 1 leak, 0 bytes; 1 removed at exit\n")
    assert text.count("###") == 2
    check_markdown(text)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_a_pipe_is_written_to(pytester, run_plain):
    """It is not replaced by a file."""
    pipe = pytester.path / "pipe"
    os.mkfifo(pipe)
    texts = []
    reader = threading.Thread(target=lambda: texts.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    pytester.makepyfile("def test_it(): pass")
    run_plain("--tempres-report=json:pipe")
    reader.join()
    assert json.loads(texts[0])["version"] == 1
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_a_pipe_without_a_reader_does_not_block(pytester, run_plain):
    """The session ends with a warning."""
    os.mkfifo(pytester.path / "pipe")
    pytester.makepyfile("def test_it(): pass")
    result = run_plain("--tempres-report=json:pipe")
    result.assert_outcomes(passed=1, warnings=1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_standard_output_is_written_to(pytester, run_plain):
    """The output of pytest, redirected to a file here, is not lost."""
    pytester.makepyfile("def test_it(): pass")
    result = run_plain("--tempres-report=gitlab:/dev/stdout")
    assert "[]" in result.stdout.lines
    result.stdout.fnmatch_lines(["*test session starts*", "*1 passed*"])


@pytest.mark.parametrize("args", [(), ("-q",), ("-qq",), ("--no-summary",), ("-p", "no:terminal")])
def test_annotations_are_printed_once(pytester, run, monkeypatch, args):
    """Each at the start of a line, whatever else pytest prints."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    # The inner session takes itself for one that a test has started.
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    pytester.makepyfile("import tempfile\ndef test_leaks(): tempfile.mkdtemp()\n")
    result = run(*args)
    ((level, properties, message),) = annotations(result)
    assert level == "warning"
    assert properties["file"] == "test_annotations_are_printed_once.py"
    assert properties["line"] == "2"
    assert message.startswith(
        "test_annotations_are_printed_once.py::test_leaks left 1 directory (empty):\n"
    )
    assert not annotations(run(*args, "--tempres-report=term"))


@pytest.mark.parametrize("mode", ["fail", "strict"])
def test_leaks_that_fail_the_session_are_errors(pytester, run, mode):
    """Also if a test has failed too."""
    pytester.makepyfile(
        "import tempfile\ndef test_leaks(): tempfile.mkdtemp()\ndef test_fails(): assert 0\n"
    )
    for args in ((), ("-k", "leaks")):
        result = run("--tempres-report=github", f"--tempres-leaks={mode}", *args)
        assert result.ret == 1
        assert {level for level, _, _ in annotations(result)} == {"error"}


def test_only_ten_annotations_are_printed(pytester, run_plain):
    """GitHub shows no more; a notice counts the others."""
    pytester.makepyfile(
        """
        import pytest, tempfile

        @pytest.mark.parametrize("i", range(13))
        def test_leaks(i):
            tempfile.mkdtemp()
        """
    )
    found = annotations(run_plain("--tempres-report=github"))
    assert [level for level, _, _ in found] == ["warning"] * 10 + ["notice"]
    assert found[-1][2] == "3 more leaks from 3 places are not annotated"


def test_paths_are_relative_to_the_repository(pytester, run_plain, out):
    """Rootdir may be a directory in it."""
    (pytester.path / ".git").mkdir()
    project = pytester.mkdir("project")
    (project / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (project / "test_it.py").write_text(
        "import tempfile\ndef test_leaks(): tempfile.mkdtemp()\n", encoding="utf-8"
    )
    run_plain("--tempres-report=gitlab:out/gitlab.json", "project")
    (issue,) = check_gitlab((out / "gitlab.json").read_text(encoding="utf-8"))
    assert issue["location"]["path"] == "project/test_it.py"


def test_the_repository_is_found(tmp_path, monkeypatch):
    """By its `.git`, else by the variables of CI systems, else it is rootdir."""
    rootdir = tmp_path / "checkout" / "project"
    rootdir.mkdir(parents=True)
    assert find_repository(str(rootdir)) == str(rootdir)
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "other"))
    assert find_repository(str(rootdir)) == str(rootdir)
    monkeypatch.setenv("CI_PROJECT_DIR", str(tmp_path))
    assert find_repository(str(rootdir)) == str(tmp_path)
    (tmp_path / "checkout" / ".git").write_text("gitdir: elsewhere\n", encoding="utf-8")
    assert find_repository(str(rootdir)) == str(tmp_path / "checkout")
