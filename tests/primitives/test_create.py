from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import errno
import os
from pathlib import Path
import resource
import stat
import sys

import pytest

from pytest_tempres import primitives
from pytest_tempres.primitives import _create
from pytest_tempres.primitives._create import DESCRIPTOR
from pytest_tempres.primitives._create import make_directory
from pytest_tempres.primitives._create import make_file
from pytest_tempres.primitives._create import make_unnamed_file


def drop(created) -> None:
    """Remove the result of mkstemp or mkdtemp."""
    if isinstance(created, tuple):
        os.close(created[0])
        os.unlink(created[1])
    else:
        os.rmdir(created)


@pytest.fixture
def names(monkeypatch):
    """Choose the random part of the next names."""

    def choose(*chosen: str) -> None:
        remaining = iter(chosen)
        monkeypatch.setattr(_create, "random_name", lambda: next(remaining))

    return choose


class TestMkstemp:
    def test_private_and_not_inherited(self, place):
        """Only the owner may read or write it, whatever the umask; children do not inherit it."""
        old = os.umask(0)
        descriptor, path = primitives.mkstemp()
        os.umask(old)
        assert Path(path).parent == place
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600
        assert not os.get_inheritable(descriptor)
        os.write(descriptor, b"x")
        assert Path(path).read_bytes() == b"x"
        drop((descriptor, path))

    def test_relative_directory_becomes_absolute(self, place, monkeypatch):
        """The path is still valid after the working directory changes."""
        monkeypatch.chdir(place)
        created = primitives.mkstemp(dir="..")
        assert os.path.dirname(created[1]) == str(place.parent)
        drop(created)

    @pytest.mark.parametrize("kind", [str, os.fsencode, Path])
    def test_kinds_of_directory(self, kind, place):
        """The directory may be str, bytes or a path object; only bytes give a path of bytes."""
        created = primitives.mkstemp(dir=kind(place), text=True)
        assert type(created[1]) is (bytes if kind is os.fsencode else str)
        drop(created)

    def test_prefix_with_a_directory(self, place):
        """A prefix may lead into another directory, as CPython allows."""
        (place / "sub").mkdir()
        drop(primitives.mkstemp(prefix="sub/x"))
        drop(primitives.mkstemp(prefix=f"{place}/sub/x", dir="/"))
        (place / "sub").rmdir()

    def test_link_under_the_chosen_name(self, place, names, tmp_path):
        """An existing link with the chosen name is not followed: another name is used."""
        names("aaaaaaaa", "bbbbbbbb")
        (place / "tmpaaaaaaaa").symlink_to(tmp_path / "elsewhere")
        created = primitives.mkstemp()
        assert created[1].endswith("bbbbbbbb")
        assert not (tmp_path / "elsewhere").exists()
        drop(created)
        (place / "tmpaaaaaaaa").unlink()


class TestMkdtemp:
    def test_private(self, place):
        """Only the owner may enter it, whatever the umask."""
        old = os.umask(0)
        path = primitives.mkdtemp("s", "p")
        os.umask(old)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
        assert os.path.basename(path)[:1] + path[-1] == "ps"
        drop(path)

    @pytest.mark.parametrize("given", [".", b".", "../place/", Path()])
    def test_absolute_and_normal(self, given, place, monkeypatch):
        """The path is absolute and normalized, whatever the directory argument (CPython 3.12)."""
        monkeypatch.chdir(place)
        path = primitives.mkdtemp(dir=given)
        assert os.path.dirname(os.fsdecode(path)) == str(place)
        drop(path)

    @pytest.mark.parametrize("affixes", [("../place/x", ""), ("x", "/../y")])
    def test_separators_in_affixes(self, affixes, place):
        """The path is normalized too if prefix or suffix lead to another directory."""
        prefix, suffix = affixes
        if ".." in suffix:
            with pytest.raises(FileNotFoundError, match=r"/\.\./y'$"):
                primitives.mkdtemp(suffix, prefix)
        else:
            path = primitives.mkdtemp(suffix, prefix)
            assert os.path.normpath(path) == path
            drop(path)

    def test_taken(self, place, names):
        """If a file or directory has the name, another name is tried."""
        names("aaaaaaaa", "bbbbbbbb", "cccccccc")
        (place / "tmpaaaaaaaa").touch()
        (place / "tmpbbbbbbbb").mkdir()
        assert primitives.mkdtemp().endswith("cccccccc")
        (place / "tmpaaaaaaaa").unlink()
        drop(str(place / "tmpbbbbbbbb"))
        drop(str(place / "tmpcccccccc"))


class TestMktemp:
    def test_returns_an_unused_path(self, place, names):
        """Nothing exists at the path, not even a dangling link."""
        names("aaaaaaaa", "bbbbbbbb")
        (place / "xaaaaaaaay").symlink_to("nowhere")
        assert primitives.mktemp("y", "x") == str(place / "xbbbbbbbby")
        (place / "xaaaaaaaay").unlink()


