"""Per-CPU pages: small stocks of free pages that need no lock (``struct per_cpu_pages``, mm/page_alloc.c).

A page in stock is free, but no block of the buddy allocator: it has neither its type nor its order, and to
who walks memory it looks like one that is allocated, less the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .zone import ALLOC_CMA, Migratetype, PageList

if TYPE_CHECKING:
    from .era import Era
    from .machine import Machine
    from .zone import Zone

__all__ = ["PerCpuPages", "pcp_allowed_order", "setup_pageset"]

#: PAGE_ALLOC_COSTLY_ORDER: up to this, allocations are expected to work.
_COSTLY_ORDER = 3


def pcp_allowed_order(era: Era, order: int) -> bool:
    """``pcp_allowed_order()``: only single pages up to 5.12; small orders and those of THPs since 5.13."""
    if era.version < (5, 13):
        return order == 0
    return order <= _COSTLY_ORDER or order == era.pmd_order


def _lists(era: Era) -> int:
    """``NR_PCP_LISTS``: three types of each order; of THPs three up to 5.19, one up to 6.9, then two.

    With Android it is four types.
    """
    if era.version < (5, 13):
        return era.pcp_types
    small = era.pcp_types * (_COSTLY_ORDER + 1)
    if era.version < (6, 0):
        return small + era.pcp_types
    return small + (1 if era.version < (6, 10) else 2)


class PerCpuPages:
    """The stock of one CPU in one zone.

    :ivar lists: By :meth:`index`; the first page of a list is the one that was freed last.
    :ivar count: Pages in all lists.
    :ivar high: With so many, some are given back.
    :ivar batch: How many are moved at once.
    """

    def __init__(self, machine: Machine, zone: Zone) -> None:
        self._machine = machine
        self._era = machine.era
        self._zone = zone
        self.lists = [PageList() for _ in range(_lists(machine.era))]
        self.count = 0
        # boot_pageset: nothing is kept before setup_pageset().
        self.high = 0
        self.batch = 1

    def index(self, order: int, migratetype: int) -> int:
        """``order_to_pindex()``."""
        types = self._era.pcp_types
        # Android's number of MIGRATE_CMA.
        number = types - 1 if migratetype == Migratetype.CMA else migratetype
        if order <= _COSTLY_ORDER:
            return types * order + number
        first = types * (_COSTLY_ORDER + 1)
        if self._era.version < (6, 0):
            return first + number
        movable = self._era.version >= (6, 10) and migratetype == Migratetype.MOVABLE
        return first + movable

    def order(self, index: int) -> int:
        """``pindex_to_order()``."""
        order = index // self._era.pcp_types
        return order if order <= _COSTLY_ORDER else self._era.pmd_order

    def alloc(self, order: int, migratetype: int, alloc_flags: int) -> int | None:
        """``__rmqueue_pcplist()``: the first of its list, which is filled again when it is empty."""
        pages = self.lists[self.index(order, migratetype)]
        if self._era.android and migratetype == Migratetype.MOVABLE and alloc_flags & ALLOC_CMA:
            # get_populated_pcp_list(): those of CMA areas first. (The model does not fill that list for it.)
            pages = self.lists[self.index(order, Migratetype.CMA)] or pages
        if not pages:
            self._rmqueue_bulk(pages, order, migratetype, alloc_flags)
            if not pages:
                return None
        pfn = pages.first()
        pages.remove(pfn)
        self.count -= 1 << order
        return pfn

    def _rmqueue_bulk(self, pages: PageList, order: int, migratetype: int, alloc_flags: int) -> None:
        """``rmqueue_bulk()``: in the order in which they are split off: neighbours stay neighbours."""
        wanted = self.batch
        if wanted > 1:
            wanted = max(wanted >> order, 2)
        for _ in range(wanted):
            pfn = self._machine.buddy.rmqueue(self._zone, order, migratetype, alloc_flags)
            if pfn is None:
                return
            pages.add_tail(pfn)
            self.count += 1 << order

    def free(self, pfn: int, order: int, migratetype: int) -> None:
        """``free_unref_page_commit()``: keep it; above the limit give back some that were freed long ago."""
        index = self.index(order, migratetype)
        self.lists[index].add(pfn)
        self.count += 1 << order
        if self.count >= self.high:
            self.free_bulk(self._nr_free(), index)

    def _nr_free(self) -> int:
        """``nr_pcp_free()``."""
        return 1 if self.high < self.batch else self.batch

    def free_bulk(self, count: int, index: int = 0) -> None:
        """``free_pcppages_bulk()``: so many pages to the buddy allocator, from each list in turn.

        :param index: The list to begin with.
        """
        buddy = self._machine.buddy
        count = min(count, self.count)
        while count > 0:
            pages = self.lists[index % len(self.lists)]
            order = self.order(index % len(self.lists))
            index += 1
            while pages and count > 0:
                pfn = pages.last()
                pages.remove(pfn)
                self.count -= 1 << order
                count -= 1 << order
                buddy.free_one(self._zone, pfn, order, buddy.migratetype(pfn))

    def drain(self) -> None:
        """``drain_pages_zone()``."""
        self.free_bulk(self.count)

    def pages(self) -> Iterator[tuple[int, int]]:
        """Everything in stock, as (first PFN, order)."""
        for index, pages in enumerate(self.lists):
            for pfn in pages:
                yield pfn, self.order(index)


def setup_pageset(machine: Machine, zone: Zone) -> None:
    """``zone_set_pageset_high_and_batch()``: the larger the zone, the larger its stocks."""
    era = machine.era
    # zone_batchsize(): a thousandth of the zone, 1 MiB at most; then one less than a power of two.
    batch = max(min(zone.managed >> 10, (1 << 20) >> era.page_shift), 1)
    if era.version < (5, 14):
        # Up to 5.13 a quarter of it.
        batch = max(batch // 4, 1)
    batch = (1 << (batch + batch // 2).bit_length() - 1) - 1
    if era.version < (5, 14):
        high = 6 * batch
    else:
        local = sum(machine.node_of_cpu(cpu) == zone.node for cpu in range(machine.cpus)) or machine.cpus
        high = max(zone.watermark[1] // local, batch << 2)
    for pcp in zone.pcp:
        pcp.high = high
        pcp.batch = max(batch, 1)
