from __future__ import annotations

import os
import platform
import re
import shutil
from types import SimpleNamespace

import pytest

from pytest_tempres.session.state import Reported
from pytest_tempres.workers import xdist
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import attach
from pytest_tempres.workspace.root import create

pytest.importorskip("xdist", reason="pytest-xdist is optional, and not installed here")

MANY = """
import os, tempfile
from pathlib import Path
import pytest

class TestIt:
    @pytest.mark.parametrize("number", range(4))
    def test_it(self, number, temp_dir):
        here = Path(tempfile.gettempdir())
        assert here.name == os.environ["PYTEST_XDIST_WORKER"]
        assert temp_dir.parent == here.with_name(here.name + ".d")
        if number == 3:
            tempfile.mkdtemp(prefix="leak-")
        assert number != 2, temp_dir
"""


@pytest.fixture
def mode():
    """Say that the inner session has workers."""
    return "xdist"


@pytest.mark.parametrize(
    "dist", ["load", "loadscope", "loadfile", "loadgroup", "worksteal", "each"]
)
def test_one_report_with_every_distribution_mode(pytester, run_with_report, system_tmp, dist):
    """The leaks and kept paths of all workers are in one report."""
    pytester.makepyfile(test_a=MANY, test_b=MANY)
    result, report = run_with_report(f"--dist={dist}")
    times = 2 if dist == "each" else 1
    assert report["totals"]["leaks"] == report["totals"]["kept"] == 2 * times
    owners = {leak["owner"]["id"] for leak in report["leaks"]}
    assert owners == {f"test_{x}.py::TestIt::test_it[3]" for x in "ab"}
    kept = {each["nodeid"] for each in report["kept"]}
    assert kept == {f"test_{x}.py::TestIt::test_it[2]" for x in "ab"}
    assert {str(path) for path in system_tmp.glob("tempres-*/*/*")} == {
        each["path"] for each in report["kept"]
    }
    assert all(f"/{each['worker']}.d/" in each["path"] for each in report["kept"])
    assert all(f"/{leak['worker']}/" in leak["path"] for leak in report["leaks"])
    assert result.stdout.str().count("= temporary resources =") == 1
    assert len(re.findall("- temporary resources -", result.stdout.str())) == 2 * times
    assert sorted(report["session"]["workers"]) == ["gw0", "gw1"]


def test_received_payloads_are_released(pytester, run):
    """Reports stay in memory until the session ends, but not the payload in them."""
    pytester.makeconftest(
        """
        import gc, os
        import pytest

        def pytest_sessionfinish():
            reports = [each for each in gc.get_objects() if isinstance(each, pytest.TestReport)]
            name = os.environ.get("PYTEST_XDIST_WORKER", "controller")
            with open(f"carried-{name}", "w") as file:
                file.write(f"{sum('tempres' in vars(each) for each in reports)} of {len(reports)}")
        """
    )
    pytester.makepyfile(test_a=MANY, test_b=MANY)
    run("--dist=load")
    counts = {path.name: path.read_text().split(" of ") for path in pytester.path.glob("carried-*")}
    assert sorted(counts) == ["carried-controller", "carried-gw0", "carried-gw1"]
    assert all(carrying == "0" for carrying, _ in counts.values())
    assert int(counts["carried-controller"][1]) == 3 * 8


def test_session_variable_is_set_only_for_workers(pytester, run, nothing_left):
    """Neither tests nor the controller's environment contain the variable that names the root."""
    pytester.makeconftest(
        """
        import os
        NAME = "PYTEST_TEMPRES_SESSION"
        assert NAME not in os.environ

        def pytest_sessionstart(session):
            assert NAME not in os.environ

        def pytest_sessionfinish(session):
            assert NAME not in os.environ
        """
    )
    pytester.makepyfile(
        """
        import os, subprocess, sys

        def test_it():
            code = "import os; assert 'PYTEST_TEMPRES_SESSION' not in os.environ"
            subprocess.run([sys.executable, "-c", code], check=True)
            assert "PYTEST_TEMPRES_SESSION" not in os.environ
        """
    )
    result = run("-W", "error")
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    nothing_left()


