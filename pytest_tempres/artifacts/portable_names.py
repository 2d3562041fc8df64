"""File names that are valid on every file system and in every artifact store.

The rules of Windows are in its documentation, "Naming Files, Paths, and Namespaces". Those of
GitHub's upload, which rejects the whole upload for one invalid name, are in
`path-and-artifact-name-validation.ts` of actions/toolkit.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import hashlib
import re
from typing import Final
import unicodedata

from pytest_tempres.primitives._system import System

__all__ = ["collision_key", "free_name", "is_safe_nodeid", "numbered", "safe_names", "safe_nodeid"]

#: The maximum length of the name of a test's directory, in bytes.
MAX_NODEID_BYTES: Final = 80
#: The maximum length of a file name on nearly every file system, in bytes.
_MAX_NAME_BYTES: Final = 255
#: The maximum length of a suffix, in characters; a digest is longer.
_MAX_SUFFIX: Final = 9

# Surrogates represent bytes that are not UTF-8, which some file systems refuse.
_REFUSED: Final = re.compile(r'["*/:<>?\\|\x00-\x1f\x7f-\x9f\ud800-\udfff]|[. ]+\Z')
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_WITH_DIGEST: Final = re.compile(r"-[0-9a-f]{10}\Z")
# Windows reserves the names with superscript digits too.
_RESERVED: Final = re.compile(
    r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9\xb9\xb2\xb3]) *(\..*)?", re.IGNORECASE
)


def safe_nodeid(nodeid: str) -> str:
    """Return the name of a directory for the test *nodeid*; the same id always has the same name.

    :param nodeid: Any text.
    :returns: Only ASCII letters, digits, ``_``, ``.`` and ``-``, and at most
        :data:`MAX_NODEID_BYTES` bytes. The names of two ids never differ in case alone: a name
        that is not the id itself in lower case ends with ten hex digits of the id's SHA-256.
    """
    text = _NOT_PLAIN.sub("_", nodeid).strip("._-")
    if _RESERVED.fullmatch(text):
        text = f"_{text}"
    is_plain = text == nodeid.lower() == nodeid and 0 < len(text) <= MAX_NODEID_BYTES
    if is_plain and not _WITH_DIGEST.search(text):
        return text
    digest = hashlib.sha256(nodeid.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{_shortened(text or 'test', MAX_NODEID_BYTES - 11)}-{digest}"


def is_safe_nodeid(name: str) -> bool:
    """Whether *name* has the form that :func:`safe_nodeid` returns, perhaps with a number."""
    return _WITH_DIGEST.search(re.sub(r"-[0-9]{1,9}\Z", "", name)) is not None


def _shortened(text: str, limit: int) -> str:
    """Return *text* without its middle: it begins with the module and ends with the test."""
    if len(text) <= limit:
        return text
    half = limit // 2 - 1
    return f"{text[:half]}..{text[-half:]}"


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """Return a portable name for each of *names*, which are in one directory.

    :returns: No two names differ in case or Unicode normalization alone. A portable name is
        unchanged, unless it collides with an earlier one.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names, key=lambda name: (_safe(name) != name, name)):
        found[name] = free_name(name, taken)
    return found


def free_name(name: str, taken: set[str]) -> str:
    """Return a portable form of *name* that does not collide with *taken*, and add it there.

    :param taken: The keys of names, from :func:`collision_key`.
    """
    free = next(each for each in numbered(_safe(name)) if collision_key(each) not in taken)
    taken.add(collision_key(free))
    return free


def _safe(name: str) -> str:
    text = _REFUSED.sub(lambda found: "_" * len(found[0]), name) or "_"
    return f"_{text}" if _RESERVED.fullmatch(text) else text


def numbered(name: str) -> Iterator[str]:
    """Yield *name*, then *name* with ``-2``, ``-3`` and so on before its suffix."""
    yield name
    stem, suffix = System.splitext(name)
    if len(suffix) > _MAX_SUFFIX:
        stem, suffix = name, ""
    number = 2
    while True:
        end = f"-{number}{suffix}"
        room = _MAX_NAME_BYTES - len(end.encode())
        yield stem.encode()[:room].decode(errors="ignore") + end
        number += 1


def collision_key(name: str) -> str:
    """Return a key that is equal for two names that a file system may not distinguish."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
