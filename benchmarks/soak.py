"""Run very many tests with every fixture and see that workers do not grow and nothing is left.

    python benchmarks/soak.py                       # 50,000 tests, four workers: about 10 minutes
    python benchmarks/soak.py --tests 5000 --workers 2

Needs pytest-xdist, and Linux for /proc. Every test uses each function-scoped fixture and makes a
directory with the factory of its class; the factories of wider scopes are used once per class and
once per module, since what they make is meant to stay. Each worker looks at itself from time to
time, after a garbage collection: resident memory, the blocks that Python's allocator has given out
(`sys.getallocatedblocks`, which no page and no arena rounds), and CPU time.

pytest grows with each test that has run, and more so in the controller, which keeps the reports. So
the same tests run first without the plugin, with stand-ins for the fixtures that are made of the
standard library; what grows beyond that is ours. Claimed, from a tenth of a worker's tests to the
last: its resident memory grows by at most 5 % more than without us, and its tests slow down by at
most 10 % more. The controller's figures stand beside them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import platform
import subprocess
import sys
import tempfile
from typing import Final
from typing import NamedTuple

import pytest

PER_CLASS: Final = 50
PER_FILE: Final = 500
MEMORY_LIMIT: Final = 1.05
TIME_LIMIT: Final = 1.10
CONFTEST: Final = """\
import gc
import json
import os
import sys
from time import process_time

import pytest

STEP = int(os.environ["SOAK_STEP"])
NAME = os.environ.get("PYTEST_XDIST_WORKER", "controller")
run = 0
looking = 0.0


def look():
    global looking
    before = process_time()
    gc.collect()
    with open("/proc/self/statm") as file:
        rss = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    figures = [run, rss, sys.getallocatedblocks(), before - looking]
    with open(os.path.join(os.environ["SOAK_LOGS"], NAME), "a") as file:
        file.write(json.dumps(figures) + "\\n")
    looking += process_time() - before


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish():
    global run
    run += 1
    if run % (STEP * (1 if NAME != "controller" else 4)) == 0:
        look()
"""
STAND_INS: Final = """

import pathlib
import shutil
import tempfile


@pytest.fixture
def temp_dir():
    with tempfile.TemporaryDirectory() as path:
        yield pathlib.Path(path)


@pytest.fixture
def temp_file():
    with tempfile.TemporaryFile() as file:
        yield file


@pytest.fixture
def named_temp_file():
    with tempfile.NamedTemporaryFile() as file:
        yield file


@pytest.fixture
def spooled_file():
    with tempfile.SpooledTemporaryFile() as file:
        yield file


class Factory:
    def __init__(self):
        self.made = []

    def dir(self):
        self.made.append(tempfile.mkdtemp())
        return pathlib.Path(self.made[-1])


def factory(scope):
    def make():
        made = Factory()
        yield made
        for path in made.made:
            shutil.rmtree(path)

    return pytest.fixture(scope=scope)(make)


temp_resources = factory("function")
temp_resources_class = factory("class")
temp_resources_module = factory("module")
temp_resources_session = factory("session")
"""
HEAD: Final = """\
import pytest


@pytest.fixture(scope="module", autouse=True)
def once_per_module(temp_resources_module, temp_resources_session):
    temp_resources_module.dir()
    temp_resources_session.dir()


@pytest.fixture(scope="class", autouse=True)
def once_per_class(temp_resources_module):
    temp_resources_module.dir()

"""
TEST: Final = """
    def test_{n}(
        self, temp_dir, temp_file, named_temp_file, spooled_file, temp_resources,
        temp_resources_class,
    ):
        (temp_dir / "x").write_text("x")
        temp_file.write(b"x")
        named_temp_file.write(b"x")
        spooled_file.write(b"x")
        (temp_resources.dir() / "x").mkdir()
        temp_resources_class.dir()
"""


class Look(NamedTuple):
    """What a process said of itself after so many tests."""

    tests: int
    rss: int
    blocks: int
    seconds: float


class Course(NamedTuple):
    """How a process changed from a tenth of its tests to the last look."""

    name: str
    first: Look
    last: Look
    early: float
    late: float

    @property
    def grown(self) -> float:
        """Resident memory at the end, in that of the beginning."""
        return self.last.rss / self.first.rss

    @property
    def blocks(self) -> float:
        """Blocks that each test has left behind."""
        return (self.last.blocks - self.first.blocks) / (self.last.tests - self.first.tests)

    @property
    def slower(self) -> float:
        """CPU time of a test in the last quarter, in that of the first."""
        return self.late / self.early


def write_suite(place: Path, tests: int, *, stand_ins: bool) -> None:
    """Write a suite of *tests* tests that use every fixture."""
    place.mkdir()
    (place / "pytest.ini").write_text("[pytest]\n", "utf-8")
    (place / "conftest.py").write_text(CONFTEST + (STAND_INS if stand_ins else ""), "utf-8")
    for first in range(0, tests, PER_FILE):
        text = HEAD
        for n in range(first, min(first + PER_FILE, tests)):
            if n % PER_CLASS == 0:
                text += f"\nclass Test{n // PER_CLASS}:"
            text += TEST.format(n=n)
        (place / f"test_{first:06}.py").write_text(text, "utf-8")


def environment(tmp: Path, logs: Path, step: int) -> dict[str, str]:
    """Return the environment of a run that measures itself every *step* tests."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env.update(
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
        # Where pytest itself leaves the base directories of workers.
        PYTEST_DEBUG_TEMPROOT=str(logs),
        TMPDIR=str(tmp),
        SOAK_LOGS=str(logs),
        SOAK_STEP=str(step),
    )
    return env


