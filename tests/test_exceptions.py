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


def test_all_warnings_have_one_base_class():
    """One filter is enough to silence the plugin or to make its warnings errors."""
    assert issubclass(TempresWarning, UserWarning)
    for name in exceptions.__all__:
        if name.endswith("Warning"):
            assert issubclass(getattr(exceptions, name), TempresWarning)


def test_errors_are_subclasses_of_builtin_errors():
    """Code that expects the system's errors catches them."""
    assert issubclass(RemovalError, OSError)
    assert issubclass(WorkspaceCreationError, OSError)
    assert issubclass(NotOurDirectoryError, PermissionError)


def test_warnings_are_public():
    """Filters can import the categories from the package."""
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
def test_removal_error_names_the_paths_and_reasons(number, said):
    """The message has the first three paths, the exception has all."""
    remaining = [(f"/d/{n}", OSError(errno.EACCES, f"Denied {n}")) for n in range(number)]
    error = RemovalError("/d", remaining)
    assert error.strerror == f"could not remove {said}"
    assert error.errno == errno.EACCES
    assert error.filename == error.path == "/d"
    assert error.remaining == remaining


def test_removal_error_with_an_error_without_errno():
    """The text of the original error is in the message."""
    assert "/d/x: busy" in str(RemovalError("/d", [("/d/x", OSError("busy"))]))


def test_refused_removal_names_the_directory_and_the_reason():
    """The message says that nothing was removed."""
    error = NotOurDirectoryError(Path("/d"), "it has no breadcrumb")
    assert str(error) == "refusing to touch /d: it has no breadcrumb"
    assert error.path == "/d"


def test_session_root_error_names_the_option_that_helps():
    """The message also has the directory and the reason."""
    error = WorkspaceCreationError(Path("/d"), OSError(errno.ENOSPC, "No space left on device"))
    assert error.errno == errno.ENOSPC
    assert error.path == error.filename == "/d"
    assert "No space left on device; name a writable directory with --tempres-root" in str(error)
    assert "odd" in str(WorkspaceCreationError("/d", OSError("odd")))
