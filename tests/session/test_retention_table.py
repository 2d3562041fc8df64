from __future__ import annotations

from collections.abc import Iterator
import contextlib
import importlib.util
import json
import os
from pathlib import Path
import re
import subprocess
import sys
from typing import Any
from typing import NamedTuple

from printed import kept_paths
import pytest

#: What stays of each way to end, by policy. `given` is what `temp_dir` and `temp_resources` gave
#: to the test's last attempt, `stray` what that left in the temp location, `wide` what factories
#: of the class, the module and the session gave to a fixture that it used.
TABLE = """
outcome               none   failed             all
passes                -      -                  given wide
call_fails            -      given stray wide   given stray wide
setup_fails           -      given stray wide   given stray wide
teardown_fails        -      given stray wide   given stray wide
call_teardown_fail    -      given stray wide   given stray wide
wide_setup_fails      -      wide               wide
wide_teardown_fails   -      given stray wide   given stray wide
parametrized          -      given stray wide   given stray wide
xfails                -      -                  given wide
xfails_strictly       -      -                  given wide
xfails_by_call        -      -                  given wide
xfails_in_setup       -      -                  given wide
xfails_in_teardown    -      -                  given wide
xfails_otherwise      -      given stray wide   given stray wide
xfails_unrun          -      -                  wide
xpasses               -      -                  given wide
xpasses_strictly      -      given stray wide   given stray wide
skipped               -      -                  wide
skips_in_setup        -      -                  given wide
skips_in_call         -      -                  given wide
skips_in_teardown     -      -                  given wide
fails_then_skips      -      given stray wide   given stray wide
subtest_fails         -      given stray wide   given stray wide
subtest_xfails        -      -                  given wide
subtest_skips         -      -                  given wide
subtests_pass         -      -                  given wide
unittest_fails        -      given stray wide   given stray wide
unittest_subtest      -      given stray wide   given stray wide
rerun_passes          -      -                  given wide
rerun_fails           -      given stray wide   given stray wide
rerun_setup_passes    -      -                  given wide
rerun_leaves_less     -      given wide         given wide
times_out             -      given stray wide   given stray wide
crashes               -      given stray wide   given stray wide
fails_before          -      given stray wide   given stray wide
interrupted           -      -                  given wide
"""

#: Marks, fixtures and body of each row's test.
TESTS = {
    "passes": ("", "given", "pass"),
    "call_fails": ("", "given", "assert 0"),
    "setup_fails": ("", "setup_fails", "pass"),
    "teardown_fails": ("", "teardown_fails", "pass"),
    "call_teardown_fail": ("", "teardown_fails", "assert 0"),
    "wide_setup_fails": ("", "wide_setup_fails, given", "pass"),
    "wide_teardown_fails": ("", "wide_teardown_fails, given", "pass"),
    "parametrized": ("@pytest.mark.parametrize('n', [0, 1, 2])", "given, n", "assert n != 1"),
    "xfails": ("@pytest.mark.xfail(strict=False)", "given", "assert 0"),
    "xfails_strictly": ("@pytest.mark.xfail(strict=True)", "given", "assert 0"),
    "xfails_by_call": ("", "given", "pytest.xfail()"),
    "xfails_in_setup": ("", "setup_xfails", "pass"),
    "xfails_in_teardown": ("@pytest.mark.xfail(strict=True)", "teardown_fails", "assert 0"),
    "xfails_otherwise": ("@pytest.mark.xfail(raises=KeyError)", "given", "assert 0"),
    "xfails_unrun": ("@pytest.mark.xfail(run=False)", "given", "assert 0"),
    "xpasses": ("@pytest.mark.xfail(strict=False)", "given", "pass"),
    "xpasses_strictly": ("@pytest.mark.xfail(strict=True)", "given", "pass"),
    "skipped": ("@pytest.mark.skip", "given", "pass"),
    "skips_in_setup": ("", "setup_skips", "pass"),
    "skips_in_call": ("", "given", "pytest.skip()"),
    "skips_in_teardown": ("", "teardown_skips", "pass"),
    "fails_then_skips": ("", "teardown_skips", "assert 0"),
    "subtest_fails": ("", "given, subtests", "in_subtest(subtests, lambda: pytest.fail())"),
    "subtest_xfails": ("", "given, subtests", "in_subtest(subtests, lambda: pytest.xfail())"),
    "subtest_skips": ("", "given, subtests", "in_subtest(subtests, lambda: pytest.skip())"),
    "subtests_pass": ("", "given, subtests", "in_subtest(subtests, lambda: None)"),
    "unittest_fails": ("", "", "self.fail()"),
    "unittest_subtest": ("", "", "in_unittest_subtest(self)"),
    "rerun_passes": ("@pytest.mark.flaky(reruns=2)", "given", "assert attempt() == 2"),
    "rerun_fails": ("@pytest.mark.flaky(reruns=2)", "given", "assert attempt() == 7"),
    "rerun_setup_passes": ("@pytest.mark.flaky(reruns=2)", "flaky_setup", "pass"),
    "rerun_leaves_less": (
        "@pytest.mark.flaky(reruns=1)",
        "given",
        "attempt() == 1 or os.rmdir(given); assert 0",
    ),
    "times_out": ("@timeout", "given", "hang()"),
    "crashes": ("@crash", "given", "os._exit(3)"),
    "fails_before": ("", "given", "assert 0"),
    "interrupted": ("", "given", "raise INTERRUPT"),
}
#: These end a session or a worker, so they have a session of their own, with one worker.
ENDING = ("crashes", "fails_before", "interrupted")