def test_inherited_worker_name_does_not_make_a_worker(pytester, run_with_report, monkeypatch):
    """A session that inherits `PYTEST_XDIST_WORKER` is a controller all the same."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw7")
    pytester.makepyfile("import tempfile\ndef test_it(): tempfile.mkdtemp()")
    _, report = run_with_report("-n0")
    assert report["session"]["workers"] == ["main"]
    assert [leak["worker"] for leak in report["leaks"]] == ["main"]


@pytest.mark.parametrize("count", ["-n1", "-n2"])
def test_leaks_of_a_crashed_worker_belong_to_its_test(pytester, run_with_report, system_tmp, count):
    """What a crashed test left is kept for it; all that was reported before counts."""
    path = pytester.makepyfile(
        """
        import os, tempfile

        def test_1_leaks(temp_dir):
            tempfile.mkdtemp(prefix="leak-")

        def test_2_crashes(temp_dir):
            (temp_dir / "evidence").touch()
            tempfile.mkdtemp(prefix="stray-")
            os._exit(1)

        def test_3_after(temp_dir): pass

        def test_4_fails(temp_dir): assert 0
        """
    )
    result, report = run_with_report(count, "--tempres-leaks=fail")
    assert result.ret == 1
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.fnmatch_lines(["*worker 'gw*' crashed while running *test_2_crashes*"])
    by_status = {leak["status"]: leak for leak in report["leaks"]}
    assert len(report["leaks"]) == 2
    assert by_status["leak"]["owner"]["id"] == f"{path.name}::test_1_leaks"
    stray = by_status["failed-test"]
    assert stray["owner"] == {
        "kind": "test",
        "id": f"{path.name}::test_2_crashes",
        "scope": None,
        "location": stray["owner"]["location"],
    }
    kept = {}
    for each in report["kept"]:
        kept.setdefault(each["nodeid"].rpartition("::")[2], []).append(each["path"])
    assert set(kept) == {"test_2_crashes", "test_4_fails"}
    assert sorted(os.path.basename(x).partition("-")[0] for x in kept["test_2_crashes"]) == [
        "stray",
        "test_2_crashes",
    ]
    on_disk = {str(path) for path in system_tmp.glob("tempres-*/*/*")}
    assert on_disk == {path for paths in kept.values() for path in paths}
    assert any(os.path.isdir(x) and os.listdir(x) == ["evidence"] for x in on_disk)


def test_crash_with_keep_none_leaves_nothing(pytester, run, nothing_left):
    """With `--tempres-keep=none` the controller removes what crashed workers left."""
    pytester.makepyfile(
        """
        import os, tempfile
        import pytest
        tempfile.mkdtemp()

        @pytest.fixture(scope="session")
        def wide(temp_resources_session):
            return temp_resources_session.dir()

        @pytest.mark.parametrize("number", range(3))
        def test_crashes(temp_dir, wide, number):
            tempfile.mkdtemp()
            (temp_dir / "file").touch()
            os._exit(number)
        """
    )
    result = run("--tempres-keep=none", "--max-worker-restart=1")
    assert result.ret != 0
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    nothing_left()


def test_kept_paths_stay_if_their_worker_crashes_later(pytester, run_with_report):
    """What a marker or hook keeps stays after the crash, with its reason."""
    pytester.makeconftest(
        """
        def pytest_tempres_keep(item, reports):
            return item.name == "test_2_hook" or None
        """
    )
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.tempdir(keep=True)
        def test_1_asked(temp_dir): pass
        def test_2_hook(temp_dir): pass
        def test_3_neither(temp_dir, temp_resources_module): temp_resources_module.dir()
        def test_4_crashes(temp_dir): os._exit(1)
        """
    )
    for policy, crashed in (("none", {}), ("failed", {"test_4_crashes": "crashed"})):
        _, report = run_with_report("-n1", f"--tempres-keep={policy}", "--tempres-keep-sessions=1")
        reasons = {each["nodeid"].rpartition("::")[2]: each["reason"] for each in report["kept"]}
        assert reasons == {"test_1_asked": "asked", "test_2_hook": "hook", **crashed}
        assert all(os.path.isdir(each["path"]) for each in report["kept"])


def test_crash_outside_of_any_test(pytester, run, nothing_left):
    """A worker may crash during collection or at its end without an internal error."""
    pytester.makepyfile("def test_it(temp_dir): pass")
    pytester.makeconftest(
        """
        import os, tempfile

        def pytest_sessionfinish(session):
            if hasattr(session.config, "workerinput"):
                tempfile.mkdtemp()
                os._exit(3)
        """
    )
    result = run("-n1")
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    nothing_left()


def test_crash_of_a_forked_child_is_not_one_of_the_worker(pytester, run_with_report, nothing_left):
    """The worker goes on, and nothing is attributed to a crash."""
    pytester.makepyfile(
        """
        import os, tempfile

        def test_it(temp_dir):
            pid = os.fork()
            if pid == 0:
                os.kill(os.getpid(), 9)
            os.waitpid(pid, 0)
            assert temp_dir.is_dir() and os.path.isdir(tempfile.gettempdir())
        """
    )
    result, report = run_with_report("-W", "ignore::DeprecationWarning")
    result.assert_outcomes(passed=1)
    assert report["leaks"] == report["kept"] == []
    nothing_left()


