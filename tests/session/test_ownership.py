from __future__ import annotations

import os
import sys
import tempfile

import pytest


def by_prefix(report):
    """Return the records of a report by what their path is called before its first dash."""
    return {os.path.basename(leak["path"]).partition("-")[0]: leak for leak in report["leaks"]}


def owner_of(leak):
    """Return who owns a record: kind, id and scope."""
    return leak["owner"]["kind"], leak["owner"]["id"], leak["owner"]["scope"]


def line_of(path, text):
    """Return the number of the first line of a file that contains *text*."""
    lines = path.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_fixtures_own_what_their_setup_and_teardown_create(pytester, report, nothing_left):
    """Setup and teardown of each scope belong to the fixture, whichever test is running."""
    scopes = ("function", "class", "module", "package", "session")
    fixtures = "".join(
        f"""
@pytest.fixture(scope="{scope}")
def {scope}_fixture():
    tempfile.mkdtemp(prefix="{scope}Setup-")
    yield
    tempfile.mkdtemp(prefix="{scope}Teardown-")
"""
        for scope in scopes
    )
    pytester.makeconftest("import tempfile, pytest\n" + fixtures)
    path = pytester.makepyfile(
        """
        import os, tempfile

        def test_wide(session_fixture, package_fixture, module_fixture):
            tempfile.mkstemp(prefix="own-")

        class TestIt:
            def test_narrow(self, class_fixture, function_fixture, module_fixture):
                pass

        def test_dynamic(request):
            request.getfixturevalue("function_fixture")
            tempfile.mkdtemp(prefix="after-")
        """
    )
    found = report("--dist=loadfile")
    leaks = by_prefix(found)
    assert len(found["leaks"]) == 2 * len(scopes) + 2 + 2
    for scope in scopes:
        line = line_of(pytester.path / "conftest.py", f'scope="{scope}"')
        for end in ("Setup", "Teardown"):
            leak = leaks[f"{scope}{end}"]
            assert owner_of(leak) == ("fixture", f"{scope}_fixture", scope)
            assert leak["owner"]["location"] == f"conftest.py:{line}"
            assert leak["phase"] == end.lower()
            assert leak["origin"][0]["function"] == f"{scope}_fixture"
    for name, test in (("own", "test_wide"), ("after", "test_dynamic")):
        leak = leaks[name]
        assert owner_of(leak) == ("test", f"{path.name}::{test}", None)
        assert leak["owner"]["location"] == f"{path.name}:{line_of(path, f'def {test}')}"
        assert leak["phase"] == "call"
    assert leaks["own"]["kind"] == "file"
    nothing_left()


def test_a_leak_has_the_time_at_which_it_appeared(pytester, report):
    """Workers send it to the controller."""
    pytester.makepyfile("import tempfile\ndef test_it(): tempfile.mkdtemp()")
    found = report()
    (leak,) = found["leaks"]
    assert 0 < leak["seconds"] <= found["session"]["seconds"]


def test_fixture_that_cleans_up_at_its_teardown_leaks_nothing(
    pytester, run_with_report, nothing_left
):
    """What a fixture creates expires at the end of its scope, not of a test."""
    pytester.makepyfile(
        """
        import os, shutil, subprocess, sys, tempfile
        import pytest

        @pytest.fixture(scope="module", params=[1, 2])
        def module_dir():
            path = tempfile.mkdtemp()
            yield path
            shutil.rmtree(path)

        @pytest.fixture(scope="session")
        def session_file():
            subprocess.run([sys.executable, "-S", "-c", "import os; open(os.environ['TMPDIR'] + "
                            "'/shared', 'w').close()"], check=True)
            yield os.path.join(tempfile.gettempdir(), "shared")
            os.unlink(os.path.join(tempfile.gettempdir(), "shared"))

        @pytest.fixture(scope="class")
        def finalizer(request):
            path = tempfile.mkdtemp()
            request.addfinalizer(lambda: shutil.rmtree(path))

        @pytest.mark.parametrize("number", range(3))
        def test_it(module_dir, session_file, number):
            open(os.path.join(module_dir, str(number)), "w").close()
            assert os.path.exists(session_file)

        class TestIt:
            def test_one(self, finalizer): pass
            def test_two(self, finalizer): pass
        """
    )
    result, report = run_with_report("-W", "error", "--tempres-leaks=fail")
    result.assert_outcomes(passed=8)
    assert result.ret == 0
    assert report["leaks"] == []
    result.stdout.no_fnmatch_line("*temporary resources*")
    nothing_left()


