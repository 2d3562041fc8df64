"""The current owner of new paths: the test, fixture or collector that pytest is running."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator
import contextlib
import sys
from typing import Any
from typing import Final

import pytest

from pytest_tempres import markers
from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Work
from pytest_tempres.primitives._system import System
from pytest_tempres.session.state import CurrentTest
from pytest_tempres.session.state import SessionState

__all__ = ["begin_test", "collecting", "end_test", "recreate", "scan", "setting_up"]

#: A finalizer, as pytest takes it.
Finalizer = Callable[[], object]
#: The prefixes of the fixtures through which pytest runs xunit and unittest set-up.
_XUNIT: Final = {
    "_xunit_setup_module_fixture_": (
        *("setup_module", "setUpModule"),
        *("teardown_module", "tearDownModule"),
    ),
    "_xunit_setup_class_fixture_": ("setup_class", "teardown_class"),
    "_unittest_setUpClass_fixture_": ("setUpClass", "tearDownClass"),
}


def scan(
    state: SessionState, ledger: Ledger, *, final: bool = False, needed: bool = False
) -> list[Entry]:
    """Record what is new in the worker root; restore its mode if a test changed that.

    :param needed: Whether to create the worker root again if it is gone. A test that has
        renamed it may still rename it back.
    """
    try:
        if ledger.origins.error is not None:
            _warn_of_owner(state, ledger.origins.error)
        try:
            return ledger.scan(final=final)
        except PermissionError:
            if not state.workspace.restore_modes():
                raise
            return ledger.scan(final=final)
    except FileNotFoundError:
        if needed:
            recreate(state, ledger)
    except Exception as error:  # noqa: BLE001 -- a scan must not change a test's outcome
        text = f"leaks may be missed: {error!r}"
        state.messages.warn_of(error, "look", text, TempresLeakWarning)
    return []


def recreate(state: SessionState, ledger: Ledger) -> None:
    """Create the directories of this worker again, and forget what was in them."""
    # A forked child may outlive the session, and would leave the directories behind.
    if System.getpid() == state.workspace.pid:
        ledger.forget()
        state.workspace.recreate()


def begin_test(state: SessionState, item: pytest.Item) -> None:
    """Make *item* the current owner."""
    state.tests.current = CurrentTest(item)
    state.workspace.hold_lock()
    ledger = state.leaks.ledger
    if ledger is None:
        return
    scan(state, ledger, needed=True)
    file, line, _ = item.location
    location = file if line is None else f"{file}:{line + 1}"
    ledger.enter(Owner("test", item.nodeid, None, location), test=item.nodeid)


def end_test(state: SessionState) -> None:
    """Make the session the current owner."""
    if state.leaks.ledger is not None:
        state.leaks.ledger.enter(SESSION, test=None)


def collecting(
    state: SessionState, collector: pytest.Collector
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Make *collector* the owner of what its import creates, and reject wrong marker arguments."""
    ledger = state.leaks.ledger
    if ledger is None:
        report = yield
        return _reject_markers(report)
    scan(state, ledger)
    if isinstance(collector, pytest.Package):
        _wrap_package_setup(state, collector)
    owner = Owner("collection", collector.nodeid or ".")
    before = ledger.enter(owner, test=None)
    try:
        report = yield
    finally:
        found = scan(state, ledger)
        ledger.leave(before)
    if report.failed:
        ledger.failed_owners.add(owner)
        ledger.mark_as_from_failed(found)
    return _reject_markers(report)


def _reject_markers(report: pytest.CollectReport) -> pytest.CollectReport:
    if report.passed:
        problems = [text for node in report.result or () for text in markers.problems(node)]
        if problems:
            report.outcome = "failed"
            report.longrepr = "\n".join(problems)
            report.result = []
    return report


