"""The CPU time of the primitives, compared with CPython's ``tempfile`` and with bare system calls.

Run it as ``python benchmarks/primitives.py``. Each row makes the same calls with CPython's
``tempfile``, with ``pytest_tempres.primitives`` and with only the necessary system calls (or a
plain file object), alternately, in one process. A figure is the median CPU time of one call;
``ratio`` is the median over all rounds of the time of this package divided by CPython's time in the
same round.
"""

from __future__ import annotations

import argparse
import io
from itertools import count
import os
from pathlib import Path
from resource import RUSAGE_CHILDREN
from resource import getrusage
import shutil
from statistics import median
import subprocess
import sys
import tempfile
from time import process_time
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pytest_tempres import primitives

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator

TEN_BYTES = b"0123456789"
FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
BUDGET = 0.9
WRITE_BUDGET = 1.1


class Row(NamedTuple):
    """One line of the table.

    *cpython*, *tempres* and *bare* make the same *calls* and return the CPU seconds they took.
    """

    name: str
    calls: int
    cpython: Callable[[int], float]
    tempres: Callable[[int], float]
    bare: Callable[[int], float]
    against_bare: bool = False


def timed(calls: int, call: Callable[[], Any]) -> tuple[float, list[Any]]:
    """Return the CPU seconds of *calls* calls, and what they returned."""
    results = [None] * calls
    started = process_time()
    for index in range(calls):
        results[index] = call()
    return process_time() - started, results


def fresh_paths() -> Iterator[str]:
    """Yield paths that do not exist, in the temp location."""
    for number in count():
        yield f"{primitives.tempdir}/bare{number:08}"


PATHS = fresh_paths()


def mkstemp(module: Any, calls: int) -> float:
    """Time ``mkstemp``, without the removal of the files."""
    seconds, created = timed(calls, module.mkstemp)
    for descriptor, path in created:
        os.close(descriptor)
        os.unlink(path)
    return seconds


def bare_open(calls: int) -> float:
    """Time ``open`` alone."""
    paths = [next(PATHS) for _ in range(calls)]
    started = process_time()
    descriptors = [os.open(path, FLAGS, 0o600) for path in paths]
    seconds = process_time() - started
    for descriptor, path in zip(descriptors, paths, strict=True):
        os.close(descriptor)
        os.unlink(path)
    return seconds


def mkdtemp(module: Any, calls: int) -> float:
    """Time ``mkdtemp``, without the removal of the directories."""
    seconds, created = timed(calls, module.mkdtemp)
    for path in created:
        os.rmdir(path)
    return seconds


def bare_mkdir(calls: int) -> float:
    """Time ``mkdir`` alone."""
    paths = [next(PATHS) for _ in range(calls)]
    started = process_time()
    for path in paths:
        os.mkdir(path, 0o700)
    seconds = process_time() - started
    for path in paths:
        os.rmdir(path)
    return seconds


def open_and_close(factory: Callable[[], Any], calls: int) -> float:
    """Time creating a file object and closing it."""

    def once() -> None:
        factory().close()

    return timed(calls, once)[0]


def bare_unnamed(calls: int) -> float:
    """Time ``open`` with ``O_TMPFILE`` and ``close``."""
    started = process_time()
    for _ in range(calls):
        os.close(os.open(str(primitives.tempdir), os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600))
    return process_time() - started


def bare_named(calls: int) -> float:
    """Time ``open``, ``close`` and ``unlink``."""
    paths = [next(PATHS) for _ in range(calls)]
    started = process_time()
    for path in paths:
        os.close(os.open(path, FLAGS, 0o600))
        os.unlink(path)
    return process_time() - started


def bare_memory(calls: int) -> float:
    """Time creating a ``BytesIO`` and closing it."""
    return open_and_close(io.BytesIO, calls)


def enter_and_leave(module: Any, calls: int) -> float:
    """Time an empty ``TemporaryDirectory``."""

    def once() -> None:
        with module.TemporaryDirectory():
            pass

    return timed(calls, once)[0]


def bare_directory(calls: int) -> float:
    """Time ``mkdir`` and ``rmdir``."""
    paths = [next(PATHS) for _ in range(calls)]
    started = process_time()
    for path in paths:
        os.mkdir(path, 0o700)
        os.rmdir(path)
    return process_time() - started


def clear(module: Any, calls: int) -> float:
    """Time the removal of a ``TemporaryDirectory`` that contains *calls* files."""
    directory = module.TemporaryDirectory()
    fill(directory.name, calls)
    started = process_time()
    directory.cleanup()
    return process_time() - started


def bare_clear(calls: int) -> float:
    """Time ``unlink`` for each name that ``listdir`` returns, and ``rmdir``."""
    path = next(PATHS)
    os.mkdir(path)
    fill(path, calls)
    started = process_time()
    opened = os.open(path, os.O_RDONLY)
    for name in os.listdir(opened):
        os.unlink(name, dir_fd=opened)
    os.close(opened)
    os.rmdir(path)
    return process_time() - started


def fill(path: str, calls: int) -> None:
    """Create *calls* empty files in *path*."""
    for number in range(calls):
        os.close(os.open(f"{path}/{number:05}", FLAGS, 0o600))


def write_loop() -> Callable[[Any, int], float]:
    """Return a new loop function, for one kind of file.

    The interpreter specializes bytecode for the types that it sees: a loop that is used for all
    kinds of files would be slower for each.
    """
    source = (
        "def loop(file, calls):\n"
        "    started = process_time()\n"
        "    for _ in range(calls):\n"
        "        file.write(TEN_BYTES)\n"
        "    return process_time() - started\n"
    )
    namespace = {"process_time": process_time, "TEN_BYTES": TEN_BYTES}
    exec(source, namespace)
    return namespace["loop"]  # type: ignore[return-value]


