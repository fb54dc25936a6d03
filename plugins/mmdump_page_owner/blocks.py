"""Pageblocks of a range of pages: which pages in them are of another migratetype than the block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.arrays import I64, U8, Bools, Struct, counts, runs
from mmdump.kernel.layout import enumerators
from mmdump_page_owner.record import PAGE_OWNER, gfp_migratetype, groups_by_mobility, on_every_page

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["BlockRules", "Blocks", "read_block_rules"]

#: A jump is never longer than a range.
_MAX_JUMP = 17


@dataclass(frozen=True)
class BlockRules:
    """What telling the pages of a block apart needs. Plain data.

    :param order: ``pageblock_order``.
    :param types: ``MIGRATE_TYPES``, how many migratetypes there are.
    :param movable: The number of MIGRATE_MOVABLE.
    :param cma: The number of MIGRATE_CMA; -1 without CONFIG_CMA.
    :param pcp_types: MIGRATE_PCPTYPES: smaller numbers are types that a gfp mask can ask for.
    :param group_by_mobility: Whether gfp masks say a migratetype (``!page_group_by_mobility_disabled``).
    :param max_order: Records of a larger order are garbage.
    """

    order: int
    types: int
    movable: int
    cma: int
    pcp_types: int
    group_by_mobility: bool
    max_order: int = 22


def read_block_rules(kernel: Kernel) -> BlockRules:
    """Find the numbers of the migratetypes, which Android's kernels have in another order."""
    numbers = enumerators(kernel.target.prog, "enum migratetype")
    return BlockRules(
        kernel.pageblocks.order,
        len(kernel.pageblocks.names),
        numbers.get("MIGRATE_MOVABLE", 1),
        numbers.get("MIGRATE_CMA", -1),
        # Android has MIGRATE_CMA among those that are cached per CPU.
        3,
        groups_by_mobility(kernel),
    )


def _known_places(pages: PageRange) -> I64:
    """First rows of runs of pages in one zone of one node; the first row of all is always one.

    Where a page that could not be read lies is not known: it counts with its neighbour.
    """
    if pages.readable.all():
        return pages.places
    known = np.flatnonzero(pages.readable)
    if not len(known):
        return np.zeros(1, np.int64)
    named = pages.node_of(known) << 8 | pages.zone_of(known)
    starts = known[runs(named)[0]]
    return starts if not starts[0] else np.append(0, starts)


