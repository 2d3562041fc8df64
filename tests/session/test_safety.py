"""Whole sessions on odd mounts, in odd places, on failing disks: they touch what is theirs."""

from __future__ import annotations

from collections.abc import Callable
import json
import os
from pathlib import Path
import re
import shlex
import shutil
import stat
import subprocess
import sys

import pytest

from pytest_tempres.workspace.sweep import sweep


def snapshot(path: Path) -> dict[str, tuple[object, ...]]:
    """Return all that a session could have harmed in a tree."""
    found = {}
    for each in (path, *path.rglob("*")):
        status = each.lstat()
        content = each.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[str(each)] = (status.st_mode, status.st_uid, content)
    return found


def reclaim(place: Path) -> None:
    """Sweep *place* as the next session does, with time enough."""
    sweep(
        str(place),
        rootdir="",
        keep_sessions=0,
        seconds=60,
        run="",
        measure=lambda path, until: (0, True),
        tick=lambda: None,
    )


@pytest.fixture
def precious(tmp_path) -> Path:
    """A tree outside, which is whole afterwards."""
    path = tmp_path / "precious"
    (path / "deep").mkdir(parents=True)
    (path / "file").write_text("precious")
    (path / "deep" / "file").write_text("precious")
    before = snapshot(path)
    yield path
    assert snapshot(path) == before


