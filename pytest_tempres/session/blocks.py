"""The blocks of `TempResources.scope`: what they created is removed, or left to the test."""

from __future__ import annotations

from typing import Final

from pytest_tempres.leaks.verdict import parents
from pytest_tempres.session.retention import ScopedFactory
from pytest_tempres.session.state import SessionState
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.retention import reason_to_keep

__all__ = ["Blocks"]

#: For how many failed blocks of a test paths are kept: for the last ones. After a failure,
#: Hypothesis tries hundreds of smaller examples, and the last one that fails is the smallest.
_MAX_FAILED: Final = 10


class Blocks:
    """The blocks of one factory."""

    def __init__(self, state: SessionState) -> None:
        self._state = state
        #: What each failed block created, and the list of the attempt to which it was added.
        self._failed: list[list[CreatedPath]] = []
        self._attempt: list[CreatedPath] | None = None
        #: The test that was running when the last block began.
        self._nodeid = ""

    def begin(self) -> ScopedFactory:
        """Return a record of what a new block creates.

        It names no test: a test that fails while the block is open does not keep what it created.
        """
        if self._state.current is not None:
            self._nodeid = self._state.current.nodeid
        block = ScopedFactory("")
        self._state.retention.open_factories.append(block)
        return block

    def record(self, block: ScopedFactory, created: CreatedPath) -> None:
        """Record a created path, in the journal too if the test may end the process."""
        block.created.append(created)
        retention, test = self._state.retention, self._state.current
        if retention.journal.adds_created and test is not None:
            retention.add_created_to_journal(test.nodeid, [created])

    def end(self, block: ScopedFactory, *, failed: bool) -> None:
        """Remove what the block created, last first, or leave it to the policy of the test.

        :param failed: Whether an exception ended the block. The test may catch it, so whether the
            test failed is known only later.
        """
        retention = self._state.retention
        kept = [each for each in block.created if self._may_be_kept(each, failed=failed)]
        # With `dir=`, a kept path may be inside another one.
        protected = {parent for each in kept for parent in parents(each.path)}
        left = [each for each in block.created if each in kept or each.path in protected]
        # Together, so that there is a record of each path at any time.
        self._leave(left, failed=failed)
        retention.open_factories.remove(block)
        for each in reversed(block.created):
            if each not in left:
                self._state.workspace.remove(each)

    def _may_be_kept(self, created: CreatedPath, *, failed: bool) -> bool:
        if self._state.workspace.is_forked:
            # The parent removes it, which receives the report of the test.
            return True
        policy = self._state.retention.policy
        return reason_to_keep(policy, failed=failed, asked=created.keep) is not None

    def _leave(self, created: list[CreatedPath], *, failed: bool) -> None:
        """Leave *created* to the test that is running."""
        test = self._state.current
        if not created:
            return
        if test is None:
            # An interrupted test has ended, and now its fixtures are torn down.
            factory = ScopedFactory("", created, self._nodeid, failed)
            self._state.retention.expired_factories.append(factory)
            return
        test.created += created
        if failed:
            self._limit_failed(test.created, created)

    def _limit_failed(self, attempt: list[CreatedPath], created: list[CreatedPath]) -> None:
        """Remove what the oldest of too many failed blocks created."""
        if self._attempt is not attempt:
            self._attempt, self._failed = attempt, []
        self._failed.append(created)
        if len(self._failed) <= _MAX_FAILED:
            return
        for each in reversed(self._failed.pop(0)):
            if each.keep is None and not self._state.workspace.is_forked:
                attempt.remove(each)
                self._state.workspace.remove(each)
