from __future__ import annotations

import os
import random

from pytest_tempres.primitives._location import ALPHABET
from pytest_tempres.primitives._location import random_name


def test_alphabet():
    """A name has 8 characters, and all 37 characters of CPython's alphabet are used."""
    names = {random_name() for _ in range(2_000)}
    assert len(names) == 2_000
    assert {len(name) for name in names} == {8}
    assert set("".join(names)) == set(ALPHABET) == set("abcdefghijklmnopqrstuvwxyz0123456789_")


def test_independent_of_random_seed():
    """Seeding the random module does not repeat a name."""
    random.seed(1)
    first = random_name()
    random.seed(1)
    assert random_name() != first


def test_forked_child_has_other_names(in_child):
    """A child does not repeat the names of its parent."""
    reading, writing = os.pipe()
    assert in_child(
        lambda: os.write(writing, "".join(random_name() for _ in range(8)).encode()) == 64
    )
    ours = "".join(random_name() for _ in range(8))
    theirs = os.read(reading, 64).decode()
    os.close(reading)
    os.close(writing)
    assert len(theirs) == 64
    assert theirs != ours
