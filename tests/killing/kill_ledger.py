"""What must be in the temp directory after a session, and what must not."""

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
#: What names the evidence; a killed session has the journal alone, or both.
_NAMING = {"index.json", ".kept.jsonl"}


class Evidence(NamedTuple):
    """What a session of ours has kept, as it was when the session ended."""

    root: str
    paths: tuple[str, ...]
    content: Snapshot


class Ledger:
    """Follows the roots of one project's sessions, from outside and by the documented files alone.

    :param tmp: The temp directory.
    :param foreign: What was there before and has to stay as it is.
    """

    def __init__(self, tmp: Path, foreign: Iterable[str]) -> None:
        self._tmp = str(tmp)
        self._names = set(foreign)
        self._foreign = self._look_at_foreign()
        self._seen: set[str] = set()
        self._evidence: list[Evidence] = []
        self.roots = 0
        self.reclaimed = 0
        self.unfinished: set[str] = set()
        self.kept_sessions = 0

    def check(self, told: str) -> None:
        """Check the state of the temp directory after a session that has *told* this."""
        self._check_foreign()
        present = self._ours()
        self._take_note(present)
        self._check_evidence()
        self._check_told(told)
        self._let_unfinished_ones_age(present)

    def forget(self, name: str) -> None:
        """No longer expect the root of a session that has ended."""
        self._names.remove(name)
        top = os.path.join(self._tmp, name)
        for path in [path for path in self._foreign if path == top or path.startswith(f"{top}/")]:
            del self._foreign[path]

    def check_last(self) -> str:
        """Check that nothing is left but the last evidence; return what that is."""
        self._check_foreign()
        self._check_evidence()
        last = self._evidence[-KEEP_SESSIONS:]
        # Anybody may have made an empty directory: that of a session killed in between stays.
        present = {root for root in self._ours() if os.listdir(root)}
        assert present == {each.root for each in last}, f"left over: {self._describe(present)}"
        for each in last:
            wanted = _with_parents(each)
            there = set(snapshot(each.root))
            naming = {os.path.join(each.root, name) for name in _NAMING}
            assert there & naming, f"nothing names the evidence in {each.root}"
            assert there - naming == wanted, f"beside evidence: {sorted(there - naming ^ wanted)}"
        paths = sum(len(each.paths) for each in last)
        return f"{len(last)} sessions with {paths} kept paths, and {len(self._foreign)} foreign"

    def _ours(self) -> set[str]:
        names = set(os.listdir(self._tmp)) - self._names
        strange = sorted(name for name in names if not _NAME.fullmatch(name))
        assert not strange, f"not a session root: {strange}"
        return {os.path.join(self._tmp, name) for name in names}

    def _take_note(self, present: set[str]) -> None:
        new = sorted(present - self._seen)
        self.reclaimed += len(self._seen - present)
        self.roots += len(new)
        self._seen = present
        for root in new:
            paths = tuple(_kept(root))
            if paths:
                self.kept_sessions += 1
                self._evidence.append(Evidence(root, paths, snapshot(*paths)))

    def _look_at_foreign(self) -> Snapshot:
        outside = os.path.join(os.path.dirname(self._tmp), "outside")
        return snapshot(outside, *(os.path.join(self._tmp, name) for name in sorted(self._names)))

    def _check_foreign(self) -> None:
        _compare("what is foreign was touched", self._foreign, self._look_at_foreign())

    def _check_evidence(self) -> None:
        for each in self._evidence[-KEEP_SESSIONS:]:
            _compare("evidence was touched", each.content, snapshot(*each.paths))

    def _check_told(self, told: str) -> None:
        # A node id may come before the path.
        lines = (line for line in told.splitlines() if line.startswith("kept: "))
        said = {line[line.index(f"{self._tmp}/") :] for line in lines}
        known = {path for each in self._evidence for path in each.paths}
        assert said <= known, f"printed as kept, and not kept: {sorted(said - known)}\n{told}"

    def _let_unfinished_ones_age(self, present: set[str]) -> None:
        """Nobody is to wait for the minute for which an unfinished root is left alone."""
        for root in present:
            if not os.path.lexists(os.path.join(root, ".tempres.json")):
                self.unfinished.add(root)
                os.utime(root, (time.time() - 120,) * 2)

    def _describe(self, roots: Iterable[str]) -> str:
        return "\n".join(path for root in sorted(roots) for path in snapshot(root))


def _compare(what: str, before: Snapshot, now: Snapshot) -> None:
    if before != now:
        paths = sorted(p for p in before.keys() | now.keys() if before.get(p) != now.get(p))
        told = "\n".join(f"{path}: {before.get(path)} -> {now.get(path)}" for path in paths)
        raise AssertionError(f"{what}:\n{told}")


def _kept(root: str) -> Iterable[str]:
    """Yield what the index of *root* names, or what its journal names and what is there."""
    try:
        index = json.loads(Path(root, "index.json").read_text("utf-8"))
    except FileNotFoundError:
        yield from filter(os.path.lexists, sorted(_journal(root)))
        return
    paths = {path for paths in index["kept"].values() for path in paths}
    for path in sorted(paths):
        assert path.startswith(f"{root}/"), f"the index of {root} names {path}"
        assert os.path.lexists(path), f"the index names what is not there: {path}"
        yield path


def _journal(root: str) -> set[str]:
    """Return the paths that the journal of *root* names; its last line may be cut short."""
    path = Path(root, ".kept.jsonl")
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {json.loads(line)["path"] for line in lines if line.endswith("}")}


def _with_parents(each: Evidence) -> set[str]:
    parents = {str(parent) for path in each.paths for parent in Path(path).parents}
    within = {path for path in parents if path.startswith(each.root)}
    return {*each.content, *within, *(os.path.join(each.root, name) for name in _OWN)}
