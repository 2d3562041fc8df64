"""The start and the stop of a session: settings, directories, temp location, detectors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
import functools
import os
from pathlib import Path
import tempfile
from typing import TYPE_CHECKING
from typing import Any
from typing import Final

import pytest

from pytest_tempres import options
from pytest_tempres.exceptions import TempresCleanupWarning
from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.leaks.deferred import removed_by_handlers
from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.temp import audit
from pytest_tempres.leaks.verdict import SHIPPED
from pytest_tempres.leaks.verdict import Ignore
from pytest_tempres.options import Settings
from pytest_tempres.primitives._system import System
from pytest_tempres.session import end
from pytest_tempres.session import ownership
from pytest_tempres.session.cleanup import clear
from pytest_tempres.session.messages import Messages
from pytest_tempres.session.messages import warn_user
from pytest_tempres.session.state import LeakDetection
from pytest_tempres.session.state import Membership
from pytest_tempres.session.state import Retention
from pytest_tempres.session.state import SessionState
from pytest_tempres.session.state import Workspace
from pytest_tempres.session.state import session_key
from pytest_tempres.session.temp_location import SYSTEM_TMPDIR
from pytest_tempres.session.temp_location import Redirect
from pytest_tempres.workspace.proof import BREADCRUMB
from pytest_tempres.workspace.proof import has_root_name
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import WorkerRoot
from pytest_tempres.workspace.root import create

if TYPE_CHECKING:
    from pytest_tempres.leaks.baseline import Known

__all__ = ["CollectionHooks", "is_root_below_rootdir", "keep_basetemp", "start"]

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
        system_tmpdir = _system_tmpdir(worker=membership.is_worker)
        metadata = {
            "rootdir": str(config.rootpath),
            "started": System.time(),
            "run": membership.run,
        }
        parent = settings.root or system_tmpdir
        root, worker = _create_directories(config, settings, parent, metadata, membership)
    except OSError as error:
        if settings.root is not None and not membership.is_worker:
            raise pytest.UsageError(str(error)) from error
        warn_user(config, TempresCleanupWarning(f"temporary resources are off: {error}"))
        return None
    messages = Messages(config, root.path)
    workspace = Workspace(
        root=root,
        worker=worker,
        metadata=metadata,
        mode=settings.root_mode,
        system_tmpdir=system_tmpdir,
        messages=messages,
    )
    ledger = _open_ledger(config, settings, root, worker)
    state = SessionState(
        config=config,
        settings=settings,
        messages=messages,
        workspace=workspace,
        retention=Retention(workspace, settings.keep),
        leaks=LeakDetection(str(config.rootpath), ledger, baseline),
    )
    state.retention.open_journal()
    _move_temp_location(state)
    if state.leaks.ledger is not None:
        _start_detection(state, state.leaks.ledger, membership)
    return state


def _move_temp_location(state: SessionState) -> None:
    """Move the temp location, and register the cleanup that restores it."""
    redirect = Redirect()
    if state.settings.redirect:
        state.leaks.callbacks = redirect.callbacks
        redirect.move(state.workspace.worker.path, state.workspace.system_tmpdir)
    state.config.add_cleanup(lambda: _stop(state, redirect))
    state.config.stash[session_key] = state


def _start_detection(state: SessionState, ledger: Ledger, membership: Membership) -> None:
    if state.settings.detect != {"temp"}:
        from pytest_tempres.session import detectors  # noqa: PLC0415 -- few sessions use others

        try:
            detectors.add(state, ledger, membership)
        except Exception as error:  # noqa: BLE001 -- a detector must not end the session
            state.messages.warn(
                "detectors", f"a detector could not start: {error!r}", TempresLeakWarning
            )
    ledger.origins.recreate = functools.partial(ownership.recreate, state, ledger)
    if membership.is_worker:
        from pytest_tempres.leaks.deferred import Provisional  # noqa: PLC0415 -- for workers

        ledger.provisional = Provisional(lambda: removed_by_handlers(state.leaks.callbacks))
    audit.activate(ledger.origins)


def _read_baseline(settings: Settings, *, joined: bool) -> dict[str, Known]:
    path = settings.baseline
    # A worker on another host has no such file; its controller marks the known leaks.
    if path is None or not System.exists(path):
        return {}
    from pytest_tempres.leaks import baseline  # noqa: PLC0415 -- few sessions have a baseline

    try:
        return baseline.read(path)
    except (OSError, ValueError) as error:
        if joined or settings.update_baseline == "all":
            return {}
        raise pytest.UsageError(f"--tempres-baseline={path}: {error}") from error


def _system_tmpdir(*, worker: bool) -> str:
    """Return the temp location without this plugin; a worker inherits one that was moved."""
    system = os.environ.get(SYSTEM_TMPDIR, "") if worker else ""
    return system if System.isdir(system) else tempfile.gettempdir()


def _create_directories(
    config: pytest.Config,
    settings: Settings,
    parent: str,
    metadata: dict[str, object],
    membership: Membership,
) -> tuple[SessionRoot, WorkerRoot]:
    joined = membership.root
    if joined is not None:
        return joined, joined.add_worker(membership.name, settings.root_mode)
    if membership.is_worker:
        # All workers on that host send the same text, so pytest shows it once.
        text = f"{membership.host} does not see {membership.announced}: "
        warn_user(config, TempresLeakWarning(f"{text}workers there have directories of their own"))
    mode = settings.root_mode & 0o755 if settings.root_mode != 0o1777 else 0o711
    root = create(parent, mode=mode, metadata=metadata)
    try:
        return root, root.add_worker(membership.name, settings.root_mode)
    except OSError:
        root.remove_if_empty()
        raise


def _open_ledger(
    config: pytest.Config, settings: Settings, root: SessionRoot, worker: WorkerRoot
) -> Ledger | None:
    if settings.leaks == "off":
        return None
    real = System.realpath(root.path)
    ledger = Ledger(
        worker.path,
        worker=worker.name,
        rootdir=str(config.rootpath),
        prefixes=() if real == root.path else (System.join(real, worker.name),),
        inside=tuple(System.join(path, "") for path in {root.path, real}),
        ignored=Ignore(worker.path, (*SHIPPED, *settings.ignore)).matches,
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
        if state.leaks.ledger is not None:
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
    if System.getpid() != state.workspace.pid:
        return
    end.release(state)
    if state.leaks.ledger is not None:
        audit.deactivate(state.leaks.ledger.origins)
    redirect.restore()
    del state.config.stash[session_key]
    state.messages.warnings_printed = True
    if state.workspace.joined:
        state.retention.journal.close()
        state.workspace.root.release()
        return
    for step in (_sweep, clear):
        try:
            step(state)
        except Exception as error:  # noqa: BLE001 -- an internal error becomes a warning
            state.messages.warn_of(error, "stop", f"what was left could not be removed: {error!r}")


def _sweep(state: SessionState) -> None:
    """Sweep dead sessions if the terminal report has not done so; this reports nothing."""
    from pytest_tempres.session import cleanup  # noqa: PLC0415 -- needed at the end alone

    cleanup.reclaim(state)


class CollectionHooks:
    """The hook that ignores session roots; registered only if needed: it runs for each path."""

    @pytest.hookimpl
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Ignore session roots, also those of other users."""
        if not has_root_name(collection_path.name):
            return None
        path = str(collection_path)
        if System.lexists(System.join(path, BREADCRUMB)):
            return True
        # The breadcrumb in another user's session root cannot be seen.
        return None if System.access(path, os.R_OK | os.X_OK) else True
