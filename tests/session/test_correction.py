from __future__ import annotations

import json

import pytest

#: A handler with an opaque object that refers to a path.
SOURCE = """
    import atexit, os, shutil, tempfile
    HERE = os.environ["PLACE"]

    class Far:
        def __init__(self, path): self.hidden = {"a": {"b": {"c": [path]}}}
        def clean(self): shutil.rmtree(self.hidden["a"]["b"]["c"][0])

    def test_inside(): atexit.register(Far(tempfile.mkdtemp(prefix="in-")).clean)
    def test_outside(): atexit.register(Far(tempfile.mkdtemp(prefix="out-", dir=HERE)).clean)
    def test_leaks(): tempfile.mkdtemp(prefix="left-")
    def test_leaks_outside(): tempfile.mkdtemp(prefix="stays-", dir=HERE)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory outside the temp location."""
    path = tmp_path / "place"
    path.mkdir()
    monkeypatch.setenv("PLACE", str(path))
    return path


def test_report_is_corrected_if_an_exit_handler_removed_a_leak(
    pytester, run_plain, place, nothing_left
):
    """The exit handler succeeds, standard error has one line, and the JSON report is corrected."""
    pytester.makepyfile(SOURCE)
    result = run_plain("--tempres-report=json:report.json")
    assert "Traceback" not in result.stderr.str()
    lines = result.stderr.lines
    start = lines.index("pytest-tempres: reported as leaks, but removed at exit:")
    named = sorted(line.rpartition("/")[2].partition("-")[0] for line in lines[start + 1 :] if line)
    assert named == ["in", "out"]
    report = json.loads((pytester.path / "report.json").read_text())
    found = {leak["owner"]["id"].rpartition("::")[2]: leak["status"] for leak in report["leaks"]}
    assert found == {
        "test_inside": "deferred",
        "test_outside": "deferred",
        "test_leaks": "leak",
        "test_leaks_outside": "leak",
    }
    assert report["totals"]["leaks"] == 2
    assert [path.name.partition("-")[0] for path in place.iterdir()] == ["stays"]
    nothing_left()


def test_closed_standard_error_does_not_stop_the_correction(
    pytester, run_plain, place, nothing_left
):
    """A suite may close or remove standard error; nothing else changes."""
    source = SOURCE.partition("    def test_outside")[0]
    pytester.makepyfile(source + "    def test_gone():\n        import sys; sys.stderr = None\n")
    result = run_plain("-s", "--tempres-report=json:report.json")
    assert result.ret == 0
    assert "Traceback" not in result.stderr.str() + result.stdout.str()
    report = json.loads((pytester.path / "report.json").read_text())
    assert [leak["status"] for leak in report["leaks"]] == ["deferred"]
    nothing_left()


def test_nothing_is_printed_if_nothing_was_corrected(pytester, run_plain, place, nothing_left):
    """Without a late exit handler standard error stays empty."""
    text = SOURCE.partition("    def test_inside")[0] + "    def test_leaks(): tempfile.mkdtemp()"
    pytester.makepyfile(text)
    result = run_plain()
    assert result.stderr.str() == ""
    result.stdout.fnmatch_lines(["*= 1 leak from 1 test, 0 bytes; removed =*"])
    nothing_left()


def test_json_report_is_corrected_without_redirect_too(pytester, run_plain, place):
    """Nothing is removed by the plugin there, so exit handlers may remove all of it."""
    pytester.makeini("[pytest]\ntempres_redirect = false")
    pytester.makepyfile(SOURCE)
    run_plain("--tempres-report=json:report.json", "-k", "outside or inside")
    report = json.loads((pytester.path / "report.json").read_text())
    assert (report["totals"]["leaks"], report["totals"]["deferred"]) == (1, 2)


@pytest.mark.parametrize("hook", ["pytest_unconfigure(config)", "pytest_sessionfinish()"])
def test_report_is_corrected_if_another_plugin_removed_a_leak(
    pytester, run_plain, hook, nothing_left
):
    """What a plugin removes before the verdict is not reported; a later removal is corrected."""
    body = "yield" if "finish" in hook else "pass"
    mark = "@pytest.hookimpl(wrapper=True, tryfirst=True)" if "finish" in hook else ""
    pytester.makeconftest(
        f"""
        import os
        import pytest
        MADE = []
        {mark}
        def {hook}:
            {body}
            os.rmdir(MADE[0])
        """
    )
    pytester.makepyfile(
        """
        import tempfile
        from conftest import MADE
        def test_it(): MADE.append(tempfile.mkdtemp())
        def test_leaks(): tempfile.mkdtemp()
        """
    )
    result = run_plain("--tempres-report=json:report.json")
    result.stderr.fnmatch_lines(["pytest-tempres: reported as leaks, but removed at exit:"])
    report = json.loads((pytester.path / "report.json").read_text())
    assert report["totals"]["leaks"] == 1
    nothing_left()
