from __future__ import annotations

import _thread
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
import os
from pathlib import Path
import sys
import threading

from owner_suite import OwnerSuite
import pytest

from pytest_tempres.leaks import threads as module
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.temp.audit import activate
from pytest_tempres.leaks.temp.audit import deactivate

ONE = Owner("test", "t.py::one")
TWO = Owner("test", "t.py::two")
WIDE = Owner("fixture", "server", "module")

needs_thread_events = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="before Python 3.12 the start of a thread raises no event"
)


@pytest.fixture
def root(tmp_path) -> Path:
    """The worker root."""
    path = tmp_path / "main"
    path.mkdir()
    return path


@pytest.fixture
def suite(root) -> Iterator[OwnerSuite]:
    """A suite whose ledger receives audit events."""
    suite = OwnerSuite(root)
    activate(suite.ledger.origins)
    yield suite
    deactivate(suite.ledger.origins)


@pytest.fixture
def waiting(root) -> Callable[[str], tuple[Callable[[], None], Callable[[], None]]]:
    """Return a function that creates a name when it is released, and one that releases it."""

    def waiting(name: str) -> tuple[Callable[[], None], Callable[[], None]]:
        go, done = threading.Event(), threading.Event()

        def make() -> None:
            go.wait()
            (root / name).mkdir()
            done.set()

        def release() -> None:
            go.set()
            assert done.wait(60)

        return make, release

    return waiting


#: The special methods called on threads of the class below.
calls: list[str] = []


class Hostile(threading.Thread):
    """A thread whose special methods must not be called."""

    def __getattribute__(self, name):  # noqa: D105
        calls.append(name)
        return super().__getattribute__(name)


def _recording(name: str) -> Callable[..., object]:
    def method(self, *args):
        calls.append(name)
        return getattr(threading.Thread, name)(self, *args)

    return method


for _name in ("__hash__", "__eq__", "__repr__"):
    setattr(Hostile, _name, _recording(_name))


def in_a_timer(make: Callable[[], None]) -> None:
    """Run *make* in a `threading.Timer`."""
    threading.Timer(0, make).start()


def in_a_daemon(make: Callable[[], None]) -> None:
    """Run *make* in a daemon thread."""
    threading.Thread(target=make, daemon=True).start()


def in_a_subclass(make: Callable[[], None]) -> None:
    """Run *make* in the `run` method of a subclass."""
    type("Mine", (threading.Thread,), {"run": staticmethod(make)})().start()


def in_a_bare_thread(make: Callable[[], None]) -> None:
    """Run *make* in a thread without a Thread object."""
    _thread.start_new_thread(make, ())


@pytest.mark.parametrize("owner", [ONE, WIDE, SESSION], ids=lambda owner: owner.kind)
@pytest.mark.parametrize(
    "start",
    [
        lambda make: threading.Thread(target=make).start(),
        in_a_daemon,
        in_a_timer,
        in_a_subclass,
        pytest.param(in_a_bare_thread, marks=needs_thread_events),
    ],
)
def test_a_path_from_a_thread_belongs_to_the_owner_of_the_thread(suite, waiting, start, owner):
    """Another test may be running by then."""
    make, release = waiting("late")
    with suite.run(owner, ONE.id):
        start(make)
    with suite.run(TWO):
        release()
    assert suite.owners() == {"late": owner.id}
    (entry,) = suite.ledger.not_yet_sent
    assert (entry.test, entry.phase, entry.made_by) == (ONE.id, "call", "python")
    assert entry.origin[-1].function == "make"


def test_a_thread_of_the_current_owner_has_the_current_phase(suite, waiting):
    """The test may enter another phase while its thread runs."""
    make, release = waiting("late")
    with suite.run(ONE):
        threading.Thread(target=make).start()
        suite.ledger.running.phase = "teardown"
        release()
    assert suite.owners() == {"late": ONE.id}
    assert suite.ledger.not_yet_sent[0].phase == "teardown"


@needs_thread_events
def test_a_thread_started_by_a_thread_has_the_same_owner(suite, waiting):
    """It may start after the test of the first one has finished."""
    make, release = waiting("late")
    go = threading.Event()

    def start():
        go.wait()
        inner = threading.Thread(target=make)
        inner.start()
        inner.join()

    with suite.run(ONE):
        threading.Thread(target=start).start()
    with suite.run(TWO):
        go.set()
        release()
    assert suite.owners() == {"late": ONE.id}


