"""The subprocesses of tests: they create paths without an audit event in this process.

A process that outlives its test can create paths while other tests run. This code inspects
objects of the code under test inside an audit hook, so it must not call their methods.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import os
from pathlib import Path
from pathlib import PurePath
import re
import shlex
import sys
from types import FrameType
from typing import Any
from typing import Final
import weakref

from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Process
from pytest_tempres.leaks.model import Work
from pytest_tempres.primitives._system import System

__all__ = ["EVENTS", "Processes"]

EVENTS: Final = frozenset({"subprocess.Popen"})

#: The longest command line in a report; an argument in it is not cut shorter than the minimum.
_MAX_LENGTH: Final = 80
_MIN_ARGUMENT: Final = 8
#: How much of a command line is stored: number of arguments, and characters of each.
_MAX_ARGUMENTS: Final = 20
_MAX_CHARACTERS: Final = 200
#: Characters that are special between double quotes, in some shell.
_SPECIAL: Final = frozenset('!"$\\`')
#: Splits a Windows command line, which is a single string, into arguments.
_WORDS: Final = re.compile(r'"[^"]*"?|\S+')
#: The name of a Python interpreter, and the option that code follows: `-c`, `-Ic`.
_PYTHON: Final = re.compile(r"python[\d.]*t?d?(\.exe)?", re.IGNORECASE)
_CODE_FOLLOWS: Final = re.compile(r"-[A-Za-z]*c")
#: When this many processes were started since the last scan, those that have ended are dropped.
_MAX_NEW: Final = 200
#: How many frames are searched for the method that raises the event.
_MAX_FRAMES: Final = 8

# Captured because tests replace these.
_quote = shlex.quote
_PATHS: Final = frozenset({type(Path()), type(PurePath())})
_getframe = sys._getframe  # noqa: SLF001 -- the only way to get a stack; only CPython has to work
_waitid: Final[Callable[..., object] | None] = getattr(os, "waitid", None)


class _Started:
    """A process whose start raised an audit event."""

    __slots__ = ("arguments", "pid", "popen", "work")

    def __init__(self, arguments: tuple[str, ...], work: Work, popen: object) -> None:
        self.arguments = arguments
        self.work = work
        self.popen = weakref.ref(popen)
        #: Set by the next scan: the process does not exist yet at the event.
        self.pid: int | None = None

    @property
    def starter(self) -> tuple[Owner, str | None]:
        """The owner and the test that started it."""
        return self.work[:2]


class Processes:
    """The processes that were started in a session, their owners, and which still run."""

    def __init__(self) -> None:
        #: The last error, about which the session warns.
        self.error: Exception | None = None
        self._last: tuple[str, ...] = ()
        #: Processes started since the last scan, and the owners that started any, ended or not.
        self._new: list[_Started] = []
        self._starters: set[tuple[Owner, str | None]] = set()
        #: Processes started earlier that were running at the last scan.
        self._old: list[_Started] = []

    @property
    def last_command(self) -> str | None:
        """The command line of the process started last."""
        return command_line(self._last) if self._last else None

    def on_event(self, args: tuple[Any, ...], work: Work) -> None:
        """Record that a process is about to start that belongs to *work*."""
        try:
            self._start(args, work)
        except Exception as error:  # noqa: BLE001 -- it would make the audited call fail
            self.error = error

    def scan(self) -> None:
        """Drop the processes that have ended. Called before the owner changes."""
        if self._new or self._old or self._starters:
            new, self._new = self._new, []
            self._starters.clear()
            self._old = self._still_running((*self._old, *new))

    def any_running(self) -> bool:
        """Whether there are processes that may outlive their owner."""
        return bool(self._new or self._old)

    def started_by(self, work: Work) -> bool:
        """Whether *work* has started a process since the last scan."""
        return work[:2] in self._starters

    def likely_creator(self, work: Work, may_lack_event: bool) -> tuple[Work, tuple[Process, ...]]:
        """Return the work to report for a path without an event, and possible creators.

        :param work: The work of the current owner.
        :param may_lack_event: Whether Python code of the current owner may have created the path
            without an event.
        :returns: The work, or that of the session if it is ambiguous, and the processes of other
            owners.
        """
        # A copy, because threads of the code under test may change it at the same time.
        running = [*self._old, *list(self._new)]
        others = [each for each in running if each.starter != work[:2]]
        if not others:
            return work, ()
        suspects = tuple(Process(command_line(each.arguments), each.work.owner) for each in others)
        if may_lack_event or self.started_by(work) or len(others) < len(running):
            of_tests = (each.work for each in others if each.work.owner.is_of_one_test)
            is_ambiguous = any(each.test != work.test for each in of_tests)
        else:
            is_ambiguous = len({each.starter for each in others}) > 1
            work = others[0].work
        return (Work(SESSION) if is_ambiguous else work), suspects

    def _start(self, args: tuple[Any, ...], work: Work) -> None:
        executable, command = args[:2]
        self._last = _arguments(executable, command)
        self._starters.add(work[:2])
        popen = _popen(_getframe(2))
        if popen is not None:
            if len(self._new) >= _MAX_NEW:
                self._new = self._still_running(self._new)
            self._new.append(_Started(self._last, work, popen))

    def _still_running(self, processes: Any) -> list[_Started]:
        try:
            return [each for each in processes if _is_running(each)]
        except Exception as error:  # noqa: BLE001 -- it would make the audited call fail
            self.error = error
            return []


def command_line(arguments: tuple[str, ...]) -> str:
    """Return *arguments* as one would type them into a shell.

    The program has no directory, a Python interpreter is `python`, and of code that follows `-c`
    there is only the first line.
    """
    program, *others = map(_on_one_line, _without_code(arguments))
    line = _quoted(_short_program(program))
    others = [_short_program(each) if _is_python(each) else each for each in others]
    for each in others:
        room = _MAX_LENGTH - len(line) - 1
        if len(_quoted(each)) > room:
            return f"{line} {_quoted(each[: room - 3] + '…' if room > _MIN_ARGUMENT else '…')}"
        line = f"{line} {_quoted(each)}"
    return line


def _short_program(path: str) -> str:
    name = path[max(path.rfind("/"), path.rfind("\\")) + 1 :]
    return "python" if _PYTHON.fullmatch(name) else name or path


def _is_python(argument: str) -> bool:
    """Whether *argument* is the path of an interpreter, as in `env /usr/bin/python3`."""
    return ("/" in argument or "\\" in argument) and _short_program(argument) == "python"


def _without_code(arguments: tuple[str, ...]) -> Iterator[str]:
    """Yield *arguments*, of code only the first line."""
    is_code = False
    for argument in arguments:
        lines = argument.strip().splitlines() if is_code else []
        yield f"{lines[0].rstrip()}…" if len(lines) > 1 else "".join(lines) or argument
        is_code = _CODE_FOLLOWS.fullmatch(argument) is not None


def _on_one_line(text: str) -> str:
    """Return *text* with control characters escaped, but not bytes that could not be decoded."""
    shown = (c if c.isprintable() or "\udc80" <= c <= "\udcff" else ascii(c)[1:-1] for c in text)
    return "".join(shown)


def _quoted(argument: str) -> str:
    if argument == "…":
        return argument
    plain = "'" in argument and _SPECIAL.isdisjoint(argument)
    return f'"{argument}"' if plain else _quote(argument)


def _arguments(executable: object, command: object) -> tuple[str, ...]:
    """Return the first arguments of a new process, each shortened."""
    if type(command) in (list, tuple):
        parts: Any = command
        return tuple(map(_text, parts[:_MAX_ARGUMENTS])) or (_text(executable),)
    # On Windows it is a single string.
    line = "" if command is None else _text(command)
    return tuple(each.strip('"') for each in _WORDS.findall(line)) or (_text(executable),)


def _text(part: Any) -> str:
    kind = type(part)
    if issubclass(kind, str):
        return str.__getitem__(part, slice(_MAX_CHARACTERS))
    if issubclass(kind, bytes):
        return System.fsdecode(bytes.__getitem__(part, slice(_MAX_CHARACTERS)))
    # Other types may override __str__, except pathlib's.
    return str(part)[:_MAX_CHARACTERS] if kind in _PATHS else "…"


def _popen(frame: FrameType | None) -> object | None:
    """Return the `Popen` object that raises the event: the event does not pass it."""
    for _ in range(_MAX_FRAMES):
        if frame is None:
            return None
        if frame.f_code.co_name == "_execute_child":
            return frame.f_locals.get("self")
        frame = frame.f_back
    return None


def _is_running(process: _Started) -> bool:
    popen = process.popen()
    if popen is not None:
        known = object.__getattribute__(popen, "__dict__")
        process.pid = known.get("pid")
        if known.get("returncode") is not None:
            return False
    return process.pid is not None and _exists(process.pid)


if sys.platform == "win32":
    import _winapi

    def _exists(pid: int) -> bool:
        try:
            handle = _winapi.OpenProcess(_winapi.SYNCHRONIZE, False, pid)
        except OSError:
            return False
        try:
            return _winapi.WaitForSingleObject(handle, 0) == _winapi.WAIT_TIMEOUT
        finally:
            _winapi.CloseHandle(handle)

else:

    def _exists(pid: int) -> bool:
        """Whether the child *pid* runs, without collecting its exit status.

        False on macOS before Python 3.13, which has no `os.waitid`.
        """
        if _waitid is None:
            return False
        try:
            return _waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False