def test_xunit_and_unittest_setup(pytester, report, nothing_left):
    """Setup of a class or module is a fixture named after the method; `setUp` is the test's."""
    path = pytester.makepyfile(
        """
        import tempfile, unittest

        def setup_module():
            tempfile.mkdtemp(prefix="setupModule-")

        def teardown_module():
            tempfile.mkdtemp(prefix="teardownModule-")

        class TestPlain:
            @classmethod
            def setup_class(cls):
                tempfile.mkdtemp(prefix="setupClass-")

            def setup_method(self):
                tempfile.mkdtemp(prefix="setupMethod-")

            def test_it(self): pass

        class Case(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                tempfile.mkdtemp(prefix="unittestClass-")

            def setUp(self):
                tempfile.mkdtemp(prefix="unittestSetUp-")

            def tearDown(self):
                tempfile.mkdtemp(prefix="unittestTearDown-")

            def test_it(self):
                tempfile.mkdtemp(prefix="unittestBody-")
        """
    )
    leaks = by_prefix(report("--dist=loadfile"))
    plain, case = (f"{path.name}::{name}::test_it" for name in ("TestPlain", "Case"))
    assert {name: owner_of(leak) for name, leak in leaks.items()} == {
        "setupModule": ("fixture", "setup_module", "module"),
        "teardownModule": ("fixture", "setup_module", "module"),
        "setupClass": ("fixture", "setup_class", "class"),
        "setupMethod": ("test", plain, None),
        "unittestClass": ("fixture", "setUpClass", "class"),
        "unittestSetUp": ("test", case, None),
        "unittestTearDown": ("test", case, None),
        "unittestBody": ("test", case, None),
    }
    nothing_left()


def test_owners_of_imports_and_start_up(pytester, run_with_report, nothing_left):
    """A module's import belongs to its collection; initial conftests and plugins to the session."""
    pytester.makeconftest(
        """
        import tempfile
        tempfile.mkdtemp(prefix="initial-")
        """
    )
    pytester.makepyfile(
        starter="""
        import tempfile

        def pytest_configure(config):
            tempfile.mkdtemp(prefix="configure-")

        def pytest_sessionstart(session):
            tempfile.mkdtemp(prefix="start-")

        def pytest_sessionfinish(session):
            tempfile.mkdtemp(prefix="finish-")
        """
    )
    sub = pytester.mkdir("tests").joinpath("sub")
    sub.mkdir()
    sub.joinpath("conftest.py").write_text("import tempfile; tempfile.mkdtemp(prefix='later-')")
    text = "import tempfile; tempfile.mkstemp(prefix='module-')\ndef test_it(): pass\n"
    sub.joinpath("test_sub.py").write_text(text)
    result, report = run_with_report("-p", "starter", "tests")
    result.assert_outcomes(passed=1)
    owners = {name: owner_of(leak)[:2] for name, leak in by_prefix(report).items()}
    assert owners.pop("later")[0] == "collection"
    assert owners == {
        "initial": ("session", "session"),
        "configure": ("session", "session"),
        "start": ("session", "session"),
        "finish": ("session", "session"),
        "module": ("collection", "tests/sub/test_sub.py"),
    }
    result.stdout.fnmatch_lines_random(
        ["collecting tests/sub/test_sub.py left *", "the session left*"]
    )
    nothing_left()


@pytest.mark.parametrize("mode", ["xdist"], indirect=True)
def test_leaks_that_every_worker_repeats_are_reported_once(pytester, run_with_report, nothing_left):
    """Imports and session fixtures run in each worker: one line names all the workers."""
    pytester.makepyfile(
        """
        import tempfile
        import pytest
        tempfile.mkdtemp(prefix="module-")

        @pytest.fixture(scope="session", autouse=True)
        def shared():
            tempfile.mkdtemp(prefix="shared-")

        @pytest.mark.parametrize("number", range(8))
        def test_it(number): pass
        """
    )
    result, report = run_with_report("--dist=each")
    assert len(report["leaks"]) == 4
    result.stdout.fnmatch_lines_random(
        [
            "collecting *",
            "  left 2 directories (empty) in gw0, gw1",
            "fixture shared (*",
        ]
    )
    assert result.stdout.str().count("collecting test_") == 1
    assert {leak["worker"] for leak in report["leaks"]} == {"gw0", "gw1"}
    assert len({leak["fingerprint"] for leak in report["leaks"]}) == 2
    nothing_left()


