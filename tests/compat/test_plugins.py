from __future__ import annotations

import pytest

LEAK = """
import tempfile

def test_leaks():
    tempfile.mkdtemp(prefix="left-")
"""


def owners(ran):
    """Return the owner of each leak."""
    return [owner for owner, _ in ran.leaks]


def lines(ran):
    """Return the nearest line of each leak's origin."""
    found = [leak for leak in ran.report["leaks"] if leak["status"] == "leak"]
    return {leak["origin"][0]["line"] for leak in found}


def test_timeout_by_signal(pytester, alike):
    """The test fails, what it left is kept apart, and the next one is not affected."""
    pytest.importorskip("pytest_timeout")
    pytester.makepyfile(
        """
        import tempfile
        import time
        import pytest

        @pytest.mark.timeout(0.2, method="signal")
        def test_hangs(temp_dir):
            tempfile.mkdtemp(prefix="evidence-")
            time.sleep(20)

        def test_leaks():
            tempfile.mkdtemp(prefix="left-")
        """
    )
    ran = alike(ours=("--tempres-keep=none",), plugins=("timeout",))
    assert owners(ran) == ["test_timeout_by_signal.py::test_leaks"]
    assert ran.report["totals"]["from_failed"] == 1


def test_timeout_by_thread(pytester, system_tmp, nothing_left, run_plain):
    """The session is killed, and the next session removes its root."""
    pytest.importorskip("pytest_timeout")
    pytester.makepyfile(
        test_a="""
        import tempfile
        import time
        import pytest

        @pytest.mark.timeout(0.2, method="thread")
        def test_hangs():
            tempfile.mkdtemp()
            time.sleep(20)
        """,
        test_b="def test_b(): pass",
    )
    run_plain("test_a.py", plugins=("timeout",))
    assert [path.name[:8] for path in system_tmp.iterdir()] == ["tempres-"]
    assert run_plain("test_b.py").ret == 0
    nothing_left()


def test_reruns(pytester, alike):
    """The last attempt decides: what earlier ones left is counted as that of failed tests."""
    pytest.importorskip("pytest_rerunfailures")
    pytester.makepyfile(
        """
        import tempfile
        import pytest

        tries = []

        @pytest.mark.flaky(reruns=2)
        def test_flaky(temp_dir):
            tries.append(temp_dir)
            tempfile.mkdtemp(prefix=f"try{len(tries)}-")
            assert len(tries) == 3
            assert not tries[1].exists() or tries[1] != temp_dir
        """
    )
    ran = alike(plugins=("rerunfailures",))
    assert [name[:4] for _, name in ran.leaks] == ["try3"]
    assert ran.report["totals"]["from_failed"] == 2


def test_random_order(pytester, alike):
    """In any order each leak belongs to its own test."""
    pytest.importorskip("pytest_randomly")
    pytester.makepyfile(
        """
        import tempfile
        import pytest

        @pytest.mark.parametrize("number", range(20))
        def test_it(number):
            if number % 3 == 0:
                tempfile.mkdtemp(prefix=f"{number}-")
        """
    )
    ran = alike(plugins=("randomly",))
    assert sorted(int(name.partition("-")[0]) for _, name in ran.leaks) == list(range(0, 20, 3))
    assert all(owner.endswith(f"[{name.partition('-')[0]}]") for owner, name in ran.leaks)


def test_run_parallel(pytester, alike):
    """What the threads of one test leave belongs to it, and factories work in all threads."""
    pytest.importorskip("pytest_run_parallel")
    pytester.makepyfile(
        """
        import tempfile

        def test_leaks():
            tempfile.mkdtemp(prefix="left-")

        def test_shares(temp_resources):
            temp_resources.dir().joinpath("x").touch()
            temp_resources.file().write(b"x")
        """
    )
    ran = alike("--parallel-threads=4", plugins=("run-parallel",))
    assert owners(ran) == ["test_run_parallel.py::test_leaks"] * 4
    assert lines(ran) == {4}


