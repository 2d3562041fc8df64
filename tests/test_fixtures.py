from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest


def test_each_fixture_creates_its_resource(pytester, run, nothing_left):
    """Each resource is outside the temp location, and is removed after the test."""
    pytester.makepyfile(
        """
        import os, pathlib, re, stat, tempfile
        import pytest

        def test_directory(temp_dir):
            assert isinstance(temp_dir, pathlib.Path) and not list(temp_dir.iterdir())
            assert stat.S_IMODE(temp_dir.stat().st_mode) == 0o700
            assert str(temp_dir.parent) == tempfile.gettempdir() + ".d"

        def test_files(temp_dir, temp_file, named_temp_file, spooled_file):
            for file in (temp_file, named_temp_file, spooled_file):
                file.write(b"text")
                file.seek(0)
                assert file.read() == b"text"
            path = pathlib.Path(named_temp_file.name)
            assert path.is_file() and path.parent == temp_dir.parent
            assert not list(temp_dir.iterdir()), "files lie beside the directory"
            assert not isinstance(temp_file.name, str), "no name: a descriptor"
            assert not spooled_file._rolled

        def test_same_for_one_test(temp_dir, request):
            assert request.getfixturevalue("temp_dir") is temp_dir

        @pytest.mark.parametrize("x", ["a/b", "\\N{SNOWMAN}", "..", "y" * 50])
        def test_of_a_name_that_is_long(temp_dir, x):
            assert re.fullmatch(r"[A-Za-z0-9_.-]+-[a-z0-9_]{8}", temp_dir.name)
            assert temp_dir.name[:-9] == "test_of_a_name_that_is_l"

        @pytest.mark.parametrize("x", ["\\N{SNOWMAN}/"])
        def test_t(temp_dir, named_temp_file, x):
            for path in (temp_dir, pathlib.Path(named_temp_file.name)):
                assert path.name.startswith("test_t_")
                assert re.fullmatch(r"[A-Za-z0-9_.-]{1,24}-[a-z0-9_]{8}", path.name)

        def test_factory(temp_resources):
            paths = [temp_resources.dir() for _ in range(3)]
            paths += [pathlib.Path(temp_resources.named_file().name) for _ in range(3)]
            assert len(set(paths)) == 6 and all(path.exists() for path in paths)
            files = [temp_resources.file(), temp_resources.spooled(content=b"x")]
            assert files[1].read() == b"x"
        """
    )
    run("-W", "error").assert_outcomes(passed=9)
    nothing_left()


def test_resources_are_closed_and_removed_after_the_test(pytester, run, nothing_left):
    """This happens before the next test starts."""
    pytester.makepyfile(
        """
        import os
        GIVEN = []

        def check():
            assert len(GIVEN) == 8
            assert all(thing.closed for thing in GIVEN if hasattr(thing, "closed"))
            assert not any(os.path.lexists(thing) for thing in GIVEN if isinstance(thing, str))

        def test_one(temp_dir, temp_file, named_temp_file, spooled_file, temp_resources):
            (temp_dir / "deep").mkdir()
            (temp_dir / "deep" / "file").write_text("x")
            os.symlink("/", temp_dir / "link")
            more = temp_resources.named_file(delete=False)
            GIVEN.extend([str(temp_dir), temp_file, named_temp_file, named_temp_file.name])
            GIVEN.extend([spooled_file, more, more.name, str(temp_resources.dir())])

        def test_two():
            check()
        """
    )
    run("-W", "error", "--dist=loadfile").assert_outcomes(passed=2)
    nothing_left()


