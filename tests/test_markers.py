from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres import Executable
from pytest_tempres import markers
from pytest_tempres.markers import arguments
from pytest_tempres.markers import check
from pytest_tempres.markers import ignored_patterns
from pytest_tempres.markers import problems
from pytest_tempres.markers import register

TEMPDIR = ("prefix", "suffix", "dir", "keep", "copy", "files", "chdir")
MARKERS = ("tempdir", "tempfile", "spooled", "tempres_ignore")


def mark(name, *args, **kwargs):
    """Return a substitute for `pytest.mark.<name>(...)` on a test."""
    return SimpleNamespace(name=name, args=args, kwargs=kwargs)


def item(*marks):
    """Return a substitute for a test with *marks*, the closest one first."""
    return SimpleNamespace(
        nodeid="t.py::test",
        own_markers=list(marks),
        keywords={mark.name for mark in marks},
        iter_markers=lambda name: (mark for mark in marks if mark.name == name),
    )


def test_every_marker_is_registered_with_a_line_of_help():
    """`--strict-markers` passes, and `--markers` reads well."""
    lines = []
    register(SimpleNamespace(addinivalue_line=lambda name, line: lines.append((name, line))))
    assert [line.partition("(")[0] for _, line in lines] == list(MARKERS)
    assert {name for name, _ in lines} == {"markers"}
    assert all("): " in line for _, line in lines)


@pytest.mark.parametrize(
    "name, given",
    [
        ("tempdir", {}),
        (
            "tempdir",
            {
                "prefix": "a",
                "suffix": None,
                "dir": Path(),
                "keep": False,
                "copy": "x",
                "chdir": True,
            },
        ),
        ("tempdir", {"files": {"a/b.txt": "", "a": {"c": b"", "run": Executable("")}}}),
        ("tempdir", {"files": None}),
        ("tempfile", {"mode": "w", "encoding": "utf-8", "newline": "", "errors": None}),
        ("tempfile", {"content": b"x", "delete": False, "delete_on_close": True, "buffering": 0}),
        ("spooled", {"content": "x", "mode": "w+", "max_size": 10}),
        ("tempres_ignore", {"reason": "known"}),
    ],
)
def test_valid_arguments_pass(name, given):
    """What the documentation names is accepted."""
    check(name, given)


@pytest.mark.parametrize(
    "name, given, message",
    [
        ("tempdir", {"prefx": "a"}, "tempdir: unknown argument 'prefx'; did you mean 'prefix'?"),
        ("tempdir", {"Keep": 1}, "tempdir: unknown argument 'Keep'; did you mean 'keep'?"),
        ("spooled", {"zzz": 1}, "spooled: unknown argument 'zzz'; it takes mode, buffering"),
        ("spooled", {"delete": True}, "unknown argument 'delete'"),
        ("tempdir", {"prefix": b"a"}, "tempdir: prefix=b'a' must be str or None"),
        ("tempdir", {"keep": "yes"}, "tempdir: keep='yes' must be bool or None"),
        ("tempfile", {"mode": "q"}, "tempfile: mode='q' is not a mode of open"),
        ("tempfile", {"mode": "wbt"}, "tempfile: mode='wbt' is not a mode of open"),
        ("spooled", {"mode": "b+"}, "spooled: mode='b+' is not a mode of open"),
        ("tempdir", {"copy": 3}, "tempdir: copy=3 must be str or PathLike or None"),
        ("tempdir", {"files": ["a"]}, "tempdir: files=['a'] must be Mapping or None"),
        ("tempdir", {"files": {"a": 3}}, "tempdir: files['a']: 3 must be str, bytes, Executable"),
        ("tempdir", {"files": {"../a": ""}}, "tempdir: files['../a']: no part of the name may be"),
        ("tempdir", {"file": {}}, "tempdir: unknown argument 'file'; did you mean 'files'?"),
        ("tempdir", {"chdir": None}, "tempdir: chdir=None must be bool"),
        ("tempfile", {"content": 3}, "tempfile: content=3 must be str or bytes or None"),
        ("spooled", {"max_size": "1M"}, "spooled: max_size='1M' must be int"),
        ("tempres_ignore", {"reason": None}, "tempres_ignore: reason=None must be str"),
    ],
)
def test_invalid_argument_is_named_with_valid_ones(name, given, message):
    """The error names the marker, the argument, and the nearest valid name or the types."""
    with pytest.raises((TypeError, ValueError)) as caught:
        check(name, given)
    assert message in str(caught.value)


