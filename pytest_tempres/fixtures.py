"""The fixtures, and `TempResources`, the factory that creates their files and directories."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
import errno
from functools import partial
from operator import methodcaller
import os
from pathlib import Path
from typing import IO
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeVar

import pytest

from pytest_tempres import markers
from pytest_tempres.leaks.temp.scan import identity as inode_of
from pytest_tempres.primitives import NamedTemporaryFile
from pytest_tempres.primitives import SpooledTemporaryFile
from pytest_tempres.primitives import TemporaryFile
from pytest_tempres.primitives._create import make_directory
from pytest_tempres.primitives._file import close_and_keep
from pytest_tempres.primitives._location import typed_as
from pytest_tempres.primitives._system import System
from pytest_tempres.session.retention import Retention
from pytest_tempres.session.retention import ScopedFactory
from pytest_tempres.session.state import CurrentTest
from pytest_tempres.session.state import SessionState
from pytest_tempres.session.state import session_key
from pytest_tempres.workspace.proof import identity_of
from pytest_tempres.workspace.proof import identity_of_new
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.root import safe_name

if TYPE_CHECKING:
    from pytest_tempres.session.blocks import Blocks
    from pytest_tempres.session.leak_check import LeakCheck
    from pytest_tempres.signatures import FileMethods

__all__ = [
    "TempResources",
    "artifact_dir",
    "named_temp_file",
    "spooled_file",
    "temp_dir",
    "temp_file",
    "temp_leaks",
    "temp_resources",
    "temp_resources_class",
    "temp_resources_module",
    "temp_resources_package",
    "temp_resources_session",
]

_Created = TypeVar("_Created")

#: How many bytes of a test's name are used in the name of its directory.
_NAME_BYTES = 24


class TempResources:
    """A factory of temporary directories and files; any number of each, from any thread.

    What it creates is closed and removed when the scope of its fixture ends,
    unless it is kept.
    """

    #: The blocks of `scope`, once there was one.
    _blocks: Blocks | None = None

    def __init__(
        self, state: SessionState, record: Callable[[CreatedPath], None], name: str, base: Path
    ) -> None:
        self._state = state
        self._record = record
        self._name = f"{safe_name(name, _NAME_BYTES)}-"
        self._base = base
        self._directory = state.workspace.worker.fixture_dir
        self._closing: list[Callable[[], object]] = []

    def dir(self, **options: Any) -> Path:
        """Create a directory with mode 0700, empty without `copy` and `files`.

        :param prefix: (str) The start of its name; by default the test's name.
        :param suffix: (str) The end of its name, after the random characters.
        :param dir: (path) The directory to create it in.
        :param keep: (bool) Keep or remove it, whatever the outcome of the test.
        :param copy: (path) A directory or file to copy into it; relative to the test file.
        :param files: (mapping) The files to create in it, after the copy: for each relative name a
            str, bytes or `Executable`, or a mapping for a directory.
        :param chdir: (bool) Make it the working directory until the scope ends.
        :raises TypeError: An argument is unknown or has a wrong type.
        :raises ValueError: A name in `files` is not below the directory or is given twice, or the
            copy has a directory in the place of a file; or a name has a path separator.
        :raises OSError: The directory or its content cannot be created.
        """
        if not options:
            path = self._create(make_directory, self._directory, self._name, "")
            self._record(CreatedPath(path, inode=inode_of(path)))
            return Path(path)
        markers.check("tempdir", options)
        prefix = options.get("prefix")
        path = self._create(
            make_directory,
            System.abspath(options.get("dir") or self._directory),
            self._name if prefix is None else prefix,
            options.get("suffix") or "",
        )
        self._register(path, None, keep=options.get("keep"))
        self._fill(path, options)
        if options.get("chdir"):
            self._closing.append(_change_directory(path))
        return Path(path)

    def _fill(self, path: str, options: dict[str, Any]) -> None:
        if options.get("copy") is not None:
            _copy_into(self._base / options["copy"], path)
        if options.get("files"):
            from pytest_tempres import content  # noqa: PLC0415 -- rarely used

            content.write(options["files"], path)

    @typed_as(lambda: FileMethods.file)
    def file(self, **options: Any) -> IO[Any]:
        """Open a temporary file without a name.

        :param options: Those of `TemporaryFile`, and `content` (str or bytes), its initial
            contents.
        """
        markers.check("tempfile", options)
        for name in ("delete", "delete_on_close"):
            options.pop(name, None)
        return self._open(TemporaryFile, options)

    @typed_as(lambda: FileMethods.named_file)
    def named_file(self, **options: Any) -> IO[Any]:
        """Open a temporary file with a name, in the same directory as those of `dir`.

        :param options: Those of `NamedTemporaryFile`, and `content` (str or bytes), its initial
            contents.
        """
        markers.check("tempfile", options)
        options = {"prefix": self._name, **options}
        # A failed test's file may be kept: the retention policy removes the path, not the close.
        return self._open(self._open_named, options, close_and_keep)

    def _open_named(self, **options: Any) -> Any:
        file: Any = NamedTemporaryFile(**options)
        self._register(System.fsdecode(System.abspath(file.name)), file.fileno())
        return file

    @typed_as(lambda: FileMethods.spooled)
    def spooled(self, **options: Any) -> IO[Any]:
        """Open a file that stays in memory until it grows or its `fileno` is called.

        :param options: Those of `SpooledTemporaryFile`, and `content` (str or bytes), its initial
            contents.
        """
        markers.check("spooled", options)
        return self._open(SpooledTemporaryFile, options)

    @contextmanager
    def scope(self) -> Iterator[TempResources]:
        """Return a context manager with a factory for the resources of its block.

        What this factory creates is closed and removed at the end of the block, the last first.
        If an exception ends the block, it is closed, and kept if the test fails and the retention
        policy keeps failures.
        """
        if self._blocks is None:
            from pytest_tempres.session.blocks import Blocks  # noqa: PLC0415 -- rarely used

            self._blocks = Blocks(self._state)
        blocks, block = self._blocks, self._blocks.begin()
        resources = _BlockResources(
            self._state, partial(blocks.record, block), self._name[:-1], self._base
        )
        failed = True
        try:
            yield resources
            failed = False
        finally:
            try:
                resources.close()
            finally:
                blocks.end(block, failed=failed)

    def _open(
        self,
        create: Callable[..., Any],
        options: dict[str, Any],
        close: Callable[[Any], object] = methodcaller("close"),
    ) -> IO[Any]:
        """Open a file, write its initial contents, and have it closed when the scope ends."""
        content = options.pop("content", None)
        mode = options.get("mode", "w+b")
        if content is not None and isinstance(content, bytes) != ("b" in mode):
            kind = "bytes" if "b" in mode else "str"
            raise TypeError(f"content={content!r} must be {kind} for mode {mode!r}")
        file: IO[Any] = self._create(create, **{"dir": self._directory, **options})
        self._closing.append(lambda: close(file))
        if content is not None:
            file.write(content)
            file.seek(0)
        return file

    def _create(self, create: Callable[..., _Created], *args: Any, **options: Any) -> _Created:
        """Call *create*; again if a test has removed its directory or changed the mode."""
        try:
            return create(*args, **options)
        except PermissionError:
            if not self._state.workspace.restore_modes():
                raise
            return create(*args, **options)
        except FileNotFoundError:
            if System.isdir(self._directory):
                raise
            self._state.workspace.recreate()
            return create(*args, **options)

    def _register(self, path: str, fd: int | None, *, keep: bool | None = None) -> None:
        identity = None
        if System.dirname(path) != self._directory:
            identity = identity_of_new(path) if fd is None else identity_of(System.fstat(fd))
            self._state.leaks.ledger.origins.outside.pop(path, None)
        self._record(CreatedPath(path, keep, identity, inode_of(path)))

    def close(self) -> None:
        """Close what is open, in reverse order. The test may have closed some of it."""
        while self._closing:
            close = self._closing.pop()
            try:
                close()
            except (OSError, ValueError) as error:
                # The test may have closed the descriptor itself.
                if getattr(error, "errno", None) != errno.EBADF:
                    self._state.messages.warn(
                        "close", f"a temporary resource could not be closed: {error}"
                    )


class _BlockResources(TempResources):
    """The factory of a block, which creates nothing after its end."""

    _has_ended = False

    def close(self) -> None:
        self._has_ended = True
        super().close()

    def _create(self, create: Callable[..., _Created], *args: Any, **options: Any) -> _Created:
        if self._has_ended:
            raise RuntimeError("the `with` block of this factory has ended; use another one")
        return super()._create(create, *args, **options)


def _copy_into(source: Path, target: str) -> None:
    import shutil  # noqa: PLC0415 -- expensive to import, and rarely used

    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def _change_directory(path: str) -> Callable[[], None]:
    before = System.getcwd()
    System.chdir(path)

    def restore() -> None:
        with suppress(FileNotFoundError):
            System.chdir(before)

    return restore


def _state(request: pytest.FixtureRequest) -> SessionState:
    state = request.config.stash.get(session_key, None)
    if state is None:
        pytest.fail(
            "no temporary resources: the session directory could not be created (see the warnings)",
            pytrace=False,
        )
    return state


def _recorder(
    retention: Retention, factory: CurrentTest | ScopedFactory
) -> Callable[[CreatedPath], None]:
    """Return a function that records a created path, in the journal too if that is needed."""
    if not retention.journal.adds_created:
        return factory.created.append

    def record(path: CreatedPath) -> None:
        factory.created.append(path)
        retention.add_created_to_journal(factory.nodeid, [path])

    return record


def _factory_for_test(request: pytest.FixtureRequest) -> TempResources:
    state = _state(request)
    factory = state.current if state.current is not None else ScopedFactory("")
    return TempResources(
        state, _recorder(state.retention, factory), request.node.name, request.path.parent
    )


def _factory_for_scope(request: pytest.FixtureRequest) -> Iterator[TempResources]:
    state = _state(request)
    nodeid = state.current.nodeid if state.current is not None else request.node.nodeid
    factory = ScopedFactory(request.fixturename or "", nodeid=nodeid)
    state.retention.open_factories.append(factory)
    name = System.basename(request.node.name) or request.scope
    base = getattr(request.node, "path", request.config.rootpath)
    resources = TempResources(
        state, _recorder(state.retention, factory), name, base if base.is_dir() else base.parent
    )
    yield resources
    resources.close()
    state.retention.open_factories.remove(factory)
    in_setup = os.environ.get("PYTEST_CURRENT_TEST", "").endswith("(setup)")
    if state.current is not None and in_setup:
        factory.replaced_for = state.current.nodeid
    state.retention.expired_factories.append(factory)


@pytest.fixture
def temp_dir(request: pytest.FixtureRequest) -> Path:
    """A pathlib.Path to an empty directory for this test only.

    Removed after the test, or kept when it failed; see the marker `tempdir`.
    """
    resources = _factory_for_test(request)
    options = markers.arguments(request.node, "tempdir")
    if not options:
        return resources.dir()
    if options.get("chdir"):
        request.addfinalizer(resources.close)  # noqa: PT021 -- a generator fixture is slower
    return _create_as_marked(resources.dir, options, "tempdir")


@pytest.fixture
def artifact_dir(request: pytest.FixtureRequest) -> Path:
    """A pathlib.Path to an empty directory, copied to the artifacts whatever the outcome.

    Without the option --tempres-artifacts it is removed or kept like `temp_dir`.
    """
    resources = _factory_for_test(request)
    exported = _state(request).settings.artifacts is not None
    return resources.dir(keep=True if exported else None)


def _create_as_marked(
    create: Callable[..., _Created], options: dict[str, Any], name: str
) -> _Created:
    """Create a resource with *options*, the arguments of the marker *name*.

    Arguments that do not go together, such as an encoding and a binary mode, fail the test.
    """
    try:
        return create(**options)
    except (LookupError, TypeError, ValueError) as error:
        if not options:
            raise
        problem = f"marker {name}: {error}"
    # Here, as pytest would print the error too if it were being handled.
    pytest.fail(problem, pytrace=False)


@pytest.fixture
def temp_file(request: pytest.FixtureRequest) -> Iterator[IO[Any]]:
    """An open temporary file without a name; see the marker `tempfile`."""
    resources = _factory_for_test(request)
    options = markers.arguments(request.node, "tempfile")
    yield _create_as_marked(resources.file, options, "tempfile")
    resources.close()


@pytest.fixture
def named_temp_file(request: pytest.FixtureRequest) -> Iterator[IO[Any]]:
    """An open temporary file with a name, not in `temp_dir`; see the marker `tempfile`."""
    resources = _factory_for_test(request)
    options = markers.arguments(request.node, "tempfile")
    yield _create_as_marked(resources.named_file, options, "tempfile")
    resources.close()


@pytest.fixture
def spooled_file(request: pytest.FixtureRequest) -> Iterator[IO[Any]]:
    """An open temporary file that stays in memory while it is small; see the marker `spooled`."""
    resources = _factory_for_test(request)
    options = markers.arguments(request.node, "spooled")
    yield _create_as_marked(resources.spooled, options, "spooled")
    resources.close()


@pytest.fixture
def temp_leaks(request: pytest.FixtureRequest) -> LeakCheck:
    """A check of a block (`with temp_leaks:`), or of the test so far (`temp_leaks.verify()`).

    It fails if anything was left in the temp directory.
    """
    from pytest_tempres.session.leak_check import check_of  # noqa: PLC0415 -- loads when used

    return check_of(_state(request), request.node)


@pytest.fixture
def temp_resources(request: pytest.FixtureRequest) -> Iterator[TempResources]:
    """A factory of any number of temporary directories and files for this test."""
    resources = _factory_for_test(request)
    yield resources
    resources.close()


@pytest.fixture(scope="class")
def temp_resources_class(request: pytest.FixtureRequest) -> Iterator[TempResources]:
    """Like `temp_resources`, but what it creates lasts as long as the test class."""
    yield from _factory_for_scope(request)


@pytest.fixture(scope="module")
def temp_resources_module(request: pytest.FixtureRequest) -> Iterator[TempResources]:
    """Like `temp_resources`, but what it creates lasts as long as the test module."""
    yield from _factory_for_scope(request)


@pytest.fixture(scope="package")
def temp_resources_package(request: pytest.FixtureRequest) -> Iterator[TempResources]:
    """Like `temp_resources`, but what it creates lasts as long as the test package."""
    yield from _factory_for_scope(request)


@pytest.fixture(scope="session")
def temp_resources_session(request: pytest.FixtureRequest) -> Iterator[TempResources]:
    """Like `temp_resources`, but what it creates lasts as long as the session."""
    yield from _factory_for_scope(request)
