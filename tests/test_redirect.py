from __future__ import annotations

import atexit
import getpass
import os
from pathlib import Path
import stat
import sys
import tempfile

import pytest

from pytest_tempres import primitives


def location():
    """Return all that a session moves."""
    variables = ("TMPDIR", "TEMP", "TMP", "PYTEST_TEMPRES_SYSTEM_TMPDIR")
    return (
        tempfile.tempdir,
        primitives.tempdir,
        atexit.register,
        atexit.unregister,
        *(os.environ.get(name) for name in variables),
    )


def test_temp_location_lies_in_the_worker_root(pytester, run, system_tmp, monkeypatch):
    """Python, subprocesses and whoever reads a variable find the worker root."""
    monkeypatch.setenv("TEMP", "/elsewhere")
    monkeypatch.delenv("TMP", raising=False)
    pytester.makepyfile(
        f"""
        import os, re, subprocess, sys, tempfile
        from pytest_tempres import primitives
        SYSTEM = {str(system_tmp)!r}

        def test_it():
            here = tempfile.gettempdir()
            assert re.fullmatch(
                re.escape(SYSTEM) + r"/tempres-[a-z0-9_]{{8}}/(main|gw[01])", here
            )
            assert len(here) - len(SYSTEM) <= 24, "leaves room for the paths of sockets"
            assert os.environ["TMPDIR"] == os.environ["TEMP"] == here
            assert primitives.gettempdir() == primitives.tempdir == tempfile.tempdir == here
            assert "TMP" not in os.environ
            assert os.environ["PYTEST_TEMPRES_SYSTEM_TMPDIR"] == SYSTEM
            code = "import tempfile; print(tempfile.gettempdir(), end='')"
            assert subprocess.check_output([sys.executable, "-c", code], text=True) == here
            assert subprocess.check_output(["mktemp", "-u"], text=True).startswith(here)
            assert os.stat(here).st_mode & 0o077 == os.stat(here + ".d").st_mode & 0o077
        """
    )
    run("-W", "error").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "conftest, args, passed",
    [
        ("", (), True),
        ("raise RuntimeError('broken')", (), False),
        ("", ("--tempres-keep=maybe",), False),
        ("", ("--no-such-option",), False),
        ("def pytest_configure(): raise RuntimeError('broken')", (), False),
        ("def pytest_sessionstart(): raise RuntimeError('broken')", (), False),
        ("def pytest_sessionfinish(): raise RuntimeError('broken')", (), True),
        ("import pytest\ndef pytest_collection(): pytest.exit('enough')", (), False),
        ("import os\nos.environ['TEMP'] = os.environ['TMPDIR'] = '/'", (), True),
    ],
)
def test_temp_location_is_restored(pytester, run_here, monkeypatch, conftest, args, passed):
    """However a session in this process ends, it puts back all that it moved."""
    monkeypatch.setenv("TEMP", "/elsewhere")
    monkeypatch.delenv("TMP", raising=False)
    pytester.makeconftest(conftest)
    pytester.makepyfile("import tempfile\ndef test_it(temp_dir): tempfile.mkdtemp()")
    before = location()
    result = run_here(*args)
    assert ("[100%]" in result.stdout.str()) is passed
    monkeypatch.setenv("TEMP", "/elsewhere")
    assert location() == before


def test_tests_that_change_the_location_are_undone(pytester, run_here):
    """What a test does to the temp location does not outlive the session."""
    pytester.makepyfile(
        """
        import os, tempfile
        from pytest_tempres import primitives

        def test_it():
            tempfile.tempdir = primitives.tempdir = os.environ["TMPDIR"] = "/"

        def test_unset(temp_dir):
            tempfile.tempdir = None
            del os.environ["TMPDIR"], os.environ["PYTEST_TEMPRES_SYSTEM_TMPDIR"]
        """
    )
    before = location()
    run_here().assert_outcomes(passed=2)
    assert location() == before


def test_help_and_version_move_nothing(pytester, run_here):
    """`--help` and `--version` run no tests, so nothing is made or moved for them."""
    seen = "import pathlib, tempfile; pathlib.Path('here').write_text(tempfile.gettempdir())"
    pytester.makeconftest(seen)
    for args in (["--help"], ["--version", "--version"]):
        assert run_here(*args).ret == 0
        assert (pytester.path / "here").read_text() == tempfile.gettempdir()


