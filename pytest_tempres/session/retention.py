"""The retention policy applied to what fixtures created, the index and the artifacts."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from contextlib import suppress
import errno
from pathlib import Path

import pytest

from pytest_tempres.artifacts.portable_names import names_a_test
from pytest_tempres.leaks.temp.scan import identity
from pytest_tempres.leaks.verdict import parents
from pytest_tempres.primitives._rmtree import Failure
from pytest_tempres.primitives._system import System
from pytest_tempres.session.state import ScopedFactory
from pytest_tempres.session.state import SessionState
from pytest_tempres.workspace import retention
from pytest_tempres.workspace.proof import remove_created
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import reason_to_keep
from pytest_tempres.workspace.retention import write_index

__all__ = [
    "ArtifactsHooks",
    "apply_policy",
    "created_by_crashed",
    "export",
    "finish_expired",
    "index",
    "remove",
    "renamed",
    "used",
    "write_at_once",
]


def used(state: SessionState, item: pytest.Item) -> list[ScopedFactory]:
    """Return the factories of wider scope that *item* uses, directly or through a fixture."""
    names = getattr(item, "fixturenames", ())
    return [
        factory
        for factory in (*state.tests.open_factories, *state.tests.expired_factories)
        if factory.nodeid == item.nodeid
        or (factory.fixture in names and factory.replaced_for != item.nodeid)
    ]


def write_at_once(state: SessionState) -> None:
    """Record created paths at once from now on, since the current test may end the process."""
    state.retention.at_once = True
    current = state.tests.current
    if current is not None:
        state.retention.write_down_created(current.nodeid, current.created)
        for factory in used(state, current.item):
            state.retention.write_down_created(factory.nodeid, factory.created)


def finish_expired(state: SessionState) -> None:
    """Apply the retention policy to the expired factories."""
    while state.tests.expired_factories:
        factory = state.tests.expired_factories.pop()
        apply_policy(
            state,
            factory.nodeid,
            factory.created,
            failed=factory.failed,
            policy=state.settings.keep,
        )


def created_by_crashed(state: SessionState, worker: str) -> list[str]:
    """Return what fixtures had created in a crashed *worker* and no report names."""
    fixture_dir = System.join(state.workspace.root.path, f"{worker}.d")
    try:
        paths = [System.join(fixture_dir, name) for name in sorted(System.listdir(fixture_dir))]
    except OSError:
        # The worker is on another host.
        return []
    return [path for path in paths if path not in state.reported.created]


def apply_policy(
    state: SessionState, nodeid: str, created: Iterable[CreatedPath], *, failed: bool, policy: str
) -> None:
    """Remove each path, or record that it is kept.

    :param nodeid: The test that the index names for the path.
    :param failed: Whether a test that used them failed.
    """

    def reason(each: CreatedPath) -> str | None:
        return reason_to_keep(policy, failed=failed, asked=each.keep)

    wanted: list[CreatedPath] = []
    unwanted: list[CreatedPath] = []
    for each in created:
        (unwanted if reason(each) is None else wanted).append(each)
    for each in (*wanted, *renamed(state, wanted)):
        why = reason(each)
        if why is not None and System.lexists(each.path):
            state.retention.kept.append(Kept(nodeid, each.path, why, state.workspace.worker.name))
            state.retention.protected |= parents(each.path)
    for each in unwanted:
        # With `dir=`, a kept path may be inside a path that would be removed.
        if each.path not in state.retention.protected:
            remove(state, each)


def renamed(state: SessionState, created: Iterable[CreatedPath]) -> list[CreatedPath]:
    """Return, with their new paths, those of *created* that a test has renamed."""
    created = list(created)
    there = {each.inode for each in created if each.inode == identity(each.path)}
    gone = {each.inode: each for each in created if each.inode is not None}
    inodes = gone.keys() - there
    if not inodes:
        return []
    # A path that is known by its own name only has an inode number that was used again.
    known = {
        each.path
        for factory in (*state.tests.open_factories, *state.tests.expired_factories)
        for each in factory.created
    }
    known.update(each.path for each in created)
    known.update(each.path for each in state.retention.kept)
    found = retention.find(state.workspace.root, state.workspace.worker, inodes)
    return [
        gone[inode]._replace(path=path, identity=None) for inode, path in found if path not in known
    ]


def remove(
    state: SessionState, created: CreatedPath, tick: Callable[[], object] | None = None
) -> None:
    """Remove a path that a fixture created or that was left; a failure becomes a warning."""
    path, identity = created.path, created.identity
    if System.getpid() != state.workspace.pid:
        return
    _leave_working_directory(state, path)
    try:
        failures = _remove(state, path, identity, tick)
        if failures and failures[0].error.errno == errno.EACCES and state.workspace.restore_modes():
            failures = _remove(state, path, identity, tick)
    except OSError as error:
        state.messages.warn_of(error, "remove", f"could not remove {path}: {error}")
        return
    if failures:
        state.messages.warn_of(failures[0].error, "remove", _failure_message(path, failures))


def _remove(
    state: SessionState,
    path: str,
    identity: tuple[int, int] | None,
    tick: Callable[[], object] | None,
) -> list[Failure]:
    return (
        state.workspace.root.remove(path, tick)
        if identity is None
        else remove_created(path, identity)
    )


def index(state: SessionState) -> None:
    """Write the index of kept paths; if the disk is full, `cleanup` tries again later."""
    try:
        write_index(
            state.workspace.root,
            state.retention.kept,
            rootdir=str(state.workspace.metadata["rootdir"]),
            run=str(state.workspace.metadata["run"]),
        )
    except OSError as error:
        state.retention.unindexed = True
        consequence = (
            "the next session removes what was kept, unless it can be written once leaks are gone"
        )
        if all(
            state.retention.write_down(each.nodeid, [each.path]) for each in state.retention.kept
        ):
            consequence = "what was kept stands in the journal"
        state.messages.warn_of(
            error, "index", f"the index could not be written: {error}; {consequence}"
        )
    else:
        state.retention.unindexed = False


def _failure_message(path: str, failures: list[Failure]) -> str:
    first = failures[0]
    more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    return f"could not remove {path}: {first.path}: {first.error.strerror}{more}"


def _leave_working_directory(state: SessionState, path: str) -> None:
    """Change the working directory if it is in *path*, which is about to be removed."""
    try:
        here = System.getcwd()
    except OSError:
        # A test has removed its own working directory.
        here = System.realpath(path)
    # getcwd returns a path without symbolic links; the temp location may contain some.
    if System.basename(path) in here and _is_inside(here, System.realpath(path)):
        with suppress(OSError):
            System.chdir(state.config.invocation_params.dir)


def _is_inside(path: str, directory: str) -> bool:
    return System.join(path, "").startswith(System.join(directory, ""))


def export(state: SessionState) -> None:
    """Copy the kept paths to the artifacts directory; a failure becomes a warning."""
    from pytest_tempres.artifacts import export  # noqa: PLC0415 -- few sessions keep paths

    directory = state.settings.artifacts or ""
    remote_workers = state.reported.remote_workers.values()
    try:
        done = export.export(
            [*state.retention.kept, *(kept for each in remote_workers for kept in each.kept)],
            directory,
            max_size=state.settings.artifacts_max_size,
            session=System.basename(state.workspace.root.path),
            other_roots=[each.root for each in remote_workers if each.root],
        )
    except Exception as error:  # noqa: BLE001 -- the reports must still be written
        state.messages.warn("artifacts", f"internal error while artifacts were copied: {error!r}")
        return
    state.retention.kept[:] = done.kept[: len(state.retention.kept)]
    state.retention.artifacts = done.artifacts
    if done.failure is not None:
        state.messages.warn("artifacts", f"not all that was kept could be copied: {done.failure}")


class ArtifactsHooks:
    """Hooks that keep pytest from collecting artifacts.

    :param directory: The absolute path of the artifacts directory.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Ignore artifacts: copies of what tests created may look like tests."""
        directory, name = System.split(collection_path)
        # The artifacts directory may contain the tests of the project too.
        return True if directory == self._directory and names_a_test(name) else None