SCOPES = {
    "given": {"temp_dir", "temp_resources"},
    "stray": {"stray"},
    "wide": {"class", "module", "session"},
}

#: Everything that tests make is noted, by none of our code.
CONFTEST = """
import json, os, tempfile
import pytest

def note(kind, path):
    # It names the running test in wider fixtures too.
    nodeid = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
    with open(os.environ["MADE"], "a") as file:
        file.write(json.dumps([nodeid, kind, str(path)]) + "\\n")

@pytest.fixture(scope="class")
def in_class(temp_resources_class):
    note("class", temp_resources_class.dir())

@pytest.fixture(scope="module")
def in_module(temp_resources_module):
    note("module", temp_resources_module.dir())

@pytest.fixture(scope="session")
def in_session(temp_resources_session):
    note("session", temp_resources_session.dir())

@pytest.fixture
def given_to_class(in_module, in_class, temp_dir, temp_resources):
    note("temp_dir", temp_dir)
    note("temp_resources", temp_resources.dir())
    note("temp_resources", temp_resources.named_file().name)
    stray = tempfile.mkdtemp(prefix="stray-")
    note("stray", stray)
    return stray

@pytest.fixture
def given(in_session, given_to_class):
    return given_to_class

@pytest.fixture
def setup_fails(given):
    raise RuntimeError

@pytest.fixture
def setup_skips(given):
    pytest.skip()

@pytest.fixture
def setup_xfails(given):
    pytest.xfail()

@pytest.fixture
def teardown_fails(given):
    yield
    raise RuntimeError

@pytest.fixture
def teardown_skips(given):
    yield
    pytest.skip()

@pytest.fixture(scope="module")
def wide_setup_fails(in_module):
    raise RuntimeError

@pytest.fixture(scope="module")
def wide_teardown_fails(in_module):
    yield
    raise RuntimeError
"""

