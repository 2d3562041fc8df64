from __future__ import annotations

import argparse
import os
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres import options
from pytest_tempres.options import ReportTarget
from pytest_tempres.options import Settings
from pytest_tempres.options import add_options
from pytest_tempres.options import read

#: The values of an empty ini file.
DEFAULTS = {
    "tempres_keep": None,
    "tempres_keep_sessions": 3,
    "tempres_artifacts": None,
    "tempres_artifacts_max_size": None,
    "tempres_root": None,
    "tempres_root_mode": None,
    "tempres_leaks": None,
    "tempres_detect": [],
    "tempres_watch": [],
    "tempres_baseline": None,
    "tempres_report": [],
    "tempres_ignore": [],
    "tempres_redirect": True,
}


@pytest.fixture
def settings(tmp_path):
    """Read settings from an ini file (a mapping) and a command line (keywords)."""

    def settings(ini=None, *, joined=False, **given) -> Settings:
        values = {**DEFAULTS, **(ini or {})}

        def getini(name):
            if isinstance(values[name], Exception):
                raise values[name]
            return values[name]

        config = SimpleNamespace(
            getini=getini,
            invocation_params=SimpleNamespace(dir=tmp_path),
            inipath=tmp_path / "project" / "tox.ini" if ini else None,
            rootpath=tmp_path / "project",
        )
        namespace = argparse.Namespace(**{f"tempres_{name}": v for name, v in given.items()})
        return read(config, namespace, joined=joined)

    return settings


class Parser:
    """Records what is declared."""

    def __init__(self) -> None:
        self.options: dict[str, dict[str, object]] = {}
        self.ini: dict[str, tuple[str, object]] = {}

    def getgroup(self, name, description):
        """Return a group, which is the parser itself."""
        return self

    def addoption(self, name, **attributes):
        """Declare an option."""
        self.options[name] = attributes

    def addini(self, name, text, *, type, default):  # noqa: A002 -- pytest's name for it
        """Declare an ini value."""
        assert text
        self.ini[name] = (type, default)


def test_every_ini_value_has_its_documented_type_and_default():
    """Names, types and defaults are those of the documentation."""
    parser = Parser()
    add_options(parser)
    number = "int" if pytest.version_tuple >= (8, 4) else "string"
    assert parser.ini == {
        "tempres_keep": ("string", None),
        "tempres_keep_sessions": (number, 3),
        "tempres_artifacts": ("string", None),
        "tempres_artifacts_max_size": ("string", None),
        "tempres_root": ("string", None),
        "tempres_root_mode": ("string", None),
        "tempres_leaks": ("string", None),
        "tempres_detect": ("args", []),
        "tempres_watch": ("linelist", []),
        "tempres_baseline": ("string", None),
        "tempres_report": ("args", []),
        "tempres_ignore": ("linelist", []),
        "tempres_redirect": ("bool", True),
    }


def test_every_option_has_help_and_most_have_an_ini_value():
    """What is set for one run can be set for all runs."""
    parser = Parser()
    add_options(parser)
    assert all(attributes["help"] for attributes in parser.options.values())
    names = {name.removeprefix("--").replace("-", "_") for name in parser.options}
    # The baseline is rewritten on request only.
    assert names - set(parser.ini) == {"tempres_update_baseline"}


def test_defaults(settings, tmp_path):
    """Without configuration: keep failed tests' directories, three sessions, a report."""
    given = settings()
    assert given == Settings(
        keep="failed",
        keep_sessions=3,
        artifacts=None,
        artifacts_max_size=10**9,
        root=None,
        root_mode=given.root_mode,
        leaks="report",
        detect=frozenset({"temp"}),
        watch=(str(tmp_path / "project"),),
        ignore=(),
        baseline=None,
        update_baseline=None,
        reports=(),
        redirect=True,
    )
    assert given.prints_report


def test_command_line_overrides_the_ini_file(settings):
    """Options of this run override those of the project."""
    ini = {"tempres_keep": "all", "tempres_keep_sessions": "5", "tempres_leaks": "off"}
    assert settings(ini).keep == "all"
    assert settings(ini).keep_sessions == 5
    given = settings(ini, keep="none", keep_sessions="0", leaks="fail")
    assert (given.keep, given.keep_sessions, given.leaks) == ("none", 0, "fail")


