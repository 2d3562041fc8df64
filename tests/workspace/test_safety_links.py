"""A directory that is swapped for a link during its removal."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import ctypes
import os
from pathlib import Path
import select
import threading
from typing import Any

import pytest
from safety_helpers import NOBODY
from safety_helpers import sweep

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.primitives._rmtree import remove_tree
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import write_index

#: The most attempts of the racing process, and of the removal against it.
TRIES, ROUNDS = 1_000_000, 10_000


def race(path: Path, victim: Path, aside: Path, stop: int, report: int) -> None:
    """Swap *path* for a link to *victim* and back until *stop* is closed; report the first swap."""
    exchange = ctypes.CDLL(None).renameat2
    swapped, links, here = False, 0, os.fsencode(path)
    link = b""
    for step in range(TRIES):
        if step % 100 == 0 and select.select([stop], [], [], 0)[0]:
            break
        if link and exchange(-100, here, -100, link, 2) == 0:
            if not swapped:
                os.write(report, b"x")
            swapped = True
            continue
        # The tree was removed, and the other path may be the directory: create a new link.
        link = b""
        if os.path.lexists(here):
            links += 1
            link = os.fsencode(aside / f"link{links}")
            os.symlink(victim, link)


@pytest.fixture
def racer(in_child, shared_place) -> Callable[..., Any]:
    """Let another process, perhaps of another user, repeatedly swap a directory for a link."""
    if not hasattr(ctypes.CDLL(None), "renameat2"):
        pytest.skip("only Linux swaps two names at once")
    aside = shared_place / "aside"
    aside.mkdir()
    aside.chmod(0o777)

    @contextlib.contextmanager
    def racer(path: Path, victim: Path, *, uid: int | None = None) -> Iterator[Callable[[], bool]]:
        stop, stop_now = os.pipe()
        reported, report = os.pipe()

        def child() -> None:
            os.close(stop_now)
            if uid is not None:
                os.setuid(uid)
            race(path, victim, aside, stop, report)

        thread = threading.Thread(target=in_child, args=(child,))
        thread.start()
        try:
            yield lambda: bool(select.select([reported], [], [], 0)[0])
        finally:
            os.close(stop_now)
            thread.join()
            os.close(report)
            swapped = os.read(reported, 1)
            os.close(stop)
            os.close(reported)
        assert swapped

    return racer


def make_tree_again(stage: Path, worker: Path) -> None:
    """Recreate a world-writable tree in *worker*, at whatever path it is now."""
    if not stage.exists():
        os.makedirs(stage / "deep" / "deeper")
        for directory in (stage, stage / "deep", stage / "deep" / "deeper"):
            (directory / "file").touch()
            directory.chmod(0o777)
    # This must not follow a swapped link either.
    with contextlib.suppress(OSError):
        os.mkdir(worker)
    with contextlib.suppress(OSError):
        inside = os.open(worker, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.rename(stage, "tree", dst_dir_fd=inside)
        finally:
            os.close(inside)


@pytest.mark.parametrize(
    "how, swapped, other_user",
    [
        ("remove_tree", "main/tree/deep", True),
        ("remove", "", False),
        ("remove", "main", False),
        ("remove", "main/tree", False),
        ("remove", "main/tree/deep", True),
        ("sweep", "main", False),
        ("sweep", "main/tree/deep", True),
    ],
)
def test_a_removal_does_not_follow_a_directory_that_is_swapped_for_a_link(
    shared_place, outside_tree, make, racer, how, swapped, other_user
):
    """The target of the link is unchanged, whatever user swaps it and when."""
    root = make(shared_place, mode=0o711, rootdir="/p")
    aside = shared_place / "aside"
    kept = Path(root.path, "main.d", "kept")
    kept.mkdir(parents=True)
    write_index(root, [Kept("t", str(kept), "failed", "main")])
    if how == "sweep":
        # The kept path keeps the root in place while the other process runs.
        lock.release(root.lock_fd)
    tree = Path(root.path, "main", "tree")
    os.mkdir(tree.parent)
    uid = NOBODY if other_user and os.geteuid() == 0 else None
    with racer(Path(root.path, swapped), outside_tree, uid=uid) as has_swapped:
        for number in range(ROUNDS):
            if number >= 60 and has_swapped():
                break
            make_tree_again(shared_place / "stage", tree.parent)
            if how == "remove_tree":
                remove_tree(str(tree))
            elif how == "remove":
                with contextlib.suppress(NotOurDirectoryError):
                    root.remove(str(tree))
            else:
                sweep(shared_place, keep=1)
    where = [Path(root.path), *(path for path in aside.iterdir() if not path.is_symlink())]
    assert any((path / "main.d" / "kept").exists() for path in where)
