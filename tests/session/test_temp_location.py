from __future__ import annotations

import atexit
import copy
import getpass
import os
from pathlib import Path
import pickle
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


def test_temp_location_is_the_worker_root(pytester, run, system_tmp, monkeypatch):
    """Python, subprocesses and readers of the environment variables find it."""
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
    """However a session in this process ends, it restores all that it changed."""
    monkeypatch.setenv("TEMP", "/elsewhere")
    monkeypatch.delenv("TMP", raising=False)
    pytester.makeconftest(conftest)
    pytester.makepyfile("import tempfile\ndef test_it(temp_dir): tempfile.mkdtemp()")
    before = location()
    result = run_here(*args)
    assert ("[100%]" in result.stdout.str()) is passed
    monkeypatch.setenv("TEMP", "/elsewhere")
    assert location() == before


AS_THE_ORIGINAL = """
import atexit, copy, functools, inspect, pickle, pydoc, types
from unittest import mock
import pytest

# The original, which no test has replaced: a second module has functions of its own.
spec = atexit.__spec__
fresh = spec.loader.create_module(spec)
spec.loader.exec_module(fresh)
names = pytest.mark.parametrize("name", ["register", "unregister"])

def signature(function):
    try:
        return inspect.signature(function)
    except ValueError as error:
        return str(error).partition(" 0x")[0]

@names
def test_what_it_says_of_itself(name):
    ours, original = getattr(atexit, name), getattr(fresh, name)
    assert type(ours) is not type(original), "nothing stands in its place"
    for each in ("__module__", "__name__", "__qualname__", "__doc__", "__text_signature__"):
        assert getattr(ours, each) == getattr(original, each)
    assert signature(ours) == signature(original)
    assert ours.__self__ is atexit
    assert isinstance(ours, types.BuiltinFunctionType) and inspect.isbuiltin(ours)
    assert inspect.getmodule(ours) is atexit
    assert repr(ours) == repr(original)
    assert dir(ours) == dir(original)
    assert pydoc.render_doc(ours) == pydoc.render_doc(original)
    assert functools.wraps(ours)(lambda: None).__name__ == name

@names
def test_copies(name):
    ours = getattr(atexit, name)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(ours, protocol)) is ours
        assert pickle._loads(pickle._dumps(ours, protocol)) is ours
    assert copy.copy(ours) is ours
    assert copy.deepcopy([ours])[0] is ours
    assert ours == ours and hash(ours) == hash(ours) and ours in {ours: 1}
    assert ours != getattr(fresh, name) and ours != None

@names
def test_patches(name, monkeypatch):
    ours = getattr(atexit, name)
    for options in ({}, {"autospec": True}, {"spec": True}):
        with mock.patch(f"atexit.{name}", **options) as replaced:
            getattr(atexit, name)(len)
            replaced.assert_called_once_with(len)
        assert getattr(atexit, name) is ours
    with monkeypatch.context() as patch:
        patch.setattr(f"atexit.{name}", len)
        assert getattr(atexit, name) is len
    assert getattr(atexit, name) is ours

def test_use():
    @atexit.register
    def function(): pass
    assert callable(function)
    assert atexit.register(function, 1, a=2) is function
    assert atexit.unregister(function) is None

    class Holder:
        register = atexit.register

    assert Holder().register(function) is function, "it is bound to nothing"
    atexit.unregister(function)

@names
@pytest.mark.parametrize("args, kwargs", [((), {}), ((), {"func": len}), ((1,), {}), ((1, 2), {})])
def test_misuse(name, args, kwargs):
    seen = []
    for function in (getattr(atexit, name), getattr(fresh, name)):
        try:
            seen.append(function(*args, **kwargs))
        except TypeError as error:
            seen.append(str(error))
    assert seen[0] == seen[1]
"""


def test_replacement_of_atexit_register_looks_like_the_original(pytester, run):
    """A test that inspects, copies, patches or uses it notices no difference."""
    pytester.makepyfile(AS_THE_ORIGINAL)
    result = run("-W", "error")
    result.assert_outcomes(passed=15)


