"""Workers on other hosts, as far as one machine can have them.

Another host is a mount namespace with a temp directory of its own: what lies there the controller
cannot see, though it has the same name. A real sshd and execnet's socket server run in it.
"""

from __future__ import annotations

import contextlib
import fnmatch
from importlib.util import find_spec
import json
import os
from pathlib import Path
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys

from printed import kept_paths
import pytest
from report_checks import check_github
from report_checks import check_gitlab
from report_checks import check_junit
from report_checks import check_markdown
from report_checks import check_sarif

from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.session.state import RemoteWorker
from pytest_tempres.workers.xdist import host_of
from pytest_tempres.workspace.retention import Kept

#: The options of ssh and sshd besides their files.
SSHD = """
ListenAddress 127.0.0.1
Port {port}
HostKey {keys}/host
AuthorizedKeysFile {keys}/user.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
SetEnv TMPDIR={tmp} HOST={name}
"""
SSH = """
Host {name}
HostName 127.0.0.1
Port {port}
User root
IdentityFile {keys}/user
IdentitiesOnly yes
BatchMode yes
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""
#: Another host: a temp directory of its own, and the directory that sshd wants.
ENTER = """
set -e
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd
test -z "$1" || mount -t tmpfs tmpfs "$1"
echo ready
exec cat
"""


@pytest.mark.parametrize(
    "ssh, socket, host",
    [
        ("far", None, "far"),
        ("-p 2222 -i /a/key me@far", None, "me@far"),
        ("me@far -p 2222", None, "me@far"),
        ("-p2222 -4Ci key far", None, "far"),
        ("-vi key -o A=b far", None, "far"),
        ("-p", None, "node"),
        (None, "10.0.0.7:8888", "10.0.0.7"),
        (None, True, "node"),
        (None, None, "node"),
    ],
)
def test_host_is_named_as_on_the_command_line(ssh, socket, host):
    """A host has its name from `--tx`, without options and port; else the one it reports."""
    assert host_of(ssh=ssh, socket=socket, node="node") == host


def a_leak(path):
    """Make a leak of a test."""
    entry = Entry(path, Owner("test", "t.py::test"), "t.py::test", worker="gw0")
    return Leak("file", path, 1, 1, complete=True, status="leak", entry=entry)


def test_verdict_of_a_worker_replaces_its_earlier_reports():
    """Before the verdict a failed test's leaks are provisional; then only the verdict counts."""
    worker = RemoteWorker("gw0", "far")
    worker.record("/tmp/r", [a_leak("/tmp/r/x")])
    assert [leak.path for leak in worker.found([])] == ["far:/tmp/r/x"]
    assert [leak.status for leak in worker.found(["t.py::test"])] == ["failed-test"]
    descriptor = a_leak("pipe")._replace(kind="descriptor")
    kept = Kept("t.py::test", "/tmp/r/d", "failed", "name")
    worker.judge("/tmp/r", [a_leak("/tmp/r/y"), descriptor], [kept])
    assert [leak.path for leak in worker.found(["t.py::test"])] == ["far:/tmp/r/y", "pipe"]
    assert worker.kept == [Kept("t.py::test", "far:/tmp/r/d", "failed", "gw0")]


class Host:
    """A mount namespace.

    :param stack: Stops what was started.
    :param tmp: A directory that is another one there.
    """

    def __init__(self, stack: contextlib.ExitStack, tmp: Path | str = "") -> None:
        command = ("unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh", tmp)
        process = stack.enter_context(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
        if process.stdout.readline() != b"ready\n":
            pytest.skip(f"no mount namespace can be made here: {process.stderr.read().decode()}")
        self._stack = stack
        self.enter = ("nsenter", f"--mount=/proc/{process.pid}/ns/mnt", "--")
        #: The directory *tmp* as processes there see it.
        self.tmp = Path(f"/proc/{process.pid}/root{tmp}")

    def start(self, *command: str, ready: str, **env: str) -> subprocess.Popen[str]:
        """Start a process there, and wait until it says that it is ready."""
        process = self._stack.enter_context(
            subprocess.Popen(
                [*self.enter, *command],
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
            )
        )
        self._stack.callback(process.terminate)
        said = []
        for line in process.stdout:
            said.append(line)
            if ready in line:
                return process
        raise AssertionError("".join(said))


@pytest.fixture
def stack():
    """What is stopped when the test is over, the youngest first."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux can make a mount namespace")
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def far(stack, system_tmp) -> Host:
    """Another host, whose temp directory has the same path as here."""
    pytest.importorskip("xdist", reason="pytest-xdist is optional, and not installed here")
    return Host(stack, system_tmp)


@pytest.fixture
def by_ssh(stack, far, system_tmp, tmp_path, pytester) -> dict[str, str]:
    """How two hosts are reached by ssh: `far`, and `near`, which sees our temp directory."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if sshd is None or shutil.which("ssh") is None:
        pytest.skip("ssh or sshd is not installed")
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name]
        subprocess.run(command, check=True)
    specs = {}
    for name, host in (("far", far), ("near", Host(stack))):
        given = {"name": name, "port": free_port(), "keys": tmp_path, "tmp": system_tmp}
        (tmp_path / f"sshd_{name}").write_text(SSHD.format(**given))
        (tmp_path / f"ssh_{name}").write_text(SSH.format(**given))
        host.start(sshd, "-D", "-e", "-f", str(tmp_path / f"sshd_{name}"), ready="listening")
        specs[name] = there(pytester, f"ssh={name}//ssh_config={tmp_path}/ssh_{name}")
    return specs


