from __future__ import annotations

import pytest

# Here, since an inner session in this process forgets what it was the first to import.
from pytest_tempres.leaks import baseline

SOURCE = """
    import tempfile
    import pytest

    @pytest.fixture(scope="module")
    def shared(): {fixture}

    def test_plain(shared): {plain}

    @pytest.mark.parametrize("x", [1, 2])
    def test_param(x): {param}

    def test_other(): tempfile.mkdtemp()
"""
LEAK = "tempfile.mkdtemp()"
GATE = ("--tempres-leaks=fail", "--tempres-baseline=known.txt")


@pytest.fixture
def suite(pytester):
    """Write the suite; what is named leaks no more."""

    def suite(*mended):
        given = {name: "pass" if name in mended else LEAK for name in ("fixture", "plain", "param")}
        pytester.makepyfile(test_it=SOURCE.format(**given))

    return suite


@pytest.fixture(scope="module")
def written():
    """The text of the baseline, once a session has written it: it is the same every time."""
    return []


@pytest.fixture
def known(pytester, suite, run, written):
    """A baseline that holds all that the suite leaves; returns its lines."""
    suite()
    path = pytester.path / "known.txt"
    if not written:
        assert run(*GATE, "--tempres-update-baseline=all").ret == 0
        written.append(path.read_text())
    path.write_text(written[0])

    def known():
        lines = path.read_text().splitlines()
        return [tuple(line.split("\t")[:3]) for line in lines if not line.startswith("#")]

    return known


def stale(result):
    """Return the owners of the entries that the report calls stale."""
    start = "stale in the baseline: "
    return [line[len(start) :].split()[0] for line in result.stdout.lines if start in line]


def test_known_leaks_are_counted_apart_and_do_not_fail_the_run(
    pytester, suite, known, run, nothing_left
):
    """With a baseline only new leaks make the run fail."""
    assert known() == [
        ("fixture", "shared", "directory"),
        ("test", "test_it.py::test_other", "directory"),
        ("test", "test_it.py::test_param", "directory"),
        ("test", "test_it.py::test_plain", "directory"),
    ]
    result = run(*GATE)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*= no leaks; 5 known =*"])
    pytester.makepyfile(test_new=f"import tempfile\ndef test_new(): {LEAK}")
    result = run(*GATE)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*= 1 leak from 1 test, 0 bytes; removed; 5 known =*"])
    nothing_left()


ALL_STALE = ["shared", "test_it.py::test_param", "test_it.py::test_plain"]
#: The arguments of a run, and the owners of the entries that are stale after it.
RUNS = [
    ((), ALL_STALE),
    (("test_it.py",), ALL_STALE[1:]),
    (("-k", "test_param"), ["test_it.py::test_param"]),
    (("-k", "param and 2"), []),
    (("test_it.py::test_param[1]",), []),
    (("test_it.py::test_plain",), ["test_it.py::test_plain"]),
    (("--lf",), []),
    (("--deselect=test_it.py::test_other",), ALL_STALE[1:]),
]


# What is selected does not depend on workers, but what they report of a part of the suite does.
@pytest.mark.parametrize(
    "mode, args, gone",
    [*(("plain", *run) for run in RUNS), *(("xdist", *run) for run in RUNS[:4])],
    indirect=["mode"],
)
def test_entries_are_stale_if_their_owner_ran_and_left_nothing(suite, known, run, args, gone):
    """A run of a part of the suite never calls an entry stale that belongs to the other part."""
    suite("fixture", "plain", "param")
    result = run(*GATE, *args)
    assert result.ret == 0
    assert stale(result) == gone


def test_entries_of_tests_that_did_not_pass_are_not_stale(pytester, suite, known, run):
    """A test that failed or was skipped may not have reached the line that leaks."""
    suite("fixture", "plain", "param")
    path = pytester.path / "test_it.py"
    text = path.read_text()
    text = text.replace("test_plain(shared): pass", "test_plain(shared): assert 0")
    path.write_text(text.replace("test_param(x): pass", "test_param(x): pytest.skip()"))
    assert stale(run(*GATE)) == []


def test_shrink_removes_only_stale_entries(suite, known, run):
    """A partial run may shrink the baseline, and new leaks are not added."""
    suite("plain", "param")
    run(*GATE, "--tempres-update-baseline=shrink", "-k", "test_plain")
    assert [owner for _, owner, _ in known()] == [
        "shared",
        "test_it.py::test_other",
        "test_it.py::test_param",
    ]


def test_all_replaces_the_baseline_with_what_this_run_found(suite, known, run):
    """New leaks are added, and do not fail the run that adds them."""
    suite("plain", "param", "fixture")
    result = run(*GATE, "--tempres-update-baseline=all")
    assert result.ret == 0
    assert [owner for _, owner, _ in known()] == ["test_it.py::test_other"]


def test_strict_mode_reports_no_known_leak_at_teardown(known, run):
    """The baseline applies at the end of a test as at the end of the session."""
    result = run("--tempres-leaks=strict", "--tempres-baseline=known.txt")
    result.assert_outcomes(passed=4)
    assert result.ret == 0


def test_invalid_baseline_is_refused(pytester, run_here):
    """A conflict marker is reported with its line number before any test runs."""
    (pytester.path / "known.txt").write_text("# x\n<<<<<<< HEAD\n")
    result = run_here(*GATE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *known.txt: line 2 is not a known leak: '<<<<<<< HEAD'*"])


def test_baseline_that_cannot_be_written_is_a_warning(pytester, suite, run_here, monkeypatch):
    """The session ends as it would have, and the warning gives the reason."""
    suite()

    def full(path, known):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(baseline, "write", full)
    result = run_here(*GATE, "--tempres-update-baseline=all")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*the baseline *known.txt was not written: *No space left*"])


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "--tempres-leaks=off"])
def test_runs_without_leak_detection_do_not_change_the_baseline(suite, known, run, option):
    """A run that executes no test or detects no leaks does not rewrite the file."""
    before = known()
    suite("fixture", "plain", "param")
    for update in ("shrink", "all"):
        result = run("--tempres-baseline=known.txt", f"--tempres-update-baseline={update}", option)
        assert stale(result) == []
        assert known() == before


def test_only_the_detector_of_an_entry_calls_it_stale(pytester, suite, known, run):
    """An entry is kept if the run did not use the detector that can find it."""
    path = pytester.path / "known.txt"
    line = "test\ttest_it.py::test_plain\tdescriptor\ttest_it.py:test_plain\t" + "0" * 16
    path.write_text(f"{path.read_text()}{line}\n")
    suite("plain")
    assert stale(run(*GATE)) == ["test_it.py::test_plain"]
    assert len(stale(run(*GATE, "--tempres-detect=temp,fds"))) == 2
