"""A directory that is swapped for a link while it is being removed leads nobody out."""

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

from dangers import NOBODY
from dangers import sweep
import pytest

from pytest_tempres.exceptions import NotOurDirectoryError
from pytest_tempres.primitives._rmtree import remove_tree
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import write_index

#: The most often that a racer tries, and that a removal is tried against it.
TRIES, ROUNDS = 1_000_000, 10_000


def race(path: Path, victim: Path, aside: Path, over: int, tell: int) -> None:
    """Swap *path* for a link to *victim* and back until *over* ends, and tell of the first time."""
    exchange = ctypes.CDLL(None).renameat2
    swapped, links, here = False, 0, os.fsencode(path)
    link = b""
    for step in range(TRIES):
        if step % 100 == 0 and select.select([over], [], [], 0)[0]:
            break
        if link and exchange(-100, here, -100, link, 2) == 0:
            if not swapped:
                os.write(tell, b"x")
            swapped = True
            continue
        # The tree was removed, and what is aside may be the directory: begin anew.
        link = b""
        if os.path.lexists(here):
            links += 1
            link = os.fsencode(aside / f"link{links}")
            os.symlink(victim, link)


@pytest.fixture
def racer(in_child, shared_place) -> Callable[..., Any]:
    """Have another process swap a directory for a link again and again, a bounded number of times.

    It may be another user. Inside the block one can ask whether it has succeeded yet, and at the
    end it must have: no test passes for want of it.
    """
    if not hasattr(ctypes.CDLL(None), "renameat2"):
        pytest.skip("only Linux swaps two names at once")
    aside = shared_place / "aside"
    aside.mkdir()
    aside.chmod(0o777)

    @contextlib.contextmanager
    def racer(path: Path, victim: Path, *, uid: int | None = None) -> Iterator[Callable[[], bool]]:
        over, end = os.pipe()
        told, tell = os.pipe()

        def child() -> None:
            os.close(end)
            if uid is not None:
                os.setuid(uid)
            race(path, victim, aside, over, tell)

        thread = threading.Thread(target=in_child, args=(child,))
        thread.start()
        try:
            yield lambda: bool(select.select([told], [], [], 0)[0])
        finally:
            os.close(end)
            thread.join()
            os.close(tell)
            swapped = os.read(told, 1)
            os.close(over)
            os.close(told)
        assert swapped

    return racer


def plant_again(stage: Path, worker: Path) -> None:
    """Let a tree that is open to everybody stand in *worker* again, wherever the racer is now."""
    if not stage.exists():
        os.makedirs(stage / "deep" / "deeper")
        for directory in (stage, stage / "deep", stage / "deep" / "deeper"):
            (directory / "file").touch()
            directory.chmod(0o777)
    # All this must not be led astray itself.
    with contextlib.suppress(OSError):
        os.mkdir(worker)
    with contextlib.suppress(OSError):
        inside = os.open(worker, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.rename(stage, "tree", dst_dir_fd=inside)
        finally:
            os.close(inside)


@pytest.mark.parametrize(
    "how, swapped, stranger",
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
def test_a_directory_that_is_swapped_for_a_link_again_and_again(
    shared_place, precious, make, racer, how, swapped, stranger
):
    """However often, whenever and by whomever it is swapped, no removal goes where it points."""
    root = make(shared_place, mode=0o711, rootdir="/p")
    aside = shared_place / "aside"
    kept = Path(root.path, "main.d", "kept")
    kept.mkdir(parents=True)
    write_index(root, [Kept("t", str(kept), "failed", "main")])
    if how == "sweep":
        # What is kept holds the root, so that the racer finds it for as long as it runs.
        lock.release(root.lock_fd)
    tree = Path(root.path, "main", "tree")
    os.mkdir(tree.parent)
    uid = NOBODY if stranger and os.geteuid() == 0 else None
    with racer(Path(root.path, swapped), precious, uid=uid) as has_swapped:
        for number in range(ROUNDS):
            if number >= 60 and has_swapped():
                break
            plant_again(shared_place / "stage", tree.parent)
            if how == "remove_tree":
                remove_tree(str(tree))
            elif how == "remove":
                with contextlib.suppress(NotOurDirectoryError):
                    root.remove(str(tree))
            else:
                sweep(shared_place, keep=1)
    where = [Path(root.path), *(path for path in aside.iterdir() if not path.is_symlink())]
    assert any((path / "main.d" / "kept").exists() for path in where)
