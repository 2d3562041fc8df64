from __future__ import annotations

import sys

import pytest

FIXTURES = (
    *("temp_dir", "artifact_dir", "temp_file", "named_temp_file", "spooled_file"),
    "temp_resources",
    *("temp_resources_class", "temp_resources_module"),
    *("temp_resources_package", "temp_resources_session"),
)
MARKERS = ("tempdir", "tempfile", "spooled", "tempres_ignore")
SUITE = """
    import os, tempfile

    def test_it(temp_dir):
        assert "tempres-" in os.environ["TMPDIR"]
        assert temp_dir.is_dir()
    """


def test_plugin_can_be_turned_off(pytester, run, system_tmp):
    """`-p no:tempres` removes fixtures, markers, options and the moved temp location."""
    pytester.makepyfile(
        f"""
        import os, tempfile

        def test_off():
            assert tempfile.gettempdir() == os.environ["TMPDIR"] == {str(system_tmp)!r}
            os.rmdir(tempfile.mkdtemp())

        def test_no_fixture(temp_dir): pass
        """
    )
    result = run("-p", "no:tempres")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'temp_dir' not found*"])
    assert run("-p", "no:tempres", "--tempres-keep=all", workers=False).ret == 4
    assert not list(system_tmp.iterdir())


@pytest.mark.parametrize(
    "autoload, name", [(True, "tempres"), (False, "tempres"), (False, "pytest_tempres.plugin")]
)
def test_plugin_can_be_loaded_by_name(pytester, mode, system_tmp, monkeypatch, autoload, name):
    """`-p tempres` works with and without plugin autoload, the module's name without."""
    workers = ["-p", "xdist", "-n2"] if mode == "xdist" else []
    if not autoload:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(SUITE)
    pytester.runpytest_subprocess(*workers, "-p", name, "-W", "error").assert_outcomes(passed=1)
    assert not list(system_tmp.iterdir())


def test_without_autoload_the_plugin_is_off_unless_loaded(pytester, system_tmp, monkeypatch):
    """Neither autoload nor `-p`: nothing changes; a conftest may load it late."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    pytester.makeconftest("pytest_plugins = ['pytest_tempres.plugin']")
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)
    assert not list(system_tmp.iterdir())


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
def test_markers_fixtures_and_options_have_help(pytester, run, nothing_left):
    """`--markers` and `--fixtures` list each with a description, and `--help` the options."""
    pytester.makepyfile("def test_it(): pass")
    result = run("--markers")
    for name in MARKERS:
        result.stdout.fnmatch_lines([f"@pytest.mark.{name}(*): *"])
    result = run("--fixtures")
    lines = result.stdout.lines
    for name in FIXTURES:
        (at,) = (i for i, line in enumerate(lines) if line.split(" ")[0] == name)
        text = lines[at + 1].strip()
        assert text.endswith((".", "`.")) or len(text) > 30
        assert "no docstring" not in text
        scope = name.rpartition("_")[2]
        assert (f"[{scope} scope]" in lines[at]) is (scope in ("class", "module", "session")) or (
            scope == "package" and "[package scope]" in lines[at]
        )
    text = run("--help").stdout.str()
    for option in ("keep", "keep-sessions", "root", "leaks", "report"):
        assert f"--tempres-{option}=" in text
    for ini in ("keep", "keep_sessions", "root", "root_mode", "leaks", "report", "ignore"):
        assert f"  tempres_{ini} (" in text
    assert "  tempres_redirect (bool)" in text
    nothing_left()


def test_strict_markers_and_strict_config_pass(pytester, run, nothing_left):
    """The markers and ini options of the plugin are registered."""
    pytester.makeini(
        """
        [pytest]
        tempres_keep = all
        tempres_keep_sessions = 0
        tempres_leaks = fail
        tempres_root_mode = 0700
        tempres_redirect = true
        tempres_report = term:none
        tempres_ignore =
            x-*
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.tempdir(keep=False)
        @pytest.mark.tempfile(suffix=".x")
        @pytest.mark.spooled(max_size=1)
        @pytest.mark.tempres_ignore("*")
        def test_it(temp_dir, temp_file, spooled_file): pass
        """
    )
    run("--strict-markers", "--strict-config", "-W", "error").assert_outcomes(passed=1)
    nothing_left()


def test_native_toml_configuration(pytester, run, nothing_left):
    """Options may be in `[tool.pytest.ini_options]`, and typed in `[tool.pytest]` from pytest 9."""
    table = "[tool.pytest]" if pytest.version_tuple >= (9,) else "[tool.pytest.ini_options]"
    count = "2" if pytest.version_tuple >= (9,) else '"2"'
    pytester.makepyprojecttoml(
        f"""
        {table}
        tempres_leaks = "fail"
        tempres_keep_sessions = {count}
        tempres_redirect = true
        tempres_report = ["term:none"]
        tempres_ignore = ["pardoned-*"]
        """
    )
    pytester.makepyfile(
        """
        import tempfile

        def test_it():
            tempfile.mkdtemp(prefix="pardoned-")
        """
    )
    assert run("--strict-config").ret == 0
    assert run("-o", "tempres_ignore=").ret == 1
    nothing_left()


def test_plugins_of_pytest_may_be_turned_off(pytester, run, system_tmp):
    """It works without pytest's terminal, tmp_path, cache and capture."""
    pytester.makepyfile(SUITE + "\n    def test_leak():\n        tempfile.mkdtemp()\n")
    run("-p", "no:tmpdir", "-p", "no:cacheprovider").assert_outcomes(passed=2)
    run("-p", "no:capture", workers=False).assert_outcomes(passed=2)
    assert run("-p", "no:terminal", "--tempres-leaks=fail", workers=False).ret == 1
    assert not list(system_tmp.iterdir())


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
def test_runs_without_tests(pytester, run, nothing_left):
    """`--collect-only`, `--setup-plan` and empty runs leave nothing and print nothing."""
    pytester.makepyfile(SUITE)
    for args in (["--collect-only"], ["--setup-plan"], ["--setup-only"], ["-k", "nothing"]):
        result = run(*args)
        assert result.ret in (0, 5)
        result.stdout.no_fnmatch_line("*= temporary resources*")
    nothing_left()


def test_import_of_the_package_loads_nothing_expensive(pytester):
    """Formats, detectors and `shutil` are imported when they are needed."""
    code = (
        "import sys; before = set(sys.modules); import pytest; import pytest_tempres.plugin\n"
        "names = {'pytest_tempres.reports.terminal', 'pytest_tempres.reports.json_report',"
        " 'pytest_tempres.artifacts.export', 'xdist'}\n"
        "assert not names & set(sys.modules), names & set(sys.modules)\n"
    )
    result = pytester.run(sys.executable, "-c", code)
    assert result.ret == 0


def test_assertions_of_the_package_are_not_rewritten(pytester, run_plain):
    """It has none, and rewriting costs time at every start."""
    pytester.makepyfile(
        """
        import sys

        def test_loaders():
            ours = [m for name, m in sys.modules.items() if name.startswith("pytest_tempres.")]
            rewritten = [m for m in ours if "Rewrit" in type(m.__loader__).__name__]
            assert len(ours) > 20
            # These are imported before the exclusion.
            first = {"plugin", "assertion_rewriting", "exceptions"}
            assert {m.__name__.partition(".")[2] for m in rewritten} <= first
        """
    )
    run_plain().assert_outcomes(passed=1)
