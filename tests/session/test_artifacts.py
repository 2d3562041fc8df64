from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

SUITE = """
    import os, tempfile
    import pytest

    def test_passes(temp_dir):
        (temp_dir / "x").touch()

    @pytest.mark.parametrize("word", ["a/b", "A/b"])
    def test_fails(temp_dir, word):
        (temp_dir / "test_copied.py").write_text("def test_copied(): pass")
        (temp_dir / "to:do").write_text("12345")
        (temp_dir / "link").symlink_to("/nowhere")
        os.mkfifo(temp_dir / "fifo")
        fd, path = tempfile.mkstemp(suffix=".log")
        os.close(fd)
        assert word == 0

    def test_named(named_temp_file):
        named_temp_file.write(b"123")
        named_temp_file.flush()
        assert 0
"""

needs_fifos = pytest.mark.skipif(os.name == "nt", reason="Windows has no fifos among its files")


def manifest(path: Path) -> dict[tuple[str, str], dict]:
    """Return the records of a manifest by session and kept path."""
    records = json.loads((path / "manifest.json").read_text())["artifacts"]
    return {(record["session"], record["path"]): record for record in records}


def check(out: Path, report: dict, copied: list[str]) -> None:
    """Check that each kept path has its copy, and that report and manifest say so."""
    records = manifest(out)
    assert len(report["kept"]) == 5
    for kept in report["kept"]:
        record = records[report["session"]["id"], kept["path"]]
        assert kept["artifact"] == str(out / record["artifact"])
        assert (record["nodeid"], record["worker"]) == (kept["nodeid"], kept["worker"])
        assert os.path.isfile(kept["path"]) == os.path.isfile(kept["artifact"])
        if os.path.isdir(kept["path"]):
            assert {"path": "fifo", "reason": "a fifo"} in record["skipped"]
            assert record["renamed"] == {"to:do": "to_do"}
            assert sorted(os.listdir(kept["artifact"])) == copied


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fifos among its files")
def test_kept_paths_are_copied_and_reported(pytester, run_with_report):
    """A second run with the same directory adds copies, and collects no tests from the old ones."""
    pytester.makepyfile(SUITE)
    out = pytester.path / "new" / "out"
    result, first = run_with_report("--tempres-artifacts=new/out")
    result.assert_outcomes(passed=1, failed=3)
    lines = [
        f"artifacts: {out}",
        "  (2 directories, 9 files, 59 bytes); 2 skipped, see manifest.json",
    ]
    result.stdout.fnmatch_lines(["kept: *", *lines, "=* no leaks; 5 paths kept; *"])
    check(out, first, ["link", "test_copied.py", "to_do"])

    pytester.makeini("[pytest]\ntempres_artifacts = new/out\ntempres_artifacts_max_size = 20\n")
    result, second = run_with_report()
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        [f"artifacts: {out}", "  (2 directories, 7 files, 13 bytes); 4 skipped, see manifest.json"]
    )
    check(out, second, ["link", "to_do"])

    records = manifest(out)
    assert {session for session, _ in records} == {
        each["session"]["id"] for each in (first, second)
    }
    directories = {record["artifact"].partition("/")[0] for record in records.values()}
    assert set(os.listdir(out)) == {"manifest.json", *directories}
    assert len({name.lower() for name in directories}) == 6


def test_artifacts_directory_is_not_created_if_nothing_is_kept(pytester, run_plain, nothing_left):
    """With the option in the ini file, a run that passes does not even leave an empty directory."""
    pytester.makepyfile("def test(temp_dir): pass")
    result = run_plain("--tempres-artifacts=new/out")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*temporary resources*")
    assert not (pytester.path / "new").exists()
    nothing_left()


def test_unusable_artifacts_directory_is_refused_before_first_test(pytester, run_plain):
    """The error comes at the start, not when there is something to copy."""
    pytester.makepyfile("def test(): open('ran', 'w').close()")
    (pytester.path / "file").touch()
    result = run_plain("--tempres-artifacts=file")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --tempres-artifacts=file: it is not a directory; name one that is"]
    )
    assert not (pytester.path / "ran").exists()


def test_files_in_artifacts_directory_are_no_leaks(pytester, report):
    """What another session or a test writes there is no leak, in a watched directory either."""
    pytester.makepyfile(
        """
        import tempfile

        def test(temp_dir):
            tempfile.mkdtemp(dir="out")
            open("out/more", "w").close()
            open("litter", "w").close()

        def test_fails(temp_dir):
            assert 0
        """
    )
    (pytester.path / "out").mkdir()
    options = ("--tempres-detect=temp,watch", "--tempres-artifacts=out", "-pno:cacheprovider")
    found = report(*options, "-onorecursedirs=.*")
    assert [os.path.basename(leak["path"]) for leak in found["leaks"]] == ["litter"]
    assert found["kept"][0]["artifact"] is not None


FAILURES = """
    import os

    def test_passes(temp_dir): pass

    def test_fails(temp_dir):
        (temp_dir / "a").write_bytes(b"x" * 100)
        (temp_dir / "b").write_bytes(b"x" * 2_000_000)
        if os.path.isdir("out") and not os.path.ismount("out"):
            os.rmdir("out")
            open("out", "w").close()
        assert 0
"""


@pytest.mark.parametrize("obstacle", ["a file by now", "full"])
def test_failed_copy_is_one_warning_and_changes_nothing_else(
    pytester, run_with_report, request, obstacle
):
    """The tests' outcomes, the exit status and the other reports are as without artifacts."""
    pytester.makepyfile(FAILURES)
    out = pytester.path / "out"
    out.mkdir()
    if obstacle == "full":
        request.getfixturevalue("tmpfs")("size=1m", out)
    result, report = run_with_report("--tempres-artifacts=out", "-onorecursedirs=.*")
    result.assert_outcomes(passed=1, failed=1, warnings=1)
    assert result.ret == 1
    (kept,) = report["kept"]
    assert sorted(os.listdir(kept["path"])) == ["a", "b"]
    result.stdout.fnmatch_lines([f"*some artifacts could not be copied: {out}*"])
    if obstacle == "full":
        assert os.listdir(kept["artifact"]) == ["a"]
        (record,) = manifest(out).values()
        assert record["skipped"] == [{"path": "b", "reason": "No space left on device"}]
        what = "  (1 directory, 1 file, 100 bytes); 1 skipped, see manifest.json"
        result.stdout.fnmatch_lines([f"artifacts: {out}", what])
    else:
        assert kept["artifact"] is None
        result.stdout.no_fnmatch_line("artifacts:*")


def test_internal_error_while_copying_does_not_lose_the_report(pytester, run_plain):
    """Whatever fails while artifacts are copied, the report is complete."""
    pytester.makeconftest(
        """
        from pytest_tempres.artifacts import export as module

        def export(*args, **more):
            raise RuntimeError("oops")

        module.export = export
        """
    )
    pytester.makepyfile("def test(temp_dir): assert 0")
    result = run_plain("--tempres-artifacts=out")
    result.assert_outcomes(failed=1, warnings=1)
    result.stdout.fnmatch_lines(
        ["*error while copying artifacts: *oops*", "kept: *", "=* no leaks; 1 path kept =*"]
    )


def test_artifacts_directory_may_contain_tests(pytester, run_plain):
    """Only the copies are ignored when tests are collected."""
    pytester.makepyfile(test_a="def test(): pass")
    result = run_plain("--tempres-artifacts=.")
    result.assert_outcomes(passed=1)