@pytest.mark.parametrize("make", [primitives.mkstemp, primitives.mkdtemp, primitives.mktemp])
class TestNoNameLeft:
    def test_error_names_the_directory(self, make, place, names, monkeypatch):
        """After TMP_MAX existing names, CPython's error is raised, with the directory."""
        monkeypatch.setattr(primitives, "TMP_MAX", 2)
        names("aaaaaaaa", "aaaaaaaa")
        (place / "tmpaaaaaaaa").touch()
        with pytest.raises(FileExistsError, match="No usable temporary") as caught:
            make()
        assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, str(place))
        (place / "tmpaaaaaaaa").unlink()


class TestDenied:
    """gh-66305: in a Windows directory closed by an ACL, 2,147,483,647 names were tried."""

    def test_windows_gives_up(self, place, monkeypatch):
        """After TMP_MAX denials in a row the directory is considered not writable."""
        tried = []

        def deny(path, *_):
            tried.append(path)
            raise PermissionError(errno.EACCES, "denied", path)

        monkeypatch.setattr(_create, "_DIRECTORY", _create._DIRECTORY._replace(make=deny))
        monkeypatch.setattr(_create, "taken_on_windows", lambda parent: True)
        with pytest.raises(PermissionError) as caught:
            primitives.mkdtemp()
        assert len(set(tried)) == len(tried) == primitives.TMP_MAX
        assert caught.value.filename == tried[-1]

    def test_windows_tries_another_name(self, place, monkeypatch):
        """One denial may only mean that a directory has the name."""
        denials = [PermissionError()]

        def deny_once(path):
            if denials:
                raise denials.pop()
            return map(os.mkdir, (path,))

        monkeypatch.setattr(_create, "_DIRECTORY", _create._DIRECTORY._replace(make=deny_once))
        monkeypatch.setattr(_create, "taken_on_windows", lambda parent: True)
        drop(primitives.mkdtemp())

    @pytest.mark.parametrize("name", ["mkstemp", "mkdtemp", "TemporaryFile", "NamedTemporaryFile"])
    def test_posix_raises_the_first_denial(self, name, open_place, unprivileged):
        """On other systems the first denial is raised, with the path."""
        open_place.chmod(0o555)
        with unprivileged(), pytest.raises(PermissionError) as caught:
            getattr(primitives, name)(dir=str(open_place))
        assert caught.value.filename.startswith(f"{open_place}/tmp")


class Listener:
    """The only audit hook of these tests, since hooks cannot be removed."""

    def __init__(self) -> None:
        self.events: list[tuple[str, tuple[object, ...]]] | None = None
        self.refused = ""

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        """Record an event, or refuse it."""
        if self.events is not None and event.startswith(("tempfile.", "os.mkdir", "open")):
            self.events.append((event, arguments))
        if event == self.refused:
            raise RuntimeError("no")


listener = Listener()
sys.addaudithook(listener)


@pytest.fixture
def events(place):
    """The audit events that are raised during the test."""
    listener.events = []
    yield listener.events
    listener.events = None


class TestAuditEvents:
    """The events are those of CPython, in its order, with the whole path."""

    @pytest.mark.parametrize(
        "name,event,system_call",
        [("mkstemp", "tempfile.mkstemp", "open"), ("mkdtemp", "tempfile.mkdtemp", "os.mkdir")],
    )
    @pytest.mark.parametrize("kind", [str, os.fsencode])
    def test_before_the_system_call(self, name, event, system_call, kind, events, place):
        """The event precedes the system call and has the path, in the caller's type."""
        created = getattr(primitives, name)(dir=kind(place))
        path = created[1] if isinstance(created, tuple) else created
        recorded = [(event, arguments[0]) for event, arguments in events]
        assert recorded == [(event, path), (system_call, path)]
        drop(created)

    def test_a_hook_that_raises(self, place, events, monkeypatch):
        """Nothing is created if an audit hook raises an exception."""
        monkeypatch.setattr(listener, "refused", "tempfile.mkdtemp")
        with pytest.raises(RuntimeError, match="no"):
            primitives.mkdtemp()


MAKERS = {
    "mkstemp": primitives.mkstemp,
    "mkdtemp": primitives.mkdtemp,
    "TemporaryFile": primitives.TemporaryFile,
    "TemporaryFile in text mode": lambda: primitives.TemporaryFile("w+", encoding="utf-8"),
    "NamedTemporaryFile": primitives.NamedTemporaryFile,
    "NamedTemporaryFile in text mode": lambda: primitives.NamedTemporaryFile("w", encoding="utf-8"),
    "without O_TMPFILE": lambda: os.close(
        make_unnamed_file(DESCRIPTOR, primitives.gettempdir(), "tmp", "")
    ),
}


class Interruption(BaseException):
    """Raised in place of KeyboardInterrupt."""


