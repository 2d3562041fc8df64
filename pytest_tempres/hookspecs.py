"""What other plugins and conftests may change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_tempres.leaks.model import Leak
    from pytest_tempres.reports.summary import Summary

__all__ = ["pytest_tempres_ignore_leak", "pytest_tempres_keep", "pytest_tempres_summary"]


@pytest.hookspec
def pytest_tempres_keep(item: pytest.Item, reports: Sequence[pytest.TestReport]) -> bool | None:
    """Ask for a test's directories to be kept whatever the policy says.

    It can only add: a directory that the policy keeps stays. Called after the
    last report of a test that was given temporary resources, in the process
    that ran it.

    :param item: The test.
    :param reports: Its reports, all attempts in order.
    :returns: True to keep its directories.
    """


@pytest.hookspec(firstresult=True)
def pytest_tempres_ignore_leak(leak: Leak) -> bool | None:
    """Decide whether a leak is passed over; the first answer that is not None counts.

    Called at the end of the session, in the controller under pytest-xdist. What
    lies on another host is called `host:path` then, and the worker there has asked
    before, about the path alone. In strict mode called at the end of each test that
    left something too, in the process that ran it.

    :param leak: What would be reported, or what the test would be accused of.
    :returns: True to drop it, False to report it, None to leave it to others.
    """


@pytest.hookspec
def pytest_tempres_summary(config: pytest.Config, summary: Summary) -> None:
    """Receive what the reports are made from, before the terminal prints.

    :param summary: What the session left behind and kept.
    """