def test_replacement_of_atexit_register_works_after_the_session(pytester, run_here):
    """A test or an imported module may keep a reference to it."""
    pytester.makepyfile(
        """
        import atexit

        def test_it():
            atexit.kept_by_test = atexit.register, atexit.unregister
        """
    )
    before = atexit.register, atexit.unregister
    run_here().assert_outcomes(passed=1)
    kept = atexit.__dict__.pop("kept_by_test")
    assert kept == before
    assert kept[0] is not before[0]
    for ours, original in zip(kept, before, strict=True):
        assert pickle.loads(pickle.dumps(ours)) is original
        assert copy.copy(ours) is copy.deepcopy(ours) is original
    called = []
    register, unregister = kept
    assert register(called.append) == called.append
    unregister(called.append)
    # It refers to nothing of the session any more.
    assert vars(register)["_target"] is before[0]


def test_temp_location_changed_by_a_test_is_restored(pytester, run_here):
    """The change does not outlive the session."""
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


def test_help_and_version_create_nothing(pytester, run_here):
    """They run no tests, so no directory is created and the temp location is not moved."""
    seen = "import pathlib, tempfile; pathlib.Path('here').write_text(tempfile.gettempdir())"
    pytester.makeconftest(seen)
    for args in (["--help"], ["--version", "--version"]):
        assert run_here(*args).ret == 0
        assert (pytester.path / "here").read_text() == tempfile.gettempdir()


def test_tmp_path_keeps_its_own_location(
    pytester, mode, system_tmp, two_workers, plain_options, monkeypatch
):
    """`tmp_path` stays where pytest creates it, with pytest's retention."""
    monkeypatch.delenv("PYTEST_DEBUG_TEMPROOT")
    pytester.makepyfile(
        """
        def test_it(tmp_path, tmp_path_factory, temp_dir):
            (tmp_path / "file").write_text("x")
            tmp_path_factory.mktemp("other")
        """
    )
    workers = two_workers if mode == "xdist" else ()
    command = (sys.executable, "-m", "pytest", *plain_options, *workers)
    for _ in range(2):
        result = pytester.run(*command, "--tempres-leaks=fail", "-W", "error")
        assert result.ret == 0
        result.stdout.no_fnmatch_line("*temporary resources*")
    (place,) = system_tmp.iterdir()
    assert place.name == f"pytest-of-{getpass.getuser()}"
    sessions = sorted(path.name for path in place.iterdir() if not path.is_symlink())
    assert sessions == ["pytest-0", "pytest-1"], "the last three sessions stay"
    found = {str(path.relative_to(place)) for path in place.glob("pytest-[01]/**/file")}
    if mode == "plain":
        assert found == {"pytest-0/test_it0/file", "pytest-1/test_it0/file"}
    else:
        assert {part.split("/")[1][:-1] for part in found} == {"popen-gw"}
        assert len(found) == 2


def test_without_redirect_the_temp_location_is_unchanged(pytester, run_with_report, system_tmp):
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
    result, report = run_with_report("--tempres-leaks=fail")
    result.assert_outcomes(passed=1)
    assert result.ret == 1
    (leak,) = report["leaks"]
    assert os.path.basename(leak["path"]).startswith("seen-")
    assert leak["owner"]["kind"] == "test"
    assert leak["origin"]
    assert sorted(path.name[:5] for path in system_tmp.iterdir()) == ["seen-", "unsee"]


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
@pytest.mark.parametrize(
    "root_mode, session, worker",
    [
        (None, 0o711 if os.geteuid() == 0 else 0o700, 0o711 if os.geteuid() == 0 else 0o700),
        ("0700", 0o700, 0o700),
        ("0711", 0o711, 0o711),
        ("0755", 0o755, 0o755),
        ("1777", 0o711, 0o1777),
    ],
)
def test_root_mode_sets_the_permissions(pytester, run, system_tmp, root_mode, session, worker):
    """`tempres_root_mode` decides who may enter the roots, whatever the umask is."""
    pytester.makeini("[pytest]\n" + (f"tempres_root_mode = {root_mode}" if root_mode else ""))
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


def test_symlinked_temp_directory_is_not_resolved(
    pytester, run_with_report, tmp_path_factory, monkeypatch
):
    """It keeps its spelling, and entries are found by both spellings."""
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
    result, report = run_with_report("--dist=loadfile")
    result.assert_outcomes(passed=2)
    names = sorted(os.path.basename(leak["path"]).partition("-")[0] for leak in report["leaks"])
    assert names == ["asgiven", "resolved"]
    assert all(leak["path"].startswith(str(link)) for leak in report["leaks"])
    assert all(leak["origin"] for leak in report["leaks"])
    assert not list((real / "place").iterdir())
