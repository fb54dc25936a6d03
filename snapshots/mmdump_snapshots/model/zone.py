"""Zones and nodes: ranges of memory with free lists of their own (include/linux/mmzone.h)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .pcp import PerCpuPages

__all__ = [
    "ALLOC_CMA",
    "ALLOC_HIGHATOMIC",
    "ALLOC_MIN_RESERVE",
    "ALLOC_NOFRAGMENT",
    "ALLOC_NON_BLOCK",
    "LRU_LISTS",
    "MIGRATE_PCPTYPES",
    "WATERMARKS",
    "ZONE_NAMES",
    "FreeArea",
    "Migratetype",
    "Node",
    "PageList",
    "Zone",
]


class Migratetype(IntEnum):
    """``enum migratetype``: what a pageblock is for. The first three are what allocations ask for."""

    UNMOVABLE = 0
    MOVABLE = 1
    RECLAIMABLE = 2
    HIGHATOMIC = 3
    CMA = 4
    ISOLATE = 5


#: Types below this have per-CPU lists, fall back to each other, and may merge with each other.
MIGRATE_PCPTYPES = 3
#: ``enum zone_type`` by what the zones are called; an allocation may use any zone up to its own.
ZONE_NAMES = ("DMA", "DMA32", "Normal", "Movable")
#: ``enum lru_list`` in lower case.
LRU_LISTS = ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")
#: ``enum zone_watermarks``.
WATERMARKS = ("min", "low", "high")

# What an allocation may do (mm/internal.h).
#: Use CMA areas.
ALLOC_CMA = 1 << 0
#: Use the reserve of high orders for those who cannot wait.
ALLOC_HIGHATOMIC = 1 << 1
#: Do not put pages into pageblocks of another type.
ALLOC_NOFRAGMENT = 1 << 2
#: Use half of what is below the min watermark (``__GFP_HIGH``).
ALLOC_MIN_RESERVE = 1 << 3
#: And more of it, as it cannot wait.
ALLOC_NON_BLOCK = 1 << 4


class PageList:
    """A list of pages (``struct list_head`` through ``page->lru``): PFNs, the first at the list's head."""

    __slots__ = ("_pages",)

    def __init__(self, pfns: Iterable[int] = ()) -> None:
        self._pages: OrderedDict[int, None] = OrderedDict.fromkeys(pfns)

    def add(self, pfn: int) -> None:
        """``list_add()``: at the head."""
        self._pages[pfn] = None
        self._pages.move_to_end(pfn, last=False)

    def add_tail(self, pfn: int) -> None:
        """``list_add_tail()``."""
        self._pages[pfn] = None

    def extend(self, pfns: Iterable[int]) -> None:
        """``list_add_tail()`` of each."""
        self._pages.update(dict.fromkeys(pfns))

    def remove(self, pfn: int) -> None:
        """``list_del()``.

        :raises KeyError: It is not on this list.
        """
        del self._pages[pfn]

    def first(self) -> int:
        """``list_first_entry()`` of a list that is not empty."""
        return next(iter(self._pages))

    def last(self) -> int:
        """``list_last_entry()`` of a list that is not empty."""
        return next(reversed(self._pages))

    def rotate(self, pfn: int) -> None:
        """``list_rotate_to_front()``: begin with this page; what was before it comes after the last."""
        before = []
        for other in self._pages:
            if other == pfn:
                break
            before.append(other)
        for other in before:
            self._pages.move_to_end(other)

    def array(self) -> NDArray[np.int64]:
        """The PFNs in list order, int64."""
        return np.fromiter(self._pages, np.int64, len(self._pages))

    def __iter__(self) -> Iterator[int]:
        return iter(self._pages)

    def __len__(self) -> int:
        return len(self._pages)

    def __contains__(self, pfn: object) -> bool:
        return pfn in self._pages

    def __repr__(self) -> str:
        return f"PageList({list(self._pages)})"


class FreeArea:
    """``struct free_area``: the free blocks of one order.

    :ivar free_list: A list of blocks, by their first PFN, for each :class:`Migratetype`.
    """

    __slots__ = ("free_list",)

    def __init__(self) -> None:
        self.free_list = [PageList() for _ in Migratetype]

    @property
    def nr_free(self) -> int:
        """How many blocks there are."""
        return sum(map(len, self.free_list))


