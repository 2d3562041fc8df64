"""A program that kills many pytest sessions and checks what remains in the temp directory.

    python tests/killing/kill_harness.py                    # 300 kills: 5 to 10 minutes
    python tests/killing/kill_harness.py --kills 20 --seed 7

It kills them at random times and at exact points of the plugin's file operations. All sessions use
one temp directory with many foreign files, among them those of another project's session that runs
all the time. After each kill, the foreign files must be unchanged, and so must be what the last
sessions kept; after one normal session at the end, nothing else may exist. The same seed makes the
same plans, but the random times depend on the speed of the machine.
Needs Linux.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections import defaultdict
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import importlib.util
import json
import os
from pathlib import Path
import random
import re
import secrets
import sys
import tempfile
import time

from kill_foreign import populate
from kill_ledger import Ledger
from kill_plans import STEPS
from kill_plans import Figures
from kill_plans import Plan
from kill_plans import Point
from kill_processes import Session
from kill_processes import unavailable
from kill_suite import SUITES
from kill_suite import write_neighbour
from kill_suite import write_project

__all__ = ["Harness"]

_OPTIONS = (
    (),
    ("-x",),
    ("--tempres-keep=all",),
    ("--tempres-keep=none",),
    ("--tempres-leaks=strict",),
    ("--tempres-leaks=off",),
    ("--tempres-detect=temp,fds",),
)


class Harness:
    """Runs and kills sessions in *scratch*.

    :param scratch: An empty directory.
    :param seed: The seed of all plans.
    """

    def __init__(self, scratch: Path, seed: int) -> None:
        self._scratch = scratch
        self._seed = seed
        self._tmp = scratch / "tmp"
        self._tmp.mkdir()
        (scratch / "logs").mkdir()
        (scratch / "pytest").mkdir()
        self._has_xdist = importlib.util.find_spec("xdist") is not None
        self._durations: dict[bool, tuple[float, float]] = {}
        self._points: dict[bool, list[Point]] = {}
        self._held = populate(self._tmp, scratch / "outside")
        self.figures = Figures()
        write_project(scratch / "project")
        write_neighbour(scratch / "neighbour")

    def run(self, kills: int) -> str:
        """Kill *kills* sessions, run one normally, and return the report.

        :raises AssertionError: When a file exists that should not, or the other way round.
        """
        before = set(os.listdir(self._tmp))
        with self._neighbour():
            alive = set(os.listdir(self._tmp)) - before
            assert len(alive) == 1, f"the neighbour has created {sorted(alive)}"
            self._ledger = Ledger(self._tmp, before | alive)
            self._with_workers = (False, True) if self._has_xdist else (False,)
            self._calibrate()
            number = 0
            while self.figures.kills < kills:
                number += 1
                assert number < 3 * kills + 20, f"too few kills: {self.figures.missed} missed"
                self._carry_out(self._plan(number))
            self._run_to_the_end()
            self._ledger.check_last()
        self._ledger.forget(*alive)
        remaining = self._ledger.check_last()
        for fd in self._held:
            os.close(fd)
        return "\n".join(self.figures.lines(self._ledger, self._seed, remaining))

    # -- plans

    def _calibrate(self) -> None:
        """Measure the duration of sessions, and log the points that they reach."""
        # The next session's sweep needs a dead session.
        with self._session(0, False, ("passing",)) as session:
            self._until(session, lambda: "t" in self._progress(0))
            session.kill("all", 0)
        for workers in self._with_workers:
            with self._session(0, workers, tuple(SUITES), log="points") as session:
                self._until(session, lambda: self._progress(0) != "")
                start = time.monotonic() - session.started
                session.wait()
                duration = time.monotonic() - session.started
            self._durations[workers] = (start, duration)
            self._points[workers] = self._read_points()

    def _read_points(self) -> list[Point]:
        times: Counter[tuple[str, str]] = Counter()
        for path in (self._scratch / "logs").glob("points.*"):
            # Any of the workers may be killed, so the highest count of one worker is what matters.
            own = Counter(tuple(line.split("\t")) for line in path.read_text("utf-8").splitlines())
            times |= own
            path.unlink()
        return [Point(*key, times[key]) for key in sorted(times) if key[0] != "other"]

    def _plan(self, number: int) -> Plan:
        rng = random.Random(f"{self._seed}:{number}")
        workers = rng.choice(self._with_workers)
        suites = rng.choice((*((name,) for name in SUITES), tuple(SUITES)))
        point = None
        victim = rng.choice(("controller", "worker", "all")) if workers else "controller"
        if rng.random() < 0.5:
            points = [p for p in self._points[workers] if victim in (p.role, "all")]
            point = self._draw(points, rng)
            suites = tuple(SUITES)
        start, duration = self._durations[workers]
        # The plugin does little while Python and pytest start.
        first = start / duration if rng.random() < 0.85 else 0.0
        instant = first + rng.random() * (1 - first)
        options = rng.choice(_OPTIONS) if point is None else ()
        return Plan(number, workers, suites, options, victim, instant, point, rng.random())

    def _draw(self, points: list[Point], rng: random.Random) -> Point:
        """Choose a function first, so that functions with few points are chosen too."""
        by_function = defaultdict(list)
        for point in points:
            by_function[point.name.split()[0]].append(point)
        return rng.choice(by_function[rng.choice(sorted(by_function))])

    # -- kills

    def _carry_out(self, plan: Plan) -> None:
        try:
            hit = self._kill_at_point(plan) if plan.point else self._kill_at_instant(plan)
            if hit:
                self.figures.victims[f"{plan.victim}{' of -n2' if plan.workers else ''}"] += 1
            else:
                self.figures.missed += 1
        except AssertionError as error:
            raise AssertionError(f"seed {self._seed}, {plan}: {error}") from error

    def _kill_at_instant(self, plan: Plan) -> bool:
        with self._session(plan.number, plan.workers, plan.suites, plan.options) as session:
            session.wait(plan.instant * self._durations[plan.workers][1])
            hit = session.kill(plan.victim, plan.choice)
            step = self._progress(plan.number)[-1:]
            # A session that has lost a worker continues.
            session.wait()
        if hit:
            self.figures.steps[STEPS[step]] += 1
        return hit

    def _kill_at_point(self, plan: Plan) -> bool:
        role, name, times = plan.point
        token = self._scratch / "logs" / f"token-{plan.number}"
        kill = {
            "role": role,
            "point": name,
            "count": 1 + int(plan.choice * times),
            "all": plan.victim == "all",
            "token": str(token),
        }
        with self._session(plan.number, plan.workers, plan.suites, plan.options, **kill) as session:
            session.wait()
        if token.exists():
            self.figures.points[f"{role}: {name}"] += 1
        return token.exists()

    def _run_to_the_end(self) -> None:
        with self._session(-1, self._has_xdist, ("passing",)) as session:
            assert session.wait() == 0, session.printed()

    @contextlib.contextmanager
    def _session(
        self,
        number: int,
        workers: bool,
        suites: tuple[str, ...],
        options: tuple[str, ...] = (),
        **plan: object,
    ) -> Iterator[Session]:
        """Run a session and, when its last process has ended, check what it has left."""
        self._progress_file(number).unlink(missing_ok=True)
        xdist = ["-pxdist", "-n2"] if workers else []
        files = [f"test_{name}.py" for name in suites]
        session = Session(
            ["-ptempres", *xdist, *options, *files],
            directory=self._scratch / "project",
            env=self._environment_of_plan(number, plan),
            output=self._scratch / "logs" / f"out-{number}",
        )
        try:
            yield session
        finally:
            orphans = session.wait_for_all()
        self.figures.sessions += 1
        self.figures.longest_orphan = max(self.figures.longest_orphan, orphans)
        output = session.printed()
        # pytest-xdist itself has an internal error when a worker dies while it starts.
        assert not re.search("INTERNALERROR.*pytest_tempres", output), output
        self._ledger.check(output)

    def _environment_of_plan(self, number: int, plan: dict[str, object]) -> dict[str, str]:
        """Return the environment of a session that reports its progress and follows *plan*."""
        env = self._environment(KILLING_PROGRESS=str(self._progress_file(number)))
        if plan:
            if "log" in plan:
                plan["log"] = str(self._scratch / "logs" / str(plan["log"]))
            env["KILLING_PLAN"] = json.dumps(plan)
            point = str(Path(__file__).parent / "point")
            env["PYTHONPATH"] = os.pathsep.join(filter(None, (point, env.get("PYTHONPATH"))))
        return env

    def _environment(self, **variables: str) -> dict[str, str]:
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "COVERAGE_", "COV_"))
        }
        env.update(
            TMPDIR=str(self._tmp),
            # For pytest's own temp directories, which dead sessions leave.
            PYTEST_DEBUG_TEMPROOT=str(self._scratch / "pytest"),
            PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
            CI="1",
            **variables,
        )
        return env

    def _progress_file(self, number: int) -> Path:
        return self._scratch / "logs" / f"progress-{number}"

    def _progress(self, number: int) -> str:
        try:
            return self._progress_file(number).read_text("ascii")
        except FileNotFoundError:
            return ""

    def _until(self, session: Session, condition: Callable[[], bool]) -> None:
        while not condition():
            assert session.wait(0.005) is None, session.printed()

    @contextlib.contextmanager
    def _neighbour(self) -> Iterator[None]:
        """Run a session of another project at the same time, which must not be disturbed."""
        ready, go = self._scratch / "ready", self._scratch / "go"
        os.mkfifo(go)
        session = Session(
            ["-ptempres", *(["-pxdist", "-n1"] if self._has_xdist else [])],
            directory=self._scratch / "neighbour",
            env=self._environment(KILLING_READY=str(ready), KILLING_GO=str(go)),
            output=self._scratch / "logs" / "neighbour",
        )
        try:
            self._until(session, ready.exists)
            yield
            assert not session.is_over(), f"the neighbour has ended\n{session.printed()}"
            go.write_text("go", "ascii")
            assert session.wait() == 0, session.printed()
        finally:
            session.kill("all", 0)
            session.wait_for_all()
        assert "1 passed" in session.printed(), session.printed()


def main() -> None:
    """Kill the number of sessions that the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300, help="sessions to kill (300)")
    parser.add_argument("--seed", type=int, help="the seed of the plans (random)")
    args = parser.parse_args()
    if why := unavailable():
        sys.exit(why)
    seed = secrets.randbelow(1_000_000) if args.seed is None else args.seed
    sys.stdout.write(f"seed {seed}\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="kill-") as scratch:
        report = Harness(Path(scratch), seed).run(args.kills)
    sys.stdout.write(f"{report}\n")


if __name__ == "__main__":
    main()