@pytest.mark.parametrize("branch", [(), ("--cov-branch",)])
def test_coverage(pytester, alike, branch):
    """Leaks and origins are those of a run without a tracer."""
    pytest.importorskip("pytest_cov")
    pytester.makepyfile(LEAK)
    ran = alike("--cov=.", *branch, plugins=("pytest_cov",))
    assert owners(ran) == ["test_coverage.py::test_leaks"]
    assert lines(ran) == {4}
    assert (pytester.path / ".coverage").exists()


def test_asyncio(pytester, alike):
    """A coroutine's leak belongs to its test; an asynchronous fixture owns what it creates."""
    pytest.importorskip("pytest_asyncio")
    pytester.makepyfile(
        """
        import asyncio
        import shutil
        import tempfile
        import pytest
        import pytest_asyncio

        @pytest_asyncio.fixture(loop_scope="module", scope="module")
        async def tidy():
            path = tempfile.mkdtemp(prefix="tidy-")
            await asyncio.sleep(0)
            yield path
            await asyncio.sleep(0)
            shutil.rmtree(path)

        @pytest_asyncio.fixture
        async def untidy():
            await asyncio.sleep(0)
            tempfile.mkdtemp(prefix="fixture-")
            yield
            await asyncio.sleep(0)
            tempfile.mkdtemp(prefix="teardown-")

        @pytest.mark.asyncio(loop_scope="module")
        async def test_leaks(tidy):
            await asyncio.gather(*(asyncio.to_thread(tempfile.mkdtemp) for _ in range(3)))

        @pytest.mark.asyncio
        async def test_fixture(untidy, temp_dir):
            await asyncio.sleep(0)
        """
    )
    ran = alike("-W", "ignore::DeprecationWarning", plugins=("asyncio",))
    assert owners(ran) == [*["test_asyncio.py::test_leaks"] * 3, "untidy", "untidy"]


def test_anyio(pytester, alike):
    """A test that another plugin calls owns its leaks as any other."""
    pytest.importorskip("anyio")
    pytester.makepyfile(
        """
        import tempfile
        import anyio
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.fixture
        async def untidy(anyio_backend):
            tempfile.mkdtemp(prefix="fixture-")
            yield

        @pytest.mark.anyio
        async def test_leaks(untidy):
            await anyio.to_thread.run_sync(tempfile.mkdtemp)
        """
    )
    assert owners(alike(plugins=("anyio",))) == ["test_anyio.py::test_leaks", "untidy"]


def test_hypothesis(pytester, alike):
    """All examples of a test belong to the test."""
    pytest.importorskip("hypothesis")
    pytester.makepyfile(
        """
        import tempfile
        from hypothesis import given
        from hypothesis import settings
        from hypothesis import strategies as st

        @settings(max_examples=7, database=None, derandomize=True)
        @given(st.integers())
        def test_leaks(number):
            tempfile.mkdtemp(prefix="example-")

        @settings(max_examples=7, database=None, derandomize=True)
        @given(st.integers())
        def test_shares(temp_resources_module, number):
            assert not list(temp_resources_module.dir().iterdir())
        """
    )
    ran = alike(plugins=("hypothesispytest",))
    assert owners(ran) == ["test_hypothesis.py::test_leaks"] * 7


def test_fake_file_system(pytester, alike):
    """Paths in a fake file system are not reported; real leaks before and after it are."""
    pytest.importorskip("pyfakefs")
    pytester.makepyfile(
        """
        import os
        import tempfile

        def test_before():
            tempfile.mkdtemp(prefix="before-")

        def test_fake(fs):
            path = tempfile.mkdtemp(prefix="fake-")
            fs.create_file("/x/y")
            os.remove("/x/y")

        def test_fixture_before(temp_dir, fs):
            assert not os.path.exists(temp_dir)

        def test_fixture_after(fs, temp_resources):
            fs.create_dir("/x")

        def test_after():
            tempfile.mkdtemp(prefix="after-")
        """
    )
    ran = alike(plugins=("fakefs",))
    assert [owner.rpartition("_")[2] for owner in owners(ran)] == ["after", "before"]
    assert lines(ran) == {5, 19}


