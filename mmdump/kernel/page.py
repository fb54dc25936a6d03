"""``struct page`` as columns: flags, page type, compound head and order, reference, map and pin counts.

A :class:`PageRange` is one bulk read, its columns decoded when first asked for. It is put together from what
the pages store (``page_columns``), which of them are one folio (``page_folios``) and what they are
(``page_types``); how often folios are mapped and pinned, and what surrounds pages, is here. Mirrors
``include/linux/page-flags.h`` and ``include/linux/mm.h``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.arrays import I64, U8, Bools, runs
from mmdump.kernel.page_layout import PageLayout
from mmdump.kernel.page_types import TypedPages
from mmdump.kernel.pageblock import UNKNOWN

if TYPE_CHECKING:
    from mmdump.kernel.page_ext import PageExtRange
    from mmdump.kernel.pageblock import PageblockRange
    from mmdump.kernel.zones import ZoneBits

__all__ = [
    "GUP_PIN_COUNTING_BIAS",
    "MAPPING_ANON",
    "MAPPING_KSM",
    "MAPPING_MOVABLE",
    "PageRange",
]

#: Tag bits of page->mapping, macros PAGE_MAPPING_* (both bits: KSM).
MAPPING_ANON = 1
MAPPING_MOVABLE = 2
MAPPING_KSM = 3

#: FOLL_PIN adds this to the reference count of a small folio, in every kernel that has it (5.6 and newer).
GUP_PIN_COUNTING_BIAS = 1024


class PageRange(TypedPages):
    """The pages [start, end): at most 2**17, starting at a multiple of it or where memory starts.

    Every column is an array of one value per page, decoded when first used. Rows that could not be read
    hold zeros (or False) in every column; ``readable`` tells them apart.
    """

    def __init__(
        self,
        start: int,
        raw: U8,
        status: U8,
        layout: PageLayout,
        zone_bits: ZoneBits,
        blocks: PageblockRange | None = None,
        ext: PageExtRange | None = None,
        again: Callable[[], PageRange] | None = None,
    ) -> None:
        super().__init__(start, raw, status, layout)
        #: The page_ext entries of these pages; None where this kernel or the analysis has none.
        self.ext = ext
        #: Reads these pages once more, where memory moves while it is read (a live kernel); None in a dump.
        self.again = again
        self._zone_bits = zone_bits
        self._blocks = blocks

    # How often folios are mapped and pinned.

    @cached_property
    def mapcount_sums(self) -> I64:
        """Sums of ``_mapcount + 1`` of all rows before each row, and last of all rows, int64."""
        return np.concatenate(([0], np.cumsum(self.raw_mapcount.astype(np.int64) + 1)))

    def folio_mapcount(self, heads: I64) -> I64:
        """How often the folio is mapped, ``folio_mapcount()``, for rows that are heads or small folios."""
        if not len(heads):
            return np.zeros(0, np.int64)
        large = self.is_head[heads]
        typed = ~self.readable[heads] | self.is_typed(at=heads) | self.is_type("slab", at=heads)
        small = np.where(typed, 0, self.raw_mapcount[heads].astype(np.int64) + 1)
        if not large.any():
            return small
        if "_large_mapcount" in self.layout.folio:
            # 6.10: the sum of all mappings, less one.
            small[large] = self.folio_field("_large_mapcount", heads[large]) + 1
        else:
            small[large] = self._summed_mapcount(heads[large])
        return small

    def _summed_mapcount(self, heads: I64) -> I64:
        """``folio_mapcount()`` of large folios up to 6.9: of the whole, and of every page."""
        entire = self.folio_field("_entire_mapcount", heads) + 1
        count = np.left_shift(1, self.folio_order[heads].astype(np.int64))
        total = self.mapcount_sums
        pages = total[np.minimum(heads + count, len(self))] - total[heads]
        if "PG_double_map" in self.layout.flags:
            # Up to 6.1 mapping the whole counted in each page too, for files always, for anonymous folios
            # once they were mapped both ways.
            anon = (self.mapping[heads] & np.uint64(MAPPING_ANON)) != 0
            double = self.folio_field("_flags_1", heads) >> self.layout.flags["PG_double_map"] & 1
            pages -= np.where(anon, double * count, entire * count)
        mapcount = entire + pages
        return np.where(
            self.is_type("hugetlb", at=heads), entire, np.where(self.is_type("slab", at=heads), 0, mapcount)
        )

    def counts_pins(self, heads: I64) -> Bools:
        """Whether folios count their FOLL_PIN pins exactly, for rows that are heads or small folios.

        Large ones do; from 5.7 to 5.17 only those above order 1.
        """
        least = self.layout.pins_from_order
        if least < 0:
            return np.zeros(len(heads), bool)
        return self.is_head[heads] & (self.folio_order[heads] >= least)

    def folio_pincount(self, heads: I64) -> I64:
        """FOLL_PIN pins of the folio, ``folio_maybe_dma_pinned()``, for rows that are heads or small folios.

        Exact for folios that count them. Others carry :data:`GUP_PIN_COUNTING_BIAS` references for each pin,
        so 1024 plain references look like one. Kernels up to 5.6 have no FOLL_PIN.
        """
        if self.layout.pins_from_order < 0:
            return np.zeros(len(heads), np.int64)
        exact = self.counts_pins(heads)
        pins = (self.refcount[heads].astype(np.int64) & 0xFFFFFFFF) // GUP_PIN_COUNTING_BIAS
        pins[exact] = self.folio_field("_pincount", heads[exact])
        return pins

    # What surrounds the page.

    def zone_of(self, rows: I64) -> U8:
        """Zone index within the node of some rows, ``page_zonenum()``."""
        return self._zone_bits.zone(self.flags[rows])

    def node_of(self, rows: I64) -> I64:
        """NUMA node of some rows, ``page_to_nid()``."""
        return self._zone_bits.node(self.flags[rows])

    def migratetype_of(self, rows: I64) -> U8:
        """Migratetype of some rows' pageblock, ``get_pageblock_migratetype()``; 255 where unreadable."""
        if self._blocks is None:
            return np.full(len(rows), UNKNOWN, np.uint8)
        if self._many(rows):
            return self.migratetype[rows]
        return self._blocks.of_pages(rows + self.start)

    @cached_property
    def zone(self) -> U8:
        """Zone index within the node of every row."""
        return self._zone_bits.zone(self.flags)

    @cached_property
    def node(self) -> I64:
        """NUMA node of every row."""
        return self._zone_bits.node(self.flags)

    @cached_property
    def migratetype(self) -> U8:
        """Migratetype of every row's pageblock; 255 where unreadable."""
        if self._blocks is None:
            return np.full(len(self), UNKNOWN, np.uint8)
        return self._blocks.of_range(self.start, self.end)

    @cached_property
    def places(self) -> I64:
        """First rows of the runs of pages whose flags name one zone of one node, ascending."""
        bits = self._zone_bits
        mask = bits.zone_mask << bits.zone_shift | bits.node_mask << bits.node_shift
        return runs(self.flags & np.uint64(mask))[0]
