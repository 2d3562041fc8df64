from __future__ import annotations

import os
import sys

import pytest

from pytest_tempres.primitives._system import System
from pytest_tempres.reports.output import Appended
from pytest_tempres.reports.output import append
from pytest_tempres.reports.output import replace
from pytest_tempres.reports.output import size

NOT_ON_WINDOWS = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")


@pytest.fixture
def failing(monkeypatch):
    """Make the replacement of files fail with an error."""

    def failing(error):
        def fails(*_):
            raise error

        monkeypatch.setattr(System, "replace", staticmethod(fails))

    return failing


def test_a_missing_directory_is_created(tmp_path):
    """With those above it."""
    replace(str(tmp_path / "a" / "b" / "file"), "text é\n")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == "text é\n".encode()


def test_a_new_file_has_the_mode_of_the_umask(tmp_path):
    """Other users of CI may read it, unlike what this plugin writes to temp directories."""
    replace(str(tmp_path / "file"), "text")
    (tmp_path / "other").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file(tmp_path, failing, error):
    """And nothing else."""
    (tmp_path / "file").write_text("old", encoding="utf-8")
    failing(error)
    with pytest.raises(type(error)):
        replace(str(tmp_path / "file"), "new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "old"


def test_a_file_that_cannot_be_replaced_is_written(tmp_path, failing):
    """For example one that is mounted into a container."""
    (tmp_path / "file").write_text("old and long", encoding="utf-8")
    failing(PermissionError(16, "busy"))
    replace(str(tmp_path / "file"), "new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "new"


@NOT_ON_WINDOWS
def test_the_owner_of_a_file_is_kept(tmp_path):
    """Root may run the tests in a user's checkout."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files to other users")
    (tmp_path / "file").touch(0o640)
    os.chown(tmp_path / "file", 1234, 2345)
    replace(str(tmp_path / "file"), "text")
    status = (tmp_path / "file").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 2345, 0o640)


@NOT_ON_WINDOWS
def test_a_link_to_a_missing_file_creates_the_file(tmp_path):
    """The link remains."""
    (tmp_path / "link").symlink_to("file")
    replace(str(tmp_path / "link"), "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text(encoding="utf-8") == "text"


@NOT_ON_WINDOWS
def test_a_device_is_written_once(tmp_path):
    """A correction cannot take back what was written."""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no device that fails here")
    with pytest.raises(OSError, match="No space left"):
        replace("/dev/full", "text")
    replace("/dev/full", "text", again=True)


def test_text_is_added_and_replaced(tmp_path):
    """What was in the file before is not changed."""
    path = str(tmp_path / "new" / "file")
    assert append(path, "one\n") == Appended(0, 4)
    second = append(path, "two\n")
    assert second == Appended(4, 8)
    assert append(path, "corrected\n", second) == Appended(4, 14)
    assert (tmp_path / "new" / "file").read_bytes() == b"one\ncorrected\n"
    assert size(path) == 14


def test_what_is_no_regular_file_has_no_size(tmp_path):
    """Nor has a missing file."""
    assert size(str(tmp_path / "missing")) == size(os.devnull) == 0
    assert append(os.devnull, "text") is None