MODULE = """
import importlib.util, os, signal, unittest
import pytest

TRIES = []
HAS_TIMEOUT = importlib.util.find_spec("pytest_timeout") is not None
limit = {"method": "signal", "func_only": True}
timeout = pytest.mark.timeout(0.1, **limit) if HAS_TIMEOUT else lambda test: test
# A worker may die; without workers it has to be a child.
crash = (lambda test: test) if "PYTEST_XDIST_WORKER" in os.environ else pytest.mark.forked

def attempt():
    TRIES.append(1)
    return len(TRIES)

def tidy_up(stray):
    if attempt() == 2:
        os.rmdir(stray)

@pytest.fixture
def flaky_setup(given):
    assert attempt() == 2

def in_subtest(subtests, action):
    for number in range(3):
        with subtests.test(number=number):
            if number == 1:
                action()

def in_unittest_subtest(case):
    for number in range(3):
        with case.subTest(number=number):
            assert number != 1

def hang():
    def stop(*_):
        pytest.fail("too long")
    if not HAS_TIMEOUT:
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
    while True:
        signal.pause()
"""

#: A session fixture with a parameter ends where the next parameter begins: each row's factory is
#: its own, and all the rows have one session.
CLASS = """
@pytest.mark.parametrize("temp_resources_session", [{row!r}], indirect=True)
class Test_{row}:
    def test_before(self, given): pass
    {marks}
    def test_it(self, {fixtures}): {body}
    def test_later(self, given): pass
"""
UNITTEST = """
class Test_{row}(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def always(self, given_to_class): pass
    def test_before(self): pass
    def test_it(self): {body}
    def test_later(self): pass
"""


def rows() -> dict[str, dict[str, set[str]]]:
    """Return what stays, by row and policy."""
    header, *lines = (re.split(r"  +", line) for line in TABLE.strip().splitlines())
    return {
        row: {
            policy: set().union(*(SCOPES[word] for word in cell.split() if word != "-"))
            for policy, cell in zip(header[1:], cells, strict=True)
        }
        for row, *cells in lines
    }


ROWS = rows()


class CreatedPath(NamedTuple):
    """A path that a test created, as the test itself recorded it."""

    test: str
    kind: str
    path: str

    @property
    def stays(self) -> bool:
        """Whether it is still there."""
        return os.path.lexists(self.path)

    @property
    def worker(self) -> str:
        """The worker that made it."""
        return Path(self.path).parent.name.removesuffix(".d")


class InnerSession(NamedTuple):
    """An inner session: all that is known of it lies on the disk."""

    place: Path

    @property
    def report(self) -> dict[str, Any]:
        """The JSON report."""
        return json.loads((self.place / "report.json").read_text())

    @property
    def output(self) -> str:
        """What was printed."""
        return (self.place / "out.txt").read_text()

    @property
    def index(self) -> dict[str, list[str]]:
        """The index of what is kept; empty where there is none."""
        paths = list((self.place / "tmp").glob("tempres-*/index.json"))
        return json.loads(paths[0].read_text())["kept"] if paths else {}

    def made(self, row: str) -> list[CreatedPath]:
        """Return what the tests of a row made, in order."""
        lines = (self.place / "made.txt").read_text().splitlines()
        return [
            each for line in lines if (each := CreatedPath(*json.loads(line))).test.startswith(row)
        ]

    def named_in_failures(self, row: str) -> set[str]:
        """Return the paths that the sections of a row's failures name."""
        found, wanted = set(), False
        for line in self.output.splitlines():
            if re.match("_+ .+ _+$|=+ .+ =+$", line):
                wanted = re.search(rf"\bTest_{row}\b|\btest_{row}\.py", line) is not None
            elif wanted and line.startswith("kept: "):
                found.add(line.removeprefix("kept: "))
        return found


class Row:
    """What the tests of a row made in a session."""

    def __init__(self, name: str, made: list[CreatedPath]) -> None:
        own = [x for x in made if self._is_about(name, x.test) and x.kind not in SCOPES["wide"]]
        starts = [position for position, x in enumerate(own) if x.kind == "temp_dir"] or [0]
        wide = [x for x in made if x.kind in SCOPES["wide"] and "test_later" not in x.test]
        #: What the table speaks of.
        self.about = [*own[starts[-1] :], *wide]
        #: What attempts made that were not the last.
        self.earlier = own[: starts[-1]]
        #: What tests made that pass before and after.
        self.others = [x for x in made if x not in self.about and x not in self.earlier]

    @staticmethod
    def _is_about(name: str, test: str) -> bool:
        return "::test_it" in test and (name != "parametrized" or "1" in test)

    @property
    def stays(self) -> set[str]:
        """The kinds of which all stay; one of which only some do is marked."""
        by_kind: dict[str, set[bool]] = {}
        for each in self.about:
            by_kind.setdefault(each.kind, set()).add(each.stays)
        return {
            kind if all(stay) else f"{kind} in part" for kind, stay in by_kind.items() if any(stay)
        }