class Zone:
    """``struct zone``.

    :ivar node: Number of its node.
    :ivar name: One of :data:`ZONE_NAMES`.
    :ivar index: Its place there, ``zone_idx()``.
    :ivar start_pfn: First page of memory in it.
    :ivar end_pfn: One past the last.
    :ivar ram: PFN ranges [start, end) of its memory.
    :ivar managed: Pages that the buddy allocator was given.
    :ivar free_area: By order.
    :ivar pcp: Per-CPU pages, by CPU.
    :ivar watermark: Pages: min, low, high.
    :ivar lowmem_reserve: Pages to leave to those who can use no other zone, by the index of the highest zone
        that an allocation could use.
    :ivar free_pages: NR_FREE_PAGES: pages in free blocks, less those in isolated pageblocks.
    :ivar free_cma: NR_FREE_CMA_PAGES: how many of them are of CMA areas.
    :ivar free_highatomic: How many of them are of the HIGHATOMIC reserve.
    :ivar nr_reserved_highatomic: Pages of pageblocks of that reserve.
    :ivar nr_isolate_pageblock: Pageblocks that are isolated.
    """

    def __init__(self, node: int, name: str, ram: tuple[tuple[int, int], ...], orders: int) -> None:
        self.node = node
        self.name = name
        self.index = ZONE_NAMES.index(name)
        self.ram = ram
        self.start_pfn = ram[0][0]
        self.end_pfn = ram[-1][1]
        self.managed = 0
        self.free_area = [FreeArea() for _ in range(orders)]
        self.pcp: list[PerCpuPages] = []
        self.watermark = (0, 0, 0)
        self.lowmem_reserve = [0] * len(ZONE_NAMES)
        self.free_pages = 0
        self.free_cma = 0
        self.free_highatomic = 0
        self.nr_reserved_highatomic = 0
        self.nr_isolate_pageblock = 0

    @property
    def spanned(self) -> int:
        """Pages from its first to its last, holes included."""
        return self.end_pfn - self.start_pfn

    @property
    def present(self) -> int:
        """Pages that exist."""
        return sum(end - start for start, end in self.ram)

    def nr_free(self, order: int) -> int:
        """``free_area[order].nr_free``."""
        return self.free_area[order].nr_free

    def account_freepages(self, pages: int, migratetype: int) -> None:
        """``account_freepages()``: pages came to a free list, or left it."""
        if migratetype == Migratetype.ISOLATE:
            return
        self.free_pages += pages
        if migratetype == Migratetype.CMA:
            self.free_cma += pages
        elif migratetype == Migratetype.HIGHATOMIC:
            self.free_highatomic += pages

    def watermark_ok(self, order: int, mark: int, highest: int = 0, alloc_flags: int = 0) -> bool:
        """``__zone_watermark_ok()``: whether an allocation would leave enough, and there is a block for it.

        :param mark: The watermark, in pages.
        :param highest: Index of the highest zone that the allocation could use.
        """
        reserves = alloc_flags & (ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK | ALLOC_HIGHATOMIC)
        free = self.free_pages - ((1 << order) - 1)
        if not reserves:
            free -= self.free_highatomic
        if not alloc_flags & ALLOC_CMA:
            free -= self.free_cma
        if alloc_flags & ALLOC_MIN_RESERVE:
            mark -= mark // 2
            if alloc_flags & ALLOC_NON_BLOCK:
                mark -= mark // 4
        if free <= mark + self.lowmem_reserve[highest]:
            return False
        if not order:
            return True
        usable = [Migratetype.UNMOVABLE, Migratetype.MOVABLE, Migratetype.RECLAIMABLE]
        if alloc_flags & ALLOC_CMA:
            usable.append(Migratetype.CMA)
        if alloc_flags & ALLOC_HIGHATOMIC:
            usable.append(Migratetype.HIGHATOMIC)
        return any(len(area.free_list[mt]) for area in self.free_area[order:] for mt in usable)


class Node:
    """``struct pglist_data``: memory that is equally near to some CPUs.

    :ivar zones: Its zones that have memory, lowest first.
    :ivar lru: Lists of pages in use by the names of :data:`LRU_LISTS`.
    """

    def __init__(self, number: int, zones: list[Zone]) -> None:
        self.number = number
        self.zones = zones
        self.lru = {name: PageList() for name in LRU_LISTS}
