"""The only reader of the command line and the ini file: from text to checked settings."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
import os
from typing import Any
from typing import Final
from typing import NamedTuple
from typing import cast

import pytest

from pytest_tempres.workspace.retention import POLICIES

__all__ = ["ReportTarget", "Settings", "add_options", "read"]

_LEAK_MODES: Final = ("off", "report", "fail")
_REPORT_TYPES: Final = ("term", "json")
_ROOT_MODES: Final = ("0700", "0711", "0755", "1777")


class ReportTarget(NamedTuple):
    """A report to write: its type, and where to."""

    type: str
    destination: str | None


class Settings(NamedTuple):
    """What the user asked for, checked."""

    keep: str
    keep_sessions: int
    #: The directory in which the session root is to stand; None is the system's.
    root: str | None
    root_mode: int
    leaks: str
    reports: tuple[ReportTarget, ...]
    ignore: tuple[str, ...]
    redirect: bool

    @property
    def prints(self) -> bool:
        """Whether the terminal's report is wanted."""
        return ReportTarget("term", "none") not in self.reports


def add_options(parser: pytest.Parser) -> None:
    """Declare every option, on the command line and for the ini file."""
    group = parser.getgroup("tempres", "temporary resources")
    group.addoption(
        "--tempres-keep",
        metavar="POLICY",
        help="keep the temporary directories of tests: none, failed or all (default: failed)",
    )
    group.addoption(
        "--tempres-keep-sessions",
        metavar="N",
        help="how many sessions that kept something stay on disk (default: 3)",
    )
    group.addoption(
        "--tempres-root",
        metavar="DIR",
        help="existing directory for the session's own directory (default: system temp dir)",
    )
    group.addoption(
        "--tempres-leaks",
        metavar="MODE",
        help="off, report, or fail: exit status 1 when something is left (default: report)",
    )
    group.addoption(
        "--tempres-report",
        metavar="TYPE[:DEST]",
        action="append",
        help="report to write besides the terminal's: json:PATH; term:none silences the "
        "terminal's (repeatable)",
    )
    _add_ini(parser)


def _add_ini(parser: pytest.Parser) -> None:
    # Native TOML configuration insists on real types, which this pytest may not have.
    number: Any = "int" if pytest.version_tuple >= (8, 4) else "string"
    for name, kind, default, text in (
        ("tempres_keep", "string", None, "like --tempres-keep"),
        ("tempres_keep_sessions", number, 3, "like --tempres-keep-sessions"),
        ("tempres_root", "string", None, "like --tempres-root"),
        ("tempres_root_mode", "string", None, f"permissions of the root: {_list(_ROOT_MODES)}"),
        ("tempres_leaks", "string", None, "like --tempres-leaks"),
        ("tempres_report", "args", [], "like --tempres-report, separated by spaces"),
        ("tempres_ignore", "linelist", [], "glob patterns of what may be left in the temp dir"),
        ("tempres_redirect", "bool", True, "false: leave the temp location where it is"),
    ):
        parser.addini(name, text, type=cast("Any", kind), default=default)


def read(config: pytest.Config, namespace: argparse.Namespace, *, joined: bool) -> Settings:
    """Return the settings of this session.

    :param namespace: The command line, parsed as far as it is known so early.
    :param joined: Whether this is a worker: its controller has checked what lies
        on disk, and another host may not have it.
    :raises pytest.UsageError: Naming the option, the value and what is allowed.
    """

    def given(name: str, default: str | None = None) -> Any:
        values = (getattr(namespace, name, None), _ini(config, name), default)
        return next((value for value in values if value is not None), None)

    def base(name: str) -> str:
        """Return what a path is relative to: as everywhere in pytest, to where it was written."""
        if getattr(namespace, name, None) is not None or config.inipath is None:
            return str(config.invocation_params.dir)
        return str(config.inipath.parent)

    reports = [
        _target(text, base("tempres_report"), joined=joined) for text in given("tempres_report")
    ]
    return Settings(
        keep=_choice("keep", given("tempres_keep", "failed"), POLICIES),
        keep_sessions=_count("keep-sessions", given("tempres_keep_sessions")),
        root=_directory(given("tempres_root"), base("tempres_root"), joined=joined),
        root_mode=_mode(_ini(config, "tempres_root_mode")),
        leaks=_choice("leaks", given("tempres_leaks", "report"), _LEAK_MODES),
        reports=tuple(reports),
        ignore=tuple(_ini(config, "tempres_ignore")),
        redirect=_ini(config, "tempres_redirect"),
    )


def _ini(config: pytest.Config, name: str) -> Any:
    try:
        return config.getini(name)
    except (TypeError, ValueError, pytest.UsageError) as error:
        # Newer versions of pytest raise the last one, but do not name the option.
        raise pytest.UsageError(f"{name} in the configuration file: {error}") from error


def _choice(name: str, value: str, allowed: Iterable[str]) -> str:
    if value in allowed:
        return value
    raise _refused(name, value, f"choose {_list(allowed)}", value, allowed)


def _refused(
    name: str, value: object, advice: str, word: str = "", allowed: Iterable[str] = ()
) -> pytest.UsageError:
    import difflib  # noqa: PLC0415 -- needed for mistakes alone

    near = difflib.get_close_matches(word, list(allowed), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return pytest.UsageError(f"--tempres-{name}={value}: {advice}{hint}")


def _list(allowed: Iterable[str]) -> str:
    *first, last = allowed
    return f"{', '.join(first)} or {last}"


def _count(name: str, value: object) -> int:
    text = str(value)
    # Python itself refuses to read numbers of some thousand digits.
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    raise _refused(name, value, "give a whole number, 0 or more")


def _directory(value: str | None, base: str, *, joined: bool) -> str | None:
    if value is None:
        return None
    path = os.path.join(base, os.path.expanduser(value))
    if not value or not os.path.isdir(path):
        if joined:
            return None
        raise _refused("root", value, "there is no such directory; name one that exists")
    if not os.access(path, os.W_OK | os.X_OK):
        raise _refused("root", value, "the directory is not writable; name one that is")
    return path


def _mode(value: str | None) -> int:
    if not value:
        # Root's suites start servers as another user, who must get through.
        return 0o711 if getattr(os, "geteuid", lambda: -1)() == 0 else 0o700
    if value not in _ROOT_MODES:
        raise pytest.UsageError(f"tempres_root_mode={value}: choose {_list(_ROOT_MODES)}")
    return int(value, 8)


def _target(text: str, base: str, *, joined: bool) -> ReportTarget:
    kind, _, destination = text.partition(":")
    if kind not in _REPORT_TYPES:
        raise _refused("report", text, "choose term, term:none or json:PATH", kind, _REPORT_TYPES)
    if kind == "term":
        if destination not in ("", "none"):
            raise _refused("report", text, "the terminal's report takes no destination but none")
        return ReportTarget(kind, destination or None)
    if not destination:
        raise _refused("report", text, "name the file: json:PATH")
    path = os.path.join(base, os.path.expanduser(destination))
    folder = os.path.dirname(path)
    if not joined and not os.path.isdir(folder):
        raise _refused("report", text, f"there is no directory {folder}; make it first")
    if not joined and os.path.isdir(path):
        raise _refused("report", text, "this is a directory; name a file in it")
    return ReportTarget(kind, path)
