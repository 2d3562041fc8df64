"""The suites in ``suites``, and the leaks that a report of each must contain.

A suite is a section of a Markdown file in ``suites``: its title, the files in
fenced blocks, and where it matters a ``console`` block with the command lines
(the last one is judged) and the outcomes that pytest counts.

What is left behind stands as a comment on the line that makes it::

    tempfile.mkdtemp()  # leak: directory of test_it

Before the colon stands the status and, where each owner has several, how many
(`leak x2`). Behind `of` stand the owners: a test of the same file or a whole
node id, `fixture NAME (SCOPE)`, `collecting PATH` or `the session`. It ends
with `, no origin` where no Python code of this process made it, and with
`, no line of the suite` where all of its stack is the standard library's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib import metadata
import os
from pathlib import Path
import platform
import re
import shlex
from typing import Final
from typing import NamedTuple

from packaging.requirements import Requirement

__all__ = ["Record", "Suite", "expected", "missing", "read"]

HERE: Final = Path(__file__).parent

_FENCE: Final = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NEEDS: Final = re.compile(r"^Needs (.+)\.$", re.MULTILINE)
_COMMENT: Final = re.compile(
    r"# (?P<status>leak|deferred|failed-test)(?: x(?P<times>\d+))?: (?P<kind>\w+) of "
    r"(?P<owners>[^,]+)(?:, (?P<unseen>no origin|no line of the suite))?$"
)
#: A comment that seems to describe a leak, whether or not it can be parsed.
_MARK: Final = re.compile(r"# *(leak|defer|fail)", re.IGNORECASE)
_FIXTURE: Final = re.compile(r"fixture (\w+) \((\w+)\)")


class Record(NamedTuple):
    """What is said of one entry."""

    status: str
    kind: str
    owner: str
    id: str
    scope: str | None
    #: `file:line` of the nearest frame, or why there is none.
    origin: str


class Suite(NamedTuple):
    """Some files to run, with what they leave behind written in them."""

    name: str
    files: dict[str, str]
    #: The arguments of each run; what the last one leaves is judged.
    runs: tuple[tuple[str, ...], ...]
    #: How many tests passed, failed and so on; None when all that ran have passed.
    outcomes: dict[str, int] | None
    needs: tuple[str, ...]


def read() -> list[Suite]:
    """Return all suites, in the order of the files."""
    return [suite for path in sorted(HERE.glob("suites/*.md")) for suite in _suites(path)]


def _suites(path: Path) -> Iterator[Suite]:
    _, *sections = path.read_text("utf-8").split("\n## ")
    for section in sections:
        title = section.partition("\n")[0]
        blocks = _FENCE.findall(section)
        files = {name: text for _, name, text in blocks if name}
        assert files, f"{path.name}: {title}: no file has a name"
        console = "".join(text for language, _, text in blocks if language == "console")
        needs = _NEEDS.search(section)
        yield Suite(
            f"{path.stem}: {title}",
            files,
            tuple(tuple(shlex.split(line)[1:]) for line in re.findall(r"\$ (.*)", console))
            or ((),),
            _outcomes(console),
            tuple(needs[1].split(", ")) if needs else (),
        )


def _outcomes(console: str) -> dict[str, int] | None:
    answers = [line for line in console.splitlines() if not line.startswith("$")]
    if not answers:
        return None
    return {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", answers[-1])}


def missing(suite: Suite) -> str | None:
    """Return the first thing that *suite* needs and that is not here."""
    return next((need for need in suite.needs if not _is_here(need)), None)


def _is_here(need: str) -> bool:
    if need == "POSIX":
        return os.name == "posix"
    wanted = Requirement(need)
    if wanted.name == "python":
        return wanted.specifier.contains(platform.python_version(), prereleases=True)
    try:
        return wanted.specifier.contains(metadata.version(wanted.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def expected(suite: Suite, *, exited: bool) -> Counter[Record]:
    """Return what must be said of *suite*.

    :param exited: Whether the processes that ran the tests are over by then, and
        what they remove at their exit is gone.
    """
    records: Counter[Record] = Counter()
    for file, text in suite.files.items():
        for number, line in enumerate(text.splitlines(), 1):
            found = _COMMENT.search(line)
            assert found or not _MARK.search(line), f"{suite.name}: {line}"
            if found and not (exited and found["status"] == "deferred"):
                origin = found["unseen"] or f"{file}:{number}"
                for name in found["owners"].split(" and "):
                    record = Record(found["status"], found["kind"], *_owner(name, file), origin)
                    records[record] += int(found["times"] or 1)
    return records


def _owner(text: str, file: str) -> tuple[str, str, str | None]:
    """Return the kind, id and scope of the owner that a comment in *file* names."""
    fixture = _FIXTURE.fullmatch(text)
    if fixture:
        return "fixture", fixture[1], fixture[2]
    if text == "the session":
        return "session", "session", None
    if text.startswith("collecting "):
        return "collection", text.removeprefix("collecting "), None
    whole = re.match(r"[\w/]+\.\w+::", text)
    return "test", text if whole else f"{file}::{text}", None
