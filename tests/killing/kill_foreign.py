"""What others have in the temp directory, and how it is proved unharmed."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
import stat
from typing import NamedTuple

__all__ = ["Snapshot", "snapshot", "sow"]

LONG_AGO = 1_000_000_000


class Thing(NamedTuple):
    """All that can be told of a file without opening another's."""

    mode: int
    uid: int
    size: int
    changed: int
    inode: int
    content: bytes | str | None


Snapshot = dict[str, Thing]


def snapshot(*paths: str) -> Snapshot:
    """Return what is at *paths* and below, to the byte and the nanosecond."""
    return {path: thing for start in paths for path, thing in _walk(start)}


def _walk(path: str) -> Iterator[tuple[str, Thing]]:
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
    # How large a directory is, is the file system's affair.
    size = 0 if is_directory else status.st_size
    yield (
        path,
        Thing(status.st_mode, status.st_uid, size, status.st_mtime_ns, status.st_ino, content),
    )
    if is_directory:
        for name in sorted(os.listdir(path)):
            yield from _walk(os.path.join(path, name))


def sow(tmp: Path, outside: Path) -> list[int]:
    """Fill *tmp* with what is not ours to remove, and *outside* with what links lead to.

    :returns: The descriptors that hold the lock of a session that only seems to be one.
    """
    outside.mkdir()
    _tree(outside / "precious")
    session(outside / "tempres-elsewher", "/elsewhere")
    _sow_other_names(tmp, outside)
    _sow_our_names(tmp, outside)
    held = _sow_sessions(tmp)
    for path in (*tmp.iterdir(), *outside.iterdir()):
        with contextlib.suppress(OSError):
            os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    return held


def _sow_other_names(tmp: Path, outside: Path) -> None:
    (tmp / "file").write_bytes(b"\0\xff precious")
    (tmp / "empty").touch()
    _tree(tmp / "directory")
    (tmp / "link").symlink_to(outside / "precious")
    (tmp / "dangling").symlink_to(outside / "nowhere")
    os.mkfifo(tmp / "fifo")
    _tree(tmp / "tempres-short")
    session(tmp / "tempres-too_long_9", "/elsewhere")
    session(tmp / "Tempres-12345678", "/elsewhere")


def _sow_our_names(tmp: Path, outside: Path) -> None:
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
    # As of a session that has begun, but for what stands beside the lock.
    (tmp / "tempres-half_one").mkdir()
    (tmp / "tempres-half_one" / ".lock").touch()
    (tmp / "tempres-half_one" / "precious").touch()
    (tmp / "tempres-dir_lock" / ".lock").mkdir(parents=True)


def _sow_sessions(tmp: Path) -> list[int]:
    # Another project's evidence, which only that project may remove.
    kept = session(tmp / "tempres-evidence", "/another/project", kept=True)
    os.utime(kept / "index.json", (LONG_AGO, LONG_AGO))
    if os.geteuid() == 0:
        theirs = session(tmp / "tempres-somebody", "/elsewhere")
        for path in (theirs, *theirs.rglob("*")):
            os.chown(path, 65534, 65534)
    import fcntl  # noqa: PLC0415 -- Windows has none, and is told so later

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
    """Make what looks like the root of a session that has ended."""
    evidence = path / "main.d" / "test-12345678"
    evidence.mkdir(parents=True)
    (evidence / "evidence").write_text("evidence", "utf-8")
    (path / ".lock").touch()
    (path / ".tempres.json").write_text(json.dumps({"rootdir": rootdir}), "utf-8")
    if kept:
        index = {"version": 1, "kept": {"t": [str(evidence)]}}
        (path / "index.json").write_text(json.dumps(index), "utf-8")
    return path


def _tree(path: Path) -> None:
    (path / "deep" / "deeper").mkdir(parents=True)
    (path / "file").write_text("precious", "utf-8")
    (path / "deep" / "deeper" / "file").write_bytes(bytes(range(256)))
