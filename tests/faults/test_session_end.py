from __future__ import annotations

import json
import os
import sys

from fault_sessions import run_checked
import pytest

from pytest_tempres.workspace.proof import INDEX

TESTS = """
import tempfile

def test_leaks():
    tempfile.mkdtemp(prefix="left-")

def test_fails(temp_dir):
    (temp_dir / "file").touch()
    tempfile.mkdtemp(prefix="evidence-")
    assert 0
"""
LEAKS = "import tempfile\n\ndef test_leaks(temp_dir):\n    tempfile.mkdtemp()\n"


@pytest.fixture
def kept(system_tmp):
    """Return the names of what the index of the last session names, and check that it is there."""

    def kept():
        roots = [path for path in system_tmp.iterdir() if path.name.startswith("tempres-")]
        (root,) = roots
        index = json.loads((root / INDEX).read_text())["kept"]
        found = [path for paths in index.values() for path in paths]
        assert all(os.path.isdir(path) for path in found)
        # Nothing else is left but the two files that prove whose it is.
        assert {path.name for path in root.iterdir() if path.is_file()} == {
            *(".lock", ".tempres.json", INDEX),
        }
        assert sorted(map(str, root.glob("*/*"))) == sorted(found)
        return sorted(os.path.basename(path).partition("-")[0][:10] for path in found)

    return kept


RAISES = {
    "an error": "@pytest.hookimpl\ndef {hook}: raise ValueError('theirs')",
    "exit": "@pytest.hookimpl\ndef {hook}: pytest.exit('done', returncode=0)",
    "exit without a number": "@pytest.hookimpl\ndef {hook}: pytest.exit('done')",
    "Ctrl-C": "@pytest.hookimpl\ndef {hook}: raise KeyboardInterrupt",
    "the first wrapper": (
        "@pytest.hookimpl(wrapper=True, tryfirst=True)\n"
        "def {hook}:\n    pytest.exit('done', returncode=0)\n    yield"
    ),
}


def raising(what):
    """Return a conftest that raises at the end; in a worker it would look like a crash."""
    code = RAISES[what].format(hook="pytest_sessionfinish(session)")
    body = "".join(f"    {line}\n" for line in code.splitlines())
    return f"import os\nimport pytest\n\nif 'PYTEST_XDIST_WORKER' not in os.environ:\n{body}"


@pytest.mark.parametrize("what", RAISES)
def test_plugin_that_raises_at_the_end_loses_no_report(pytester, run, kept, what):
    """Whatever it raises, leaks are reported and files are written."""
    pytester.makeconftest(raising(what))
    pytester.makepyfile(TESTS)
    report = pytester.path / "report.json"
    result = run(
        "--dist=loadfile",
        "--tempres-leaks=fail",
        f"--tempres-report=json:{report}",
        "--tempres-artifacts=copies",
    )
    assert result.ret != 0
    assert kept() == ["evidence", "test_fails"]
    report = json.loads(report.read_text())
    assert report["totals"]["leaks"] == 1
    assert len(report["kept"]) == 2
    assert os.path.exists(pytester.path / "copies" / "manifest.json")
    text = f"{result.stdout}\n{result.stderr}"
    assert "internal error" not in text
    lines = [line for line in text.splitlines() if line.startswith("kept: test_")]
    assert len({*lines}) == 2
    result.stderr.fnmatch_lines(["kept: *evidence-*", "pytest-tempres: 1 leak from 1 test*"])
    # The original comes out as it was.
    assert {"an error": "theirs", "Ctrl-C": "KeyboardInterrupt"}.get(what, "done") in text


@pytest.mark.parametrize("what", ["exit", "exit without a number", "the first wrapper"])
def test_exit_status_is_never_0_with_leaks(pytester, run, nothing_left, what):
    """A plugin that exits at the end cannot change that."""
    pytester.makeconftest(raising(what))
    pytester.makepyfile(LEAKS)
    assert run("--tempres-leaks=fail").ret != 0
    nothing_left()