def test_tmp_path_keeps_its_own_location(pytester, how, system_tmp, monkeypatch):
    """`tmp_path` stays where pytest puts it, with pytest's retention."""
    monkeypatch.delenv("PYTEST_DEBUG_TEMPROOT")
    pytester.makepyfile(
        """
        def test_it(tmp_path, tmp_path_factory, temp_dir):
            (tmp_path / "file").write_text("x")
            tmp_path_factory.mktemp("other")
        """
    )
    workers = ("-n2",) if how == "xdist" else ()
    command = (sys.executable, "-m", "pytest", "-p", "no:randomly", *workers)
    for _ in range(2):
        result = pytester.run(*command, "--tempres-leaks=fail", "-W", "error")
        assert result.ret == 0
        result.stdout.no_fnmatch_line("*temporary resources*")
    (place,) = system_tmp.iterdir()
    assert place.name == f"pytest-of-{getpass.getuser()}"
    sessions = sorted(path.name for path in place.iterdir() if not path.is_symlink())
    assert sessions == ["pytest-0", "pytest-1"], "the last three sessions stay"
    found = {str(path.relative_to(place)) for path in place.glob("pytest-[01]/**/file")}
    if how == "plain":
        assert found == {"pytest-0/test_it0/file", "pytest-1/test_it0/file"}
    else:
        assert {part.split("/")[1][:-1] for part in found} == {"popen-gw"}
        assert len(found) == 2


def test_without_redirect_the_location_is_left_alone(pytester, told, system_tmp):
    """With `tempres_redirect=false` only audit events find leaks, and nothing is removed."""
    pytester.makeini("[pytest]\ntempres_redirect = false\n")
    pytester.makepyfile(
        f"""
        import os, subprocess, tempfile
        SYSTEM = {str(system_tmp)!r}

        def test_it(temp_dir):
            assert tempfile.gettempdir() == os.environ["TMPDIR"] == SYSTEM
            assert "PYTEST_TEMPRES_SYSTEM_TMPDIR" not in os.environ
            assert temp_dir.is_dir()
            tempfile.mkdtemp(prefix="seen-")
            open(os.path.join(SYSTEM, "unseen"), "w").close()
        """
    )
    result, report = told("--tempres-leaks=fail")
    result.assert_outcomes(passed=1)
    assert result.ret == 1
    (leak,) = report["leaks"]
    assert os.path.basename(leak["path"]).startswith("seen-")
    assert leak["owner"]["kind"] == "test"
    assert leak["origin"]
    assert sorted(path.name[:5] for path in system_tmp.iterdir()) == ["seen-", "unsee"]


@pytest.mark.parametrize("how", ["plain"], indirect=True)
@pytest.mark.parametrize(
    "mode, session, worker",
    [
        (None, 0o711 if os.geteuid() == 0 else 0o700, 0o711 if os.geteuid() == 0 else 0o700),
        ("0700", 0o700, 0o700),
        ("0711", 0o711, 0o711),
        ("0755", 0o755, 0o755),
        ("1777", 0o711, 0o1777),
    ],
)
def test_root_mode_sets_the_permissions(pytester, run, system_tmp, mode, session, worker):
    """Who else may enter the roots is said by `tempres_root_mode`, whatever the umask."""
    pytester.makeini("[pytest]\n" + (f"tempres_root_mode = {mode}" if mode else ""))
    pytester.makepyfile(
        """
        import os, tempfile
        def test_it(temp_dir):
            print("AT", tempfile.gettempdir())
            print("WORKER", oct(os.stat(tempfile.gettempdir()).st_mode & 0o7777))
            print("MINE", oct(temp_dir.stat().st_mode & 0o7777))
            assert 0
        """
    )
    before = os.umask(0o077)
    try:
        result = run()
    finally:
        os.umask(before)
    place = Path(next(x for x in result.stdout.lines if x.startswith("AT "))[3:])
    assert stat.S_IMODE(place.parent.stat().st_mode) == session
    assert f"WORKER {oct(worker)}" in result.stdout.lines
    result.stdout.fnmatch_lines(["MINE 0o700"])


def test_a_link_on_the_way_is_never_resolved(pytester, told, tmp_path_factory, monkeypatch):
    """A temp directory behind a link keeps its spelling, and both spellings are seen."""
    real = tmp_path_factory.mktemp("real")
    link = real / "link"
    (real / "place").mkdir()
    link.symlink_to(real / "place")
    monkeypatch.setenv("TMPDIR", str(link))
    pytester.makepyfile(
        f"""
        import os, tempfile
        LINK = {str(link)!r}

        def test_it(temp_dir):
            assert tempfile.gettempdir().startswith(LINK) and str(temp_dir).startswith(LINK)
            tempfile.mkdtemp(prefix="asgiven-")
            tempfile.mkdtemp(prefix="resolved-", dir=os.path.realpath(tempfile.gettempdir()))
            os.chdir(temp_dir)

        def test_cwd():
            assert os.path.isdir(os.getcwd())
        """
    )
    result, report = told("--dist=loadfile")
    result.assert_outcomes(passed=2)
    names = sorted(os.path.basename(leak["path"]).partition("-")[0] for leak in report["leaks"])
    assert names == ["asgiven", "resolved"]
    assert all(leak["path"].startswith(str(link)) for leak in report["leaks"])
    assert all(leak["origin"] for leak in report["leaks"])
    assert not list((real / "place").iterdir())
