"""The checks of the temp directory after each session."""

from __future__ import annotations

from collections.abc import Iterable
import json
import os
from pathlib import Path
import re
import time
from typing import NamedTuple

from kill_foreign import Snapshot
from kill_foreign import snapshot

__all__ = ["KEEP_SESSIONS", "Ledger"]

KEEP_SESSIONS = 3
_NAME = re.compile(r"tempres-.{8}", re.DOTALL)
_OWN = {".tempres.json", ".lock"}
#: The files with the kept paths; a killed session has only the journal, or both.
_LISTS = {"index.json", ".kept.jsonl"}


class KeptBySession(NamedTuple):
    """What a session has kept, and its state when the session ended."""

    root: str
    paths: tuple[str, ...]
    content: Snapshot


class Ledger:
    """Tracks the roots of one project's sessions, using only the documented files in them.

    :param tmp: The temp directory.
    :param foreign: The names of what was there before and must not change.
    """

    def __init__(self, tmp: Path, foreign: Iterable[str]) -> None:
        self._tmp = str(tmp)
        self._names = set(foreign)
        self._foreign = self._snapshot_of_foreign()
        self._seen: set[str] = set()
        self._kept: list[KeptBySession] = []
        self.roots = 0
        self.reclaimed = 0
        self.unfinished: set[str] = set()
        self.kept_sessions = 0

    def check(self, output: str) -> None:
        """Check the state of the temp directory after a session that has printed *output*."""
        self._check_foreign()
        present = self._session_roots()
        self._record(present)
        self._check_kept()
        self._check_printed(output)
        self._backdate_unfinished(present)

    def forget(self, name: str) -> None:
        """Stop tracking the root of a session that has ended."""
        self._names.remove(name)
        top = os.path.join(self._tmp, name)
        for path in [path for path in self._foreign if path == top or path.startswith(f"{top}/")]:
            del self._foreign[path]

    def check_last(self) -> str:
        """Check that nothing remains but what the last sessions kept; return a description."""
        self._check_foreign()
        self._check_kept()
        last = self._kept[-KEEP_SESSIONS:]
        # A session that is killed just after mkdir leaves an empty directory, which stays.
        present = {root for root in self._session_roots() if os.listdir(root)}
        assert present == {each.root for each in last}, f"left over: {self._describe(present)}"
        for each in last:
            expected = _with_parents(each)
            found = set(snapshot(each.root))
            lists = {os.path.join(each.root, name) for name in _LISTS}
            assert found & lists, f"no file lists the kept paths in {each.root}"
            assert found - lists == expected, f"differs: {sorted(found - lists ^ expected)}"
        paths = sum(len(each.paths) for each in last)
        return f"{len(last)} sessions with {paths} kept paths, and {len(self._foreign)} foreign"

    def _session_roots(self) -> set[str]:
        names = set(os.listdir(self._tmp)) - self._names
        strange = sorted(name for name in names if not _NAME.fullmatch(name))
        assert not strange, f"not a session root: {strange}"
        return {os.path.join(self._tmp, name) for name in names}

    def _record(self, present: set[str]) -> None:
        new = sorted(present - self._seen)
        self.reclaimed += len(self._seen - present)
        self.roots += len(new)
        self._seen = present
        for root in new:
            paths = tuple(_kept_paths(root))
            if paths:
                self.kept_sessions += 1
                self._kept.append(KeptBySession(root, paths, snapshot(*paths)))

    def _snapshot_of_foreign(self) -> Snapshot:
        outside = os.path.join(os.path.dirname(self._tmp), "outside")
        return snapshot(outside, *(os.path.join(self._tmp, name) for name in sorted(self._names)))

    def _check_foreign(self) -> None:
        _compare("foreign files were touched", self._foreign, self._snapshot_of_foreign())

    def _check_kept(self) -> None:
        for each in self._kept[-KEEP_SESSIONS:]:
            _compare("kept files were touched", each.content, snapshot(*each.paths))

    def _check_printed(self, output: str) -> None:
        # The node id may precede the path, on the same line or on the one before.
        kept_line = rf"^kept: (?:.*(?:  |\n  ))?({re.escape(self._tmp)}/.*)$"
        printed = set(re.findall(kept_line, output, re.MULTILINE))
        kept = {path for each in self._kept for path in each.paths}
        assert printed <= kept, f"printed but not kept: {sorted(printed - kept)}\n{output}"

    def _backdate_unfinished(self, present: set[str]) -> None:
        """Make unfinished roots older than the minute for which a sweep does not remove them."""
        for root in present:
            if not os.path.lexists(os.path.join(root, ".tempres.json")):
                self.unfinished.add(root)
                os.utime(root, (time.time() - 120,) * 2)

    def _describe(self, roots: Iterable[str]) -> str:
        return "\n".join(path for root in sorted(roots) for path in snapshot(root))


def _compare(what: str, before: Snapshot, now: Snapshot) -> None:
    if before != now:
        paths = sorted(p for p in before.keys() | now.keys() if before.get(p) != now.get(p))
        changes = "\n".join(f"{path}: {before.get(path)} -> {now.get(path)}" for path in paths)
        raise AssertionError(f"{what}:\n{changes}")


def _kept_paths(root: str) -> Iterable[str]:
    """Yield the paths in the index of *root*, or the existing ones of those in its journal."""
    try:
        index = json.loads(Path(root, "index.json").read_text("utf-8"))
    except FileNotFoundError:
        yield from filter(os.path.lexists, sorted(_journal(root)))
        return
    paths = {path for paths in index["kept"].values() for path in paths}
    for path in sorted(paths):
        assert path.startswith(f"{root}/"), f"the index of {root} has {path}"
        assert os.path.lexists(path), f"the index has a path that does not exist: {path}"
        yield path


def _journal(root: str) -> set[str]:
    """Return the paths in the journal of *root*; its last line may be incomplete."""
    path = Path(root, ".kept.jsonl")
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {json.loads(line)["path"] for line in lines if line.endswith("}")}


def _with_parents(each: KeptBySession) -> set[str]:
    parents = {str(parent) for path in each.paths for parent in Path(path).parents}
    within = {path for path in parents if path.startswith(each.root)}
    return {*each.content, *within, *(os.path.join(each.root, name) for name in _OWN)}
