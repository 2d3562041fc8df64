from __future__ import annotations

import pytest

from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports.places import place

INSTALLED = Frame("/project/.venv/lib/python3.13/site-packages/lib.py", 7, "f")
OUTSIDE = Frame("/usr/lib/x.py", 7, "f")
TEST = Owner("test", "a/t.py::test", None, "a/t.py:3")


@pytest.fixture
def found(a_leak, summarize):
    """Return the place of a leak, as file and line."""

    def found(*origin, owner=TEST, rootdir="/project", repository="/project", **more):
        session = summarize().session._replace(rootdir=rootdir)
        leak = a_leak(origin=origin, owner=owner, **more)
        return place(summarize(session=session, repository=repository), leak)

    return found


@pytest.mark.parametrize(
    "origin, expected",
    [
        ([Frame("src/x.py", 5, "f"), Frame("a/t.py", 4, "test")], ("src/x.py", 5)),
        ([INSTALLED, OUTSIDE, Frame("a/t.py", 4, "test")], ("a/t.py", 4)),
        ([Frame("<doctest t>", 1, "f")], ("a/t.py", 3)),
        ([Frame("../x.py", 5, "f")], ("a/t.py", 3)),
        ([Frame("a/../src/./x.py", 5, "f")], ("src/x.py", 5)),
        ([Frame(".//src/x.py", 5, "f")], ("src/x.py", 5)),
        ([Frame("/project/src/x.py", 0, "f")], ("src/x.py", 1)),
        ([Frame("/project-2/x.py", 5, "f")], ("a/t.py", 3)),
        ([], ("a/t.py", 3)),
    ],
)
def test_the_nearest_line_of_the_repository_is_found(found, origin, expected):
    """Not one of an installed package, even if that is in the directory of the repository."""
    assert found(*origin) == expected


@pytest.mark.parametrize(
    "owner, test, expected",
    [
        (Owner("test", "a/t.py::test"), None, ("a/t.py", 1)),
        (Owner("collection", "a/t.py"), None, ("a/t.py", 1)),
        (Owner("fixture", "f", "session", "/lib/plugin.py:3"), "a/t.py::test", ("a/t.py", 1)),
        (Owner("fixture", "f", "session", "no number"), None, None),
        (SESSION, None, None),
    ],
)
def test_without_a_line_the_owner_is_the_place(found, owner, test, expected):
    """As far as it is in the repository."""
    assert found(owner=owner, test=test) == expected


def test_a_path_is_relative_to_the_repository(found):
    """Rootdir may be below it, or the repository unknown."""
    assert found(rootdir="/project/a/b") == ("a/b/a/t.py", 3)
    assert found(Frame("../x.py", 5, "f"), rootdir="/project/a") == ("x.py", 5)
    assert found(repository=None) == ("a/t.py", 3)


def test_paths_of_windows_have_slashes(found):
    """Also in a report that another system reads."""
    frame = Frame("src\\x.py", 5, "f")
    assert found(frame, rootdir="C:\\p\\sub", repository="C:\\p") == ("sub/src/x.py", 5)
    frame = Frame("D:\\lib\\x.py", 5, "f")
    assert found(frame, owner=SESSION, rootdir="C:\\p", repository="C:\\p") is None
