from __future__ import annotations

import json
import os

import pytest

from pytest_tempres.workspace import dirfd
from pytest_tempres.workspace import journal as journals
from pytest_tempres.workspace.journal import Journal
from pytest_tempres.workspace.journal import read_session
from pytest_tempres.workspace.proof import JOURNAL
from pytest_tempres.workspace.root import create


@pytest.fixture
def root(tmp_path):
    """A session root without kept paths."""
    root = create(str(tmp_path), mode=0o700, metadata={})
    yield root
    root.release()


@pytest.fixture
def journal():
    """A journal that is closed after the test."""
    journal = Journal()
    yield journal
    journal.close()


def kept_paths(root) -> list[str]:
    """Return the kept paths that the root's files list, relative to the root."""
    with root.opened() as directory:
        return sorted(
            os.path.relpath(path, root.path) for path in read_session(directory).kept_paths
        )


def inside(root, *names: str) -> list[str]:
    """Return the paths of *names* in *root*."""
    return [os.path.join(root.path, name) for name in names]


def test_several_processes_write_to_one_journal(root, journal):
    """No record of any process is lost."""
    other = Journal()
    journal.open(root)
    other.open(root)
    journal.add(root, "t", inside(root, "main.d/a"))
    other.add(root, "ü", inside(root, "gw0.d/\udcff\n", "gw0.d/b"))
    journal.add(root, "t", inside(root, "main.d/c"))
    other.close()
    assert kept_paths(root) == ["gw0.d/b", "gw0.d/\udcff\n", "main.d/a", "main.d/c"]


@pytest.mark.skipif(os.name == "nt", reason="modes are not kept there")
@pytest.mark.parametrize("umask", [0, 0o777])
def test_the_journal_is_private(root, journal, umask):
    """Its mode is 0600: node ids may be secret, and a sweep trusts its content."""
    before = os.umask(umask)
    try:
        journal.open(root)
    finally:
        os.umask(before)
    assert os.stat(os.path.join(root.path, JOURNAL)).st_mode & 0o777 == 0o600


def test_the_journal_is_ignored_if_there_is_an_index(root, journal):
    """A path that is only in the journal was removed before the session ended."""
    journal.add(root, "t", inside(root, "main.d/a", "main.d/b"))
    with open(os.path.join(root.path, "index.json"), "w", encoding="ascii") as file:
        json.dump({"kept": {"t": inside(root, "main.d/b")}}, file)
    assert kept_paths(root) == ["main.d/b"]


def test_incomplete_and_foreign_lines_are_skipped(root, journal):
    """Lines with paths outside the root are skipped too."""
    journal.open(root)
    journal.add(root, "t", ["/etc/passwd", root.path, os.path.join(root.path, "..", "x")])
    path = os.path.join(root.path, JOURNAL)
    with open(path, "ab") as file:
        file.write(b'\n{"test": "t", "path": "' + root.path.encode() + b"/main.d/torn")
    journal.add(root, "t", inside(root, "main.d/a"))
    with open(path, "ab") as file:
        file.writelines(
            b"\n" + line
            for line in (
                b"\xff",
                b"[" * 100_000,
                b"7",
                b'"text"',
                b'{"path": 7}',
                b"{}",
                b'{"path": "',
            )
        )
    assert kept_paths(root) == ["main.d/a"]


def test_a_journal_that_is_too_large_is_an_error(root, journal, monkeypatch):
    """The session's kept paths are unknown then, since a test may have written to the journal."""
    monkeypatch.setattr(dirfd, "_MAX_BYTES", 1000)
    journal.add(root, "t", inside(root, "main.d/a"))
    journal.add(root, "t" * 1000, inside(root, "main.d/b"))
    with pytest.raises(OSError, match="large"):
        kept_paths(root)


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_a_journal_that_is_no_regular_file_is_not_used(root, journal, tmp_path, kind):
    """It is neither written nor read, and opening a fifo does not block."""
    path = os.path.join(root.path, JOURNAL)
    target = tmp_path / "target"
    target.write_text(json.dumps({"test": "t", "path": os.path.join(root.path, "main.d/a")}))
    before = target.read_bytes()
    if kind == "fifo":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no fifos here")
        os.mkfifo(path)
    elif kind == "link":
        os.symlink(target, path)
    else:
        os.mkdir(path)
    with pytest.raises(OSError):  # noqa: PT011 -- each kind has its own
        journal.add(root, "t", inside(root, "main.d/b"))
    assert kept_paths(root) == []
    assert target.read_bytes() == before


def test_nothing_is_written_to_a_root_that_replaced_ours(root, journal, tmp_path):
    """A directory that replaced the root may belong to another process."""
    journal.open(root)
    os.rename(root.path, tmp_path / "moved")
    os.mkdir(root.path)
    with pytest.raises(OSError, match="taken its place"):
        journal.add(root, "t", inside(root, "main.d/a"))
    assert os.listdir(root.path) == []


def test_a_short_write_is_an_error(root, journal, monkeypatch):
    """On a full disk the caller gets an error, and the next record can still be read."""
    journal.open(root)
    write = journals.System.write
    monkeypatch.setattr(journals.System, "write", lambda fd, text: write(fd, text[:-9]))
    with pytest.raises(OSError, match="space"):
        journal.add(root, "t", inside(root, "main.d/a"))
    monkeypatch.undo()
    journal.add(root, "t", inside(root, "main.d/b"))
    assert kept_paths(root) == ["main.d/b"]


# Python warns about a fork in a process with threads, such as a worker of pytest-xdist.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_closes_the_journal(root, journal):
    """It opens the journal again when it adds a record."""
    if not hasattr(os, "fork"):
        pytest.skip("nothing forks here")
    journal.open(root)
    pid = os.fork()
    if not pid:
        try:
            held = journals.lock.is_held(journal._fd)
            journal.add(root, "t", inside(root, "main.d/child"))
            os._exit(1 if held else 0)
        except Exception:  # noqa: BLE001 -- the child must not continue with the tests
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    journal.add(root, "t", inside(root, "main.d/parent"))
    assert kept_paths(root) == ["main.d/child", "main.d/parent"]
