"""Kill many sessions of pytest at random instants and exact points, and see what remains.

    python tests/killing/kill_harness.py                    # 300 kills: 5 to 10 minutes
    python tests/killing/kill_harness.py --kills 20 --seed 7

Each session runs in one temp directory that is full of foreign things, a session of another project
among them which lives all the while. After each kill the foreign things must be as they were to the
byte, and the evidence of the last sessions too; after one clean session at the end nothing else may
be there. A seed makes the same plans again; where a random instant falls is up to the machine.
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

from kill_foreign import sow
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
    """Runs and kills sessions below *scratch*.

    :param scratch: An empty directory.
    :param seed: What all plans are drawn from.
    """

    def __init__(self, scratch: Path, seed: int) -> None:
        self._scratch = scratch
        self._seed = seed
        self._tmp = scratch / "tmp"
        self._tmp.mkdir()
        (scratch / "logs").mkdir()
        (scratch / "pytest").mkdir()
        self._has_xdist = importlib.util.find_spec("xdist") is not None
        self._lives: dict[bool, tuple[float, float]] = {}
        self._points: dict[bool, list[Point]] = {}
        self._held = sow(self._tmp, scratch / "outside")
        self.figures = Figures()
        write_project(scratch / "project")
        write_neighbour(scratch / "neighbour")

    def run(self, kills: int) -> str:
        """Kill *kills* sessions, end one cleanly, and return the report.

        :raises AssertionError: When anything is there that should not be, or is not.
        """
        before = set(os.listdir(self._tmp))
        with self._neighbour():
            lives = set(os.listdir(self._tmp)) - before
            assert len(lives) == 1, f"the neighbour has made {sorted(lives)}"
            self._ledger = Ledger(self._tmp, before | lives)
            self._ways = (False, True) if self._has_xdist else (False,)
            self._get_to_know()
            number = 0
            while self.figures.kills < kills:
                number += 1
                assert number < 3 * kills + 20, f"too few hits: {self.figures.missed} missed"
                self._carry_out(self._plan(number))
            self._clean_session()
            self._ledger.check_last()
        self._ledger.forget(*lives)
        remains = self._ledger.check_last()
        for fd in self._held:
            os.close(fd)
        return "\n".join(self.figures.lines(self._ledger, self._seed, remains))

    # -- plans

    def _get_to_know(self) -> None:
        """Measure how long sessions live, and which points they come to."""
        # Somebody must be dead for a sweep to have work.
        with self._session(0, False, ("passing",)) as session:
            self._until(session, lambda: "t" in self._progress(0))
            session.kill("all", 0)
        for workers in self._ways:
            with self._session(0, workers, tuple(SUITES), log="points") as session:
                self._until(session, lambda: self._progress(0) != "")
                born = time.monotonic() - session.started
                session.wait()
                life = time.monotonic() - session.started
            self._lives[workers] = (born, life)
            self._points[workers] = self._read_points()

    def _read_points(self) -> list[Point]:
        times: Counter[tuple[str, str]] = Counter()
        for path in (self._scratch / "logs").glob("points.*"):
            # Of several workers, one is as good as the other.
            own = Counter(tuple(line.split("\t")) for line in path.read_text("utf-8").splitlines())
            times |= own
            path.unlink()
        return [Point(*key, times[key]) for key in sorted(times) if key[0] != "nobody"]

    def _plan(self, number: int) -> Plan:
        rng = random.Random(f"{self._seed}:{number}")
        workers = rng.choice(self._ways)
        suites = rng.choice((*((name,) for name in SUITES), tuple(SUITES)))
        point = None
        victim = rng.choice(("controller", "worker", "all")) if workers else "controller"
        if rng.random() < 0.5:
            points = [p for p in self._points[workers] if victim in (p.role, "all")]
            point = self._draw(points, rng)
            suites = tuple(SUITES)
        born, life = self._lives[workers]
        # Little of ours happens while Python and pytest start.
        first = born / life if rng.random() < 0.85 else 0.0
        instant = first + rng.random() * (1 - first)
        options = rng.choice(_OPTIONS) if point is None else ()
        return Plan(number, workers, suites, options, victim, instant, point, rng.random())

    def _draw(self, points: list[Point], rng: random.Random) -> Point:
        """Draw a function first, or the busy ones would leave nothing to the others."""
        by_function = defaultdict(list)
        for point in points:
            by_function[point.name.split()[0]].append(point)
        return rng.choice(by_function[rng.choice(sorted(by_function))])

    # -- deeds

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
            session.wait(plan.instant * self._lives[plan.workers][1])
            hit = session.kill(plan.victim, plan.choice)
            step = self._progress(plan.number)[-1:]
            # Who has lost a worker goes on.
            session.wait()
        if hit:
            self.figures.steps[STEPS[step]] += 1
        return hit

    def _kill_at_point(self, plan: Plan) -> bool:
        role, name, times = plan.point
        token = self._scratch / "logs" / f"token-{plan.number}"
        what = {
            "role": role,
            "point": name,
            "count": 1 + int(plan.choice * times),
            "all": plan.victim == "all",
            "token": str(token),
        }
        with self._session(plan.number, plan.workers, plan.suites, plan.options, **what) as session:
            session.wait()
        if token.exists():
            self.figures.points[f"{role}: {name}"] += 1
        return token.exists()

    def _clean_session(self) -> None:
        with self._session(-1, self._has_xdist, ("passing",)) as session:
            assert session.wait() == 0, session.told()

    @contextlib.contextmanager
    def _session(
        self,
        number: int,
        workers: bool,
        suites: tuple[str, ...],
        options: tuple[str, ...] = (),
        **plan: object,
    ) -> Iterator[Session]:
        """Run a session and, when its last process is gone, see what it has left."""
        self._progress_file(number).unlink(missing_ok=True)
        how = ["-pxdist", "-n2"] if workers else []
        files = [f"test_{name}.py" for name in suites]
        session = Session(
            ["-ptempres", *how, *options, *files],
            directory=self._scratch / "project",
            env=self._planned(number, plan),
            output=self._scratch / "logs" / f"out-{number}",
        )
        try:
            yield session
        finally:
            orphans = session.gone()
        self.figures.sessions += 1
        self.figures.longest_orphan = max(self.figures.longest_orphan, orphans)
        told = session.told()
        # One of xdist's is due when a worker dies before it can be spoken to.
        assert not re.search("INTERNALERROR.*pytest_tempres", told), told
        self._ledger.check(told)

    def _planned(self, number: int, plan: dict[str, object]) -> dict[str, str]:
        """Return the environment of a session that says how far it is, and does as planned."""
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
            # What pytest itself keeps of dead sessions is no affair of ours.
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
            assert session.wait(0.005) is None, session.told()

    @contextlib.contextmanager
    def _neighbour(self) -> Iterator[None]:
        """Let a session of another project live meanwhile, and end as if nothing had happened."""
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
            assert not session.is_over(), f"the neighbour is dead\n{session.told()}"
            go.write_text("go", "ascii")
            assert session.wait() == 0, session.told()
        finally:
            session.kill("all", 0)
            session.gone()
        assert "1 passed" in session.told(), session.told()


def main() -> None:
    """Kill as many sessions as the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300, help="sessions to kill (300)")
    parser.add_argument("--seed", type=int, help="what the plans are drawn from (random)")
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
