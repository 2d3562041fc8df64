"""The filter for stack frames: reports show only frames of the code under test."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import os
import sys
import tempfile
from types import ModuleType
from typing import Final

from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.temp.audit import RawFrame
from pytest_tempres.leaks.verdict import parents
from pytest_tempres.primitives._system import System

__all__ = ["FrameFilter"]

#: Packages that run tests: their frames are never shown.
_MACHINERY: Final = ("_pytest", "execnet", "pluggy", "pytest", "pytest_tempres", "xdist")

_SITE: Final = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_TEMPFILE: Final = tempfile.__file__
_OURS: Final = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")


class FrameFilter:
    """Turns raw stacks into the origins that a report shows.

    :param rootdir: Files in it are reported relative to it, others by their full path.
    :param plugins: Returns the plugins that pytest has registered.
    """

    def __init__(self, rootdir: str, plugins: Callable[[], Iterable[object]] = tuple) -> None:
        self._root = System.join(rootdir, "")
        self._library = System.join(System.dirname(os.__file__), "")
        self._plugins = plugins
        self._seen: dict[str, str | None] = {}
        self._of_plugins: dict[str, bool] = {}

    def origin(self, stack: Sequence[RawFrame]) -> tuple[Frame, ...]:
        """Return the frames of *stack* that a report shows, nearest frame first.

        If there are none (a thread pool may call `tempfile.mkdtemp` directly), return the most
        useful of the others.
        """
        left = [raw for raw in stack if self._is_changeable(raw[0].co_filename)]
        return tuple(
            Frame(self.relative(code.co_filename), line, code.co_name)
            for code, line in left or self._most_useful(stack)
        )

    def nearest(self, stack: Iterable[RawFrame]) -> str | None:
        """Return the nearest file that is neither standard library nor runs tests, as reported.

        It may belong to a plugin, whose frames :meth:`origin` leaves out.
        """
        named = (self.show(code.co_filename) for code, _ in stack)
        return next((file for file in named if file is not None), None)

    def show(self, filename: str) -> str | None:
        """Return the name of *filename* in a report, or None if its frames are hidden."""
        try:
            return self._seen[filename]
        except KeyError:
            named = None if self._is_hidden(filename) else self.relative(filename)
            return self._seen.setdefault(filename, named)

    def relative(self, filename: str) -> str:
        """Return *filename*, relative to rootdir if it is in it."""
        return System.normpath(filename).removeprefix(self._root)

    def _is_changeable(self, filename: str) -> bool:
        return self.show(filename) is not None and not self._is_of_plugin(filename)

    def _is_hidden(self, filename: str) -> bool:
        if filename.startswith("<"):
            return not filename.startswith("<doctest")
        if any(site in filename for site in _SITE):
            return filename.startswith(_machinery())
        return self._is_standard(filename) or filename.startswith(_machinery())

    def _is_standard(self, filename: str) -> bool:
        return filename.startswith(self._library) and not any(site in filename for site in _SITE)

    def _most_useful(self, stack: Iterable[RawFrame]) -> list[RawFrame]:
        """Return the nearest frame outside this plugin.

        If a plugin or pytest calls `tempfile`, return the line of the caller.
        """
        others = [raw for raw in stack if not raw[0].co_filename.startswith(("<", _OURS))]
        callers = [raw for raw in others if raw[0].co_filename != _TEMPFILE][:1]
        project_frames = [raw for raw in callers if not self._is_standard(raw[0].co_filename)]
        return project_frames or others[:1]

    def _is_of_plugin(self, filename: str) -> bool:
        """Whether *filename* belongs to an installed plugin, which runs tests as pytest does."""
        known = self._of_plugins.get(filename)
        if known is None:
            installed = any(site in filename for site in _SITE)
            known = installed and not self._paths_of_plugins().isdisjoint(parents(filename))
            self._of_plugins[filename] = known
        return known

    def _paths_of_plugins(self) -> set[str | None]:
        return {
            _path_of(plugin)
            for plugin in self._plugins()
            # A conftest.py in an installed package does not make the package a plugin.
            if isinstance(plugin, ModuleType) and plugin.__name__.rpartition(".")[2] != "conftest"
            if not self._is_developed(plugin.__name__.partition(".")[0])
        }

    def _is_developed(self, package: str) -> bool:
        """Whether *package* is the installed form of the project in rootdir."""
        places = (self._root, System.join(self._root, "src"))
        names = (package, f"{package}.py")
        return any(System.lexists(System.join(place, n)) for place in places for n in names)


def _path_of(plugin: ModuleType) -> str | None:
    """Return the directory or the file of a plugin.

    For a plugin module inside a library return that module alone: the rest of the library is
    code under test.
    """
    top = plugin.__name__.partition(".")[0]
    module = sys.modules.get(top, plugin) if "pytest" in top else plugin
    file: str | None = getattr(module, "__file__", None)
    return System.dirname(file) if file and hasattr(module, "__path__") else file


def _machinery() -> tuple[str, ...]:
    """Return the directories of the imported packages that run tests."""
    modules = (sys.modules.get(name) for name in _MACHINERY)
    files = (getattr(module, "__file__", None) for module in modules)
    return tuple(System.join(System.dirname(file), "") for file in files if file)
