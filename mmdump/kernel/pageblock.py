"""Pageblock migratetypes (kernel: include/linux/pageblock-flags.h, ``get_pfnblock_flags_mask()``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmdump.errors import UnsupportedError
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


@dataclass(frozen=True)
class PageblockLayout:
    """Pageblocks of this kernel. Plain data.

    :param order: ``pageblock_order``.
    :param names: ``migratetype_names``, by number.
    """

    order: int
    names: tuple[str, ...]


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


def read_pageblock_layout(prog: Program, page_shift: int) -> PageblockLayout:
    """Find the order of pageblocks and the names of migratetypes.

    :raises UnsupportedError: This kernel keeps the bits in a way mmdump does not know.
    """
    bits = enumerators(prog, "enum pageblock_bits")
    if bits.get("NR_PAGEBLOCK_BITS") != 4 or bits.get("PB_migrate") != 0:
        # 6.17 made isolation a bit of its own, with eight bits a block.
        raise UnsupportedError("mmdump does not know this kernel's pageblock bits yet")
    names = [c_string(pointer) for pointer in prog["migratetype_names"]]
    return PageblockLayout(_pageblock_order(prog, page_shift), tuple(names))


def _pageblock_order(prog: Program, page_shift: int) -> int:
    """``pageblock_order``: a variable with CONFIG_HUGETLB_PAGE_SIZE_VARIABLE, a macro otherwise."""
    variable = find_object(prog, "pageblock_order")
    if variable is not None:
        return int(variable.value_())
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
        if row < 0 or not sections.pageblock_flags[row]:
            continue
        # 4 bits for each block, lowest bits first (5.9 and newer): 3 of migratetype, 1 for compaction.
        chunk = reader.read(int(sections.pageblock_flags[row]), (in_section * 4 + 7) // 8)
        if (chunk.status == ReadStatus.UNREADABLE).any():
            continue
        nibbles = np.stack([chunk.data & 0xF, chunk.data >> 4], axis=1).reshape(-1)[:in_section] & 7
        base = int(sections.number[row]) * in_section
        low_block, high_block = low >> layout.order, ((high - 1) >> layout.order) + 1
        blocks[low_block - first : high_block - first] = nibbles[low_block - base : high_block - base]
    return PageblockRange(first, layout.order, blocks)
