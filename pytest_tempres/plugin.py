"""The entry point: implementations of pytest's hooks, which delegate to the other modules."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator
from typing import Any

import pytest

from pytest_tempres import assertion_rewriting  # noqa: F401 -- before the imports that it affects
from pytest_tempres import fixtures
from pytest_tempres import hookspecs
from pytest_tempres import markers
from pytest_tempres import options
from pytest_tempres.primitives import _process
from pytest_tempres.reports.targets import GITHUB
from pytest_tempres.session import ownership
from pytest_tempres.session import runtest
from pytest_tempres.session import startup
from pytest_tempres.session.baseline_tally import TallyHooks
from pytest_tempres.session.cleanup import sweep_dead_sessions
from pytest_tempres.session.finish import finish
from pytest_tempres.session.finish import must_fail
from pytest_tempres.session.messages import write_late
from pytest_tempres.session.retention import ArtifactsHooks
from pytest_tempres.session.state import SessionState
from pytest_tempres.session.state import session_key
from pytest_tempres.workers import payload
from pytest_tempres.workers import xdist

_process.install_exit_finalizer()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the hook specifications and the fixtures of this plugin."""
    pluginmanager.add_hookspecs(hookspecs)
    pluginmanager.register(fixtures, "tempres-fixtures")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Move the temp location before any code of the project is imported."""
    _start(early_config)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, and start the session if a conftest has loaded the plugin."""
    markers.register(config)
    state = config.stash.get(session_key, None) or _start(config)
    if state is None:
        return
    startup.keep_basetemp(config, state)
    _register_optional_hooks(config, state)
    forked = config.pluginmanager.hasplugin("pytest_forked")
    if state.is_worker or forked or config.getoption("dist", "no") != "no":
        _receive_reports(state)
    if state.is_worker:
        state.send = xdist.send
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(xdist.ControllerHooks(state), "tempres-xdist")


def _register_optional_hooks(config: pytest.Config, state: SessionState) -> None:
    """Register the hooks that are rarely needed."""
    register = config.pluginmanager.register
    if startup.is_root_below_rootdir(state):
        register(startup.CollectionHooks(), "tempres-collection")
    if state.settings.artifacts is not None:
        register(ArtifactsHooks(state.settings.artifacts), "tempres-artifacts")
    if state.leaks.baseline:
        register(TallyHooks(state), "tempres-tally")
    if state.settings.leaks == "strict":
        from pytest_tempres.session.strict import StrictHooks  # noqa: PLC0415 -- rarely needed

        register(StrictHooks(state), "tempres-strict")
    if GITHUB in state.settings.reports and not state.is_worker:
        from pytest_tempres.session.report_files import AnnotationHooks  # noqa: PLC0415 -- as above

        register(AnnotationHooks(state), "tempres-annotations")


def _start(config: pytest.Config) -> SessionState | None:
    state = startup.start(config, xdist.membership)
    if state is not None:
        config.pluginmanager.register(SessionHooks(state), "tempres-session")
    return state


def _receive_reports(state: SessionState) -> None:
    if not state.config.pluginmanager.hasplugin("tempres-reports"):
        state.config.pluginmanager.register(ReportHooks(state), "tempres-reports")