@pytest.mark.parametrize("argument", ["prefix", "suffix"])
@pytest.mark.parametrize("name", ["tempdir", "tempfile", "spooled"])
@pytest.mark.parametrize("value", ["a/b", "/", "a\0b", f"a{os.sep}b"])
def test_prefix_with_a_separator_is_refused(name, argument, value):
    """The error for a separator or NUL names the argument that chooses a directory."""
    with pytest.raises(ValueError, match="use dir= for another directory") as caught:
        check(name, {argument: value})
    assert f"{name}: {argument}={value!r}" in str(caught.value)


@given(
    st.sampled_from(MARKERS),
    st.dictionaries(
        st.text(max_size=8) | st.sampled_from(["prefix", "suffix", "dir", "keep", "mode", "files"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.binary()
        | st.dictionaries(st.text() | st.integers(), st.none() | st.text()),
        max_size=3,
    ),
)
def test_any_argument_is_accepted_or_refused_with_a_message(name, given):
    """No argument, however odd, makes the check itself fail."""
    problem = None
    try:
        check(name, given)
    except (TypeError, ValueError) as error:
        problem = str(error)
    if problem is None:
        assert set(given) <= set(markers._ARGUMENTS[name])
    else:
        assert problem.startswith(f"{name}: ")


@given(st.text().filter(lambda text: not {"/", "\0", os.sep} & set(text)))
def test_any_other_prefix_is_accepted(prefix):
    """Names may be in any script."""
    check("tempdir", {"prefix": prefix, "suffix": prefix})


def test_closest_marker_wins_for_each_argument():
    """A function's marker adds to that of its class and module and overrides it."""
    test = item(
        mark("tempdir", prefix="function"),
        mark("tempfile", prefix="other"),
        mark("tempdir", prefix="class", chdir=True),
        mark("tempdir", chdir=False, keep=None, suffix="module"),
    )
    assert arguments(test, "tempdir") == {
        "prefix": "function",
        "chdir": True,
        "keep": None,
        "suffix": "module",
    }
    assert arguments(test, "spooled") == {}


def test_invalid_marker_is_an_error_of_its_test():
    """A marker that was added late is refused when the fixture is requested."""
    with pytest.raises(pytest.fail.Exception, match="marker tempdir: unknown argument 'prefx'"):
        arguments(item(mark("tempdir", prefx="a")), "tempdir")


def test_patterns_of_all_markers_are_combined():
    """The patterns of function, class and module all apply."""
    test = item(
        mark("tempres_ignore", "a", "b", reason="known"),
        mark("tempdir", prefix="x"),
        mark("tempres_ignore", "c"),
    )
    assert ignored_patterns(test) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "wrong, said",
    [
        (
            mark("tempdir", "x"),
            ["marker tempdir: pass 'x' by keyword (" + ", ".join(TEMPDIR) + ")"],
        ),
        (
            mark("tempdir", prefx=1, keep=1),
            [
                "marker tempdir: unknown argument 'prefx'; did you mean 'prefix'?",
                "marker tempdir: keep=1 must be bool or None",
            ],
        ),
        (
            mark("tempdir", files={"a": {"/b": ""}}),
            ["marker tempdir: files['a']['/b']: the name must be relative to the directory"],
        ),
        (mark("tempres_ignore"), ["marker tempres_ignore: give at least one glob pattern"]),
        (
            mark("tempres_ignore", "x", 3, Path("y")),
            [
                "marker tempres_ignore: pattern 3 must be a str",
                f"marker tempres_ignore: pattern {Path('y')!r} must be a str",
            ],
        ),
        (mark("tempres_ignore", "*.log", reason="known"), []),
        (mark("parametrize", "x", [1]), []),
        (mark("skip", "why"), []),
    ],
)
def test_all_errors_of_a_node_are_reported_at_once(wrong, said):
    """They are found before the first test; markers of other plugins are not checked."""
    assert list(problems(item(wrong))) == [f"t.py::test: {problem}" for problem in said]
