"""What is in a directory, with all that is below it, and what is different later?"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import os
import re
import stat
from typing import Final
from typing import Literal
from typing import NamedTuple

from pytest_tempres.leaks.temp.scan import Scan
from pytest_tempres.primitives._system import System

__all__ = ["EXCLUDED", "Children", "Difference", "Modification", "Scope", "State", "Tree", "state"]

# Captured because tests replace these functions.

#: What nobody means to look after, by the name of any directory on the way to it.
EXCLUDED: Final = (
    # Compiled code: Python writes it when a module is first imported, in whichever test that is.
    "__pycache__",
    "*.pyc",
    # Caches of pytest and of tools, which their tools find again and clean up themselves.
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
    ".benchmarks",
    ".testmondata*",
    ".ipynb_checkpoints",
    # Measurements: coverage writes while tests run, and its reports after them.
    ".coverage",
    ".coverage.*",
    "htmlcov",
    "coverage.json",
    "coverage.lcov",
    "coverage.xml",
    # Version control: a mere `git status` writes there.
    ".git",
    ".hg",
    ".svn",
    # Environments and what is installed in them: large, and made anew by their tools.
    ".tox",
    ".nox",
    ".venv",
    "venv",
    "node_modules",
    ".eggs",
    "*.egg-info",
    # Editors and desktops write when their user does.
    ".idea",
    ".vscode",
    ".DS_Store",
    # Sessions of this plugin and of pytest, which look after themselves.
    "tempres-????????",
    "pytest-of-*",
)

Modification = Literal["created", "changed", "deleted"]

#: What has to stay the same: a kind, then a file's size and time, or where a link leads.
State = tuple[str, int | str, int]

#: Its own time moves with its children, which are looked at anyway.
_DIRECTORY: Final = ("directory", 0, 0)


def _expression(patterns: Iterable[str]) -> re.Pattern[str]:
    escaped = (re.escape(pattern) for pattern in patterns)
    globs = (text.replace(r"\*", ".*").replace(r"\?", ".") for text in escaped)
    return re.compile("|".join(globs), re.DOTALL)


_excluded_name = _expression(EXCLUDED).fullmatch


class Difference(NamedTuple):
    """A path that is not what it was. What is below it is part of it."""

    path: str
    deed: Modification
    before: State | None
    #: How many files a deleted directory had; 1 for anything else.
    items: int = 1


class Scope:
    """Which paths are looked at?

    :param exclude: Directories and files that are others' business, absolute.
    :param ignored: Tells whether the ini file lets an absolute path stay, with
        all that is in it.
    """

    def __init__(self, exclude: Iterable[str], ignored: Callable[[str], bool]) -> None:
        self._paths: set[str] = set()
        self._prefixes: tuple[str, ...] = ()
        self.ignores = ignored
        for path in exclude:
            self.exclude(path)

    def exclude(self, path: str) -> None:
        """Leave out *path*, and all that is in it."""
        self._paths.add(path)
        self._prefixes += (System.join(path, ""),)

    def leaves_out(self, path: str, name: str) -> bool:
        """Whether *path*, in a directory that is looked at, is left out for its last *name*."""
        return _excluded_name(name) is not None or path in self._paths

    def leaves_out_below(self, top: str, below: str) -> bool:
        """Whether a path, given by its way from *top*, is left out for any part of it."""
        path = System.join(top, below)
        if path in self._paths or path.startswith(self._prefixes):
            return True
        return any(_excluded_name(name) for name in below.split(os.sep))

    def ignores_all_in(self, directory: str) -> bool:
        """Whether *directory* is there for nothing but what may stay.

        One with nothing in it is there for itself.
        """
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
                if self.leaves_out(child.path, child.name) or self.ignores(child.path):
                    continue
                if not child.is_dir(follow_symlinks=False):
                    return False
                pending.append(child.path)
        return True


class Tree:
    """What was in some directories when this was made.

    Links are not followed. What could not be read is unknown, and nothing is
    said about it. A file is taken for changed when its size or its time is
    another: what it held is not known, so one that was written anew with what
    it held before counts too. A copy that brings the time back does not.

    :param directories: Absolute paths.
    :param scope: What of it is looked at.
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
        """Return what stood at *path*, if anything is known of it."""
        parent, name = System.split(path)
        return self._listings.get(parent, {}).get(name)

    def differences(self) -> Iterator[Difference]:
        """Walk again, and yield what is not as it was, topmost paths alone."""
        for difference in self._all_differences():
            path, deed = difference.path, difference.deed
            if self._scope.ignores(path):
                continue
            if deed == "created" and self._scope.ignores_all_in(path):
                continue
            if difference.before == _DIRECTORY and deed == "deleted":
                files = list(self._files(path))
                if files and all(map(self._scope.ignores, files)):
                    continue
                yield difference._replace(items=len(files))
            else:
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
        """Return what is in *directory*, or None where that cannot be told for all of it."""
        listing = {}
        try:
            with System.scandir(directory) as entries:
                for entry in entries:
                    if not self._scope.leaves_out(entry.path, entry.name):
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
            yield from self._gone(directory, known, listing)
            for name, now in listing.items():
                path = System.join(directory, name)
                if name not in known:
                    yield Difference(path, "created", None)
                elif known[name] != now:
                    yield Difference(path, "changed", known[name])
                elif now == _DIRECTORY:
                    pending.append(path)

    def _gone(
        self, directory: str, known: dict[str, State], listing: dict[str, State]
    ) -> Iterator[Difference]:
        for name in known.keys() - listing.keys():
            path = System.join(directory, name)
            # It may have been left out since, and then it is not listed.
            if not self._scope.leaves_out(path, name):
                yield Difference(path, "deleted", known[name])

    def _files(self, directory: str) -> Iterator[str]:
        """Yield the files that were in *directory*, as far as they are known."""
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
    """What comes and goes in one directory from look to look, what lies deeper left aside.

    :param path: The directory.
    """

    def __init__(self, path: str) -> None:
        self._scan = Scan(path)
        self._names: set[str] | None = None
        self.changes()

    def changes(self) -> tuple[set[str], set[str]]:
        """Return the names that have come, and those that have gone.

        It takes one `stat`, and a listing when that moved. Where listings had to be spaced
        out nobody knows when a name came, and nothing is returned.
        """
        before, self._names = self._names, None
        try:
            if not self._scan.changed():
                self._names = before
            elif self._scan.affordable():
                self._names = set(self._scan.names())
            else:
                self._scan.put_off()
        except OSError:
            self._scan.put_off()
        if before is None or self._names is None:
            return set(), set()
        return self._names - before, before - self._names


def state(path: str) -> State | None:
    """Return what has to stay the same at *path*, or None when nothing is there.

    :raises OSError: When nobody can tell.
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
    # The listing tells what is a directory, and saves the call.
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
    # A link made anew leads where it led. What passes through a fifo moves its time.
    return ("symlink", System.readlink(path), 0) if kind == stat.S_IFLNK else ("special", kind, 0)
