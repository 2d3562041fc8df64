"""What a fixture gave is removed or kept; the only way to a removal from the front."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from contextlib import suppress
import errno

import pytest

from pytest_tempres.leaks.temp_root import identity
from pytest_tempres.leaks.verdict import parents
from pytest_tempres.primitives._rmtree import Failure
from pytest_tempres.primitives._system import System
from pytest_tempres.state import Lending
from pytest_tempres.state import SessionState
from pytest_tempres.workspace import search
from pytest_tempres.workspace.retention import Kept
from pytest_tempres.workspace.retention import Made
from pytest_tempres.workspace.retention import reason_to_keep
from pytest_tempres.workspace.retention import write_index
from pytest_tempres.workspace.root import remove_made

__all__ = [
    "dispose",
    "given_by_crashed",
    "index",
    "remove",
    "renamed",
    "settle_due",
    "used",
    "write_at_once",
]


def used(state: SessionState, item: pytest.Item) -> list[Lending]:
    """Return the wider factories that *item* asked for, directly or through a fixture."""
    names = getattr(item, "fixturenames", ())
    return [
        lending
        for lending in (*state.lent, *state.due)
        if lending.nodeid == item.nodeid
        or (lending.fixture in names and lending.replaced_for != item.nodeid)
    ]


def write_at_once(state: SessionState) -> None:
    """Write down what the test that runs is given and was given: it may end the process."""
    state.at_once = True
    current = state.current
    if current is not None:
        state.write_down_made(current.nodeid, current.made)
        for lending in used(state, current.item):
            state.write_down_made(lending.nodeid, lending.made)


def settle_due(state: SessionState) -> None:
    """Remove or keep what factories gave whose scope has ended."""
    while state.due:
        due = state.due.pop()
        dispose(state, due.nodeid, due.made, failed=due.failed, policy=state.settings.keep)


def given_by_crashed(state: SessionState, worker: str) -> list[str]:
    """Return what a crashed *worker* had given when it could no longer decide what stays of it."""
    given = System.join(state.root.path, f"{worker}.d")
    try:
        paths = [System.join(given, name) for name in sorted(System.listdir(given))]
    except OSError:
        # It has a disk of its own.
        return []
    return [path for path in paths if path not in state.made]


def dispose(
    state: SessionState, nodeid: str, made: Iterable[Made], *, failed: bool, policy: str
) -> None:
    """Remove each path, or note that it is kept.

    :param nodeid: The test that the index will name beside the path.
    :param failed: Whether a test that used them failed.
    """

    def reason(each: Made) -> str | None:
        return reason_to_keep(policy, failed=failed, asked=each.keep)

    made = list(made)
    wanted = [each for each in made if reason(each) is not None]
    for each in (*wanted, *renamed(state, wanted)):
        why = reason(each)
        if why is not None and System.lexists(each.path):
            state.kept.append(Kept(nodeid, each.path, why, state.worker.name))
            state.spared |= parents(each.path)
    for each in made:
        # What is kept may lie in what would go, by `dir=`.
        if reason(each) is None and each.path not in state.spared:
            remove(state, each)


def renamed(state: SessionState, made: Iterable[Made]) -> list[Made]:
    """Return, under its new name, what of *made* has got another one in our root."""
    made = list(made)
    there = {each.inode for each in made if each.inode == identity(each.path)}
    gone = {each.inode: each for each in made if each.inode is not None}
    inodes = gone.keys() - there
    if not inodes:
        return []
    # What stands there by its own name only bears a number that was given back.
    known = {each.path for lending in (*state.lent, *state.due) for each in lending.made}
    known.update(each.path for each in made)
    known.update(each.path for each in state.kept)
    found = search.find(state.root, state.worker, inodes)
    return [
        gone[inode]._replace(path=path, identity=None) for inode, path in found if path not in known
    ]


def remove(state: SessionState, made: Made, tick: Callable[[], object] | None = None) -> None:
    """Remove what a fixture gave, or what was left; what cannot go becomes one warning."""
    path, identity = made.path, made.identity
    if System.getpid() != state.pid:
        return
    _leave(state, path)
    try:
        failures = _remove(state, path, identity, tick)
        if failures and failures[0].error.errno == errno.EACCES and state.open_again():
            failures = _remove(state, path, identity, tick)
    except OSError as refusal:
        state.warn_of(refusal, "remove", f"could not remove {path}: {refusal}")
        return
    if failures:
        state.warn_of(failures[0].error, "remove", _remaining(path, failures))


def _remove(
    state: SessionState,
    path: str,
    identity: tuple[int, int] | None,
    tick: Callable[[], object] | None,
) -> list[Failure]:
    return state.root.remove(path, tick) if identity is None else remove_made(path, identity)


def index(state: SessionState) -> None:
    """Write down what is kept; a disk that is full is tried again when leaks are gone."""
    try:
        write_index(
            state.root,
            state.kept,
            rootdir=str(state.about["rootdir"]),
            run=str(state.about["run"]),
        )
    except OSError as error:
        state.unindexed = True
        fate = (
            "the next session removes what was kept, unless it can be written once leaks are gone"
        )
        if all(state.write_down(each.nodeid, [each.path]) for each in state.kept):
            fate = "what was kept stands in the journal"
        state.warn_of(error, "index", f"the index could not be written: {error}; {fate}")
    else:
        state.unindexed = False


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