def test_markers_configure_the_directory(pytester, run, nothing_left):
    """Each argument of `tempdir` does what the documentation says."""
    pytester.mkdir("elsewhere").joinpath("stays").write_text("x")
    data = pytester.mkdir("data")
    data.joinpath("one.txt").write_text("one")
    data.joinpath("sub").mkdir()
    data.joinpath("sub", "two.txt").write_text("two")
    pytester.makefile(".txt", single="single")
    pytester.makepyfile(
        f"""
        import os, re
        from pathlib import Path
        import pytest
        START = os.getcwd()
        ELSEWHERE = {str(pytester.path / "elsewhere")!r}

        @pytest.mark.tempdir(prefix="pre.", suffix=".d")
        def test_name(temp_dir):
            assert re.fullmatch(r"pre\\.[a-z0-9_]{{8}}\\.d", temp_dir.name)

        @pytest.mark.tempdir(dir=ELSEWHERE)
        def test_dir(temp_dir):
            assert str(temp_dir.parent) == ELSEWHERE
            (temp_dir / "file").touch()

        @pytest.mark.tempdir(copy="data")
        def test_copy_directory(temp_dir):
            assert (temp_dir / "one.txt").read_text() == "one"
            assert (temp_dir / "sub" / "two.txt").read_text() == "two"

        @pytest.mark.tempdir(copy=Path("single.txt"))
        def test_copy_file(temp_dir):
            assert [path.read_text() for path in temp_dir.iterdir()] == ["single"]

        @pytest.fixture
        def probe():
            yield
            assert os.getcwd() == START, "the last fixture set up is torn down first"

        @pytest.mark.tempdir(chdir=True)
        def test_chdir(probe, temp_dir):
            assert os.getcwd() == os.path.realpath(temp_dir)

        def test_back():
            assert os.getcwd() == START
        """
    )
    run("-W", "error").assert_outcomes(passed=6)
    assert [path.name for path in (pytester.path / "elsewhere").iterdir()] == ["stays"]
    nothing_left()


def test_closest_marker_wins_for_each_argument(pytester, run):
    """A function overrides its class, and a class its module."""
    pytester.makepyfile(
        """
        import pytest
        pytestmark = [
            pytest.mark.tempdir(prefix="module-", suffix="-module"),
            pytest.mark.tempfile(mode="w+", content="module"),
            pytest.mark.spooled(mode="w+", max_size=1),
        ]

        def test_module(temp_dir):
            assert temp_dir.name.startswith("module-") and temp_dir.name.endswith("-module")

        @pytest.mark.tempdir(prefix="class-")
        @pytest.mark.tempfile(content="class")
        class TestIt:
            def test_class(self, temp_dir, named_temp_file):
                assert temp_dir.name.startswith("class-") and temp_dir.name.endswith("-module")
                assert named_temp_file.read() == "class"

            @pytest.mark.tempdir(suffix="-function")
            @pytest.mark.tempfile(suffix=".txt")
            def test_function(self, temp_dir, named_temp_file, temp_file):
                assert temp_dir.name.startswith("class-") and temp_dir.name.endswith("-function")
                assert named_temp_file.name.endswith(".txt")
                assert named_temp_file.read() == temp_file.read() == "class"

            @pytest.mark.spooled(content="spooled")
            def test_spooled(self, spooled_file):
                assert spooled_file._rolled and spooled_file.read() == "spooled"
        """
    )
    run("-W", "error").assert_outcomes(passed=4)


def test_file_markers_take_the_arguments_of_the_primitives(pytester, run, nothing_left):
    """`tempfile` and `spooled` open files with these arguments and write the content."""
    pytester.makepyfile(
        r"""
        import pytest

        @pytest.mark.tempfile(mode="w+", encoding="utf-16", newline="\r\n", content="a\n")
        def test_text(named_temp_file, temp_file):
            named_temp_file.flush()
            raw = open(named_temp_file.name, "rb")
            with raw:
                assert raw.read().decode("utf-16") == "a\r\n"
            assert temp_file.encoding == "utf-16"

        @pytest.mark.tempfile(buffering=0, content=b"now", prefix="p.", suffix=".s")
        def test_unbuffered(named_temp_file):
            with open(named_temp_file.name, "rb") as file:
                assert file.read() == b"now"

        @pytest.mark.tempfile(delete_on_close=False)
        def test_closed_and_still_there(named_temp_file):
            named_temp_file.close()
            open(named_temp_file.name).close()

        @pytest.mark.spooled(max_size=3, content=b"four")
        def test_rolled(spooled_file):
            assert spooled_file._rolled and spooled_file.read() == b"four"

        @pytest.mark.tempfile(mode="w+", content=b"bytes")
        @pytest.mark.xfail(reason="text files take text", strict=True)
        def test_wrong_content(temp_file):
            pass
        """
    )
    result = run("-W", "error")
    result.assert_outcomes(passed=4, xfailed=1)
    nothing_left()


