from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import ctypes
import os
from pathlib import Path
import shutil
import sys
import tempfile
import traceback
import warnings

from dangers import NOBODY
from dangers import plant
from dangers import snapshot
import pytest

from pytest_tempres.workspace import lock
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import create


@pytest.fixture
def in_child() -> Callable[[Callable[[], object]], object]:
    """Run a function in a forked child; return whether it came out true there."""
    if not hasattr(os, "fork"):
        pytest.skip("this platform does not fork")

    def run(deed):
        with warnings.catch_warnings():
            # A worker of pytest-xdist has a second thread, which the child does without.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            status = 2
            try:
                status = 0 if deed() else 1
            except BaseException:  # noqa: BLE001 -- nothing may leave the child but its status
                traceback.print_exc()
            # Coverage writes its data first, and an audit hook of the test may make that fail.
            while True:
                with contextlib.suppress(BaseException):
                    os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    return run


@pytest.fixture
def make(tmp_path) -> Callable[..., SessionRoot]:
    """Make session roots in the test's own directory; their locks are given up afterwards."""
    made = []

    def make(parent: Path = tmp_path, mode: int = 0o700, **about) -> SessionRoot:
        root = create(str(parent), mode=mode, about=about)
        made.append(root)
        return root

    yield make
    for root in made:
        lock.release(root.lock_fd)


@pytest.fixture
def root(make) -> SessionRoot:
    """A session root that lives."""
    return make()


@pytest.fixture
def precious(tmp_path) -> Iterator[Path]:
    """A tree outside, which is whole afterwards."""
    path = plant(tmp_path / "precious")
    (path / "closed").mkdir(mode=0o500)
    # What looks like a root of ours, to who was led here.
    (path / "main").mkdir()
    for directory in (path, path / "main"):
        plant(directory / "tree")
    for name in (LOCK, BREADCRUMB):
        (path / name).write_text("{}" if name == BREADCRUMB else "")
    before = snapshot(path)
    yield path
    assert snapshot(path) == before


@pytest.fixture
def dead(make, tmp_path) -> Callable[..., SessionRoot]:
    """Make the root of a session that died, with a tree in its worker root."""

    def dead(place: Path | None = None) -> SessionRoot:
        place = place or tmp_path / "place"
        place.mkdir(exist_ok=True)
        root = make(place, rootdir="/p")
        plant(Path(root.add_worker("main", 0o700).path, "tree"))
        lock.release(root.lock_fd)
        return root

    return dead


class Namespace:
    """A mount namespace of its own: nothing that is mounted in it is seen outside."""

    _BIND, _REC, _PRIVATE, _READ_ONLY, _REMOUNT = 4096, 16384, 1 << 18, 1, 32

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def enter(self, *kinds: str) -> None:
        """Move this process, which must be a child made for it, into new namespaces."""
        flags = {"mount": 0x00020000, "pid": 0x20000000}
        self._check(self._libc.unshare(sum(flags[kind] for kind in kinds)))
        if "mount" in kinds:
            self._mount(None, "/", None, self._REC | self._PRIVATE)

    def bind(self, source: object, target: object) -> None:
        """Let *source* be seen at *target* too."""
        self._mount(source, target, None, self._BIND)

    def protect(self, path: object) -> None:
        """Let what is at *path* be read-only."""
        self.bind(path, path)
        self._mount(None, path, None, self._BIND | self._REMOUNT | self._READ_ONLY)

    def memory(self, target: object, *, read_only: bool = False) -> None:
        """Mount an empty file system of its own."""
        self._mount("none", target, "tmpfs", self._READ_ONLY if read_only else 0)

    def unmount(self, target: object) -> None:
        """Take away what is mounted."""
        self._check(self._libc.umount2(os.fsencode(target), 2))

    def _mount(self, source: object, target: object, kind: str | None, flags: int) -> None:
        texts = [None if each is None else os.fsencode(each) for each in (source, target, kind)]
        self._check(self._libc.mount(*texts, ctypes.c_ulong(flags), None))

    def _check(self, result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture
def namespace(in_child) -> Namespace:
    """What a child needs to have mounts of its own, or process numbers of its own."""
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
        pytest.skip("namespaces cannot be made here: that takes root's rights")
    return namespace


@pytest.fixture
def shared_place() -> Iterator[Path]:
    """A directory like /tmp: everybody may write in it, and rename only what is theirs."""
    path = tempfile.mkdtemp(prefix="shared-", dir="/tmp")
    os.chmod(path, 0o1777)
    yield Path(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def as_nobody(in_child) -> Callable[[Callable[[], object]], object]:
    """Run a function in a child that is another user; return whether it came out true."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can become a second user")

    def run(deed: Callable[[], object]) -> object:
        def child() -> object:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            return deed()

        return in_child(child)

    return run