def test_worker_without_access_to_the_root(pytester, run_with_report, system_tmp):
    """It creates a root of its own and says so, and its leaks are reported."""
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(trylast=True, optionalhook=True)
        def pytest_xdist_setupnodes(config, specs):
            for spec in specs:
                spec.env["PYTEST_TEMPRES_SESSION"] = "/on/another/host"
        """
    )
    path = pytester.makepyfile(
        """
        import tempfile

        def test_leaks(): tempfile.mkdtemp()
        def test_fails(temp_dir): assert 0
        """
    )
    result, report = run_with_report("--dist=loadfile")
    result.assert_outcomes(passed=1, failed=1, warnings=2)
    result.stdout.fnmatch_lines(["*cannot access /on/another/host*own*"])
    (leak,) = report["leaks"]
    assert (leak["status"], leak["owner"]["id"]) == ("leak", f"{path.name}::test_leaks")
    (kept,) = report["kept"]
    assert kept["nodeid"] == f"{path.name}::test_fails"
    node = platform.node()
    (there,) = system_tmp.glob("tempres-*/*/*")
    assert kept["path"] == f"{node}:{there}"
    assert leak["path"].startswith(f"{node}:{system_tmp}/tempres-")
    result.stdout.fnmatch_lines([f"  {node}:tempres-????????/gw?/tmp*"])
    assert leak["worker"] == kept["worker"]
    assert leak["worker"].startswith("gw")


# -- an announcement that no controller has made


@pytest.fixture
def root_of(tmp_path):
    """Make the session root of another session: one that lives, one that died, one that is kept."""
    made = []

    def root_of(kind: str) -> str:
        root = create(str(tmp_path), mode=0o700, metadata={})
        made.append(root)
        if kind == "kept":
            kept = os.path.join(root.add_worker("main", 0o700).fixture_dir, "kept")
            os.mkdir(kept)
            write_index(root, [Kept("t", kept, "failed", "main")])
        if kind != "live":
            root.release()
        return root.path

    yield root_of
    for root in made:
        root.release()


LEAKS = "import tempfile\ndef test_it(): tempfile.mkdtemp()"
WRONG = [
    "",
    " ",
    "relative",
    "null",
    "[1]",
    '{"a": "b"}',
    '"',
    '"no end',
    '"\\ud800"',
    '"/a\\u0000b"',
    '""',
    "/\udcff",
    "/" + "x" * 5_000,
    "/nowhere",
    "/",
    "live",
    "dead",
    "kept",
]


@pytest.fixture
def announce(monkeypatch, root_of):
    """Set the variable of the environment, and those by which pytest-xdist names its workers."""

    def announce(value: str) -> None:
        if value in ("live", "dead", "kept"):
            value = root_of(value)
        monkeypatch.setenv("PYTEST_TEMPRES_SESSION", value)
        monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw7")
        monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "0123")

    return announce


def one_leak_is_reported(result: pytest.RunResult) -> None:
    """Check that the session has reported and gated, and has warned once."""
    assert result.ret == 1
    text = result.stdout.str()
    assert text.count("1 leak from 1 test") == 1
    assert len(re.findall(r"PYTEST_TEMPRES_SESSION \(.*\) is ignored", text)) == 1
    assert "Traceback" not in text + result.stderr.str()


@pytest.mark.parametrize("value", WRONG, ids=lambda value: ascii(value[:20]))
def test_wrong_session_variable_does_not_make_a_worker(pytester, run_here, announce, value):
    """Whatever it contains, report and exit status are those of a session without it."""
    announce(value)
    pytester.makepyfile(LEAKS)
    one_leak_is_reported(run_here("--tempres-leaks=fail"))


@pytest.mark.parametrize("how", ["plain", "xdist"])
@pytest.mark.parametrize("value", ["", '"\\ud800"', "live", "kept"], ids=ascii)
def test_wrong_session_variable_of_a_controller(pytester, run, announce, how, value):
    """A process that inherits a worker's variables is no worker, but its own workers are."""
    announce(value)
    pytester.makepyfile(LEAKS)
    one_leak_is_reported(run("--tempres-leaks=fail", "-W", "error"))


