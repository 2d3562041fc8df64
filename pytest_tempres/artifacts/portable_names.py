"""Which names can every disk, and every service that stores the output of a run, take?

What Windows refuses: "Naming Files, Paths, and Namespaces" of its documentation. What GitHub's
upload refuses, with all else that is in the same upload: `path-and-artifact-name-validation.ts`
of actions/toolkit.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import hashlib
import re
from typing import Final
import unicodedata

from pytest_tempres.primitives._system import System

__all__ = ["fold", "free_name", "names_a_test", "numbered", "safe_names", "safe_nodeid"]

#: The most bytes of a directory that is named after a test.
LONGEST: Final = 80
#: The most bytes of a name on nearly every disk.
_LONGEST_NAME: Final = 255
#: The most characters of a suffix, which are fewer than a digest has.
_LONGEST_SUFFIX: Final = 9

# Surrogates stand for bytes that are no UTF-8, which some disks refuse.
_REFUSED: Final = re.compile(r'["*/:<>?\\|\x00-\x1f\x7f-\x9f\ud800-\udfff]|[. ]+\Z')
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_WITH_DIGEST: Final = re.compile(r"-[0-9a-f]{10}\Z")
# The superscript digits are Windows' own idea.
_RESERVED: Final = re.compile(
    r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9\xb9\xb2\xb3]) *(\..*)?", re.IGNORECASE
)


def safe_nodeid(nodeid: str) -> str:
    """Return the name of a directory for the test *nodeid*: the same for the same id in every run.

    :param nodeid: Any text.
    :returns: ASCII letters, digits, ``_``, ``.`` and ``-`` alone, :data:`LONGEST` bytes at most.
        No two ids have names that differ in case alone or not at all: whatever is not the id
        itself in lower case ends with ten hex digits of its SHA-256.
    """
    text = _NOT_PLAIN.sub("_", nodeid).strip("._-")
    if _RESERVED.fullmatch(text):
        text = f"_{text}"
    is_plain = text == nodeid.lower() == nodeid and 0 < len(text) <= LONGEST
    if is_plain and not _WITH_DIGEST.search(text):
        return text
    digest = hashlib.sha256(nodeid.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{_shortened(text or 'test', LONGEST - 11)}-{digest}"


def names_a_test(name: str) -> bool:
    """Whether *name* is what :func:`safe_nodeid` makes of the ids of tests, or a later one."""
    return _WITH_DIGEST.search(re.sub(r"-[0-9]{1,9}\Z", "", name)) is not None


def _shortened(text: str, limit: int) -> str:
    """Return *text* without its middle: it begins with the module and ends with the test."""
    if len(text) <= limit:
        return text
    half = limit // 2 - 1
    return f"{text[:half]}..{text[-half:]}"


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """Return for each of *names*, which stand in one directory, one that is safe everywhere.

    :returns: Names that no two of differ in case or in the composition of characters alone.
        What is safe already stays as it is, but for the later of two that would meet.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names, key=lambda name: (_safe(name) != name, name)):
        found[name] = free_name(name, taken)
    return found


def free_name(name: str, taken: set[str]) -> str:
    """Return a safe form of *name* that none of *taken* meets, and add it to those.

    :param taken: Names as :func:`fold` returns them.
    """
    free = next(each for each in numbered(_safe(name)) if fold(each) not in taken)
    taken.add(fold(free))
    return free


def _safe(name: str) -> str:
    text = _REFUSED.sub(lambda found: "_" * len(found[0]), name) or "_"
    return f"_{text}" if _RESERVED.fullmatch(text) else text


def numbered(name: str) -> Iterator[str]:
    """Yield *name*, then the same with ``-2``, ``-3`` and so on before what ends like ``.json``."""
    yield name
    stem, suffix = System.splitext(name)
    if len(suffix) > _LONGEST_SUFFIX:
        stem, suffix = name, ""
    number = 2
    while True:
        end = f"-{number}{suffix}"
        room = _LONGEST_NAME - len(end.encode())
        yield stem.encode()[:room].decode(errors="ignore") + end
        number += 1


def fold(name: str) -> str:
    """Return what two names share that a disk may take for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
