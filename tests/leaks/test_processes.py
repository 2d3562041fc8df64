from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import sqlite3
import subprocess
import sys
import threading

from owner_suite import OwnerSuite
import pytest

from pytest_tempres.leaks import processes as module
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.processes import command_line
from pytest_tempres.leaks.temp import scan
from pytest_tempres.leaks.temp.audit import activate
from pytest_tempres.leaks.temp.audit import deactivate

ONE = Owner("test", "t.py::one")
TWO = Owner("test", "t.py::two")
WIDE = Owner("fixture", "server", "module")
NARROW = Owner("fixture", "client", "function")

if sys.platform == "darwin" and sys.version_info < (3, 13):
    pytest.skip("this platform cannot check a process without collecting its exit status", True)

#: Creates a directory for each line of its input, and confirms it.
SERVER = """
import os, sys
for line in sys.stdin:
    os.mkdir(line.strip())
    print(flush=True)
"""


class Server:
    """A process that creates directories on request."""

    def __init__(self, root: Path) -> None:
        self._root = root
        command = [sys.executable, "-c", SERVER]
        pipe = subprocess.PIPE
        self.popen = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=root.parent)

    def make(self, name: str) -> None:
        """Let the process create *name*, and wait for it."""
        self.popen.stdin.write(f"{self._root / name}\n")
        self.popen.stdin.flush()
        self.popen.stdout.readline()

    def end(self, *, wait: bool = True) -> None:
        """Let the process end, optionally without collecting its exit status."""
        if not self.popen.stdin.closed:
            self.popen.stdin.close()
            self.popen.stdout.read()
            self.popen.stdout.close()
        if wait:
            self.popen.wait()


class ProcessSuite(OwnerSuite):
    """Knows the processes of the last entry too."""

    def others(self) -> list[tuple[str, str]]:
        """Return program and owner of the processes of the last entry."""
        processes = self.ledger.not_yet_sent[-1].processes
        return [(each.command.split()[0], each.owner.id) for each in processes]


@pytest.fixture
def suite(tmp_path) -> Iterator[ProcessSuite]:
    """A suite whose ledger receives audit events."""
    root = tmp_path / "main"
    root.mkdir()
    suite = ProcessSuite(root)
    activate(suite.ledger.origins)
    yield suite
    deactivate(suite.ledger.origins)


@pytest.fixture
def serve(suite) -> Iterator[Callable[[], Server]]:
    """Start processes that end with the test."""
    started: list[Server] = []

    def serve() -> Server:
        started.append(Server(suite.root))
        return started[-1]

    yield serve
    for server in started:
        server.end()


PYTHON = os.path.basename(sys.executable)


def run_something() -> None:
    """Run a process that creates nothing."""
    subprocess.run([sys.executable, "-c", ""], check=True)


# -- owners


@pytest.mark.parametrize("owner", [ONE, NARROW, WIDE], ids=lambda owner: owner.id)
def test_the_owner_of_the_only_running_process_is_reported(suite, serve, owner):
    """The current test has started none."""
    with suite.run(owner, ONE.id):
        server = serve()
    with suite.run(TWO):
        server.make("late")
    assert suite.owners() == {"late": owner.id}
    (entry,) = suite.ledger.not_yet_sent
    assert (entry.test, entry.phase, entry.made_by) == (ONE.id, "call", "other")
    assert entry.command is None
    assert suite.others() == [(PYTHON, owner.id)]


def test_a_path_from_its_own_process_belongs_to_a_test(suite, serve):
    """During the test and after it."""
    with suite.run(ONE):
        server = serve()
        server.make("early")
    assert suite.owners() == {"early": ONE.id}
    assert suite.others() == []
    assert suite.ledger.not_yet_sent[0].command.startswith(f"{PYTHON} -c ")


def test_with_processes_of_two_tests_the_session_is_reported(suite, serve):
    """The entry lists the process of the other test."""
    with suite.run(ONE):
        server = serve()
    with suite.run(TWO):
        run_something()
        server.make("late")
    assert suite.owners() == {"late": SESSION.id}
    assert suite.ledger.not_yet_sent[0].command == f"{PYTHON} -c ''"
    assert suite.others() == [(PYTHON, ONE.id)]


def test_with_processes_left_by_two_tests_the_session_is_reported(suite, serve):
    """The entry lists each process."""
    with suite.run(ONE):
        server = serve()
    with suite.run(TWO):
        serve()
    with suite.run(WIDE):
        server.make("late")
    assert suite.owners() == {"late": SESSION.id}
    assert suite.others() == [(PYTHON, ONE.id), (PYTHON, TWO.id)]


