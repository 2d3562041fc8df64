"""The entry point: the hooks of pytest, which delegate to the other modules."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator
from typing import Any

import pytest

from pytest_tempres import as_written  # noqa: F401 -- before the imports that it affects
from pytest_tempres import hookspecs
from pytest_tempres import markers
from pytest_tempres import options
from pytest_tempres.fixtures import named_temp_file
from pytest_tempres.fixtures import spooled_file
from pytest_tempres.fixtures import temp_dir
from pytest_tempres.fixtures import temp_file
from pytest_tempres.fixtures import temp_resources
from pytest_tempres.fixtures import temp_resources_class
from pytest_tempres.fixtures import temp_resources_module
from pytest_tempres.fixtures import temp_resources_package
from pytest_tempres.fixtures import temp_resources_session
from pytest_tempres.primitives import _process
from pytest_tempres.primitives._system import System
from pytest_tempres.reports.targets import GITHUB
from pytest_tempres.session import end
from pytest_tempres.session import ownership
from pytest_tempres.session import retention
from pytest_tempres.session import runtest
from pytest_tempres.session import startup as sessions
from pytest_tempres.session.end import EndHooks
from pytest_tempres.session.state import SessionState
from pytest_tempres.session.state import session_key
from pytest_tempres.workers import payload
from pytest_tempres.workers import xdist

__all__ = [
    "named_temp_file",
    "spooled_file",
    "temp_dir",
    "temp_file",
    "temp_resources",
    "temp_resources_class",
    "temp_resources_module",
    "temp_resources_package",
    "temp_resources_session",
]

_process.at_exit()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks of this plugin."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Move the temp location before anything of the project is imported."""
    _start(early_config)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, and start the session if a conftest has loaded the plugin."""
    markers.register(config)
    state = config.stash.get(session_key, None) or _start(config)
    if state is None:
        return
    if state.is_worker:
        state.reported.send = xdist.send
    sessions.keep_basetemp(config, state)
    _register_optional_hooks(config, state)
    forked = config.pluginmanager.hasplugin("pytest_forked")
    if state.is_worker or forked or config.getoption("dist", "no") != "no":
        _receive_reports(state)
    if sessions.is_root_below_rootdir(state):
        from pytest_tempres.session.startup import CollectionHooks  # noqa: PLC0415 -- rarely needed

        config.pluginmanager.register(CollectionHooks(), "tempres-uncollected")
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(xdist.ControllerHooks(state), "tempres-xdist")


def _register_optional_hooks(config: pytest.Config, state: SessionState) -> None:
    """Register the hooks of options that are rarely used."""
    if state.settings.leaks == "strict":
        from pytest_tempres.session.strict import StrictHooks  # noqa: PLC0415 -- rarely needed

        config.pluginmanager.register(StrictHooks(state), "tempres-strict")
    if GITHUB in state.settings.reports and not state.is_worker:
        from pytest_tempres.session.annotations import AnnotationHooks  # noqa: PLC0415 -- as above

        config.pluginmanager.register(AnnotationHooks(state), "tempres-annotations")
    if state.leaks.baseline:
        from pytest_tempres.session.baseline_tally import TallyHooks  # noqa: PLC0415 -- rarely needed

        config.pluginmanager.register(TallyHooks(state), "tempres-tally")
    if state.settings.artifacts is not None:
        from pytest_tempres.session.retention import ArtifactsHooks  # noqa: PLC0415 -- rarely needed

        config.pluginmanager.register(ArtifactsHooks(state.settings.artifacts), "tempres-artifacts")


def _start(config: pytest.Config) -> SessionState | None:
    state = sessions.start(config, xdist.membership)
    if state is not None:
        config.pluginmanager.register(SessionHooks(state), "tempres-session")
    return state


def _receive_reports(state: SessionState) -> None:
    if not state.config.pluginmanager.hasplugin("tempres-reports"):
        state.config.pluginmanager.register(ReportHooks(state), "tempres-reports")


class SessionHooks:
    """The hooks of a started session; they share its state without a look-up in the stash."""

    def __init__(self, state: SessionState) -> None:
        self._state = state

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Record which collector is running: it imports modules."""
        return (yield from ownership.collecting(self._state, collector))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        """Register the wrapper of the session's end after all plugins, so that it is outermost."""
        hooks = EndHooks(self._state, self._finish)
        self._state.config.pluginmanager.register(hooks, "tempres-end")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Record which test is running, and apply the retention policy after its last report."""
        self._try(ownership.begin_test, item)
        completed = False
        try:
            result = yield
            completed = True
            return result
        finally:
            self._try(runtest.finish_test, completed)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Record which fixture is running."""
        return (yield from ownership.setting_up(self._state, fixturedef, request))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Begin an attempt: a plugin may run a test several times."""
        self._try(runtest.begin_attempt)

    def pytest_exception_interact(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        """Record a failure immediately, and list in its report the paths that are kept."""
        self._try(payload.failed, report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Do the same for failures without an exception, such as a strict xfail that passes."""
        if report.outcome == "failed":
            self._try(payload.failed, report)

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, settings: Any) -> None:
        """Write created paths to disk at once: this timer ends the process without a report."""
        if settings.method == "thread":
            self._try(retention.write_at_once)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """Prepare for the end of the session; the hook `pytest_tempres_keep` needs the reports."""
        if self._state.config.hook.pytest_tempres_keep.get_hookimpls():
            _receive_reports(self._state)
        self._try(end.prepare)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Find leaks after all teardown, before the terminal and pytest-xdist finish."""
        try:
            return (yield)
        finally:
            self._finish(session)

    def _finish(self, session: pytest.Session) -> None:
        if not self._state.result.finished:
            self._state.result.finished = True
            if System.getpid() == self._state.workspace.pid:
                end.release(self._state)
            self._try(_finish, session)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the report, then sweep dead sessions."""
        if self._state.result.summary is not None and self._state.settings.prints:
            self._try(_print_report, terminalreporter)
        self._try(_reclaim, terminalreporter)

    def _try(self, function: Callable[..., object], *args: Any) -> None:
        """Call *function*; an error in this plugin is a warning and does not stop pytest."""
        try:
            function(self._state, *args)
        except Exception as error:  # noqa: BLE001 -- no bug of this plugin may stop the tests
            name = function.__name__.strip("_")
            self._state.messages.warn_of(error, name, f"internal error in {name}: {error!r}")


