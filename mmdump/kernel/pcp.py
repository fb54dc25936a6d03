"""Free pages that CPUs keep for themselves, on no free list of a zone (kernel: ``struct per_cpu_pages``).

Such a page has neither the buddy allocator's type nor its order: only the list it is on tells that it is
free.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from drgn import FaultError, offsetof, sizeof

from mmdump.kernel.arrays import I32, I64
from mmdump.kernel.layout import byteorder, enumerators, has_member
from mmdump.kernel.percpu import at_each_cpu
from mmdump.kernel.zones import Zone, each_zone
from mmdump.target.faults import fault_words

if TYPE_CHECKING:
    from drgn import Object, Program

    from mmdump.kernel.memmap import MemMap

__all__ = ["NO_CPU", "PerCpuPages", "read_per_cpu_pages"]

#: In place of a CPU: pages on a zone's ``trylock_free_pages``.
NO_CPU = -1
#: Pages that one list is believed to have: the stock of a CPU is some MiB.
_MAX_LIST = 1 << 17
#: PAGE_ALLOC_COSTLY_ORDER: orders up to this have lists of their own.
_COSTLY_ORDER = 3


@dataclass(frozen=True)
class PerCpuPages:
    """Every CPU's stock of free pages. Plain data; a row for each block on a list, in list order.

    :param zones: The zones.
    :param zone: Index into them, int64.
    :param cpu: The CPU, or :data:`NO_CPU`, int64.
    :param pfn: First PFN, int64.
    :param order: int32.
    :param migratetype: Of the list, int32; -1 for a list that serves several.
    :param counts: ``pcp->count`` for each (index of the zone, CPU): pages, as the CPU counts them.
    :param broken: Lists that could not be followed to their end: one sentence for each.
    """

    zones: tuple[Zone, ...]
    zone: I64
    cpu: I64
    pfn: I64
    order: I32
    migratetype: I32
    counts: dict[tuple[int, int], int]
    broken: tuple[str, ...] = ()

    def pages(self, zone: int) -> int:
        """Pages on all lists of a zone (an index into :attr:`zones`)."""
        return int(np.left_shift(1, self.order[self.zone == zone].astype(np.int64)).sum())


def read_per_cpu_pages(prog: Program, memmap: MemMap, page_shift: int) -> PerCpuPages:
    """Walk the per-CPU lists of all zones."""
    walker = _Walker(prog, memmap)
    kinds = enumerators(prog, "enum migratetype")
    zones, rows, counts = [], [], {}
    for slot, (zone, where) in enumerate(each_zone(prog)):
        zones.append(zone)
        try:
            for cpu, lists, count in _stocks(prog, where):
                counts[slot, cpu] = count
                for index in range(lists.type_.length or 0):
                    order, kind = _list_kind(index, lists.type_.length or 0, page_shift - 3, kinds)
                    what = f"the list {index} of CPU {cpu} in zone {zone.name} of node {zone.node}"
                    rows += [(slot, cpu, pfn, order, kind) for pfn in walker.pages(lists[index], what)]
        except FaultError as error:
            what = f"per-CPU pages of zone {zone.name} of node {zone.node}"
            walker.broken.append(f"{what}: {fault_words(error)}")
        rows += [(slot, NO_CPU, pfn, order, -1) for pfn, order in walker.trylock(where, zone.name)]
    columns = np.array(rows, np.int64).reshape(-1, 5)
    return PerCpuPages(
        tuple(zones),
        columns[:, 0],
        columns[:, 1],
        columns[:, 2],
        columns[:, 3].astype(np.int32),
        columns[:, 4].astype(np.int32),
        counts,
        tuple(walker.broken),
    )


def _stocks(prog: Program, zone: Object) -> Iterator[tuple[int, Object, int]]:
    """CPU, lists and count of each stock of a zone.

    ``zone->pageset`` up to 5.13, whose struct has the counters of the CPU too; ``per_cpu_pageset`` since.
    """
    if has_member(zone.type_, "per_cpu_pageset"):
        for cpu, pages in at_each_cpu(prog, zone.per_cpu_pageset):
            yield cpu, pages.lists, pages.count.value_()
    else:
        for cpu, pageset in at_each_cpu(prog, zone.pageset):
            yield cpu, pageset.pcp.lists, pageset.pcp.count.value_()


def _list_kind(index: int, lists: int, pmd_order: int, kinds: dict[str, int]) -> tuple[int, int]:
    """Order and migratetype of a list, ``pindex_to_order()``.

    One list for each migratetype up to 5.12; since 5.13 so many for each order up to 3, and after them those
    of transparent huge pages: one for each migratetype up to 5.19, then one for all, and since 6.10 (and in
    later 6.1) one for movable pages beside it.
    """
    types = kinds.get("MIGRATE_PCPTYPES", 3)
    small = types * (_COSTLY_ORDER + 1)
    if index < small:
        return index // types, index % types
    huge = lists - small
    if huge == types:
        return pmd_order, index - small
    movable = kinds.get("MIGRATE_MOVABLE", 1)
    return pmd_order, movable if huge > 1 and index - small == 1 else -1


class _Walker:
    """Follows lists through the page array. What is wrong with them is gathered in ``broken``."""

    def __init__(self, prog: Program, memmap: MemMap) -> None:
        self.broken: list[str] = []
        self._prog = prog
        self._memmap = memmap
        self._page = prog.type("struct page")
        self._lru = offsetof(self._page, "lru")
        self._endian: Literal["little", "big"] = "little" if byteorder(prog) == "<" else "big"

    def pages(self, head: Object, what: str) -> list[int]:
        """PFNs on a list, from its head on, as far as every page links back to the one before."""
        found: list[int] = []
        at = before = head.address_ or 0
        try:
            while True:
                link, _ = self._links(at)
                if self._links(link)[1] != at:
                    self.broken.append(f"{what} is broken after {len(found)} pages")
                    return found
                if link == before:
                    return found
                pfn = self._pfn(link - self._lru)
                # A list that links back everywhere has no cycle that leaves its head out.
                if pfn is None or len(found) >= _MAX_LIST:
                    self.broken.append(f"{what} leads astray after {len(found)} pages")
                    return found
                found.append(pfn)
                at = link
        except FaultError:
            self.broken.append(f"{what} leads to memory that is not in the dump after {len(found)} pages")
            return found

    def _links(self, address: int) -> tuple[int, int]:
        raw = self._prog.read(address, 16)
        return self._word(raw[:8]), self._word(raw[8:])

    def _word(self, raw: bytes) -> int:
        return int.from_bytes(raw, self._endian)

    def _pfn(self, page: int) -> int | None:
        pfn, rest = divmod(page - self._memmap.vmemmap, self._memmap.page_size)
        return pfn if not rest and 0 <= pfn < self._memmap.end_pfn else None

    def trylock(self, zone: Object, name: str) -> list[tuple[int, int]]:
        """Blocks freed where the zone's lock could not be had (6.15): PFN and order.

        They wait on ``zone->trylock_free_pages`` through ``page->pcp_llist``, their order in ``page->order``,
        or in ``page->private``.
        """
        if not has_member(zone.type_, "trylock_free_pages") or not has_member(self._page, "pcp_llist"):
            return []
        offset = offsetof(self._page, "pcp_llist")
        member = "order" if has_member(self._page, "order") else "private"
        at, size = offsetof(self._page, member), sizeof(self._page.member(member).type)
        found: dict[int, int] = {}
        try:
            link = zone.trylock_free_pages.first.value_()
            while link:
                pfn = self._pfn(link - offset)
                if pfn is None or pfn in found or len(found) >= _MAX_LIST:
                    self.broken.append(f"trylock_free_pages of zone {name} leads astray")
                    break
                # Beyond any order is garbage; it counts as one page.
                order = self._word(self._prog.read(link - offset + at, size))
                found[pfn] = order if order < _MAX_ORDERS else 0
                link = self._word(self._prog.read(link, 8))
        except FaultError:
            self.broken.append(f"trylock_free_pages of zone {name} leads to memory that is not in the dump")
        return list(found.items())


#: More orders than any kernel's buddy allocator has.
_MAX_ORDERS = 16