def test_options_of_the_ini_file_alone(settings):
    """Patterns and the temp location belong to a project, not to a run."""
    given = settings({"tempres_ignore": ["*.log", "x"], "tempres_redirect": False})
    assert given.ignore == ("*.log", "x")
    assert given.redirect is False


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("keep", "maybe", r"--tempres-keep=maybe: choose none, failed or all$"),
        ("keep", "fail", r"choose none, failed or all \(did you mean failed\?\)$"),
        ("keep", "Failed", r"did you mean failed"),
        ("leaks", "repotr", r"--tempres-leaks=repotr: choose off, .* or strict .*mean report"),
        ("keep_sessions", "-1", r"--tempres-keep-sessions=-1: give a whole number, 0 or more"),
        ("keep_sessions", "1.5", r"whole number"),
        ("keep_sessions", "\u0663", r"whole number"),
        ("keep_sessions", "", r"whole number"),
        ("keep_sessions", "9" * 5000, r"whole number"),
        (
            "artifacts",
            "",
            r"--tempres-artifacts=: name a directory; it is created when it is needed",
        ),
        ("artifacts", "a\0b", r"name a directory"),
        (
            "artifacts_max_size",
            "",
            r"--tempres-artifacts-max-size=: give a number of bytes, or one",
        ),
        ("artifacts_max_size", "-1", r"with a unit: k, M, G, T, Ki, Mi, Gi or Ti"),
        ("artifacts_max_size", "1E", r"unit"),
        ("artifacts_max_size", "1.G", r"unit"),
        ("artifacts_max_size", "1i", r"unit"),
        ("artifacts_max_size", "1e9", r"unit"),
        ("artifacts_max_size", "\u0663", r"unit"),
        ("artifacts_max_size", "9" * 5000, r"unit"),
        ("root", "missing", r"--tempres-root=missing: there is no such directory"),
        ("report", ["jsn:x"], r"--tempres-report=jsn:x: .* \(did you mean json\?\)"),
        ("report", ["xyz:x"], r"choose term, term:none, github, json:PATH, .* or html:PATH$"),
        ("report", [""], r"choose term"),
        ("report", ["json"], r"--tempres-report=json: name the file: json:PATH"),
        ("report", ["json:"], r"name the file"),
        ("report", ["term:file"], r"takes no destination other than none"),
        ("report", ["json:dir/"], r"this is a directory; name a file in it"),
        ("report", ["github:x"], r"github takes no destination"),
        ("report", ["json:r", "sarif:./r"], r"sarif:.*: another report is written to this file"),
        ("report", ["json:."], r"this is a directory; name a file in it"),
        ("detect", "fd", r"--tempres-detect=fd: choose temp, fds or watch \(did you mean fds\?\)"),
        ("detect", "temp,", r"choose temp, fds or watch"),
        ("baseline", "missing", r"no such file; --tempres-update-baseline=all creates it"),
        ("baseline", "", r"no such file"),
        ("update_baseline", "al", r"choose shrink or all \(did you mean all\?\)"),
        ("update_baseline", "all", r"no baseline to rewrite; name one with --tempres-baseline"),
    ],
)
def test_invalid_value_is_refused_in_one_message(settings, name, value, message):
    """The message names the option, the value, what is allowed and the nearest valid one."""
    with pytest.raises(pytest.UsageError, match=message):
        settings(**{name: value})


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("tempres_keep", "maybe", "maybe: choose none, failed or all"),
        ("tempres_report", ["jsn:x"], "did you mean json"),
        ("tempres_root_mode", "700", "tempres_root_mode=700: choose 0700, 0711, 0755 or 1777"),
        ("tempres_root_mode", "0777", "choose"),
        ("tempres_detect", ["temp", "all"], "all: choose temp, fds or watch"),
        ("tempres_watch", ["missing"], "tempres_watch: missing: there is no such directory"),
        (
            "tempres_keep_sessions",
            TypeError("expects an int"),
            "sessions in the .* file.*0 or more",
        ),
        (
            "tempres_redirect",
            ValueError("invalid truth value 'x'"),
            "redirect in.*; choose true",
        ),
    ],
)
def test_invalid_value_in_the_ini_file_is_refused(settings, name, value, message):
    """A value that pytest itself cannot read is a usage error as well."""
    with pytest.raises(pytest.UsageError, match=message):
        settings({name: value})