def test_factory_is_thread_safe(pytester, run, nothing_left):
    """Many threads can use one factory at once, and all that it created is removed."""
    pytester.makepyfile(
        """
        from concurrent.futures import ThreadPoolExecutor

        def test_it(temp_resources):
            def make(number):
                (temp_resources.dir() / "file").write_text(str(number))
                temp_resources.named_file(content=b"x")
                temp_resources.file()
                return temp_resources.dir(prefix="same-")

            with ThreadPoolExecutor(8) as pool:
                paths = list(pool.map(make, range(100)))
            assert len(set(paths)) == 100
        """
    )
    run("-W", "error").assert_outcomes(passed=1)
    nothing_left()


def test_wider_factories_last_as_long_as_their_scope(pytester, run, nothing_left):
    """What a class, module, package or session factory created is removed at the scope's end."""
    pytester.makepyfile(conftest="SEEN = {}")
    body = """
        import pytest
        from conftest import SEEN

        @pytest.fixture(scope="class")
        def in_class(temp_resources_class):
            return temp_resources_class.dir()

        @pytest.fixture(scope="module")
        def in_module(temp_resources_module):
            return temp_resources_module.dir(prefix="m-")

        @pytest.fixture(scope="package")
        def in_package(temp_resources_package):
            return temp_resources_package.dir()

        @pytest.fixture(scope="session")
        def in_session(temp_resources_session):
            return temp_resources_session.dir()

        class TestOne:
            def test_made(self, in_class, in_module, in_package, in_session):
                paths = in_class, in_module, in_package, in_session
                for path in paths:
                    (path / __name__).touch()
                # The package scope of a plugin's fixture ends with the session, so nothing is
                # checked for the other package.
                assert not SEEN or not (SEEN["class"].exists() or SEEN["module"].exists())
                SEEN.update(zip(("class", "module", "package", "session"), paths))

            def test_still_there(self, in_class, in_module):
                assert (in_class / __name__).exists() and (in_module / __name__).exists()
                assert in_class == SEEN["class"] and in_module == SEEN["module"]

        def test_after_class(in_module, in_package, in_session, temp_resources_module):
            assert not SEEN["class"].exists()
            assert (in_module / __name__).exists() and (in_package / __name__).exists()
            file = temp_resources_module.named_file()
            assert not file.closed
        """
    for package in ("a", "b"):
        folder = pytester.mkpydir(package)
        text = "\n".join(line[8:] for line in body.splitlines())
        folder.joinpath(f"test_{package}.py").write_text(text)
    run("-W", "error", "--dist=loadfile").assert_outcomes(passed=6)
    nothing_left()


