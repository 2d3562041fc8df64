"""A test of the installed wheel, in an environment with nothing but the wheel and pytest.

Run it with ``python -I``. It uses only the examples of the checkout, and copies them first, so that
no import can find the package's sources.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile

CHECKOUT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Check the files and metadata that were installed, then run the examples."""
    check_metadata()
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(CHECKOUT / "examples", Path(name, "examples"))
        check_suite(Path(name, "examples", "suite"))
        check_failing(Path(name, "examples", "failing"))
        check_switched_off(Path(name))
        check_named_plugin(Path(name, "examples", "suite"))
        check_command(Path(name, "examples", "suite"))
    print("The wheel works.")


def check_metadata() -> None:
    """The imported package is the installed one, has all files, and requires only pytest."""
    spec = importlib.util.find_spec("pytest_tempres")
    expect(spec is not None and spec.origin is not None, "the package is installed")
    package = Path(spec.origin).parent
    expect(CHECKOUT not in package.parents or "site-packages" in package.parts, "not the checkout")
    expect((package / "py.typed").is_file(), "py.typed is in the wheel")
    expect((package / "reports" / "report.schema.json").is_file(), "the schema is in the wheel")
    page = package / "reports" / "templates" / "report.html.jinja"
    expect(page.is_file(), "the template of the HTML report is in the wheel")
    metadata = importlib.metadata.metadata("pytest-tempres")
    needed = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    expect(needed == ["pytest>=8.0"], f"pytest is its only requirement: {needed}")
    expect(metadata["License-Expression"] == "MIT", "the metadata has the licence")


def check_suite(directory: Path) -> None:
    """The example suite passes and its leak is reported."""
    status, output = run(directory)
    expect(status == 0, "the example suite passes", output)
    expect("temporary resources" in output, "there is a report", output)
    expect("thumbnails.py" in output, "the report names the line that leaked", output)
    status, output = run(directory, "--tempres-leaks=fail")
    expect(status == 1, "a leak fails the run when asked to", output)
    status, output = run(directory, "--tempres-leaks=off")
    expect(status == 0 and "left 1" not in output, "detection can be switched off", output)


def check_failing(directory: Path) -> None:
    """The failing example fails, and the directory in its report exists."""
    status, output = run(directory, f"--tempres-root={directory}")
    expect(status == 1, "the failing example fails", output)
    kept = re.findall(r"^kept: (?:.*(?:  |\n  ))?(\S+)$", output, re.MULTILINE)
    expect(len(kept) >= 1, "the report has a kept directory", output)
    expect(all(Path(path).is_dir() for path in kept), "the kept directories exist", output)


def check_switched_off(directory: Path) -> None:
    """With ``-p no:tempres`` nothing of the plugin is active, fixtures included."""
    Path(directory, "test_off.py").write_text("def test(temp_dir): pass\n", encoding="utf-8")
    status, output = run(directory, "-p", "no:tempres", "test_off.py")
    expect(status == 1, "a test that uses a fixture fails without the plugin", output)
    expect("fixture 'temp_dir' not found" in output, "the fixtures do not exist", output)


def check_named_plugin(directory: Path) -> None:
    """``-p tempres`` loads the plugin once, with and without autoload."""
    for autoload in ("", "1"):
        status, output = run(directory, "-p", "tempres", PYTEST_DISABLE_PLUGIN_AUTOLOAD=autoload)
        expect(status == 0, "-p tempres works", output)
        expect("temporary resources" in output, "-p tempres reports", output)


def check_command(directory: Path) -> None:
    """The script is installed, and renders the report of a session."""
    script = shutil.which("pytest-tempres", path=sysconfig.get_path("scripts"))
    expect(script is not None, "the script pytest-tempres is installed")
    run(directory, "--tempres-report=json:report.json")
    command = [script, "report", "report.json"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    expect(done.returncode == 0, "the script succeeds", done.stderr)
    expect("thumbnails.py" in done.stdout, "the script renders the report", done.stdout)


def run(directory: Path, *args: str, **variables: str) -> tuple[int, str]:
    """Run pytest in ``directory``; return its exit status and what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env.update({name: value for name, value in variables.items() if value})
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
    done = subprocess.run(
        command,
        cwd=directory,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="backslashreplace",
        check=False,
    )
    return done.returncode, done.stdout


def expect(condition: bool, what: str, output: str = "") -> None:
    """Exit with ``what`` as the message if ``condition`` is false."""
    if not condition:
        sys.exit(f"{output}\nThis is not true of the wheel: {what}")


if __name__ == "__main__":
    main()
