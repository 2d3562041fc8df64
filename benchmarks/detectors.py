"""The CPU time of each detector, compared with two plugins that detect the same things.

    python benchmarks/detectors.py                  # about 15 minutes
    python benchmarks/detectors.py --tests 500 --runs 3

Needs the plugins to compare with: pip install pytest-litter==0.0.4 pytest-openfiles==0.6.0

There are two suites: empty tests, and tests that open 20 files each. Both are in a directory with
10,000 other files, which `watch` and pytest-litter monitor. Each round runs all configurations, in
a rotating order; the figures are the medians over the rounds of the comparison with the run without
any plugin. pytest-litter lists the whole tree after each test, so it runs on a part of the suite,
and its ratio is that of this part.
Needs Linux or macOS.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import platform
from statistics import median
import subprocess
import sys
import tempfile
from typing import Final

import pytest

OFF: Final = ("-p", "no:tempres")
LITTER: Final = "pytest-litter 0.0.4"
#: The options of each configuration, by name.
CONFIGURATIONS: Final = {
    "none": OFF,
    "tempres, leaks off": ("-p", "tempres", "--tempres-leaks=off"),
    "tempres: temp": ("-p", "tempres"),
    "tempres: fds": ("-p", "tempres", "--tempres-detect=fds"),
    "tempres: watch": ("-p", "tempres", "--tempres-detect=watch"),
    "tempres: all three": ("-p", "tempres", "--tempres-detect=temp,fds,watch"),
    "pytest-openfiles 0.6.0": (*OFF, "-p", "pytest_openfiles.plugin", "--open-files"),
    LITTER: (*OFF, "-p", "pytest_litter.plugin.plugin", "--check-litter"),
}
SUITES: Final = {
    "empty": "pass",
    "20 files": "for n in range(20):\n        open(__file__).close()",
}
TREE: Final = 10_000
PER_FILE: Final = 500
#: The tests for pytest-litter, which walks the tree again for each test.
FEW: Final = 50


def make_suite(place: Path, body: str, tests: int) -> Path:
    """Write a suite of *tests* tests, and a tree of files in the same directory."""
    place.mkdir()
    (place / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    for first in range(0, tests, PER_FILE):
        numbers = range(first, min(first + PER_FILE, tests))
        text = "".join(f"def test_{n}():\n    {body}\n\n" for n in numbers)
        (place / f"test_{first:06}.py").write_text(text, encoding="utf-8")
    for n in range(TREE):
        folder = place / "data" / f"{n // 100:03}"
        if n % 100 == 0:
            folder.mkdir(parents=True)
        (folder / f"{n}.txt").touch()
    return place


def seconds(suite: Path, options: tuple[str, ...], tests: int, scratch: Path) -> float:
    """Run *suite* once and return the CPU time of the process."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env.update(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", TMPDIR=str(scratch))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=suite, env=env, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode or f"{tests} passed" not in text:
        sys.exit(f"{text}\n{options} ended with exit status {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run each configuration on each suite and print the time that it adds to a test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="rounds (7)")
    parser.add_argument("--tests", type=int, default=5000, help="tests in a suite (5000)")
    args = parser.parse_args()
    print(f"Python {platform.python_version()}, pytest {pytest.__version__}, {TREE:,} files")
    print(f"{'suite':10}{'configuration':26}{'CPU':>10}{'ratio':>9}{'added per test':>17}")
    for name, body in SUITES.items():
        measure(name, body, args.tests, args.runs)


def measure(name: str, body: str, tests: int, runs: int) -> None:
    """Run each configuration on one suite and print its rows."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        scratch = Path(directory)
        whole = make_suite(scratch / "whole", body, tests)
        part = make_suite(scratch / "part", body, FEW)
        (scratch / "tmp").mkdir()
        taken: dict[str, list[float]] = {each: [] for each in CONFIGURATIONS}
        few: list[float] = []
        names = list(CONFIGURATIONS)
        for start in range(runs):
            for each in names[start % len(names) :] + names[: start % len(names)]:
                suite, number = (part, FEW) if each == LITTER else (whole, tests)
                taken[each].append(seconds(suite, CONFIGURATIONS[each], number, scratch / "tmp"))
            few.append(seconds(part, OFF, FEW, scratch / "tmp"))
    for each, values in taken.items():
        base, number = (few, FEW) if each == LITTER else (taken["none"], tests)
        ratio = median(value / plain for value, plain in zip(values, base, strict=True))
        added = median((v - b) / number * 1e6 for v, b in zip(values, base, strict=True))
        print(f"{name:10}{each:26}{median(values):>8.2f} s{ratio:>9.3f}{added:>14.0f} us")


if __name__ == "__main__":
    main()