def test_tests_may_do_anything_to_their_resources(pytester, run_with_report, nothing_left):
    """A test may close, move, delete, lock or chdir into them without an error at teardown."""
    target = pytester.mkdir("target")
    pytester.makepyfile(
        f"""
        import os, shutil
        import pytest
        TARGET = {str(target)!r}

        def test_close(temp_file, named_temp_file, spooled_file):
            for file in (temp_file, named_temp_file, spooled_file):
                file.close()

        def test_close_descriptor(temp_file, named_temp_file):
            os.close(temp_file.fileno())

        def test_delete(temp_dir, named_temp_file, temp_resources):
            temp_dir.rmdir()
            os.unlink(named_temp_file.name)
            shutil.rmtree(temp_resources.dir())

        def test_move(temp_dir, named_temp_file):
            (temp_dir / "content").write_text("x")
            temp_dir.rename(os.path.join(TARGET, "directory"))
            os.rename(named_temp_file.name, os.path.join(TARGET, "file"))

        def test_modes(temp_dir):
            (temp_dir / "sub").mkdir()
            (temp_dir / "sub" / "file").touch()
            (temp_dir / "sub" / "file").chmod(0)
            (temp_dir / "sub").chmod(0)
            temp_dir.chmod(0)

        def test_chdir(temp_dir):
            (temp_dir / "sub").mkdir()
            os.chdir(temp_dir / "sub")

        def test_chdir_into_what_is_removed(temp_dir):
            os.chdir(temp_dir)
            temp_dir.rmdir()

        @pytest.mark.tempdir(chdir=True)
        def test_chdir_marker_and_removed(temp_dir):
            shutil.rmtree(temp_dir)

        def test_replaced_by_a_link(temp_dir):
            temp_dir.rmdir()
            temp_dir.symlink_to(TARGET)

        def test_replaced_by_a_file(temp_dir):
            temp_dir.rmdir()
            temp_dir.write_text("a file now")

        def test_still_works(temp_dir, named_temp_file):
            assert os.path.isdir(os.getcwd())
        """
    )
    result, report = run_with_report("-W", "error", "-W", "ignore::ResourceWarning")
    result.assert_outcomes(passed=11)
    assert report["leaks"] == report["kept"] == []
    result.stdout.no_fnmatch_line("*warning*")
    assert sorted(path.name for path in target.rglob("*")) == ["content", "directory", "file"]
    nothing_left()


def test_monkeypatched_functions_do_not_stop_the_removal(pytester, run, nothing_left):
    """A test may replace functions of `os` and `shutil`."""
    pytester.makepyfile(
        """
        import os, shutil

        def test_it(monkeypatch, temp_dir, named_temp_file):
            (temp_dir / "file").touch()
            def broken(*args, **kwargs):
                raise OSError("patched")
            for name in ("lstat", "scandir", "listdir", "unlink", "rmdir", "remove"):
                monkeypatch.setattr(os, name, broken)
            monkeypatch.setattr(shutil, "rmtree", broken)
        """
    )
    run("-W", "error").assert_outcomes(passed=1)
    nothing_left()


def test_fixtures_work_in_unittest_and_doctest(pytester, run, nothing_left):
    """`TestCase` classes request them by `usefixtures`, doctests by `getfixture`."""
    pytester.makepyfile(
        """
        import unittest
        import pytest

        class Case(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def given(self, temp_dir):
                self.path = temp_dir

            def test_it(self):
                (self.path / "file").touch()
        """
    )
    pytester.makefile(".txt", test_doc=">>> len(list(getfixture('temp_dir').iterdir()))\n0\n")
    run("-W", "error").assert_outcomes(passed=2)
    nothing_left()


def test_factory_refuses_invalid_arguments_like_markers(pytester, run, nothing_left):
    """The error names the argument and the nearest valid one."""
    pytester.makepyfile(
        """
        import pytest

        def test_it(temp_resources):
            with pytest.raises(TypeError, match="'prefiks'.*'prefix'"):
                temp_resources.dir(prefiks="x")
            with pytest.raises(ValueError, match="prefix='a/b'"):
                temp_resources.dir(prefix="a/b")
            with pytest.raises(TypeError, match="keep='yes' must be bool"):
                temp_resources.dir(keep="yes")
            with pytest.raises(TypeError, match="content=b'x' must be str"):
                temp_resources.file(mode="w+", content=b"x")
            with pytest.raises(TypeError, match="max_sise"):
                temp_resources.spooled(max_sise=1)
            with pytest.raises(OSError, match="missing"):
                temp_resources.dir(copy="missing")
        """
    )
    run("-W", "error").assert_outcomes(passed=1)
    nothing_left()


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
def test_replacement_of_a_directory_elsewhere_is_not_removed(pytester, run):
    """What replaced a directory created with `dir=` was not created by a fixture."""
    elsewhere = pytester.mkdir("elsewhere")
    pytester.makepyfile(
        f"""
        import os
        import pytest

        @pytest.mark.tempdir(dir={str(elsewhere)!r}, prefix="mine-")
        def test_it(temp_dir):
            os.rename(temp_dir, {str(elsewhere / "moved")!r})
            temp_dir.mkdir()
            (temp_dir / "precious").touch()
        """
    )
    run().assert_outcomes(passed=1)
    assert (elsewhere / "moved").is_dir()
    assert len(list(elsewhere.glob("mine-*/precious"))) == 1


