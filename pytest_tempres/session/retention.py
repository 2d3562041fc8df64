"""What a fixture gave is removed or kept; the only way to a removal from the front."""

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
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import reason_to_keep
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import remove_created

__all__ = [
    "ArtifactsHooks",
    "apply_policy",
    "export",
    "finish_expired",
    "given_by_crashed",
    "index",
    "remove",
    "renamed",
    "used",
    "write_at_once",
]


def used(state: SessionState, item: pytest.Item) -> list[ScopedFactory]:
    """Return the wider factories that *item* asked for, directly or through a fixture."""
    names = getattr(item, "fixturenames", ())
    return [
        factory
        for factory in (*state.tests.open_factories, *state.tests.expired_factories)
        if factory.nodeid == item.nodeid
        or (factory.fixture in names and factory.replaced_for != item.nodeid)
    ]


def write_at_once(state: SessionState) -> None:
    """Write down what the test that runs is given and was given: it may end the process."""
    state.retention.at_once = True
    current = state.tests.current
    if current is not None:
        state.retention.write_down_created(current.nodeid, current.created)
        for factory in used(state, current.item):
            state.retention.write_down_created(factory.nodeid, factory.created)


def finish_expired(state: SessionState) -> None:
    """Remove or keep what factories gave whose scope has ended."""
    while state.tests.expired_factories:
        due = state.tests.expired_factories.pop()
        apply_policy(state, due.nodeid, due.created, failed=due.failed, policy=state.settings.keep)


def given_by_crashed(state: SessionState, worker: str) -> list[str]:
    """Return what a crashed *worker* had given when it could no longer decide what stays of it."""
    given = System.join(state.workspace.root.path, f"{worker}.d")
    try:
        paths = [System.join(given, name) for name in sorted(System.listdir(given))]
    except OSError:
        # It has a disk of its own.
        return []
    return [path for path in paths if path not in state.reported.created]


def apply_policy(
    state: SessionState, nodeid: str, created: Iterable[CreatedPath], *, failed: bool, policy: str
) -> None:
    """Remove each path, or note that it is kept.

    :param nodeid: The test that the index will name beside the path.
    :param failed: Whether a test that used them failed.
    """

    def reason(each: CreatedPath) -> str | None:
        return reason_to_keep(policy, failed=failed, asked=each.keep)

    created = list(created)
    wanted = [each for each in created if reason(each) is not None]
    for each in (*wanted, *renamed(state, wanted)):
        why = reason(each)
        if why is not None and System.lexists(each.path):
            state.retention.kept.append(Kept(nodeid, each.path, why, state.workspace.worker.name))
            state.retention.protected |= parents(each.path)
    for each in created:
        # What is kept may lie in what would go, by `dir=`.
        if reason(each) is None and each.path not in state.retention.protected:
            remove(state, each)


def renamed(state: SessionState, created: Iterable[CreatedPath]) -> list[CreatedPath]:
    """Return, under its new name, what of *made* has got another one in our root."""
    created = list(created)
    there = {each.inode for each in created if each.inode == identity(each.path)}
    gone = {each.inode: each for each in created if each.inode is not None}
    inodes = gone.keys() - there
    if not inodes:
        return []
    # What stands there by its own name only bears a number that was given back.
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
    """Remove what a fixture gave, or what was left; what cannot go becomes one warning."""
    path, identity = created.path, created.identity
    if System.getpid() != state.workspace.pid:
        return
    _leave(state, path)
    try:
        failures = _remove(state, path, identity, tick)
        if failures and failures[0].error.errno == errno.EACCES and state.workspace.restore_modes():
            failures = _remove(state, path, identity, tick)
    except OSError as refusal:
        state.messages.warn_of(refusal, "remove", f"could not remove {path}: {refusal}")
        return
    if failures:
        state.messages.warn_of(failures[0].error, "remove", _remaining(path, failures))


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
    """Write down what is kept; a disk that is full is tried again when leaks are gone."""
    try:
        write_index(
            state.workspace.root,
            state.retention.kept,
            rootdir=str(state.workspace.metadata["rootdir"]),
            run=str(state.workspace.metadata["run"]),
        )
    except OSError as error:
        state.retention.unindexed = True
        fate = (
            "the next session removes what was kept, unless it can be written once leaks are gone"
        )
        if all(
            state.retention.write_down(each.nodeid, [each.path]) for each in state.retention.kept
        ):
            fate = "what was kept stands in the journal"
        state.messages.warn_of(error, "index", f"the index could not be written: {error}; {fate}")
    else:
        state.retention.unindexed = False


def _remaining(path: str, failures: list[Failure]) -> str:
    first = failures[0]
    more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    return f"could not remove {path}: {first.path}: {first.error.strerror}{more}"


def _leave(state: SessionState, path: str) -> None:
    """Leave *path* if a test made it the working directory: its removal would leave us nowhere."""
    try:
        here = System.getcwd()
    except OSError:
        # A test has removed it under itself.
        here = System.realpath(path)
    # getcwd resolves the links on which the temp location may lie.
    if System.basename(path) in here and _is_in(here, System.realpath(path)):
        with suppress(OSError):
            System.chdir(state.config.invocation_params.dir)


def _is_in(path: str, directory: str) -> bool:
    return System.join(path, "").startswith(System.join(directory, ""))


def export(state: SessionState) -> None:
    """Copy what was kept, now that the list is complete; what fails becomes one warning."""
    from pytest_tempres.artifacts import export  # noqa: PLC0415 -- few sessions keep something

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
    except Exception as error:  # noqa: BLE001 -- the reports are made after this
        state.messages.warn("artifacts", f"internal error while artifacts were copied: {error!r}")
        return
    state.retention.kept[:] = done.kept[: len(state.retention.kept)]
    state.retention.artifacts = done.artifacts
    if done.failure is not None:
        state.messages.warn("artifacts", f"not all that was kept could be copied: {done.failure}")


class ArtifactsHooks:
    """What the directory of artifacts needs while tests run.

    :param directory: Its absolute path.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Collect nothing from copies of what tests made, which may look like tests."""
        directory, name = System.split(collection_path)
        # Somebody may have named a directory with tests of his own in it.
        return True if directory == self._directory and names_a_test(name) else None
