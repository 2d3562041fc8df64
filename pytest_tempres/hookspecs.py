"""The hook specifications for other plugins and conftest files."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_tempres.leaks.model import Leak
from pytest_tempres.reports.summary import Summary

__all__ = ["pytest_tempres_ignore_leak", "pytest_tempres_keep", "pytest_tempres_summary"]


@pytest.hookspec
def pytest_tempres_keep(item: pytest.Item, reports: Sequence[pytest.TestReport]) -> bool | None:
    """Return True to keep a test's directories whatever the retention policy is.

    An implementation can only add to the policy: a directory that the policy keeps is kept. Called
    after the last report of a test that used temporary resources, in the process that ran it.

    :param item: The test.
    :param reports: Its reports, all attempts in order.
    :returns: True to keep its directories.
    """


@pytest.hookspec(firstresult=True)
def pytest_tempres_ignore_leak(leak: Leak) -> bool | None:
    """Decide whether a leak is ignored; the first result that is not None counts.

    Called at the end of the session, in the controller under pytest-xdist. The path of a leak on
    another host is `host:path` then, and the worker there has called the hook before, with the path
    alone. In strict mode the hook is also called at the end of each test that left something, in
    the process that ran it.

    :param leak: The leak that would be reported.
    :returns: True to ignore it, False to report it, None to leave the decision to other
        implementations.
    """


@pytest.hookspec
def pytest_tempres_summary(config: pytest.Config, summary: Summary) -> None:
    """Receive the summary from which the reports are made, before the terminal report.

    :param summary: The leaks and the kept paths of the session.
    """
