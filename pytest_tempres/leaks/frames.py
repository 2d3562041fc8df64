"""Stack frames: recorded at audit events, and filtered for reports."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import functools
import os
import sys
import tempfile
from types import CodeType
from types import FrameType
from types import ModuleType
from typing import Any
from typing import Final
from typing import NamedTuple

from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Phase
from pytest_tempres.leaks.model import Running
from pytest_tempres.leaks.model import Work
from pytest_tempres.leaks.model import is_installed
from pytest_tempres.leaks.verdict import parents
from pytest_tempres.primitives._process import AUDIT_HOOK
from pytest_tempres.primitives._system import System

__all__ = [
    "FrameFilter",
    "Hint",
    "current_phase",
    "current_stack",
    "current_work",
    "new_hint",
]

#: A code object and a line: the cheapest record of a frame.
RawFrame = tuple[CodeType, int]

_MAX_FRAMES: Final = 100
_PHASES: Final[dict[str, Phase]] = {"(setup)": "setup", "(call)": "call", "(teardown)": "teardown"}
#: The files of pytest that call hooks and tests; frames beyond them are pytest's own.
_ENTRY_POINTS: Final = (
    os.path.join(os.sep, "_pytest", "runner.py"),
    os.path.join(os.sep, "_pytest", "main.py"),
    os.path.join(os.sep, "_pytest", "config", "__init__.py"),
)

#: Packages that run tests: their frames are never shown.
_TEST_RUNNERS: Final = ("_pytest", "execnet", "pluggy", "pytest", "pytest_tempres", "xdist")

_TEMPFILE: Final = tempfile.__file__
_LEAKS: Final = os.path.join(os.path.dirname(__file__), "")
_PACKAGE: Final = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
_getframe = sys._getframe  # noqa: SLF001 -- the only way to get a stack; only CPython has to work


class Hint(NamedTuple):
    """The owner, the phase and the stack at an audit event."""

    owner: Owner
    test: str | None
    phase: Phase | None
    stack: tuple[RawFrame, ...]
    #: The name that the entry had before it was renamed.
    renamed: str | None = None


class FrameFilter:
    """Turns raw stacks into the origins that a report shows.

    :param rootdir: Files in it are reported relative to it, others by their full path.
    :param plugins: Returns the plugins that pytest has registered.
    """

    def __init__(self, rootdir: str, plugins: Callable[[], Iterable[object]] = tuple) -> None:
        self._root = System.join(rootdir, "")
        self._library = System.join(System.dirname(os.__file__), "")
        self._plugins = plugins
        self._names: dict[str, str | None] = {}
        self._of_plugins: dict[str, bool] = {}

    def entry(
        self,
        path: str,
        hint: Hint,
        *,
        worker: str,
        ignored: bool = False,
        seen: float | None = None,
    ) -> Entry:
        """Return the entry for *path*, which belongs to the owner of *hint*."""
        origin = self.origin(hint.stack)
        return Entry(path, *hint[:3], origin, "python", ignored=ignored, worker=worker, seen=seen)

    def origin(self, stack: Sequence[RawFrame]) -> tuple[Frame, ...]:
        """Return the frames of *stack* that a report shows, nearest frame first.

        If there are none (a thread pool may call `tempfile.mkdtemp`), one other frame is shown.
        """
        shown = [raw for raw in stack if self._is_changeable(raw[0].co_filename)]
        return tuple(
            Frame(self._relative(code.co_filename), line, code.co_name)
            for code, line in shown or self._most_useful(stack)
        )

    def nearest(self, stack: Iterable[RawFrame]) -> str | None:
        """Return the nearest file that is reported; unlike in :meth:`origin`, also of a plugin."""
        names = (self.report_name(code.co_filename) for code, _ in stack)
        return next((name for name in names if name is not None), None)

    def report_name(self, filename: str) -> str | None:
        """Return the name of *filename* in a report, or None if its frames are hidden."""
        try:
            return self._names[filename]
        except KeyError:
            name = None if self._is_hidden(filename) else self._relative(filename)
            return self._names.setdefault(filename, name)

    def _relative(self, filename: str) -> str:
        """Return *filename*, relative to rootdir if it is in it."""
        return System.normpath(filename).removeprefix(self._root)

    def _is_changeable(self, filename: str) -> bool:
        return self.report_name(filename) is not None and not self._is_of_plugin(filename)

    def _is_hidden(self, filename: str) -> bool:
        if filename.startswith("<"):
            return not filename.startswith("<doctest")
        return self._is_standard(filename) or filename.startswith(_test_runners())

    def _is_standard(self, filename: str) -> bool:
        return filename.startswith(self._library) and not is_installed(filename)

    def _most_useful(self, stack: Iterable[RawFrame]) -> list[RawFrame]:
        """Return the nearest frame outside this plugin; of a plugin instead of `tempfile`."""
        others = [raw for raw in stack if not raw[0].co_filename.startswith(("<", _PACKAGE))]
        callers = [raw for raw in others if raw[0].co_filename != _TEMPFILE][:1]
        project_frames = [raw for raw in callers if not self._is_standard(raw[0].co_filename)]
        return project_frames or others[:1]

    def _is_of_plugin(self, filename: str) -> bool:
        """Whether *filename* belongs to an installed plugin, which runs tests as pytest does."""
        known = self._of_plugins.get(filename)
        if known is None:
            plugins = self._paths_of_plugins() if is_installed(filename) else set()
            known = self._of_plugins[filename] = not plugins.isdisjoint(parents(filename))
        return known

    def _paths_of_plugins(self) -> set[str | None]:
        return {
            _path_of(plugin)
            for plugin in self._plugins()
            # A conftest.py in an installed package does not make the package a plugin.
            if isinstance(plugin, ModuleType) and plugin.__name__.rpartition(".")[2] != "conftest"
            if not self._is_project(plugin.__name__.partition(".")[0])
        }

    def _is_project(self, package: str) -> bool:
        """Whether the source of the installed *package* is in rootdir."""
        places = (self._root, System.join(self._root, "src"))
        names = (package, f"{package}.py")
        return any(System.lexists(System.join(place, n)) for place in places for n in names)


def current_phase() -> Phase | None:
    """Return the phase of the current test, from `PYTEST_CURRENT_TEST`."""
    return _PHASES.get(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[2])


def current_work(running: Running) -> Work:
    """Return the work of the current thread: that of the owner that started it, or the current."""
    work = running.thread_work()
    if work is None or (work.owner, work.test) == (running.owner, running.test):
        return Work(running.owner, running.test, running.phase or current_phase())
    return work


def new_hint(running: Running) -> Hint:
    """Return the hint for the current audit event."""
    return Hint(*current_work(running), current_stack())


def current_stack() -> tuple[RawFrame, ...]:
    """Return the stack at the event, nearest frame first, without pytest's frames."""
    frame: FrameType | None = _getframe(1)
    while frame is not None and _is_of_hook(frame.f_code):
        frame = frame.f_back
    stack: list[RawFrame] = []
    while frame is not None and len(stack) < _MAX_FRAMES:
        # Reading f_code raises an audit event, so read it once.
        code = frame.f_code
        if _is_entry_point(code.co_filename):
            break
        is_doctest = code.co_filename.startswith("<doctest")
        stack.append(_in_docstring(frame) if is_doctest else (code, frame.f_lineno or 0))
        frame = frame.f_back
    return tuple(stack)


