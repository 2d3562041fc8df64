from __future__ import annotations

import json
import os
import sys

import pytest

#: The ids of tests if pytest is configured not to escape them.
IDS = {
    "long": "x" * 10_000,
    "newlines": "a\nb\r\nc\u2028d\x85e",
    "slashes": "../../etc/passwd",
    "escapes": "\x1b[2J\x1b[31mred\x07\x08",
    "letters": "\u65e5\u672c\u8a9e \u202edrow \U0001f389 e\u0301",
    "nul": "a\0b",
    "brackets": "]x[::y::",
    "blank": " ",
    "shell": "'\"`$(id)`-rf *",
    "delete": "\x7f",
}
#: What no channel of execnet carries, and no cache of pytest either.
SURROGATES = {"byte": "caf\udce9"}
RAW = "disable_test_id_escaping_and_forfeit_all_rights_to_community_support"


def told_of(pytester, result):
    """Return the JSON report and the index, and check that nothing raw was printed by us."""
    report = json.loads((pytester.path / "report.json").read_text())
    assert "INTERNALERROR" not in f"{result.stdout}{result.stderr}"
    ours = result.stdout.str().partition("= temporary resources =")[2].partition("= short test")[0]
    assert ours
    for raw in ("\x1b[2J", "\x1b[31m", "\x07", "\0", "\u202e", "\x85", "\r\n", "\udce9"):
        assert raw not in ours.replace("\r\n", "\n") or raw == "\r\n"
    return report


def test_node_ids_with_any_characters(pytester, run, mode, system_tmp):
    """Leaks and kept paths are reported, printed safely, and found again."""
    ids = {**IDS, **(SURROGATES if mode == "plain" and sys.platform != "win32" else {})}
    pytester.makeini(f"[pytest]\n{RAW} = true\n")
    pytester.makepyfile(
        f"""
        import tempfile
        import pytest
        IDS = {ids!a}

        @pytest.mark.parametrize("x", IDS.values(), ids=IDS.values())
        def test_it(x, temp_dir):
            tempfile.mkdtemp(prefix="left-")

        @pytest.mark.parametrize("x", IDS.values(), ids=IDS.values())
        def test_fails(x, temp_dir):
            pytest.fail("so it is kept", pytrace=False)
        """
    )
    # pytest's own cache and the short summary take no surrogates.
    args = ("-p", "no:cacheprovider", "--tb=no", "-rN", "--tempres-report=json:report.json")
    result = run(*args, "--tempres-leaks=fail")
    result.assert_outcomes(passed=len(ids), failed=len(ids))
    report = told_of(pytester, result)
    assert report["totals"]["leaks"] == report["totals"]["kept"] == len(ids)
    shown = [text.encode("utf-8", "surrogateescape") for text in ids.values()]
    shown = {text.decode("utf-8", "backslashreplace").replace("\0", "\0") for text in shown}
    names = {leak["owner"]["id"].partition("test_it[")[2][:-1] for leak in report["leaks"]}
    assert names == shown
    (root,) = system_tmp.glob("tempres-*")
    index = json.loads((root / "index.json").read_text())["kept"]
    assert {nodeid.partition("test_fails[")[2][:-1] for nodeid in index} == set(ids.values())
    on_disk = {str(path) for path in root.glob("*.d/*")}
    assert {path for paths in index.values() for path in paths} == on_disk
    names = {os.path.basename(path) for path in on_disk}
    assert all(name.isascii() and name.isprintable() and len(name) <= 33 for name in names)


def test_test_files_with_any_name(pytester, run, mode, system_tmp):
    """They own what they leave, also what their import leaves."""
    if sys.platform in ("win32", "darwin"):
        pytest.skip("these names are not possible on this system")
    names = ["new\nline", "red\x1b[31m", "\u65e5\u672c", "bl ank", "semi;colon'", "n" * 200]
    if mode == "plain":
        names.append("caf\udce9")
    for name in names:
        (pytester.path / f"test_{name}.py").write_text(
            "import tempfile\n"
            "tempfile.mkdtemp(prefix='import-')\n"
            "def test_it(temp_dir):\n    tempfile.mkdtemp(prefix='left-')\n"
            "def test_fails(temp_dir):\n    assert 0\n",
            encoding="utf-8",
        )
    # The bytes of a name would be in the progress, and pytester reads text alone.
    args = ("-q", "-p", "no:cacheprovider", "--tb=no", "-rN", "--import-mode=importlib")
    result = run(*args, "--tempres-report=json:report.json")
    result.assert_outcomes(passed=len(names), failed=len(names))
    report = told_of(pytester, result)
    kinds = [leak["owner"]["kind"] for leak in report["leaks"]]
    assert kinds.count("test") == report["totals"]["kept"] == len(names)
    assert kinds.count("collection") == len(names) * (1 if mode == "plain" else 2)
    (root,) = system_tmp.glob("tempres-*")
    assert len(json.loads((root / "index.json").read_text())["kept"]) == len(names)


def test_temp_directory_with_any_name(pytester, run, tmp_path, monkeypatch):
    """A temp directory whose name is not UTF-8 crashes no worker and loses no failure."""
    if sys.platform in ("win32", "darwin"):
        pytest.skip("these names are not possible on this system")
    place = os.path.join(os.fsencode(tmp_path), b"caf\xe9\x1b[2J\n")
    os.mkdir(place)
    monkeypatch.setenv("TMPDIR", os.fsdecode(place))
    pytester.makepyfile(
        """
        import tempfile

        def test_it(): tempfile.mkdtemp(prefix="left-")
        def test_fails(temp_dir): raise RuntimeError
        """
    )
    base = f"--basetemp={pytester.path / 'base'}"
    result = run(base, "--tempres-report=json:report.json", "--dist=loadfile")
    result.assert_outcomes(passed=1, failed=1, warnings=result.parseoutcomes().get("warnings", 0))
    report = told_of(pytester, result)
    assert report["totals"]["leaks"] == report["totals"]["kept"] == 1
    failure = result.stdout.str().partition("- temporary resources -")[2].partition("\n=")[0]
    assert r"caf\xe9\x1b[2J\n" in failure


def test_warning_about_a_path_with_any_name(pytester, run):
    """It is one line of text, which a worker can send to its controller."""
    if sys.platform in ("win32", "darwin"):
        pytest.skip("these names are not possible on this system")
    pytester.makepyfile(
        r"""
        import shutil, tempfile
        from pathlib import Path
        import pytest

        @pytest.mark.tempdir(prefix="caf\udce9\x1b[2J\n")
        def test_it(temp_dir, monkeypatch, pytestconfig):
            from pytest_tempres.session.state import session_key
            state = pytestconfig.stash[session_key]
            state.messages.warn("test", f"could not remove {temp_dir}")
        """
    )
    result = run()
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines([r"*could not remove *caf\xe9\x1b[[]2J\n*"])
