"""The processes of a session: found, killed and awaited."""

from __future__ import annotations

import os
from pathlib import Path
import select
import signal
import subprocess
import sys
import time
from typing import NamedTuple

__all__ = ["Session", "unavailable"]

#: A session that takes more seconds than these hangs.
_PATIENCE = 60.0


def unavailable() -> str | None:
    """Return why sessions cannot be killed and monitored on this system; None when they can."""
    if not (sys.platform == "linux" and Path("/proc/self/stat").exists()):
        return "needs Linux's /proc to find processes"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return "needs pidfd_open to wait for processes"
    return None


class _Member(NamedTuple):
    pid: int
    parent: int


class Session:
    """A pytest session and all its processes, which are in one session of the operating system."""

    def __init__(
        self, args: list[str], *, directory: Path, env: dict[str, str], output: Path
    ) -> None:
        self.output = output
        self.started = time.monotonic()
        # A file, because an orphan would keep a pipe open.
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *args],
                cwd=directory,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def is_over(self) -> bool:
        """Whether the controller has ended."""
        return self._process.poll() is not None

    def wait(self, seconds: float = _PATIENCE) -> int | None:
        """Return the controller's exit status; None when it needs more than *seconds*."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self, victim: str, choice: float) -> bool:
        """Kill one process or all; return whether there was a process to kill.

        :param victim: ``controller``, ``worker`` or ``all``.
        :param choice: Which worker, as a fraction of their number.
        """
        if self.is_over():
            return False
        if victim == "all":
            os.killpg(self.pid, signal.SIGKILL)
            return True
        if victim == "controller":
            self._process.kill()
            return True
        workers = self._workers()
        if not workers:
            return False
        try:
            os.kill(workers[int(choice * len(workers))], signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def wait_for_all(self) -> float:
        """Wait for all processes of the session; return for how long orphans outlived it."""
        if self.wait() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            raise AssertionError(f"the session does not end\n{self.printed()}")
        end = time.monotonic()
        while members := self._members():
            if time.monotonic() - end > _PATIENCE:
                os.killpg(self.pid, signal.SIGKILL)
                raise AssertionError(f"{len(members)} processes do not end\n{self.printed()}")
            _await([member.pid for member in members])
        return time.monotonic() - end

    def printed(self) -> str:
        """Return what the session has printed."""
        return self.output.read_text("utf-8", "replace")

    def _workers(self) -> list[int]:
        return sorted(member.pid for member in self._members() if member.parent == self.pid)

    def _members(self) -> list[_Member]:
        pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
        return [member for pid in pids if (member := self._member(pid))]

    def _member(self, pid: int) -> _Member | None:
        try:
            text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
        except OSError:
            return None
        # After the name, which may contain any character: state, parent, group, session.
        state, parent, _, session, *_ = text[text.rindex(")") + 2 :].split()
        alive = state not in "ZX" and int(session) == self.pid
        return _Member(pid, int(parent)) if alive else None


def _await(pids: list[int]) -> None:
    """Wait until one of *pids* has ended, for at most a second."""
    poll = select.poll()
    fds = []
    try:
        for pid in pids:
            try:
                fds.append(os.pidfd_open(pid))
            except ProcessLookupError:
                return
            poll.register(fds[-1], select.POLLIN)
        poll.poll(1000)
    finally:
        for fd in fds:
            os.close(fd)
