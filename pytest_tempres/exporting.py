"""When does what was kept become an artifact, and who is told?"""

from __future__ import annotations

from pathlib import Path

from pytest_tempres.primitives._system import System
from pytest_tempres.state import SessionState
from pytest_tempres.workspace.portable import names_a_test

__all__ = ["ArtifactsHooks", "export"]


def export(state: SessionState) -> None:
    """Copy what was kept, now that the list is complete; what fails becomes one warning."""
    from pytest_tempres.workspace import artifacts  # noqa: PLC0415 -- few sessions keep something

    directory = state.settings.artifacts or ""
    elsewhere = state.elsewhere.values()
    try:
        done = artifacts.export(
            [*state.kept, *(kept for each in elsewhere for kept in each.kept)],
            directory,
            max_size=state.settings.artifacts_max_size,
            session=System.basename(state.root.path),
            other_roots=[each.root for each in elsewhere if each.root],
        )
    except Exception as error:  # noqa: BLE001 -- the reports are made after this
        state.warn("artifacts", f"internal error while artifacts were copied: {error!r}")
        return
    state.kept[:] = done.kept[: len(state.kept)]
    state.artifacts = done.artifacts
    if done.failure is not None:
        state.warn("artifacts", f"not all that was kept could be copied: {done.failure}")


class ArtifactsHooks:
    """What the directory of artifacts needs while tests run.

    :param directory: Its absolute path.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Collect nothing from copies of what tests made, which may look like tests."""
        directory, name = System.split(collection_path)
        # Somebody may have named a directory with tests of his own in it.
        return True if directory == self._directory and names_a_test(name) else None
