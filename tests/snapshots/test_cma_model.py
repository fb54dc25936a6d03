"""Contiguous allocation: what moves, what does not, and what is left of a failure."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from mmdump_snapshots.model.cma import cma_alloc, cma_release
from mmdump_snapshots.model.gfp import Gfp
from mmdump_snapshots.model.machine import Machine
from mmdump_snapshots.model.pagecache import PageCache
from mmdump_snapshots.model.pages import ExtFlag, PageFlag
from mmdump_snapshots.model.pipe import Driver, Pipe
from mmdump_snapshots.model.truth_pinned import pinned_pages

from .rmap_machines import VERSIONS, booted, free_pages, process

every_kernel = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"{version[0]}.{version[1]}")

#: Pages of the area: two pageblocks.
AREA = 1024


@contextmanager
def nothing_else_free(machine):
    """Whatever is not of CMA is taken meanwhile, by what cannot move."""
    taken = []
    for order in range(machine.era.max_order, -1, -1):
        while (pfn := machine.alloc_pages(order, Gfp.KERNEL | Gfp.NOMEMALLOC)) is not None:
            taken.append((pfn, order))
    yield
    for pfn, order in taken:
        machine.free_pages(pfn, order)
    machine.drain_all_pages()


def filled(version, order=0, **boot):
    """A machine whose CMA area is lent to one process: (machine, area, mm, vma, PFNs in the area)."""
    machine = booted(version, cma=(("reserved", AREA << 12),), **boot)
    (area,) = machine.cma
    mm = process(machine, "lodger")
    vma = mm.mmap(AREA)
    mm.fault(mm.mmap(1), 0)
    with nothing_else_free(machine):
        inside = [mm.fault(vma, slot, order=order) for slot in range(0, AREA, 1 << order)]
    machine.batches.drain_all()
    return machine, area, mm, vma, [pfn for pfn in inside if pfn and area.base_pfn <= pfn < area.end_pfn]


@every_kernel
def test_free_area_is_allocated(version):
    """cma_alloc() with nobody there: every page has a reference and, of page_owner, a record of order 0."""
    machine = booted(version, cma=(("reserved", AREA << 12),))
    (area,) = machine.cma
    free = free_pages(machine)
    pfn = cma_alloc(machine, area, 600)
    assert pfn == area.base_pfn
    assert set(machine.pages.refcount[pfn : pfn + 600]) == {1}
    assert int(area.bitmap.sum()) == 600
    assert free_pages(machine) <= free - 600
    assert not machine.isolated.any()
    if version >= (5, 4):
        assert (machine.page_ext.flags[pfn : pfn + 600] & ExtFlag.OWNER_ALLOCATED).all()
        assert not machine.page_owner.owners.order[pfn : pfn + 600].any()
    assert pinned_pages(machine) == []
    cma_release(machine, area, pfn, 600)
    assert not area.bitmap.any()
    assert not machine.pages.refcount[pfn : pfn + 600].any()


@every_kernel
@pytest.mark.parametrize("order", [0, 9])
def test_movable_pages_make_way(version, order):
    """__alloc_contig_migrate_range(): they are mapped where they were, at new places."""
    machine, area, mm, vma, inside = filled(version, order)
    assert inside
    contents = machine.rmap.mapcount(inside[0])
    index = int(machine.pages.index[inside[0]])
    assert cma_alloc(machine, area, AREA) == area.base_pfn
    moved = vma.mapped(index - vma.pgoff)
    assert not area.base_pfn <= moved < area.end_pfn
    assert machine.rmap.mapcount(machine.pages.head(moved)) == contents
    assert set(machine.pages.refcount[area.base_pfn : area.end_pfn]) == {1}
    assert machine.pages.has(moved, PageFlag.LRU)
    owners = machine.page_owner.owners
    assert owners.migrate_reason[moved] == 7
    if version >= (5, 11):
        assert owners.pid[moved] == mm.task.pid


@every_kernel
def test_pinned_page_keeps_the_area_busy(version):
    """test_pages_isolated() fails at it, and the page pinner marks it."""
    machine, area, _, _, inside = filled(version)
    held = inside[len(inside) // 2]
    driver = Driver(machine)
    driver.pin_user_pages([held])
    assert cma_alloc(machine, area, AREA) is None
    assert not area.bitmap.any()
    assert not machine.isolated.any()
    assert machine.page_pinner.marked() == [held]
    (event,) = [event for event in machine.page_pinner.events if event.name == "page_pinner_failure"]
    assert (event.pfn, event.count) == (held, int(machine.pages.refcount[held]))
    (page,) = pinned_pages(machine)
    assert (page.pfn, page.state, page.evidence[0]) == (held, "held", "page_pinner")
    # Once released there is room; the mark is gone with the page.
    driver.release()
    (page,) = pinned_pages(machine)
    assert (page.state, page.evidence) == ("released", ("page_pinner",))
    assert cma_alloc(machine, area, AREA) == area.base_pfn
    assert pinned_pages(machine) == []


@every_kernel
def test_pins_that_last_are_taken_elsewhere(version):
    """FOLL_LONGTERM: check_and_migrate_cma_pages() (5.2), check_and_migrate_movable_pages() (5.13)."""
    machine, area, _, vma, inside = filled(version)
    slot = int(np.flatnonzero(vma.ptes == inside[0])[0])
    (pfn,) = machine.gup.pin_longterm(vma, slot)
    assert (area.base_pfn <= pfn < area.end_pfn) == (version < (5, 2))
    assert vma.mapped(slot) == pfn
    assert (cma_alloc(machine, area, AREA) is None) == (version < (5, 2))


@every_kernel
def test_busy_place_is_passed_over(version):
    """cma_alloc(): -EBUSY, and it tries the next offset of the bitmap."""
    machine, area, _, vma, inside = filled(version)
    held = area.base_pfn + 100
    assert held in inside
    pipe = Pipe(machine)
    pipe.vmsplice(vma, int(np.flatnonzero(vma.ptes == held)[0]))
    pfn = cma_alloc(machine, area, 256, align=6)
    assert pfn is not None
    assert pfn > held
    assert (pfn - area.base_pfn) % 64 == 0
    assert machine.page_pinner.marked() == [held]


@every_kernel
def test_page_in_a_batch_is_drained_first(version):
    """lru_cache_disable(), before 5.12 lru_add_drain_all()."""
    machine = booted(version, cma=(("reserved", AREA << 12),))
    (area,) = machine.cma
    file = PageCache(machine, "file")
    with nothing_else_free(machine):
        heads = [file.read(index) for index in range(AREA)]
    waiting = machine.batches.lru_add[machine.cpu]
    assert any(area.base_pfn <= head < area.end_pfn for head in waiting)
    assert len(set(heads)) == AREA
    assert cma_alloc(machine, area, AREA) == area.base_pfn
    assert not set(file.folios.values()) & set(range(area.base_pfn, area.end_pfn))
    assert file.find(7) is not None


@every_kernel
def test_order_per_bit_rounds_up(version):
    """cma_bitmap_pages_to_bits()."""
    machine: Machine = booted(version, cma=(("reserved", AREA << 12),))
    (area,) = machine.cma
    first, second = cma_alloc(machine, area, 3), cma_alloc(machine, area, 3, align=4)
    assert second == first + 16
    cma_release(machine, area, first, 3)
    assert cma_alloc(machine, area, 3) == first
    with pytest.raises(ValueError, match="not of CMA area"):
        cma_release(machine, area, area.base_pfn - 1, 1)
