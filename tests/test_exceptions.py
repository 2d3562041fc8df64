from __future__ import annotations

import errno
from pathlib import Path

import pytest

import pytest_tempres
from pytest_tempres import exceptions
from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.exceptions import RemovalError
from pytest_tempres.exceptions import TempresCleanupWarning
from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.exceptions import TempresWarning
from pytest_tempres.exceptions import WorkspaceCreationError


def test_all_warnings_have_one_base():
    """One filter is enough to silence the plugin, or to be strict with it."""
    assert issubclass(TempresWarning, UserWarning)
    for name in exceptions.__all__:
        if name.endswith("Warning"):
            assert issubclass(getattr(exceptions, name), TempresWarning)


def test_errors_are_builtin_errors_by_kind():
    """Code that expects the system's errors catches ours."""
    assert issubclass(RemovalError, OSError)
    assert issubclass(WorkspaceCreationError, OSError)
    assert issubclass(NotOurDirectoryError, PermissionError)


def test_warnings_are_public():
    """Who writes a filter finds the categories in the package itself."""
    assert pytest_tempres.TempresWarning is TempresWarning
    assert pytest_tempres.TempresLeakWarning is TempresLeakWarning
    assert pytest_tempres.TempresCleanupWarning is TempresCleanupWarning


@pytest.mark.parametrize(
    "number, said",
    [
        (1, "/d/0: Denied 0"),
        (3, "/d/0: Denied 0; /d/1: Denied 1; /d/2: Denied 2"),
        (5, "/d/0: Denied 0; /d/1: Denied 1; /d/2: Denied 2 (and 2 more)"),
    ],
)
def test_a_removal_error_says_what_is_left_and_why(number, said):
    """The first three paths stand in the message, all of them in the error."""
    remaining = [(f"/d/{n}", OSError(errno.EACCES, f"Denied {n}")) for n in range(number)]
    error = RemovalError("/d", remaining)
    assert error.strerror == f"could not remove {said}"
    assert error.errno == errno.EACCES
    assert error.filename == error.path == "/d"
    assert error.remaining == remaining


def test_a_removal_error_tells_of_errors_without_a_number():
    """An error that is only a text is told by its text."""
    assert "/d/x: busy" in str(RemovalError("/d", [("/d/x", OSError("busy"))]))


def test_a_refusal_names_the_directory_and_the_missing_proof():
    """Who reads it knows that nothing happened to the directory, and why."""
    error = NotOurDirectoryError(Path("/d"), "it has no breadcrumb")
    assert str(error) == "refusing to touch /d: it has no breadcrumb"
    assert error.path == "/d"


def test_a_session_that_cannot_be_made_names_the_remedy():
    """The message says where, why, and which option helps."""
    error = WorkspaceCreationError(Path("/d"), OSError(errno.ENOSPC, "No space left on device"))
    assert error.errno == errno.ENOSPC
    assert error.path == error.filename == "/d"
    assert "No space left on device; name a writable directory with --tempres-root" in str(error)
    assert "odd" in str(WorkspaceCreationError("/d", OSError("odd")))
