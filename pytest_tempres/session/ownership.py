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
from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Work
from pytest_tempres.primitives._system import System
from pytest_tempres.session.detection import LeakDetection

__all__ = ["collecting", "setting_up"]

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


def collecting(
    leaks: LeakDetection, collector: pytest.Collector
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Make *collector* the owner of what its import creates, and reject wrong marker arguments."""
    if not leaks.is_on:
        return _reject_markers((yield))
    ledger = leaks.ledger
    leaks.scan()
    if isinstance(collector, pytest.Package):
        _wrap_package_setup(leaks, collector)
    owner = Owner("collection", collector.nodeid or ".")
    before = ledger.enter(owner, test=None)
    try:
        report = yield
    finally:
        found = leaks.scan()
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
    leaks: LeakDetection, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Make a fixture the owner of what its setup and its teardown create.

    A finalizer that is registered before the fixture's own ones runs after them, and one that
    is registered later runs before them, so these two show when the teardown begins and ends.
    """
    owner = None
    if leaks.is_on:
        try:
            owner = _owner_of_fixture(fixturedef, request, leaks.ledger)
        except Exception as error:  # noqa: BLE001 -- an unknown owner must not fail a test
            leaks.warn_about_owner(error)
    if owner is None:
        return (yield)
    with _as_current_owner(leaks, owner, fixturedef.addfinalizer):
        return (yield)


@contextlib.contextmanager
def _as_current_owner(
    leaks: LeakDetection, owner: Owner, addfinalizer: Callable[[Finalizer], None]
) -> Generator[None, None, None]:
    """Make *owner* the current owner in the context, which is its setup, and in its teardown."""
    leaks.scan()
    ledger = leaks.ledger
    teardown = _Teardown(leaks, owner)
    addfinalizer(teardown.end)
    before = ledger.enter(owner, test=ledger.running.test, phase="setup")
    failed = False
    try:
        yield
    except BaseException as error:
        failed = _is_failure(error, owner.scope)
        raise
    finally:
        found = leaks.scan()
        ledger.leave(before)
        addfinalizer(teardown.begin)
        if failed:
            ledger.failed_owners.add(owner)
            ledger.mark_as_from_failed(found)


def _wrap_package_setup(leaks: LeakDetection, package: pytest.Package) -> None:
    """Wrap `Package.setup`, which pytest calls outside all fixtures."""
    original = package.setup
    owner = Owner("fixture", "setup_module", "package")

    def setup() -> None:
        with _as_current_owner(leaks, owner, package.addfinalizer):
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

    def __init__(self, leaks: LeakDetection, owner: Owner) -> None:
        self._leaks = leaks
        self._ledger = leaks.ledger
        self._owner = owner
        self._before: Work | None = None

    def begin(self) -> None:
        self._leaks.scan()
        test = self._ledger.running.test
        self._before = self._ledger.enter(self._owner, test=test, phase="teardown")

    def end(self) -> None:
        if self._before is not None:
            self._leaks.scan()
            self._ledger.leave(self._before)
            self._before = None
            if self._ledger.provisional is not None:
                self._ledger.provisional.finish_owner(self._owner, self._ledger.not_yet_sent)


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
