"""What drgn and libkdumpfile say of memory that cannot be read, in words for a person."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.errors import MmdumpError

if TYPE_CHECKING:
    from mmdump.target.dumpfile import DumpFile

__all__ = ["damage_hint", "error_words", "fault_words"]

#: How drgn (memory_reader.c, kdump.c and what reads files) begins to say that memory cannot be read, and what
#: that means. libkdumpfile's own words follow drgn's; the innermost of them comes last.
_MEANINGS = (
    (re.compile(r"short read from memory file"), "memory at {at} is past the end of the dump"),
    (re.compile(r"memory not saved|Excluded page"), "memory at {at} was left out of the dump"),
    (re.compile(r"could not find memory segment"), "memory at {at} is not in the dump"),
    (
        # libkdumpfile translates addresses itself: the tables that it goes through are what is missing.
        re.compile(r"could not read memory from kdump: .*Cannot read .*PTE at \w+:(?P<table>0x[0-9a-fA-F]+)"),
        "the page table at physical address {table} that leads to {at} is not in the dump",
    ),
    (
        # The descriptor of a page whose data is missing has a size of 0: see mmdump.target.repair.
        re.compile(r"could not read memory from kdump: (.*: )?Wrong page size"),
        "memory at {at} is not in the dump: its data is missing from the file, or damaged",
    ),
    (
        re.compile(r"could not read memory from kdump: .*(decompress|uncompress|Decompression)"),
        "memory at {at} cannot be decompressed: its data is damaged",
    ),
    (re.compile(r"could not read memory from kdump"), "memory at {at} cannot be read from the dump"),
)


def fault_words(error: Exception) -> str:
    """What an error says; of a :class:`drgn.FaultError`, which memory is missing, and why if that is known.

    What drgn says of an address that is not mapped, and of whatever else is no matter of the file, stands.
    """
    text = " ".join(str(error).split())
    if not isinstance(error, FaultError):
        return text or type(error).__name__
    for pattern, meaning in _MEANINGS:
        found = pattern.search(text)
        if found is not None:
            return meaning.format(at=f"{error.address:#x}", **found.groupdict())
    return text


def damage_hint(dump: DumpFile | None) -> str:
    """Why something may be missing from a dump: what is known of it, or what may be."""
    if dump is not None and dump.truncated:
        return f"{dump.truncated[:1].upper()}{dump.truncated[1:]}."
    return "The dump may be truncated, filtered or damaged."


def error_words(error: Exception) -> str:
    """What went wrong, in one sentence: mmdump's own, else the sort of error and what it says."""
    if isinstance(error, MmdumpError):
        return error.message
    if isinstance(error, FaultError):
        return fault_words(error)
    return f"{type(error).__name__}: {error}"
