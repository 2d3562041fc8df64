"""The detector of file descriptors that were opened and not closed."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
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
from pytest_tempres.leaks.frames import Hint
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.model import is_installed
from pytest_tempres.leaks.verdict import Ignore
from pytest_tempres.primitives._system import System

__all__ = ["Descriptors", "unsupported"]

_LIBRARY: Final = sysconfig.get_path("stdlib")

#: Patterns of paths that may stay open, because the code under test cannot close them.
BUILTIN_PATTERNS: Final = (
    # Code files, which the interpreter reads and debuggers and linters keep open.
    f"{_LIBRARY}/*.py",
    f"{_LIBRARY}/*.pyc",
    f"{_LIBRARY}/*.so",
    "*/python3*.zip",
    *(f"*/{name}-packages/*.{kind}" for name in ("site", "dist") for kind in ("py", "pyc", "so")),
    # TLS libraries keep their certificate bundle open.
    "*/certifi/*.pem",
    "/etc/ssl/*",
    "/etc/pki/*",
    "/private/etc/ssl/*",
    "/usr/share/ca-certificates/*",
    # Terminals of the user; a pty master is still reported.
    "/dev/console",
    "/dev/tty*",
    "/dev/pts/*",
    # A session of this plugin has these files open until the process ends.
    "*/tempres-????????/.lock",
    "*/tempres-????????/.kept.jsonl",
    # Coverage measures until the process ends.
    "*/.coverage*",
)

#: Patterns of paths and descriptions that C libraries open once for a process, on first use, and
#: keep open. They do not apply to descriptors that Python opened.
LIBRARY_PATTERNS: Final = (
    # Random numbers.
    "/dev/random",
    "/dev/urandom",
    # A library may open its own file or a memfd: libffi does, for callbacks from C.
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
    # Information about the machine: processors, memory, limits.
    "/proc/*",
    "/sys/*",
    # Lookups of hosts and users.
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
_matches_builtin: Final = Ignore("", BUILTIN_PATTERNS).matches
_matches_library: Final = Ignore("", LIBRARY_PATTERNS).matches

#: How long to wait for threads and children to close descriptors, in seconds.
_PAUSES: Final = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
_IMPORT: Final = "<frozen importlib._bootstrap>"
#: The threads of this process on Linux, including those of C libraries.
_THREADS: Final = "/proc/self/task"

if sys.platform == "linux":
    # WNOWAIT: do not collect the exit status of a child.
    _wait = functools.partial(os.waitid, os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def unsupported() -> str | None:
    """Return why descriptors cannot be checked on this platform, or None if they can."""
    if sys.platform not in {"linux", "darwin"}:
        return f"file descriptors can be checked on Linux and macOS, not on {sys.platform}"
    if not System.isdir(names.TABLE):
        return f"file descriptors cannot be checked: there is no {names.TABLE}"
    return None


class Descriptors:
    """File descriptors that were opened and not closed.

    Descriptors that are open at the beginning are not reported, nor those that other plugins and
    the session itself open: the kernel closes them with the process. A descriptor that was opened
    during an import is reported only if a line of the project itself opened it, because libraries
    keep open what they open then.

    A descriptor is identified by number, device, inode and type. One that is closed and opened
    again for the same file with the same number between two scans counts as the old one.

    :param ignored: Returns whether the ini file says to ignore a descriptor, from its path, or
        from its description if it has no path.
    :param worker: The name of this worker in reports.
    :param collect: Collects garbage before leaks are reported.
    """

    events: AbstractSet[str] = EVENTS

    def __init__(
        self,
        *,
        running: Running,
        frame_filter: FrameFilter,
        ignored: Callable[[str], bool],
        worker: str,
        collect: Callable[[], object] = gc.collect,
    ) -> None:
        self._running = running
        self._frame_filter = frame_filter
        self._ignored = ignored
        self._worker = worker
        self._pid = System.getpid()
        self._collect = collect
        self._openings = Openings(running)
        self._known = names.identities(()) or {}
        self._entries: dict[int, Entry] = {}
        #: Descriptors that Python opened for certain; others may be a library's.
        self._opened_by_python: set[int] = set()

    def on_event(self, event: str, args: tuple[Any, ...]) -> None:
        """Record *event* until the next scan."""
        if self._openings.is_full():
            self.scan()
        self._openings.on_event(event, args)

    # -- scans

    def scan(self) -> None:
        """Record new descriptors, and forget those that were closed."""
        if System.getpid() != self._pid:
            return
        now = names.identities(self._known)
        if now is None:
            return
        openings = self._openings.take()
        self._openings.scan()
        if now != self._known:
            for number in self._known.keys() - now.keys():
                self._entries.pop(number, None)
            new = [number for number, each in now.items() if self._known.get(number) != each]
            self._known = now
            self._record(new, Matches(openings, self._frame_filter))

    def _record(self, numbers: Iterable[int], matches: Matches) -> None:
        for number in sorted(numbers, reverse=True):
            self._entries.pop(number, None)
            self._opened_by_python.discard(number)
            target = names.target(number)
            hint = matches.certain(number, target)
            if hint is not None:
                self._opened_by_python.add(number)
            hint = hint or matches.likely(number, target)
            worker, seen = self._worker, self._running.seconds()
            entry = Entry(target, *self._running.work, worker=worker, seen=seen)
            if hint is not None:
                entry = self._frame_filter.entry(target, hint, worker=worker, seen=seen)
            if not self._is_exempt(entry, hint):
                self._entries[number] = entry

    def _is_exempt(self, entry: Entry, hint: Hint | None) -> bool:
        """Whether it may stay open, because the process or a module uses it until the end."""
        if entry.owner.kind == "session":
            return True
        stack = hint.stack if hint is not None else ()
        is_import = any(code.co_filename == _IMPORT for code, _ in stack)
        imported = entry.owner.kind == "collection" or is_import
        return imported and not _is_own(self._frame_filter.nearest(stack))

    # -- leaks

    def leaks_of(self, test: str) -> list[Leak]:
        """Return what *test* and its function-scoped fixtures left open, as of the last scan.

        Connections are checked only at the end of the session: the pool of a wider fixture opens
        them when a test first needs them, and closes them with the fixture.
        """
        numbers = [
            number
            for number, entry in self._entries.items()
            if entry.test == test and entry.owner.is_of_one_test
        ]
        return self._judge(numbers, connections=False)

    def recorded(self) -> dict[int, Entry]:
        """Return what was open at the last scan and may be a leak, by number."""
        return dict(self._entries)

    def leaks_since(
        self, earlier: Mapping[int, Entry], is_due: Callable[[Entry], bool]
    ) -> list[Leak]:
        """Return what is open as of the last scan and was opened later than *earlier*.

        Connections are left out, as in :meth:`leaks_of`.

        :param earlier: What :meth:`recorded` returned.
        :param is_due: Returns whether the owner of a descriptor should have closed it.
        """
        new = {n: entry for n, entry in self._entries.items() if earlier.get(n) is not entry}
        return self._judge([n for n, entry in new.items() if is_due(entry)], connections=False)

    def forget(self, leaks: Iterable[Leak]) -> None:
        """Do not report *leaks* again, as long as they stay open."""
        for leak in leaks:
            self._entries.pop(_number(leak), None)

    def judge(self) -> list[Leak]:
        """Return what is still open at the end of the session, after a short wait."""
        self.scan()
        if self._entries:
            _drop_last_traceback()
        return self._judge(self._entries, connections=True)

    def _judge(self, numbers: Iterable[int], *, connections: bool) -> list[Leak]:
        if System.getpid() != self._pid:
            return []
        found = self._suspects(sorted(numbers))
        suspects = {n: each for n, each in found.items() if connections or not each.connected}
        if suspects:
            # Objects in a reference cycle close their descriptors when they are collected.
            self._collect()
            suspects = self._suspects(suspects)
        for pause in _PAUSES if suspects and _has_threads_or_children() else ():
            if not suspects:
                break
            System.sleep(pause)
            suspects = self._suspects(suspects)
        return [self._leak(number, found) for number, found in suspects.items()]

    def _suspects(self, numbers: Iterable[int]) -> dict[int, Description]:
        """Return those of *numbers* that are still open and may not stay open."""
        exempt = _held_by_multiprocessing()
        found = {}
        for number in numbers:
            if number in exempt or names.identity(number) != self._known.get(number):
                continue
            description = names.describe(number)
            if description is not None and not self._is_allowed(
                description.target, by_python=number in self._opened_by_python
            ):
                found[number] = description
        return found

    def _is_allowed(self, target: str, *, by_python: bool = False) -> bool:
        """Whether a descriptor of *target* may stay open."""
        is_of_library = not by_python and _matches_library(target)
        return is_of_library or _matches_builtin(target) or self._ignored(target)

    def _leak(self, number: int, found: Description) -> Leak:
        path = f"fd {number}: {found.text}"
        entry = self._entries[number]._replace(path=found.target)
        return Leak("descriptor", path, found.size, 1, complete=True, status="leak", entry=entry)


def _number(leak: Leak) -> int:
    return int(leak.path.removeprefix("fd ").partition(":")[0])


def _is_own(file: str | None) -> bool:
    """Whether *file* belongs to the project, not to a library."""
    return file is not None and not System.isabs(file) and not is_installed(f"{os.sep}{file}")


def _has_threads_or_children() -> bool:
    """Whether there may be another thread or a child, which is about to close a descriptor."""
    if sys.platform == "linux":
        try:
            if len(System.listdir(_THREADS)) == 1:
                _wait()
        except ChildProcessError:
            return False
        except OSError:
            return True
    return True


def _held_by_multiprocessing() -> set[object]:
    """Return the descriptors that keep multiprocessing's helper processes running.

    Packages like loky have copies of the resource tracker.
    """
    # A copy, because threads of the code under test may import at the same time.
    modules = list(sys.modules.items())
    trackers = (module for name, module in modules if name.endswith(".resource_tracker"))
    server = sys.modules.get("multiprocessing.forkserver")
    return {
        *(getattr(getattr(each, "_resource_tracker", None), "_fd", None) for each in trackers),
        getattr(getattr(server, "_forkserver", None), "_forkserver_alive_fd", None),
    }


def _drop_last_traceback() -> None:
    """Drop the frames of the last test that raised, and the objects that they hold.

    pytest sets these attributes, and deletes them when the next test runs.
    """
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)
