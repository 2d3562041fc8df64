from __future__ import annotations

import os
import sys

import pytest

RAN = "from pathlib import Path\ndef test_ran(): Path('ran').touch()\n"


def refused(result, *texts):
    """Check that a session was refused in one line, without a traceback, before any test."""
    lines = [line for line in result.stderr.lines if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("ERROR: ")
    for text in texts:
        assert text in lines[0]
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.no_fnmatch_line("*test session starts*")


@pytest.mark.parametrize(
    "option, texts",
    [
        ("keep=maybe", ["none, failed or all"]),
        ("keep=al", ["did you mean all?"]),
        ("keep=", ["none, failed or all"]),
        ("keep-sessions=-1", ["whole number"]),
        ("keep-sessions=few", ["whole number"]),
        ("leaks=fial", ["off, report, fail or strict", "did you mean fail?"]),
        ("root=missing", ["no such directory"]),
        ("root=file", ["no such directory"]),
        ("report=jsn:x", ["term, term:none, github, json:PATH,", "did you mean json?"]),
        ("report=json", ["json:PATH"]),
        ("report=term:x", ["none"]),
        ("report=json:file/x.json", ["file is not a directory"]),
        ("report=json:.", ["directory"]),
    ],
)
def test_invalid_options_are_refused(pytester, run_here, option, texts):
    """One message names the option, the value and what is allowed, before the first test."""
    pytester.makepyfile(RAN)
    (pytester.path / "file").touch()
    refused(run_here(f"--tempres-{option}"), f"--tempres-{option}", *texts)
    assert not (pytester.path / "ran").exists()


@pytest.mark.parametrize(
    "line, texts",
    [
        ("tempres_keep = maybe", ["maybe", "none, failed or all"]),
        ("tempres_keep_sessions = few", ["keep", "sessions", "few"]),
        ("tempres_leaks = loud", ["loud", "off, report, fail or strict"]),
        ("tempres_root = missing", ["missing", "no such directory"]),
        ("tempres_root_mode = 0777", ["0777", "0700, 0711, 0755 or 1777"]),
        ("tempres_report = term jsn:x", ["jsn:x", "json"]),
        ("tempres_redirect = perhaps", ["perhaps", "true or false"]),
        ("tempres_keep_sessions = many", ["many", "a whole number, 0 or more"]),
    ],
)
def test_invalid_ini_values_are_refused(pytester, run_here, line, texts):
    """The configuration file is checked like the command line."""
    pytester.makeini(f"[pytest]\n{line}\n")
    pytester.makepyfile(RAN)
    refused(run_here(), *texts)
    assert not (pytester.path / "ran").exists()


@pytest.mark.parametrize("mode", ["xdist"], indirect=True)
@pytest.mark.parametrize("option", ["keep=maybe", "root=missing", "report=json:."])
def test_controller_refuses_options_before_workers_start(pytester, run, nothing_left, option):
    """The message is printed once, by the controller."""
    pytester.makepyfile(RAN)
    refused(run(f"--tempres-{option}"), f"--tempres-{option}")
    assert not (pytester.path / "ran").exists()
    nothing_left()


def test_root_that_is_not_writable_is_refused(pytester, run_here):
    """The message names the directory."""
    if os.geteuid() == 0:
        # Only a file system that is never writable stops root from writing.
        place = "/proc"
        if not sys.platform.startswith("linux"):
            pytest.skip("root can write everywhere here")
    else:
        place = str(pytester.mkdir("locked"))
        os.chmod(place, 0o500)
    pytester.makepyfile(RAN)
    refused(run_here(f"--tempres-root={place}"), place)
    assert not (pytester.path / "ran").exists()


@pytest.mark.parametrize(
    "marker, texts",
    [
        ("tempdir(prefiks='x')", ["tempdir", "'prefiks'", "'prefix'"]),
        ("tempdir(prefix='a/b')", ["tempdir", "prefix='a/b'", "'/'"]),
        ("tempdir(suffix='a\\0b')", ["tempdir", "suffix='a\\x00b'"]),
        ("tempdir(keep='yes')", ["tempdir", "keep='yes'", "bool"]),
        ("tempdir('name')", ["tempdir", "'name'", "keyword"]),
        ("tempdir(zzzzzz=1)", ["tempdir", "'zzzzzz'", "prefix", "chdir"]),
        ("tempfile(mod='w')", ["tempfile", "'mod'", "'mode'"]),
        ("tempfile(content=7)", ["tempfile", "content=7", "str or bytes"]),
        ("tempdir(copy='missing')", ["tempdir", "copy='missing'", "no such file or directory"]),
        ("tempfile(mode='q')", ["tempfile", "mode='q'", "a mode of open()"]),
        ("tempfile(mode='w', encoding='nope')", ["marker tempfile", "unknown encoding: nope"]),
        ("tempfile(mode='w', content=b'x')", ["marker tempfile", "content=b'x'", "str"]),
        ("spooled(mode='rw')", ["spooled", "mode='rw'", "a mode of open()"]),
        ("spooled(maxsize=7)", ["spooled", "'maxsize'", "'max_size'"]),
        ("spooled(max_size='7')", ["spooled", "max_size='7'", "int"]),
        ("tempres_ignore()", ["tempres_ignore", "glob pattern"]),
        ("tempres_ignore(7)", ["tempres_ignore", "7", "str"]),
        ("tempres_ignore('x', raison='y')", ["tempres_ignore", "'raison'", "'reason'"]),
    ],
)
def test_invalid_marker_arguments_are_refused(pytester, run_here, marker, texts):
    """The message names the test, the marker, the argument and the nearest valid one."""
    path = pytester.makepyfile(
        f"""
        import pytest
        from pathlib import Path

        @pytest.mark.{marker}
        def test_it(temp_dir, temp_file, spooled_file): Path("ran").touch()
        """
    )
    result = run_here("--tempres-keep=none")
    assert result.ret not in (0, 5)
    (line,) = (x for x in result.stdout.lines if all(text in x for text in texts))
    assert f"{path.name}::test_it" in result.stdout.str()
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*pytest_tempres*.py*")
    result.stdout.no_fnmatch_line("*another exception occurred*")
    assert not (pytester.path / "ran").exists(), line


def test_invalid_marker_of_a_class_or_module(pytester, run, nothing_left):
    """It is checked at collection; a marker that is added later is checked at setup."""
    pytester.makepyfile(
        test_class="""
        import pytest

        @pytest.mark.tempdir(prefiks="x")
        class TestIt:
            def test_one(self, temp_dir): pass
        """,
        test_module="""
        import pytest
        pytestmark = pytest.mark.tempfile(sufix="x")

        def test_two(named_temp_file): pass
        """,
        test_added="""
        import pytest

        @pytest.fixture
        def adds(request):
            request.node.add_marker(pytest.mark.spooled(maxsize=1))

        def test_three(adds, spooled_file): pass
        """,
    )
    result = run("--continue-on-collection-errors")
    assert result.ret == 1
    result.stdout.fnmatch_lines_random(
        ["*'prefiks'*'prefix'*", "*'sufix'*'suffix'*", "*'maxsize'*'max_size'*"]
    )
    result.stdout.no_fnmatch_line("*passed*")
    nothing_left()


def test_copy_of_a_source_that_is_removed_before_the_test(pytester, run, nothing_left):
    """It is an error at setup of the test, and names the source."""
    pytester.makepyfile(
        """
        from pathlib import Path
        import pytest

        SOURCE = Path(__file__).with_name("source")

        @pytest.fixture
        def removes():
            SOURCE.unlink(missing_ok=True)

        @pytest.mark.tempdir(copy=SOURCE.name)
        def test_it(removes, temp_dir): pass
        """
    )
    (pytester.path / "source").touch()
    result = run("--tempres-keep=none")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["marker tempdir: copy='source': there is no such file*"])
    result.stdout.no_fnmatch_line("*copytree*")
    nothing_left()


def test_json_destination_that_is_removed_during_the_run(pytester, run, nothing_left):
    """A test replaces the directory by a file: there is a warning, and no outcome changes."""
    pytester.makepyfile(
        """
        import os
        def test_it(pytestconfig):
            out = pytestconfig.invocation_params.dir / "out"
            out.rmdir()
            out.touch()
        """
    )
    for strict in ((), ("-W", "error")):
        (pytester.path / "out").unlink(missing_ok=True)
        (pytester.path / "out").mkdir()
        result = run("--tempres-report=json:out/report.json", *strict)
        result.assert_outcomes(passed=1, warnings=1)
        assert result.ret == 0
        result.stdout.fnmatch_lines(["*JSON report was not written*"])
    nothing_left()
