from __future__ import annotations

import json
import os
import sys
import threading
import time

import pytest
from safety_helpers import NOBODY

from pytest_tempres.artifacts import manifest
from pytest_tempres.artifacts.manifest import Manifest
from pytest_tempres.workspace import dirfd
from pytest_tempres.workspace.dirfd import Directory

needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="directories have no locks there")


@pytest.fixture
def add(tmp_path):
    """Add records to the manifest in the test's directory, as a new session does."""

    def add(*records) -> str:
        with Directory.at(str(tmp_path)) as opened, Manifest(opened) as manifest:
            return manifest.add(records)

    return add


def free_numbers() -> list[int]:
    """Return the numbers that the next descriptors will have."""
    numbers = [os.dup(0) for _ in range(5)]
    for number in numbers:
        os.close(number)
    return numbers


def test_each_session_adds_its_records(add, tmp_path):
    """The records of earlier sessions stay."""
    assert add({"n": 1}) == "manifest.json"
    assert add({"n": 2}, {"n": 3}) == "manifest.json"
    assert json.loads((tmp_path / "manifest.json").read_text()) == {
        "version": 1,
        "made_by": "pytest-tempres",
        "artifacts": [{"n": 1}, {"n": 2}, {"n": 3}],
    }
    assert os.listdir(tmp_path) == ["manifest.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "\xff",
        "[]",
        '{"version": 1, "artifacts": []}',
        '{"version": 2, "made_by": "pytest-tempres", "artifacts": []}',
        '{"version": 1, "made_by": "pytest-tempres", "artifacts": {}}',
    ],
    ids=range(8),
)
def test_a_foreign_file_of_that_name_is_not_changed(add, tmp_path, text):
    """The file may have been written by another program or another version."""
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    assert add({"n": 1}) == "manifest-2.json"
    assert add({"n": 2}) == "manifest-2.json"
    assert (tmp_path / "manifest.json").read_text(encoding="latin-1") == text
    assert len(json.loads((tmp_path / "manifest-2.json").read_text())["artifacts"]) == 2


@pytest.mark.parametrize("kind", ["directory", "link", "broken link", "fifo"])
def test_a_special_file_of_that_name_is_not_replaced(add, tmp_path, kind):
    """A link is not followed, and opening a fifo does not block."""
    path = tmp_path / "manifest.json"
    other = tmp_path / "other.json"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        if os.name == "nt":
            pytest.skip("Windows has no fifos among its files")
        os.mkfifo(path)
    else:
        path.symlink_to(other)
    text = '{"version": 1, "made_by": "pytest-tempres", "artifacts": []}'
    if kind == "link":
        other.write_text(text)
    before = path.lstat().st_ino
    free = free_numbers()
    assert add({"n": 1}) == "manifest-2.json"
    # All descriptors are closed again.
    assert free_numbers() == free
    assert path.lstat().st_ino == before
    assert not other.exists() or other.read_text() == text


@needs_locks
def test_after_the_lock_timeout_a_session_writes_a_file_of_its_own(add, tmp_path, monkeypatch):
    """The manifest of the session that holds the lock is not changed."""
    import fcntl  # noqa: PLC0415 -- missing on Windows

    add({"n": 1})
    monkeypatch.setattr(manifest, "_LOCK_TIMEOUT", 0)
    with Directory.at(str(tmp_path)) as other:
        fcntl.flock(other.fd, fcntl.LOCK_EX)
        assert add({"n": 2}) == "manifest-2.json"
    assert add({"n": 3}) == "manifest.json"
    texts = [(tmp_path / name).read_text() for name in ("manifest.json", "manifest-2.json")]
    found = [[each["n"] for each in json.loads(text)["artifacts"]] for text in texts]
    assert found == [[1, 3], [2]]


@needs_locks
def test_sessions_that_end_at_the_same_time_lose_no_records(add, tmp_path):
    """The sessions write to the manifest one after the other."""

    def add_many() -> None:
        for number in range(20):
            add({"n": number})

    # A lock belongs to an open directory, so threads can represent processes.
    threads = [threading.Thread(target=add_many) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads((tmp_path / "manifest.json").read_text())["artifacts"]) == 40
    assert os.listdir(tmp_path) == ["manifest.json"]


@pytest.fixture(params=["by path", "refused"])
def lockless(request, monkeypatch):
    """A directory that cannot be locked, as on Windows and some network file systems."""
    if request.param == "by path":
        monkeypatch.setattr(dirfd.System, "supports_dir_fd", False)
        return
    fcntl = pytest.importorskip("fcntl", reason="directories have no locks there")

    def refuse(fd, operation):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("lockless")