def test_unwritable_report_of_pytest_loses_no_report_of_ours(pytester, run, kept):
    """A file exists in the place of the directory of `--junitxml`."""
    pytester.makepyfile(TESTS)
    (pytester.path / "taken").touch()
    result = run("--dist=loadfile", "--junitxml=taken/report.xml")
    assert result.ret != 0
    assert kept() == ["evidence", "test_fails"]
    result.stderr.fnmatch_lines(["pytest-tempres: 1 leak from 1 test*"])


def test_a_silenced_report_leaves_the_last_line_alone(pytester, run_plain):
    """Also when the end of the session fails before pytest prints its summary."""
    pytester.makepyfile(TESTS)
    (pytester.path / "taken").touch()
    result = run_plain("--junitxml=taken/report.xml", "--tempres-report=term:none")
    result.stderr.fnmatch_lines(["pytest-tempres: 1 leak from 1 test*"])
    result.stderr.no_fnmatch_line("kept: *")


def test_report_is_not_repeated_on_standard_error(pytester, run):
    """An error in the outermost wrapper comes after the report was printed."""
    pytester.makeconftest(
        """
        import os
        import pytest

        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_terminal_summary(config):
            yield
            pytest.exit("done", 0)
        """
    )
    pytester.makepyfile(TESTS)
    result = run("--dist=loadfile")
    result.stdout.fnmatch_lines(["kept: *", "*= 1 leak from 1 test*"])
    result.stderr.no_fnmatch_line("kept: *")
    result.stderr.no_fnmatch_line("pytest-tempres: *")


INTERRUPTS = {
    "scanning": ("detection:LeakDetection", "scan"),
    "judging": ("detection:LeakDetection", "judge"),
    "removing": ("retention:Retention", "finish_expired"),
    "writing": ("finish", "write_files"),
}


# The controller ends like a session without workers, but has their reports: one error is enough.
@pytest.mark.parametrize(
    "mode, error",
    [("plain", "KeyboardInterrupt"), ("plain", "RuntimeError"), ("xdist", "KeyboardInterrupt")],
    indirect=["mode"],
)
@pytest.mark.parametrize("when", INTERRUPTS)
def test_interrupt_at_the_end_loses_no_kept_directory(pytester, run, system_tmp, when, error):
    """Neither Ctrl-C nor an error in the plugin's own functions does."""
    owner, name = INTERRUPTS[when]
    pytester.makeconftest(
        f"""
        import os, pkgutil
        import pytest

        def raises(*_, **__):
            raise {error}("here")

        @pytest.hookimpl(tryfirst=True)
        def pytest_sessionfinish():
            if "PYTEST_XDIST_WORKER" not in os.environ:
                owner = pkgutil.resolve_name("pytest_tempres.session.{owner}")
                setattr(owner, {name!r}, raises)
        """
    )
    pytester.makepyfile(TESTS)
    result = run("--dist=loadfile")
    assert result.ret != 0
    (root,) = system_tmp.iterdir()
    index = json.loads((root / INDEX).read_text())["kept"]
    (paths,) = (paths for node, paths in index.items() if node.endswith("test_fails"))
    assert any(".d" in path and os.path.isdir(path) for path in paths)
    assert "kept: " in f"{result.stdout}{result.stderr}"
    if error == "KeyboardInterrupt":
        assert "KeyboardInterrupt" in result.stderr.str()
    run("-k", "leaks", workers=False)
    assert all(map(os.path.isdir, paths))


