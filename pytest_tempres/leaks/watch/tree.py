"""The snapshot of a directory tree, and the differences to a later one."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from fnmatch import translate
import os
import re
import stat
from typing import Final
from typing import Literal
from typing import NamedTuple

from pytest_tempres.leaks.temp.scan import Scan
from pytest_tempres.primitives._system import System

__all__ = ["EXCLUDED", "Children", "Difference", "Modification", "Scope", "State", "Tree", "state"]

#: Name patterns that are never reported, at any depth.
EXCLUDED: Final = (
    # Compiled code: Python writes it when any test imports a module for the first time.
    "__pycache__",
    "*.pyc",
    # Caches of pytest and of other tools, which manage them.
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
    ".benchmarks",
    ".testmondata*",
    ".ipynb_checkpoints",
    # Coverage writes its data while tests run, and its reports after them.
    ".coverage",
    ".coverage.*",
    "htmlcov",
    "coverage.json",
    "coverage.lcov",
    "coverage.xml",
    # Version control: even `git status` writes there.
    ".git",
    ".hg",
    ".svn",
    # Environments: large, and managed by other tools.
    ".tox",
    ".nox",
    ".venv",
    "venv",
    "node_modules",
    ".eggs",
    "*.egg-info",
    # Editors and desktops, which write at any time.
    ".idea",
    ".vscode",
    ".DS_Store",
    # Session roots of this plugin and of pytest, which clean up by themselves.
    "tempres-????????",
    "pytest-of-*",
)

Modification = Literal["created", "changed", "deleted"]

#: What is compared: a kind, then a file's size and mtime, or the target of a link.
State = tuple[str, int | str, int]

#: Without mtime, which changes with the children: they are compared themselves.
_DIRECTORY: Final = ("directory", 0, 0)


_is_excluded_name = re.compile("|".join(map(translate, EXCLUDED))).match


class Difference(NamedTuple):
    """A path that differs from the snapshot, with everything below it."""

    path: str
    modification: Modification
    before: State | None
    #: How many files a deleted directory contained; 1 for anything else.
    items: int = 1


class Scope:
    """The paths that are compared, and those that are left out or ignored.

    :param exclude: Absolute paths of directories and files to leave out.
    :param ignored: Returns whether the ini file says to ignore an absolute path and everything
        in it.
    """

    def __init__(self, exclude: Iterable[str], ignored: Callable[[str], bool]) -> None:
        self.ignores = ignored
        self._paths: set[str] = set()
        self._prefixes: tuple[str, ...] = ()
        for path in exclude:
            self.exclude(path)

    def exclude(self, path: str) -> None:
        """Leave out *path* and everything in it."""
        self._paths.add(path)
        self._prefixes += (System.join(path, ""),)

    def excludes(self, path: str, name: str) -> bool:
        """Whether *path* is left out because of itself or its *name*, not of its parents."""
        return _is_excluded_name(name) is not None or path in self._paths

    def excludes_below(self, top: str, below: str) -> bool:
        """Whether any part of the path *below*, relative to *top*, is left out."""
        path = System.join(top, below)
        if path in self._paths or path.startswith(self._prefixes):
            return True
        return any(map(_is_excluded_name, below.split(os.sep)))

    def ignores_all_in(self, directory: str) -> bool:
        """Whether everything in *directory* is ignored; False with an empty directory in it."""
        pending = [directory]
        while pending:
            try:
                with System.scandir(pending.pop()) as entries:
                    children = list(entries)
            except OSError:
                return False
            if not children:
                return False
            for child in children:
                if self.excludes(child.path, child.name) or self.ignores(child.path):
                    continue
                if not child.is_dir(follow_symlinks=False):
                    return False
                pending.append(child.path)
        return True


class Tree:
    """A snapshot of directories.

    Links are not followed. Nothing is reported about paths that could not be read. A file counts
    as changed when its size or its mtime differs: contents are not compared, so rewriting a file
    with the same contents counts too, and a change that restores size and mtime does not.
    """

    def __init__(self, directories: Iterable[str], scope: Scope) -> None:
        self._scope = scope
        self._listings: dict[str, dict[str, State]] = {}
        self._tops: dict[str, State] = {}
        for directory in sorted(directories, key=len):
            if directory not in self._listings:
                top = _state_or(directory, None)
                if top is not None:
                    self._tops[directory] = top
                    self._walk(directory)

    def recorded(self, path: str) -> State | None:
        """Return the state of *path* in the snapshot, or None if it is not in it."""
        parent, name = System.split(path)
        return self._listings.get(parent, {}).get(name)

    def differences(self) -> Iterator[Difference]:
        """Walk again, and yield the topmost paths that differ."""
        for difference in self._all_differences():
            path, modification, before, _ = difference
            if self._scope.ignores(path):
                continue
            if modification == "deleted" and before == _DIRECTORY:
                files = list(self._files(path))
                if not files or not all(map(self._scope.ignores, files)):
                    yield difference._replace(items=len(files))
            elif modification != "created" or not self._scope.ignores_all_in(path):
                yield difference

    def _walk(self, top: str) -> None:
        pending = [top]
        while pending:
            directory = pending.pop()
            listing = None if directory in self._listings else self._list(directory)
            if listing is None:
                continue
            self._listings[directory] = listing
            for name, found in listing.items():
                path = System.join(directory, name)
                if found == _DIRECTORY and not self._scope.ignores(path):
                    pending.append(path)

    def _list(self, directory: str) -> dict[str, State] | None:
        """Return the contents of *directory*, or None if they could not be read completely."""
        listing = {}
        try:
            with System.scandir(directory) as entries:
                for entry in entries:
                    if not self._scope.excludes(entry.path, entry.name):
                        found = _state_of(entry)
                        if found is not None:
                            listing[entry.name] = found
        except OSError:
            return None
        return listing

    def _all_differences(self) -> Iterator[Difference]:
        pending = []
        for top, before in self._tops.items():
            now = _state_or(top, before)
            if now == before:
                pending.append(top)
            else:
                yield Difference(top, "deleted" if now is None else "changed", before)
        while pending:
            directory = pending.pop()
            known = self._listings.get(directory)
            listing = None if known is None else self._list(directory)
            if known is None or listing is None:
                continue
            yield from self._differences_in(directory, known, listing)
            same = (name for name in listing if listing[name] == known.get(name) == _DIRECTORY)
            pending += (System.join(directory, name) for name in same)

    def _differences_in(
        self, directory: str, known: dict[str, State], listing: dict[str, State]
    ) -> Iterator[Difference]:
        for name in {**known, **listing}:
            path, before, now = System.join(directory, name), known.get(name), listing.get(name)
            if before is None:
                yield Difference(path, "created", None)
            elif now is None:
                # A path that was excluded after the snapshot is not listed now.
                if not self._scope.excludes(path, name):
                    yield Difference(path, "deleted", before)
            elif now != before:
                yield Difference(path, "changed", before)

    def _files(self, directory: str) -> Iterator[str]:
        """Yield the files in *directory* according to the snapshot."""
        pending = [directory]
        while pending:
            parent = pending.pop()
            for name, found in self._listings.get(parent, {}).items():
                path = System.join(parent, name)
                if found == _DIRECTORY:
                    pending.append(path)
                else:
                    yield path


class Children:
    """The names that appear in and disappear from one directory between scans."""

    def __init__(self, path: str) -> None:
        self._scan = Scan(path)
        self._names: set[str] | None = None
        self.changes()

    def changes(self) -> tuple[set[str], set[str]]:
        """Return the names that have appeared, and those that have disappeared.

        It takes one `stat`, and a listing if its result has changed. After a skipped listing it
        is unknown when a name appeared, and nothing is returned.
        """
        before, self._names = self._names, None
        try:
            if not self._scan.changed():
                self._names = before
            elif self._scan.is_within_budget():
                self._names = set(self._scan.names())
            else:
                self._scan.invalidate()
        except OSError:
            self._scan.invalidate()
        if before is None or self._names is None:
            return set(), set()
        return self._names - before, before - self._names


def state(path: str) -> State | None:
    """Return the state of *path*, or None if it does not exist.

    :raises OSError: When it cannot be determined.
    """
    try:
        return _described(path, System.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _state_or(path: str, unknown: State | None) -> State | None:
    try:
        return state(path)
    except OSError:
        return unknown


def _state_of(entry: os.DirEntry[str]) -> State | None:
    # The listing knows what is a directory, which saves a stat.
    if entry.is_dir(follow_symlinks=False):
        return _DIRECTORY
    try:
        return _described(entry.path, entry.stat(follow_symlinks=False))
    except FileNotFoundError:
        return None


def _described(path: str, status: os.stat_result) -> State:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        return "file", status.st_size, status.st_mtime_ns
    if kind == stat.S_IFDIR:
        return _DIRECTORY
    # No mtime: a link that was recreated with the same target is unchanged, and data that passes
    # through a fifo changes its mtime.
    return ("symlink", System.readlink(path), 0) if kind == stat.S_IFLNK else ("special", kind, 0)
