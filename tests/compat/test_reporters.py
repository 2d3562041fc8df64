from __future__ import annotations

from html import unescape
import json
from pathlib import Path
import re

import pytest

FAILS = """
    import tempfile

    def test_fails(temp_dir):
        (temp_dir / "out.log").write_text("12345")
        assert False

    def test_fails_in_teardown(temp_resources, temp_dir, request):
        (temp_dir / "late.log").write_text("1")
        request.addfinalizer(lambda: 1 / 0)

    def test_passes(temp_dir): pass
    """


@pytest.fixture(params=[(), ("-n1",)], ids=["plain", "xdist"])
def distribution(request):
    """Run the tests in this process and in a worker."""
    if request.param:
        pytest.importorskip("xdist")
    return request.param


def check(text: str, name: str, size: str) -> None:
    """Check that *text* has a kept path and the listing of its file."""
    assert re.search(rf"kept: .+{name}-\w+\n  1 file, {size}\n", text), text


def test_pytest_html(pytester, run_plain, distribution):
    """The entry of a failed test has the kept path and the first files in it."""
    pytest.importorskip("pytest_html")
    pytester.makepyfile(FAILS)
    options = ("--html=report.html", "--self-contained-html", *distribution)
    run_plain(*options, plugins=("html", "metadata")).assert_outcomes(passed=2, failed=1, errors=1)
    page = (pytester.path / "report.html").read_text(encoding="utf-8")
    data = json.loads(unescape(re.search('data-jsonblob="([^"]*)"', page)[1]))
    entries = [entry for found in data["tests"].values() for entry in found]
    logs = {entry["testId"].partition("::")[2]: unescape(entry["log"]) for entry in entries}
    check(logs["test_fails"], "test_fails", "5 bytes")
    check(logs["test_fails_in_teardown::teardown"], "test_fails_in_teardown", "1 byte")
    assert "kept" not in logs["test_passes"]


def test_allure(pytester, run_plain, distribution):
    """The result of a failed test has an attachment with the kept path and its first files."""
    pytest.importorskip("allure_pytest")
    pytester.makepyfile(FAILS)
    options = ("--alluredir=results", *distribution)
    ran = run_plain(*options, plugins=("allure_pytest",))
    ran.assert_outcomes(passed=2, failed=1, errors=1)
    attached = {}
    for path in Path("results").glob("*-result.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        attached[result["name"]] = [
            Path("results", each["source"]).read_text(encoding="utf-8")
            for each in result.get("attachments", ())
            if each["name"] == "temporary resources"
        ]
    check(*attached.pop("test_fails"), "test_fails", "5 bytes")
    check(*attached.pop("test_fails_in_teardown"), "test_fails_in_teardown", "1 byte")
    assert attached == {"test_passes": []}


@pytest.mark.parametrize("reporter", ["html", "allure_pytest"])
def test_recipe_that_attaches_files(pytester, run_plain, reporter):
    """The example in the documentation adds a file of the failed test to its entry."""
    pytest.importorskip("pytest_html" if reporter == "html" else reporter)
    recipes = Path(__file__).parents[2] / "docs" / "recipes.md"
    section = recipes.read_text(encoding="utf-8").partition("## Attach files of a failed test")[2]
    examples = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    (example,) = (each for each in examples if reporter.removesuffix("_pytest") in each)
    pytester.makeconftest(example)
    pytester.makepyfile(
        """
        def test_fails(temp_dir):
            (temp_dir / "page.png").write_bytes(b"\\x89PNG")
            assert False
        """
    )
    if reporter == "html":
        options = ("--html=results/report.html", "--self-contained-html")
        run_plain(*options, plugins=("html", "metadata"))
        page = Path("results", "report.html").read_text(encoding="utf-8")
        assert "data:image/png;base64,iVBORw==" in unescape(page)
    else:
        run_plain("--alluredir=results", plugins=("allure_pytest",))
        found = Path("results").glob("*-attachment.png")
        assert [path.read_bytes() for path in found] == [b"\x89PNG"]
