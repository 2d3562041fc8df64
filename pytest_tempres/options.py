"""The command line options and ini settings: declaration, parsing and validation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import re
from typing import Any
from typing import Final
from typing import NamedTuple
from typing import cast

import pytest

from pytest_tempres.reports import targets
from pytest_tempres.reports.targets import ReportTarget
from pytest_tempres.workspace.retention import POLICIES

__all__ = ["ReportTarget", "Settings", "add_options", "read"]

#: What is allowed for the ini values that pytest itself converts.
_INI_ADVICE: Final = {
    "tempres_keep_sessions": "give a whole number, 0 or more",
    "tempres_redirect": "choose true or false",
}
_LEAK_MODES: Final = ("off", "report", "fail", "strict")
_DETECTORS: Final = ("temp", "fds", "watch")
# Fifteen digits are enough, and `int` refuses text of several thousand digits.
_SIZE: Final = re.compile(
    r"(\d{1,15})(?:\.(\d{1,15}))? ?(?:([kmgt])(i?))?b?", re.ASCII | re.IGNORECASE
)
_ROOT_MODES: Final = ("0700", "0711", "0755", "1777")
#: The options with one value, and their help.
_OPTIONS: Final = {
    "keep=POLICY": "directories of tests to keep: none, failed or all (default: failed)",
    "keep-sessions=N": "number of sessions to keep directories of (default: 3)",
    "artifacts=DIR": "directory to copy the kept directories to, with a manifest.json",
    "artifacts-max-size=SIZE": "maximum size of the copies, such as 500M or 1.5Gi (default: 1G)",
    "root=DIR": "existing directory for the session's own directory (default: system temp dir)",
    "leaks=MODE": "off, report, fail: exit status 1 if there are leaks, or strict: also an error "
    "in the test that leaked (default: report)",
    "detect=LIST": "detectors, separated by commas: temp, fds (file descriptors), watch "
    "(the directories in tempres_watch) (default: temp)",
    "baseline=FILE": "file of known leaks, which never fail the run",
    "update-baseline=HOW": "rewrite the baseline: shrink removes known leaks that are gone, all "
    "writes the leaks of this run",
}


class Settings(NamedTuple):
    """The validated settings of a session."""

    keep: str
    keep_sessions: int
    #: The directory that kept paths are copied to, and the maximum number of bytes to copy.
    artifacts: str | None
    artifacts_max_size: int
    #: The parent directory of the session root; None for the system's temp directory.
    root: str | None
    root_mode: int
    leaks: str
    detect: frozenset[str]
    #: The directories that the detector `watch` compares.
    watch: tuple[str, ...]
    ignore: tuple[str, ...]
    #: The file of known leaks, and how to rewrite it, or None.
    baseline: str | None
    update_baseline: str | None
    reports: tuple[ReportTarget, ...]
    redirect: bool

    @property
    def prints_report(self) -> bool:
        """Whether to print the terminal report."""
        return ReportTarget("term", "none") not in self.reports


def add_options(parser: pytest.Parser) -> None:
    """Declare every option, on the command line and for the ini file."""
    group = parser.getgroup("tempres", "temporary resources")
    for option, text in _OPTIONS.items():
        name, _, metavar = option.partition("=")
        group.addoption(f"--tempres-{name}", metavar=metavar, help=text)
    group.addoption(
        "--tempres-report",
        metavar="TYPE[:DEST]",
        action="append",
        help=f"report to write besides the terminal report: {', '.join(targets.USAGE[2:])}; "
        "term:none leaves only its last line (repeatable)",
    )
    _add_ini(parser)


def _add_ini(parser: pytest.Parser) -> None:
    # Native TOML configuration requires the type "int", which pytest has from 8.4 on.
    number: Any = "int" if pytest.version_tuple >= (8, 4) else "string"
    for name, kind, default, text in (
        ("tempres_keep", "string", None, "like --tempres-keep"),
        ("tempres_keep_sessions", number, 3, "like --tempres-keep-sessions"),
        ("tempres_artifacts", "string", None, "like --tempres-artifacts"),
        ("tempres_artifacts_max_size", "string", None, "like --tempres-artifacts-max-size"),
        ("tempres_root", "string", None, "like --tempres-root"),
        (
            "tempres_root_mode",
            "string",
            None,
            f"permissions of the root: {_alternatives(_ROOT_MODES)}",
        ),
        ("tempres_leaks", "string", None, "like --tempres-leaks"),
        ("tempres_detect", "args", [], "like --tempres-detect, separated by spaces"),
        ("tempres_watch", "linelist", [], "directories to watch (default: rootdir)"),
        ("tempres_baseline", "string", None, "like --tempres-baseline"),
        ("tempres_report", "args", [], "like --tempres-report, separated by spaces"),
        ("tempres_ignore", "linelist", [], "glob patterns of what may be left behind"),
        ("tempres_redirect", "bool", True, "false: do not move the temp location"),
    ):
        parser.addini(name, text, type=cast("Any", kind), default=default)


def read(config: pytest.Config, namespace: argparse.Namespace, *, joined: bool) -> Settings:
    """Return the settings of this session.

    :param namespace: The command line, parsed with the options that are declared so far.
    :param joined: Whether this is a worker: its controller has checked the paths, and they may not
        exist on another host.
    :raises pytest.UsageError: If an option is wrong; with its name, value and the allowed values.
    """

    def option(name: str, default: str | None = None) -> Any:
        values = (getattr(namespace, name, None), _ini(config, name), default)
        return next((value for value in values if value is not None), None)

    def base(name: str) -> str:
        """Return the directory that a path is relative to, as in pytest."""
        if getattr(namespace, name, None) is not None or config.inipath is None:
            return str(config.invocation_params.dir)
        return str(config.inipath.parent)

    update = getattr(namespace, "tempres_update_baseline", None)
    if update is not None:
        update = _choice("update-baseline", update, ("shrink", "all"))
    report_base, baseline_base = base("tempres_report"), base("tempres_baseline")
    return Settings(
        keep=_choice("keep", option("tempres_keep", "failed"), POLICIES),
        keep_sessions=_count("keep-sessions", option("tempres_keep_sessions")),
        artifacts=_artifacts(option("tempres_artifacts"), base("tempres_artifacts"), joined=joined),
        artifacts_max_size=_size("artifacts-max-size", option("tempres_artifacts_max_size", "1G")),
        root=_directory(option("tempres_root"), base("tempres_root"), joined=joined),
        root_mode=_mode(_ini(config, "tempres_root_mode")),
        leaks=_choice("leaks", option("tempres_leaks", "report"), _LEAK_MODES),
        detect=_detectors(option("tempres_detect")),
        watch=_watched(config, _ini(config, "tempres_watch"), joined=joined),
        ignore=tuple(_ini(config, "tempres_ignore")),
        baseline=_baseline(option("tempres_baseline"), baseline_base, update, joined=joined),
        update_baseline=update,
        reports=_reports(option("tempres_report"), report_base, joined=joined),
        redirect=_ini(config, "tempres_redirect"),
    )


def _ini(config: pytest.Config, name: str) -> Any:
    try:
        return config.getini(name)
    except (TypeError, ValueError, pytest.UsageError) as error:
        # Newer versions of pytest raise UsageError, but do not name the option or what is allowed.
        advice = _INI_ADVICE.get(name)
        text = f"{error}; {advice}" if advice else str(error)
        raise pytest.UsageError(f"{name} in the configuration file: {text}") from error


def _choice(name: str, value: str, allowed: Sequence[str]) -> str:
    if value in allowed:
        return value
    raise _usage_error(name, value, f"choose {_alternatives(allowed)}", value, allowed)


def _usage_error(
    name: str, value: object, advice: str, word: str = "", allowed: Sequence[str] = ()
) -> pytest.UsageError:
    import difflib  # noqa: PLC0415 -- needed for errors only

    near = difflib.get_close_matches(word, allowed, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return pytest.UsageError(f"--tempres-{name}={value}: {advice}{hint}")


def _alternatives(allowed: Sequence[str]) -> str:
    *first, last = allowed
    return f"{', '.join(first)} or {last}"


def _count(name: str, value: object) -> int:
    text = str(value)
    # `int` refuses text of several thousand digits.
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    raise _usage_error(name, value, "give a whole number, 0 or more")


def _absolute(value: str, base: str) -> str:
    return os.path.join(base, os.path.expanduser(value))


def _directory(value: str | None, base: str, *, joined: bool) -> str | None:
    if value is None:
        return None
    path = _absolute(value, base)
    if not value or not os.path.isdir(path):
        if joined:
            return None
        raise _usage_error("root", value, "there is no such directory; name one that exists")
    _check_writable("root", value, path, "the directory")
    return path


def _check_writable(name: str, value: str, directory: str, what: str) -> None:
    if not os.access(directory, os.W_OK | os.X_OK):
        raise _usage_error(name, value, f"{what} is not writable; name one that is")


def _artifacts(value: str | None, base: str, *, joined: bool) -> str | None:
    if value is None:
        return None
    if not value or "\0" in value:
        raise _usage_error("artifacts", value, "name a directory; it is created when it is needed")
    path = os.path.normpath(_absolute(value, base))
    if joined:
        return path
    nearest = path
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest):
        what = "it" if nearest == path else nearest
        raise _usage_error("artifacts", value, f"{what} is not a directory; name one that is")
    _check_writable("artifacts", value, nearest, f"the directory {nearest}")
    return path


def _size(name: str, value: object) -> int:
    found = _SIZE.fullmatch(str(value))
    if found is None:
        advice = "give a number of bytes, or one with a unit: k, M, G, T, Ki, Mi, Gi or Ti"
        raise _usage_error(name, value, advice)
    whole, fraction, unit, binary = found.groups("")
    factor: int = (1024 if binary else 1000) ** ("kmgt".index(unit.lower()) + 1 if unit else 0)
    amount: int = int(whole + fraction) * factor // 10 ** len(fraction)
    return amount


def _detectors(value: str | list[str]) -> frozenset[str]:
    words = [value] if isinstance(value, str) else value
    names = [name for word in words for name in word.split(",")] or ["temp"]
    return frozenset(_choice("detect", name, _DETECTORS) for name in names)


def _watched(config: pytest.Config, names: list[str], *, joined: bool) -> tuple[str, ...]:
    if not names:
        return (str(config.rootpath),)
    base = str(config.inipath.parent) if config.inipath is not None else str(config.rootpath)
    paths = [os.path.normpath(_absolute(name, base)) for name in names]
    for name, path in zip(names, paths, strict=True):
        if not joined and not os.path.isdir(path):
            text = f"tempres_watch: {name}: there is no such directory; name ones that exist"
            raise pytest.UsageError(text)
    return tuple(paths)


def _baseline(value: str | None, base: str, update: str | None, *, joined: bool) -> str | None:
    if value is None:
        if update is not None:
            advice = "there is no baseline to rewrite; name one with --tempres-baseline"
            raise _usage_error("update-baseline", update, advice)
        return None
    path = _absolute(value, base)
    if joined or os.path.isfile(path):
        return path
    if update != "all" or os.path.isdir(path) or not value:
        advice = "there is no such file; --tempres-update-baseline=all creates it"
        raise _usage_error("baseline", value, advice)
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise _usage_error("baseline", value, f"there is no directory {parent}; create it first")
    return path


def _mode(value: str | None) -> int:
    if not value:
        # Tests run by root may start servers as other users, which need search permission.
        return 0o711 if getattr(os, "geteuid", lambda: -1)() == 0 else 0o700
    if value not in _ROOT_MODES:
        raise pytest.UsageError(f"tempres_root_mode={value}: choose {_alternatives(_ROOT_MODES)}")
    return int(value, 8)


def _reports(values: list[str], base: str, *, joined: bool) -> tuple[ReportTarget, ...]:
    reports = [_target(text, base, joined=joined) for text in values]
    if joined:
        return tuple(reports)
    double = targets.clash(reports)
    if double is not None:
        value = f"{double.type}:{double.destination}"
        advice = "another report is written to this file; name another file"
        raise _usage_error("report", value, advice)
    # The output of a pytest that a test runs is not that of the job.
    is_job = os.environ.get("GITHUB_ACTIONS") == "true" and "PYTEST_CURRENT_TEST" not in os.environ
    if is_job and targets.GITHUB not in reports and set(reports) != {targets.TERM}:
        reports.append(targets.GITHUB)
    return tuple(reports)


def _target(text: str, base: str, *, joined: bool) -> ReportTarget:
    kind = text.partition(":")[0]
    if kind not in targets.TYPES:
        advice = f"choose {_alternatives(targets.USAGE)}"
        raise _usage_error("report", text, advice, kind, targets.TYPES)
    try:
        target = targets.parse(text, base)
        if not joined:
            targets.check(target)
    except ValueError as error:
        raise _usage_error("report", text, str(error)) from error
    return target
