"""The command line of `pytest-tempres`: its arguments and its exit status."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from collections.abc import Sequence
import os
import sys
from typing import Final
from typing import TextIO

from pytest_tempres import __version__
from pytest_tempres.cli.output import InputError
from pytest_tempres.cli.output import Output
from pytest_tempres.reports.targets import FORMATS

__all__ = ["BAD_INPUT", "main"]

#: The exit status for arguments and files that cannot be used; also that of argparse.
BAD_INPUT: Final = 2
_INTERRUPTED: Final = 130

_EPILOG: Final = """\
exit status:
    0  done
    1  diff: there are new leaks; sweep: something could not be removed
    2  the arguments or a file cannot be used
  130  interrupted with Ctrl-C

Colours follow NO_COLOR, FORCE_COLOR and PY_COLORS, as in pytest.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    :param arguments: The command line without the program; None for that of the process.
    :raises SystemExit: For ``--help``, ``--version`` and arguments that argparse refuses.
    """
    options = _parser().parse_args(arguments)
    if sys.stdout is None:
        # The shell has closed it.
        sys.stdout = _nowhere()
    try:
        status: int = options.run(options, Output(sys.stdout))
        sys.stdout.flush()
    except InputError as error:
        sys.stderr.write(f"pytest-tempres: {error}\n")
        return BAD_INPUT
    except BrokenPipeError:
        # The reader, such as `head`, has enough. Python would complain when it closes the stream.
        sys.stdout = _nowhere()
        return 0
    except OSError as error:
        # Not status 1, which would be a result of the command.
        sys.stderr.write(f"pytest-tempres: standard output: {error.strerror or error}\n")
        sys.stdout = _nowhere()
        return BAD_INPUT
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-tempres",
        description="Work with the reports and the directories of pytest-tempres.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pytest-tempres {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_report(commands)
    _add_diff(commands)
    _add_sweep(commands)
    _add_kept(commands)
    return parser


_Commands = argparse._SubParsersAction  # noqa: SLF001 -- argparse has no public name for it


def _add(
    commands: _Commands[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace, Output], int],
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=run)
    return command


def _add_report(commands: _Commands[argparse.ArgumentParser]) -> None:
    text = "merge the JSON reports of several runs, such as the shards of a CI job, and render them"
    command = _add(commands, "report", text, _report)
    command.add_argument("files", metavar="FILE", nargs="+", help="a JSON report")
    command.add_argument(
        "--to",
        metavar="TYPE[:DEST]",
        action="append",
        help=f"what to write: term (the default), github, or TYPE:DEST, where TYPE is one of "
        f"{', '.join(FORMATS)}, and DEST a file, or - for standard output (repeatable)",
    )
    command.add_argument("-v", "--verbose", action="count", default=0, help="list everything")
    command.add_argument("-q", "--quiet", action="count", default=0, help="list less")


def _add_diff(commands: _Commands[argparse.ArgumentParser]) -> None:
    text = "list the leaks that are new and those that are fixed; exit status 1 if any is new"
    command = _add(commands, "diff", text, _diff)
    command.add_argument("old", metavar="OLD", help="the JSON report to compare with")
    command.add_argument("new", metavar="NEW", help="the JSON report of the newer run")


def _add_sweep(commands: _Commands[argparse.ArgumentParser]) -> None:
    text = "remove what killed sessions left behind, except for what they kept"
    command = _add(commands, "sweep", text, _sweep)
    command.add_argument("--dry-run", action="store_true", help="only list what would be removed")
    _add_root(command)


def _add_kept(commands: _Commands[argparse.ArgumentParser]) -> None:
    text = "list what sessions kept, with test, age, size and project"
    _add_root(_add(commands, "kept", text, _kept))


def _add_root(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--root",
        metavar="DIR",
        help="the directory with the sessions' directories (default: the system temp directory)",
    )


# Each command imports its modules when it runs.


def _report(options: argparse.Namespace, output: Output) -> int:
    from pytest_tempres.cli import report  # noqa: PLC0415 -- as above

    verbosity = options.verbose - options.quiet
    return report.run(options.files, options.to or ["term"], output, verbosity=verbosity)


def _diff(options: argparse.Namespace, output: Output) -> int:
    from pytest_tempres.cli import diff  # noqa: PLC0415 -- as above

    return diff.run(options.old, options.new, output)


def _sweep(options: argparse.Namespace, output: Output) -> int:
    from pytest_tempres.cli import sessions  # noqa: PLC0415 -- as above

    return sessions.sweep(options.root, output, dry_run=options.dry_run)


def _kept(options: argparse.Namespace, output: Output) -> int:
    from pytest_tempres.cli import sessions  # noqa: PLC0415 -- as above

    return sessions.kept(options.root, output)
