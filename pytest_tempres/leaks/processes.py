"""The processes that tests start: each may make what no audit event of ours tells of.

A process that outlasts whoever started it goes on making things while others run. Objects of the
code under test are looked at here inside an audit hook, so none of their own methods may run.
"""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
from pathlib import PurePath
import re
import shlex
import sys
from types import FrameType
from typing import Any
from typing import Final
from typing import NamedTuple
import weakref

from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Process
from pytest_tempres.leaks.model import Work
from pytest_tempres.primitives._system import System

__all__ = ["EVENTS", "Processes", "command_line"]

EVENTS: Final = frozenset({"subprocess.Popen"})

#: A command line is shown up to this length.
_LONGEST: Final = 80
#: Less of an argument tells nothing.
_SHORTEST: Final = 8
#: No more than this is kept of one: so many arguments, and so much of each.
_MOST_ARGUMENTS: Final = 20
_MOST_CHARACTERS: Final = 200
#: What means something between double quotes, to one shell or another.
_IN_DOUBLE_QUOTES: Final = frozenset('!"$\\`')
#: The arguments in the one text that Windows takes.
_WORDS: Final = re.compile(r'"[^"]*"?|\S+')
#: So many processes are noted between two looks before it is asked which still run.
_MOST: Final = 200
#: How far the method that raises the event stands from where it is noted, at most.
_NEAR: Final = 8

# Captured because tests replace these.
_quote = shlex.quote
_PATHS: Final = frozenset({type(Path()), type(PurePath())})
_getframe = sys._getframe  # noqa: SLF001 -- the one way to a stack; CPython alone is supported
_waitid: Final[Callable[..., object] | None] = getattr(os, "waitid", None)


class _Started:
    """A process of whose start an event told."""

    __slots__ = ("arguments", "pid", "popen", "work")

    def __init__(
        self, arguments: tuple[str, ...], work: Work, popen: Callable[[], object | None]
    ) -> None:
        self.arguments = arguments
        self.work = work
        #: Returns the object that stands for it, which gets the pid after the event.
        self.popen = popen
        self.pid: int | None = None


class _Key(NamedTuple):
    """Who started a process."""

    owner: Owner
    test: str | None


class Processes:
    """Who started which process, and which of them still run."""

    def __init__(self) -> None:
        #: What went wrong here, for somebody who can warn of it.
        self.error: Exception | None = None
        self._last: tuple[str, ...] = ()
        #: Those started since the last look, and by whom, also where they have ended.
        self._new: list[_Started] = []
        self._starters: set[_Key] = set()
        #: Those started earlier that ran at the last look.
        self._old: list[_Started] = []

    @property
    def last_command(self) -> str | None:
        """The command line of the process started last."""
        return command_line(self._last) if self._last else None

    def on_event(self, args: tuple[Any, ...], work: Work) -> None:
        """Note that a process is about to start for *work*."""
        try:
            self._start(args, work)
        except Exception as error:  # noqa: BLE001 -- it would break the call under test
            self.error = error

    def scan(self) -> None:
        """Know that the owner changes: what has ended by now makes nothing any more."""
        if self._new or self._old or self._starters:
            new, self._new = self._new, []
            self._starters.clear()
            self._old = self._going_on((*self._old, *new))

    def going_on(self) -> bool:
        """Whether there are processes that may outlast who started them."""
        return bool(self._new or self._old)

    def started_by(self, work: Work) -> bool:
        """Whether *work* has started a process since the last look."""
        return _Key(work.owner, work.test) in self._starters

    def likely_creator(self, work: Work, anyhow: bool) -> tuple[Work, tuple[Process, ...]]:
        """Return who is named for what no event told of, and which processes may have made it.

        :param work: Who is running.
        :param anyhow: Whether it may be the deed of who is running, if that started no process.
        :returns: Processes of others alone; where nobody can tell, the session is named.
        """
        here = _Key(work.owner, work.test)
        # A copy, since threads of the code under test go on.
        there = [*self._old, *list(self._new)]
        others = [each for each in there if _key(each) != here]
        if not others:
            return work, ()
        suspects = tuple(Process(command_line(each.arguments), each.work.owner) for each in others)
        if anyhow or here in self._starters or len(others) < len(there):
            over = any(_is_over(each.work, work) for each in others)
            return (Work(SESSION) if over else work), suspects
        alone = len({_key(each) for each in others}) == 1
        return (others[0].work if alone else Work(SESSION)), suspects

    def _start(self, args: tuple[Any, ...], work: Work) -> None:
        executable, command = args[:2]
        self._last = _arguments(executable, command)
        self._starters.add(_Key(work.owner, work.test))
        popen = _popen(_getframe(2))
        if popen is not None:
            if len(self._new) >= _MOST:
                self._new = self._going_on(self._new)
            self._new.append(_Started(self._last, work, weakref.ref(popen)))

    def _going_on(self, processes: Any) -> list[_Started]:
        try:
            return [each for each in processes if _is_running(each)]
        except Exception as error:  # noqa: BLE001 -- it would break the call under test
            self.error = error
            return []


