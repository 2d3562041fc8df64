from __future__ import annotations

from importlib.metadata import entry_points
import json
from pathlib import Path
from typing import Any
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest

from pytest_tempres.primitives._rmtree import remove_tree

#: What takes part in every inner session, where it is installed.
ALWAYS = {"tempres", "xdist", "xdist.looponfail"}

#: Our fixtures for the session without the plugin.
STAND_IN = """
import tempfile
from pathlib import Path
import pytest

class Factory:
    file = staticmethod(tempfile.TemporaryFile)

    def dir(self):
        return Path(tempfile.mkdtemp())

@pytest.fixture
def temp_dir():
    return Path(tempfile.mkdtemp())

@pytest.fixture
def temp_resources():
    return Factory()

@pytest.fixture(scope="module")
def temp_resources_module():
    return Factory()
"""


class InnerSession(NamedTuple):
    """An inner session that the plugin took part in."""

    result: pytest.RunResult
    report: dict[str, Any]

    @property
    def leaks(self) -> list[tuple[str, str]]:
        """The owner and the name of each leak, in order."""
        return sorted(
            (leak["owner"]["id"], Path(leak["path"]).name)
            for leak in self.report["leaks"]
            if leak["status"] == "leak"
        )

    @property
    def output(self) -> str:
        """All that was printed."""
        return f"{self.result.stdout}\n{self.result.stderr}"


def alone_with(plugins: tuple[str, ...]) -> list[str]:
    """Return the options that turn all other plugins off that are installed."""
    installed = {point.name for point in entry_points(group="pytest11")}
    return [
        part for name in sorted(installed - ALWAYS - set(plugins)) for part in ("-p", f"no:{name}")
    ]


@pytest.fixture
def run_plain(pytester, system_tmp):
    """Run an inner session with no other plugin than those named."""

    def run_plain(*args: str, plugins: tuple[str, ...] = ()) -> pytest.RunResult:
        return pytester.runpytest_subprocess(*alone_with(plugins), *args)

    return run_plain


@pytest.fixture
def alike(pytester, system_tmp, nothing_left):
    """Run an inner session without and with the plugin, which must change nothing.

    Tests end as they did, there is no internal error, no warning of ours but the
    expected one, and the temp directory is empty afterwards.
    """
    pytester.makepyfile(stand_in=STAND_IN)

    def alike(
        *args: str,
        plugins: tuple[str, ...] = (),
        ours: tuple[str, ...] = (),
        warns: str = "",
    ) -> InnerSession:
        args = (*alone_with(plugins), *args)
        without = ("-p", "no:tempres", "-p", "stand_in")
        plain = pytester.runpytest_subprocess(*args, *without, "--junitxml=plain.xml")
        for path in system_tmp.iterdir():
            assert not remove_tree(str(path))
        report = pytester.path / "report.json"
        options = (*ours, f"--tempres-report=json:{report}", "--junitxml=ours.xml")
        result = pytester.runpytest_subprocess(*args, *options)
        ran = InnerSession(result, json.loads(report.read_text()))
        assert _outcomes(pytester.path / "ours.xml") == _outcomes(pytester.path / "plain.xml")
        assert result.ret == plain.ret
        assert "INTERNALERROR" not in ran.output
        assert "internal error" not in ran.output
        assert "leaks may be missed" not in ran.output
        warnings = {line.strip() for line in ran.output.splitlines() if "Warning: " in line}
        own = {line for line in warnings if "Tempres" in line}
        assert len(own) == bool(warns), own
        assert all(warns in line for line in own)
        nothing_left()
        return ran

    return alike


def _outcomes(junit: Path) -> list[tuple[str, ...]]:
    """Return the outcomes of each test; a test that is reported twice counts twice."""
    return sorted(
        (
            case.get("classname", ""),
            case.get("name", ""),
            *sorted(child.tag for child in case if child.tag in ("error", "failure", "skipped")),
        )
        for case in ET.parse(junit).iter("testcase")
    )