def test_no_method_of_a_thread_is_called(suite, waiting):
    """Code of the test must not run in an audit hook."""
    make, release = waiting("late")
    thread = Hostile(target=make)
    with suite.run(ONE):
        thread.start()
        calls.clear()
    with suite.run(TWO):
        release()
    thread.join()
    # `threading` itself reads some attributes.
    assert not {"__class__", "__dict__", "__eq__", "__hash__", "__repr__"} & set(calls)
    assert suite.owners() == {"late": ONE.id}
    assert suite.ledger.origins.threads.error is None


@needs_thread_events
def test_no_method_of_an_argument_is_called_at_the_start_of_a_thread(suite):
    """Only a real bound method is trusted."""

    class Pretender:
        @property
        def __self__(self):
            raise AssertionError

        @property
        def __code__(self):
            raise AssertionError

    bootstrap = Hostile()._bootstrap
    calls.clear()
    for function in (Pretender(), Pretender, bootstrap, None, len):
        for event in module.EVENTS:
            sys.audit(event, function, (), {})
    assert calls == []
    assert suite.ledger.origins.threads.error is None


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ThreadPool])
def test_a_pool_thread_works_for_the_current_owner(suite, root, pool):
    """Its starter may be another test."""
    call = (lambda p, *args: p.submit(*args).result()) if pool is ThreadPoolExecutor else None
    call = call or (lambda p, function, *args: p.apply(function, args))
    with suite.run(SESSION):
        workers = pool(1)
    with suite.run(ONE):
        call(workers, os.mkdir, root / "one")
    with suite.run(TWO):
        call(workers, os.mkdir, root / "two")
    getattr(workers, "shutdown", getattr(workers, "terminate", None))()
    assert suite.owners() == {"one": ONE.id, "two": TWO.id}


def test_a_thread_that_runs_tests_works_for_the_current_owner(suite, root):
    """Pytest may run in a thread."""

    def run():
        with suite.run(ONE):
            (root / "x").mkdir()

    with suite.run(SESSION):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert suite.owners() == {"x": ONE.id}


@needs_thread_events
def test_the_same_code_started_by_two_owners_has_no_owner(suite, waiting):
    """Threads without an object are known by their code."""
    make, release = waiting("late")
    go = threading.Event()

    def work(then):
        go.wait()
        then()

    with suite.run(ONE):
        _thread.start_new_thread(work, (lambda: None,))
    with suite.run(WIDE, TWO.id):
        _thread.start_new_thread(work, (make,))
        go.set()
        release()
    assert suite.owners() == {"late": WIDE.id}


def test_the_record_of_a_thread_is_dropped_with_its_object(suite):
    """Its `id` may be reused."""
    with suite.run(ONE):
        for _ in range(50):
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join()
        del thread
    assert not suite.ledger.origins.any_running()


def test_a_hint_survives_a_scan_before_the_operation(suite, root):
    """The event may come just before a scan, and the directory just after it."""
    paused, go = threading.Event(), threading.Event()
    event_raised = threading.Event()

    def raise_event():
        go.wait()
        # As `os.mkdir` does, before it releases the GIL.
        sys.audit("os.mkdir", str(root / "late"), 0o777, -1)
        event_raised.set()
        paused.wait()

    with suite.run(ONE):
        thread = threading.Thread(target=raise_event)
        thread.start()
    with suite.run(TWO):
        go.set()
        event_raised.wait()
    deactivate(suite.ledger.origins)
    with suite.run(WIDE):
        (root / "late").mkdir()
    paused.set()
    thread.join()
    assert suite.owners() == {"late": ONE.id}


def test_an_internal_error_is_recorded_and_not_raised(suite, root, monkeypatch):
    """The path belongs to the current owner then."""

    def broken(*args):
        raise RuntimeError("boom")

    monkeypatch.setattr(module, "_is_of_pool", broken)
    monkeypatch.setattr(module.Threads, "_current_work", broken)
    suite.ledger.origins.threads._started[0] = module._Started(lambda: None, None)
    with suite.run(ONE):
        thread = threading.Thread(target=(root / "x").mkdir)
        thread.start()
        thread.join()
    assert suite.owners() == {"x": ONE.id}
    assert repr(suite.ledger.origins.threads.error) == "RuntimeError('boom')"


