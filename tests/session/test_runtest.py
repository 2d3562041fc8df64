from __future__ import annotations

import json
import os

from printed import kept_paths
import pytest

#: A test for every way to end, each with a directory of its own.
EVERY_END = """
import pytest

@pytest.fixture
def broken_setup(temp_dir):
    raise RuntimeError

@pytest.fixture
def broken_teardown(temp_dir):
    yield
    raise RuntimeError

@pytest.fixture
def skipping_setup(temp_dir):
    pytest.skip()

def test_passes(temp_dir): pass
def test_call_fails(temp_dir): assert 0
def test_setup_fails(broken_setup): pass
def test_teardown_fails(broken_teardown): pass
def test_call_and_teardown_fail(broken_teardown): assert 0
def test_skips(temp_dir): pytest.skip()
def test_setup_skips(skipping_setup): pass
@pytest.mark.skip
def test_skipped(temp_dir): pass
@pytest.mark.xfail
def test_xfails(temp_dir): assert 0
@pytest.mark.xfail
def test_xpasses(temp_dir): pass
@pytest.mark.xfail(strict=True)
def test_xfails_strictly(temp_dir): assert 0
@pytest.mark.xfail(strict=True)
def test_xpasses_strictly(temp_dir): pass
@pytest.mark.xfail
def test_teardown_xfails(broken_teardown): assert 0
"""
FAILED = {
    "test_call_fails",
    "test_setup_fails",
    "test_teardown_fails",
    "test_call_and_teardown_fail",
    "test_xpasses_strictly",
}
ALL = FAILED | {
    *("test_passes", "test_skips", "test_setup_skips"),
    *("test_xfails", "test_xpasses", "test_xfails_strictly", "test_teardown_xfails"),
}


def kept_tests(report):
    """Return the names of the tests that something was kept for, one for each path."""
    return sorted(kept["nodeid"].rpartition("::")[2] for kept in report["kept"])


def on_disk(system_tmp):
    """Return the paths that fixtures gave and strays that are still there."""
    return {str(path) for path in system_tmp.glob("tempres-*/*/*")}


@pytest.mark.parametrize(
    "policy, expected",
    [("none", set()), ("failed", FAILED), ("all", ALL)],
    ids=["none", "failed", "all"],
)
def test_policy_decides_by_outcome(pytester, run_with_report, system_tmp, policy, expected):
    """`none`, `failed` and `all` keep what they say, whichever phase it was that failed."""
    path = pytester.makepyfile(EVERY_END)
    result, report = run_with_report(f"--tempres-keep={policy}")
    assert kept_tests(report) == sorted(expected)
    paths = {each["path"] for each in report["kept"]}
    assert on_disk(system_tmp) == paths
    assert {each["reason"] for each in report["kept"]} == ({policy} if expected else set())
    assert report["totals"]["kept"] == len(expected)
    printed = kept_paths(result.stdout.str())
    assert sorted(printed) == sorted((each["nodeid"], each["path"]) for each in report["kept"])
    if expected:
        (root,) = system_tmp.iterdir()
        index = json.loads((root / "index.json").read_text())["kept"]
        names = {f"{path.name}::{name}" for name in expected}
        assert set(index) == names
        assert {each for some in index.values() for each in some} == paths
    else:
        result.stdout.no_fnmatch_line("*kept*")
        assert not list(system_tmp.iterdir())


