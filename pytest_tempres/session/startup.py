"""How does a session start and stop? What is between is the hooks' business."""

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
from pytest_tempres.workspace.proof import bears_our_name
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import WorkerRoot
from pytest_tempres.workspace.root import create

if TYPE_CHECKING:
    from pytest_tempres.leaks.baseline import Known

__all__ = ["CollectionHooks", "leave_basetemp_alone", "stands_among_tests", "start"]

#: Set once a start was tried: what cannot be made early cannot be made later either.
_tried_key: Final = pytest.StashKey[bool]()


def start(
    config: pytest.Config, find_membership: Callable[[pytest.Config], Membership]
) -> SessionState | None:
    """Make the session's directories and move the temp location into them.

    :returns: None when nothing will run, or when the directories cannot be made:
        the suite then runs as it would without us, but for one warning.
    :raises pytest.UsageError: For an option that is wrong.
    """
    namespace = config.known_args_namespace
    if namespace.help or namespace.version or config.stash.get(_tried_key, False):
        return None
    config.stash[_tried_key] = True
    membership = find_membership(config)
    settings = options.read(config, namespace, joined=membership.is_worker)
    baseline = _read_baseline(settings, joined=membership.is_worker)
    if settings.detect != {"temp"}:
        from pytest_tempres.session import detectors  # noqa: PLC0415 -- few look for more

        detectors.check_supported(settings)
    try:
        system_tmpdir = _system_tmpdir(worker=membership.is_worker)
        about = {
            "rootdir": str(config.rootpath),
            "started": System.time(),
            "run": membership.run,
        }
        parent = settings.root or system_tmpdir
        root, worker = _make_place(config, settings, parent, about, membership)
    except OSError as error:
        if settings.root is not None and not membership.is_worker:
            raise pytest.UsageError(str(error)) from error
        warn_user(config, TempresCleanupWarning(f"temporary resources are off: {error}"))
        return None
    messages = Messages(config, root.path)
    workspace = Workspace(
        root=root,
        worker=worker,
        metadata=about,
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
    _begin(state)
    if state.leaks.ledger is not None:
        _listen(state, state.leaks.ledger, membership)
    return state


def _begin(state: SessionState) -> None:
    """Move the temp location, and see to it that it is restored whatever comes."""
    redirect = Redirect()
    if state.settings.redirect:
        state.leaks.callbacks = redirect.callbacks
        redirect.move(state.workspace.worker.path, state.workspace.system_tmpdir)
    state.config.add_cleanup(lambda: _stop(state, redirect))
    state.config.stash[session_key] = state


def _listen(state: SessionState, ledger: Ledger, membership: Membership) -> None:
    if state.settings.detect != {"temp"}:
        from pytest_tempres.session import detectors  # noqa: PLC0415 -- few look for more

        try:
            detectors.add(state, ledger, membership)
        except Exception as error:  # noqa: BLE001 -- no look may end the session
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
    # A worker on another host does without: it accuses nobody that its controller pardons.
    if path is None or not System.exists(path):
        return {}
    from pytest_tempres.leaks import baseline  # noqa: PLC0415 -- few have one

    try:
        return baseline.read(path)
    except (OSError, ValueError) as error:
        if joined or settings.update_baseline == "all":
            return {}
        raise pytest.UsageError(f"--tempres-baseline={path}: {error}") from error


def _system_tmpdir(*, worker: bool) -> str:
    """Return where the temp location is without us; a worker inherits one that has moved."""
    system = os.environ.get(SYSTEM_TMPDIR, "") if worker else ""
    return system if System.isdir(system) else tempfile.gettempdir()


def _make_place(
    config: pytest.Config,
    settings: Settings,
    parent: str,
    about: dict[str, object],
    membership: Membership,
) -> tuple[SessionRoot, WorkerRoot]:
    shared = membership.root
    if shared is not None:
        return shared, shared.add_worker(membership.name, settings.root_mode)
    if membership.is_worker:
        # The same for all workers there, so that pytest tells it once.
        text = f"{membership.host} does not see {membership.announced}: "
        warn_user(config, TempresLeakWarning(f"{text}workers there have directories of their own"))
    mode = settings.root_mode & 0o755 if settings.root_mode != 0o1777 else 0o711
    root = create(parent, mode=mode, about=about)
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
    # Without pytest's cache plugin there is no such option, and no cache.
    with suppress(ValueError):
        ledger.origins.exclude(System.join(config.rootpath, config.getini("cache_dir")))
    if settings.artifacts is not None:
        ledger.origins.exclude(settings.artifacts)
    return ledger


def leave_basetemp_alone(config: pytest.Config, state: SessionState) -> None:
    """Let `tmp_path` have the place that pytest would give it.

    pytest asks `tempfile` for it when it is first needed, so the answer of that
    one moment has to be the system's. The factory's name is private to pytest;
    pytest-xdist relies on it as we do.
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


def stands_among_tests(state: SessionState) -> bool:
    """Whether session roots stand below rootdir, where kept ones would be collected."""
    parent = System.realpath(System.dirname(state.workspace.root.path))
    rootdir = System.realpath(state.config.rootpath)
    return System.join(parent, "").startswith(System.join(rootdir, ""))


def _stop(state: SessionState, redirect: Redirect) -> None:
    """Put the temp location back, and leave nothing behind but what is kept."""
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
    for deed in (_reclaim, clear):
        try:
            deed(state)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is ours
            state.messages.warn_of(error, "stop", f"what was left could not be removed: {error!r}")


def _reclaim(state: SessionState) -> None:
    """Look after dead sessions where no report did it: nobody is told of it then."""
    from pytest_tempres.session import cleanup  # noqa: PLC0415 -- needed at the end alone

    cleanup.reclaim(state)


class CollectionHooks:
    """Registered only where roots stand among tests: pytest asks for each file and directory."""

    @pytest.hookimpl
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Pass session roots by, whoever made them: nothing is removed here."""
        if not bears_our_name(collection_path.name):
            return None
        path = str(collection_path)
        if System.lexists(System.join(path, BREADCRUMB)):
            return True
        # In another user's root not even the breadcrumb can be seen.
        return None if System.access(path, os.R_OK | os.X_OK) else True
