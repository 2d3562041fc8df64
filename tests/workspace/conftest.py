from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import subprocess
import sys
import traceback
import warnings

import pytest

from pytest_tempres.workspace import lock
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
            finally:
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
def tmpfs(tmp_path_factory) -> Callable[[str], Path]:
    """Mount a small file system of its own; it is gone after the test."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system, and only Linux has tmpfs")
    mounted = []

    def mount(options: str, path: Path | None = None) -> Path:
        path = path or tmp_path_factory.mktemp("mnt")
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(path)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("this container may not mount")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