def test_marker_and_factory_write_files(pytester, run, nothing_left):
    """They come after the copy, and before the working directory changes."""
    data = pytester.mkdir("data")
    for name in ("one.txt", "two.txt"):
        data.joinpath(name).write_text("copied")
    pytester.makepyfile(
        """
        import os
        from pathlib import Path
        import pytest
        from pytest_tempres import Executable

        FILES = {"one.txt": "written", "sub": {"data.bin": b"\\0"}, "bin/run": Executable("#!")}

        def check(path):
            found = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
            assert set(found) == {"one.txt", "two.txt", "sub/data.bin", "bin/run"}
            assert found["one.txt"].read_text() == "written"
            assert found["two.txt"].read_text() == "copied"
            assert found["sub/data.bin"].read_bytes() == b"\\0"
            assert os.name == "nt" or found["bin/run"].stat().st_mode & 0o777 == 0o755

        @pytest.mark.tempdir(copy="data", files=FILES, chdir=True)
        def test_marker(temp_dir):
            check(temp_dir)
            assert Path("one.txt").read_text() == "written"

        def test_factory(temp_resources, temp_resources_session):
            for factory in (temp_resources, temp_resources_session):
                check(factory.dir(copy="data", files=FILES))

        @pytest.mark.tempdir(files={"class": ""})
        class TestIt:
            @pytest.mark.tempdir(files={"function": ""})
            def test_closest_marker_wins(self, temp_dir):
                assert os.listdir(temp_dir) == ["function"]

            @pytest.mark.tempdir(files=None)
            def test_no_files(self, temp_dir):
                assert os.listdir(temp_dir) == []

        def test_refused(temp_resources):
            with pytest.raises(ValueError, match=r"files\\['a/../../b'\\]"):
                temp_resources.dir(files={"a/../../b": ""})
            with pytest.raises(TypeError, match=r"files\\['a'\\]\\['b'\\]: 3 must be"):
                temp_resources.dir(files={"a": {"b": 3}})
            with pytest.raises(ValueError, match=r"files\\['one.txt/x'\\].* is no directory"):
                temp_resources.dir(copy="data", files={"one.txt/x": ""})
        """
    )
    run("-W", "error").assert_outcomes(passed=5)
    assert data.joinpath("one.txt").read_text() == "copied"
    nothing_left()


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
def test_wrong_files_of_a_marker_are_errors(pytester, run, nothing_left):
    """What the marker alone shows is an error at collection, the rest one at setup."""
    pytester.mkdir("data").joinpath("file").touch()
    conflict = "@pytest.mark.tempdir(copy='data', files={'file/x': ''})"
    wrong = "@pytest.mark.tempdir(files={'../x': ''})"
    test = "def test_it(temp_dir): pass"
    pytester.makepyfile(
        test_conflict=f"import pytest\n{conflict}\n{test}",
        test_wrong=f"import pytest\n{wrong}\n{test}",
    )
    result = run("test_wrong.py")
    result.assert_outcomes(errors=1)
    message = "marker tempdir: files['../x']: no part of the name may be '..'"
    assert f"test_wrong.py::test_it: {message}" in result.outlines
    result = run("test_conflict.py", "--tempres-keep=none")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("marker tempdir: files[[]'file/x'[]]: *file' was copied, and*")
    result.stdout.no_fnmatch_line("*fixtures.py*")
    nothing_left()