class SessionHooks:
    """The hooks of a started session, with its state."""

    def __init__(self, state: SessionState) -> None:
        self._state = state
        self._call = state.messages.call_safely

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Record which collector is running, because it imports modules."""
        return (yield from ownership.collecting(self._state.leaks, collector))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        """Register the wrapper of `pytest_sessionfinish` last, so that it is the outermost."""
        hooks = EndHooks(self._state, self._finish)
        self._state.config.pluginmanager.register(hooks, "tempres-end")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Record which test is running, and apply the retention policy after its last report."""
        self._call(runtest.begin_test, self._state, item)
        completed = False
        try:
            result = yield
            completed = True
            return result
        finally:
            self._call(runtest.finish_test, self._state, completed)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Record which fixture is running."""
        return (yield from ownership.setting_up(self._state.leaks, fixturedef, request))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Begin an attempt: a plugin may run a test several times."""
        self._call(runtest.begin_attempt, self._state)

    def pytest_exception_interact(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        """Record a failure immediately, and list in its report the paths that are kept."""
        self._call(payload.record_failure, self._state, report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record failures without an exception too, such as a strict xfail that passes."""
        if report.outcome == "failed":
            self._call(payload.record_failure, self._state, report)

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, settings: Any) -> None:
        """Write created paths to disk at once: this timer ends the process without a report."""
        if settings.method == "thread":
            self._call(runtest.journal_created_paths, self._state)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """Prepare the end of the session, and collect reports if a plugin decides what is kept."""
        if self._state.config.hook.pytest_tempres_keep.get_hookimpls():
            _receive_reports(self._state)
        self._call(startup.prepare_end, self._state)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Find leaks after all teardown, before the terminal and pytest-xdist finish."""
        try:
            return (yield)
        finally:
            self._finish(session)

    def _finish(self, session: pytest.Session) -> None:
        if not self._state.result.finished and not self._state.workspace.is_forked:
            self._state.result.finished = True
            self._state.workspace.release_descriptors()
            self._call(finish, self._state, session)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the report, then sweep dead sessions."""
        self._call(_print_report, self._state, terminalreporter)
        self._call(_sweep, self._state, terminalreporter)


class ReportHooks:
    """The hooks for reports from other processes, and for plugins that decide what is kept."""

    def __init__(self, state: SessionState) -> None:
        self._state = state

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add what the attempt created and left behind to the report."""
        report = yield
        self._state.messages.call_safely(payload.pack, self._state, item, report)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome and the payload of a report."""
        self._state.messages.call_safely(payload.receive, self._state, report)


class EndHooks:
    """Completes the end of the session when another plugin raises in `pytest_sessionfinish`.

    :param finish_session: Judges the leaks, once in each session.
    """

    def __init__(
        self, state: SessionState, finish_session: Callable[[pytest.Session], object]
    ) -> None:
        self._state = state
        self._finish_session = finish_session

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Judge the leaks and print a short report if another plugin's hook raises."""
        try:
            return (yield)
        except BaseException as error:
            if not self._state.workspace.is_forked:
                # A wrapper that raises before its yield keeps the inner ones from being called.
                self._finish_session(session)
                _set_returncode(self._state, error)
                _print_short_report(self._state)
            raise


def _set_returncode(state: SessionState, error: BaseException) -> None:
    """Change the exit status that pytest takes from *error*, if leaks must fail the session."""
    if isinstance(error, pytest.exit.Exception) and error.returncode == 0:
        summary = state.result.summary
        if summary is not None and must_fail(state.settings, summary.leaks):
            error.returncode = int(pytest.ExitCode.TESTS_FAILED)


def _print_short_report(state: SessionState) -> None:
    if not state.result.printed and not state.is_worker:
        from pytest_tempres.reports import terminal  # noqa: PLC0415 -- loaded when used

        state.result.printed = True
        lines = terminal.in_short(
            state.result.summary, state.retention.kept, with_paths=state.settings.prints_report
        )
        write_late("".join(f"{line}\n" for line in lines))


def _print_report(state: SessionState, terminalreporter: pytest.TerminalReporter) -> None:
    if state.result.summary is not None:
        from pytest_tempres.reports import terminal  # noqa: PLC0415 -- loaded when used

        verbosity = terminalreporter.config.get_verbosity()
        terminalreporter.ensure_newline()
        terminal.write(
            state.result.summary,
            terminalreporter.config.get_terminal_writer(),
            verbosity=verbosity if state.settings.prints_report else terminal.LAST_LINE,
        )
        state.result.printed = True


def _sweep(state: SessionState, terminalreporter: pytest.TerminalReporter) -> None:
    found = sweep_dead_sessions(state)
    if found.sessions and state.settings.prints_report:
        from pytest_tempres.reports import terminal  # noqa: PLC0415 -- loaded when used

        terminalreporter.ensure_newline()
        terminal.write_reclaimed(found, terminalreporter.config.get_terminal_writer())