def writes(factory: Callable[[], Any]) -> Callable[[int], float]:
    """Return a function that times small writes to the files that *factory* creates."""
    loop = write_loop()

    def run(calls: int) -> float:
        with factory() as file:
            loop(file, calls // 10)
            return loop(file, calls)

    return run


def plain_file() -> Any:
    """Return an ordinary open file."""
    return open(next(PATHS), "w+b")


def rolled(module: Any) -> Callable[[], Any]:
    """Return a factory of spooled files that have rolled over to disk."""

    def make() -> Any:
        file = module.SpooledTemporaryFile(max_size=1)
        file.write(TEN_BYTES)
        return file

    return make


def large_spool(module: Any) -> Callable[[], Any]:
    """Return a factory of spooled files that stay in memory."""
    return lambda: module.SpooledTemporaryFile(max_size=1 << 30)


def importing(statement: str) -> Callable[[int], float]:
    """Return a function that times an import in a new interpreter, including its start."""

    def run(calls: int) -> float:
        before = getrusage(RUSAGE_CHILDREN)
        for _ in range(calls):
            subprocess.run([sys.executable, "-S", "-c", statement], check=True, env=CLEAN)
        after = getrusage(RUSAGE_CHILDREN)
        return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)

    return run


CLEAN = {"PYTHONPATH": str(Path(primitives.__file__).parent.parent.parent)}


def rows() -> list[Row]:
    """Return the table's rows."""
    cpython, tempres = tempfile, primitives

    def pair(function: Callable[[Any, int], float]) -> Any:
        return (lambda calls: function(cpython, calls)), (lambda calls: function(tempres, calls))

    def opened(name: str) -> Any:
        return pair(lambda module, calls: open_and_close(getattr(module, name), calls))

    return [
        Row("mkstemp", 200, *pair(mkstemp), bare_open),
        Row("mkdtemp", 200, *pair(mkdtemp), bare_mkdir),
        Row("TemporaryFile, open and close", 200, *opened("TemporaryFile"), bare_unnamed),
        Row("NamedTemporaryFile, open and close", 200, *opened("NamedTemporaryFile"), bare_named),
        Row(
            "NamedTemporaryFile, a small write",
            50_000,
            writes(cpython.NamedTemporaryFile),
            writes(tempres.NamedTemporaryFile),
            writes(plain_file),
            against_bare=True,
        ),
        Row("TemporaryDirectory, empty", 200, *pair(enter_and_leave), bare_directory),
        Row("TemporaryDirectory, removing 10,000 files", 10_000, *pair(clear), bare_clear),
        Row(
            "SpooledTemporaryFile, open and close",
            500,
            *opened("SpooledTemporaryFile"),
            bare_memory,
        ),
        Row(
            "SpooledTemporaryFile, a small write in memory",
            20_000,
            writes(large_spool(cpython)),
            writes(large_spool(tempres)),
            writes(io.BytesIO),
        ),
        Row(
            "SpooledTemporaryFile, a small write on disk",
            50_000,
            writes(rolled(cpython)),
            writes(rolled(tempres)),
            writes(plain_file),
            against_bare=True,
        ),
        Row(
            "import, interpreter start included",
            1,
            importing("import tempfile"),
            importing("import pytest_tempres.primitives"),
            importing("pass"),
        ),
    ]


def measure(row: Row, rounds: int) -> str:
    """Run *row* and return its line of the table."""
    cpython, tempres, bare = [], [], []
    for number in range(rounds):
        turn = [(row.cpython, cpython), (row.tempres, tempres), (row.bare, bare)]
        for run, seconds in turn[number % 3 :] + turn[: number % 3]:
            seconds.append(run(row.calls))
    ratio = median(mine / other for mine, other in zip(tempres, cpython, strict=True))
    limit = median(mine / least for mine, least in zip(tempres, bare, strict=True))
    met = ratio <= BUDGET or (row.name.startswith("import") and ratio <= 1)
    if row.against_bare:
        met = met and limit <= WRITE_BUDGET
    figures = " | ".join(
        f"{median(seconds) / row.calls * 1e6:,.3f}" for seconds in (cpython, tempres, bare)
    )
    return f"| {row.name} | {figures} | {ratio:.2f} | {limit:.2f} | {'yes' if met else 'no'} |"


def table(place: str, rounds: int, only: str) -> Iterator[str]:
    """Yield the lines of the table for the directory *place*."""
    version = sys.version.split()[0]
    yield f"CPython {version}, {place}; microseconds of CPU for one call"
    yield ""
    yield "| | CPython | tempres | bare calls | ratio | to bare calls | in budget |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in rows():
        if only in row.name:
            yield measure(row, rounds)
    yield ""


def main() -> None:
    """Print a table for a memory file system and one for the disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31, help="rounds of each row")
    parser.add_argument("--only", default="", help="only the rows whose name contains this")
    parser.add_argument("places", nargs="*", default=["/dev/shm", "/var/tmp"], help="directories")
    options = parser.parse_args()
    for place in options.places:
        directory = tempfile.mkdtemp(prefix="bench-", dir=place)
        tempfile.tempdir = primitives.tempdir = directory
        try:
            for line in table(place, options.rounds, options.only):
                print(line, flush=True)
        finally:
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
