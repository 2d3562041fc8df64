"""The creation and the removal of a root, when any step fails or the process is killed."""

from __future__ import annotations

from collections.abc import Callable
import errno
import os
from pathlib import Path
import signal
import sys

import pytest
from safety_helpers import lowest_descriptor
from safety_helpers import make_old
from safety_helpers import make_tree
from safety_helpers import sweep

from pytest_tempres.exceptions import WorkspaceCreationError
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.root import create

#: The audit events of the creation and the removal of a root.
OPERATIONS = {"os.mkdir", "os.chmod", "open", "fcntl.flock", "os.remove", "os.rmdir", "os.listdir"}


def on_operation(act: Callable[[int, str, object], None]) -> None:
    """Call *act* before each operation, with its number; only in a child that exits soon."""
    count = [0]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in OPERATIONS:
            count[0] += 1
            act(count[0], event, arguments[0])

    sys.addaudithook(hook)


def test_a_root_is_created_in_the_order_that_a_sweep_relies_on(tmp_path, in_child):
    """The lock is taken before the breadcrumb is written, so a root with one is always locked."""

    def child() -> bool:
        seen = []
        on_operation(lambda number, event, what: seen.append((event, what)))
        root = create(str(tmp_path), mode=0o711, metadata={})
        expected = [
            ("os.mkdir", root.path),
            ("open", LOCK),
            ("fcntl.flock", root.lock_fd),
            ("open", BREADCRUMB),
        ]
        found = [each for each in seen if each in expected]
        return found == expected

    assert in_child(child)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_a_failed_creation_leaves_nothing(tmp_path, in_child, error):
    """At whatever step it fails, no directory, lock or descriptor is left."""

    def fails_at(step: int) -> bool:
        before, held, failed = lowest_descriptor(), set(lock._held), []

        def act(number: int, event: str, what: object) -> None:
            if number == step:
                failed.append(event)
                raise error

        on_operation(act)
        try:
            root = create(str(tmp_path), mode=0o711, metadata={})
        except (WorkspaceCreationError, KeyboardInterrupt):
            pass
        else:
            if not failed:
                return True
            # A session works without its lock, and without modes of files.
            assert failed in (["fcntl.flock"], ["os.chmod"])
            assert root.remove_if_empty()
        return not os.listdir(tmp_path) and lock._held == held and lowest_descriptor() == before

    # Modules that Python imports must not count as steps.
    create(str(tmp_path), mode=0o711, metadata={}).remove_if_empty()
    for step in range(1, 100):
        assert in_child(lambda step=step: fails_at(step)), f"step {step}"
        if os.listdir(tmp_path):
            break
    assert 4 < step < 99


@pytest.mark.parametrize("life", ["creation", "end"])
def test_a_process_that_dies_at_any_step_leaves_nothing_after_a_sweep(tmp_path, in_child, life):
    """The process may be killed while it creates or removes its root."""

    def dies_at(step: int) -> bool:
        def act(number: int, event: str, what: object) -> None:
            if number == step:
                os.kill(os.getpid(), signal.SIGKILL)

        if life == "creation":
            on_operation(act)
        root = create(str(tmp_path), mode=0o711, metadata={})
        root.add_worker("main", 0o700)
        if life == "end":
            on_operation(act)
        return root.remove_if_empty()

    for step in range(1, 100):
        if in_child(lambda step=step: dies_at(step)):
            break
        make_old(tmp_path)
        sweep(tmp_path)
        for left in tmp_path.iterdir():
            # An empty directory may be left: nothing proves that it is ours.
            left.rmdir()
    assert 4 < step < 99


def test_names_cannot_be_guessed(tmp_path, make, in_child):
    """Later names, and those of forked children, do not follow from earlier ones."""
    names = [os.path.basename(make().path) for _ in range(50)]
    # Children of one parent would all have the same names if they shared its random state.
    for _ in range(10):
        assert in_child(lambda: create(str(tmp_path), mode=0o700, metadata={}))
    found = os.listdir(tmp_path)
    assert len(found) == 60
    assert set(names) < set(found)
    for column in range(len("tempres-"), len(names[0])):
        assert len({name[column] for name in found}) > 10


@pytest.mark.parametrize("when", ["os.chmod", LOCK, "fcntl.flock", BREADCRUMB])
@pytest.mark.parametrize("what", ["link", "directory"])
def test_nothing_is_created_in_what_replaces_a_new_root(
    tmp_path, outside_tree, in_child, when, what
):
    """In a directory without the sticky bit another user may replace the new root."""
    place = tmp_path / "place"
    place.mkdir()

    def child() -> bool:
        def act(number: int, event: str, argument: object) -> None:
            names = os.listdir(place) if event != "os.listdir" else []
            if when in (event, argument) and names and not (tmp_path / "away").exists():
                os.rename(place / names[0], tmp_path / "away")
                if what == "link":
                    os.symlink(outside_tree, place / names[0])
                else:
                    make_tree(place / names[0])

        on_operation(act)
        held = set(lock._held)
        with pytest.raises(WorkspaceCreationError):
            create(str(place), mode=0o755, metadata={})
        return (tmp_path / "away").exists() and lock._held == held

    assert in_child(child)
    if what == "directory":
        (left,) = place.iterdir()
        assert len(list(left.rglob("*"))) == 5
    assert os.listdir(tmp_path / "away") == []


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o755])
def test_a_root_in_a_set_gid_directory_has_its_own_modes(tmp_path, make, mode):
    """Neither the set-gid nor the sticky bit changes the permissions of a root."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o3777)
    root = make(place, mode=mode)
    worker = root.add_worker("main", mode)
    for path, bits in ((root.path, mode), (worker.path, mode), (worker.fixture_dir, mode & 0o711)):
        assert os.lstat(path).st_mode & 0o1777 == bits
    make_tree(Path(worker.path, "tree"))
    assert root.remove(os.path.join(worker.path, "tree")) == []
    assert root.remove_if_empty()