def command_line(arguments: tuple[str, ...]) -> str:
    """Return *arguments* as a shell would take them, the program without its directory."""
    program, *others = map(_on_one_line, arguments)
    line = _quoted(program[max(program.rfind("/"), program.rfind("\\")) + 1 :] or program)
    for each in others:
        room = _LONGEST - len(line) - 1
        if len(_quoted(each)) > room:
            return f"{line} {_quoted(each[: room - 3] + '…' if room > _SHORTEST else '…')}"
        line = f"{line} {_quoted(each)}"
    return line


def _on_one_line(text: str) -> str:
    """Return *text* with control characters escaped; bytes that are no text stay as they are."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or _is_byte(c) else ascii(c)[1:-1] for c in text)


def _is_byte(character: str) -> bool:
    return "\udc80" <= character <= "\udcff"


def _quoted(argument: str) -> str:
    if argument == "…":
        return argument
    plain = "'" in argument and _IN_DOUBLE_QUOTES.isdisjoint(argument)
    return f'"{argument}"' if plain else _quote(argument)


def _key(process: _Started) -> _Key:
    return _Key(process.work.owner, process.work.test)


def _is_over(work: Work, running: Work) -> bool:
    """Whether *work* was for a test that is over while *running* goes on."""
    is_narrow = work.owner.kind == "test" or work.owner.scope == "function"
    return is_narrow and work.test != running.test


def _arguments(executable: object, command: object) -> tuple[str, ...]:
    """Return the beginning of what a process is started with."""
    if type(command) in (list, tuple):
        parts: Any = command
        return tuple(map(_text, parts[:_MOST_ARGUMENTS])) or (_text(executable),)
    # On Windows it is one text.
    line = "" if command is None else _text(command)
    return tuple(each.strip('"') for each in _WORDS.findall(line)) or (_text(executable),)


def _text(part: Any) -> str:
    kind = type(part)
    if issubclass(kind, str):
        return str.__getitem__(part, slice(_MOST_CHARACTERS))
    if issubclass(kind, bytes):
        return System.fsdecode(bytes.__getitem__(part, slice(_MOST_CHARACTERS)))
    # Others have methods of their own, but for what pathlib makes.
    return str(part)[:_MOST_CHARACTERS] if kind in _PATHS else "…"


def _popen(frame: FrameType | None) -> object | None:
    """Return the object of the process that is about to start: the event does not carry it."""
    for _ in range(_NEAR):
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
        """Whether the process *pid* runs."""
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
        """Whether the child *pid* runs: it is asked in a way that leaves its exit status alone.

        There is none on macOS before Python 3.13, where nothing is known.
        """
        if _waitid is None:
            return False
        try:
            return _waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False
