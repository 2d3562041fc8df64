"""The CPU time that the plugin adds to a test session, compared with the budgets.

    python benchmarks/session.py                    # all parts: about 10 minutes
    python benchmarks/session.py --only start       # one part
    python benchmarks/session.py --growth 1000,10000,50000

Each round runs all variants, in alternating order. "before" and "after" are the fastest runs of
each variant, and "best" is computed from these; "median" is the median over the rounds and is
compared with the budget; "range" shows how much the rounds differ. CPU time is the user and system
time of the pytest process. The cost of a fixture is measured for each test, compared with the test
before it that uses a fixture which does nothing.

The suites are generated in a temporary directory, and the temp directory of the measured sessions
is next to them: TMPDIR selects the file system. Only pytest and this plugin are loaded.
Needs Linux or macOS.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
import os
from pathlib import Path
import platform
from statistics import median
import subprocess
import sys
import tempfile
from typing import Final
from typing import NamedTuple

import pytest

PARTS: Final = ("start", "empty", "fixture", "growth")
PER_FILE: Final = 500
WITH: Final = ("-p", "tempres")
WITHOUT: Final = ("-p", "no:tempres")
FAILED_ONLY: Final = ("-o", "tmp_path_retention_policy=failed")
CONFTEST: Final = """\
import os
from statistics import median
from time import process_time

import pytest

spent = []


@pytest.fixture
def nothing():
    return None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol():
    start = process_time()
    result = yield
    spent.append(process_time() - start)
    return result


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish():
    last = spent[-2000:]
    pairs = zip(last[::2], last[1::2])
    with open(os.environ["BENCH_ADDED"], "w") as file:
        file.write(repr(median(second - first for first, second in pairs)))
