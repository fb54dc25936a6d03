"""The buddy allocator: free blocks of 2^order pages, split to be allocated and merged as they are freed.

Mirrors the core of mm/page_alloc.c. A block of an order begins at a multiple of its size; its buddy is the
other half of the block of the next order. What is free is in ``free_area[order]`` of its zone, on a list
for the migratetype of its pageblock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import fallback
from .pages import PageFlag, PageType
from .zone import ALLOC_CMA, MIGRATE_PCPTYPES, FreeArea, Migratetype

if TYPE_CHECKING:
    from .machine import Machine
    from .zone import Zone

__all__ = ["Buddy"]

_BUDDY, _NONE = int(PageType.BUDDY), int(PageType.NONE)
_REPORTED = int(PageFlag.REPORTED)
_NOT_REPORTED = np.uint32(0xFFFFFFFF & ~_REPORTED)
_CMA, _ISOLATE = int(Migratetype.CMA), int(Migratetype.ISOLATE)


class Buddy:
    """Free blocks of all zones."""

    def __init__(self, machine: Machine) -> None:
        era = machine.era
        self._machine = machine
        self.pages = machine.pages
        self.max_order = era.max_order
        self.pageblock_order = era.pageblock_order
        self.pageblock_nr_pages = 1 << era.pageblock_order
        #: Blocks of CMA and of the reserve never merge with others (5.18); before, only isolated ones.
        self._merges_by_type = era.version >= (5, 18)
        #: A block is always on the list of its pageblock's type (6.10: "freelist hygiene").
        self.strict = era.version >= (6, 10)
        #: CMA is used for movable pages already while half of what is free is CMA (5.8); before, as a last
        #: resort before the fallbacks.
        self._balances_cma = era.version >= (5, 8)
        #: __putback_isolated_page() puts at the tail (5.10).
        self._putback_to_tail = era.version >= (5, 10)

    # Pageblocks.

    def migratetype(self, pfn: int) -> int:
        """``get_pfnblock_migratetype()``."""
        block = pfn >> self.pageblock_order
        return _ISOLATE if self._machine.isolated[block] else int(self._machine.migratetype[block])

    def set_migratetype(self, pfn: int, migratetype: int) -> None:
        """``set_pageblock_migratetype()``. Isolating has functions of its own."""
        self._machine.migratetype[pfn >> self.pageblock_order] = migratetype

    def change_pageblock_range(self, pfn: int, order: int, migratetype: int) -> None:
        """``change_pageblock_range()``: all pageblocks of a block at least as large as one."""
        first = pfn >> self.pageblock_order
        self._machine.migratetype[first : first + (1 << (order - self.pageblock_order))] = migratetype

    # Free lists.

    def add_to_free_list(
        self, zone: Zone, pfn: int, order: int, migratetype: int, *, tail: bool = False
    ) -> None:
        """``__add_to_free_list()``, ``set_buddy_order()``."""
        free_list = zone.free_area[order].free_list[migratetype]
        if tail:
            free_list.add_tail(pfn)
        else:
            free_list.add(pfn)
        self.pages.type[pfn] = _BUDDY
        self.pages.order[pfn] = order
        zone.account_freepages(1 << order, migratetype)

    def del_page_from_free_list(self, zone: Zone, pfn: int, order: int) -> int:
        """``del_page_from_free_list()``: what leaves the free lists is not reported any more.

        :return: The migratetype of the list it was on.
        """
        pages = self.pages
        if self._machine.page_reporting.enabled and pages.flags.item(pfn) & _REPORTED:
            pages.flags[pfn] &= _NOT_REPORTED
        migratetype = self.list_of(zone.free_area[order], pfn)
        zone.free_area[order].free_list[migratetype].remove(pfn)
        pages.type[pfn] = _NONE
        pages.order[pfn] = 0
        pages.private[pfn] = 0
        zone.account_freepages(-(1 << order), migratetype)
        return migratetype

    def move_to_free_list(self, zone: Zone, pfn: int, order: int, migratetype: int) -> None:
        """``move_to_free_list()``: to the tail of another type's list."""
        old = self.list_of(zone.free_area[order], pfn)
        zone.free_area[order].free_list[old].remove(pfn)
        zone.free_area[order].free_list[migratetype].add_tail(pfn)
        zone.account_freepages(-(1 << order), old)
        zone.account_freepages(1 << order, migratetype)

    def list_of(self, area: FreeArea, pfn: int) -> int:
        """On which list a free block is: that of its pageblock's type, or up to 6.9 perhaps another's."""
        expected = self.migratetype(pfn)
        if pfn in area.free_list[expected]:
            return expected
        for migratetype, free_list in enumerate(area.free_list):
            if pfn in free_list:
                return migratetype
        raise LookupError(f"PFN {pfn} is on no free list")

    def block_of(self, pfn: int) -> tuple[int, int] | None:
        """``find_large_buddy()``: the free block that a page is in, as (first PFN, order), or None."""
        for order in range(self.max_order + 1):
            head = pfn & -(1 << order)
            if self.pages.type.item(head) == _BUDDY and self.pages.order.item(head) >= order:
                return head, self.pages.order.item(head)
        return None

    def is_buddy(self, zone: Zone, pfn: int, order: int) -> bool:
        """``page_is_buddy()``: whether a free block or a guard of this order begins here, in this zone."""
        if not zone.start_pfn <= pfn < zone.end_pfn or self.pages.order.item(pfn) != order:
            return False
        return self.pages.type.item(pfn) == _BUDDY or self._is_guard(pfn)

    def _is_guard(self, pfn: int) -> bool:
        guards = self._machine.debug_pagealloc
        return guards is not None and guards.is_guard(pfn)

    # Free.

    def free_one(
        self, zone: Zone, pfn: int, order: int, migratetype: int, *, tail: bool = False, report: bool = True
    ) -> None:
        """``__free_one_page()``: merge a block with its buddy as long as that is free, and list the result.

        :param tail: FPI_TO_TAIL: at the end of its list, to be used last.
        :param report: Tell free page reporting (not FPI_SKIP_REPORT_NOTIFY).
        """
        while order < self.max_order:
            buddy = pfn ^ (1 << order)
            if not self.is_buddy(zone, buddy, order):
                break
            if order >= self.pageblock_order and not self._may_merge(zone, migratetype, buddy):
                break
            if self.pages.type.item(buddy) == _BUDDY:
                self.del_page_from_free_list(zone, buddy, order)
            else:
                assert self._machine.debug_pagealloc is not None
                self._machine.debug_pagealloc.clear_guard(buddy, order)
            if self.strict and order >= self.pageblock_order and self.migratetype(buddy) != migratetype:
                # The halves of the whole go to the right lists when it is split again.
                self.change_pageblock_range(buddy, order, migratetype)
            pfn &= buddy
            order += 1
        if not tail:
            tail = self._buddy_merge_likely(zone, pfn, order)
        self.add_to_free_list(zone, pfn, order, migratetype, tail=tail)
        if report:
            self._machine.page_reporting.notify_free(order)

    def _may_merge(self, zone: Zone, migratetype: int, buddy: int) -> bool:
        """``migratetype_is_mergeable()``: beyond a pageblock, types may not allow it."""
        if not self._merges_by_type and not zone.nr_isolate_pageblock:
            return True
        other = self.migratetype(buddy)
        if migratetype == other:
            return True
        if self._merges_by_type:
            return migratetype < MIGRATE_PCPTYPES and other < MIGRATE_PCPTYPES
        return _ISOLATE not in (migratetype, other)

    def _buddy_merge_likely(self, zone: Zone, pfn: int, order: int) -> bool:
        """``buddy_merge_likely()``: its buddy may soon be free, as the next larger one is: let it wait."""
        if order >= self.max_order - 1:
            return False
        whole = pfn & ~(1 << order)
        return self.is_buddy(zone, whole ^ (1 << (order + 1)), order + 1)

    def free_range(self, zone: Zone, pfn: int, order: int, *, tail: bool = False) -> None:
        """``free_one_page()``, ``split_large_buddy()``: free a block by the types of its pageblocks.

        Up to 6.9 the type of the first pageblock counted for all.
        """
        step = min(order, self.pageblock_order) if self.strict else order
        for start in range(pfn, pfn + (1 << order), 1 << step):
            self.free_one(zone, start, step, self.migratetype(start), tail=tail)

    def isolate_free_page(self, zone: Zone, pfn: int, order: int) -> bool:
        """``__isolate_free_page()``: take one certain free block, if the watermark allows it."""
        mark = zone.watermark[0] + (1 << order)
        if self.migratetype(pfn) != _ISOLATE and not zone.watermark_ok(0, mark, 0, ALLOC_CMA):
            return False
        self.del_page_from_free_list(zone, pfn, order)
        if order >= self.pageblock_order - 1:
            for start in range(pfn, pfn + (1 << order), self.pageblock_nr_pages):
                old = self.migratetype(start)
                if old < MIGRATE_PCPTYPES:
                    if self.strict:
                        fallback.move_freepages_block(self, zone, start, Migratetype.MOVABLE)
                    self.set_migratetype(start, Migratetype.MOVABLE)
        return True

    def putback_isolated_page(self, zone: Zone, pfn: int, order: int, migratetype: int) -> None:
        """``__putback_isolated_page()``: nobody has touched it, and nobody needs to hear of it."""
        self.free_one(zone, pfn, order, migratetype, tail=self._putback_to_tail, report=False)

    # Allocate.

    def expand(self, zone: Zone, pfn: int, low: int, high: int, migratetype: int) -> None:
        """``expand()``: of a block of order high keep the first of order low; the other halves are free.

        With debug_pagealloc, small halves are guards instead.
        """
        guards = self._machine.debug_pagealloc
        while high > low:
            high -= 1
            half = pfn + (1 << high)
            if guards is not None and guards.set_guard(half, high):
                continue
            self.add_to_free_list(zone, half, high, migratetype)

    def del_and_expand(self, zone: Zone, pfn: int, low: int, high: int, migratetype: int) -> int:
        """``page_del_and_expand()``."""
        self.del_page_from_free_list(zone, pfn, high)
        self.expand(zone, pfn, low, high, migratetype)
        return pfn

    def rmqueue_smallest(self, zone: Zone, order: int, migratetype: int) -> int | None:
        """``__rmqueue_smallest()``: the first of the smallest blocks of this type that are large enough."""
        for current in range(order, self.max_order + 1):
            free_list = zone.free_area[current].free_list[migratetype]
            if free_list:
                return self.del_and_expand(zone, free_list.first(), order, current, migratetype)
        return None

    def rmqueue(self, zone: Zone, order: int, migratetype: int, alloc_flags: int) -> int | None:
        """``__rmqueue()``: a block of the type asked for, of CMA, or else of another type's."""
        cma = alloc_flags & ALLOC_CMA
        if cma and self._balances_cma and zone.free_cma > zone.free_pages // 2:
            pfn = self.rmqueue_smallest(zone, order, _CMA)
            if pfn is not None:
                return pfn
        pfn = self.rmqueue_smallest(zone, order, migratetype)
        if pfn is None and cma:
            pfn = self.rmqueue_smallest(zone, order, _CMA)
        if pfn is None:
            pfn = fallback.rmqueue_fallback(self, zone, order, migratetype, alloc_flags)
        return pfn
