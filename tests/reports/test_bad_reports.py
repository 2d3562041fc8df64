from __future__ import annotations

import os
import subprocess
import sys

import pytest

RAN = "from pathlib import Path\ndef test_ran(): Path('ran').touch()\n"


def check_refused(pytester, result, *texts):
    """Check that a session was refused in one line, without a traceback, before any test."""
    lines = [line for line in result.stderr.lines if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("ERROR: --tempres-report=")
    for text in texts:
        assert text in lines[0]
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert not (pytester.path / "ran").exists()


BAD = [
    (["yaml:x"], ["term, term:none, github, json:PATH, junit:PATH", "or html:PATH"]),
    (["sarf:x"], ["did you mean sarif?"]),
    (["junit"], ["name the file: junit:PATH"]),
    (["markdown-append:"], ["name the file: markdown-append:PATH"]),
    (["github:out.txt"], ["takes no destination"]),
    (["sarif:."], ["this is a directory"]),
    (["sarif:missing/"], ["this is a directory"]),
    (["gitlab:file/x/y.json"], ["file is not a directory"]),
    (["json:x", "junit:./x"], ["junit:", "another report is written to this file"]),
    (["json:x", "json:x"], ["another report is written to this file"]),
]


@pytest.mark.parametrize("values, texts", BAD)
def test_a_wrong_report_is_refused(pytester, run_here, values, texts):
    """One message names the report and what to do, before the first test."""
    pytester.makepyfile(RAN)
    (pytester.path / "file").touch()
    result = run_here(*(f"--tempres-report={value}" for value in values))
    check_refused(pytester, result, *texts)
    pytester.makeini(f"[pytest]\ntempres_report = {' '.join(values)}\n")
    check_refused(pytester, run_here(), *texts)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows may refuse to create links")
def test_a_link_to_the_file_of_another_report_is_refused(pytester, run_here):
    """The second report would replace the first."""
    pytester.makepyfile(RAN)
    (pytester.path / "file").touch()
    (pytester.path / "link").symlink_to("file")
    result = run_here("--tempres-report=markdown:link", "--tempres-report=markdown-append:file")
    check_refused(pytester, result, "markdown-append:", "another report is written to this file")


def test_a_missing_library_is_named_with_its_extra(pytester, run_here, monkeypatch):
    """Not after the tests, when there is nothing to do about it."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    pytester.makepyfile(RAN)
    result = run_here("--tempres-report=html:report.html")
    check_refused(pytester, result, 'needs jinja2: pip install "pytest-tempres[html]"')


@pytest.mark.parametrize("name, text", [("there.json", "the file"), ("new.json", "the directory")])
def test_a_report_without_permission_is_refused(
    pytester, plain_options, without_root_override, name, text
):
    """Also a file that could be replaced: its owner has protected it."""
    pytester.makepyfile(RAN)
    place = pytester.mkdir("place")
    (place / "there.json").touch()
    (place / "there.json").chmod(0o444)
    place.chmod(0o555)
    command = [*without_root_override, sys.executable, "-m", "pytest", *plain_options]
    result = subprocess.run(
        [*command, f"--tempres-report=json:place/{name}"],
        check=False,
        capture_output=True,
        encoding="utf-8",
    )
    place.chmod(0o755)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"--tempres-report=json:place/{name}: {text}" in result.stderr
    assert "is not writable" in result.stderr
    assert not (pytester.path / "ran").exists()


def test_several_reports_can_go_to_a_device(pytester, run_here):
    """There is no file that one of them would lose."""
    pytester.makepyfile(RAN)
    result = run_here(f"--tempres-report=json:{os.devnull}", f"--tempres-report=sarif:{os.devnull}")
    assert result.ret == 0


@pytest.mark.parametrize("mode", ["xdist"], indirect=True)
def test_only_the_controller_refuses(pytester, run):
    """The message comes once, and no worker starts."""
    pytester.makepyfile(RAN)
    check_refused(pytester, run("--tempres-report=sarif:."), "this is a directory")