"""


class Cost(NamedTuple):
    """What one pytest process used."""

    seconds: float
    """CPU time, user and system."""
    kib: float
    """Its maximum memory."""
    added: float
    """Seconds that a test with the fixture takes longer than the test without it before: the median
    of the last 1,000 pairs."""


class Variant(NamedTuple):
    """One way to run pytest: the fixture that every second test uses, and the options.

    The other tests use a fixture that does nothing. Without a fixture, all tests are empty.
    """

    fixture: str
    options: tuple[str, ...]


class Row(NamedTuple):
    """One line of the table."""

    name: str
    before: str
    after: str
    values: list[float]
    """One figure per round."""
    best: float
    unit: str
    budget: float | None


class Bench:
    """Writes suites in ``scratch`` and runs them."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._env = {
            name: value
            for name, value in os.environ.items()
            # As for a user: with bytecode caches, and without this benchmark's own options.
            if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("PYTEST_")
        }
        self._env.update(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTHONHASHSEED="0")
        self._added = scratch / "added"
        self._env.update(TMPDIR=str(scratch / "tmp"), BENCH_ADDED=str(self._added))
        (scratch / "tmp").mkdir()

    def rounds(self, variants: list[Variant], tests: int, runs: int) -> Iterator[list[Cost]]:
        """Yield the costs of ``variants``, in their order, ``runs`` times.

        Each round starts with another variant, so that no variant always has warm caches.
        """
        for variant in variants:
            self._run(variant, tests)  # Fills the bytecode caches.
        for start in range(runs):
            costs = {}
            for offset in range(len(variants)):
                variant = variants[(start + offset) % len(variants)]
                costs[variant] = self._run(variant, tests)
            yield [costs[variant] for variant in variants]

    def _run(self, variant: Variant, tests: int) -> Cost:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                [*command, *variant.options],
                cwd=self._suite(variant.fixture, tests),
                env=self._env,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            text = output.read()
        if process.returncode or f"{tests} passed" not in text:
            sys.exit(f"{text}\n{variant} ended with exit status {process.returncode}")
        memory = usage.ru_maxrss / 1024 if sys.platform == "darwin" else usage.ru_maxrss
        added = float(self._added.read_text(encoding="ascii")) if variant.fixture else 0.0
        return Cost(usage.ru_utime + usage.ru_stime, memory, added)

    def _suite(self, fixture: str, tests: int) -> Path:
        suite = self._scratch / f"{fixture or 'empty'}-{tests}"
        if suite.exists():
            return suite
        suite.mkdir()
        (suite / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        if fixture:
            (suite / "conftest.py").write_text(CONFTEST, encoding="utf-8")
        uses = ("nothing", fixture) if fixture else ("", "")
        for first in range(0, tests, PER_FILE):
            numbers = range(first, min(first + PER_FILE, tests))
            text = "".join(f"def test_{n}({uses[n % 2]}):\n    pass\n\n" for n in numbers)
            (suite / f"test_{first:06}.py").write_text(text, encoding="utf-8")
        return suite


def main() -> None:
    """Measure the selected parts and print one table."""
    args = parse_arguments()
    sizes = [int(size) for size in args.growth.split(",")]
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        bench = Bench(Path(scratch))
        rows: list[Row] = []
        if "start" in args.only:
            rows += measure_start(bench, args.starts)
        if "empty" in args.only:
            rows += measure_empty(bench, args.tests, args.runs)
        if "fixture" in args.only:
            rows += measure_fixture(bench, args.tests, args.runs)
        if "growth" in args.only:
            rows += measure_growth(bench, sizes, args.runs)
    print_table(rows)


def measure_start(bench: Bench, runs: int) -> list[Row]:
    """Run one empty test: the difference is the time to load and start the plugin."""
    rounds = list(bench.rounds([Variant("", WITHOUT), Variant("", WITH)], 1, runs))
    added = [(plugin.seconds - plain.seconds) * 1000 for plain, plugin in rounds]
    before, after = fastest(rounds)
    best = (after - before) * 1000
    return [Row("session start", f"{before:.3f} s", f"{after:.3f} s", added, best, "ms", 25)]


def measure_empty(bench: Bench, tests: int, runs: int) -> list[Row]:
    """Run tests that request no fixture."""
    rounds = list(bench.rounds([Variant("", WITHOUT), Variant("", WITH)], tests, runs))
    ratios = [plugin.seconds / plain.seconds for plain, plugin in rounds]
    before, after = fastest(rounds)
    name = f"{tests:,} empty tests"
    return [Row(name, f"{before:.3f} s", f"{after:.3f} s", ratios, after / before, "x", 1.03)]


def measure_fixture(bench: Bench, tests: int, runs: int) -> list[Row]:
    """Compare ``temp_dir`` and ``tmp_path``: the time that each takes longer than an empty fixture.

    The suite with ``tmp_path`` runs without the plugin.
    """
    variants = [Variant("tmp_path", WITHOUT + FAILED_ONLY), Variant("temp_dir", WITH)]
    rounds = list(bench.rounds(variants, tests, runs))
    return [compare(f"{tests:,} tests, tmp_path, temp_dir", rounds, 0.5)]


def measure_growth(bench: Bench, sizes: list[int], runs: int) -> list[Row]:
    """Compare the time that ``temp_dir`` adds to a test at the end of suites of increasing size.

    Memory is compared between runs with and without the plugin, of suites with empty tests.
    """
    rows = []
    used = [list(bench.rounds([Variant("temp_dir", WITH)], size, runs)) for size in sizes]
    for size, rounds in zip(sizes[1:], used[1:], strict=True):
        both = [[few, many] for (few,), (many,) in zip(used[0], rounds, strict=True)]
        rows.append(compare(f"temp_dir at {sizes[0]:,} and {size:,}", both, 1.1))
    pair = [Variant("", WITHOUT), Variant("", WITH)]
    costs = [next(bench.rounds(pair, size, 1)) for size in sizes]
    memory = [plugin.kib - plain.kib for plain, plugin in costs]
    for (few, many), (low, high) in zip(pairwise(sizes), pairwise(memory), strict=True):
        growth = (high - low) / (many - few)
        name = f"memory per test, {few:,} to {many:,}"
        rows.append(Row(name, f"{low:,.0f} KiB", f"{high:,.0f} KiB", [growth], growth, "KiB", None))
    return rows


def compare(name: str, rounds: list[list[Cost]], budget: float) -> Row:
    """Compare the time that the fixture added to a test in the two variants of ``rounds``."""
    ratios = [second.added / first.added for first, second in rounds]
    before, after = (min(cost.added for cost in costs) for costs in zip(*rounds, strict=True))
    shown = [f"{added * 1e6:.0f} us/test" for added in (before, after)]
    return Row(name, *shown, ratios, after / before, "x", budget)


def fastest(rounds: list[list[Cost]]) -> tuple[float, float]:
    """Return the least time without and with the plugin."""
    before, after = (min(cost.seconds for cost in costs) for costs in zip(*rounds, strict=True))
    return before, after


def print_table(rows: list[Row]) -> None:
    """Print the figures, and which of them are within their budget."""
    system = f"{platform.system()} {platform.machine()}"
    print(f"Python {platform.python_version()}, pytest {pytest.__version__}, {system}")
    print(f"{'':36}{'before':>14}{'after':>14}{'median':>12}{'best':>9}  {'range':18}{'budget':>8}")
    for row in rows:
        middle = median(row.values)
        spread = f"{min(row.values):.3g} to {max(row.values):.3g}"
        limit = "" if row.budget is None else f"{row.budget:g} {row.unit}"
        verdict = "" if row.budget is None else ("kept" if middle <= row.budget else "MISSED")
        figure = f"{middle:.3f} {row.unit}"
        print(
            f"{row.name:36}{row.before:>14}{row.after:>14}{figure:>12}"
            f"{row.best:>9.3f}  {spread:18}{limit:>8}  {verdict}".rstrip()
        )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="rounds of each comparison (7)")
    parser.add_argument("--starts", type=int, default=21, help="rounds of the session start (21)")
    parser.add_argument("--tests", type=int, default=5000, help="tests in a suite (5000)")
    parser.add_argument(
        "--growth", default="1000,10000", metavar="SIZES", help="suite sizes (1000,10000)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="the parts to measure (all)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