def soak(scratch: Path, args: argparse.Namespace, *, plugin: bool) -> dict[str, Course]:
    """Run the suite and return how each process fared."""
    kind = "with" if plugin else "without"
    suite, tmp, logs = (scratch / f"{kind}-{name}" for name in ("suite", "tmp", "logs"))
    write_suite(suite, args.tests, stand_ins=not plugin)
    tmp.mkdir()
    logs.mkdir()
    env = environment(tmp, logs, step=max(args.tests // args.workers // 40, 10))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "xdist"]
    command += ["-p", "tempres" if plugin else "no:tempres", f"-n{args.workers}"]
    command += ["--dist=loadfile", "--no-header"]
    done = subprocess.run(
        command, cwd=suite, env=env, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode or f"{args.tests} passed" not in done.stdout:
        sys.exit(f"{done.stdout[-5000:]}\n{done.stderr}\nexit status {done.returncode}")
    left = sorted(str(path) for path in tmp.rglob("*"))
    print(f"{kind} the plugin: {done.stdout.splitlines()[-1]}; left behind: {left or 'nothing'}")
    if left:
        sys.exit(1)
    return {path.name: read(path) for path in sorted(logs.iterdir()) if path.is_file()}


def read(path: Path) -> Course:
    """Read what a process wrote down."""
    looks = [Look(*json.loads(line)) for line in path.read_text("ascii").splitlines()]
    later = [look for look in looks if look.tests * 10 >= looks[-1].tests]
    quarter = max(len(later) // 4, 1)
    return Course(
        path.name,
        later[0],
        later[-1],
        pace(later[0], later[quarter]),
        pace(later[-1 - quarter], later[-1]),
    )


def pace(first: Look, last: Look) -> float:
    """Return the CPU time of a test between two looks."""
    return (last.seconds - first.seconds) / (last.tests - first.tests)


def print_course(course: Course) -> None:
    """Print one line for a process."""
    first, last = course.first, course.last
    print(
        f"  {course.name:11}{first.tests:>7,}{last.tests:>8,}"
        f"{first.rss / 2**20:>9.1f}{last.rss / 2**20:>9.1f} MiB{course.grown:>8.3f}"
        f"{course.blocks:>9.2f} blocks{course.early * 1e6:>8.0f}{course.late * 1e6:>8.0f} us"
        f"{course.slower:>8.3f}"
    )


def verdict(without: dict[str, Course], with_us: dict[str, Course]) -> bool:
    """Print what is claimed and whether it holds."""
    workers = sorted(name for name in with_us if name != "controller")
    grown = [with_us[name].grown / without[name].grown for name in workers]
    slower = [with_us[name].slower / without[name].slower for name in workers]
    print(f"memory of a worker beyond that without us: {min(grown):.3f} to {max(grown):.3f}")
    print(f"slowing down of its tests, likewise: {min(slower):.3f} to {max(slower):.3f}")
    for name in ("controller", workers[0]):
        ours = with_us[name].blocks - without[name].blocks
        print(f"blocks per test that we leave in {name}: {ours:+.2f}")
    kept = max(grown) <= MEMORY_LIMIT and sum(slower) / len(slower) <= TIME_LIMIT
    print("kept" if kept else "MISSED")
    return kept


def main() -> None:
    """Run the suite without and with the plugin, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tests", type=int, default=50_000, help="tests (50000)")
    parser.add_argument("--workers", type=int, default=4, help="workers (4)")
    args = parser.parse_args()
    print(f"Python {platform.python_version()}, pytest {pytest.__version__}, {args.tests:,} tests")
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        courses = []
        for plugin in (False, True):
            courses.append(soak(Path(directory), args, plugin=plugin))
            print(
                "  process      tests at first and last, memory, growth; left per test; CPU a test"
            )
            for course in courses[-1].values():
                print_course(course)
    sys.exit(not verdict(*courses))


if __name__ == "__main__":
    main()