@pytest.fixture(scope="module", params=["none", "failed", "all"])
def policy(request):
    """The policy of the inner session."""
    return request.param


@pytest.fixture(scope="module", params=["plain", "xdist"])
def mode(request):
    """How the inner session runs; as in the other tests, but once for all rows."""
    if request.param == "xdist":
        pytest.importorskip("xdist", reason="pytest-xdist is optional, and not installed here")
    return request.param


@pytest.fixture
def ran(tmp_path_factory, plain_options, policy, mode):
    """Run the inner session of some rows, unless another row has done so already."""
    return lambda *names: run_once(tmp_path_factory, plain_options, policy, mode, names)


def run_once(factory, options, policy, mode, names) -> InnerSession:
    """Run an inner session, or take what is there of it."""
    base = factory.getbasetemp()
    # Workers of this session share what one of them has run.
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    place = base / f"retention-{policy}-{mode}-{names[0]}"
    with locked(f"{place}.lock"):
        if not place.exists():
            place.mkdir()
            run(place, options, policy, mode, names)
    return InnerSession(place)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a lock where the platform has one that waits; elsewhere each worker runs its own."""
    fcntl = pytest.importorskip("fcntl", reason="the rows crash, fork and wait for signals")
    with open(path, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(place: Path, options: list[str], policy: str, mode: str, names: tuple[str, ...]) -> None:
    """Write the tests of some rows, and run them in a session of their own."""
    suite = write_suite(place, mode, names)
    (place / "tmp").mkdir()
    args = []
    if mode == "xdist":
        args = ["-n1"] if "interrupted" in names else ["-n2", "--dist=loadfile"]
    reruns = ["-prerunfailures"] if importlib.util.find_spec("pytest_rerunfailures") else []
    report = f"--tempres-report=json:{place / 'report.json'}"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env.pop("CI", None)
    with open(place / "out.txt", "wb") as out:
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-v", *options, *reruns, *args, report),
                *(f"--tempres-keep={policy}", "--tempres-leaks=report"),
            ],
            cwd=suite,
            env={**env, "TMPDIR": str(place / "tmp"), "MADE": str(place / "made.txt")},
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=120,
        )


def write_suite(place: Path, mode: str, names: tuple[str, ...]) -> Path:
    """Write the tests of some rows, and return the directory that they are in."""
    suite = place / "suite"
    suite.mkdir()
    (suite / "pytest.ini").write_text("[pytest]\n")
    (suite / "conftest.py").write_text(CONFTEST)
    for row in names:
        (suite / f"test_{row}.py").write_text(module(row, mode))
    return suite


def module(row: str, mode: str) -> str:
    """Return the module of a row: its test, and others that pass and use the same wider scopes."""
    marks, fixtures, body = TESTS[row]
    template = UNITTEST if row.startswith("unittest") else CLASS
    text = MODULE + template.format(row=row, marks=marks, fixtures=fixtures, body=body)
    if row == "wide_teardown_fails":
        # Whoever comes last fails with it.
        text = text.replace("def test_later", "def later")
    # pytest-xdist ends a worker for both, and reports only one.
    return text.replace("INTERRUPT", "KeyboardInterrupt" if mode == "plain" else "pytest.exit(1)")


def missing(row: str, mode: str) -> str | None:
    """Return why a row cannot be had here."""

    def has(name):
        return importlib.util.find_spec(name) is not None

    if row.startswith("rerun") and not has("pytest_rerunfailures"):
        return "pytest-rerunfailures is not installed"
    if row.startswith("subtest") and pytest.version_tuple < (9,) and not has("pytest_subtests"):
        return "before pytest 9 a plugin has subtests"
    if row == "crashes" and mode == "plain" and not has("pytest_forked"):
        return "without workers a crash is a forked child's, and pytest-forked is not installed"
    return None


def session_of(name: str, mode: str) -> tuple[str, ...]:
    """Return the rows that have one session with the row *name*."""
    together = [row for row in ROWS if (row in ENDING) == (name in ENDING)]
    return tuple(row for row in together if missing(row, mode) is None)


@pytest.mark.parametrize("name", ROWS)
def test_what_stays(ran, name, policy, mode):
    """Disk, index, JSON report, list and failures agree with the table, path by path."""
    reason = missing(name, mode)
    if reason is not None:
        pytest.skip(reason)
    session = ran(*session_of(name, mode))
    row = Row(name, session.made(f"test_{name}.py"))
    # A unittest.TestCase takes no parameter, so no session's factory would be its own.
    missing_scopes = {"session"} if name.startswith("unittest") else set()
    assert row.stays == ROWS[name][policy] - missing_scopes
    assert not [each for each in row.earlier if each.stays]
    assert [each for each in row.others if each.stays] == [
        each for each in row.others if policy == "all" and each.kind != "stray"
    ]
    failed = bool(ROWS[name]["failed"])
    for each in row.about:
        wide = each.kind in SCOPES["wide"]
        test = f"test_{name}.py::Test_{name}::test_it" if wide and failed else each.test
        crashed = name == "crashes" and mode == "xdist" and each.kind != "stray"
        reason = "crashed" if crashed else "failed" if each.kind == "stray" else policy
        check_reported(session, each, test, reason)
    for each in row.others:
        check_reported(session, each, each.test, policy)
    # What it left is named in the list alone: a fixture's teardown may yet remove it.
    named = {each.path for each in row.about if each.stays and each.kind != "stray" and failed}
    assert session.named_in_failures(name) == named


def check_reported(session: InnerSession, made: CreatedPath, test: str, reason: str) -> None:
    """Check that report, index and list agree on a path."""
    found = [each for each in session.report["kept"] if each["path"] == made.path]
    if not made.stays:
        assert found == []
        return
    (record,) = found
    nodeid = record["nodeid"]
    assert nodeid.startswith(test)
    assert (record["reason"], record["worker"]) == (reason, made.worker)
    assert made.path in session.index[nodeid]
    assert (nodeid, made.path) in kept_paths(session.output)


@pytest.mark.parametrize("last", ["passes", "interrupted"])
def test_nothing_else_stays(ran, policy, mode, last):
    """The temp directory contains only what the report names, and only that is printed."""
    session = ran(*session_of(last, mode))
    paths = sorted(each["path"] for each in session.report["kept"])
    assert paths == sorted(str(path) for path in (session.place / "tmp").glob("tempres-*/*/*"))
    assert paths == sorted(path for some in session.index.values() for path in some)
    printed = re.findall(r"^kept: (?:.*(?:  |\n  ))?(/.*)$", session.output, re.MULTILINE)
    assert set(printed) == set(paths)
    assert session.report["totals"]["kept"] == len(paths)
    for noise in ("INTERNALERROR", "internal error", "TempresCleanupWarning", "TempresLeakWarn"):
        assert noise not in session.output
    # pytest-xdist makes its workers a place for `tmp_path` beside it.
    roots = [x for x in (session.place / "tmp").iterdir() if not x.name.startswith("pytest-of-")]
    if policy == "none":
        assert "kept:" not in session.output
        assert roots == []
    else:
        (root,) = roots
        files = {path.name for path in root.iterdir() if not path.is_dir()}
        assert files == {".lock", ".tempres.json", "index.json"}