def there(pytester, spec, python=sys.executable):
    """Return *spec* with what it needs to run the tests in the directory where they are."""
    return f"--tx={spec}//chdir={pytester.path}" + (f"//python={python}" if python else "")


def free_port():
    """Return a port on which no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def by_worker(records):
    """Return the paths of records of a report, by worker."""
    found = {}
    for record in records:
        found.setdefault(record["worker"], set()).add(record["path"])
    return found


def read(pytester):
    """Return the JSON report."""
    return json.loads((pytester.path / "report.json").read_text())


EVERYWHERE = """
    import os, tempfile

    def test_leaks(temp_dir): tempfile.mkdtemp(prefix="leak-")
    def test_there():
        if os.environ.get("HOST") == "far": tempfile.mkdtemp(prefix="there-")
    def test_is_ignored(): tempfile.mkdtemp(prefix="ignored-")
    def test_outside():
        tempfile.mkdtemp(prefix="out-", dir=os.environ["PYTEST_TEMPRES_SYSTEM_TMPDIR"])
    def test_fails(temp_dir):
        (temp_dir / "evidence").touch()
        assert 0
"""


FORMATS = ("junit:report.xml", "markdown:report.md", "gitlab:gitlab.json", "sarif:report.sarif")
FORMATS += ("html:report.html",) if find_spec("jinja2") is not None else ()
FORMATS += ("github",)


def check_formats(path, result, leaks):
    """Check that all reports are valid, and name the other host where they list paths."""
    texts = {
        name: (path / name).read_text(encoding="utf-8")
        for _, _, name in (each.partition(":") for each in FORMATS)
        if name
    }
    check_junit(texts["report.xml"])
    check_markdown(texts["report.md"])
    assert len(check_gitlab(texts["gitlab.json"])) == leaks
    assert len(check_sarif(texts["report.sarif"])["results"]) == leaks
    assert check_github([line for line in result.stdout.lines if line.startswith("::")])
    assert all("far:" in text for name, text in texts.items() if name != "report.md")


def test_workers_on_this_and_on_other_hosts(pytester, run_plain, far, by_ssh, system_tmp):
    """A worker without access to the session root has its own there, and reports `host:path`."""
    pytester.makeini("[pytest]\ntempres_ignore = ignored-*")
    pytester.makepyfile(test_it=EVERYWHERE)
    namespace = there(pytester, "popen", " ".join((*far.enter, sys.executable)))
    result = run_plain(
        "--dist=each",
        *("--tx=popen", by_ssh["far"], by_ssh["near"], namespace),
        *(f"--tempres-report={each}" for each in ("json:report.json", *FORMATS)),
    )
    result.assert_outcomes(passed=16, failed=4, warnings=2)
    assert result.stderr.str() == ""
    output = result.stdout.str()
    assert output.count("cannot access") == 1
    report = read(pytester)
    check_formats(pytester.path, result, report["totals"]["leaks"])
    hosts = {"gw0": "", "gw1": "far:", "gw2": "", "gw3": f"{platform.node()}:"}
    leaks = by_worker(report["leaks"])
    kept = by_worker(report["kept"])
    for worker, host in hosts.items():
        root = f"{host}{system_tmp}/tempres-????????"
        found = [f"{root}/{worker}/leak-*", f"{host}{system_tmp}/out-*"]
        found += [f"{root}/{worker}/there-*"] if worker == "gw1" else []
        assert len(leaks[worker]) == len(found)
        assert all(fnmatch.filter(leaks[worker], pattern) for pattern in found)
        (path,) = kept[worker]
        assert fnmatch.fnmatch(path, f"{root}/{worker}.d/test_fails-*")
        assert f"\nkept: {path}\n" in output
        assert ("test_it.py::test_fails", path) in kept_paths(output)
    assert re.search(r"\n  far:tempres-\w{8}/gw1/there-\w{8}\n    test_it.py:5 in ", output)
    assert "; removed except for 4 outside the temp location" in output
    assert len({record["fingerprint"] for record in report["leaks"]}) == 3
    # What each of the hosts has, and nothing else.
    for where, workers in ((system_tmp, ("gw0", "gw2")), (far.tmp, ("gw1", "gw3"))):
        names = {path.rpartition(f"{system_tmp}/")[2] for w in workers for path in kept[w]}
        assert {str(path.relative_to(where)) for path in where.glob("tempres-*/*/*")} == names
        assert len(list(where.glob("out-*"))) == 2


SERVED = """
    import os, tempfile

    SYSTEM = os.environ["PYTEST_TEMPRES_SYSTEM_TMPDIR"]
    HELD = tempfile.NamedTemporaryFile()

    def test_leaks():
        assert os.path.dirname(os.path.dirname(tempfile.gettempdir())) == SYSTEM
        assert os.environ["TMPDIR"] == tempfile.gettempdir()
        tempfile.mkdtemp(prefix="leak-")