def test_block_of_a_scope_ends_with_its_resources(pytester, run, nothing_left):
    """They are closed and removed at its end, whatever factory has the scope."""
    pytester.makepyfile(
        """
        import os
        import pytest

        SCOPES = ("", "_class", "_module", "_package", "_session")

        @pytest.mark.parametrize("scope", SCOPES)
        def test_it(request, scope):
            factory = request.getfixturevalue("temp_resources" + scope)
            stays = factory.dir()
            cwd = os.getcwd()
            with factory.scope() as resources:
                paths = [resources.dir(files={"a/b": ""}), resources.dir(prefix="x-")]
                files = [resources.file(), resources.named_file(), resources.spooled()]
                paths.append(files[1].name)
                in_other = resources.dir(dir=stays, keep=False)
                resources.dir(chdir=True)
                assert os.path.basename(paths[0])[:-9] == os.path.basename(stays)[:-9]
            assert os.getcwd() == cwd
            assert all(file.closed for file in files)
            assert not any(os.path.exists(path) for path in [*paths, in_other])
            assert stays.is_dir() and not list(stays.iterdir())

        def test_nested(temp_resources):
            with temp_resources.scope() as outer:
                first = outer.dir()
                with outer.scope() as inner, temp_resources.scope() as other:
                    inside = inner.dir(dir=first), other.dir()
                assert first.is_dir() and not any(path.exists() for path in inside)
            assert not first.exists()

        def test_order(temp_resources, monkeypatch):
            import errno
            closed = []
            with temp_resources.scope() as resources:
                for number in range(3):
                    file = resources.file()
                    close = file.close
                    resources._closing[-1] = lambda n=number, c=close: (closed.append(n), c())
            assert closed == [2, 1, 0]

        def test_after_the_end(temp_resources):
            with temp_resources.scope() as resources:
                pass
            for create in (resources.dir, resources.file, resources.named_file, resources.spooled):
                with pytest.raises(RuntimeError, match="block of this factory has ended"):
                    create()
            assert temp_resources.dir().is_dir()

        def test_changed_by_the_test(temp_resources):
            with temp_resources.scope() as resources:
                resources.dir().rmdir()
                os.unlink(resources.named_file().name)
                os.close(resources.file().fileno())
                os.chdir(resources.dir())
        """
    )
    run("-W", "error", "-W", "ignore::ResourceWarning").assert_outcomes(passed=9)
    nothing_left()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_block_that_ends_in_a_forked_child_stays_in_the_parent(pytester, run, nothing_left):
    """A child removes nothing that its parent created."""
    pytester.makepyfile(
        """
        import os

        class InChild(Exception):
            pass

        def test_it(temp_resources):
            try:
                with temp_resources.scope() as resources:
                    path = resources.dir()
                    pid = os.fork()
                    if pid == 0:
                        raise InChild
                    os.waitpid(pid, 0)
                    assert path.is_dir()
            except InChild:
                os._exit(0)
            assert not path.exists()
        """
    )
    run("-W", "error", "-W", "ignore::DeprecationWarning").assert_outcomes(passed=1)
    nothing_left()


def test_block_of_a_test_that_may_end_the_process_is_in_the_journal(pytester, run, nothing_left):
    """The next session keeps what the block has created, under the name of the test."""
    pytester.makepyfile(
        """
        import json
        from pytest_tempres.session.state import session_key

        def test_it(request, temp_resources_module):
            request.config.stash[session_key].retention.journal.adds_created = True
            with temp_resources_module.scope() as resources:
                path = resources.dir()
                journal = path.parent.parent / ".kept.jsonl"
                record = json.loads(journal.read_text().splitlines()[-1])
            assert record == {"test": request.node.nodeid, "path": str(path)}
        """
    )
    run("-W", "error").assert_outcomes(passed=1)
    nothing_left()


@pytest.mark.parametrize("mode", ["plain"], indirect=True)
def test_fixture_with_a_block_of_an_interrupted_test(pytester, run_with_report):
    """The block ends after the test, and what it keeps is recorded for the test."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def path(temp_resources):
            with temp_resources.scope() as resources:
                resources.dir()
                yield resources.dir(keep=True)

        def test_it(path):
            raise KeyboardInterrupt
        """
    )
    result, report = run_with_report()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    (kept,) = report["kept"]
    assert (kept["nodeid"].partition("::")[2], kept["reason"]) == ("test_it", "asked")