def test_origin_is_the_line_that_created_the_entry(pytester, run_with_report, nothing_left):
    """The library's line comes first, then the test's; both relative to rootdir."""
    library = pytester.mkpydir("library").joinpath("export.py")
    library.write_text(
        "import tempfile\n\n"
        "def build():\n    return tempfile.mkdtemp()\n\n"
        "class Exporter:\n    def run(self):\n        return build()\n"
    )
    path = pytester.makepyfile(
        """
        import os
        from library.export import Exporter

        def helper():
            path = Exporter().run()
            open(os.path.join(path, "large"), "wb").write(bytes(1234567))
            os.mkdir(os.path.join(path, "sub"))
            open(os.path.join(path, "sub", "small"), "wb").write(bytes(7))

        def test_it():
            helper()
        """
    )
    result, report = run_with_report("-W", "ignore::ResourceWarning")
    (leak,) = report["leaks"]
    frames = [f"{f['file']}:{f['line']} {f['function']}" for f in leak["origin"]]
    assert frames == [
        "library/export.py:4 build",
        "library/export.py:8 run",
        f"{path.name}:5 helper",
        f"{path.name}:11 test_it",
    ]
    assert (leak["bytes"], leak["items"], leak["complete"]) == (1234574, 2, True)
    assert leak["made_by"] == "python"
    result.stdout.fnmatch_lines(
        [
            "test_origin_is*::test_it",
            "  left 1 directory (2 files, 1.2 MB)",
            "  tempres-*/*/tmp*",
            "    library/export.py:4 in build",
            "    library/export.py:8 in run",
            f"    {path.name}:5 in helper",
            f"    {path.name}:11 in test_it",
            "*1 leak from 1 test, 1.2 MB; removed*",
        ]
    )
    nothing_left()


def test_entries_created_by_subprocesses_are_marked(pytester, run_with_report, nothing_left):
    """They belong to the test, have no origin, and name the last command."""
    path = pytester.makepyfile(
        f"""
        import subprocess

        def test_it():
            code = "import tempfile; tempfile.mkdtemp(prefix='child-')"
            subprocess.run([{sys.executable!r}, "-c", code], check=True)

        def test_shell():
            subprocess.run("touch $TMPDIR/shell-file", shell=True, check=True)
        """
    )
    result, report = run_with_report()
    leaks = by_prefix(report)
    assert owner_of(leaks["child"]) == ("test", f"{path.name}::test_it", None)
    assert owner_of(leaks["shell"]) == ("test", f"{path.name}::test_shell", None)
    for leak in leaks.values():
        assert (leak["made_by"], leak["origin"]) == ("other", [])
    result.stdout.fnmatch_lines(
        [
            "    made by a subprocess or native code",
            "    last process: sh -c 'touch $TMPDIR/shell-file'",
        ]
    )
    nothing_left()


def test_each_way_to_create_an_entry(pytester, report, nothing_left):
    """Files, links, sockets, fifos, copies and renames are found, with their kind and owner."""
    path = pytester.makepyfile(
        """
        import os, shutil, socket, sqlite3, tempfile
        from pathlib import Path
        import pytest

        @pytest.fixture(scope="module")
        def made_early():
            os.mkdir(os.path.join(tempfile.gettempdir(), "first-"))

        def test_it(made_early):
            there = Path(tempfile.gettempdir())
            (there / "file-").write_text("12345")
            (there / "link-").symlink_to("/nowhere")
            os.link(there / "file-", there / "hardlink-")
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(there / "socket-"))
            os.mkfifo(there / "fifo-")
            shutil.copy(there / "file-", there / "copy-")
            sqlite3.connect(there / "database-").close()
            shutil.copytree(there / "first-", there / "tree-")
            (there / "scratch-").mkdir()
            os.rename(there / "scratch-", there / "renamed-")
            os.rename(there / "first-", there / "second-")
            (there / "deep-").mkdir()
            (there / "deep-" / "file").touch()
            (there / "gone-").touch()
            (there / "gone-").unlink()
        """
    )
    leaks = by_prefix(report())
    kinds = {name: leak["kind"] for name, leak in leaks.items()}
    assert kinds == {
        "file": "file",
        "link": "symlink",
        "hardlink": "file",
        "socket": "socket",
        "fifo": "fifo",
        "copy": "file",
        "database": "file",
        "tree": "directory",
        "renamed": "directory",
        "second": "directory",
        "deep": "directory",
    }
    # A renamed entry belongs to who made it.
    assert owner_of(leaks.pop("second")) == ("fixture", "made_early", "module")
    assert {owner_of(leak) for leak in leaks.values()} == {("test", f"{path.name}::test_it", None)}
    without = {name for name, leak in leaks.items() if not leak["origin"]}
    assert without == {"fifo"}, "fifos raise no event"
    assert leaks["file"]["bytes"] == 5
    nothing_left()