# -- whole sessions

SOURCE = """
    from concurrent.futures import ThreadPoolExecutor
    import tempfile, threading
    import pytest

    go, threads = threading.Event(), []

    def make(prefix):
        go.wait()
        tempfile.mkdtemp(prefix=prefix)

    def start(kind, prefix, **options):
        threads.append(kind(target=make, args=(prefix,), **options))
        threads[-1].start()

    class Hostile(threading.Thread):
        def __hash__(self): raise RuntimeError("hash")
        def __eq__(self, other): raise RuntimeError("eq")

    # Another worker imports this too, and would wait for it.
    start(threading.Thread, "import-", daemon=True)

    @pytest.fixture(scope="module")
    def server():
        start(threading.Thread, "server-")

    @pytest.fixture(scope="session")
    def pool():
        with ThreadPoolExecutor(1) as pool:
            yield pool

    def test_starts(server, pool):
        start(threading.Thread, "plain-")
        start(threading.Thread, "daemon-", daemon=True)
        threads.append(threading.Timer(0, make, ("timer-",)))
        threads[-1].start()
        pool.submit(len, ()).result()

    def test_other(pool):
        go.set()
        for thread in threads:
            thread.join()

    def test_asks(pool):
        pool.submit(tempfile.mkdtemp, prefix="pool-").result()
"""


@pytest.mark.parametrize("leaks", ["report", "strict"])
def test_reports_name_the_owner_that_started_the_thread(
    pytester, run_with_report, leaks, nothing_left
):
    """For tests, fixtures and imports, also after they have finished."""
    pytester.makepyfile(test_it=SOURCE)
    result, report = run_with_report("--dist=loadfile", f"--tempres-leaks={leaks}", "-W", "error")
    owners = {
        os.path.basename(leak["path"]).partition("-")[0]: (leak["owner"]["id"], leak["status"])
        for leak in report["leaks"]
    }
    assert owners == {
        "import": ("test_it.py", "leak"),
        "server": ("server", "leak"),
        **dict.fromkeys(("plain", "daemon", "timer"), ("test_it.py::test_starts", "leak")),
        "pool": ("test_it.py::test_asks", "leak"),
    }
    strict = leaks == "strict"
    result.assert_outcomes(passed=3, errors=1 if strict else 0)
    assert result.ret == (1 if strict else 0)
    nothing_left()


def test_late_paths_of_failed_tests_and_of_allowed_names_are_no_leaks(pytester, report):
    """The thread may outlive the test."""
    pytester.makepyfile(
        test_it="""
        import tempfile, threading
        import pytest

        go, threads = threading.Event(), []

        def start(prefix):
            def make():
                go.wait()
                tempfile.mkdtemp(prefix=prefix)
            threads.append(threading.Thread(target=make))
            threads[-1].start()

        def test_failed():
            start("failed-")
            raise RuntimeError

        @pytest.mark.tempres_ignore("allowed-*")
        def test_allowed():
            start("allowed-")
            start("other-")

        def test_last():
            go.set()
            for thread in threads:
                thread.join()
        """
    )
    statuses = {
        os.path.basename(leak["path"]).partition("-")[0]: (leak["owner"]["id"], leak["status"])
        for leak in report("--dist=loadfile")["leaks"]
    }
    assert statuses == {
        "failed": ("test_it.py::test_failed", "failed-test"),
        "other": ("test_it.py::test_allowed", "leak"),
    }


def test_an_internal_error_is_one_warning(pytester, run_plain):
    """The tests pass."""
    pytester.makeconftest(
        """
        from pytest_tempres.leaks import threads

        def broken(thread):
            raise RuntimeError("boom")

        threads._is_of_pool = broken
        """
    )
    pytester.makepyfile(
        """
        import threading
        import pytest

        @pytest.fixture(autouse=True, scope="module")
        def thread():
            stop = threading.Event()
            thread = threading.Thread(target=stop.wait)
            thread.start()
            yield
            stop.set()
            thread.join()

        def test_one(): pass
        def test_two(): pass
        """
    )
    result = run_plain()
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(
        ["*TempresLeakWarning: leaks may be reported for the wrong owner: *boom*"]
    )