def test_without_locks_each_session_has_a_file_of_its_own(add, tmp_path, monkeypatch):
    """No session changes the file of another session."""
    replace = Directory.replace

    def meanwhile(self, name, new):
        monkeypatch.setattr(Directory, "replace", replace)
        add({"n": 3})
        replace(self, name, new)

    add({"n": 1})
    monkeypatch.setattr(Directory, "replace", meanwhile)
    add({"n": 2})
    found = [json.loads(path.read_text())["artifacts"] for path in tmp_path.iterdir()]
    assert sorted(found, key=str) == [[{"n": 1}], [{"n": 2}], [{"n": 3}]]


def write_old(path, text, age) -> None:
    """Write a file that was modified *age* seconds ago."""
    path.write_text(text)
    then = time.time() - age
    os.utime(path, (then, then))


@needs_locks
def test_files_of_killed_sessions_are_reused_or_removed(add, tmp_path):
    """An old empty manifest is reused and an old draft removed; recent ones are left alone."""
    write_old(tmp_path / "manifest.json", "", 10_000)
    write_old(tmp_path / "manifest.json.abcd_123.new", " ", 10_000)
    others = {"manifest.json.abcd_124.new", "manifest.json.backup.new", "other.json.abcd_123.new"}
    for name in others:
        write_old(tmp_path / name, "x", 0 if "124" in name else 10_000)
    os.mkdir(tmp_path / "manifest.json.abcd_125.new")
    os.utime(tmp_path / "manifest.json.abcd_125.new", (0, 0))
    assert add({"n": 1}) == "manifest.json"
    left = {"manifest.json", "manifest.json.abcd_125.new", *others}
    assert set(os.listdir(tmp_path)) == left


@needs_locks
def test_a_manifest_is_synced_before_it_is_renamed(add, tmp_path, monkeypatch):
    """After a power cut either the old or the new manifest is complete."""
    add({"n": 1})
    synced = []
    fsync, replace = os.fsync, Directory.replace

    def note(fd):
        fsync(fd)
        synced.append((os.fstat(fd).st_ino, os.fstat(fd).st_size))

    def check(self, name, new):
        status = self.lstat(name)
        assert synced == [(status.st_ino, status.st_size)]
        replace(self, name, new)

    monkeypatch.setattr(manifest.System, "fsync", note)
    monkeypatch.setattr(Directory, "replace", check)
    assert add({"n": 2}) == "manifest.json"


@pytest.mark.skipif(os.name == "nt", reason="modes are not kept there")
@pytest.mark.parametrize("umask", [0, 0o777])
def test_a_manifest_is_private(add, tmp_path, umask):
    """It lists the content of directories that other users may not read."""
    before = os.umask(umask)
    try:
        for number in range(2):
            add({"n": number})
            assert (tmp_path / "manifest.json").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


@needs_locks
def test_a_manifest_of_another_user_is_not_changed(add, tmp_path):
    """The content of another user's file is not trusted."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    add({"n": 1})
    os.chown(tmp_path / "manifest.json", NOBODY, NOBODY)
    assert add({"n": 2}) == "manifest-2.json"


@needs_locks
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_draft_that_is_replaced_by_a_link_is_not_followed(tmp_path, link):
    """Another user cannot make the plugin overwrite a file of this user."""
    private = tmp_path / "private"
    private.write_text("private")
    place = tmp_path / "artifacts"
    place.mkdir()
    with Directory.at(str(place)) as opened, Manifest(opened) as manifest:
        (draft,) = place.iterdir()
        draft.unlink()
        link(private, draft)
        manifest.add([{"n": 1}])
    assert private.read_text() == "private"
    assert os.listdir(place) == ["manifest.json"]


def test_the_manifest_fits_on_a_full_disk(tmpfs):
    """Space for the manifest is reserved before the copies are made."""
    path = tmpfs("size=1m")
    with Directory.at(str(path)) as opened, Manifest(opened) as manifest:
        with open(path / "x", "wb", 0) as file, pytest.raises(OSError, match="No space"):
            file.writelines(bytes(4096) for _ in range(1000))
        manifest.add([{"n": 1}])
    assert sorted(os.listdir(path)) == ["manifest.json", "x"]
    assert json.loads((path / "manifest.json").read_text())["artifacts"] == [{"n": 1}]


@pytest.mark.parametrize("known", [0, 1])
def test_a_failure_to_write_changes_nothing(add, tmp_path, monkeypatch, known):
    """The old manifest, if there is one, is unchanged."""
    if known:
        add({"n": 1})

    def refuse(self, name, new):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Directory, "replace", refuse)
    with pytest.raises(OSError, match="Input/output"):
        add({"n": 2})
    assert os.listdir(tmp_path) == ["manifest.json"] * known