def test_kept_path_is_in_the_section_of_its_failure(pytester, run_with_report):
    """A failure names each kept path once, and it is the one that the test saw."""
    path = pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def broken_teardown():
            yield
            raise RuntimeError

        def test_it(temp_dir, named_temp_file, broken_teardown):
            print("SAW", temp_dir)
            print("SAW", named_temp_file.name)
            (temp_dir / "evidence").write_text("x")
            named_temp_file.write(b"written")
            assert 0
        """
    )
    result, report = run_with_report()
    result.assert_outcomes(failed=1, errors=1)
    lines = result.stdout.lines
    saw = [line.removeprefix("SAW ") for line in lines if line.startswith("SAW")][:2]
    assert [each["path"] for each in report["kept"]] == saw
    failures = lines[: next(i for i, x in enumerate(lines) if "= temporary resources =" in x)]
    for kept in saw:
        assert f"kept: {kept}" in failures
        assert (f"{path.name}::test_it", kept) in kept_paths(result.stdout.str())
    start = failures.index(f"kept: {saw[0]}")
    assert "- temporary resources -" in failures[start - 1]
    assert os.listdir(saw[0]) == ["evidence"]
    with open(saw[1], encoding="ascii") as file:
        assert file.read() == "written"


def test_policy_none_prints_no_path(pytester, run, nothing_left):
    """With `none` no failure names a directory that will be removed."""
    pytester.makepyfile("def test_it(temp_dir, named_temp_file): assert 0")
    result = run("--tempres-keep=none")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*kept*")
    result.stdout.no_fnmatch_line("*temporary resources*")
    nothing_left()


def test_argument_keep_overrides_the_policy(pytester, run_with_report, system_tmp):
    """`keep=True` keeps a passing test's directory; `keep=False` removes a failing one's."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.tempdir(keep=True)
        def test_asked(temp_dir): pass

        @pytest.mark.tempdir(keep=False)
        def test_refused(temp_dir): assert 0

        def test_call(temp_resources):
            temp_resources.dir(keep=True)
            temp_resources.dir()

        @pytest.mark.tempdir(keep=False)
        @pytest.mark.xfail
        def test_no(temp_dir): assert 0
        """
    )
    for policy in ("none", "failed"):
        result, report = run_with_report(f"--tempres-keep={policy}", "--tempres-keep-sessions=1")
        assert kept_tests(report) == ["test_asked", "test_call"]
        assert {each["reason"] for each in report["kept"]} == {"asked"}
        assert on_disk(system_tmp) == {each["path"] for each in report["kept"]}
        failure = result.stdout.str().partition("test_refused _")[2].partition("\n=")[0]
        assert failure
        assert "kept:" not in failure


def test_hook_can_add_to_what_is_kept(pytester, run_with_report, system_tmp):
    """`pytest_tempres_keep` gets the test and all its reports; it can only add."""
    pytester.makeconftest(
        """
        def pytest_tempres_keep(item, reports):
            assert [report.when for report in reports] == ["setup", "call", "teardown"]
            if item.name == "test_failed":
                return False
            return True if item.name == "test_slow" else None
        """
    )
    pytester.makepyfile(
        """
        def test_slow(temp_dir): pass
        def test_quick(temp_dir): pass
        def test_failed(temp_dir): assert 0
        """
    )
    result, report = run_with_report("-W", "error")
    result.assert_outcomes(passed=2, failed=1)
    assert kept_tests(report) == ["test_failed", "test_slow"]
    assert sorted(each["reason"] for each in report["kept"]) == ["failed", "hook"]
    assert on_disk(system_tmp) == {each["path"] for each in report["kept"]}


def test_wider_directory_is_kept_if_a_test_that_used_it_failed(
    pytester, run_with_report, system_tmp
):
    """It need not be the last test, nor the one that created it; others do not matter."""
    text = """
        import pytest

        @pytest.fixture(scope="module")
        def shared(temp_resources_module):
            return temp_resources_module.dir(prefix="module-")

        @pytest.fixture(scope="session")
        def wide(temp_resources_session):
            return temp_resources_session.dir(prefix="session-")

        @pytest.fixture(scope="class")
        def narrow(temp_resources_class):
            return temp_resources_class.dir(prefix="class-")

        @pytest.fixture
        def indirect(shared):
            return shared

        class TestOne:
            def test_makes(self, indirect, narrow, wide): pass
            def test_uses_narrow(self, narrow): pass
        class TestTwo:
            def test_uses_both(self, indirect, narrow): FAIL
            def test_uses_narrow(self, narrow): pass
        def test_after(shared): pass
        def test_uses_neither(): assert 0
        """
    text = "\n".join(line[8:] for line in text.splitlines())
    pytester.makepyfile(test_red=text.replace("FAIL", "assert 0"))
    pytester.makepyfile(test_green=text.replace("FAIL", "pass"))
    result, report = run_with_report("--dist=loadfile")
    result.assert_outcomes(passed=9, failed=3)
    prefixes = [os.path.basename(each["path"])[:-8] for each in report["kept"]]
    assert sorted(prefixes) == ["class-", "module-"]
    assert {each["nodeid"] for each in report["kept"]} == {"test_red.py::TestTwo::test_uses_both"}
    assert on_disk(system_tmp) == {each["path"] for each in report["kept"]}
    failure = result.stdout.str().partition("TestTwo.test_uses_both _")[2].partition("\n__")[0]
    for each in report["kept"]:
        assert f"kept: {each['path']}" in failure


def test_wider_directory_is_kept_if_its_fixture_fails(pytester, run_with_report, system_tmp):
    """It is kept for the test that requested the fixture."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def shared(temp_resources_module):
            temp_resources_module.dir(prefix="module-")
            raise RuntimeError

        def test_it(shared): pass
        """
    )
    _, report = run_with_report()
    assert kept_tests(report) == ["test_it"]
    assert on_disk(system_tmp) == {each["path"] for each in report["kept"]}


def test_failed_subtest_keeps_the_directory_of_its_test(pytester, run_with_report, system_tmp):
    """A test whose subtest failed has failed, though its own report may say passed."""
    if pytest.version_tuple < (9,):
        pytest.importorskip("pytest_subtests", reason="before pytest 9 a plugin has subtests")
    pytester.makepyfile(
        """
        import unittest
        import pytest

        def test_mixed(temp_dir, subtests):
            for number in range(3):
                with subtests.test(number=number):
                    assert number != 0

        def test_passes(temp_dir, subtests):
            with subtests.test():
                pass

        def test_skips(temp_dir, subtests):
            with subtests.test():
                pytest.skip()

        class Case(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def given(self, temp_dir): pass

            def test_unittest(self):
                with self.subTest():
                    assert 0
        """
    )
    result, report = run_with_report()
    assert kept_tests(report) == ["test_mixed", "test_unittest"]
    assert on_disk(system_tmp) == {each["path"] for each in report["kept"]}
    for each in report["kept"]:
        assert f"kept: {each['path']}" in result.stdout.lines


def test_reruns_keep_only_the_last_attempt(pytester, run_with_report, system_tmp):
    """If a later attempt passes nothing is kept; if all fail, the last one's directory is."""
    pytest.importorskip("pytest_rerunfailures", reason="pytest-rerunfailures is not installed")
    pytester.makepyfile(
        """
        import os, tempfile
        import pytest
        COUNT = {}

        def attempt(name, path):
            COUNT[name] = COUNT.get(name, 0) + 1
            (path / f"attempt-{COUNT[name]}").touch()
            tempfile.mkdtemp(prefix=f"{name}-{COUNT[name]}-")
            return COUNT[name]

        def test_recovers(temp_dir):
            assert attempt("recovers", temp_dir) == 3

        def test_never(temp_dir):
            assert attempt("never", temp_dir) == 7

        @pytest.fixture
        def flaky(temp_dir):
            yield
            assert attempt("flaky", temp_dir) == 2

        def test_teardown(flaky): pass
        """
    )
    result, report = run_with_report("-prerunfailures", "--reruns=2", "--tempres-leaks=fail")
    assert result.ret == 1
    given = [each for each in report["kept"] if ".d/" in each["path"]]
    assert kept_tests({"kept": given}) == ["test_never"]
    assert os.listdir(given[0]["path"]) == ["attempt-3"]
    strays = {os.path.basename(leak["path"])[:-9]: leak["status"] for leak in report["leaks"]}
    # What a failed attempt left is no leak; the last attempts of these two passed.
    assert strays.pop("recovers-3") == "leak"
    assert strays.pop("flaky-2") == "leak"
    assert set(strays.values()) == {"failed-test"}
    assert set(strays) == {"recovers-1", "recovers-2", "never-1", "never-2", "never-3", "flaky-1"}
    assert on_disk(system_tmp) == {each["path"] for each in report["kept"]}


def test_number_of_kept_sessions_is_limited(pytester, run, system_tmp, monkeypatch):
    """The last sessions that kept something stay; clean runs do not count."""
    pytester.makepyfile(
        """
        import os
        def test_it(temp_dir):
            (temp_dir / os.environ.get("TURN", "")).touch()
            assert "TURN" not in os.environ
        """
    )
    kept = []
    for turn in ("a", "b", "", "c"):
        if turn:
            monkeypatch.setenv("TURN", turn)
        else:
            monkeypatch.delenv("TURN")
        run("--tempres-keep-sessions=2", workers=turn == "c")
        kept.append(sorted(path.name for path in system_tmp.glob("tempres-*/*.d/*/?")))
    assert kept == [["a"], ["a", "b"], ["a", "b"], ["b", "c"]]
    assert len(list(system_tmp.iterdir())) == 2


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
def test_stopping_early_keeps_directories_of_failed_tests(pytester, run_with_report, system_tmp):
    """`-x` and `--maxfail` end the run like any other."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def shared(temp_resources_module):
            return temp_resources_module.dir(prefix="module-")

        def test_1(temp_dir, shared): pass
        def test_2(temp_dir, shared): assert 0
        def test_3(temp_dir): assert 0
        def test_4(temp_dir): pass
        """
    )
    for option, count in (("-x", 2), ("--maxfail=2", 3)):
        _, report = run_with_report(option, "--tempres-keep-sessions=1")
        assert len(report["kept"]) == count
        assert on_disk(system_tmp) == {each["path"] for each in report["kept"]}


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
@pytest.mark.parametrize(
    "stop", ["raise KeyboardInterrupt", "pytest.exit('enough')", "os.kill(os.getpid(), 2)"]
)
def test_interrupted_test_has_its_files_until_its_teardown(
    pytester, run_with_report, nothing_left, stop
):
    """Teardown after Ctrl-C or `pytest.exit` still finds its files, and nothing is left behind."""
    pytester.makepyfile(
        f"""
        import os
        import pytest

        @pytest.fixture
        def user(temp_dir, temp_resources):
            other = temp_resources.dir()
            yield
            (temp_dir / "teardown").write_text("x")
            assert os.listdir(temp_dir) == ["teardown"] and other.is_dir()
            print("TEARDOWN FOUND IT")

        @pytest.fixture(scope="module")
        def wide(temp_resources_module):
            path = temp_resources_module.dir()
            yield
            assert path.is_dir()

        def test_before(temp_dir): pass

        def test_it(user, named_temp_file, wide):
            {stop}
            import time

        def test_never(temp_dir): pass
        """
    )
    result, report = run_with_report("-s", "-W", "error")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*TEARDOWN FOUND IT*"])
    result.stdout.no_fnmatch_line("*rror*")
    assert report["kept"] == report["leaks"] == []
    nothing_left()