def test_temporary_paths_outside_the_root_are_reported_but_not_removed(
    pytester, run_with_report, nothing_left
):
    """What `mkdtemp(dir=...)` created elsewhere is a leak too, but not the plugin's to remove."""
    elsewhere = pytester.mkdir("elsewhere")
    pytester.makepyfile(
        f"""
        import os, shutil, tempfile
        ELSEWHERE = {str(elsewhere)!r}

        def test_it():
            tempfile.mkdtemp(dir=ELSEWHERE, prefix="stays-")
            os.close(tempfile.mkstemp(dir=ELSEWHERE, prefix="file-")[0])
            shutil.rmtree(tempfile.mkdtemp(dir=ELSEWHERE, prefix="gone-"))

        def test_adopted():
            os.rename(tempfile.mkdtemp(dir=ELSEWHERE), os.path.join(ELSEWHERE, "adopted"))

        def test_plain_directories_are_nobodys_business():
            os.mkdir(os.path.join(ELSEWHERE, "plain"))

        def test_below_what_others_look_after(tmp_path, temp_dir, pytestconfig):
            tempfile.mkdtemp(dir=tmp_path)
            tempfile.mkdtemp(dir=temp_dir)
            tempfile.mkdtemp(dir=pytestconfig.cache.mkdir("x"))
        """
    )
    result, report = run_with_report()
    result.assert_outcomes(passed=4)
    assert set(by_prefix(report)) == {"stays", "file"}
    assert owner_of(by_prefix(report)["stays"])[1].endswith("::test_it")
    prefixes = sorted(path.name.partition("-")[0] for path in elsewhere.iterdir())
    assert prefixes == ["adopted", "file", "plain", "stays"]
    result.stdout.fnmatch_lines(
        [f"  {elsewhere.name}/stays-*", "*2 leaks from 1 test*; not removed, since outside*"]
    )
    nothing_left()


def test_marker_ini_file_and_hook_ignore_leaks(pytester, run_with_report, nothing_left):
    """Each of the three can exclude an entry from the report."""
    pytester.makeini("[pytest]\ntempres_ignore =\n    by-ini-*\n    other-*.log\n")
    pytester.makeconftest(
        """
        def pytest_tempres_ignore_leak(leak):
            assert leak.status == "leak"
            return True if "byhook" in leak.path else None
        """
    )
    pytester.makepyfile(
        """
        import tempfile
        import pytest
        pytestmark = pytest.mark.tempres_ignore("by-module-*")

        @pytest.mark.tempres_ignore("by-mark-*", "also-*", reason="the library's cache")
        def test_marked():
            for prefix in ("by-mark-", "also-", "by-module-", "told_one-"):
                tempfile.mkdtemp(prefix=prefix)

        def test_others():
            tempfile.mkdtemp(prefix="by-ini-")
            tempfile.mkdtemp(prefix="byhook-")
            tempfile.mkstemp(prefix="other-", suffix=".log")
            tempfile.mkstemp(prefix="told_two-", suffix=".log")
            tempfile.mkdtemp(prefix="by-module-")

        @pytest.mark.tempres_ignore("x")
        def test_marks_are_for_their_test_alone():
            tempfile.mkdtemp(prefix="by-mark-")
        """
    )
    _, report = run_with_report()
    assert set(by_prefix(report)) == {"told_one", "told_two", "by"}
    assert report["totals"]["leaks"] == 3
    nothing_left()


