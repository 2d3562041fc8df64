from __future__ import annotations

import json
import os

import pytest

from pytest_tempres.workspace.proof import INDEX
from pytest_tempres.workspace.root import create

#: What the suite can afford; more takes longer in proportion.
KEPT = 400
ROOTS = 120


@pytest.fixture
def dead(system_tmp):
    """Make the root of a session that has died, and name a directory of it in its index."""

    def dead(*, kept, rootdir="elsewhere"):
        root = create(str(system_tmp), mode=0o700, metadata={"rootdir": rootdir})
        given = root.add_worker("main", 0o700).fixture_dir
        os.mkdir(os.path.join(given, "kept"))
        os.mkdir(os.path.join(given, "rubbish"))
        if kept:
            paths = {"t.py::test": [os.path.join(given, "kept")]}
            with open(os.path.join(root.path, INDEX), "w", encoding="ascii") as file:
                json.dump({"version": 1, "kept": paths}, file)
        root.release()
        return root.path

    return dead


def test_very_many_kept_directories(pytester, run_plain, system_tmp):
    """All are indexed and reported; the terminal lists few; the next session removes none."""
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.parametrize("number", range({KEPT}))
        def test_it(number, temp_dir): pass
        """
    )
    result = run_plain("--tempres-keep=all", "--tempres-report=json:report.json")
    result.assert_outcomes(passed=KEPT)
    listed = [line for line in result.outlines if line.startswith("kept: ")]
    assert len(listed) == 50
    result.stdout.fnmatch_lines([f"*and {KEPT - 50} more*(-v: all)", f"*{KEPT} paths kept*"])
    report = json.loads((pytester.path / "report.json").read_text())
    (root,) = system_tmp.iterdir()
    index = json.loads((root / INDEX).read_text())["kept"]
    paths = {path for paths in index.values() for path in paths}
    assert len(index) == len(paths) == len(report["kept"]) == KEPT
    assert paths == {str(path) for path in root.glob("main.d/*")}
    run_plain("-k", "test_it[0]")
    assert paths == {str(path) for path in root.glob("main.d/*")}
    assert list(system_tmp.iterdir()) == [root]


def test_very_many_sessions(pytester, run_plain, system_tmp, dead):
    """Dead sessions go by the hundred in one end of a session, and those that kept something stay.

    None of them leaves a descriptor open, however few there are.
    """
    pytest.importorskip("resource", reason="Windows has no such limit")
    spared = {dead(kept=True) for _ in range(ROOTS)}
    own = [dead(kept=True, rootdir=str(pytester.path)) for _ in range(ROOTS)]
    for _ in range(ROOTS):
        dead(kept=False)
    assert len(list(system_tmp.iterdir())) == 3 * ROOTS
    pytester.makeconftest(
        f"""
        import resource
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, ({ROOTS // 2}, hard))
        """
    )
    pytester.makepyfile("def test_it(): pass")
    for _ in range(9):
        result = run_plain("--tempres-keep-sessions=3", "-p", "no:cacheprovider")
        result.assert_outcomes(passed=1)
        left = {str(path) for path in system_tmp.iterdir()}
        # On a slow machine the time of one sweep is not enough for all.
        rubbish = list(system_tmp.glob("*/main.d/rubbish"))
        if len(left) == ROOTS + 3 and not rubbish:
            break
    assert left >= spared
    assert len(left & set(own)) == 3
    assert all(os.path.isdir(os.path.join(path, "main.d", "kept")) for path in left)
    assert not rubbish
