from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import ctypes
import os
from pathlib import Path
import shutil
import sys
import tempfile

import pytest
from safety_helpers import NOBODY
from safety_helpers import make_tree
from safety_helpers import snapshot

from pytest_tempres.workspace import lock
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import create


@pytest.fixture
def make(tmp_path) -> Callable[..., SessionRoot]:
    """Create session roots, in the test's directory by default; release their locks at the end."""
    created = []

    def make(parent: Path = tmp_path, mode: int = 0o700, **metadata) -> SessionRoot:
        root = create(str(parent), mode=mode, metadata=metadata)
        created.append(root)
        return root

    yield make
    for root in created:
        lock.release(root.lock_fd)


@pytest.fixture
def root(make) -> SessionRoot:
    """The root of a live session."""
    return make()


@pytest.fixture
def outside_tree(tmp_path) -> Iterator[Path]:
    """A tree outside all session roots, which must be unchanged after the test."""
    path = make_tree(tmp_path / "precious")
    (path / "closed").mkdir(mode=0o500)
    # The tree looks like one of our roots.
    (path / "main").mkdir()
    for directory in (path, path / "main"):
        make_tree(directory / "tree")
    for name in (LOCK, BREADCRUMB):
        (path / name).write_text("{}" if name == BREADCRUMB else "")
    before = snapshot(path)
    yield path
    assert snapshot(path) == before


@pytest.fixture
def dead(make, tmp_path) -> Callable[..., SessionRoot]:
    """Create the root of a dead session, with a tree in its worker root."""

    def dead(place: Path | None = None) -> SessionRoot:
        place = place or tmp_path / "place"
        place.mkdir(exist_ok=True)
        root = make(place, rootdir="/p")
        make_tree(Path(root.add_worker("main", 0o700).path, "tree"))
        lock.release(root.lock_fd)
        return root

    return dead


class Namespace:
    """A separate mount namespace, whose mounts are invisible outside."""

    _BIND, _REC, _PRIVATE, _READ_ONLY, _REMOUNT = 4096, 16384, 1 << 18, 1, 32

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def enter(self, *kinds: str) -> None:
        """Move this process, which must be a child for this purpose, into new namespaces."""
        flags = {"mount": 0x00020000, "pid": 0x20000000}
        self._check(self._libc.unshare(sum(flags[kind] for kind in kinds)))
        if "mount" in kinds:
            self._mount(None, "/", None, self._REC | self._PRIVATE)

    def bind(self, source: object, target: object) -> None:
        """Bind-mount *source* at *target*."""
        self._mount(source, target, None, self._BIND)

    def make_read_only(self, path: object) -> None:
        """Make *path* read-only."""
        self.bind(path, path)
        self._mount(None, path, None, self._BIND | self._REMOUNT | self._READ_ONLY)

    def mount_tmpfs(self, target: object, *, read_only: bool = False) -> None:
        """Mount an empty tmpfs."""
        self._mount("none", target, "tmpfs", self._READ_ONLY if read_only else 0)

    def unmount(self, target: object) -> None:
        """Unmount *target*."""
        self._check(self._libc.umount2(os.fsencode(target), 2))

    def _mount(self, source: object, target: object, kind: str | None, flags: int) -> None:
        texts = [None if each is None else os.fsencode(each) for each in (source, target, kind)]
        self._check(self._libc.mount(*texts, ctypes.c_ulong(flags), None))

    def _check(self, result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture
def namespace(in_child) -> Namespace:
    """Separate mounts or process numbers for a child process."""
    if sys.platform != "linux":
        pytest.skip("only Linux has namespaces")
    namespace = Namespace()

    def possible() -> bool:
        try:
            namespace.enter("mount", "pid")
        except OSError:
            return False
        return True

    if not in_child(possible):
        pytest.skip("namespaces cannot be created here: that needs root's rights")
    return namespace


@pytest.fixture
def shared_place() -> Iterator[Path]:
    """A directory like /tmp: all users may write to it, and rename only their own files."""
    path = tempfile.mkdtemp(prefix="shared-", dir="/tmp")
    os.chmod(path, 0o1777)
    yield Path(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def as_nobody(in_child) -> Callable[[Callable[[], object]], object]:
    """Run a function in a child process as another user; return whether its result was true."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can become a second user")

    def run(function: Callable[[], object]) -> object:
        def child() -> object:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            return function()

        return in_child(child)

    return run
