"""What tests leave replaced in the standard library is nothing that we call afterwards."""

from __future__ import annotations

RECORDER = '''
import builtins, contextlib, json, os, posixpath, shutil, sys, tempfile, time, types

# What calls one of these functions may do so for us.
LIBRARY = {"os", "posixpath", "genericpath", "contextlib", "json", "json.encoder", "json.decoder"}
LIBRARY |= {"shutil", "tempfile", "codecs", "fnmatch"}
CALLED = open("called.txt", "w", buffering=1)


def caller():
    """Return our function that called, through the standard library too."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") in LIBRARY:
        frame = frame.f_back
    module = frame.f_globals.get("__name__", "") if frame is not None else ""
    return module.startswith("pytest_tempres") and f"{module}.{frame.f_code.co_name}"


def recording(name, function):
    def recorder(*args, **kwargs):
        by = caller()
        if by:
            CALLED.write(f"{by}: {name}\\n")
        return function(*args, **kwargs)

    return recorder


def replace_all():
    for module in (os, os.path, json, shutil, time, tempfile):
        for name, function in list(vars(module).items()):
            if isinstance(function, (types.FunctionType, types.BuiltinFunctionType)):
                setattr(module, name, recording(f"{module.__name__}.{name}", function))
    builtins.open = recording("open", builtins.open)
    begin = recording("contextlib.suppress", contextlib.suppress.__init__)
    contextlib.suppress = type("suppress", (contextlib.suppress,), {"__init__": begin})
'''


#: What has to be as the test left it.
WANTED = {
    # Asked by pathlib for the path that the fixture returns.
    "pytest_tempres.fixtures.dir: os.fspath",
    # Whoever replaces this wants to see what is made.
    "pytest_tempres.primitives._create._create: os.open",
    # Asked by `os.environ`.
    "pytest_tempres.session.temp_location.undo: os.putenv",
}


def test_functions_replaced_by_tests_are_never_called(pytester, run, outcomes, system_tmp):
    """From the next test to the end of the session."""
    pytester.makepyfile(
        recorder=RECORDER,
        test_it="""
        import recorder, tempfile

        def test_replaces(temp_dir):
            recorder.replace_all()

        def test_leaks():
            recorder.LEFT = tempfile.mkdtemp()
            recorder.OPEN = open("file", "w")

        def test_fails(temp_dir, named_temp_file):
            (temp_dir / "file").write_text("x")
            tempfile.mkdtemp()
            assert 0
        """,
    )
    result = run(
        *("--dist=loadfile", "-p", "no:cacheprovider", "--junitxml=junit.xml"),
        *("--tempres-artifacts=artifacts", "--tempres-report=json:report.json"),
        *("--tempres-detect=temp,fds,watch", "--tempres-leaks=fail"),
        *("-o", "tempres_ignore=*called.txt"),
    )
    result.stdout.fnmatch_lines(["*2 leaks from 1 test*"])
    assert outcomes() == {"test_replaces": [], "test_leaks": [], "test_fails": ["failure"]}
    called = set((pytester.path / "called.txt").read_text().splitlines())
    assert called <= WANTED
