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
def test_which_pythons_need_it(version, fixed):
    """CVE-2024-4030: the Pythons that ignore mode 0700 on Windows are known, release by release."""
    assert honours_mode("nt", version) is fixed
    assert honours_mode("posix", version)


class Windows:
    """Stands in for Windows, and writes down what it was asked for."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.asked: list[tuple[str, object]] = []

    def access_list(self, text):
        """Return what ``create`` and ``free`` have to get."""
        self.asked.append(("access list", text))
        return "list"

    def create(self, path, access_list):
        """Fail, if that was asked for."""
        self.asked.append((path, access_list))
        if self.error:
            raise self.error

    def free(self, access_list):
        """Take it back."""
        self.asked.append(("free", access_list))


class TestMakePrivateDirectory:
    @pytest.mark.parametrize("path", ["x", b"x"])
    def test_owner_alone(self, path):
        """Nothing is inherited; the system, administrators and the owner have all rights."""
        windows = Windows()
        make_private_directory(path, 0o700, windows)
        described = windows.asked[0][1]
        assert described.startswith("D:P(")
        rights = described.removeprefix("D:P").strip("()").split(")(")
        assert {right.split(";")[-1] for right in rights} == {"SY", "BA", "OW"}
        assert windows.asked[1:] == [("x", "list"), ("free", "list")]

    def test_failure(self):
        """An error names the path, and the access list is freed."""
        windows = Windows(FileExistsError(17, "exists"))
        with pytest.raises(FileExistsError) as caught:
            make_private_directory("x", 0o700, windows)
        assert caught.value.filename == "x"
        assert windows.asked[-1] == ("free", "list")


def test_elsewhere():
    """Where the system honours modes, os.mkdir does it."""
    assert sys.platform == "win32" or private_mkdir() is os.mkdir
