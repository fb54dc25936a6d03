"""The model's buddy allocator against mm/page_alloc.c: blocks, per-CPU lists, and that memory adds up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdump_snapshots.model import Gfp, Migratetype
from mmdump_snapshots.model.page_alloc import BadPageError
from mmdump_snapshots.model.page_isolation import (
    start_isolate_page_range,
    undo_isolate_page_range,
)
from mmdump_snapshots.model.pages import PageFlag, PageType
from mmdump_snapshots.model.pcp import pcp_allowed_order
from mmdump_snapshots.model.truth_free import free_truth
from tests.snapshots.buddy_machines import (
    blocks_of,
    check,
    every_kernel,
    quiet,
)


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


# Guards.


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