@pytest.fixture
def run_mounted(pytester, system_tmp) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run an inner session in a mount namespace of its own, after some commands of the shell."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], check=False).returncode:
        pytest.skip("mount namespaces cannot be made here: that takes Linux and root's rights")

    def run_mounted(commands: str, *args: str) -> subprocess.CompletedProcess[str]:
        plain = ("-p", "no:randomly", "-p", "no:cacheprovider", "-rA")
        program = shlex.join([sys.executable, "-m", "pytest", *plain, *args])
        return subprocess.run(
            [unshare, "-m", "sh", "-ec", f"{commands}\nexec {program}"],
            cwd=pytester.path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run_mounted


# -- where the session root is


@pytest.mark.parametrize("place", ["/", "~", ".", "..", "inside"])
def test_directory_given_as_root_is_never_removed(pytester, run_here, tmp_path, monkeypatch, place):
    """`--tempres-root` may be the root, the home or the project: it is only the parent."""
    if place == "/" and not os.access("/", os.W_OK):
        pytest.skip("this user may not write in /")
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for path in (home, pytester.path, pytester.path / "inside"):
        # Names like those of the plugin, and others.
        (path / "tempres-abcdefgh" / "main").mkdir(parents=True)
        (path / "tempres-abcdefgh" / "main" / "file").write_text("precious")
        (path / "main").mkdir()
        (path / "index.json").write_text("{}")
    pytester.makepyfile(
        f"""
        import tempfile

        def test_leaks(temp_dir):
            with open("{tmp_path}/where", "w") as file:
                file.write(tempfile.gettempdir())
            (temp_dir / "given").mkdir()
            open(tempfile.mkdtemp() + "/leaked", "w").close()
        """
    )
    before = [snapshot(home), snapshot(pytester.path)]
    result = run_here(f"--tempres-root={place}", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*1 leak*"])
    assert [snapshot(home), snapshot(pytester.path)] == before
    root = Path((tmp_path / "where").read_text()).parent
    assert os.path.samefile(root.parent, os.path.expanduser(place))
    assert not root.exists()


# -- mounts


def test_mounted_file_systems_are_not_emptied(
    pytester, run_mounted, precious, system_tmp, monkeypatch
):
    """A test that does not unmount gets one warning; what is on the mount stays."""
    monkeypatch.setenv("PRECIOUS", str(precious))
    pytester.makepyfile(
        """
        import os, subprocess, tempfile

        def mount(target):
            subprocess.run(["mount", "--bind", os.environ["PRECIOUS"], target], check=True)

        def test_in_what_a_fixture_gave(temp_dir):
            (temp_dir / "tree" / "mounted").mkdir(parents=True)
            mount(temp_dir / "tree" / "mounted")

        def test_on_what_a_fixture_gave(temp_dir):
            mount(temp_dir)

        def test_in_a_leak():
            path = tempfile.mkdtemp()
            mount(path)

        def test_on_the_temp_location():
            mount(tempfile.gettempdir())

        def test_after(temp_dir):
            assert temp_dir.exists()
        """
    )
    result = run_mounted("true")
    assert "5 passed" in result.stdout, result.stdout
    assert result.returncode == 0
    assert result.stdout.count("TempresCleanupWarning: could not remove") == 1
    assert "INTERNALERROR" not in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    # All its mounts went with the namespace, so that now it can go.
    reclaim(system_tmp)
    assert os.listdir(system_tmp) == []


def test_temp_directory_with_restrictive_mount_options(pytester, run_mounted, system_tmp):
    """noexec, nosuid and nodev change nothing; a read-only mount is refused by name."""
    pytester.makepyfile(
        """
        def test_all(temp_dir, temp_file, named_temp_file, spooled_file, temp_resources):
            assert temp_resources.dir().exists()
            named_temp_file.write(b"x")
        """
    )
    (pytester.path / "closed").mkdir()
    mounts = f"""
        mount -t tmpfs -o noexec,nosuid,nodev none {shlex.quote(str(system_tmp))}
        mount -t tmpfs -o ro none closed
        trap 'ls -A "$TMPDIR"' EXIT
    """
    result = run_mounted(mounts)
    assert "1 passed in" in result.stdout, result.stdout
    assert result.stderr == ""
    result = run_mounted(mounts, "--tempres-root=closed")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--tempres-root=closed: the directory is not writable" in result.stderr


def test_suite_runs_if_no_directory_is_writable(pytester, run_mounted, system_tmp):
    """With all temp directories read-only, pytest needs `-s`, with the plugin as without it."""
    pytester.makepyfile("def test_it(): pass")
    mounts = """
        for path in / /tmp /var/tmp /usr/tmp "$TMPDIR" "$PWD"; do
            [ -d "$path" ] || continue
            mount --bind "$path" "$path"
            mount -o remount,bind,ro "$path"
        done
        cd "$PWD"
    """
    result = run_mounted(mounts, "-s")
    assert "1 passed, 1 warning" in result.stdout, result.stdout + result.stderr
    assert result.stdout.count("TempresCleanupWarning: temporary resources are disabled") == 1
    assert result.returncode == 0


# -- a server that fails


def test_disk_that_fails_like_nfs_causes_only_warnings(pytester, run, system_tmp):
    """Locks, renames and open files fail: each is one warning, and no outcome changes."""
    pytester.makeconftest(
        """
        import errno, os, pytest
        from pytest_tempres.primitives import _rmtree

        real_unlink, real_replace = _rmtree.System.unlink, _rmtree.System.replace

        def unlink(name, **where):
            if str(name).startswith(".nfs"):
                raise OSError(errno.EBUSY, "Device or resource busy", name)
            real_unlink(name, **where)

        def replace(source, target, **where):
            if str(target).endswith("index.json"):
                raise OSError(errno.ESTALE, "Stale file handle", target)
            real_replace(source, target, **where)

        _rmtree.System.unlink = staticmethod(unlink)
        _rmtree.System.replace = staticmethod(replace)
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_is_open_elsewhere(temp_dir, number):
            (temp_dir / ".nfs0001").touch()
            (temp_dir / "other").touch()

        def test_fails(temp_dir):
            assert False
        """
    )
    result = run("-p", "no:cacheprovider")
    result.assert_outcomes(passed=4, failed=1, warnings=None)
    output = f"{result.stdout}\n{result.stderr}"
    assert "INTERNALERROR" not in output
    assert "Traceback" not in output
    assert "Stale file handle" in output
    assert "resource busy" in output
    # What could not be removed is left to the next sweep. The journal names what is kept.
    (root,) = system_tmp.iterdir()
    left = {path.name for path in root.rglob("*") if path.is_file()}
    assert "other" in left or ".nfs0001" in left
    reclaim(system_tmp)
    (kept,) = root.glob("*.d/*")
    assert kept.name.startswith("test_fails-")


@pytest.mark.skipif(os.name == "nt", reason="an open file has no inode to compare there")
@pytest.mark.parametrize("then", ["nothing", "another file"])
def test_lock_that_a_test_closes_is_acquired_again(pytester, run, nothing_left, then):
    """The next test finds the session locked, whichever number the descriptor has."""
    pytester.makepyfile(
        f"""
        import fcntl, os, pytest, sys
        OPENED = []

        def lock_of(temp_dir):
            return os.path.join(temp_dir.parent.parent, ".lock")

        def test_closes(temp_dir):
            status = os.stat(lock_of(temp_dir))
            for fd in range(3, 100):
                try:
                    found = os.fstat(fd)
                except OSError:
                    continue
                if os.path.samestat(found, status):
                    os.close(fd)
                    if {then!r} != "nothing":
                        OPENED.append(os.open(os.devnull, os.O_RDONLY))

        def test_next(temp_dir):
            status = os.stat(lock_of(temp_dir))
            assert any(os.path.samestat(each, status) for each in opened())
            with open(lock_of(temp_dir), "rb+") as file, pytest.raises(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for fd in OPENED:
                os.close(fd)

        def test_after_that():
            pass

        def opened():
            for fd in range(3, 100):
                try:
                    yield os.fstat(fd)
                except OSError:
                    continue
        """
    )
    result = run("--dist=loadfile")
    result.assert_outcomes(passed=3, warnings=1)
    result.stdout.fnmatch_lines(["*a test has closed the file descriptor that locks*locked again*"])
    nothing_left()


# -- what comes in the place of the session's root


SWAP = {
    "a kept root of ours": """
        import os

        def swap(root, moved, private):
            os.rename(root, moved)
            os.rename(root.parent / "tempres-wasthere", root)
        """,
    "another user's": """
        import os

        def swap(root, moved, private):
            os.rename(root, moved)
            root.mkdir()
            for name in ("main", "main.d", "gw0", "gw0.d", "gw1", "gw1.d"):
                (root / name).symlink_to(moved / name)
            for name in ("index.json", "index.json.new", ".kept.jsonl", ".lock", ".tempres.json"):
                (root / name).symlink_to(private)
            os.chown(root, 65534, 65534)
        """,
}


@pytest.mark.parametrize("what", SWAP)
def test_replacement_of_the_session_root_is_not_changed(
    pytester, run, outcomes, system_tmp, tmp_path, what
):
    """It is neither written to nor emptied; there is one warning, and no outcome changes."""
    if os.name == "nt" or os.geteuid() != 0:
        pytest.skip("only root can give a directory to another user")
    private = tmp_path / "private"
    private.write_text("private")
    kept = system_tmp / "tempres-wasthere"
    evidence = [kept / name / "kept" for name in ("main.d", "gw0.d", "gw1.d")]
    for path in evidence:
        path.mkdir(parents=True)
        (path / "precious").touch()
    (kept / ".lock").touch(0o600)
    (kept / ".tempres.json").write_text('{"rootdir": "/other", "root": "tempres-wasthere"}')
    (kept / "index.json").write_text(json.dumps({"kept": {"t": [str(path) for path in evidence]}}))
    pytester.makepyfile(
        swapper=SWAP[what],
        test_it=f"""
        import swapper, tempfile
        from pathlib import Path

        def test_swaps():
            root = Path(tempfile.gettempdir()).parent
            Path("where").write_text(str(root))
            swapper.swap(root, root.with_name("moved"), {str(private)!r})

        def test_fails(temp_dir):
            assert 0

        def test_passes():
            pass
        """,
    )
    before = snapshot(kept)
    result = run("-p", "no:cacheprovider", "--dist=loadfile", "--junitxml=junit.xml")
    found = outcomes()
    assert found == {"test_swaps": [], "test_fails": ["failure"], "test_passes": []}
    warnings = {line for line in result.outlines if re.search(r"Tempres\w+: ", line)}
    assert len(warnings) == 1, warnings
    assert "INTERNALERROR" not in str(result.stdout)
    assert private.read_text() == "private"
    place = Path((pytester.path / "where").read_text())
    if what == "another user's":
        assert len(list(place.iterdir())) == 11
        return
    now = {name.replace(str(place), str(kept)): each for name, each in snapshot(place).items()}
    assert before.items() <= now.items()
