"""The start and the stop of a session: settings, directories, temp location and detectors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
import os
from pathlib import Path
import tempfile
from typing import Any
from typing import Final

import pytest

from pytest_tempres import options
from pytest_tempres.exceptions import TempresCleanupWarning
from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.leaks import deferred
from pytest_tempres.leaks import verdict
from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.baseline import read
from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.temp import audit
from pytest_tempres.options import Settings
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.targets import FORMATS
from pytest_tempres.session import cleanup
from pytest_tempres.session.detection import LeakDetection
from pytest_tempres.session.messages import Messages
from pytest_tempres.session.messages import warn_user
from pytest_tempres.session.retention import Retention
from pytest_tempres.session.state import Membership
from pytest_tempres.session.state import SessionState
from pytest_tempres.session.state import session_key
from pytest_tempres.session.temp_location import SYSTEM_TMPDIR
from pytest_tempres.session.temp_location import Redirect
from pytest_tempres.session.workspace import Workspace
from pytest_tempres.workspace import proof
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import WorkerRoot
from pytest_tempres.workspace.root import create

__all__ = ["CollectionHooks", "is_root_below_rootdir", "keep_basetemp", "prepare_end", "start"]

#: Set at the first attempt to start; after a failure there is no second attempt.
_tried_key: Final = pytest.StashKey[bool]()


def start(
    config: pytest.Config, find_membership: Callable[[pytest.Config], Membership]
) -> SessionState | None:
    """Create the directories of the session and move the temp location into them.

    :returns: None if no tests will run, or if the directories cannot be created: the tests
        then run as without this plugin, and there is one warning.
    :raises pytest.UsageError: If an option is wrong.
    """
    namespace = config.known_args_namespace
    if namespace.help or namespace.version or config.stash.get(_tried_key, False):
        return None
    config.stash[_tried_key] = True
    membership = find_membership(config)
    settings = options.read(config, namespace, joined=membership.is_worker)
    baseline = _read_baseline(settings, joined=membership.is_worker)
    if settings.detect != {"temp"}:
        from pytest_tempres.session import detectors  # noqa: PLC0415 -- few sessions use others

        detectors.check_supported(settings)
    try:
        workspace = _create_workspace(config, settings, membership)
    except OSError as error:
        if settings.root is not None and not membership.is_worker:
            raise pytest.UsageError(str(error)) from error
        warn_user(config, TempresCleanupWarning(f"temporary resources are disabled: {error}"))
        return None
    state = _create_state(config, settings, workspace, baseline)
    state.retention.open_journal()
    _move_temp_location(state)
    if state.leaks.is_on:
        _start_detection(state, membership)
    return state


def _create_state(
    config: pytest.Config, settings: Settings, workspace: Workspace, baseline: dict[str, Known]
) -> SessionState:
    return SessionState(
        config=config,
        settings=settings,
        messages=workspace.messages,
        workspace=workspace,
        retention=Retention(workspace, settings.keep),
        leaks=LeakDetection(
            config,
            workspace,
            _create_ledger(config, settings, workspace),
            is_on=settings.leaks != "off",
            baseline=baseline,
        ),
    )


def _move_temp_location(state: SessionState) -> None:
    """Move the temp location, and register the cleanup that restores it."""
    redirect = Redirect()
    if state.settings.redirect:
        state.leaks.at_exit.callbacks = redirect.callbacks
        redirect.move(state.workspace.worker.path, state.workspace.system_tmpdir)
    state.config.add_cleanup(lambda: _stop(state, redirect))
    state.config.stash[session_key] = state


def _start_detection(state: SessionState, membership: Membership) -> None:
    ledger = state.leaks.ledger
    if state.settings.detect != {"temp"}:
        from pytest_tempres.session import detectors  # noqa: PLC0415 -- few sessions use others

        try:
            detectors.add(state, membership)
        except Exception as error:  # noqa: BLE001 -- a detector must not end the session
            text = f"a detector could not start: {error!r}"
            state.messages.warn("detectors", text, TempresLeakWarning)
    ledger.origins.recreate = state.leaks.recreate
    if membership.is_worker:
        ledger.provisional = deferred.Provisional(
            lambda: deferred.removed_by_handlers(state.leaks.at_exit.callbacks)
        )
    audit.activate(ledger.origins)


def prepare_end(state: SessionState) -> None:
    """Import the modules that a failure and the end need, and reserve descriptors for it."""
    from pytest_tempres.session import listing  # noqa: F401, PLC0415 -- only if tests run

    if not state.workspace.joined:
        from pytest_tempres.reports import terminal  # noqa: F401, PLC0415 -- as above

        if state.settings.artifacts is not None:
            from pytest_tempres.artifacts import export  # noqa: F401, PLC0415 -- as above
        for target in state.settings.reports:
            if target.type in FORMATS:
                FORMATS[target.type].load()
    state.workspace.reserve_descriptors()


def _read_baseline(settings: Settings, *, joined: bool) -> dict[str, Known]:
    path = settings.baseline
    # A worker on another host has no such file; its controller marks the known leaks.
    if path is None or not System.exists(path):
        return {}
    try:
        return read(path)
    except (OSError, ValueError) as error:
        if joined or settings.update_baseline == "all":
            return {}
        raise pytest.UsageError(f"--tempres-baseline={path}: {error}") from error


def _system_tmpdir(*, worker: bool) -> str:
    """Return the system's temp location; a worker inherits one that its controller has moved."""
    system = os.environ.get(SYSTEM_TMPDIR, "") if worker else ""
    return system if System.isdir(system) else tempfile.gettempdir()


