"""Preparations for the end of the session, made before a test can be in the way.

A test may use up all descriptors, replace functions or leave `sys.path` and the working directory
changed: an import or a file of ours would fail then.
"""

from __future__ import annotations

from pytest_tempres import reserve
from pytest_tempres.state import SessionState

__all__ = ["prepare"]


def prepare(state: SessionState) -> None:
    """Import what the end needs, and hold some descriptors for it."""
    _load(state)
    reserve.hold(state)


def _load(state: SessionState) -> None:
    from pytest_tempres import verdicts  # noqa: F401, PLC0415 -- not where no test runs

    if state.joined:
        return
    from pytest_tempres import conclusion  # noqa: F401, PLC0415 -- as above
    from pytest_tempres import correction  # noqa: F401, PLC0415 -- as above
    from pytest_tempres import reclaiming  # noqa: F401, PLC0415 -- as above
    from pytest_tempres.reports import terminal  # noqa: F401, PLC0415 -- as above

    if state.settings.artifacts is not None:
        from pytest_tempres.workspace import artifacts  # noqa: F401, PLC0415 -- as above
    if any(target.type == "json" for target in state.settings.reports):
        from pytest_tempres.reports import jsonfile  # noqa: F401, PLC0415 -- as above
