"""What the libraries say of memory that cannot be read reaches nobody as they say it."""

from __future__ import annotations

import os
import shutil

import pytest
from drgn import FaultError

from mmdump.errors import IncompleteError
from mmdump.kernel import Kernel
from mmdump.target import open_target
from mmdump.target.faults import error_words, fault_words


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("short read from memory file", "memory at 0x1000 is past the end of the dump"),
        ("memory not saved in core dump", "memory at 0x1000 was left out of the dump"),
        ("could not find memory segment", "memory at 0x1000 is not in the dump"),
        (
            (
                "could not read memory from kdump: Linux kernel text search failed: "
                "Cannot read 64-bit PTE at MACHPHYSADDR:0x17a2cff8: Wrong page size: 0"
            ),
            "the page table at physical address 0x17a2cff8 that leads to 0x1000 is not in the dump",
        ),
        (
            "could not read memory from kdump: Wrong page size: 0",
            "memory at 0x1000 is not in the dump: its data is missing from the file, or damaged",
        ),
        ("could not read memory from kdump: Excluded page", "memory at 0x1000 was left out of the dump"),
        ("could not read memory from kdump: anything", "memory at 0x1000 cannot be read from the dump"),
        ("address is not mapped", "address is not mapped: 0x1000"),
    ],
)
def test_a_fault_is_said_in_words_for_a_person(said: str, words: str) -> None:
    assert fault_words(FaultError(said, 0x1000)) == words
    assert error_words(FaultError(said, 0x1000)) == words


def test_another_error_keeps_its_words() -> None:
    assert fault_words(ValueError("two\nlines")) == "two lines"
    assert error_words(ValueError("no")) == "ValueError: no"
    assert error_words(IncompleteError("a sentence")) == "a sentence"


@pytest.mark.parametrize("kind", ["elf", "kdump"])
@pytest.mark.parametrize("percent", [60, 95])
def test_of_a_real_dump_cut_off_no_library_speaks(sample, tmp_path, kind, percent):
    path = tmp_path / "vmcore"
    shutil.copy(getattr(sample, kind), path)
    os.truncate(path, path.stat().st_size * percent // 100)
    with open_target(path, symbols=[sample.vmlinux]) as target, pytest.raises(IncompleteError) as caught:
        Kernel(target).memmap.chunks()
    assert "could not be read: " in caught.value.message
    assert "the dump" in caught.value.message
    for words in ("kdump", "PTE", "MACHPHYSADDR", "short read", "page size"):
        assert words not in caught.value.message
    assert caught.value.hint.startswith("The file is truncated: ")
