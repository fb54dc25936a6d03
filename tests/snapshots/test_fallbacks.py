"""Which blocks an allocation of the model gets, against mm/page_alloc.c: fallbacks, CMA, watermarks."""

from __future__ import annotations

import numpy as np
import pytest

from mmdump_snapshots.model import Gfp, Migratetype
from mmdump_snapshots.model.fallback import FALLBACKS
from mmdump_snapshots.model.pages import PageFlag
from mmdump_snapshots.model.truth_free import free_truth
from mmdump_snapshots.model.zone import ALLOC_CMA
from tests.snapshots.buddy_machines import (
    BLOCK,
    blocks_of,
    check,
    every_kernel,
    quiet,
)


def test_the_order_of_fallbacks():
    """fallbacks[]"""
    assert [[each.name for each in FALLBACKS[mt]] for mt in (0, 1, 2)] == [
        ["RECLAIMABLE", "MOVABLE"],
        ["RECLAIMABLE", "UNMOVABLE"],
        ["UNMOVABLE", "MOVABLE"],
    ]


@every_kernel
def test_the_first_unmovable_page_claims_a_whole_block(version):
    """steal_suitable_fallback(), try_to_claim_block(): of the largest order there is"""
    machine = quiet(version)
    pfn = machine.alloc_pages(4, Gfp.KERNEL)
    assert machine.pageblock_migratetype(pfn) == Migratetype.UNMOVABLE
    assert pfn % (1 << 10) == 0
    types = free_truth(machine).pageblocks
    assert sum(zone.get("UNMOVABLE", 0) for zone in types.values()) == 2
    # The next ones are from the same block.
    assert machine.alloc_pages(4, Gfp.KERNEL) == pfn + 16
    check(machine, {pfn: 4, pfn + 16: 4})


@every_kernel
def test_a_few_free_pages_of_a_movable_block_do_not_make_it_ours(version):
    """try_to_claim_block(): half of the pageblock must be free or alike"""
    machine = quiet(version, memory=64 << 20)
    held = {}
    while (pfn := machine.alloc_pages(4, Gfp.HIGHUSER_MOVABLE | Gfp.MEMALLOC)) is not None:
        machine.pages.flags[pfn : pfn + 16] |= np.uint32(PageFlag.LRU)
        held[pfn] = 4
    block = next(pfn for pfn in held if pfn % BLOCK == 0 and pfn + BLOCK - 16 in held)
    for pfn in (block, block + 64):
        machine.pages.flags[pfn : pfn + 16] = 0
        machine.free_pages(pfn, held.pop(pfn))
    pfn = machine.alloc_pages(0, Gfp.KERNEL | Gfp.MEMALLOC)
    assert block <= pfn < block + BLOCK
    assert machine.pageblock_migratetype(pfn) == Migratetype.MOVABLE
    rest = {name for at, _, name in blocks_of(machine) if block <= at < block + BLOCK}
    # Since 6.10 what is left goes back to the pageblock's own lists.
    assert ("UNMOVABLE" in rest) == (version < (6, 10))
    held[pfn] = 0
    check(machine, held)


@every_kernel
def test_only_movable_pages_are_of_cma_areas(version):
    """__rmqueue(), ALLOC_CMA"""
    machine = quiet(version, memory=64 << 20, cma=(("linux,cma", 16 << 20),))
    [area] = machine.cma
    check(machine, {})
    kernel = set()
    while (pfn := machine.alloc_pages(3, Gfp.KERNEL | Gfp.MEMALLOC)) is not None:
        kernel.add(pfn)
    assert not any(area.base_pfn <= pfn < area.end_pfn for pfn in kernel)
    pfn = machine.alloc_pages(3, Gfp.HIGHUSER_MOVABLE | Gfp.MEMALLOC)
    assert area.base_pfn <= pfn < area.end_pfn
    machine.free_pages(pfn, 3)
    machine.drain_all_pages()
    check(machine, dict.fromkeys(kernel, 3))
    types = free_truth(machine).pageblocks
    assert sum(zone.get("CMA", 0) for zone in types.values()) == area.count // BLOCK


@pytest.mark.parametrize(("version", "balanced"), [((5, 4), False), ((6, 12), True)], ids=str)
def test_cma_is_used_first_while_most_of_free_memory_is_cma(version, balanced):
    """__rmqueue() (5.8)"""
    machine = quiet(version, cma=(("linux,cma", 56 << 20),))
    [area] = machine.cma
    zone = machine.zone_of(area.base_pfn)
    assert zone.free_cma > zone.free_pages // 2
    pfn = machine.alloc_pages(4, Gfp.HIGHUSER_MOVABLE)
    assert (area.base_pfn <= pfn < area.end_pfn) is balanced


def test_blocks_for_those_who_cannot_wait():
    """reserve_highatomic_pageblock(), unreserve_highatomic_pageblock()"""
    machine = quiet(memory=512 << 20)
    zone = machine.zones[-1]
    held = []
    while (pfn := machine.alloc_pages(5, Gfp.HIGHUSER_MOVABLE | Gfp.NOMEMALLOC)) is not None:
        held.append(pfn)
    pfn = machine.alloc_pages(5, Gfp.ATOMIC)
    assert machine.pageblock_migratetype(pfn) == Migratetype.HIGHATOMIC
    assert zone.nr_reserved_highatomic == BLOCK
    check(machine, dict.fromkeys([*held, pfn], 5))


# Watermarks and zones.


def test_an_allocation_leaves_the_watermark_alone():
    """__zone_watermark_ok()"""
    machine = quiet()
    zone = machine.zones[-1]
    low = zone.watermark[1]
    zone.free_pages, real = low + 8, zone.free_pages
    assert zone.watermark_ok(0, low)
    assert not zone.watermark_ok(4, low)
    zone.free_cma = 8
    assert not zone.watermark_ok(0, low)
    assert zone.watermark_ok(0, low, 0, ALLOC_CMA)
    zone.free_pages, zone.free_cma = real, 0


@every_kernel
def test_out_of_memory(version):
    """__alloc_pages_slowpath(): who can wait gets down to the min watermark, who cannot below it"""
    machine = quiet(version, memory=64 << 20)
    while machine.alloc_pages(0, Gfp.KERNEL) is not None:
        pass
    least = sum(zone.watermark[0] for zone in machine.zones)
    assert 0 < machine.nr_free_pages(pcp=True) <= least + sum(z.lowmem_reserve[2] for z in machine.zones) + 64
    assert machine.alloc_pages(0, Gfp.ATOMIC) is not None
    assert machine.alloc_pages(10, Gfp.KERNEL) is None
    assert machine.page_alloc.failures == 2
