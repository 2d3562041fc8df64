"""The markers: their declaration, and the validation and merging of their arguments."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
import os
from typing import Any
from typing import Final

import pytest

__all__ = ["arguments", "check", "ignored_patterns", "problems", "register"]

_PATH: Final = (str, os.PathLike)
_NONE: Final = type(None)

_OPEN_ARGUMENTS: Final[dict[str, tuple[type, ...]]] = {
    "mode": (str,),
    "buffering": (int,),
    "encoding": (str, _NONE),
    "newline": (str, _NONE),
    "suffix": (str, _NONE),
    "prefix": (str, _NONE),
    "dir": (*_PATH, _NONE),
    "errors": (str, _NONE),
    "content": (str, bytes, _NONE),
}

#: The arguments of each marker, with their types.
_ARGUMENTS: Final[dict[str, dict[str, tuple[type, ...]]]] = {
    "tempdir": {
        "prefix": (str, _NONE),
        "suffix": (str, _NONE),
        "dir": (*_PATH, _NONE),
        "keep": (bool, _NONE),
        "copy": (*_PATH, _NONE),
        "files": (Mapping, _NONE),
        "chdir": (bool,),
    },
    "tempfile": {**_OPEN_ARGUMENTS, "delete": (bool,), "delete_on_close": (bool,)},
    "spooled": {**_OPEN_ARGUMENTS, "max_size": (int,)},
    "tempres_ignore": {"reason": (str,)},
}

_HELP: Final = (
    (
        "tempdir(*, prefix=None, suffix=None, dir=None, keep=None, copy=None, files=None, "
        "chdir=False): options of temp_dir. keep: keep it (or not) whatever the outcome; copy: a "
        "file or directory to copy into it, relative to the test file; files: the contents of "
        "files to create in it, by name; chdir: make it the working directory"
    ),
    (
        "tempfile(*, content=None, mode='w+b', ...): options of temp_file and named_temp_file: "
        "the arguments of NamedTemporaryFile, and the initial content."
    ),
    (
        "spooled(*, content=None, max_size=0, mode='w+b', ...): options of spooled_file: "
        "the arguments of SpooledTemporaryFile, and the initial content."
    ),
    (
        "tempres_ignore(*patterns, reason=''): glob patterns of what the test may leave in the "
        "temp directory."
    ),
)


def register(config: pytest.Config) -> None:
    """Declare the markers, for ``--markers`` and ``--strict-markers``."""
    for line in _HELP:
        config.addinivalue_line("markers", line)


def arguments(item: pytest.Item, name: str) -> dict[str, Any]:
    """Return the merged arguments of all markers *name* of *item*; the closest marker wins.

    A wrong argument fails the test during setup.
    """
    merged: dict[str, Any] = {}
    if name not in item.keywords:
        return merged
    for mark in item.iter_markers(name):
        for problem in _problems_of_mark(mark):
            pytest.fail(problem, pytrace=False)
        for argument, value in mark.kwargs.items():
            merged.setdefault(argument, value)
    for problem in _missing_source(item, name, merged):
        pytest.fail(problem, pytrace=False)
    return merged


def ignored_patterns(item: pytest.Item) -> list[str]:
    """Return the glob patterns of all `tempres_ignore` markers of *item*."""
    return [pattern for mark in item.iter_markers("tempres_ignore") for pattern in mark.args]


def problems(node: pytest.Item | pytest.Collector) -> Iterator[str]:
    """Yield the errors in the markers that *node* itself has."""
    for mark in node.own_markers:
        if mark.name in _ARGUMENTS:
            missing = _missing_source(node, mark.name, mark.kwargs)
            for problem in (*_problems_of_mark(mark), *missing):
                yield f"{node.nodeid}: {problem}"


def check(name: str, values: Mapping[str, Any]) -> None:
    """Check the arguments of a call that accepts the arguments of the marker *name*.

    :raises TypeError: For an unknown argument or a value of the wrong type.
    :raises ValueError: For a value that cannot be part of a file name, or a mode of `open`, and
        for `files` that cannot be created in the directory.
    """
    for argument, value in values.items():
        error = _argument_error(name, argument, value)
        if error is not None:
            raise error


def _problems_of_mark(mark: pytest.Mark) -> Iterator[str]:
    if mark.name == "tempres_ignore":
        if not mark.args:
            yield "marker tempres_ignore: give at least one glob pattern"
        for pattern in mark.args:
            if not isinstance(pattern, str):
                yield f"marker tempres_ignore: pattern {pattern!r} must be a str"
    elif mark.args:
        yield f"marker {mark.name}: pass {mark.args[0]!r} by keyword ({_names(mark.name)})"
    for argument, value in mark.kwargs.items():
        error = _argument_error(mark.name, argument, value)
        if error is not None:
            yield f"marker {error}"


def _missing_source(
    node: pytest.Item | pytest.Collector, name: str, given: Mapping[str, Any]
) -> Iterator[str]:
    source = given.get("copy")
    # The marker of a package applies to files in several directories.
    if name != "tempdir" or not isinstance(source, _PATH) or node.path.is_dir():
        return
    if not (node.path.parent / source).exists():
        found = f"there is no such file or directory in {node.path.parent}"
        yield f"marker tempdir: copy={os.fspath(source)!r}: {found}"


def _argument_error(name: str, argument: str, value: object) -> Exception | None:
    known = _ARGUMENTS[name]
    if argument not in known:
        import difflib  # noqa: PLC0415 -- needed for errors only

        near = difflib.get_close_matches(argument, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"it takes {_names(name)}"
        return TypeError(f"{name}: unknown argument {argument!r}; {hint}")
    if not isinstance(value, known[argument]):
        allowed = " or ".join("None" if t is _NONE else t.__name__ for t in known[argument])
        return TypeError(f"{name}: {argument}={value!r} must be {allowed}")
    if argument in ("prefix", "suffix") and isinstance(value, str):
        bad = [c for c in (os.sep, os.altsep, "/", "\0") if c and c in value]
        if bad:
            return ValueError(
                f"{name}: {argument}={value!r} must not contain {bad[0]!r}; "
                "use dir= for another directory"
            )
    if argument == "files" and isinstance(value, Mapping):
        return _error_in_files(name, value)
    if argument == "mode" and not _is_mode(str(value)):
        return ValueError(f"{name}: mode={value!r} is not a mode of open(), such as 'w+b' or 'w'")
    return None


def _error_in_files(name: str, files: Mapping[str, Any]) -> Exception | None:
    from pytest_tempres import content  # noqa: PLC0415 -- rarely used

    try:
        content.plan(files)
    except (TypeError, ValueError) as error:
        return type(error)(f"{name}: {error}")
    return None


def _is_mode(text: str) -> bool:
    letters = set(text)
    return (
        len(letters) == len(text)
        and letters <= set("rwxabt+")
        and len(letters & set("rwxa")) == 1
        and not letters >= {"b", "t"}
    )


def _names(name: str) -> str:
    return ", ".join(_ARGUMENTS[name])