class ReportHooks:
    """The hooks for reports from other processes, and for a plugin that decides what is kept."""

    def __init__(self, state: SessionState) -> None:
        self._state = state

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put what the attempt created and left behind into the report."""
        report = yield
        try:
            payload.pack(self._state, item, report)
        except Exception as error:  # noqa: BLE001 -- no bug of this plugin may stop the tests
            self._state.messages.warn("pack", f"internal error in pack: {error!r}")
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome and the payload of a report."""
        try:
            payload.received(self._state, report)
        except Exception as error:  # noqa: BLE001 -- no bug of this plugin may stop the tests
            self._state.messages.warn("received", f"internal error in received: {error!r}")


def _finish(state: SessionState, session: pytest.Session) -> None:
    from pytest_tempres.session.finish import finish  # noqa: PLC0415 -- needed at the end only

    finish(state, session)


def _print_report(state: SessionState, terminalreporter: pytest.TerminalReporter) -> None:
    from pytest_tempres.reports import terminal  # noqa: PLC0415 -- loaded when used

    if state.result.summary is not None:
        terminal.write(state.result.summary, terminalreporter)
        state.result.printed = True


def _reclaim(state: SessionState, terminalreporter: pytest.TerminalReporter) -> None:
    from pytest_tempres.session.cleanup import reclaim  # noqa: PLC0415 -- needed at the end only

    found = reclaim(state)
    if found.sessions and state.settings.prints:
        from pytest_tempres.reports import terminal  # noqa: PLC0415 -- loaded when used

        terminal.write_reclaimed(found, terminalreporter)
