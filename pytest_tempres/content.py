"""The content of a new directory: the argument `files`, checked and written."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
import os
import stat
from typing import Any
from typing import Final
from typing import NamedTuple

from pytest_tempres.primitives._system import System

__all__ = ["Executable", "plan", "write"]

#: A mapping that contains itself has no end; no path on any platform has so many parts.
_MAX_PARTS: Final = 200


@dataclass(frozen=True)
class Executable:
    """The content of a file that can be executed: the mode of the file is 0755.

    :param content: (str or bytes) Text is written in UTF-8.
    :raises TypeError: The content has another type.
    """

    content: str | bytes

    def __post_init__(self) -> None:
        """Refuse another type where the object is created, which is the line to correct."""
        if not isinstance(self.content, (str, bytes)):
            raise TypeError(f"Executable({self.content!r}): the content must be str or bytes")


class Planned(NamedTuple):
    """A file or directory to create."""

    #: The key in `files`, for errors.
    key: str
    #: None for a directory.
    content: bytes | None
    is_executable: bool = False


def plan(files: Mapping[str, Any]) -> dict[tuple[str, ...], Planned]:
    """Return what to create, by the parts of its relative path; parents come first.

    :param files: A str, bytes, `Executable` or mapping for each name.
    :raises TypeError: A name or a value has a wrong type.
    :raises ValueError: A name is not below the directory, or is given twice, or a text cannot be
        written in UTF-8.
    """
    planned: dict[tuple[str, ...], Planned] = {}
    for key, parts, value in _flatten(files, "files", ()):
        for length in range(1, len(parts)):
            _add(planned, parts[:length], Planned(key, None))
        _add(planned, parts, _planned(key, value))
    return planned


def _flatten(
    files: Mapping[str, Any], label: str, above: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Yield the key of each value, as an error names it, the parts of its path, and the value."""
    for name, value in files.items():
        key = f"{label}[{name!r}]"
        parts = (*above, *_parts(key, name))
        if len(parts) > _MAX_PARTS:
            raise ValueError(f"files has more than {_MAX_PARTS} levels; does it contain itself?")
        yield key, parts, value
        if isinstance(value, Mapping):
            yield from _flatten(value, key, parts)


def _parts(key: str, name: object) -> list[str]:
    """Return the parts of a relative path."""
    if not isinstance(name, str):
        raise TypeError(f"{key}: the name must be str")
    if not name:
        raise ValueError(f"{key}: the name must not be empty")
    if "\0" in name:
        raise ValueError(f"{key}: the name must not contain {chr(0)!r}")
    path = name.replace(os.sep, "/")
    # On Windows, a path with a drive (c:name) is not below the directory either.
    if path.startswith("/") or os.path.splitdrive(name)[0]:
        raise ValueError(f"{key}: the name must be relative to the directory")
    parts = path.split("/")
    for part in ("..", ".", ""):
        if part in parts:
            raise ValueError(f"{key}: no part of the name may be {part!r}")
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise ValueError(f"{key}: not a name for a file: {error}") from None
    return parts


def _planned(key: str, value: object) -> Planned:
    if isinstance(value, Mapping):
        return Planned(key, None)
    content = value.content if isinstance(value, Executable) else value
    if isinstance(content, str):
        try:
            content = content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{key}: not a text in UTF-8: {error}") from None
    if not isinstance(content, bytes):
        raise TypeError(f"{key}: {value!r} must be str, bytes, Executable or a mapping")
    return Planned(key, content, isinstance(value, Executable))


def _add(planned: dict[tuple[str, ...], Planned], parts: tuple[str, ...], added: Planned) -> None:
    before = planned.setdefault(parts, added)
    if before is added or (before.content is None and added.content is None):
        return
    if before.content is None or added.content is None:
        path = "/".join(parts)
        raise ValueError(f"{added.key}: {path!r} is a file and a directory (see {before.key})")
    raise ValueError(f"{added.key} is the same file as {before.key}")


def write(files: Mapping[str, Any], directory: str) -> None:
    """Create the files and directories of *files* in *directory*, which may contain a copy.

    :raises ValueError: As for `plan`; or the copy has a directory in the place of a file, or
        something else in the place of a directory.
    :raises OSError: A file or directory cannot be created.
    """
    for parts, each in plan(files).items():
        path = System.join(directory, *parts)
        if each.content is None:
            _make_directory(path, each.key)
        else:
            _write_file(path, each)


def _make_directory(path: str, key: str) -> None:
    try:
        System.mkdir(path)
    except FileExistsError:
        # A link that was copied may lead out of the directory.
        if not stat.S_ISDIR(System.lstat(path).st_mode):
            raise ValueError(f"{key}: {path!r} was copied, and is no directory") from None


def _write_file(path: str, planned: Planned) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(System.lstat(path).st_mode):
            raise ValueError(f"{planned.key}: {path!r} was copied, and is a directory")
        # To write to the target of a link that was copied could change a file elsewhere.
        System.unlink(path)
    with System.open_file(path, "xb") as file:
        file.write(planned.content)
    if planned.is_executable:
        System.chmod(path, 0o755)