def test_scan_works_while_a_test_replaces_functions(pytester, report, nothing_left):
    """A scan during a test that has replaced `os.fspath` finds and ignores as usual."""
    pytester.makeini("[pytest]\ntempres_ignore = wanted-*\n")
    pytester.makepyfile(
        """
        import os, tempfile
        import pytest
        HERE = os.path.join(tempfile.gettempdir(), "")

        @pytest.fixture
        def last():
            yield
            os.mkdir(f"{HERE}fixture-x")

        @pytest.mark.tempres_ignore("marked-*")
        def test_it(monkeypatch, last):
            tempfile.mkdtemp(prefix="before-")
            for name in ("fspath", "fsdecode", "lstat"):
                monkeypatch.setattr(os, name, None)
            for name in ("join", "isabs", "normcase"):
                monkeypatch.setattr(os.path, name, None)
            for name in ("while", "wanted", "marked"):
                os.mkdir(f"{HERE}{name}-x")
        """
    )
    found = by_prefix(report("-W", "error"))
    made = {name: leak["origin"][0]["function"] for name, leak in found.items()}
    assert made == {"before": "test_it", "while": "test_it", "fixture": "last"}
    nothing_left()


def test_origin_in_the_standard_library_if_no_other_line_exists(pytester, report, nothing_left):
    """A pool that calls `mkdtemp` directly has no line of the suite on its stack."""
    pytester.makepyfile(
        """
        import asyncio, tempfile

        def test_it():
            async def leaves():
                await asyncio.to_thread(tempfile.mkdtemp)

            asyncio.run(leaves())
        """
    )
    (leak,) = report()["leaks"]
    (frame,) = leak["origin"]
    assert (frame["file"], frame["function"]) == (tempfile.__file__, "mkdtemp")
    nothing_left()


@pytest.fixture
def environment(pytester, monkeypatch):
    """A directory of installed packages, in which a plugin runs each test in a thread."""
    site = pytester.mkdir("env") / "site-packages"
    metadata = site / "pytest_threads-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Name: pytest-threads\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[pytest11]\nthreads = pytest_threads.plugin\n")
    package = site / "pytest_threads"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(RUNS_IN_A_THREAD)
    (package / "runner.py").write_text("def call(function, **given): function(**given)\n")
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    return site


RUNS_IN_A_THREAD = """
import tempfile, threading
import pytest
from pytest_threads.runner import call

def pytest_pyfunc_call(pyfuncitem):
    given = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    thread = threading.Thread(target=call, args=(pyfuncitem.obj,), kwargs=given)
    thread.start()
    thread.join()
    return True

@pytest.fixture
def careless(): return tempfile.mkdtemp(prefix="plugin-")
"""


def test_origin_omits_lines_of_installed_plugins(pytester, report, nothing_left, environment):
    """If a plugin calls the test, only the lines of the project are reported."""
    pytester.makeconftest(
        """
        import tempfile
        import pytest

        @pytest.fixture
        def made(): return tempfile.mkdtemp(prefix="conftest-")
        """
    )
    path = pytester.makepyfile(
        """
        import tempfile

        def test_it(careless, made):
            tempfile.mkdtemp(prefix="test-")
        """
    )
    found = by_prefix(report())
    assert found["test"]["origin"] == [{"file": path.name, "line": 4, "function": "test_it"}]
    assert found["conftest"]["origin"][0]["file"] == "conftest.py"
    # No line of the project is on the stack, so the plugin's own is reported.
    (frame,) = found["plugin"]["origin"]
    assert frame["function"] == "careless"
    assert found["plugin"]["owner"]["location"].startswith("env")
    nothing_left()


@pytest.mark.parametrize("place", ["", "src"])
def test_origin_contains_lines_of_a_plugin_in_rootdir(
    pytester, report, nothing_left, environment, place
):
    """A plugin that is developed in rootdir and installed for its tests is reported."""
    (pytester.path / place / "pytest_threads").mkdir(parents=True)
    pytester.makepyfile("import tempfile\ndef test_it(): tempfile.mkdtemp()")
    (leak,) = report("--import-mode=importlib")["leaks"]
    functions = [frame["function"] for frame in leak["origin"]]
    assert functions == ["test_it", "call"]
    nothing_left()


def test_threads_belong_to_the_running_test(pytester, report, nothing_left):
    """A thread's entry belongs to the test, with the thread's own stack as its origin."""
    path = pytester.makepyfile(
        """
        import tempfile, threading

        def work():
            tempfile.mkdtemp(prefix="thread-")

        def test_it():
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        """
    )
    (leak,) = report()["leaks"]
    assert owner_of(leak) == ("test", f"{path.name}::test_it", None)
    assert leak["origin"][0] == {"file": path.name, "line": 4, "function": "work"}
    nothing_left()