def test_audit_hook_that_forbids_listings_loses_no_kept_directory(pytester, run_plain, system_tmp):
    """From the failed test on no directory can be listed."""
    pytester.makepyfile(
        """
        import sys

        def test_fails(temp_dir):
            def hook(event, args):
                if event in ("os.listdir", "os.scandir"):
                    raise RuntimeError(event)
            sys.addaudithook(hook)
            assert 0
        """
    )
    run_plain("-p", "no:cacheprovider")
    (root,) = system_tmp.iterdir()
    index = json.loads((root / INDEX).read_text())["kept"]
    assert [os.path.isdir(path) for paths in index.values() for path in paths] == [True]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_session_end_works_without_free_descriptors(pytester, run, kept):
    """It has descriptors in reserve and imports nothing; the next session finds what is kept."""
    pytester.makepyfile(
        """
        import os, resource, tempfile

        def test_leaks():
            tempfile.mkdtemp(prefix="left-")

        def test_fails(temp_dir):
            (temp_dir / "tree" / "inner").mkdir(parents=True)
            tempfile.mkdtemp(prefix="evidence-")
            os.makedirs(os.path.join(tempfile.mkdtemp(prefix="left-"), "a", "b"))
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
            while True:
                os.open(os.devnull, os.O_RDONLY)
        """
    )
    report = pytester.path / "report.json"
    _, warnings = run_checked(
        run, "--dist=loadfile", f"--tempres-report=json:{report}", junit=False
    )
    assert len(warnings) <= 1
    assert kept() == ["evidence", "left", "test_fails"]
    report = json.loads(report.read_text())
    assert [leak["status"] for leak in report["leaks"]].count("leak") == 1
    run("-k", "leaks", workers=False)
    assert kept() == ["evidence", "left", "test_fails"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows is not looked at")
def test_reserved_descriptors_are_not_reported_or_inherited(pytester, run, nothing_left):
    """No detector reports them, and no program inherits them."""
    pytester.makepyfile(
        """
        import subprocess, sys
        LIST = [sys.executable, "-c", "import os; print(os.listdir('/dev/fd'))"]

        def test_it(temp_dir):
            found = subprocess.check_output(LIST, close_fds=False)
            assert found == subprocess.check_output(LIST)
        """
    )
    result = run("--tempres-detect=temp,fds", "--tempres-leaks=strict")
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    nothing_left()


def test_reserved_descriptors_closed_by_a_test_are_not_closed_again(
    pytester, run_plain, nothing_left
):
    """What the test opened under the same number stays open."""
    pytester.makepyfile(
        """
        import atexit, os, sys, tempfile
        HERE = tempfile.gettempdir()
        CLOSED = []

        def check(fd):
            try:
                os.fstat(fd)
            except OSError:
                os.write(2, b"it was closed")

        def test_it():
            # What pytest itself has open stays.
            for fd in range(3, 64):
                try:
                    if os.path.samestat(os.fstat(fd), os.stat(os.path.join(HERE, os.pardir))):
                        os.close(fd)
                        other = os.open(os.devnull, os.O_RDONLY)
                        assert other <= fd
                        atexit.register(check, other)
                        CLOSED.append(fd)
                except OSError:
                    continue
            assert CLOSED or sys.platform == "win32"
        """
    )
    result = run_plain()
    result.assert_outcomes(passed=1)
    result.stderr.no_fnmatch_line("*it was closed*")
    nothing_left()


def test_session_end_starts_no_program(pytester, run_with_report):
    """Programs in a changed PATH and a replaced `subprocess` do not affect the report."""
    pytester.makepyfile(
        """
        import os, subprocess, tempfile

        def test_leaks():
            os.environ["PATH"] = os.getcwd()
            subprocess.Popen = subprocess.check_output = os.popen = None
            tempfile.mkdtemp()
        """
    )
    program = pytester.path / "uname"
    program.write_text("#!/bin/sh\ntouch started\n")
    program.chmod(0o755)
    result, report = run_with_report()
    result.assert_outcomes(passed=1)
    assert report["totals"]["leaks"] == 1
    assert report["session"]["platform"].lower().startswith(sys.platform[:5])
    assert not (pytester.path / "started").exists()


def test_modules_for_the_session_end_are_imported_before_the_first_test(
    pytester, system_tmp, plain_options
):
    """A test that makes imports impossible does not affect the report."""
    pytester.makepyfile(
        """
        import sys, tempfile

        def test_leaks(temp_dir):
            tempfile.mkdtemp()
            sys.path.clear()
            sys.meta_path.clear()
            assert 0
        """
    )
    # With -B it is not forked from a Python that has imported other modules too.
    command = (sys.executable, "-B", "-m", "pytest", *plain_options, "-p", "no:cacheprovider")
    result = pytester.run(*command)
    result.stdout.fnmatch_lines(["kept: *", "*no leaks; 2 paths kept; 1 more from failed tests*"])
    assert "internal error" not in f"{result.stdout}{result.stderr}"