def interrupt_after(number: int, make):
    """Call *make*; raise right after its call number *number* of a C function, as a signal would.

    :returns: The result of *make*, or None if it was interrupted.
    """
    calls = 0

    def profile(frame, event, argument):
        nonlocal calls
        inside = "pytest_tempres" in frame.f_code.co_filename
        if inside and event == "c_return":
            calls += 1
            if calls == number:
                sys.setprofile(None)
                raise Interruption

    sys.setprofile(profile)
    try:
        return make()
    except Interruption:
        return None
    finally:
        sys.setprofile(None)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("maker", MAKERS)
def test_signal_at_any_time(maker, place, monkeypatch):
    """A signal handler that raises at any step leaves neither a file nor a descriptor."""
    if maker == "without O_TMPFILE":
        monkeypatch.setattr(_create, "_UNNAMED_FLAGS", 0)
    for number in range(1, 100):
        created = interrupt_after(number, MAKERS[maker])
        if created is not None:
            break
        assert list(place.iterdir()) == []
    assert number > 2
    if hasattr(created, "close"):
        created.close()
    elif created:
        drop(created)


class TestOutOfDescriptors:
    @pytest.mark.parametrize("name", ["mkstemp", "TemporaryFile", "NamedTemporaryFile"])
    def test_nothing_is_left(self, name, place):
        """The error EMFILE has the path, and no file is left."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = os.dup(0)
        os.close(spare)
        held = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare + 8, 64), hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                held.extend(iter(lambda: os.dup(0), None))
            with pytest.raises(OSError, match="Too many open files") as caught:
                getattr(primitives, name)()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in held:
                os.close(descriptor)
        assert caught.value.errno == errno.EMFILE
        assert caught.value.filename.startswith(str(place))


class TestUnnamed:
    @pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="needs files without a name")
    def test_can_be_given_a_name(self, place):
        """As since CPython 3.15, linkat makes the complete file appear under a name."""
        directory = os.open(place, os.O_RDONLY)
        with primitives.TemporaryFile() as file:
            file.write(b"complete")
            file.flush()
            # With a descriptor, os.link calls linkat and follows the link in /proc.
            os.link(f"/proc/self/fd/{file.fileno()}", "named", dst_dir_fd=directory)
        os.close(directory)
        assert (place / "named").read_bytes() == b"complete"
        (place / "named").unlink()

    def test_system_without_unnamed_files(self, place, monkeypatch):
        """Without O_TMPFILE the name is removed before the file is returned."""
        monkeypatch.setattr(_create, "_UNNAMED_FLAGS", 0)
        descriptor = make_unnamed_file(DESCRIPTOR, str(place), "tmp", "")
        assert os.fstat(descriptor).st_nlink == 0
        os.close(descriptor)

    def test_file_system_without_unnamed_files(self, place, monkeypatch):
        """If the file system refuses O_TMPFILE, a named file is created and its name removed."""
        monkeypatch.setattr(_create, "_UNNAMED_FLAGS", os.O_RDWR)
        descriptor = make_unnamed_file(DESCRIPTOR, str(place), "tmp", "")
        assert os.write(descriptor, b"x") == 1
        os.close(descriptor)

    def test_unlink_fails(self, place, monkeypatch):
        """If the name cannot be removed, the file is closed and the error is raised."""
        refusals = [PermissionError(errno.EPERM, "no")]

        def refuse_once(path):
            if refusals:
                raise refusals.pop()
            real_unlink(path)

        real_unlink = os.unlink
        monkeypatch.setattr(_create, "_UNNAMED_FLAGS", 0)
        monkeypatch.setattr(os, "unlink", refuse_once)
        with pytest.raises(PermissionError, match="no"):
            make_unnamed_file(DESCRIPTOR, str(place), "tmp", "")


def test_threads(place):
    """16 threads that create 1,000 files each get distinct files."""
    parent = str(place)

    def many(_):
        paths = []
        for _ in range(1_000):
            descriptor, path = make_file(DESCRIPTOR, parent, "t", "")
            os.close(descriptor)
            paths.append(path)
        return paths

    with ThreadPoolExecutor(16) as pool:
        created = [path for paths in pool.map(many, range(16)) for path in paths]
    assert len(set(created)) == 16_000
    assert set(os.listdir(parent)) == {os.path.basename(path) for path in created}
    for path in created:
        os.unlink(path)


def test_make_directory_does_not_change_the_parent(place, monkeypatch):
    """A relative parent gives a relative path."""
    monkeypatch.chdir(place.parent)
    path = make_directory("place", "a", "z")
    assert os.path.dirname(path) == "place"
    drop(path)
    drop(make_directory(b"place", b"", b""))


def test_root_as_parent():
    """A path directly in the root directory begins with one slash."""
    assert _create._join_prefix("/", "tmp") == "/tmp"
    assert _create._join_prefix("/a/", "tmp") == "/a/tmp"