def test_directory_removed_by_its_test_is_not_listed_as_kept(
    pytester, run_with_report, nothing_left
):
    """A test may remove its own directory before it fails."""
    pytester.makepyfile(
        """
        def test_it(temp_dir):
            temp_dir.rmdir()
            assert 0
        """
    )
    result, report = run_with_report("--tempres-keep=all")
    result.assert_outcomes(failed=1)
    assert report["kept"] == []
    result.stdout.no_fnmatch_line("*kept: *")
    nothing_left()


def test_hooks_that_fail_change_no_outcome(pytester, run_with_report, nothing_left):
    """An error in one of the plugin's hooks is a warning; outcomes and report do not change."""
    pytester.makeconftest(
        """
        def pytest_tempres_keep(item, reports):
            raise ValueError("in keep")

        def pytest_tempres_ignore_leak(leak):
            raise ValueError("in ignore")

        def pytest_tempres_summary(config, summary):
            raise ValueError("in summary")
        """
    )
    pytester.makepyfile("import tempfile\ndef test_it(temp_dir): tempfile.mkdtemp()")
    result, report = run_with_report("--tempres-leaks=fail", "-W", "error")
    result.assert_outcomes(passed=1, warnings=3)
    assert result.ret == 1
    assert report["totals"]["leaks"] == 1
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    for place in ("keep", "ignore", "summary"):
        result.stdout.fnmatch_lines([f"*ValueError*in {place}*"])
    nothing_left()


def test_factory_for_another_parameter_is_another_factory(pytester, run_with_report, system_tmp):
    """A test that fails with its own session's factory keeps nothing of the one before it."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("temp_resources_session", ["one", "two"], indirect=True)
        def test_it(temp_resources_session, request):
            name = request.node.callspec.params["temp_resources_session"]
            temp_resources_session.dir(prefix=f"{name}-")
            assert name == "one"
        """
    )
    result, report = run_with_report("--dist=loadfile")
    result.assert_outcomes(passed=1, failed=1)
    assert [os.path.basename(each["path"])[:4] for each in report["kept"]] == ["two-"]
    assert on_disk(system_tmp) == {each["path"] for each in report["kept"]}
    failure = result.stdout.str().partition("test_it[two] _")[2].partition("\n=")[0]
    assert failure.count("kept: ") == 1
    assert f"kept: {report['kept'][0]['path']}" in failure
