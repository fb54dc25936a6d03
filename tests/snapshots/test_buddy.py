"""The model's buddy allocator against mm/page_alloc.c: blocks, lists, types and counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdump_snapshots.model import Boot, Era, Gfp, Machine, Migratetype
from mmdump_snapshots.model.fallback import FALLBACKS
from mmdump_snapshots.model.page_alloc import BadPageError
from mmdump_snapshots.model.page_isolation import (
    set_migratetype_isolate,
    start_isolate_page_range,
    undo_isolate_page_range,
)
from mmdump_snapshots.model.pages import PageFlag, PageType
from mmdump_snapshots.model.pcp import pcp_allowed_order
from mmdump_snapshots.model.truth_free import free_truth
from mmdump_snapshots.model.zone import ALLOC_CMA

VERSIONS = [(4, 19), (5, 4), (5, 10), (5, 15), (6, 1), (6, 6), (6, 12), (6, 18), (7, 1)]
every_kernel = pytest.mark.parametrize("version", VERSIONS, ids=str)
BLOCK = 1 << 9
ISOLATE = Migratetype.ISOLATE


def quiet(version=(6, 12), memory=128 << 20, **more):
    """A machine with nothing on it, its free memory in the largest blocks."""
    boot = Boot(page_owner=False, page_pinner=False, early_pages=0, **more)
    return Machine(Era(version), memory=memory, reserved=28 << 20, boot=boot)


def lists(machine):
    """Every free list that has blocks, with its blocks."""
    return {key: tuple(pfns.tolist()) for key, pfns in free_truth(machine).free.items()}


def blocks_of(machine):
    """(first PFN, order, migratetype of the list) of every free block."""
    return sorted((pfn, order, name) for (_, _, order, name), pfns in lists(machine).items() for pfn in pfns)


def check(machine, held):
    """What is always true.

    :param held: Blocks that are allocated: first PFN -> order.
    """
    pages, buddy = machine.pages, machine.buddy
    owner = np.zeros(pages.count, np.int8)
    free = blocks_of(machine)
    stock = [block for zone in machine.zones for pcp in zone.pcp for block in pcp.pages()]
    guards = free_truth(machine).guards
    for pfn, order, *_ in [
        *free,
        *stock,
        *held.items(),
        *zip(guards.pfn.tolist(), guards.order.tolist(), strict=True),
    ]:
        assert pfn % (1 << order) == 0
        assert not owner[pfn : pfn + (1 << order)].any(), "blocks overlap"
        owner[pfn : pfn + (1 << order)] = 1
    by_start = {pfn: (order, name) for pfn, order, name in free}
    assert set(np.flatnonzero(pages.type == PageType.BUDDY)) == set(by_start)
    for pfn, (order, name) in by_start.items():
        zone = machine.zone_of(pfn)
        assert zone.start_pfn <= pfn < pfn + (1 << order) <= zone.end_pfn
        assert pages.order[pfn] == order
        assert not pages.refcount[pfn : pfn + (1 << order)].any()
        types = {buddy.migratetype(at) for at in range(pfn, pfn + (1 << order), BLOCK)}
        own = {Migratetype(each).name for each in types}
        if buddy.strict:
            assert own == {name}
        elif own & {"CMA", "ISOLATE"}:
            assert name in own
        other = pfn ^ (1 << order)
        if by_start.get(other, (None,))[0] == order and order < buddy.max_order:
            # Moving pageblocks to other lists does not merge them.
            assert order >= buddy.pageblock_order
            assert ISOLATE in (buddy.migratetype(pfn), buddy.migratetype(other)) or (
                buddy.migratetype(other) != buddy.migratetype(pfn)
            )
    for zone in machine.zones:
        blocks = slice(zone.start_pfn >> 9, zone.end_pfn >> 9)
        assert zone.nr_isolate_pageblock == machine.isolated[blocks].sum()
        mine = [
            (order, name)
            for (_, zoned, order, name), p in lists(machine).items()
            if zoned == zone.name
            for _ in p
        ]
        assert zone.free_pages == sum(1 << order for order, name in mine if name != "ISOLATE")
        assert zone.free_cma == sum(1 << order for order, name in mine if name == "CMA")
        assert all(pcp.count == sum(1 << order for _, order in pcp.pages()) for pcp in zone.pcp)
        rows = owner[zone.start_pfn : zone.end_pfn]
        assert int(rows.sum()) == zone.managed


# Blocks.


@every_kernel
def test_what_is_not_reserved_is_free_after_boot(version):
    """memblock_free_all(): in blocks of the largest order where alignment allows, movable."""
    machine = quiet(version)
    check(machine, {})
    assert machine.nr_free_pages() == sum(zone.managed for zone in machine.zones)
    assert {name for *_, name in blocks_of(machine)} == {"MOVABLE"}
    reserved = slice(*machine.reserved)
    assert (machine.pages.refcount[reserved] == 1).all()
    assert (machine.pages.flags[reserved] & PageFlag.RESERVED != 0).all()


@every_kernel
def test_a_block_is_split_in_halves_and_merged_again(version):
    """expand(), __free_one_page()"""
    machine = quiet(version)
    before = blocks_of(machine)
    pfn = machine.alloc_pages(4, Gfp.HIGHUSER_MOVABLE)
    halves = {pfn + (1 << order): order for order in range(4, 10)}
    assert halves.items() <= {at: order for at, order, _ in blocks_of(machine)}.items()
    check(machine, {pfn: 4})
    machine.free_pages(pfn, 4)
    assert blocks_of(machine) == before


def test_the_smallest_block_that_is_large_enough_is_taken():
    """__rmqueue_smallest()"""
    machine = quiet()
    large = machine.alloc_pages(5, Gfp.HIGHUSER_MOVABLE)
    assert machine.alloc_pages(5, Gfp.HIGHUSER_MOVABLE) == large + 32
    assert machine.alloc_pages(4, Gfp.HIGHUSER_MOVABLE) == large + 64


def test_a_block_whose_larger_buddy_is_free_waits_at_the_tail():
    """buddy_merge_likely()"""
    machine = quiet()
    zone = machine.zones[-1]
    pfns = [machine.alloc_pages(4, Gfp.HIGHUSER_MOVABLE) for _ in range(8)]
    start = pfns[0]
    assert pfns == list(range(start, start + 128, 16))
    movable = zone.free_area[4].free_list[Migratetype.MOVABLE]
    machine.free_pages(pfns[4], 4)
    assert list(movable) == [pfns[4]]
    machine.free_pages(pfns[2], 4)
    machine.free_pages(pfns[3], 4)
    assert start + 32 in zone.free_area[5].free_list[Migratetype.MOVABLE]
    # Its buddy is not free, but the pair beside both is.
    machine.free_pages(pfns[0], 4)
    assert list(movable) == [pfns[4], pfns[0]]


@every_kernel
def test_a_compound_page_has_a_head_and_tails(version):
    """prep_compound_page(), free_pages_prepare()"""
    machine = quiet(version)
    pages = machine.pages
    pfn = machine.alloc_pages(3, Gfp.KERNEL | Gfp.COMP)
    assert pages.has(pfn, PageFlag.HEAD)
    assert pages.tail[pfn : pfn + 8].tolist() == list(range(8))
    assert pages.order[pfn] == 3
    assert pages.refcount[pfn : pfn + 8].tolist() == [1] + [0] * 7
    assert machine.rmap.folios[pfn].order == 3
    machine.get_page(pfn + 5)
    assert pages.refcount[pfn] == 2
    machine.put_page(pfn + 5)
    machine.put_page(pfn)
    assert not pages.tail[pfn : pfn + 8].any()
    assert not pages.flags[pfn : pfn + 8].any()
    assert pfn not in machine.rmap.folios


def test_a_block_that_is_not_compound_is_split_into_pages():
    """split_page()"""
    machine = quiet()
    pfn = machine.alloc_pages(2, Gfp.KERNEL)
    assert machine.pages.refcount[pfn : pfn + 4].tolist() == [1, 0, 0, 0]
    machine.split_page(pfn, 2)
    assert machine.pages.refcount[pfn : pfn + 4].tolist() == [1, 1, 1, 1]
    with pytest.raises(BadPageError):
        machine.split_page(machine.alloc_pages(1, Gfp.KERNEL | Gfp.COMP), 1)


@every_kernel
def test_an_exact_number_of_pages(version):
    """alloc_pages_exact(), free_pages_exact()"""
    machine = quiet(version)
    free = machine.nr_free_pages(pcp=True)
    pfn = machine.alloc_pages_exact(11 * 4096 - 5)
    assert (machine.pages.refcount[pfn : pfn + 11] == 1).all()
    assert machine.nr_free_pages(pcp=True) == free - 11
    check(machine, dict.fromkeys(range(pfn, pfn + 11), 0))
    machine.free_pages_exact(pfn, 11 * 4096 - 5)
    assert machine.nr_free_pages(pcp=True) == free


@pytest.mark.parametrize(("version", "freed"), [((5, 4), 0), ((5, 10), 3)], ids=str)
def test_somebody_else_holds_the_first_page_of_a_block(version, freed):
    """__free_pages(): since 5.10 the rest is freed all the same"""
    machine = quiet(version)
    free = machine.nr_free_pages(pcp=True)
    pfn = machine.alloc_pages(2, Gfp.KERNEL)
    machine.get_page(pfn)
    machine.free_pages(pfn, 2)
    assert machine.nr_free_pages(pcp=True) == free - 4 + freed
    machine.put_page(pfn)
    assert machine.nr_free_pages(pcp=True) == free - 3 + freed


def test_what_is_in_use_is_not_freed():
    """free_page_is_bad()"""
    machine = quiet()
    pfn = machine.alloc_pages(0)
    machine.pages.mapcount[pfn] = 1
    with pytest.raises(BadPageError, match="in use"):
        machine.free_pages(pfn, 0)
    pfn = machine.alloc_pages(0)
    machine.pages.set(pfn, PageFlag.WRITEBACK)
    with pytest.raises(BadPageError, match="WRITEBACK"):
        machine.put_page(pfn)
    pfn = machine.alloc_pages(0)
    machine.free_pages(pfn, 0)
    with pytest.raises(BadPageError, match="no reference"):
        machine.free_pages(pfn, 0)


def test_a_poisoned_page_is_never_used_again():
    """free_pages_prepare(), PG_hwpoison"""
    machine = quiet()
    pfn = machine.alloc_pages(0)
    free = machine.nr_free_pages(pcp=True)
    machine.pages.set(pfn, PageFlag.HWPOISON)
    machine.put_page(pfn)
    assert machine.nr_free_pages(pcp=True) == free


# Stock.


@pytest.mark.parametrize(
    ("version", "orders", "count"),
    [
        ((5, 4), {0}, 3),
        ((5, 15), {0, 1, 2, 3, 9}, 15),
        ((6, 1), {0, 1, 2, 3, 9}, 13),
        ((6, 12), {0, 1, 2, 3, 9}, 14),
    ],
    ids=str,
)
def test_which_orders_are_in_stock(version, orders, count):
    """pcp_allowed_order(), order_to_pindex(), NR_PCP_LISTS"""
    machine = quiet(version)
    assert {order for order in range(11) if pcp_allowed_order(machine.era, order)} == orders
    pcp = machine.zones[0].pcp[0]
    assert len(pcp.lists) == count
    for order in orders:
        for migratetype in range(3):
            assert pcp.order(pcp.index(order, migratetype)) == order


@every_kernel
def test_a_page_in_stock_is_free_but_no_block(version):
    """free_unref_page_commit(): the last one freed is the first one used"""
    machine = quiet(version)
    pfn = machine.alloc_pages(0, Gfp.HIGHUSER_MOVABLE)
    machine.free_pages(pfn, 0)
    pcp = machine.zone_of(pfn).pcp[machine.cpu]
    assert next(iter(pcp.lists[pcp.index(0, Migratetype.MOVABLE)])) == pfn
    assert (machine.pages.type[pfn], machine.pages.refcount[pfn]) == (PageType.NONE, 0)
    assert machine.alloc_pages(0, Gfp.HIGHUSER_MOVABLE) == pfn


@every_kernel
def test_stock_above_the_limit_goes_back(version):
    """free_pcppages_bulk()"""
    machine = quiet(version)
    pfns = [machine.alloc_pages(0) for _ in range(2000)]
    assert pfns == sorted(pfns)
    for pfn in pfns:
        machine.free_pages(pfn, 0)
    for zone in machine.zones:
        for pcp in zone.pcp:
            assert pcp.count <= max(pcp.high, 1)
    check(machine, {})
    machine.drain_all_pages()
    assert all(not pcp.count for zone in machine.zones for pcp in zone.pcp)


def test_every_cpu_has_its_own():
    """per_cpu_pageset"""
    machine = quiet()
    with machine.running(machine.current, cpu=1):
        pfn = machine.alloc_pages(0)
        machine.free_pages(pfn, 0)
    zone = machine.zone_of(pfn)
    assert (zone.pcp[0].count, zone.pcp[1].count > 0) == (0, True)


# Migratetypes.


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


# Isolation.


@every_kernel
def test_isolated_pageblocks_are_nobodys(version):
    """start_isolate_page_range(), undo_isolate_page_range()"""
    machine = quiet(version)
    before, free = blocks_of(machine), machine.nr_free_pages()
    start = machine.reserved[1] + (-machine.reserved[1] % 1024) + 1024
    # Half of a block of the largest order: it is split, since 5.19.
    assert start_isolate_page_range(machine, start + 512, start + 1024)
    assert machine.pageblock_migratetype(start + 600) == Migratetype.ISOLATE
    isolated = 1 if version >= (5, 19) else 2
    assert machine.isolated.sum() == isolated
    assert machine.nr_free_pages() == free - 512 * isolated
    kept = Migratetype.MOVABLE if machine.era.isolate_is_a_bit else Migratetype.ISOLATE
    assert machine.migratetype[(start + 512) >> 9] == kept
    check(machine, {})
    assert not set_migratetype_isolate(machine, start + 512, Migratetype.MOVABLE)
    undo_isolate_page_range(machine, start + 512, start + 1024)
    assert (blocks_of(machine), machine.nr_free_pages()) == (before, free)
    assert not machine.isolated.any()


@every_kernel
def test_what_is_freed_in_an_isolated_pageblock_stays_there(version):
    """free_unref_page(): it is not put in stock"""
    machine = quiet(version)
    pfn = machine.alloc_pages(0, Gfp.HIGHUSER_MOVABLE)
    machine.drain_all_pages()
    machine.pages.set(pfn, PageFlag.LRU)
    assert start_isolate_page_range(machine, pfn, pfn + 1)
    machine.pages.clear(pfn, PageFlag.LRU)
    machine.free_pages(pfn, 0)
    head, order = machine.buddy.block_of(pfn)
    assert machine.buddy.list_of(machine.zone_of(pfn).free_area[order], head) == ISOLATE
    check(machine, {})
    undo_isolate_page_range(machine, pfn, pfn + 1)
    check(machine, {})


@pytest.mark.parametrize("version", [(6, 17), (7, 1)], ids=str)
def test_merging_across_isolated_pageblocks_keeps_what_they_were(version):
    """__free_one_page() (6.17): the bit is beside the migratetype, and a merge changes neither"""
    machine = quiet(version)
    pfn = machine.alloc_pages(0, Gfp.KERNEL)
    machine.free_pages(pfn, 0)
    start, types = pfn & -1024, machine.migratetype.copy()
    free = machine.nr_free_pages(pcp=True)
    assert start_isolate_page_range(machine, start, start + 1024)
    machine.drain_all_pages()
    assert machine.buddy.block_of(start) == (start, 10)
    assert (machine.migratetype == types).all()
    undo_isolate_page_range(machine, start, start + 1024)
    assert (machine.migratetype == types).all()
    assert machine.nr_free_pages(pcp=True) == free
    check(machine, {})


def test_pageblocks_with_unmovable_pages_cannot_be_isolated():
    """has_unmovable_pages()"""
    machine = quiet()
    pfn = machine.alloc_pages(0, Gfp.KERNEL)
    assert not start_isolate_page_range(machine, pfn, pfn + 1)
    assert not start_isolate_page_range(machine, machine.reserved[0], machine.reserved[0] + 1)
    assert not machine.isolated.any()


# Anything at all.

STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("alloc"),
            st.sampled_from([0, 0, 0, 1, 2, 3, 4, 9]),
            st.sampled_from([Gfp.KERNEL, Gfp.KERNEL | Gfp.RECLAIMABLE, Gfp.HIGHUSER_MOVABLE, Gfp.ATOMIC]),
        ),
        st.tuples(st.just("free"), st.integers(0, 1 << 16), st.just(Gfp(0))),
        st.tuples(st.just("isolate"), st.integers(0, 31), st.just(Gfp(0))),
        st.tuples(st.just("drain"), st.just(0), st.just(Gfp(0))),
    ),
    max_size=120,
)


def play(machine, steps, held):
    """Carry out steps; returns pageblocks that are isolated."""
    isolated = set()
    for what, number, gfp in steps:
        if what == "alloc":
            pfn = machine.alloc_pages(number, gfp)
            if pfn is not None:
                held[pfn] = number
        elif what == "free" and held:
            pfn = sorted(held)[number % len(held)]
            machine.free_pages(pfn, held.pop(pfn))
        elif what == "isolate":
            pfn = (number * 1024) % machine.pages.count
            if pfn in isolated:
                isolated.remove(pfn)
                undo_isolate_page_range(machine, pfn, pfn + 1024)
            elif start_isolate_page_range(machine, pfn, pfn + 1024):
                isolated.add(pfn)
        else:
            machine.drain_all_pages()
    return isolated


@every_kernel
@settings(max_examples=12, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_memory_adds_up(version, steps):
    """All of the above, in any order; when all is freed, every block is as after boot."""
    machine = quiet(version, memory=64 << 20, cma=(("linux,cma", 8 << 20),))
    before = machine.nr_free_pages()
    whole = [(pfn, order) for pfn, order, _ in blocks_of(machine)]
    held = {}
    isolated = play(machine, steps, held)
    check(machine, held)
    for pfn in isolated:
        undo_isolate_page_range(machine, pfn, pfn + 1024)
    for pfn, order in held.items():
        machine.free_pages(pfn, order)
    machine.drain_all_pages()
    check(machine, {})
    assert machine.nr_free_pages() == before
    assert [(pfn, order) for pfn, order, _ in blocks_of(machine)] == whole


@pytest.mark.parametrize("version", [(4, 19), (5, 4), (6, 12)], ids=str)
def test_guards_are_what_is_left_of_small_splits(version):
    """expand(), __free_one_page() with debug_guardpage_minorder"""
    machine = quiet(version, debug_pagealloc=True, guard_order=3)
    assert machine.debug_pagealloc.guards
    pfn = machine.alloc_pages(0)
    guards = free_truth(machine).guards
    assert {pfn + 1: 0, pfn + 2: 1, pfn + 4: 2}.items() <= dict(
        zip(guards.pfn.tolist(), guards.order.tolist(), strict=True)
    ).items()
    assert machine.buddy.block_of(pfn + 1) is None