def setting_up(
    state: SessionState, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Make a fixture the owner of what its setup and its teardown create.

    A finalizer that is registered before the fixture's own ones runs after them, and one that
    is registered later runs before them, so these two show when the teardown begins and ends.
    """
    ledger = state.leaks.ledger
    owner = _try_owner_of_fixture(state, fixturedef, request)
    if ledger is None or owner is None:
        return (yield)
    with _as_current_owner(state, ledger, owner, fixturedef.addfinalizer):
        return (yield)


@contextlib.contextmanager
def _as_current_owner(
    state: SessionState, ledger: Ledger, owner: Owner, addfinalizer: Callable[[Finalizer], None]
) -> Generator[None, None, None]:
    """Make *owner* the current owner in the context, which is its setup, and in its teardown."""
    scan(state, ledger)
    teardown = _Teardown(state, ledger, owner)
    addfinalizer(teardown.end)
    before = ledger.enter(owner, test=ledger.running.test, phase="setup")
    failed = False
    try:
        yield
    except BaseException as error:
        failed = _is_failure(error, owner.scope)
        raise
    finally:
        found = scan(state, ledger)
        ledger.leave(before)
        addfinalizer(teardown.begin)
        if failed:
            ledger.failed_owners.add(owner)
            ledger.mark_as_from_failed(found)


def _wrap_package_setup(state: SessionState, package: pytest.Package) -> None:
    """Wrap `Package.setup`, which pytest calls outside all fixtures."""
    original = package.setup
    owner = Owner("fixture", "setup_module", "package")

    def setup() -> None:
        if state.leaks.ledger is None:
            return original()
        with _as_current_owner(state, state.leaks.ledger, owner, package.addfinalizer):
            return original()

    package.setup = setup  # type: ignore[method-assign]


def _is_failure(error: BaseException, scope: str | None) -> bool:
    """Whether to mark what a fixture left as left by a failed test, after it raised *error*.

    A failed test marks what its function-scoped fixtures left. That does not cover wider
    scopes, nor an interrupted fixture, for which there is no report.
    """
    unittest = sys.modules.get("unittest")
    skips = (pytest.skip.Exception, pytest.xfail.Exception)
    if isinstance(error, skips) or (unittest and isinstance(error, unittest.SkipTest)):
        return False
    return scope != "function" or isinstance(error, (KeyboardInterrupt, pytest.exit.Exception))


class _Teardown:
    """The finalizers that run before and after a fixture's own ones."""

    def __init__(self, state: SessionState, ledger: Ledger, owner: Owner) -> None:
        self._state = state
        self._ledger = ledger
        self._owner = owner
        self._before: Work | None = None

    def begin(self) -> None:
        scan(self._state, self._ledger)
        test = self._ledger.running.test
        self._before = self._ledger.enter(self._owner, test=test, phase="teardown")

    def end(self) -> None:
        if self._before is not None:
            scan(self._state, self._ledger)
            self._ledger.leave(self._before)
            self._before = None
            if self._ledger.provisional is not None:
                self._ledger.provisional.finish_owner(self._owner, self._ledger.not_yet_sent)


def _try_owner_of_fixture(
    state: SessionState, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Owner | None:
    if state.leaks.ledger is None:
        return None
    try:
        return _owner_of_fixture(fixturedef, request, state.leaks.ledger)
    except Exception as error:  # noqa: BLE001 -- an unknown owner must not fail a test
        _warn_of_owner(state, error)
        return None


def _warn_of_owner(state: SessionState, error: Exception) -> None:
    state.messages.warn(
        "owner", f"leaks may be reported for the wrong owner: {error!r}", TempresLeakWarning
    )


def _owner_of_fixture(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest, ledger: Ledger
) -> Owner | None:
    """Return the owner for a fixture; None if the current owner does not change.

    The fixtures of pytest and of this plugin create nothing in the worker root themselves.
    What `setUp` and `setup_method` create belongs to their test.
    """
    func = fixturedef.func
    name = fixturedef.argname
    module = getattr(func, "__module__", None) or ""
    if module.startswith("_pytest."):
        for prefix, methods in _XUNIT.items():
            if name.startswith(prefix):
                return _xunit_owner(fixturedef, request, ledger, methods)
        return None
    if module == "pytest_tempres.fixtures":
        return None
    return Owner("fixture", name, fixturedef.scope, _location(func, ledger))


def _xunit_owner(
    fixturedef: pytest.FixtureDef[Any],
    request: pytest.FixtureRequest,
    ledger: Ledger,
    methods: tuple[str, ...],
) -> Owner:
    """Return the owner for the set-up of a module or class, named after its method."""
    # `request.cls` raises in a module-scoped fixture.
    holder = request.cls if fixturedef.scope == "class" else request.module
    for method in methods:
        # Methods that a class inherits from `unittest.TestCase` have no location.
        location = _location(getattr(holder, method, None), ledger)
        if location is not None:
            return Owner("fixture", method, fixturedef.scope, location)
    return Owner("fixture", methods[0], fixturedef.scope)


def _location(func: Any, ledger: Ledger) -> str | None:
    """Return the file and line of *func*; None if it is in the standard library."""
    func = getattr(func, "__func__", func)
    code = getattr(getattr(func, "__wrapped__", func), "__code__", None)
    if code is None:
        return None
    file = ledger.frame_filter.report_name(System.abspath(code.co_filename))
    return None if file is None else f"{file}:{code.co_firstlineno}"