@pytest.mark.parametrize("owner", [WIDE, NARROW], ids=lambda owner: owner.id)
def test_a_test_with_a_process_is_reported_despite_the_server_of_a_fixture(suite, serve, owner):
    """The entry lists the server."""
    with suite.run(owner, TWO.id):
        serve()
    with suite.run(TWO):
        code = f"import os; os.mkdir({os.fspath(suite.root / 'own')!r})"
        subprocess.run([sys.executable, "-c", code], check=True)
    assert suite.owners() == {"own": TWO.id}
    assert suite.others() == [(PYTHON, owner.id)]


@pytest.mark.parametrize("wait", [True, False])
def test_a_process_that_has_ended_is_not_listed(suite, serve, wait):
    """Its exit status may not have been collected yet."""
    with suite.run(ONE):
        server = serve()
        server.end(wait=wait)
        if not wait:
            os.waitid(os.P_PID, server.popen.pid, os.WEXITED | os.WNOWAIT)
    with suite.run(TWO):
        os.mkfifo(suite.root / "fifo")
    assert suite.owners() == {"fifo": TWO.id}
    assert suite.others() == []
    assert server.popen.wait() == 0


def test_exit_statuses_are_not_collected(suite):
    """The test has to be able to wait for its child."""
    with suite.run(ONE):
        server = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    with suite.run(TWO):
        pass
    assert server.wait() == 7


@pytest.mark.parametrize("owner, named", [(ONE, SESSION), (WIDE, TWO)])
def test_a_path_that_python_may_have_created_belongs_to_the_current_test(
    suite, serve, owner, named
):
    """Fifos and SQLite's files raise no event."""
    with suite.run(owner, ONE.id):
        serve()
    with suite.run(TWO), contextlib.closing(sqlite3.connect(suite.root / "db")) as database:
        os.mkfifo(suite.root / "fifo")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE t (x)")
        suite.ledger.scan()
    names = dict.fromkeys(("db-shm", "db-wal", "fifo"), named.id)
    assert suite.owners() == {"db": TWO.id, **names}


def test_after_a_skipped_listing_the_session_is_reported(suite, serve, monkeypatch):
    """It is unknown which test was running."""
    with suite.run(ONE):
        server = serve()
    with monkeypatch.context() as patch:
        patch.setattr(scan.Scan, "is_within_budget", lambda scanner: False)
        with suite.run(TWO):
            server.make("late")
    assert suite.owners() == {"late": SESSION.id}


def test_a_process_without_a_popen_object_is_found(suite, serve):
    """`subprocess` keeps track of it."""
    with suite.run(ONE):
        server = serve()
        pid, pipes = server.popen.pid, (server.popen.stdin, server.popen.stdout)
        with pytest.warns(ResourceWarning):
            server.popen = None
    server.popen = next(each for each in subprocess._active if each.pid == pid)
    assert (server.popen.stdin, server.popen.stdout) == pipes
    with suite.run(TWO):
        server.make("late")
    assert suite.owners() == {"late": ONE.id}


def test_a_process_from_a_thread_belongs_to_the_owner_of_the_thread(suite, serve):
    """The thread may outlive its test."""
    go, servers = threading.Event(), []

    def start():
        go.wait()
        servers.append(serve())

    with suite.run(ONE):
        thread = threading.Thread(target=start)
        thread.start()
    with suite.run(TWO):
        go.set()
        thread.join()
        servers[0].make("late")
    assert suite.owners() == {"late": ONE.id}


def test_a_process_that_failed_to_start_is_not_listed(suite):
    """The event comes before the start."""
    with suite.run(ONE), pytest.raises(FileNotFoundError):
        subprocess.Popen(["/nowhere/program"])
    assert not suite.ledger.origins.any_running()


def test_ended_processes_are_dropped_during_a_test(suite):
    """Memory is limited."""
    with suite.run(ONE):
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        for _ in range(3 * module._MAX_NEW):
            process._execute_child = None
            _announce(process)
        assert len(suite.ledger.origins.processes._new) <= module._MAX_NEW


def _announce(process: subprocess.Popen[bytes]) -> None:
    def _execute_child(self):
        sys.audit("subprocess.Popen", "x", ["x"], None, None)

    _execute_child(process)


def test_without_processes_nothing_is_checked(suite, monkeypatch):
    """Most tests start none."""
    monkeypatch.setattr(module, "_is_running", lambda process: 1 / 0)
    for owner in (ONE, TWO):
        with suite.run(owner):
            os.mkfifo(suite.root / owner.id[-3:])
    assert suite.owners() == {"one": ONE.id, "two": TWO.id}
    assert suite.ledger.origins.error is None


def test_an_internal_error_is_recorded_and_not_raised(suite, monkeypatch):
    """The call under test goes on."""
    monkeypatch.setattr(module, "_exists", lambda pid: 1 / 0)
    with suite.run(ONE):
        process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert isinstance(suite.ledger.origins.error, ZeroDivisionError)


# -- command lines


