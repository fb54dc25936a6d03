"""Pages allocated and freed: where they come from, and what is done to them on the way (mm/page_alloc.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import fallback
from .gfp import Gfp
from .pages import PageFlag, PageType
from .pcp import pcp_allowed_order
from .zone import (
    ALLOC_CMA,
    ALLOC_HIGHATOMIC,
    ALLOC_MIN_RESERVE,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    MIGRATE_PCPTYPES,
    ZONE_NAMES,
    Migratetype,
)

if TYPE_CHECKING:
    from .machine import Machine
    from .zone import Zone

__all__ = ["BadPageError", "PageAlloc"]

#: Plain numbers, as masks of enum.IntFlag are slow.
_DIRECT_RECLAIM, _NOMEMALLOC, _MEMALLOC = int(Gfp.DIRECT_RECLAIM), int(Gfp.NOMEMALLOC), int(Gfp.MEMALLOC)
_HIGH, _COMP, _THISNODE = int(Gfp.HIGH), int(Gfp.COMP), int(Gfp.THISNODE)
_MOVABLE, _RECLAIMABLE, _HIGHMEM = int(Gfp.MOVABLE), int(Gfp.RECLAIMABLE), int(Gfp.HIGHMEM)
_DMA, _DMA32 = int(Gfp.DMA), int(Gfp.DMA32)

_HEAD, _HWPOISON = int(PageFlag.HEAD), int(PageFlag.HWPOISON)
_MLOCKED = int(PageFlag.MLOCKED)
#: PAGE_FLAGS_CHECK_AT_FREE, less PG_mlocked, which is cleared with a note at most.
_CHECK_AT_FREE = int(
    PageFlag.LOCKED
    | PageFlag.LRU
    | PageFlag.PRIVATE
    | PageFlag.WRITEBACK
    | PageFlag.RESERVED
    | PageFlag.ACTIVE
    | PageFlag.UNEVICTABLE
)
#: What an allocation or a free takes, ns: so that no two have the same time.
_TICK = 350


class BadPageError(Exception):
    """``bad_page()``: a page is freed that somebody still uses. The model does not go on."""


class PageAlloc:
    """The page allocator of a machine.

    :ivar failures: How many allocations could not be had.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._pages = machine.pages
        self._buddy = machine.buddy
        self.failures = 0
        version = machine.era.version
        if version < (5, 13):
            self._alloc_calls: tuple[str, ...] = ("get_page_from_freelist", "__alloc_pages_nodemask")
        elif version < (6, 0):
            self._alloc_calls = ("prep_new_page", "get_page_from_freelist", "__alloc_pages")
        else:
            name = "__alloc_pages" if version < (6, 10) else "__alloc_pages_noprof"
            self._alloc_calls = ("post_alloc_hook", "get_page_from_freelist", name)
            if version >= (6, 15):
                name = "__alloc_frozen_pages_noprof"
                self._alloc_calls = (
                    "post_alloc_hook",
                    "get_page_from_freelist",
                    name,
                    "__alloc_pages_noprof",
                )
        # Since 6.15 pages are freed with their reference gone already, "frozen".
        self._free_call = "free_unref_page" if version < (6, 15) else "__free_frozen_pages"
        self._put_call = "__put_page" if version < (5, 17) else "__folio_put"
        self._nofragment = version >= (5, 0)
        self._zonelists = {
            (node.number, highest): self._build_zonelist(node.number, highest)
            for node in machine.nodes
            for highest in range(len(ZONE_NAMES))
        }

    # Where from.

    def _build_zonelist(self, node: int, highest: int) -> list[Zone]:
        """``build_zonelists()``: zones of the nearest node from the highest down, then of the next."""
        nodes = sorted(self._machine.nodes, key=lambda other: (abs(other.number - node), other.number < node))
        return [zone for other in nodes for zone in reversed(other.zones) if zone.index <= highest]

    def zonelist(self, gfp: int, node: int) -> tuple[list[Zone], int]:
        """``node_zonelist()`` and ``gfp_zone()``.

        :return: Zones to try in this order, and the index of the highest that is allowed.
        """
        if gfp & _DMA:
            highest = 0
        elif gfp & _DMA32:
            highest = 1
        else:
            highest = 3 if gfp & _HIGHMEM and gfp & _MOVABLE else 2
        zones = self._zonelists[node, highest]
        if gfp & _THISNODE:
            zones = [zone for zone in zones if zone.node == node]
        return zones, highest

    @staticmethod
    def gfp_migratetype(gfp: int) -> int:
        """``gfp_migratetype()``."""
        if gfp & _MOVABLE:
            return int(Migratetype.MOVABLE)
        return int(Migratetype.RECLAIMABLE if gfp & _RECLAIMABLE else Migratetype.UNMOVABLE)

    # Allocate.

    def alloc_pages(self, order: int, gfp: Gfp, node: int | None = None) -> int | None:
        """``__alloc_pages()``. See :meth:`.machine.Machine.alloc_pages`."""
        machine, mask = self._machine, int(gfp)
        machine.clock.tick(_TICK)
        if order > self._buddy.max_order:
            return None
        if node is None:
            node = machine.node_of_cpu(machine.cpu)
        zones, highest = self.zonelist(mask, node)
        with machine.calls(*self._alloc_calls):
            pfn = self._get_page(order, mask, zones, highest)
            if pfn is None:
                self.failures += 1
                return None
            self.prep_new_page(pfn, order, gfp)
        return pfn

    def _get_page(self, order: int, gfp: int, zones: list[Zone], highest: int) -> int | None:
        """``__alloc_pages()`` and ``__alloc_pages_slowpath()``: more is allowed with every try."""
        cma = ALLOC_CMA if gfp & _MOVABLE else 0
        fast = cma
        if self._nofragment and zones and zones[0].name == "Normal":
            # Rather use a lower zone than mix types in this one, alloc_flags_nofragment().
            fast |= ALLOC_NOFRAGMENT
        pfn = self._get_page_from_freelist(order, gfp, zones, highest, 1, fast)
        if pfn is not None:
            return pfn
        flags = cma
        if gfp & _HIGH:
            flags |= ALLOC_MIN_RESERVE
        if not gfp & _DIRECT_RECLAIM and not gfp & _NOMEMALLOC:
            flags |= ALLOC_NON_BLOCK
            if order and gfp & _HIGH:
                flags |= ALLOC_HIGHATOMIC
        pfn = self._get_page_from_freelist(order, gfp, zones, highest, 0, flags)
        if pfn is None and gfp & _DIRECT_RECLAIM:
            # __alloc_pages_direct_reclaim(), with nothing to reclaim: what is in stock, and in reserve.
            self._machine.drain_all_pages()
            migratetype = self.gfp_migratetype(gfp)
            for zone in zones:
                fallback.unreserve_highatomic(self._buddy, zone, migratetype)
            pfn = self._get_page_from_freelist(order, gfp, zones, highest, 0, flags)
        if pfn is None and gfp & _MEMALLOC:
            pfn = self._get_page_from_freelist(order, gfp, zones, highest, None, flags)
        return pfn

    def _get_page_from_freelist(
        self, order: int, gfp: int, zones: list[Zone], highest: int, mark: int | None, alloc_flags: int
    ) -> int | None:
        """``get_page_from_freelist()``: the first zone that can spare it.

        :param mark: Index of the watermark to keep; None for none.
        """
        migratetype = self.gfp_migratetype(gfp)
        for zone in zones:
            if mark is not None and not zone.watermark_ok(order, zone.watermark[mark], highest, alloc_flags):
                continue
            pfn = self._rmqueue(zone, order, migratetype, alloc_flags)
            if pfn is not None:
                if alloc_flags & ALLOC_HIGHATOMIC:
                    fallback.reserve_highatomic(self._buddy, zone, pfn)
                return pfn
        if alloc_flags & ALLOC_NOFRAGMENT:
            flags = alloc_flags & ~ALLOC_NOFRAGMENT
            return self._get_page_from_freelist(order, gfp, zones, highest, mark, flags)
        return None

    def _rmqueue(self, zone: Zone, order: int, migratetype: int, alloc_flags: int) -> int | None:
        """``rmqueue()``: from stock, or from the buddy allocator."""
        movable_thp = order <= 3 or alloc_flags & ALLOC_CMA or migratetype != Migratetype.MOVABLE
        if pcp_allowed_order(self._machine.era, order) and movable_thp:
            pfn = zone.pcp[self._machine.cpu].alloc(order, migratetype, alloc_flags)
            if pfn is not None:
                return pfn
        pfn = None
        if alloc_flags & ALLOC_HIGHATOMIC:
            pfn = self._buddy.rmqueue_smallest(zone, order, Migratetype.HIGHATOMIC)
        if pfn is None:
            pfn = self._buddy.rmqueue(zone, order, migratetype, alloc_flags)
        if pfn is None and alloc_flags & ALLOC_NON_BLOCK:
            pfn = self._buddy.rmqueue_smallest(zone, order, Migratetype.HIGHATOMIC)
        return pfn

    def prep_new_page(self, pfn: int, order: int, gfp: Gfp) -> None:
        """``prep_new_page()``: the first reference, the page_owner record, and heads and tails."""
        self.post_alloc_hook(pfn, order, gfp)
        if order and int(gfp) & _COMP:
            self.prep_compound_page(pfn, order)

    def post_alloc_hook(self, pfn: int, order: int, gfp: Gfp) -> None:
        """``post_alloc_hook()``."""
        self._pages.private[pfn] = 0
        self._pages.refcount[pfn] = 1
        if self._machine.page_owner is not None:
            self._machine.page_owner.set(pfn, order, gfp)
        if self._machine.alloc_tags is not None:
            self._machine.alloc_tags.add(pfn, order)

    def prep_compound_page(self, pfn: int, order: int) -> None:
        """``prep_compound_page()``."""
        pages, count = self._pages, 1 << order
        pages.flags[pfn] |= np.uint32(_HEAD)
        pages.order[pfn] = order
        pages.tail[pfn + 1 : pfn + count] = np.arange(1, count, dtype=np.uint32)
        self._machine.rmap.prep_compound(pfn, order)

    # Split, and exact numbers of pages.

    def split_page(self, pfn: int, order: int) -> None:
        """``split_page()``."""
        if self._pages.flags.item(pfn) & _HEAD:
            raise BadPageError(f"split_page() of the compound page {pfn}")
        self._pages.refcount[pfn + 1 : pfn + (1 << order)] = 1
        if self._machine.page_owner is not None:
            self._machine.page_owner.split(pfn, order, 0)
        if self._machine.alloc_tags is not None:
            self._machine.alloc_tags.split(pfn, order)

    def alloc_pages_exact(self, size: int, gfp: Gfp) -> int | None:
        """``alloc_pages_exact()``: the rest of the block is freed at once.

        The kernel does that page by page; here it is by the blocks that they merge to.
        """
        machine = self._machine
        count = -(-size >> machine.era.page_shift)
        order = (count - 1).bit_length()
        with machine.calls(
            "alloc_pages_exact" if machine.era.version < (6, 10) else "alloc_pages_exact_noprof"
        ):
            pfn = self.alloc_pages(order, gfp & ~Gfp.COMP)
            if pfn is not None:
                with machine.calls("make_alloc_exact"):
                    self.split_page(pfn, order)
                    self._free_split_range(pfn + count, pfn + (1 << order))
        return pfn

    def free_pages_exact(self, pfn: int, size: int) -> None:
        """``free_pages_exact()``."""
        with self._machine.calls("free_pages_exact"):
            self._free_split_range(pfn, pfn + -(-size >> self._machine.era.page_shift))

    def _free_split_range(self, start: int, end: int) -> None:
        """Free pages of a block that was split, each of which has one reference."""
        while start < end:
            order = min((start & -start).bit_length() - 1, (end - start).bit_length() - 1)
            self._pages.refcount[start + 1 : start + (1 << order)] -= 1
            self.free_pages(start, order)
            start += 1 << order

    # Free.

    def free_pages(self, pfn: int, order: int) -> None:
        """``__free_pages()``.

        Somebody else may have a reference to the first page of a block that is not compound. The rest is
        freed all the same then (5.10); that page when the reference is dropped.
        """
        head = self._pages.flags.item(pfn) & _HEAD
        with self._machine.calls("__free_pages"):
            if self._put_page_testzero(pfn):
                self._free_unref_page(pfn, order)
            elif not head and self._machine.era.version >= (5, 10):
                if self._machine.alloc_tags is not None:
                    self._machine.alloc_tags.sub_pages(pfn, (1 << order) - 1)
                while order:
                    order -= 1
                    self._free_unref_page(pfn + (1 << order), order)

    def put_page(self, pfn: int) -> None:
        """``put_page()``, ``__folio_put()``."""
        pages = self._pages
        head = pfn - pages.tail.item(pfn)
        if not self._put_page_testzero(head):
            return
        with self._machine.calls(self._put_call):
            self._machine.batches.page_cache_release(head)
            order = pages.order.item(head) if pages.flags.item(head) & _HEAD else 0
            self._free_unref_page(head, order)

    def _put_page_testzero(self, pfn: int) -> bool:
        """``put_page_testzero()``, with the hook of the page pinner."""
        left = self._pages.refcount.item(pfn) - 1
        if left < 0:
            raise BadPageError(f"page {pfn} has no reference to drop")
        self._pages.refcount[pfn] = left
        if self._machine.page_pinner is not None:
            self._machine.page_pinner.put(pfn)
        return left == 0

    def _free_unref_page(self, pfn: int, order: int) -> None:
        """``free_unref_page()``: into stock, unless it is isolated or too large; ``__free_pages_ok()``."""
        machine = self._machine
        machine.clock.tick(_TICK)
        in_stock = pcp_allowed_order(machine.era, order)
        with machine.calls(self._free_call if in_stock else "__free_pages_ok"):
            if not self.free_pages_prepare(pfn, order):
                return
            zone = machine.zone_of(pfn)
            migratetype = self._buddy.migratetype(pfn)
            if not in_stock or migratetype == Migratetype.ISOLATE:
                self._buddy.free_range(zone, pfn, order)
                return
            if migratetype >= MIGRATE_PCPTYPES and not (
                machine.era.android and migratetype == Migratetype.CMA
            ):
                # CMA pages are in stock as movable ones; but in Android, where they have lists of their own.
                migratetype = Migratetype.MOVABLE
            zone.pcp[machine.cpu].free(pfn, order, migratetype)

    def free_pages_prepare(self, pfn: int, order: int) -> bool:
        """``free_pages_prepare()``: check that nobody uses the pages, and forget what they were.

        :return: False for a page with PG_hwpoison, which is left alone for ever.
        :raises BadPageError: Somebody does.
        """
        machine, pages = self._machine, self._pages
        flags = pages.flags.item(pfn)
        count = 1 << order
        if not order and flags & _HWPOISON:
            if machine.page_owner is not None:
                machine.page_owner.reset(pfn, order)
            if machine.alloc_tags is not None:
                machine.alloc_tags.sub(pfn, order)
            return False
        if (flags & _HEAD and pages.order.item(pfn) != order) or pages.tail.item(pfn):
            raise BadPageError(f"order {order} is not that of the compound page at {pfn}")
        if order:
            rows = slice(pfn, pfn + count)
            self._check(pfn, int(np.bitwise_or.reduce(pages.flags[rows])))
            if pages.mapcount[rows].any() or pages.refcount[rows].any():
                raise BadPageError(f"pages of the block at {pfn} are still in use")
            if flags & _HEAD:
                machine.rmap.destroy(pfn)
                pages.order[pfn] = 0
                pages.tail[rows] = 0
            pages.flags[rows] &= np.uint32(_HWPOISON)
            pages.mapping[rows] = 0
        else:
            self._check(pfn, flags)
            if pages.mapcount.item(pfn) or pages.refcount.item(pfn):
                raise BadPageError(f"page {pfn} is still in use")
            if flags:
                pages.flags[pfn] = 0
            if pages.mapping.item(pfn):
                pages.mapping[pfn] = 0
        if pages.type.item(pfn):
            if pages.type.item(pfn) == PageType.BUDDY:
                raise BadPageError(f"page {pfn} is free already")
            pages.type[pfn] = PageType.NONE
        if machine.page_owner is not None:
            machine.page_owner.reset(pfn, order)
        if machine.page_pinner is not None:
            machine.page_pinner.reset(pfn, order)
        if machine.alloc_tags is not None:
            machine.alloc_tags.sub(pfn, order)
        return True

    def _check(self, pfn: int, flags: int) -> None:
        """``free_page_is_bad()``."""
        if flags & _CHECK_AT_FREE:
            raise BadPageError(f"page {pfn} is freed with {PageFlag(flags & _CHECK_AT_FREE)!r}")
