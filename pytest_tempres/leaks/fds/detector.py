"""Which file descriptors were opened and not closed, and by whom?"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from contextlib import suppress
import functools
import gc
import os
import sys
import sysconfig
from typing import Any
from typing import Final

from pytest_tempres.leaks.fds import names
from pytest_tempres.leaks.fds.names import Description
from pytest_tempres.leaks.fds.openings import EVENTS
from pytest_tempres.leaks.fds.openings import Matches
from pytest_tempres.leaks.fds.openings import Openings
from pytest_tempres.leaks.frames import FrameFilter
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.temp.audit import Hint
from pytest_tempres.leaks.temp.audit import RawFrame
from pytest_tempres.leaks.verdict import Ignore
from pytest_tempres.primitives._system import System

__all__ = ["LIBRARIES", "SHIPPED", "Descriptors", "unsupported"]

# Captured because tests replace these functions, and the clock with them.

_SITES: Final = ("site-packages", "dist-packages")
_LIBRARY: Final = sysconfig.get_path("stdlib")

#: What may stay open: nobody closes it, and it is nobody's fault. Patterns of paths.
SHIPPED: Final = (
    # The interpreter and its libraries read their own code, and debuggers and linters keep it.
    f"{_LIBRARY}/*.py",
    f"{_LIBRARY}/*.pyc",
    f"{_LIBRARY}/*.so",
    "*/python3*.zip",
    *(f"*/{site}/*.{kind}" for site in _SITES for kind in ("py", "pyc", "so")),
    # TLS libraries keep the bundle of authorities that they trust.
    "*/certifi/*.pem",
    "/etc/ssl/*",
    "/etc/pki/*",
    "/private/etc/ssl/*",
    "/usr/share/ca-certificates/*",
    # Terminals belong to the person in front of them; a master that leaks is still reported.
    "/dev/console",
    "/dev/tty*",
    "/dev/pts/*",
    # A session of this plugin in the same process holds it until the process ends.
    "*/tempres-????????/.lock",
    "*/tempres-????????/.kept.jsonl",
    # Coverage measures to the end.
    "*/.coverage*",
)

#: What libraries written in C open once for a process, when a test first uses them, and keep.
#: What Python opened, which says so, is not meant. Patterns of paths and of words.
LIBRARIES: Final = (
    # Random numbers.
    "/dev/random",
    "/dev/urandom",
    # A library may hold itself: libffi does, for what calls back from C.
    "*.so",
    "*.so.[0-9]*",
    "*.dylib",
    "memfd libffi*",
    # Graphics cards and other accelerators, and the networks between them.
    "/dev/accel*",
    "/dev/dri/*",
    "/dev/dxg",
    "/dev/infiniband/*",
    "/dev/kfd",
    "/dev/nvhost*",
    "/dev/nvidia*",
    "/dev/nvmap",
    "/dmabuf:*",
    "memfd /.nvidia*",
    "sync_file",
    # What the machine is like: processors, memory, limits.
    "/proc/*",
    "/sys/*",
    # Names of hosts and users.
    "/run/nscd/*",
    "/var/cache/nscd/*",
    "/var/lib/sss/*",
    "AF_NETLINK socket",
    "Unix socket to /run/nscd/*",
    "Unix socket to /run/samba/winbindd/*",
    "Unix socket to /run/systemd/*",
    "Unix socket to /var/lib/sss/*",
    "Unix socket to /var/run/nscd/*",
)
_shipped: Final = Ignore("", SHIPPED).matches
_libraries: Final = Ignore("", LIBRARIES).matches

#: How long to wait for what threads and children are about to close, in seconds.
_PAUSES: Final = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
_IMPORT: Final = "<frozen importlib._bootstrap>"
#: Where Linux shows the threads of this process, those of libraries too.
_THREADS: Final = "/proc/self/task"

if sys.platform == "linux":
    _wait = functools.partial(os.waitid, os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def _has_children() -> bool:
        try:
            # Those that have ended are left to whoever waits for them.
            _wait()
        except ChildProcessError:
            return False
        return True


def unsupported() -> str | None:
    """Return why descriptors cannot be looked at on this platform, or None where they can."""
    if sys.platform not in {"linux", "darwin"}:
        return f"file descriptors can be looked at on Linux and macOS, not on {sys.platform}"
    if not System.isdir(names.TABLE):
        return f"file descriptors cannot be looked at: there is no {names.TABLE}"
    return None


class Descriptors:
    """File descriptors that were opened and not closed.

    What is open at the beginning is nobody's, and so is what other plugins and the
    session itself open: they end with the process, and the kernel closes them. What
    an import opens belongs to the collection, test or fixture that imports only
    where a line of the project itself opened it; libraries keep what they open then.

    A descriptor is known by number, device, inode and type. One that is closed and
    opened again for the same file under the same number between two looks is the old one.

    :param running: Who is running.
    :param folder: Shows the frames of stacks.
    :param ignored: Tells whether the ini file lets something stay: it is asked with
        the path that a descriptor leads to, or with words where it has no path.
    :param worker: The name by which reports call this process.
    :param collect: Collects garbage, before something is called left.
    """

    events: AbstractSet[str] = EVENTS

    def __init__(
        self,
        *,
        running: Running,
        folder: FrameFilter,
        ignored: Callable[[str], bool],
        worker: str,
        collect: Callable[[], object] = gc.collect,
    ) -> None:
        self._running = running
        self._folder = folder
        self._ignored = ignored
        self._worker = worker
        self._pid = System.getpid()
        self._collect = collect
        self._openings = Openings(running)
        self._known = names.identities(()) or {}
        self._entries: dict[int, Entry] = {}
        #: What Python opened for certain: of the others a library may be the maker.
        self._announced: set[int] = set()

    def on_event(self, event: str, args: tuple[Any, ...]) -> None:
        """Note what *event* announces."""
        if self._openings.full():
            # Of most of them nothing is open any more; the others must not lose their line.
            self.scan()
        self._openings.on_event(event, args)

    # -- what looks find

    def scan(self) -> None:
        """Book the descriptors that are new, and forget those that were closed."""
        if System.getpid() != self._pid:
            return
        now = names.identities(self._known)
        if now is None:
            # Nobody can look now; what was announced is wanted by the next look.
            return
        openings = self._openings.take()
        self._openings.scan()
        if now != self._known:
            for number in self._known.keys() - now.keys():
                self._entries.pop(number, None)
            new = [number for number, each in now.items() if self._known.get(number) != each]
            self._known = now
            self._book(new, Matches(openings, self._folder))

    def _book(self, numbers: Iterable[int], matches: Matches) -> None:
        for number in sorted(numbers, reverse=True):
            self._entries.pop(number, None)
            self._announced.discard(number)
            target = names.target(number)
            hint = matches.announced(number, target)
            if hint is not None:
                self._announced.add(number)
            hint = hint or matches.guessed(number, target)
            entry = self._entry(target, hint)
            if not self._is_nobodys(entry, hint):
                self._entries[number] = entry

    def _is_nobodys(self, entry: Entry, hint: Hint | None) -> bool:
        """Whether nobody has to close it, since it lives as long as the process or a module."""
        if entry.owner.kind == "session":
            return True
        stack = hint.stack if hint is not None else ()
        imported = entry.owner.kind == "collection" or _imports(stack)
        return imported and not _is_own(self._folder.nearest(stack))

    def _entry(self, target: str, hint: Hint | None) -> Entry:
        if hint is None:
            running = self._running
            return Entry(target, running.owner, running.test, running.phase, worker=self._worker)
        return Entry(
            target,
            hint.owner,
            hint.test,
            hint.phase,
            self._folder.origin(hint.stack),
            made_by="python",
            worker=self._worker,
        )

    # -- what is judged

    def due(self, test: str) -> list[Leak]:
        """Return what *test* and its function-scoped fixtures left open, at the last look.

        Connections are left to the end: a pool that a wider fixture owns opens them
        when a test first needs them, and closes them with the fixture.
        """
        return self._judge(
            (
                number
                for number, entry in self._entries.items()
                if entry.test == test and _is_of_one_test(entry.owner)
            ),
            connections=False,
        )

    def judge(self) -> list[Leak]:
        """Return what is still open at the end, after some time to close it."""
        self.scan()
        if self._entries:
            _forget_the_last_traceback()
        return self._judge(self._entries, connections=True)

    def _judge(self, numbers: Iterable[int], *, connections: bool) -> list[Leak]:
        if System.getpid() != self._pid:
            return []
        found = self._suspects(sorted(numbers))
        suspects = {n: each for n, each in found.items() if connections or not each.connected}
        if suspects:
            # Objects in a reference cycle close what they hold.
            self._collect()
            suspects = self._suspects(suspects)
        for pause in _PAUSES if suspects and _anybody_else_runs() else ():
            if not suspects:
                break
            System.sleep(pause)
            suspects = self._suspects(suspects)
        return [self._leak(number, found) for number, found in suspects.items()]

    def _suspects(self, numbers: Iterable[int]) -> dict[int, Description]:
        """Return those of *numbers* that are open still and may not stay."""
        kept = _kept_by_multiprocessing()
        found = {}
        for number in numbers:
            if number in kept or names.identity(number) != self._known.get(number):
                continue
            description = names.describe(number)
            if description is not None and not self._is_allowed(
                description.target, announced=number in self._announced
            ):
                found[number] = description
        return found

    def _is_allowed(self, target: str, *, announced: bool = False) -> bool:
        """Whether what leads to *target* is nobody's to close.

        :param announced: Whether Python opened it, and not a library for itself.
        """
        kept = _shipped(target) or (not announced and _libraries(target))
        return kept or self._ignored(target)

    def _leak(self, number: int, found: Description) -> Leak:
        escaped = f"fd {number}: {found.text}"
        entry = self._entries[number]._replace(path=found.target)
        return Leak("descriptor", escaped, found.size, 1, complete=True, status="leak", entry=entry)


def _is_of_one_test(owner: Owner) -> bool:
    return owner.kind == "test" or (owner.kind == "fixture" and owner.scope == "function")


def _imports(stack: Iterable[RawFrame]) -> bool:
    return any(code.co_filename == _IMPORT for code, _ in stack)


def _is_own(file: str | None) -> bool:
    """Whether the nearest *file* is the project's own, not one of a library."""
    if file is None or System.isabs(file):
        return False
    return not any(f"{site}{os.sep}" in file for site in _SITES)


def _anybody_else_runs() -> bool:
    """Whether there is a thread or a child, for which something may be about to be closed."""
    if sys.platform == "linux":
        # In doubt there is.
        with suppress(OSError):
            return len(System.listdir(_THREADS)) > 1 or _has_children()
    return True


def _kept_by_multiprocessing() -> set[object]:
    """Return the descriptors by which multiprocessing holds its servants, once for a process.

    They were started by whoever came first to need them, and stop when this end closes.
    Packages like loky bring copies of their own.
    """
    # Threads of the code under test go on importing.
    modules = list(sys.modules.items())
    trackers = (module for name, module in modules if name.endswith(".resource_tracker"))
    server = sys.modules.get("multiprocessing.forkserver")
    return {
        *(getattr(getattr(each, "_resource_tracker", None), "_fd", None) for each in trackers),
        getattr(getattr(server, "_forkserver", None), "_forkserver_alive_fd", None),
    }


def _forget_the_last_traceback() -> None:
    """Let go of the frames that the interpreter keeps for a debugger, and what these hold.

    pytest sets these for the last test that raised, an expected failure too, and
    takes them away when the next one runs.
    """
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)
