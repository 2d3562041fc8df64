"""The lines of source code that annotate a leak, as paths relative to the repository."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from typing import NamedTuple

from pytest_tempres.leaks.model import Leak
from pytest_tempres.reports.summary import Summary

__all__ = ["Place", "absolute", "in_repository", "place"]

#: Directories in a repository that contain other people's code.
_INSTALLED: Final = ("/site-packages/", "/dist-packages/")


class Place(NamedTuple):
    """A line of a file in the repository."""

    #: Relative to the repository, with ``/``.
    file: str
    line: int


def place(summary: Summary, leak: Leak) -> Place | None:
    """Return the nearest line of the repository that created *leak*, else that of its owner.

    :returns: None if neither is in the repository.
    """
    return next(_candidates(summary, leak), None)


def _candidates(summary: Summary, leak: Leak) -> Iterator[Place]:
    file, _, number = (leak.owner.location or "").rpartition(":")
    frames = [(frame.file, frame.line) for frame in leak.entry.origin]
    if number.isdecimal() and len(number) < 10:
        frames.append((file, int(number)))
    # A collector, and a test that a plugin has made without a location.
    frames += [(each.partition("::")[0], 1) for each in _node_ids(leak)]
    for name, line in frames:
        found = in_repository(summary, name)
        if found is not None:
            yield Place(found, max(line, 1))


def _node_ids(leak: Leak) -> list[str]:
    ids = [leak.owner.id] if leak.owner.kind in ("test", "collection") else []
    return [*ids, leak.entry.test or ""]


def in_repository(summary: Summary, file: str) -> str | None:
    """Return *file* relative to the repository; None if it is not in it, or installed there.

    :param file: A path as reports show it: absolute, or relative to rootdir.
    """
    if not file or file.startswith("<"):
        return None
    path = absolute(summary, file)
    repository = _slashed(summary, summary.repository or summary.session.rootdir).rstrip("/") + "/"
    if not path.startswith(repository) or any(each in path for each in _INSTALLED):
        return None
    return path[len(repository) :].lstrip("/") or None


def absolute(summary: Summary, file: str) -> str:
    """Return *file* as an absolute path with ``/``, also for a report of another system."""
    path = _slashed(summary, file)
    if path.startswith("/") or (_is_windows(summary) and path[1:2] == ":"):
        return path
    return _normal(f"{_slashed(summary, summary.session.rootdir)}/{path}")


def _normal(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] not in ("", ".."):
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _slashed(summary: Summary, path: str) -> str:
    return path.replace("\\", "/") if _is_windows(summary) else path


def _is_windows(summary: Summary) -> bool:
    return not summary.session.rootdir.startswith("/")
