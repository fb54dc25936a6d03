"""Pins and plain references, and what can be told of them afterwards."""

from __future__ import annotations

import pytest

from mmdump_snapshots.model.era import Pincounts
from mmdump_snapshots.model.pagecache import PageCache
from mmdump_snapshots.model.pipe import Driver, Pipe
from mmdump_snapshots.model.truth_pinned import pinned_pages

from .rmap_machines import VERSIONS, booted, new_task, process

every_kernel = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"{version[0]}.{version[1]}")


def settled(version, order=0):
    """A process with one folio, on the LRU."""
    machine = booted(version)
    mm = process(machine)
    vma = mm.mmap(1024)
    pfn = mm.fault(vma, 0, order=order)
    machine.batches.drain_all()
    return machine, mm, vma, pfn


@every_kernel
def test_pin_of_a_small_page_is_1024_references(version):
    """try_grab_folio(FOLL_PIN): GUP_PIN_COUNTING_BIAS; up to 5.6 one reference like any other."""
    machine, _, _, pfn = settled(version)
    machine.gup.pin(pfn)
    pins = machine.era.pincounts is not Pincounts.NONE
    assert machine.pages.refcount[pfn] == 1 + (1024 if pins else 1)
    assert machine.gup.maybe_dma_pinned(pfn) == pins
    machine.gup.unpin(pfn)
    assert machine.pages.refcount[pfn] == 1


@every_kernel
def test_pin_of_a_thp_is_counted(version):
    """hpage_pinned_refcount (5.7), compound_pincount (5.18), _pincount (6.1): and one reference."""
    machine, _, _, head = settled(version, order=9)
    machine.gup.pin(head + 5, 3)
    assert machine.pages.refcount[head] == 4
    assert machine.rmap.folios[head].pincount == (0 if machine.era.pincounts is Pincounts.NONE else 3)
    machine.gup.unpin(head + 5, 3)
    assert machine.pages.refcount[head] == 1
    assert machine.rmap.folios[head].pincount == 0


@pytest.mark.parametrize(("version", "counted"), [((5, 10), False), ((5, 17), False), ((5, 18), True)])
def test_folios_of_two_pages_have_no_room_for_a_pin_count_up_to_5_17(version, counted):
    """hpage_pincount_available(): it is in the third page."""
    machine = booted(version)
    file = PageCache(machine, "file")
    head = file.read(0, 1)
    machine.batches.drain_all()
    machine.gup.pin(head)
    assert machine.gup.counted(head) == counted
    assert machine.pages.refcount[head] == 2 + (1 if counted else 1024)


@every_kernel
def test_more_cannot_be_dropped_than_was_taken(version):
    machine, _, _, pfn = settled(version)
    machine.gup.get(pfn)
    with pytest.raises(ValueError, match="has only 1 of 2"):
        machine.gup.put(pfn, 2)


@every_kernel
def test_vmspliced_page_outlives_its_mapping(version):
    """vmsplice() and tee(): each buffer of a pipe holds a reference."""
    machine, mm, vma, pfn = settled(version)
    pipe, other = Pipe(machine), Pipe(machine)
    assert pipe.vmsplice(vma, 0) == 1
    assert pipe.tee(other) == 1
    assert machine.pages.refcount[pfn] == 3
    mm.exit()
    assert machine.pages.refcount[pfn] == 2
    other.read()
    pipe.release()
    assert machine.pages.refcount[pfn] == 0


@every_kernel
def test_child_of_a_pinned_page_gets_a_copy(version):
    """copy_present_page() (5.9): DMA goes on into the parent's page."""
    machine, mm, _, pfn = settled(version)
    Driver(machine).pin_user_pages([pfn])
    child = mm.fork(new_task(machine, "child"))
    copied = version >= (5, 9)
    assert (child.vmas[0].mapped(0) != pfn) == copied
    assert machine.pages.mapcount[pfn] == (1 if copied else 2)


@every_kernel
def test_what_is_held_is_found_with_its_evidence(version):
    """The truth of ``mmdump pinned``: pins where the kernel has them, and references too many."""
    machine, mm, vma, head = settled(version, order=9)
    small, plain, free = (mm.fault(vma, slot) for slot in (512, 513, 514))
    machine.batches.drain_all()
    driver, pipe = Driver(machine), Pipe(machine)
    driver.pin_user_pages([head + 1, head + 2, small])
    pipe.vmsplice(vma, 513)
    found = {page.pfn: page for page in pinned_pages(machine)}
    assert set(found) == {head, small, plain}
    has_pins = machine.era.pincounts is not Pincounts.NONE
    sign = ("foll_pin",) if has_pins else ("excess",)
    assert (found[head].evidence, found[head].order) == (sign, 9)
    assert (found[head].pincount, found[head].excess) == ((2, 0) if has_pins else (0, 2))
    assert (found[small].pincount, found[small].excess) == ((1, 0) if has_pins else (0, 1))
    assert (found[plain].evidence, found[plain].pincount, found[plain].excess) == (("excess",), 0, 1)
    assert found[head].owner_pid == (None if version < (5, 11) else mm.task.pid)
    assert found[plain].state == "held"
    driver.release()
    pipe.release()
    assert pinned_pages(machine) == []
    assert machine.pages.refcount[free] == 1


@every_kernel
def test_pages_that_wait_for_the_lru_are_not_held(version):
    """cpu_fbatches: the batch's reference has a known reason."""
    machine = booted(version)
    mm = process(machine)
    vma = mm.mmap(8)
    mm.populate(vma, 0, 8)
    mm.mlock(vma)
    assert pinned_pages(machine) == []