@pytest.mark.parametrize(
    "ini, given, names",
    [
        ([], None, {"temp"}),
        (["fds", "watch"], None, {"fds", "watch"}),
        (["temp,fds"], None, {"temp", "fds"}),
        (["fds"], "temp,watch", {"temp", "watch"}),
    ],
)
def test_detectors_are_a_list(settings, ini, given, names):
    """A list is separated by commas; in the file, also by spaces."""
    assert settings({"tempres_detect": ini}, detect=given).detect == names


def test_watched_directories_are_relative_to_the_ini_file(settings, tmp_path):
    """They do not depend on the directory where pytest is started."""
    (tmp_path / "project" / "src").mkdir(parents=True)
    given = settings({"tempres_watch": ["src", ".."]})
    assert given.watch == (str(tmp_path / "project" / "src"), str(tmp_path))


def test_missing_baseline_is_accepted_only_to_write_all_of_it(settings, tmp_path):
    """Other runs need a file that exists."""
    path = tmp_path / "known.txt"
    assert settings(baseline="known.txt", update_baseline="all").baseline == str(path)
    with pytest.raises(pytest.UsageError, match="no such file"):
        settings(baseline="known.txt", update_baseline="shrink")
    with pytest.raises(pytest.UsageError, match="there is no directory"):
        settings(baseline="missing/known.txt", update_baseline="all")
    path.touch()
    given = settings(baseline="known.txt", update_baseline="shrink")
    assert (given.baseline, given.update_baseline) == (str(path), "shrink")


@given(st.text())
def test_any_choice_is_valid_or_refused(value):
    """No text passes the check unnoticed, and each refusal can be printed."""
    allowed = ("none", "failed")
    if value in allowed:
        assert options._choice("keep", value, allowed) == value
        return
    with pytest.raises(pytest.UsageError) as caught:
        options._choice("keep", value, allowed)
    assert str(caught.value).startswith(f"--tempres-keep={value}: choose none or failed")


@given(st.integers(0, 10**8) | st.text(max_size=12))
def test_any_count_is_a_number_or_refused(value):
    """A count is what `int` reads, in plain digits."""
    try:
        number = options._count("keep-sessions", value)
    except pytest.UsageError:
        assert not isinstance(value, int)
    else:
        assert number == int(value) >= 0


def test_path_is_relative_to_where_it_is_written(settings, tmp_path, monkeypatch):
    """On the command line to the working directory, in the ini file to that file."""
    inside = tmp_path / "project" / "place"
    for path in (tmp_path / "place", inside):
        path.mkdir(parents=True)
    assert settings(root="place").root == str(tmp_path / "place")
    assert settings({"tempres_root": "place"}).root == str(inside)
    assert settings({"tempres_keep": "all"}, root="place").root == str(tmp_path / "place")
    (target,) = settings({"tempres_report": ["json:place/r.json"]}).reports
    assert target.destination == str(inside / "r.json")
    assert settings(root=str(tmp_path / "place")).root == str(tmp_path / "place")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert settings(root=os.path.join("~", "place")).root == os.path.join(str(tmp_path), "place")


def test_root_is_not_resolved(settings, tmp_path):
    """The length of socket paths below it depends on how it is written."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert settings(root="link").root == str(tmp_path / "link")


@pytest.mark.parametrize("value", ["file", "\0", "x" * 5000])
def test_root_must_be_a_directory(settings, tmp_path, value):
    """A file, and what cannot be a path, is refused before the first test."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(pytest.UsageError, match="no such directory"):
        settings(root=value)


def test_root_must_be_writable(settings, tmp_path, monkeypatch):
    """A directory in which nothing can be created is refused before the first test."""
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK | os.X_OK)
    with pytest.raises(pytest.UsageError, match="not writable"):
        settings(root=".")