def test_frozen_time(pytester, alike):
    """A frozen clock hides no leak."""
    pytest.importorskip("freezegun")
    pytester.makepyfile(
        """
        import tempfile
        import pytest
        from freezegun import freeze_time

        @pytest.fixture(autouse=True, scope="session")
        def frozen():
            with freeze_time("1999-12-31 23:59:59"):
                yield

        @pytest.mark.parametrize("number", range(30))
        def test_it(number, temp_dir):
            if number % 2:
                tempfile.mkdtemp(prefix=f"{number}-")
        """
    )
    ran = alike()
    assert len(ran.leaks) == 15
    assert all(owner.endswith(f"[{name.partition('-')[0]}]") for owner, name in ran.leaks)
    assert 0 <= ran.report["session"]["seconds"] < 60
    assert not ran.report["session"]["started"].startswith("1999")


def test_forked(pytester, alike, run_plain):
    """A test in its own process is reported like any other; one that crashes has failed."""
    pytest.importorskip("pytest_forked")
    pytester.makepyfile(test_probe="def test_passes(): pass")
    if run_plain("--forked", "-p", "no:tempres", plugins=("pytest_forked",)).ret:
        pytest.skip("this pytest-forked cannot carry the reports of this pytest")
    pytester.makepyfile(
        """
        import os
        import tempfile

        def test_leaks(temp_dir):
            tempfile.mkdtemp(prefix="left-")

        def test_dies():
            tempfile.mkdtemp(prefix="evidence-")
            os.kill(os.getpid(), 9)

        def test_passes(temp_dir):
            temp_dir.joinpath("x").touch()
        """
    )
    ran = alike(
        "--forked", "test_forked.py", ours=("--tempres-keep=none",), plugins=("pytest_forked",)
    )
    assert owners(ran) == ["test_forked.py::test_leaks"]
    assert lines(ran) == {5}


def test_subtests(pytester, alike):
    """A test with a failed subtest has failed: what it left is no leak."""
    if pytest.version_tuple < (9, 0):
        pytest.importorskip("pytest_subtests")
    pytester.makepyfile(
        """
        import tempfile

        def test_passes(subtests):
            for number in range(2):
                with subtests.test(number=number):
                    tempfile.mkdtemp(prefix="left-")

        def test_fails(subtests):
            with subtests.test():
                tempfile.mkdtemp(prefix="evidence-")
                assert False
        """
    )
    ran = alike(ours=("--tempres-keep=none",), plugins=("subtests",))
    assert owners(ran) == ["test_subtests.py::test_passes"] * 2
    assert ran.report["totals"]["from_failed"] == 1


def test_mock(pytester, alike):
    """The plugin never calls a function that was replaced by a mock."""
    pytest.importorskip("pytest_mock")
    pytester.makepyfile(
        """
        import os
        import shutil
        import tempfile
        import pytest

        NAMES = ["stat", "lstat", "listdir", "scandir", "unlink", "rmdir", "open", "getcwd",
                 "mkdir", "chmod", "fsdecode", "path.join", "path.exists", "path.isabs", "getpid"]

        @pytest.mark.parametrize("name", NAMES)
        def test_it(mocker, temp_dir, name):
            temp_dir.joinpath("x").mkdir()
            tempfile.mkdtemp(prefix="left-")
            mocker.patch(f"os.{name}")

        def test_tempfile(mocker):
            mocker.patch("tempfile.mkdtemp", return_value="nowhere")
            assert tempfile.mkdtemp() == "nowhere"
        """
    )
    ran = alike(plugins=("pytest_mock",))
    assert len(ran.leaks) == 15