def test_session_started_in_a_worker_is_independent(pytester, run):
    """It inherits the variables of pytest-xdist, which change nothing."""
    pytester.makepyfile(
        f"""
        import os, sys, tempfile

        def test_it(pytester, monkeypatch):
            root = os.path.dirname(tempfile.gettempdir())
            assert os.path.exists(os.path.join(root, ".lock"))
            pytester.makepyfile({LEAKS!r})
            for run in (pytester.runpytest_inprocess, pytester.runpytest_subprocess):
                monkeypatch.setenv("PYTEST_TEMPRES_SESSION", root)
                inner = run("--tempres-leaks=fail")
                assert inner.ret == 1
                assert "1 leak from 1 test" in inner.stdout.str()
        """
    )
    pytester.makeconftest("pytest_plugins = ['pytester']")
    run("-n1").assert_outcomes(passed=1)


@pytest.mark.parametrize("value", ["", "[1]", '"\\ud800"', "dead", "kept"], ids=ascii)
def test_worker_with_a_wrong_session_variable(pytester, run_with_report, root_of, value):
    """It has a root of its own, like one on another host, and its controller reports its leaks."""
    if value in ("dead", "kept"):
        value = root_of(value)
    pytester.makeconftest(
        f"""
        import pytest

        @pytest.hookimpl(trylast=True, optionalhook=True)
        def pytest_xdist_setupnodes(config, specs):
            for spec in specs:
                spec.env["PYTEST_TEMPRES_SESSION"] = {value!r}
        """
    )
    pytester.makepyfile(LEAKS)
    result, report = run_with_report("-n1", "--tempres-leaks=fail")
    assert result.ret == 1
    assert report["totals"]["leaks"] == 1
    result.stdout.fnmatch_lines(["*TempresLeakWarning: * cannot access *own*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


# -- what the controller takes, and holds


def test_worker_output_that_arrives_after_an_interrupt_counts(monkeypatch):
    """After Ctrl-C xdist calls no hook for some workers and repeats it for others."""
    taken = []
    monkeypatch.setattr(xdist, "_receive", lambda _, node, data: taken.append((node, data)))
    root = SimpleNamespace(hold=lambda: root)
    state = SimpleNamespace(reported=Reported(), workspace=SimpleNamespace(root=root))
    hooks = xdist.ControllerHooks(state)
    nodes = [SimpleNamespace(gateway=SimpleNamespace(id=f"gw{n}")) for n in range(3)]
    for node in nodes:
        hooks.pytest_configure_node(node)
    nodes[0].workeroutput = {"tempres": "1"}
    nodes[1].workeroutput = {"tempres": "2"}
    for _ in range(2):
        hooks.pytest_testnodedown(nodes[0])
    hooks.pytest_sessionfinish()
    assert taken == [(nodes[0], 1), (nodes[1], 2)]


def test_recreated_root_is_locked_by_the_controller(tmp_path):
    """No sweep removes a root that was created again by a worker which has ended since."""
    root = create(str(tmp_path), mode=0o700, metadata={})
    joined = attach(root.path)
    worker = joined.add_worker("gw0", 0o700)
    shutil.rmtree(root.path)
    joined = joined.restore(worker, 0o700, {})
    state = SimpleNamespace(workspace=SimpleNamespace(root=root))
    xdist.ControllerHooks(state).pytest_testnodedown(None)
    joined.release()
    assert lock.take(os.path.join(root.path, LOCK)) is None
    assert state.workspace.root.remove_if_empty()
    assert os.listdir(tmp_path) == []


def test_stopping_early_with_workers(pytester, run, system_tmp):
    """`-x` keeps only the directories of failed tests, without an internal error."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(20))
        def test_it(temp_dir, number):
            assert number != 1
        """
    )
    result = run("-x")
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    kept = list(system_tmp.glob("tempres-*/*/*"))
    assert [path.name.partition("-")[0] for path in kept] == ["test_it_1_"]


def test_interrupted_worker_leaves_nothing(pytester, run, system_tmp):
    """`pytest.exit` and Ctrl-C in a worker's test leave nothing behind."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def user(temp_dir):
            yield
            assert temp_dir.is_dir()

        @pytest.mark.parametrize("number", range(4))
        def test_it(user, number):
            if number == 1:
                pytest.exit("enough")
        """
    )
    result = run()
    assert result.ret == 2
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    assert not list(system_tmp.iterdir())


def test_without_xdist_no_hook_is_missing(pytester, run_with_report, nothing_left):
    """`-p no:xdist` removes no hook of the plugin."""
    pytester.makepyfile("import tempfile\ndef test_it(temp_dir): tempfile.mkdtemp()")
    result = pytester.runpytest_subprocess("-p", "no:xdist", "-p", "no:randomly", "-W", "error")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*1 leak from 1 test*"])
    nothing_left()
