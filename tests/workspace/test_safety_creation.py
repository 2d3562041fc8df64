"""Whatever step of a root's creation or end fails, or is the last of its process."""

from __future__ import annotations

from collections.abc import Callable
import errno
import os
from pathlib import Path
import signal
import sys

from dangers import age
from dangers import lowest_descriptor
from dangers import plant
from dangers import sweep
import pytest

from pytest_tempres.exceptions import WorkspaceCreationError
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import LOCK
from pytest_tempres.workspace.root import create

#: What the system is asked to do while a root is made or dissolved.
DEEDS = {"os.mkdir", "os.chmod", "open", "fcntl.flock", "os.remove", "os.rmdir", "os.listdir"}


def watch_deeds(act: Callable[[int, str, object], None]) -> None:
    """Call *act* before each deed, with its number; only for a child that will end soon."""
    count = [0]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in DEEDS:
            count[0] += 1
            act(count[0], event, arguments[0])

    sys.addaudithook(hook)


def test_a_root_is_made_in_the_order_that_a_sweep_relies_on(tmp_path, in_child):
    """Directory, lock file, lock, breadcrumb: at no moment is a root proved that is not locked."""

    def child() -> bool:
        seen = []
        watch_deeds(lambda number, event, what: seen.append((event, what)))
        root = create(str(tmp_path), mode=0o711, about={})
        wanted = [
            ("os.mkdir", root.path),
            ("open", LOCK),
            ("fcntl.flock", root.lock_fd),
            ("open", BREADCRUMB),
        ]
        made = [deed for deed in seen if deed in wanted]
        return made == wanted

    assert in_child(child)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_whatever_step_of_the_creation_fails_nothing_is_left(tmp_path, in_child, error):
    """Neither a directory nor a lock nor a descriptor survives a creation that failed."""

    def fails_at(step: int) -> bool:
        before, held, failed = lowest_descriptor(), set(lock._held), []

        def act(number: int, event: str, what: object) -> None:
            if number == step:
                failed.append(event)
                raise error

        watch_deeds(act)
        try:
            root = create(str(tmp_path), mode=0o711, about={})
        except (WorkspaceCreationError, KeyboardInterrupt):
            pass
        else:
            if not failed:
                return True
            # A session can do without its lock, and where files have no modes of their own.
            assert failed in (["fcntl.flock"], ["os.chmod"])
            assert root.remove_if_empty()
        return not os.listdir(tmp_path) and lock._held == held and lowest_descriptor() == before

    # What Python imports for it counts for no step.
    create(str(tmp_path), mode=0o711, about={}).remove_if_empty()
    for step in range(1, 100):
        assert in_child(lambda step=step: fails_at(step)), f"step {step}"
        if os.listdir(tmp_path):
            break
    assert 4 < step < 99


@pytest.mark.parametrize("life", ["creation", "end"])
def test_whatever_step_a_process_dies_at_the_next_session_finds_nothing_odd(
    tmp_path, in_child, life
):
    """A process that is killed while it makes or dissolves its root leaves nothing for long."""

    def dies_at(step: int) -> bool:
        def act(number: int, event: str, what: object) -> None:
            if number == step:
                os.kill(os.getpid(), signal.SIGKILL)

        if life == "creation":
            watch_deeds(act)
        root = create(str(tmp_path), mode=0o711, about={})
        root.add_worker("main", 0o700)
        if life == "end":
            watch_deeds(act)
        return root.remove_if_empty()

    for step in range(1, 100):
        if in_child(lambda step=step: dies_at(step)):
            break
        age(tmp_path)
        sweep(tmp_path)
        for left in tmp_path.iterdir():
            # Anybody may have made an empty directory; only that is left, if anything is.
            left.rmdir()
    assert 4 < step < 99


def test_names_cannot_be_guessed(tmp_path, make, in_child):
    """Neither a later name nor that of a forked child follows from those before."""
    names = [os.path.basename(make().path) for _ in range(50)]
    # Children of one parent would all draw the same if they went on with its state.
    for _ in range(10):
        assert in_child(lambda: create(str(tmp_path), mode=0o700, about={}))
    found = os.listdir(tmp_path)
    assert len(found) == 60
    assert set(names) < set(found)
    for column in range(len("tempres-"), len(names[0])):
        assert len({name[column] for name in found}) > 10


@pytest.mark.parametrize("when", ["os.chmod", LOCK, "fcntl.flock", BREADCRUMB])
@pytest.mark.parametrize("what", ["link", "directory"])
def test_nothing_is_made_behind_what_takes_a_new_roots_place(
    tmp_path, precious, in_child, when, what
):
    """Where others may rename what is ours, a swapped root ends the creation and harms nothing."""
    place = tmp_path / "place"
    place.mkdir()

    def child() -> bool:
        def act(number: int, event: str, argument: object) -> None:
            names = os.listdir(place) if event != "os.listdir" else []
            if when in (event, argument) and names and not (tmp_path / "away").exists():
                os.rename(place / names[0], tmp_path / "away")
                if what == "link":
                    os.symlink(precious, place / names[0])
                else:
                    plant(place / names[0])

        watch_deeds(act)
        held = set(lock._held)
        with pytest.raises(WorkspaceCreationError):
            create(str(place), mode=0o755, about={})
        return (tmp_path / "away").exists() and lock._held == held

    assert in_child(child)
    if what == "directory":
        (left,) = place.iterdir()
        assert len(list(left.rglob("*"))) == 5
    assert os.listdir(tmp_path / "away") == []


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o755])
def test_a_root_in_a_set_gid_directory_is_as_promised(tmp_path, make, mode):
    """A directory that hands its group down, sticky or not, changes no permission of a root."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o3777)
    root = make(place, mode=mode)
    worker = root.add_worker("main", mode)
    for path, bits in ((root.path, mode), (worker.path, mode), (worker.fixture_dir, mode & 0o711)):
        assert os.lstat(path).st_mode & 0o1777 == bits
    plant(Path(worker.path, "tree"))
    assert root.remove(os.path.join(worker.path, "tree")) == []
    assert root.remove_if_empty()
