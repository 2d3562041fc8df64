from __future__ import annotations

import json
import os
import stat
import sys

from forking import QUIET
from forking import left_by
from forking import noise
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

#: A uid that no user has.
OTHER = 64_999


@pytest.fixture
def open_place(temp_dir, monkeypatch):
    """A temp directory for inner sessions that every user may reach."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    temp_dir.chmod(0o755)
    above = [parent for parent in temp_dir.parents if not parent.stat().st_mode & stat.S_IXOTH]
    if above:
        pytest.skip(f"others may not pass through {above[-1]}")
    monkeypatch.setenv("TMPDIR", str(temp_dir))
    return temp_dir


#: What another user may do, by the mode of the root.
ALLOWED = {
    "0700": "",
    "0711": "enter given",
    "0755": "enter given list list-root",
    "1777": "enter given list create",
}


@pytest.mark.parametrize("mode", ALLOWED)
def test_permissions_of_a_test_that_changes_its_user(pytester, run_plain, open_place, mode):
    """A test that becomes another user can do what the root mode allows, and no more."""
    pytester.makeini(f"[pytest]\ntempres_root_mode = {mode}\n")
    pytester.makepyfile(
        f"""
        import os, subprocess, tempfile
        from pathlib import Path
        HERE = Path(tempfile.gettempdir())
        MINE = HERE / "mine"

        def attempts(given):
            return {{
                "enter": lambda: MINE.read_text(),
                "given": lambda: (given / "file").read_text(),
                "list": lambda: os.listdir(HERE),
                "list-root": lambda: os.listdir(HERE.parent),
                "list-given": lambda: os.listdir(given.parent),
                "create": lambda: tempfile.mkdtemp(prefix="other-"),
                "create-root": lambda: os.mkdir(HERE.parent / "x"),
                "create-given": lambda: os.mkdir(given.parent / "x"),
                "remove": lambda: MINE.unlink(),
                "remove-root": lambda: (HERE.parent / ".lock").unlink(),
                "read-lock": lambda: (HERE.parent / ".lock").open("r+"),
            }}

        def possible(attempts):
            done = []
            for name, attempt in attempts.items():
                try:
                    attempt()
                    done.append(name)
                except PermissionError:
                    pass
            return " ".join(done)

        def test_forks(temp_dir):
            MINE.write_text("mine")
            MINE.chmod(0o644)
            (temp_dir / "file").write_text("given")
            temp_dir.chmod(0o755)
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.setgroups([])
                os.setgid({OTHER})
                os.setuid({OTHER})
                os.write(write, possible(attempts(temp_dir)).encode())
                os._exit(0)
            os.waitpid(pid, 0)
            os.close(write)
            assert os.read(read, 999).decode() == {ALLOWED[mode]!r}
            MINE.unlink()

        def test_starts():
            command = ["/bin/sh", "-c", 'mkdir "$TMPDIR/started-1"']
            process = subprocess.run(command, user={OTHER}, group={OTHER}, extra_groups=[])
            assert (process.returncode == 0) is ("create" in {ALLOWED[mode]!r})
        """
    )
    report = pytester.path / "report.json"
    result = run_plain(f"--tempres-report=json:{report}", *QUIET)
    result.assert_outcomes(passed=2)
    assert not noise(result)
    left = left_by(json.loads(report.read_text()))
    created = [("test_forks", "other"), ("test_starts", "started")]
    assert left == (created if "create" in ALLOWED[mode] else [])
    assert list(open_place.glob("tempres-*")) == []


def test_leak_of_another_user_that_cannot_be_removed(
    pytester, open_place, without_root_override, plain_options
):
    """It is reported once and changes nothing else."""
    pytester.makeini("[pytest]\ntempres_root_mode = 1777\n")
    pytester.makepyfile(
        f"""
        import subprocess, tempfile
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_starts(number):
            script = 'mkdir "$TMPDIR/other-$0" && touch "$TMPDIR/other-$0/file"'
            command = ["/bin/sh", "-c", script, str(number)]
            subprocess.run(command, user={OTHER}, group={OTHER}, extra_groups=[], check=True)
        """
    )
    args = (*plain_options, "-p", "no:cacheprovider", "-W", "error")
    result = pytester.run(*without_root_override, sys.executable, "-m", "pytest", *args)
    result.assert_outcomes(passed=3)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["*::test_starts?0?", "  left 1 directory*", "*3 leaks from 3 tests*"]
    )
    said = [line for line in (*result.outlines, *result.errlines) if "could not remove" in line]
    assert len(said) == 1
    assert "/other-" in said[0]
    assert "Permission denied" in said[0] or "not permitted" in said[0]
    assert "Traceback" not in result.stderr.str()
    assert len(list(open_place.glob("tempres-*/main/other-*"))) == 3
