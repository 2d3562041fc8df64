"""What do our primitives cost, beside CPython's and beside the bare system calls?

Run it as ``python benchmarks/primitives.py``. Each row runs the same calls with CPython's
``tempfile``, with ours and with nothing but what the kernel (or the plain file object) must do, in
turn, in one process. A figure is the median CPU time of one call; ``ratio`` is the median over
the rounds of ours to CPython's of the same round.
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

    *ours*, *theirs* and *bare* do the same *calls* and return the seconds of CPU they took.
    """

    name: str
    calls: int
    theirs: Callable[[int], float]
    ours: Callable[[int], float]
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
    """Time ``mkstemp``; the clearing away is not timed."""
    seconds, made = timed(calls, module.mkstemp)
    for descriptor, path in made:
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
    """Time ``mkdtemp``; the clearing away is not timed."""
    seconds, made = timed(calls, module.mkdtemp)
    for path in made:
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
    """Time making a file object and closing it."""

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
    """Time making a ``BytesIO`` and closing it."""
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
    """Time the removal of a ``TemporaryDirectory`` that holds *calls* files."""
    directory = module.TemporaryDirectory()
    fill(directory.name, calls)
    started = process_time()
    directory.cleanup()
    return process_time() - started


def bare_clear(calls: int) -> float:
    """Time ``unlink`` for each name that ``listdir`` gives, and ``rmdir``."""
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
    """Make *calls* empty files in *path*."""
    for number in range(calls):
        os.close(os.open(f"{path}/{number:05}", FLAGS, 0o600))


def write_loop() -> Callable[[Any, int], float]:
    """Return a loop of its own for each kind of file.

    The interpreter adapts bytecode to what it sees: one loop for all kinds would suit none.
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
    """Return a function that times small writes to what *factory* makes."""
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
    """Return a factory of spooled files that are on disk already."""

    def make() -> Any:
        file = module.SpooledTemporaryFile(max_size=1)
        file.write(TEN_BYTES)
        return file

    return make


def large_spool(module: Any) -> Callable[[], Any]:
    """Return a factory of spooled files that stay in memory."""
    return lambda: module.SpooledTemporaryFile(max_size=1 << 30)


def importing(statement: str) -> Callable[[int], float]:
    """Return a function that times an import in a fresh interpreter, start-up included."""

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
    ours, theirs = primitives, tempfile

    def pair(function: Callable[[Any, int], float]) -> Any:
        return (lambda calls: function(theirs, calls)), (lambda calls: function(ours, calls))

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
            writes(theirs.NamedTemporaryFile),
            writes(ours.NamedTemporaryFile),
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
            writes(large_spool(theirs)),
            writes(large_spool(ours)),
            writes(io.BytesIO),
        ),
        Row(
            "SpooledTemporaryFile, a small write on disk",
            50_000,
            writes(rolled(theirs)),
            writes(rolled(ours)),
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
    theirs, ours, bare = [], [], []
    for number in range(rounds):
        turn = [(row.theirs, theirs), (row.ours, ours), (row.bare, bare)]
        for run, seconds in turn[number % 3 :] + turn[: number % 3]:
            seconds.append(run(row.calls))
    ratio = median(mine / his for mine, his in zip(ours, theirs, strict=True))
    limit = median(mine / least for mine, least in zip(ours, bare, strict=True))
    met = ratio <= BUDGET or (row.name.startswith("import") and ratio <= 1)
    if row.against_bare:
        met = met and limit <= WRITE_BUDGET
    figures = " | ".join(
        f"{median(seconds) / row.calls * 1e6:,.3f}" for seconds in (theirs, ours, bare)
    )
    return f"| {row.name} | {figures} | {ratio:.2f} | {limit:.2f} | {'yes' if met else 'no'} |"


def table(place: str, rounds: int, only: str) -> Iterator[str]:
    """Yield the lines of the table for the directory *place*."""
    version = sys.version.split()[0]
    yield f"CPython {version}, {place}; microseconds of CPU for one call"
    yield ""
    yield "| | CPython | ours | bare | ratio | to bare | in budget |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in rows():
        if only in row.name:
            yield measure(row, rounds)
    yield ""


def main() -> None:
    """Print a table for a memory file system and one for the disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31, help="how often each row runs")
    parser.add_argument("--only", default="", help="only the rows whose name holds this")
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
