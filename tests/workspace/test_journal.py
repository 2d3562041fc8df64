from __future__ import annotations

import json
import os

import pytest

from pytest_tempres.workspace import dirfd
from pytest_tempres.workspace import journal as journals
from pytest_tempres.workspace.journal import Journal
from pytest_tempres.workspace.proof import JOURNAL
from pytest_tempres.workspace.root import create
from pytest_tempres.workspace.sweep import read


@pytest.fixture
def root(tmp_path):
    """A session root, without any kept path."""
    root = create(str(tmp_path), mode=0o700, about={})
    yield root
    root.release()


@pytest.fixture
def journal():
    """A journal that is closed in the end."""
    journal = Journal()
    yield journal
    journal.close()


def named(root) -> list[str]:
    """Return what the root's files say is kept."""
    with root.opened() as at:
        return sorted(os.path.relpath(path, root.path) for path in read(root.path, at).named)


def inside(root, *names: str) -> list[str]:
    """Return paths in the root."""
    return [os.path.join(root.path, name) for name in names]


def test_several_writers(root, journal):
    """All processes of a session write to the same file, in any order."""
    other = Journal()
    journal.open(root)
    other.open(root)
    journal.add(root, "t", inside(root, "main.d/a"))
    other.add(root, "ü", inside(root, "gw0.d/\udcff\n", "gw0.d/b"))
    journal.add(root, "t", inside(root, "main.d/c"))
    other.close()
    assert named(root) == ["gw0.d/b", "gw0.d/\udcff\n", "main.d/a", "main.d/c"]


@pytest.mark.skipif(os.name == "nt", reason="modes are not kept there")
@pytest.mark.parametrize("umask", [0, 0o777])
def test_it_is_for_its_user_alone(root, journal, umask):
    """Names of tests may be secret, and what others write would be believed."""
    before = os.umask(umask)
    try:
        journal.open(root)
    finally:
        os.umask(before)
    assert os.stat(os.path.join(root.path, JOURNAL)).st_mode & 0o777 == 0o600


def test_the_index_decides_alone(root, journal):
    """A path that it does not name was named too early."""
    journal.add(root, "t", inside(root, "main.d/a", "main.d/b"))
    with open(os.path.join(root.path, "index.json"), "w", encoding="ascii") as file:
        json.dump({"kept": {"t": inside(root, "main.d/b")}}, file)
    assert named(root) == ["main.d/b"]


def test_lines_that_are_torn_or_not_ours(root, journal):
    """They are passed over, and so is what does not lie in the root."""
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
    assert named(root) == ["main.d/a"]


def test_what_is_too_long_is_not_read(root, journal, monkeypatch):
    """A test may have filled it with anything; what it names is not known then."""
    monkeypatch.setattr(dirfd, "_MAX_BYTES", 1000)
    journal.add(root, "t", inside(root, "main.d/a"))
    journal.add(root, "t" * 1000, inside(root, "main.d/b"))
    with pytest.raises(OSError, match="large"):
        named(root)


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_something_else_in_its_place(root, journal, tmp_path, kind):
    """It is neither written to nor read, and nobody waits for it."""
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
    assert named(root) == []
    assert target.read_bytes() == before


def test_a_root_in_the_place_of_ours(root, journal, tmp_path):
    """What others put there is not written to."""
    journal.open(root)
    os.rename(root.path, tmp_path / "moved")
    os.mkdir(root.path)
    with pytest.raises(OSError, match="taken its place"):
        journal.add(root, "t", inside(root, "main.d/a"))
    assert os.listdir(root.path) == []


def test_a_short_write_is_an_error(root, journal, monkeypatch):
    """Where the disk is full, nothing is written down; the next line is whole all the same."""
    journal.open(root)
    write = journals.System.write
    monkeypatch.setattr(journals.System, "write", lambda fd, text: write(fd, text[:-9]))
    with pytest.raises(OSError, match="space"):
        journal.add(root, "t", inside(root, "main.d/a"))
    monkeypatch.undo()
    journal.add(root, "t", inside(root, "main.d/b"))
    assert named(root) == ["main.d/b"]


# Python warns of a fork in a process with threads, such as a worker.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_does_not_hold_it(root, journal):
    """Like the lock; it opens the file for itself when it has something to write."""
    if not hasattr(os, "fork"):
        pytest.skip("nothing forks here")
    journal.open(root)
    pid = os.fork()
    if not pid:
        try:
            held = journals.lock.is_held(journal._fd)
            journal.add(root, "t", inside(root, "main.d/child"))
            os._exit(1 if held else 0)
        except Exception:  # noqa: BLE001 -- no child may go on with the tests
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    journal.add(root, "t", inside(root, "main.d/parent"))
    assert named(root) == ["main.d/child", "main.d/parent"]
