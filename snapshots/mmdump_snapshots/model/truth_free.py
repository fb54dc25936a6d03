"""Which memory is free on a machine, as a decoder must find it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .pages import ExtFlag, PageFlag, PageType
from .zone import Migratetype

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .machine import Machine

__all__ = ["FreeBlocks", "FreeTruth", "free_truth"]


@dataclass(frozen=True)
class FreeBlocks:
    """Free blocks, one row each. All arrays have shape (n,).

    :ivar pfn: First PFN, int64.
    :ivar order: uint8.
    """

    pfn: NDArray[np.int64]
    order: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pfn)

    @property
    def pages(self) -> int:
        """Pages in all blocks."""
        return int((1 << self.order.astype(np.int64)).sum())


@dataclass(frozen=True)
class FreeTruth:
    """Free memory of a machine.

    :ivar free: (node, zone, order, migratetype of the list) -> first PFNs of its blocks in list order, int64.
        Lists without blocks are missing.
    :ivar pcp: (node, zone, CPU) -> pages in stock, in the order of lists and of each list.
    :ivar guards: Guards of debug_pagealloc: neither free nor anybody's. By PFN.
    :ivar reported: Blocks that the hypervisor knows are free. By PFN.
    :ivar pageblocks: (node, zone) -> migratetype -> pageblocks, as ``/proc/pagetypeinfo`` counts them.
    """

    free: dict[tuple[int, str, int, str], NDArray[np.int64]]
    pcp: dict[tuple[int, str, int], FreeBlocks]
    guards: FreeBlocks
    reported: FreeBlocks
    pageblocks: dict[tuple[int, str], dict[str, int]]

    @property
    def pages(self) -> int:
        """Pages on free lists, isolated ones too."""
        return sum(len(pfns) << order for (_, _, order, _), pfns in self.free.items())


def free_truth(machine: Machine) -> FreeTruth:
    """What there is to find on a machine now."""
    free = {
        (zone.node, zone.name, order, Migratetype(migratetype).name): free_list.array()
        for zone in machine.zones
        for order, area in enumerate(zone.free_area)
        for migratetype, free_list in enumerate(area.free_list)
        if free_list
    }
    return FreeTruth(
        free=free,
        pcp={
            (zone.node, zone.name, cpu): _blocks(list(pcp.pages()))
            for zone in machine.zones
            for cpu, pcp in enumerate(zone.pcp)
        },
        guards=_guards(machine),
        reported=_reported(machine, free),
        pageblocks={(zone.node, zone.name): _pageblocks(machine, zone.ram) for zone in machine.zones},
    )


def _blocks(blocks: list[tuple[int, int]]) -> FreeBlocks:
    rows = np.array(blocks, np.int64).reshape(-1, 2)
    return FreeBlocks(rows[:, 0], rows[:, 1].astype(np.uint8))


def _reported(machine: Machine, free: dict[tuple[int, str, int, str], NDArray[np.int64]]) -> FreeBlocks:
    """Free blocks with PG_reported. In blocks in use it is PG_uptodate."""
    found = [
        (int(pfn), order)
        for (_, _, order, _), pfns in free.items()
        for pfn in pfns[machine.pages.flags[pfns] & np.uint32(PageFlag.REPORTED) != 0]
    ]
    return _blocks(sorted(found))


def _guards(machine: Machine) -> FreeBlocks:
    debug = machine.debug_pagealloc
    if debug is None or not debug.guards:
        return _blocks([])
    found = [
        (int(pfn), int(machine.pages.order[pfn]))
        for start, end in machine.ram
        for pfn in _guard_rows(machine, start, end)
    ]
    return _blocks(found)


def _guard_rows(machine: Machine, start: int, end: int) -> NDArray[np.int64]:
    if machine.era.guard_pages_in_page_ext:
        marked = machine.page_ext.flags[start:end] & np.uint8(ExtFlag.DEBUG_GUARD) != 0
    else:
        marked = machine.pages.type[start:end] == np.uint8(PageType.GUARD)
    return np.flatnonzero(marked) + start


def _pageblocks(machine: Machine, ram: tuple[tuple[int, int], ...]) -> dict[str, int]:
    order = machine.era.pageblock_order
    blocks = np.unique(np.concatenate([np.arange(start >> order, -(-end >> order)) for start, end in ram]))
    types = np.where(machine.isolated[blocks], np.uint8(Migratetype.ISOLATE), machine.migratetype[blocks])
    numbers, counts = np.unique(types, return_counts=True)
    return {Migratetype(int(n)).name: int(count) for n, count in zip(numbers, counts, strict=True)}