"""


#: Asks a socket server for what a session changes in its process.
ASK = """
import execnet, json, sys
STATE = '''
import atexit, os, tempfile
ours = sorted(name for name in os.environ if "TEMPRES" in name)
kind = type(atexit.register).__name__
channel.send([os.environ["TMPDIR"], tempfile.gettempdir(), kind, ours])
'''
print(json.dumps(execnet.makegateway(sys.argv[1]).remote_exec(STATE).receive()))
"""


def state_of(address):
    """Return how a socket server finds its process when a session is over."""
    command = [sys.executable, "-c", ASK, f"socket={address}"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def test_socket_server_serves_one_session_after_another(pytester, run_plain, far, system_tmp):
    """The second session finds the process as the first did, and nothing is left at its end."""
    pytester.makepyfile(test_it=SERVED)
    address = f"127.0.0.1:{free_port()}"
    server = far.start(
        *(sys.executable, "-u", "-m", "execnet.script.socketserver", address),
        ready="Entering Accept loop",
    )
    args = (
        "--dist=load",
        there(pytester, f"socket={address}", python=None),
        f"--tempres-baseline={system_tmp}/baseline",
        "--tempres-report=json:report.json",
        "--tempres-leaks=fail",
    )
    found = []
    for more, status in (("--tempres-update-baseline=all", "leak"), ("-v", "known")):
        result = run_plain(*args, more)
        result.assert_outcomes(passed=1, warnings=1)
        assert result.ret == 0
        (leak,) = [leak for leak in read(pytester)["leaks"] if leak["status"] != "deferred"]
        assert leak["status"] == status
        assert leak["path"].startswith(f"127.0.0.1:{system_tmp}/tempres-")
        found.append(leak)
    assert len({leak["path"] for leak in found}) == 2
    assert len({leak["fingerprint"] for leak in found}) == 1
    assert state_of(address) == [str(system_tmp), str(system_tmp), "builtin_function_or_method", []]
    server.send_signal(signal.SIGINT)
    server.wait()
    assert not list(far.tmp.iterdir())
    assert [path.name for path in system_tmp.iterdir()] == ["baseline"]


CRASH = """
    import os, tempfile
    import pytest

    @pytest.fixture(scope="module")
    def wide():
        path = tempfile.mkdtemp(prefix="wide-")
        yield
        os.rmdir(path)

    def test_1_leaks(wide): tempfile.mkdtemp(prefix="leak-")
    def test_2_fails(temp_dir):
        tempfile.mkdtemp(prefix="stray-")
        assert 0
    def test_3_crashes(temp_dir):
        tempfile.mkdtemp(prefix="lost-")
        if not os.path.exists("crashed"):
            open("crashed", "x").close()
            os._exit(3)
"""


def test_crash_on_another_host(pytester, run_plain, far, by_ssh, system_tmp, nothing_left):
    """Earlier reports are complete; the next session there removes the crashed worker's root."""
    pytester.makepyfile(test_it=CRASH)
    args = (by_ssh["far"], "--dist=load", "--tempres-report=json:report.json")
    result = run_plain(*args, "--max-worker-restart=0", "--tempres-leaks=fail")
    assert result.ret == 1
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    (dead,) = far.tmp.iterdir()
    report = read(pytester)
    found = {
        (leak["owner"]["id"].rpartition("::")[2], leak["status"], leak["path"].rpartition("/")[0])
        for leak in report["leaks"]
    }
    where = f"far:{system_tmp}/{dead.name}/gw0"
    assert found == {
        ("test_1_leaks", "leak", where),
        ("test_2_fails", "failed-test", where),
        ("wide", "failed-test", where),
    }
    assert report["kept"] == []
    result.stdout.fnmatch_lines(["*= 1 leak * left to the next session on their host; 2 more *"])
    result = run_plain(*args, "-k", "crashes")
    result.assert_outcomes(passed=1)
    # The failed test's own section named what fixtures gave; all else is gone.
    assert list(far.tmp.iterdir()) == [dead]
    assert not list(dead.glob("gw0/*"))
    nothing_left()