FAILING_BLOCKS = """
    import pytest

    def fail(factory, **options):
        with factory.scope() as resources:
            (resources.dir(prefix="failed-", **options) / "evidence").touch()
            resources.named_file(prefix="failed-file-")
            raise RuntimeError("in the block")

    def test_fails(temp_resources_session):
        with temp_resources_session.scope() as resources:
            resources.dir(prefix="passed-")
        fail(temp_resources_session)

    def test_nested(temp_resources_module):
        with temp_resources_module.scope() as resources:
            resources.dir(prefix="failed-outer-")
            fail(resources)

    def test_asked(temp_resources_module):
        with temp_resources_module.scope() as resources:
            resources.dir(prefix="asked-", keep=True, dir=resources.dir(prefix="around-"))
            resources.dir(prefix="passed-")

    def test_catches(temp_resources_class):
        for options in ({}, {"keep": True}):
            with pytest.raises(RuntimeError):
                fail(temp_resources_class, **options)

    def test_unwanted(temp_resources):
        fail(temp_resources, keep=False)

    def test_skips(temp_resources_module):
        with temp_resources_module.scope() as resources:
            resources.dir(prefix="skipped-")
            pytest.skip("in the block")
    """


@pytest.mark.parametrize(
    "policy, names",
    [
        (
            "failed",
            {
                "test_fails": ["failed-", "failed-file-"],
                "test_nested": ["failed-", "failed-file-", "failed-outer-"],
                "test_asked": ["asked-"],
                "test_catches": ["failed-"],
                "test_unwanted": ["failed-file-"],
            },
        ),
        ("none", {"test_asked": ["asked-"], "test_catches": ["failed-"]}),
    ],
)
def test_failed_block_is_kept_with_its_test(pytester, run_with_report, policy, names):
    """An exception leaves the resources to the test; a test that catches it has not failed."""
    pytester.makepyfile(FAILING_BLOCKS)
    result, report = run_with_report(f"--tempres-keep={policy}", "-W", "error")
    result.assert_outcomes(failed=3, passed=2, skipped=1)
    found = {}
    for kept in report["kept"]:
        found.setdefault(kept["nodeid"].partition("::")[2], []).append(
            kept["path"].replace("\\", "/").rpartition("/")[2][:-8]
        )
    assert {test: sorted(paths) for test, paths in found.items()} == names
    assert report["leaks"] == []
    text = result.stdout.str()
    if policy == "failed":
        assert text.count("evidence") >= 2, "the section of the failure lists the files"


def test_all_blocks_are_kept_by_the_policy_all(pytester, run_with_report):
    """The policy decides at the end of a block too."""
    pytester.makepyfile(
        """
        def test_it(temp_resources_module):
            for _ in range(3):
                with temp_resources_module.scope() as resources:
                    path = resources.dir()
            assert path.is_dir()
        """
    )
    result, report = run_with_report("--tempres-keep=all")
    result.assert_outcomes(passed=1)
    kept = [(each["nodeid"].partition("::")[2], each["reason"]) for each in report["kept"]]
    assert kept == [("test_it", "all")] * 3


def test_only_the_last_failed_blocks_of_a_test_are_kept(pytester, run_with_report):
    """A search that fails many times does not fill the disk; each test has its own limit."""
    pytester.makepyfile(
        """
        import contextlib
        import pytest

        @pytest.mark.parametrize("name", "ab")
        def test_it(temp_resources_session, name):
            for number in range(25):
                with contextlib.suppress(ValueError):
                    with temp_resources_session.scope() as resources:
                        path = resources.dir(prefix=f"{name}{number:02}-")
                        raise ValueError
            assert path.is_dir()
            assert len(list(path.parent.glob(f"{name}*"))) == 10
            assert 0
        """
    )
    result, report = run_with_report()
    result.assert_outcomes(failed=2)
    kept = sorted(each["path"].replace("\\", "/").rpartition("/")[2][:3] for each in report["kept"])
    assert kept == [f"{name}{number}" for name in "ab" for number in range(15, 25)]


