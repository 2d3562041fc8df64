"""Tests of the helper `session_server`, on which most tests of inner sessions depend."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are forked only on Linux")

FORKED = (sys.executable, "-m", "pytest")
#: Any other command starts a new interpreter.
STARTED = (sys.executable, "-B", "-m", "pytest")

DESCRIBE = """
import atexit, json, os, signal, sys

def describe():
    umask = os.umask(0)
    os.umask(umask)
    return {
        "argv": sys.argv,
        "path": list(dict.fromkeys(sys.path)),
        "main": sys.modules["__main__"].__spec__.name,
        "cwd": os.getcwd(),
        "env": dict(os.environ),
        "umask": umask,
        "stdin": sys.stdin.read(),
        "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) < 3),
        "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "names": [name for name in sys.modules if name.startswith("pytest_tempres")],
    }

BEFORE = [name for name in sys.modules if name.startswith("pytest_tempres")]

def pytest_sessionfinish(exitstatus):
    found = {"before": BEFORE, **describe()}
    atexit.register(lambda: open("found.json", "w").write(json.dumps(found)))
"""


def test_forked_session_is_like_a_started_one(pytester, plain_options, system_tmp):
    """Its arguments, paths, environment, umask, streams and imported modules are the same."""
    pytester.makepyfile(describe=DESCRIBE, test_it="def test_it(temp_dir): assert 0")
    found = []
    before = os.umask(0o027)
    try:
        for start in (FORKED, STARTED):
            result = pytester.run(*start, *plain_options, "-s", "-p", "describe")
            assert result.ret == 1
            found.append(json.loads((pytester.path / "found.json").read_text()))
    finally:
        os.umask(before)
    for each in found:
        # These values differ between sessions.
        each["env"] = {
            name: value for name, value in each["env"].items() if "/tempres-" not in value
        }
    for name, value in found[0].items():
        assert value == found[1][name], name
    assert found[0]["umask"] == 0o027


def test_exit_status_of_a_killed_session(pytester, plain_options, system_tmp):
    """It is the negative number of the signal, as for `subprocess.Popen`."""
    pytester.makepyfile("import os\ndef test_it(): os.kill(os.getpid(), 9)")
    assert pytester.run(*FORKED, *plain_options).ret == -signal.SIGKILL


def test_session_that_takes_too_long_is_killed(pytester, plain_options, system_tmp):
    """A time limit ends the session itself, not only the wait for it."""
    pytester.makepyfile(
        """
        import os, time

        def test_it():
            with open("pid", "w") as file:
                file.write(str(os.getpid()))
            time.sleep(300)
        """
    )
    with pytest.raises(pytester.TimeoutExpired):
        pytester.run(*FORKED, *plain_options, timeout=5)
    pid = int((pytester.path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