def _create_workspace(
    config: pytest.Config, settings: Settings, membership: Membership
) -> Workspace:
    system_tmpdir = _system_tmpdir(worker=membership.is_worker)
    metadata = {"rootdir": str(config.rootpath), "started": System.time(), "run": membership.run}
    root = membership.root
    if root is not None:
        worker = root.add_worker(membership.name, settings.root_mode)
    else:
        if membership.is_worker:
            _warn_of_inaccessible_root(config, membership)
        parent = settings.root or system_tmpdir
        root, worker = _create_root(parent, settings.root_mode, metadata, membership.name)
    return Workspace(
        root=root,
        worker=worker,
        metadata=metadata,
        mode=settings.root_mode,
        system_tmpdir=system_tmpdir,
        invocation_dir=config.invocation_params.dir,
        messages=Messages(config, root.path),
    )


def _warn_of_inaccessible_root(config: pytest.Config, membership: Membership) -> None:
    # All workers on that host send the same text, so pytest shows it once.
    text = (
        f"{membership.host} cannot access {membership.controller_root}: "
        "workers there create their own session directories"
    )
    warn_user(config, TempresLeakWarning(text))


def _create_root(
    parent: str, mode: int, metadata: dict[str, object], name: str
) -> tuple[SessionRoot, WorkerRoot]:
    root = create(parent, mode=mode & 0o755 if mode != 0o1777 else 0o711, metadata=metadata)
    try:
        return root, root.add_worker(name, mode)
    except OSError:
        root.remove_if_empty()
        raise


def _create_ledger(config: pytest.Config, settings: Settings, workspace: Workspace) -> Ledger:
    root, worker = workspace.root.path, workspace.worker
    real = System.realpath(root)
    ledger = Ledger(
        worker.path,
        worker=worker.name,
        rootdir=str(config.rootpath),
        prefixes=() if real == root else (System.join(real, worker.name),),
        inside=tuple(System.join(path, "") for path in {root, real}),
        ignored=verdict.Ignore(worker.path, (*verdict.BUILTIN_PATTERNS, *settings.ignore)).matches,
        temp="temp" in settings.detect,
        plugins=config.pluginmanager.get_plugins,
    )
    # Without pytest's cacheprovider plugin there is no such option, and no cache.
    with suppress(ValueError):
        ledger.origins.exclude(System.join(config.rootpath, config.getini("cache_dir")))
    if settings.artifacts is not None:
        ledger.origins.exclude(settings.artifacts)
    return ledger


def keep_basetemp(config: pytest.Config, state: SessionState) -> None:
    """Keep the base directory of `tmp_path` where it is without this plugin.

    pytest calls `tempfile.gettempdir` when the first test uses `tmp_path`, so that call must
    return the system's temp location. `_tmp_path_factory` is private to pytest, but
    pytest-xdist uses it too.
    """
    factory: Any = getattr(config, "_tmp_path_factory", None)
    if factory is None:
        return
    find = factory.getbasetemp

    def getbasetemp() -> Any:
        before, tempfile.tempdir = tempfile.tempdir, state.workspace.system_tmpdir
        try:
            basetemp = find()
        finally:
            tempfile.tempdir = before
        state.leaks.ledger.origins.exclude(str(basetemp))
        if state.leaks.watched is not None:
            state.leaks.watched.exclude(str(basetemp))
        del factory.getbasetemp
        return basetemp

    factory.getbasetemp = getbasetemp


def is_root_below_rootdir(state: SessionState) -> bool:
    """Whether session roots are below rootdir, where pytest would collect kept ones."""
    parent = System.realpath(System.dirname(state.workspace.root.path))
    rootdir = System.realpath(state.config.rootpath)
    return System.join(parent, "").startswith(System.join(rootdir, ""))


def _stop(state: SessionState, redirect: Redirect) -> None:
    """Restore the temp location, and remove everything but the kept paths."""
    workspace = state.workspace
    if workspace.is_forked:
        return
    workspace.release_descriptors()
    audit.deactivate(state.leaks.ledger.origins)
    redirect.restore()
    del state.config.stash[session_key]
    state.messages.warnings_printed = True
    if workspace.joined:
        state.retention.journal.close()
        workspace.root.release()
        return
    # The terminal report may not have swept dead sessions.
    for step in (cleanup.sweep_dead_sessions, cleanup.remove_leftovers):
        try:
            step(state)
        except Exception as error:  # noqa: BLE001 -- an internal error becomes a warning
            text = f"not everything could be removed: {error!r}"
            state.messages.warn_of(error, "stop", text)


class CollectionHooks:
    """The hook that ignores session roots; registered only if needed: it runs for each path."""

    @pytest.hookimpl
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Ignore session roots, also those of other users."""
        if not proof.has_root_name(collection_path.name):
            return None
        path = str(collection_path)
        if System.lexists(System.join(path, proof.BREADCRUMB)):
            return True
        # In the session root of another user the breadcrumb is not visible.
        return None if System.access(path, os.R_OK | os.X_OK) else True
