"""The fixture that checks what a block of code leaves behind."""

import pytest
from thumbnails import contact_sheet
from thumbnails import shrink


def test_block(temp_dir, temp_leaks):
    with temp_leaks:
        shrink(b"abcdef", temp_dir / "small.bin")


def test_ignored(temp_dir, temp_leaks):
    with temp_leaks(ignore=["sheet-*"]):
        contact_sheet([b"abc"], temp_dir / "sheet.bin")
    assert len(temp_leaks.find()) == 1


def test_reported(temp_dir, temp_leaks):
    with pytest.raises(AssertionError, match="in contact_sheet"), temp_leaks:
        contact_sheet([b"abc"], temp_dir / "sheet.bin")
