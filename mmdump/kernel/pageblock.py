"""Pageblock migratetypes (kernel: include/linux/pageblock-flags.h, ``get_pfnblock_flags_mask()``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump.kernel.arrays import I64, U8
from mmdump.kernel.layout import c_string, enumerators, find_object
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.kernel.memmap import Sections
    from mmdump.target import Reader

__all__ = ["UNKNOWN", "PageblockLayout", "PageblockRange", "read_pageblock_layout"]

#: Stands for a migratetype that could not be read.
UNKNOWN = 255
#: 512 MiB in pages of 4 KiB, the largest block that any configuration has.
_MAX_ORDER = 17


@dataclass(frozen=True)
class PageblockLayout:
    """Pageblocks of this kernel. Plain data.

    :param order: ``pageblock_order``.
    :param names: ``migratetype_names``, by number.
    :param bits: Bits kept for each block.
    :param isolate_bit: The bit that makes a block isolated whatever its type; -1 where isolation is a type.
    :param isolate: The number of MIGRATE_ISOLATE.
    :param from_the_top: Whether the blocks of a word, and the bits of a type, are counted from its top bit
        (up to 5.8).
    """

    order: int
    names: tuple[str, ...]
    bits: int = 4
    isolate_bit: int = -1
    isolate: int = -1
    from_the_top: bool = False


@dataclass(frozen=True)
class PageblockRange:
    """Migratetypes of the pageblocks that a range of pages touches.

    :param first: Number of the first block, PFN >> order.
    :param migratetype: One value per block, uint8.
    """

    first: int
    order: int
    migratetype: U8

    def of_pages(self, pfn: I64) -> U8:
        """The migratetype of each page's block, for PFNs in the range."""
        return self.migratetype[(pfn >> self.order) - self.first]

    def of_range(self, start: int, end: int) -> U8:
        """The migratetype of the block of each of the pages [start, end)."""
        first, last = start >> self.order, (end - 1) >> self.order
        edges = np.clip(np.arange(first, last + 2) << self.order, start, end)
        return np.repeat(self.migratetype[first - self.first : last + 1 - self.first], np.diff(edges))


def read_pageblock_layout(prog: Program, page_shift: int) -> PageblockLayout:
    """Find the order of pageblocks and the names of migratetypes.

    :raises UnsupportedError: This kernel keeps the bits in a way mmdump does not know.
    """
    bits = enumerators(prog, "enum pageblock_bits")
    # 6.17 made isolation a bit of its own, of eight for each block. NR_PAGEBLOCK_BITS, an enumerator up to
    # 6.14 and a macro since, is __NR_PAGEBLOCK_BITS rounded up to a power of two.
    count = bits.get("NR_PAGEBLOCK_BITS") or 1 << (bits.get("__NR_PAGEBLOCK_BITS", 0) - 1).bit_length()
    if count not in (4, 8):
        raise UnsupportedError("mmdump does not know this kernel's pageblock bits")
    names = [_name(prog, index) for index in range(prog["migratetype_names"].type_.length or 0)]
    return PageblockLayout(
        _pageblock_order(prog, page_shift),
        tuple(names),
        count,
        bits.get("PB_migrate_isolate", -1),
        enumerators(prog, "enum migratetype").get("MIGRATE_ISOLATE", -1),
        _from_the_top(prog),
    )


def _from_the_top(prog: Program) -> bool:
    """Whether bits are counted from the top: up to 5.8, whose function to read them is told their end."""
    try:
        function = prog.function("get_pfnblock_flags_mask")
    except LookupError:
        return False
    return any(each.name == "end_bitidx" for each in function.type_.parameters or ())


def _name(prog: Program, index: int) -> str:
    """A migratetype's name; its number where the name is not in the dump."""
    try:
        return c_string(prog["migratetype_names"][index])
    except FaultError:
        return f"migratetype {index}"


def _pageblock_order(prog: Program, page_shift: int) -> int:
    """``pageblock_order``: a variable with CONFIG_HUGETLB_PAGE_SIZE_VARIABLE, a macro otherwise."""
    variable = find_object(prog, "pageblock_order")
    if variable is not None:
        order = int(variable.value_())
        if not 0 <= order <= _MAX_ORDER:
            raise IncompleteError(f"this dump's pageblock_order is garbage: {order}")
        return order
    zone = prog.type("struct zone").member("free_area").type
    largest = (zone.length or 11) - 1
    # With hugetlb, and since 6.10 with transparent huge pages too, a block is what a PMD maps: one table
    # of 8-byte entries. min() since 5.18.
    huge = any(
        find_object(prog, name) is not None for name in ("hstates", "huge_zero_folio", "huge_zero_page")
    )
    return min(page_shift - 3, largest) if huge else largest


def read_pageblocks(
    reader: Reader, layout: PageblockLayout, sections: Sections, start: int, end: int
) -> PageblockRange:
    """Migratetypes of the blocks in [start, end), which may span sections; UNKNOWN where unreadable."""
    first = start >> layout.order
    blocks = np.full(((end - 1) >> layout.order) - first + 1, UNKNOWN, np.uint8)
    in_section = sections.pages >> layout.order
    for row, low, high in sections.pieces(start, end):
        if row < 0 or not sections.pageblock_flags[row] or not in_section:
            continue
        unit = 64 if layout.from_the_top else 8
        size = (in_section * layout.bits + unit - 1) // unit * unit // 8
        chunk = reader.read(int(sections.pageblock_flags[row]), size)
        if (chunk.status == ReadStatus.UNREADABLE).any():
            continue
        words = chunk.data
        if layout.bits == 4:
            words = np.stack([words & 0xF, words >> 4], axis=1).reshape(-1)
        if layout.from_the_top:
            # The first block's bits are the highest of the word, its migratetype the highest three of these.
            words = words.reshape(-1, 64 // layout.bits)[:, ::-1].reshape(-1)
            types = words[:in_section] >> (layout.bits - 3) & 7
        else:
            # 3 bits of migratetype, 1 for compaction, and others.
            words = words[:in_section]
            types = words & 7
        if layout.isolate_bit >= 0 and layout.isolate >= 0:
            types = np.where(words >> layout.isolate_bit & 1, np.uint8(layout.isolate), types)
        base = int(sections.number[row]) * in_section
        low_block, high_block = low >> layout.order, ((high - 1) >> layout.order) + 1
        blocks[low_block - first : high_block - first] = types[low_block - base : high_block - base]
    return PageblockRange(first, layout.order, blocks)