@pytest.mark.parametrize(
    "value, size",
    [
        ("0", 0),
        ("12", 12),
        ("12b", 12),
        ("1k", 10**3),
        ("1.5M", 1_500_000),
        ("0.1 GB", 10**8),
        ("2t", 2 * 10**12),
        ("1Ki", 1024),
        ("1.5 MiB", 1_572_864),
        ("1gib", 2**30),
        ("1Ti", 2**40),
        ("0.0001k", 0),
    ],
)
def test_size_may_have_a_unit(settings, value, size):
    """k, M and G are powers of 1,000, as in the reports; Ki, Mi and Gi are powers of 1,024."""
    assert settings(artifacts_max_size=value).artifacts_max_size == size
    assert settings({"tempres_artifacts_max_size": value}).artifacts_max_size == size


def test_artifacts_directory_is_checked_at_start(settings, tmp_path, monkeypatch):
    """It must be possible to create it, but it is not created yet."""
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "there").mkdir()
    assert settings(artifacts="there").artifacts == str(tmp_path / "there")
    assert settings(artifacts="new/../new/er").artifacts == str(tmp_path / "new" / "er")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert settings(artifacts="~/x").artifacts == str(tmp_path / "home" / "x")
    for value, message in (
        ("file", "--tempres-artifacts=file: it is not a directory; name one that is"),
        ("dangling", "it is not a directory"),
        ("file/x/y", "file is not a directory"),
    ):
        with pytest.raises(pytest.UsageError, match=message):
            settings(artifacts=value)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK | os.X_OK)
    with pytest.raises(pytest.UsageError, match=f"directory {tmp_path} is not writable; name one"):
        settings(artifacts="new/er")
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "there"]


def test_worker_does_not_check_its_controllers_directories(settings, tmp_path):
    """A worker on another host may not have them."""
    (tmp_path / "file").touch()
    more = {"artifacts": "file", "report": ["json:missing/r.json"]}
    given = settings(root="missing", joined=True, **more)
    assert given.root is None
    assert given.artifacts == str(tmp_path / "file")
    assert [target.type for target in given.reports] == ["json"]


@pytest.mark.parametrize("uid, mode", [(0, 0o711), (1000, 0o700)])
def test_root_mode_for_root_lets_other_users_in(settings, monkeypatch, uid, mode):
    """A suite that runs as root can start servers as another user without configuration."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert settings().root_mode == mode


def test_root_mode_is_private_without_uids(settings, monkeypatch):
    """Without uids there is no user root."""
    monkeypatch.delattr(os, "geteuid", raising=False)
    assert settings().root_mode == 0o700


@pytest.mark.parametrize("text", ["0700", "0711", "0755", "1777"])
def test_root_modes_are_octal(settings, text):
    """The digits are those of chmod."""
    assert settings({"tempres_root_mode": text}).root_mode == int(text, 8)


def test_several_reports_can_be_requested(settings, tmp_path):
    """Each report has its type and its destination."""
    given = settings(report=["json:a.json", "term", f"json:{tmp_path}/b:c.json"])
    assert given.reports == (
        ReportTarget("json", str(tmp_path / "a.json")),
        ReportTarget("term", None),
        ReportTarget("json", f"{tmp_path}/b:c.json"),
    )
    assert given.prints_report


def test_terminal_report_can_be_turned_off(settings, tmp_path):
    """`term:none` removes the section at the end."""
    assert not settings(report=["term:none"]).prints_report
    (tmp_path / "project").mkdir()
    assert not settings({"tempres_report": ["json:x", "term:none"]}).prints_report


@pytest.mark.parametrize(
    "values, added",
    [([], True), (["term:none"], True), (["json:r.json"], True), (["term"], False)],
)
def test_github_actions_gets_annotations(settings, monkeypatch, values, added):
    """They are on without being named, unless `term` is the only report that is named."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert (ReportTarget("github", None) in settings(report=values).reports) is added


@pytest.mark.parametrize("name, value", [("GITHUB_ACTIONS", "false"), ("PYTEST_CURRENT_TEST", "t")])
def test_annotations_are_only_for_the_output_of_the_job(settings, monkeypatch, name, value):
    """A test that runs pytest gets none, and nor does another machine."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv(name, value)
    assert settings().reports == ()
    assert settings(report=["github"]).reports == (ReportTarget("github", None),)