def test_block_of_a_rerun_is_not_kept_after_it_passes(pytester, run_with_report, nothing_left):
    """What a failed block left belongs to the attempt."""
    pytest.importorskip("pytest_rerunfailures")
    pytester.makepyfile(
        """
        COUNT = []

        def test_it(temp_resources_module):
            with temp_resources_module.scope() as resources:
                resources.dir()
                COUNT.append(1)
                assert len(COUNT) == 2
        """
    )
    result, report = run_with_report("-p", "pytest_rerunfailures", "--reruns=1")
    assert result.parseoutcomes() == {"passed": 1, "rerun": 1}
    assert report["kept"] == []
    nothing_left()


def python_of(document, heading):
    """Return the first Python block of a section of a document."""
    text = (Path(__file__).parents[1] / "docs" / document).read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return section.partition("```python\n")[2].partition("```")[0]


@pytest.mark.parametrize("fails", [False, True])
def test_hypothesis_example_of_the_documentation(pytester, run_with_report, system_tmp, fails):
    """Each example has a new directory, which is gone before the next one."""
    source = python_of("recipes.md", "Use a directory in each example of Hypothesis")
    assert "@given(" in source
    pytester.makeconftest(
        """
        from hypothesis import settings
        settings.register_profile("slow-machine", deadline=None)
        settings.load_profile("slow-machine")
        """
    )
    check = "        assert len(list(path.parent.parent.iterdir())) == 1, 'earlier ones exist'\n"
    if fails:
        check = "        assert len(data) < 3\n"
    pytester.makepyfile(source + check)
    result, report = run_with_report("-W", "error", "-p", "hypothesispytest")
    result.assert_outcomes(failed=fails, passed=not fails)
    assert report["leaks"] == []
    assert len(report["kept"]) <= 10
    assert bool(report["kept"]) is fails
    if fails:
        paths = [line.partition(" ")[2] for line in result.outlines if line.startswith("kept: ")]
        assert {each["path"] for each in report["kept"]} <= set(paths)
        last = paths[len(report["kept"]) - 1]
        assert gzip.decompress(Path(last, "data.gz").read_bytes()) == b"\0\0\0", "the smallest"


@pytest.mark.parametrize("policy", ["none", "failed", "all"])
def test_artifact_dir_is_copied_whatever_the_outcome(pytester, run_with_report, policy):
    """It is an artifact under every policy, and of a skipped test too."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("outcome", ["passed", "skipped", "failed"])
        def test_it(artifact_dir, temp_dir, outcome):
            assert artifact_dir != temp_dir and not list(artifact_dir.iterdir())
            (artifact_dir / outcome).write_text(outcome)
            if outcome == "skipped":
                pytest.skip()
            assert outcome == "passed"
        """
    )
    artifacts = pytester.path / "artifacts"
    options = (f"--tempres-artifacts={artifacts}", f"--tempres-keep={policy}", "-W", "error")
    result, report = run_with_report(*options)
    result.assert_outcomes(passed=1, skipped=1, failed=1)
    outcomes = {"passed", "skipped", "failed"}
    copies = {path.name: path for path in artifacts.rglob("*") if path.name in outcomes}
    assert {name: path.read_text() for name, path in copies.items()} == {n: n for n in outcomes}
    assert all(name in str(path.relative_to(artifacts).parts[0]) for name, path in copies.items())
    asked = [
        each["nodeid"].partition("[")[2] for each in report["kept"] if each["reason"] == "asked"
    ]
    assert sorted(asked) == ["failed]", "passed]", "skipped]"]


def test_artifact_dir_without_artifacts_is_an_ordinary_directory(pytester, run, nothing_left):
    """It is removed when the test has passed, and markers do not apply."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.tempdir(files={"x": ""}, keep=True)
        def test_it(artifact_dir):
            assert artifact_dir.stat().st_mode & 0o777 in (0o700, 0o777)
            assert not list(artifact_dir.iterdir())
        """
    )
    run("-W", "error").assert_outcomes(passed=1)
    nothing_left()
