"""The baseline file: the known leaks, one line for each, in a stable order."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from contextlib import suppress
import re
from typing import Final
from typing import NamedTuple

from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import base_id
from pytest_tempres.primitives._system import System

__all__ = ["Known", "read", "stale", "write"]

_HEADER: Final = (
    "# Known leaks of pytest-tempres: they are reported as known and never fail the run.\n"
    "# --tempres-update-baseline=shrink removes those that are gone, =all rewrites the file.\n"
)
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{16}\Z")


class Known(NamedTuple):
    """A leak that is listed in the baseline.

    Nothing in it changes unless the leak does, so that the files of two branches can be merged.
    """

    owner_kind: str
    #: Without the parameters of a test.
    owner: str
    kind: str
    #: ``file:function`` of the line that created it, or ``-``.
    place: str
    fingerprint: str

    @classmethod
    def of(cls, leak: Leak) -> Known:
        """Return the baseline line for *leak*."""
        owner, origin = leak.owner, leak.entry.origin
        place = f"{origin[0].file}:{origin[0].function}" if origin else "-"
        names = _printable(base_id(owner.id)), leak.kind, _printable(place)
        return cls(owner.kind, *names, leak.fingerprint)


def read(path: str) -> dict[str, Known]:
    """Return the known leaks of the file at *path* by fingerprint.

    :raises ValueError: For a malformed line, such as a conflict marker.
    :raises OSError: When it cannot be read.
    """
    found = {}
    with System.open_file(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            text = line.rstrip("\n")
            if not text.strip() or text.startswith("#"):
                continue
            fields = text.split("\t")
            if len(fields) != len(Known._fields) or not _FINGERPRINT.match(fields[-1]):
                raise ValueError(
                    f"line {number} is not a known leak: {text[:60]!r}; "
                    "write a new file with --tempres-update-baseline=all"
                )
            found[fields[-1]] = Known(*fields)
    return found


def render(known: Iterable[Known]) -> str:
    """Return the text of a baseline: sorted, each leak once."""
    return _HEADER + "".join("\t".join(each) + "\n" for each in sorted(set(known)))


def write(path: str, known: Iterable[Known]) -> None:
    """Replace a baseline atomically, so that an interrupted session leaves the old one.

    :raises OSError: When it cannot be written.
    """
    # Replace the target of a link, not the link.
    path = System.realpath(path)
    try:
        with System.open_file(f"{path}.new", "w", encoding="utf-8", newline="\n") as file:
            file.write(render(known))
        System.replace(f"{path}.new", path)
    except OSError:
        # Do not leave a partial file in the user's repository.
        with suppress(OSError):
            System.unlink(f"{path}.new")
        raise


def stale(
    baseline: Mapping[str, Known], found: Collection[str], completed: Collection[tuple[str, str]]
) -> list[Known]:
    """Return the known leaks that this run should have found and did not.

    :param found: The fingerprints of the leaks of this run.
    :param completed: Kind and id of the owners that completed, with every parameter set.
    """
    return [
        known
        for fingerprint, known in sorted(baseline.items(), key=lambda item: item[1])
        if fingerprint not in found and (known.owner_kind, known.owner) in completed
    ]


def _printable(text: str) -> str:
    """Return *text* on one line, with tabs and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
