"""A soak test: many tests with every fixture, after which memory, time and files are checked.

    python benchmarks/soak.py                       # 50,000 tests, four workers: about 10 minutes
    python benchmarks/soak.py --tests 5000 --workers 2

Needs pytest-xdist, and Linux for /proc. Every test uses each function-scoped fixture and creates a
directory with the factory of its class; the factories of wider scopes are used once per class and
once per module, because what they create exists until the scope ends. At intervals each worker
measures itself after a garbage collection: resident memory, the blocks of Python's allocator
(`sys.getallocatedblocks`, which is not rounded to pages or arenas), and CPU time.

pytest's memory grows with each test, most of all in the controller, which keeps the reports. So the
same tests run first without the plugin, with substitutes for the fixtures that use the standard
library; the plugin is responsible for what grows beyond that. From a tenth of a worker's tests to
the last one, its resident memory must grow by at most 5 % more than without the plugin, and its
tests must slow down by at most 10 % more. The controller's figures are printed too.
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
sampling = 0.0


def sample():
    global sampling
    before = process_time()
    gc.collect()
    with open("/proc/self/statm") as file:
        rss = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    figures = [run, rss, sys.getallocatedblocks(), before - sampling]
    with open(os.path.join(os.environ["SOAK_LOGS"], NAME), "a") as file:
        file.write(json.dumps(figures) + "\\n")
    sampling += process_time() - before


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish():
    global run
    run += 1
    if run % (STEP * (1 if NAME != "controller" else 4)) == 0:
        sample()
"""
SUBSTITUTES: Final = """

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
        self.created = []

    def dir(self):
        self.created.append(tempfile.mkdtemp())
        return pathlib.Path(self.created[-1])


def factory(scope):
    def create():
        factory = Factory()
        yield factory
        for path in factory.created:
            shutil.rmtree(path)

    return pytest.fixture(scope=scope)(create)


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


class Sample(NamedTuple):
    """The figures of a process after a number of tests."""

    tests: int
    rss: int
    blocks: int
    seconds: float


class Trend(NamedTuple):
    """How a process changed from a tenth of its tests to the last sample."""

    name: str
    first: Sample
    last: Sample
    early: float
    late: float

    @property
    def growth(self) -> float:
        """Resident memory at the end, divided by that at the beginning."""
        return self.last.rss / self.first.rss

    @property
    def blocks(self) -> float:
        """Additional blocks for each test."""
        return (self.last.blocks - self.first.blocks) / (self.last.tests - self.first.tests)

    @property
    def slowdown(self) -> float:
        """CPU time of a test in the last quarter, divided by that in the first."""
        return self.late / self.early


def write_suite(place: Path, tests: int, *, substitutes: bool) -> None:
    """Write a suite of *tests* tests that use every fixture."""
    place.mkdir()
    (place / "pytest.ini").write_text("[pytest]\n", "utf-8")
    (place / "conftest.py").write_text(CONFTEST + (SUBSTITUTES if substitutes else ""), "utf-8")
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
        # pytest leaves the base temp directories of workers here.
        PYTEST_DEBUG_TEMPROOT=str(logs),
        TMPDIR=str(tmp),
        SOAK_LOGS=str(logs),
        SOAK_STEP=str(step),
    )
    return env


def soak(scratch: Path, args: argparse.Namespace, *, plugin: bool) -> dict[str, Trend]:
    """Run the suite and return the trend of each process."""
    kind = "with" if plugin else "without"
    suite, tmp, logs = (scratch / f"{kind}-{name}" for name in ("suite", "tmp", "logs"))
    write_suite(suite, args.tests, substitutes=not plugin)
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


def read(path: Path) -> Trend:
    """Read the samples of a process."""
    samples = [Sample(*json.loads(line)) for line in path.read_text("ascii").splitlines()]
    later = [sample for sample in samples if sample.tests * 10 >= samples[-1].tests]
    quarter = max(len(later) // 4, 1)
    return Trend(
        path.name,
        later[0],
        later[-1],
        pace(later[0], later[quarter]),
        pace(later[-1 - quarter], later[-1]),
    )


def pace(first: Sample, last: Sample) -> float:
    """Return the CPU time of a test between two samples."""
    return (last.seconds - first.seconds) / (last.tests - first.tests)


def print_trend(trend: Trend) -> None:
    """Print one line for a process."""
    first, last = trend.first, trend.last
    print(
        f"  {trend.name:11}{first.tests:>7,}{last.tests:>8,}"
        f"{first.rss / 2**20:>9.1f}{last.rss / 2**20:>9.1f} MiB{trend.growth:>8.3f}"
        f"{trend.blocks:>9.2f} blocks{trend.early * 1e6:>8.0f}{trend.late * 1e6:>8.0f} us"
        f"{trend.slowdown:>8.3f}"
    )


def compare(without: dict[str, Trend], with_plugin: dict[str, Trend]) -> bool:
    """Print the comparison and whether the limits are kept."""
    workers = sorted(name for name in with_plugin if name != "controller")
    growth = [with_plugin[name].growth / without[name].growth for name in workers]
    slowdown = [with_plugin[name].slowdown / without[name].slowdown for name in workers]
    print(f"growth of a worker's memory, relative: {min(growth):.3f} to {max(growth):.3f}")
    print(f"slowdown of its tests, relative: {min(slowdown):.3f} to {max(slowdown):.3f}")
    for name in ("controller", workers[0]):
        blocks = with_plugin[name].blocks - without[name].blocks
        print(f"additional blocks per test in {name}: {blocks:+.2f}")
    kept = max(growth) <= MEMORY_LIMIT and sum(slowdown) / len(slowdown) <= TIME_LIMIT
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
        trends = []
        for plugin in (False, True):
            trends.append(soak(Path(directory), args, plugin=plugin))
            print(
                "  process     tests (first, last), memory, growth; blocks per test; CPU per test"
            )
            for trend in trends[-1].values():
                print_trend(trend)
    sys.exit(not compare(*trends))


if __name__ == "__main__":
    main()