class Blocks:
    """The pageblocks that a range of pages touches, one row for each block and zone of it.

    A block that two zones share has a row in each, as the kernel counts them
    (``pagetypeinfo_showmixedcount_print()``, mm/page_owner.c).
    """

    def __init__(self, pages: PageRange, rules: BlockRules) -> None:
        assert pages.ext is not None
        self.pages = pages
        self.rules = rules
        self._record = pages.ext["page_owner"]
        places = _known_places(pages)
        first = np.arange(-pages.start % (1 << rules.order), len(pages), 1 << rules.order)
        #: First row and number of pages of each block, int64.
        self.start: I64 = np.union1d(first, places) if len(places) > 1 or 0 not in first[:1] else first
        self.length: I64 = np.diff(np.append(self.start, len(pages)))
        at = self.start
        #: Number of each block: its PFN >> pageblock_order.
        self.number: I64 = (at + pages.start) >> rules.order
        # A page that is in the place of a neighbour; of no place, where nothing before it could be read.
        there = places[np.searchsorted(places, at, side="right") - 1]
        known = pages.readable[there]
        self.node: I64 = np.where(known, pages.node_of(there), -1)
        self.zone: I64 = np.where(known, pages.zone_of(there).astype(np.int64), -1)
        #: Migratetype of each block, int64; 255 where unreadable.
        self.migratetype: I64 = pages.migratetype_of(at).astype(np.int64)

    def sum(self, pages: Bools) -> I64:
        """How many of these pages each block has."""
        return counts(pages, self.start)

    def of_page(self, values: Struct) -> Struct:
        """The value of its block for every page."""
        return np.repeat(values, self.length)

    @cached_property
    def recorded(self) -> Bools:
        """Pages whose record tells of a present allocation; before 5.4 only the first page of each."""
        assert self.pages.ext is not None
        every = on_every_page(self._record.names)
        flags = PAGE_OWNER.flags if every else PAGE_OWNER.flags[:1]
        found = self.pages.ext.has_flag(*flags)
        if not found.any():
            return found
        # The kernel looks at neither free nor reserved pages.
        return found & self.pages.readable & ~self.pages.is_buddy & ~self.pages.has_flag("PG_reserved")

    @cached_property
    def garbage(self) -> Bools:
        """Of those, the ones whose record is of an impossible order."""
        if not self.recorded.any():
            return self.recorded
        return self.recorded & (self._record["order"] > self.rules.max_order)

    @cached_property
    def page_type(self) -> U8:
        """The migratetype that a record's gfp_mask asked for, ``gfp_migratetype()``, uint8."""
        if not self.rules.group_by_mobility:
            return np.zeros(len(self.pages), np.uint8)
        return gfp_migratetype(self._record["gfp_mask"]).astype(np.uint8)

    @cached_property
    def differing(self) -> Bools:
        """Pages whose record, whatever it is worth, asked for another migratetype than their block's."""
        return self.page_type != self.pages.migratetype

    @cached_property
    def foreign(self) -> Bools:
        """Recorded pages that asked for another migratetype than their block's."""
        if not self.recorded.any():
            return self.recorded
        known = self.of_page(self.migratetype < self.rules.types)
        return self.recorded & known & self.differing

    @cached_property
    def mixed(self) -> Bools:
        """Blocks that the kernel counts as mixed: it meets a foreign page on its way through them.

        On that way it skips the rest of every allocation that belongs there, whatever the records of its
        later pages say. A jump that begins in an earlier range is not followed: only gigantic pages make one.
        """
        if not self.foreign.any():
            return np.zeros(len(self.start), bool)
        count = len(self.pages)
        row = np.arange(count)
        step = np.ones(count, np.int64)
        free = self.pages.is_buddy
        step[free] = np.left_shift(1, np.minimum(self.pages.buddy_order[free], _MAX_JUMP).astype(np.int64))
        own = self.recorded & ~self.foreign
        step[own] = np.left_shift(1, np.minimum(self._record["order"][own], _MAX_JUMP).astype(np.int64))
        # No jump from an earlier page reaches past these.
        met = self.foreign.copy()
        met[1:] &= np.maximum.accumulate(row + step)[:-1] <= row[1:]
        mixed = self.sum(met) > 0
        if ((self.sum(self.foreign) > 0) & ~mixed).any():
            mixed = self.sum(self.foreign & self._visited(row, step)) > 0
        return mixed

    def _visited(self, row: I64, step: I64) -> Bools:
        """The pages that the kernel looks at, going from one to the next: by doubling the length of jumps."""
        count = len(row)
        after = np.append(np.minimum(row + step, count), count)
        # Having met one, it goes on with the next block.
        ends = self.of_page(self.start + self.length)
        after[:-1][self.foreign] = ends[self.foreign]
        visited = np.zeros(count + 1, bool)
        visited[0] = True
        for _ in range(count.bit_length()):
            visited[after[visited]] = True
            after = after[after]
        return visited[:-1]

    @cached_property
    def allocated(self) -> Bools:
        """Pages that a record tells of as allocated: their own, or before 5.4 that of their allocation."""
        if on_every_page(self._record.names):
            return self._good
        return self._last >= 0

    def record_of(self, rows: I64) -> I64:
        """The row of the record by which each of these rows, allocated ones, was allocated."""
        return rows if on_every_page(self._record.names) else self._last[rows]

    @cached_property
    def _good(self) -> Bools:
        """Pages with a record of their own that can be true."""
        if not self.recorded.any():
            return self.recorded
        return self.recorded & ~self.garbage & ~self.pages.in_free_block

    @cached_property
    def _last(self) -> I64:
        """The row of the record of the allocation that each page lies in, int64; -1 where there is none."""
        row, good = np.arange(len(self.pages)), self._good
        if not good.any():
            return np.full(len(row), -1)
        last = np.maximum.accumulate(np.where(good, row, -1))
        order = np.minimum(self._record["order"][last], _MAX_JUMP).astype(np.int64)
        inside = (last >= 0) & (row < last + np.left_shift(1, order))
        reserved = self.pages.has_flag("PG_reserved")
        return np.where(inside & self.pages.readable & ~self.pages.in_free_block & ~reserved, last, -1)

    @cached_property
    def polluting(self) -> Bools:
        """Allocated pages that another type of block is for.

        Blocks of CMA, of the high-order atomic reserve and isolated ones lend themselves to other types by
        design: there nothing pollutes.
        """
        if not self.allocated.any():
            return self.allocated
        lent = (self.migratetype >= self.rules.pcp_types) | (self.migratetype == self.rules.cma)
        if on_every_page(self._record.names):
            differs = self.differing
        else:
            differs = self.page_type[self._last] != self.pages.migratetype
        return self.allocated & ~self.of_page(lent) & differs

    @cached_property
    def free(self) -> Bools:
        """Free pages: in the buddy allocator, or on their way to it (per-CPU lists)."""
        pages = self.pages
        if pages.in_free_block.all():
            return pages.in_free_block
        idle = pages.readable & (pages.refcount == 0) & ~self.allocated
        return pages.in_free_block | (idle & ~pages.has_flag("PG_reserved"))
