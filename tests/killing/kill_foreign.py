"""Files in the temp directory that the plugin must not touch, and snapshots to compare them."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
import stat
from typing import NamedTuple

__all__ = ["Snapshot", "populate", "snapshot"]

LONG_AGO = 1_000_000_000


class FileState(NamedTuple):
    """The type, metadata and content of a file."""

    mode: int
    uid: int
    size: int
    changed: int
    inode: int
    content: bytes | str | None


Snapshot = dict[str, FileState]


def snapshot(*paths: str) -> Snapshot:
    """Return the state of all files at *paths* and below."""
    return {path: state for start in paths for path, state in _walk(start)}


def _walk(path: str) -> Iterator[tuple[str, FileState]]:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    content: bytes | str | None = None
    if stat.S_ISREG(status.st_mode):
        content = Path(path).read_bytes()
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    is_directory = stat.S_ISDIR(status.st_mode)
    # The size of a directory depends on the file system.
    size = 0 if is_directory else status.st_size
    yield (
        path,
        FileState(status.st_mode, status.st_uid, size, status.st_mtime_ns, status.st_ino, content),
    )
    if is_directory:
        for name in sorted(os.listdir(path)):
            yield from _walk(os.path.join(path, name))


def populate(tmp: Path, outside: Path) -> list[int]:
    """Fill *tmp* with files that the plugin must not remove, and *outside* with targets of links.

    :returns: The descriptors that hold the locks of two simulated sessions.
    """
    outside.mkdir()
    _tree(outside / "precious")
    session(outside / "tempres-elsewher", "/elsewhere")
    _add_other_names(tmp, outside)
    _add_session_names(tmp, outside)
    held = _add_sessions(tmp)
    for path in (*tmp.iterdir(), *outside.iterdir()):
        with contextlib.suppress(OSError):
            os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    return held


def _add_other_names(tmp: Path, outside: Path) -> None:
    (tmp / "file").write_bytes(b"\0\xff precious")
    (tmp / "empty").touch()
    _tree(tmp / "directory")
    (tmp / "link").symlink_to(outside / "precious")
    (tmp / "dangling").symlink_to(outside / "nowhere")
    os.mkfifo(tmp / "fifo")
    _tree(tmp / "tempres-short")
    session(tmp / "tempres-too_long_9", "/elsewhere")
    session(tmp / "Tempres-12345678", "/elsewhere")


def _add_session_names(tmp: Path, outside: Path) -> None:
    _tree(tmp / "tempres-no_crumb")
    (tmp / "tempres-a_file__").write_text("precious", "utf-8")
    os.mkfifo(tmp / "tempres-a_fifo__")
    (tmp / "tempres-to_a_dir").symlink_to(outside / "precious")
    (tmp / "tempres-elsewher").symlink_to(outside / "tempres-elsewher")
    (tmp / "tempres-dangling").symlink_to(outside / "nowhere")
    for name, crumb in (("tempres-dircrumb", "directory"), ("tempres-lnkcrumb", "link")):
        _tree(tmp / name)
        (tmp / name / ".lock").touch()
        if crumb == "directory":
            (tmp / name / ".tempres.json").mkdir()
        else:
            (tmp / name / ".tempres.json").symlink_to(outside / "precious" / "file")
    # Like a session that is being created, except for the file next to the lock.
    (tmp / "tempres-half_one").mkdir()
    (tmp / "tempres-half_one" / ".lock").touch()
    (tmp / "tempres-half_one" / "precious").touch()
    (tmp / "tempres-dir_lock" / ".lock").mkdir(parents=True)


def _add_sessions(tmp: Path) -> list[int]:
    # Kept by another project; only sessions of that project may remove it.
    kept = session(tmp / "tempres-kept____", "/another/project", kept=True)
    os.utime(kept / "index.json", (LONG_AGO, LONG_AGO))
    if os.geteuid() == 0:
        other_user = session(tmp / "tempres-other_us", "/elsewhere")
        for path in (other_user, *other_user.rglob("*")):
            os.chown(path, 65534, 65534)
    import fcntl  # noqa: PLC0415 -- Windows does not have it, and skips the test

    held = []
    session(tmp / "tempres-it_lives", "/elsewhere")
    (tmp / "tempres-starting").mkdir()
    (tmp / "tempres-starting" / ".lock").touch()
    for name in ("tempres-it_lives", "tempres-starting"):
        fd = os.open(tmp / name / ".lock", os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_SH)
        held.append(fd)
    return held


def session(path: Path, rootdir: str, *, kept: bool = False) -> Path:
    """Create a directory that looks like the root of a session that has ended."""
    fixture_dir = path / "main.d" / "test-12345678"
    fixture_dir.mkdir(parents=True)
    (fixture_dir / "file").write_text("content", "utf-8")
    (path / ".lock").touch()
    (path / ".tempres.json").write_text(json.dumps({"rootdir": rootdir}), "utf-8")
    if kept:
        index = {"version": 1, "kept": {"t": [str(fixture_dir)]}}
        (path / "index.json").write_text(json.dumps(index), "utf-8")
    return path


def _tree(path: Path) -> None:
    (path / "deep" / "deeper").mkdir(parents=True)
    (path / "file").write_text("precious", "utf-8")
    (path / "deep" / "deeper" / "file").write_bytes(bytes(range(256)))