@pytest.mark.parametrize(
    "arguments, line",
    [
        (("/usr/bin/python3.13", "-c", "import tempfile"), "python -c 'import tempfile'"),
        (("C:\\bin\\python.exe", "-h"), "python -h"),
        (("env", "/opt/bin/python3", "python3.txt"), "env python python3.txt"),
        (("python-config", "x"), "python-config x"),
        (("python", "-Ic", "\nimport os \nos.x()\n"), "python -Ic 'import os…'"),
        (("python", "-c", "import os\n"), "python -c 'import os'"),
        (("python", "-c", ""), "python -c ''"),
        (("sh", "-c", "x 'y'"), "sh -c \"x 'y'\""),
        (("sh", "-c", "x '$y'"), """sh -c 'x '"'"'$y'"'"''"""),
        (("sh", "-c", "x\n\x1b"), "sh -c 'x…'"),
        (("sh", "-c", "x \x1by\nz"), r"sh -c 'x \x1by…'"),
        (("sh", "x\n\x1b"), r"sh 'x\n\x1b'"),
        (("x", "y\n" * 200), "x '" + r"y\n" * 25 + "…'"),
        (("/bin/", ""), "/bin/ ''"),
        (("x", "y" * 200), f"x '{'y' * 75}…'"),
        (("x", "a b " * 50), f"x '{'a b ' * 18}a b…'"),
        (("x", "y" * 74, "z z"), f"x {'y' * 74} …"),
        (("my program",), "'my program'"),
    ],
)
def test_a_command_line_is_short_and_readable(arguments, line):
    """As one would type it: quotes are balanced, and of code only the first line is shown."""
    assert command_line(arguments) == line
    assert len(line) <= module._MAX_LENGTH


def refuse(*args):
    """Replace a method that must not be called."""
    raise AssertionError


_METHODS = ("__bool__", "__getitem__", "__iter__", "__len__", "__str__")
#: A path class and a str class of the code under test.
Odd = type("Odd", (), dict.fromkeys(("__fspath__", *_METHODS), refuse))
Text = type("Text", (str,), dict.fromkeys(_METHODS, refuse))


@pytest.mark.parametrize(
    "executable, command, line",
    [
        ("x", ["/bin/x", Odd(), Path("p"), b"\xff", Text("text")], "x … p '\\udcff' text"),
        ("x", '"C:\\Program Files\\x.exe" -c "a b"', "x.exe -c 'a b'"),
        ("/bin/x", "", "x"),
        (Odd(), None, "…"),
        ("x", [], "x"),
        ("x", ["x", *"abcdefghijklmnopqrstuvwxyz"], "x a b c d e f g h i j k l m n o p q r s"),
    ],
)
def test_no_method_of_an_argument_is_called(suite, executable, command, line):
    """Code of the test must not run in an audit hook."""
    sys.audit("subprocess.Popen", executable, command, None, None)
    assert suite.ledger.origins.error is None
    command_line = suite.ledger.origins.processes.last_command
    assert command_line.encode("utf-8", "backslashreplace").decode() == line


# -- whole sessions

SOURCE = """
    import os, subprocess, sys, tempfile
    import pytest

    CODE = "import os, sys\\nfor line in sys.stdin: print(os.mkdir(line.strip()), flush=True)"
    servers = []

    def start():
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", CODE]
        servers.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))

    def make(name):
        servers[-1].stdin.write(os.path.join(tempfile.gettempdir(), name) + "\\n")
        servers[-1].stdin.flush()
        servers[-1].stdout.readline()

    def end():
        servers.pop().communicate()

    @pytest.mark.tempres_ignore("allowed")
    def test_starts():
        start()

    def test_other():
        make("late")
        make("allowed")

    def test_runs():
        subprocess.run([sys.executable, "-c", ""], check=True)
        make("doubtful")
        end()

    def test_fails():
        start()
        assert not servers

    def test_after_it():
        make("of-failed")
        end()
"""


OTHER = "made by a subprocess or native code"
LINE = "python -c 'import os, sys…' of test_it.py::test_starts"


@pytest.mark.parametrize("leaks", ["report", "strict"])
def test_reports_name_the_owner_that_started_the_process(
    pytester, run_with_report, leaks, nothing_left
):
    """Or the session, if it is ambiguous."""
    pytester.makepyfile(test_it=SOURCE)
    result, report = run_with_report(
        "--dist=loadfile", f"--tempres-leaks={leaks}", "--tempres-keep=none"
    )
    owners = {
        os.path.basename(leak["path"]): (leak["owner"]["id"], leak["status"], leak["made_by"])
        for leak in report["leaks"]
    }
    assert owners == {
        "late": ("test_it.py::test_starts", "leak", "other"),
        "doubtful": ("session", "leak", "other"),
        "of-failed": ("test_it.py::test_fails", "failed-test", "other"),
    }
    result.assert_outcomes(passed=4, failed=1)
    lines = [f"    still running then: {LINE}", "    last process: python -c ''"]
    result.stdout.fnmatch_lines_random([f"    {OTHER}", *lines])
    nothing_left()
