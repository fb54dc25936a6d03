"""Isolated pageblocks of the model against mm/page_isolation.c."""

from __future__ import annotations

import pytest

from mmdump_snapshots.model import Gfp, Migratetype
from mmdump_snapshots.model.page_isolation import (
    set_migratetype_isolate,
    start_isolate_page_range,
    undo_isolate_page_range,
)
from mmdump_snapshots.model.pages import PageFlag
from tests.snapshots.buddy_machines import (
    ISOLATE,
    blocks_of,
    check,
    every_kernel,
    quiet,
)


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
