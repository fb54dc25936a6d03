"""Names of bits, from the kernel's own tables: ``%pGg`` for gfp masks, ``%pGp`` for page flags.

Mirrors ``gfpflag_names`` and ``pageflag_names`` (mm/debug.c) and ``format_flags()`` (lib/vsprintf.c).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
from drgn import FaultError

from mmdump.kernel.arrays import decoded
from mmdump.kernel.layout import c_string, find_object

if TYPE_CHECKING:
    from drgn import Program

__all__ = ["FlagField", "FlagNames", "PageFlagText", "read_flag_fields", "read_flag_names"]

#: Entries that a table of names is read to at most.
_MAX_NAMES = 256


@dataclass(frozen=True)
class FlagNames:
    """A table of masks and their names, in the kernel's order: masks of several bits come first.

    :param names: (mask, name) pairs.
    :param bits: The bits that are named at all; others are not flags.
    """

    names: tuple[tuple[int, str], ...]
    bits: int

    def split(self, word: int) -> list[str]:
        """The names of a word's bits; what has no name is a last element in hex."""
        found = []
        word &= self.bits
        for mask, name in self.names:
            if mask and word & mask == mask:
                found.append(name)
                word &= ~mask
        if word:
            found.append(f"{word:#x}")
        return found

    def series(self, words: pl.Series) -> pl.Series:
        """Names of a column of words (uint64), as a column of lists; each distinct word is split once."""
        return decoded(words & self.bits, self.split, pl.List(pl.String))


def read_flag_names(prog: Program, table: str, bits: int) -> FlagNames:
    """Read ``gfpflag_names`` or ``pageflag_names``; empty where the kernel has none or the dump lacks it."""
    found = find_object(prog, table)
    names: list[tuple[int, str]] = []
    if found is not None:
        for index in range(min(found.type_.length or 0, _MAX_NAMES)):
            try:
                entry = found[index]
                if not entry.name:
                    break
                names.append((entry.mask.value_(), c_string(entry.name)))
            except FaultError:
                break
    return FlagNames(tuple(names), bits)


@dataclass(frozen=True)
class FlagField:
    """A number that page->flags holds above the flags: section, node, zone, lastcpupid, kasantag."""

    name: str
    width: int
    shift: int
    mask: int
    hexadecimal: bool


def read_flag_fields(prog: Program) -> list[FlagField]:
    """The table by which the kernel prints these fields, ``pff``; empty where it has none."""
    table = find_object(prog, "pff")
    fields = []
    if table is not None:
        for index in range(min(table.type_.length or 0, _MAX_FIELDS)):
            try:
                entry = table[index]
                name = c_string(entry.name)
                width, shift = entry.width.value_(), entry.shift.value_()
                mask = entry.mask.value_() & 0xFFFFFFFF
            except FaultError:
                return []
            if not 0 <= width <= 64 or not 0 <= shift < 64:
                return []
            # Two printf_specs are used here: default_dec_spec, and for these default_flag_spec.
            fields.append(FlagField(name, width, shift, mask, name in ("lastcpupid", "kasantag")))
    return fields


#: There are five.
_MAX_FIELDS = 16


@dataclass(frozen=True)
class PageFlagText:
    """page->flags as ``%pGp`` prints it.

    :param names: Names of the flags proper.
    :param fields: The fields above them.
    """

    names: FlagNames
    fields: tuple[FlagField, ...]

    def text(self, word: int) -> str:
        """``0x100000000020828(uptodate|lru|owner_2|swapbacked|node=0|zone=1)``."""
        return f"{word:#x}({self.inside(word)})"

    def inside(self, word: int) -> str:
        """What stands between the brackets."""
        parts = self.names.split(word)
        for field in self.fields:
            if field.width:
                value = word >> field.shift & field.mask
                parts.append(f"{field.name}={value:#x}" if field.hexadecimal else f"{field.name}={value}")
        return "|".join(parts)
