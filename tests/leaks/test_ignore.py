from __future__ import annotations

import fnmatch
import os
import re

from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres.leaks.verdict import BUILTIN_PATTERNS
from pytest_tempres.leaks.verdict import Ignore

ROOT = os.path.join(os.sep, "tmp", "tempres-abcdefgh", "main")
NAMES = st.text(st.characters(codec=None, exclude_characters="\0" + os.sep), min_size=1)


@given(NAMES)
@example("a\nb")
@example("\udcff")
def test_a_star_matches_every_name(name):
    """Names may have newlines and undecodable bytes in them."""
    assert Ignore(ROOT, ["*"]).matches(os.path.join(ROOT, name))


@given(NAMES)
def test_no_pattern_matches_nothing(name):
    """Without patterns nothing is ignored."""
    assert not Ignore(ROOT, []).matches(os.path.join(ROOT, name))


@given(st.from_regex(r"[A-Za-z0-9_.-]+", fullmatch=True))
def test_a_pattern_without_wildcards_matches_one_name(name):
    """It is relative to the temp directory."""
    ignore = Ignore(ROOT, [name])
    assert ignore.matches(os.path.join(ROOT, name))
    assert not ignore.matches(os.path.join(ROOT, f"{name}x"))
    assert not ignore.matches(os.path.join(os.sep, "elsewhere", name))


def test_a_path_outside_is_matched_in_full():
    """It is not relative to the temp directory."""
    ignore = Ignore(ROOT, ["/var/cache/*"])
    assert ignore.matches("/var/cache/a/b")
    assert not ignore.matches("/var/cached")


def test_matching_is_case_sensitive():
    """This is so on every platform."""
    assert not Ignore(ROOT, ["*.LOG"]).matches(os.path.join(ROOT, "a.log"))


def test_a_directory_with_the_root_as_name_prefix_is_outside():
    """`main.d` is not in `main`."""
    assert not Ignore(ROOT, ["x"]).matches(f"{ROOT}.d{os.sep}x")


@pytest.mark.parametrize("name", ["tempres-abcdefgh", "pytest-of-me", "pymp-x1"])
def test_the_builtin_patterns_match_what_tools_leave_on_purpose(name):
    """Users need not configure pytest and multiprocessing."""
    assert Ignore(ROOT, BUILTIN_PATTERNS).matches(os.path.join(ROOT, name))


@pytest.mark.parametrize("name", ["tempres-mine", "tempres-abcdefgh-x", "xpymp-1", "tmpabcdefgh"])
def test_the_builtin_patterns_match_nothing_else(name):
    """A similar name is reported."""
    assert not Ignore(ROOT, BUILTIN_PATTERNS).matches(os.path.join(ROOT, name))


def test_matching_works_with_replaced_library_functions(monkeypatch):
    """A test may leave `re.compile` replaced."""
    patterns = ["a*", "[b-d]?", "replaced"]
    with monkeypatch.context() as patch:
        for module, name in [
            *((os, "fspath"), (os.path, "join"), (os.path, "normcase")),
            *((fnmatch, "translate"), (fnmatch, "_compile_pattern"), (re, "compile")),
        ]:
            patch.setattr(module, name, None)
        matches = Ignore(ROOT, patterns).matches
        found = [matches(os.sep.join((ROOT, name))) for name in ("abc", "cc", "replaced", "x")]
    assert found == [True, True, True, False]