def _is_of_hook(code: CodeType) -> bool:
    """Whether a frame of *code* handles the audit event."""
    return code.co_filename.startswith(_LEAKS) or code.co_name == AUDIT_HOOK


# Cached, because every event checks some twenty frames.
@functools.cache
def _is_entry_point(filename: str) -> bool:
    return filename.endswith(_ENTRY_POINTS)


def _in_docstring(frame: FrameType) -> RawFrame:
    """Return file and line of the doctest example that runs in *frame*."""
    code, line = frame.f_code, frame.f_lineno or 0
    known = frame.f_back.f_locals if frame.f_back is not None else {}
    test: Any = known.get("test")
    example: Any = known.get("example")
    try:
        # Both lines are counted from 0.
        return code.replace(co_filename=test.filename), test.lineno + example.lineno + line
    except (AttributeError, TypeError):
        return code, line


def _path_of(plugin: ModuleType) -> str | None:
    """Return the directory of a plugin; only its file if a library includes the plugin."""
    top = plugin.__name__.partition(".")[0]
    module = sys.modules.get(top, plugin) if "pytest" in top else plugin
    file: str | None = getattr(module, "__file__", None)
    return System.dirname(file) if file and hasattr(module, "__path__") else file


def _test_runners() -> tuple[str, ...]:
    """Return the directories of the imported packages that run tests."""
    modules = (sys.modules.get(name) for name in _TEST_RUNNERS)
    files = (getattr(module, "__file__", None) for module in modules)
    return tuple(System.join(System.dirname(file), "") for file in files if file)
