from __future__ import annotations

import os
import re

from fault_sessions import kept_on_disk
from fault_sessions import run_checked
import pytest

#: Stops a function of `os` or `open` at paths that match, as a full disk would.
INJECT = r"""
import errno, io, os, re
NAME, PATTERN = os.environ["FAULT"].split(" ", 1)

def failing(original):
    def wrapper(path, *args, **kwargs):
        if isinstance(path, (str, int)) and re.search(PATTERN, str(path)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return original(path, *args, **kwargs)
    return wrapper

place = io if NAME == "open" else os
name = NAME.rpartition(".")[2]
original = getattr(place, name)
replacement = failing(original)
setattr(place, name, replacement)
for functions in (os.supports_dir_fd, os.supports_follow_symlinks):
    if original in functions:
        functions.add(replacement)
"""

START = [
    r"os.mkdir /tempres-[a-z0-9_]{8}$",
    r"os.chmod ^\d+$|/tempres-[a-z0-9_]{8}$",
    r"os.open (^|/)\.lock$",
    r"os.open (^|/)\.tempres\.json$",
    r"os.mkdir (^|/)main$",
    r"os.mkdir (^|/)main\.d$",
]
LATER = {
    r"os.mkdir /main\.d/test_given": "",
    r"os.open /main\.d/test_named": "",
    r"os.open (^|/)index\.json\.new$": "the index could not be written: ",
    r"os.replace (^|/)index\.json\.new$": "the index could not be written: ",
    r"os.open /\.tempres-[^/]*\.new$": "the JSON report was not written: ",
    r"os.replace /\.tempres-[^/]*\.new$": "the JSON report was not written: ",
    r"open /base\.txt\.new$": "was not written: ",
    r"os.replace /base\.txt\.new$": "was not written: ",
}


@pytest.fixture
def faulty(pytester, run_plain, monkeypatch):
    """Run an inner session in which one kind of write fails."""
    pytester.makepyfile(
        inject=INJECT,
        test_it="""
        import tempfile

        def test_given(temp_dir): pass
        def test_named(named_temp_file): pass
        def test_leaks(): tempfile.mkdtemp()
        def test_fails(): assert 0
        def test_evidence(temp_resources):
            temp_resources.dir(prefix="evidence-")
            assert 0
        """,
    )

    def faulty(fault):
        monkeypatch.setenv("FAULT", fault)
        options = ("--tempres-baseline=base.txt", "--tempres-update-baseline=all")
        report = f"--tempres-report=json:{pytester.path / 'report.json'}"
        return run_checked(run_plain, "-p", "inject", report, *options)

    return faulty


@pytest.mark.parametrize("fault", START)
def test_start_that_cannot_write(faulty, outcomes, system_tmp, fault):
    """Whatever part of the root cannot be created, there is one warning, and nothing is left."""
    if fault.startswith("os.chmod") and os.geteuid() != 0:
        pytest.skip("only for root has the session's directory a mode of its own")
    _, warnings = faulty(fault)
    (line,) = warnings
    assert re.search("temporary resources are disabled: .*No space left on device", line)
    assert outcomes() == {
        "test_given": ["error"],
        "test_named": ["error"],
        "test_leaks": [],
        "test_fails": ["failure"],
        "test_evidence": ["error"],
    }
    assert not list(system_tmp.glob("tempres-*"))


@pytest.mark.parametrize("fault", LATER)
def test_later_write_that_fails(pytester, faulty, outcomes, system_tmp, fault):
    """It affects only the fixture or report that it was for, with one warning."""
    _, warnings = faulty(fault)
    said = LATER[fault]
    assert len(warnings) == bool(said)
    assert all(said in line and "No space left on device" in line for line in warnings)
    failing = {"test_given": "error", "test_named": "error"}
    assert outcomes() == {
        "test_leaks": [],
        "test_fails": ["failure"],
        "test_evidence": ["failure"],
        **{name: ["error"] if name in fault else [] for name in failing},
    }
    assert kept_on_disk(system_tmp) == ["evidence-"]
    assert not list(system_tmp.glob("tempres-*/*.new")) + list(pytester.path.glob("*.new"))
    assert (pytester.path / "base.txt").exists() is ("base" not in fault)


def test_worker_root_that_cannot_be_created(pytester, run, outcomes, monkeypatch, nothing_left):
    """The worker runs its tests all the same, and there is one warning."""
    pytest.importorskip("xdist", reason="pytest-xdist is optional, and not installed here")
    pytester.makepyfile(inject=INJECT, test_it="def test_it(): pass")
    # The second try has six random characters for a name.
    monkeypatch.setenv("FAULT", r"os.mkdir (^|/)(gw0|[a-z0-9_]{6})$")
    _, warnings = run_checked(run, "-n1", "-p", "inject")
    (line,) = warnings
    assert "temporary resources are disabled: " in line
    assert outcomes() == {"test_it": []}
    nothing_left()
