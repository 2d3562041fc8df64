from __future__ import annotations

import os
import sys

import pytest

from pytest_tempres.primitives._windows import honours_mode
from pytest_tempres.primitives._windows import make_private_directory
from pytest_tempres.primitives._windows import private_mkdir


@pytest.mark.parametrize(
    "version,fixed",
    [
        ((3, 10, 14), False),
        ((3, 10, 15), True),
        ((3, 11, 9), False),
        ((3, 11, 10), True),
        ((3, 12, 3), False),
        ((3, 12, 4), True),
        ((3, 13, 0), True),
        ((3, 14, 1), True),
    ],
)
def test_versions_that_honour_the_mode(version, fixed):
    """CVE-2024-4030: the mode 0700 has an effect on Windows from these releases on."""
    assert honours_mode("nt", version) is fixed
    assert honours_mode("posix", version)


class FakeWindows:
    """A fake of the Windows API that records its calls."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.calls: list[tuple[str, object]] = []

    def access_list(self, text):
        """Return a fake list."""
        self.calls.append(("access list", text))
        return "list"

    def create(self, path, access_list):
        """Raise the error, if there is one."""
        self.calls.append((path, access_list))
        if self.error:
            raise self.error

    def free(self, access_list):
        """Record the call."""
        self.calls.append(("free", access_list))


class TestMakePrivateDirectory:
    @pytest.mark.parametrize("path", ["x", b"x"])
    def test_only_the_owner_has_access(self, path):
        """The system, administrators and the owner have all rights; nothing is inherited."""
        windows = FakeWindows()
        make_private_directory(path, 0o700, windows)
        described = windows.calls[0][1]
        assert described.startswith("D:P(")
        rights = described.removeprefix("D:P").strip("()").split(")(")
        assert {right.split(";")[-1] for right in rights} == {"SY", "BA", "OW"}
        assert windows.calls[1:] == [("x", "list"), ("free", "list")]

    def test_failure(self):
        """The error has the path, and the access list is freed."""
        windows = FakeWindows(FileExistsError(17, "exists"))
        with pytest.raises(FileExistsError) as caught:
            make_private_directory("x", 0o700, windows)
        assert caught.value.filename == "x"
        assert windows.calls[-1] == ("free", "list")


def test_without_a_replacement():
    """Where the system honours modes, os.mkdir is used."""
    assert sys.platform == "win32" or private_mkdir() is os.mkdir
