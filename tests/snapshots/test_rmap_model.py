"""How mappings are counted, on every kernel."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdump_snapshots.kernels.functions import catalogue
from mmdump_snapshots.model.era import Mapcounts, Pinner
from mmdump_snapshots.model.folio import COMPOUND_MAPPED, FolioKind
from mmdump_snapshots.model.ksm import merge
from mmdump_snapshots.model.machine import Machine
from mmdump_snapshots.model.mm import Mm
from mmdump_snapshots.model.pagecache import PageCache
from mmdump_snapshots.model.pages import PageFlag
from mmdump_snapshots.model.references import expected_ref_count
from mmdump_snapshots.model.thp import deferred_split_scan, split_folio
from mmdump_snapshots.model.truth_mapcount import folio_mappings
from mmdump_snapshots.model.vma import Vma

from .rmap_machines import VERSIONS, booted, free_pages, new_task, process
from .rmap_steps import WHAT, Life

HUGE = 9
NR = 1 << HUGE

every_kernel = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"{version[0]}.{version[1]}")


def huge(machine: Machine) -> tuple[Mm, Vma, int]:
    """A process that has one THP, mapped by a PMD."""
    mm = process(machine)
    vma = mm.mmap(2 * NR)
    head = mm.fault(vma, 0, order=HUGE)
    assert head is not None
    assert vma.pmds == {0: head}
    machine.batches.drain_all()
    return mm, vma, head


def agrees(machine: Machine) -> None:
    """Every kernel's own counters give what the page tables have."""
    for head, truth in folio_mappings(machine).items():
        assert machine.rmap.mapcount(head) == truth.mapcount
        np.testing.assert_array_equal(machine.rmap.page_mapcounts(head), truth.page_mapcounts)
        assert machine.rmap.entire_mapcount(head) == truth.entire_mapcount
        assert machine.rmap.partially_mapped(head) == truth.partially_mapped


def accounted(machine: Machine) -> None:
    """``folio_expected_ref_count()``, batches, pins and plain references explain every reference."""
    for head, truth in folio_mappings(machine).items():
        known = expected_ref_count(machine, head) + machine.batches.references(head)
        known += machine.gup.gets.get(head, 0)
        bias = 1 if machine.gup.counted(head) else 1024
        known += bias * machine.gup.pins.get(head, 0)
        assert int(machine.pages.refcount[head]) == known, truth
        if truth.order:
            folio = machine.rmap.folios[head]
            assert not machine.pages.refcount[head + 1 : head + folio.nr_pages].any()


@every_kernel
def test_mapped_page_has_one_mapping_and_one_reference(version):
    """do_anonymous_page(): the allocation's reference becomes the mapping's; the LRU batch has one more."""
    machine = booted(version)
    mm = process(machine)
    vma = mm.mmap(4)
    pfn = mm.fault(vma, 2)
    assert machine.pages.mapcount[pfn] == 1
    assert machine.pages.refcount[pfn] == 2
    assert not machine.pages.has(pfn, PageFlag.LRU)
    machine.batches.drain_all()
    assert machine.pages.refcount[pfn] == 1
    assert machine.pages.has(pfn, PageFlag.LRU)
    assert machine.rmap.kind(pfn) is FolioKind.ANON


@every_kernel
def test_last_unmap_frees_the_page(version):
    """zap_pte_range()."""
    machine = booted(version)
    mm = process(machine)
    vma = mm.mmap(4)
    pfn = mm.fault(vma, 0)
    machine.batches.drain_all()
    mm.zap(vma)
    assert machine.pages.refcount[pfn] == 0
    assert machine.pages.mapping[pfn] == 0
    assert not machine.pages.has(pfn, PageFlag.LRU)


@every_kernel
def test_fork_shares_a_page_until_it_is_written(version):
    """copy_present_pte() and wp_page_copy()."""
    machine = booted(version)
    mm = process(machine)
    vma = mm.mmap(1)
    pfn = mm.fault(vma, 0)
    child = mm.fork(new_task(machine, "child"))
    assert machine.pages.mapcount[pfn] == 2
    copy = child.fault(child.vmas[0], 0, write=True)
    assert copy != pfn
    assert machine.pages.mapcount[pfn] == 1
    assert mm.fault(vma, 0, write=True) == pfn
    agrees(machine)
    child.exit()
    mm.exit()
    machine.batches.drain_all()
    assert machine.pages.refcount[pfn] == machine.pages.refcount[copy] == 0


@every_kernel
def test_thp_is_mapped_once_as_a_whole(version):
    """do_huge_pmd_anonymous_page(): one mapping, one reference, no page of it counts anything."""
    machine = booted(version)
    _, _, head = huge(machine)
    folio = machine.rmap.folios[head]
    assert machine.pages.refcount[head] == 1
    assert folio.entire_mapcount == 1
    assert not machine.pages.mapcount[folio.rows].any()
    assert machine.rmap.mapcount(head) == 1
    assert set(machine.rmap.page_mapcounts(head)) == {1}
    agrees(machine)


@every_kernel
def test_split_pmd_maps_every_page(version):
    """__split_huge_pmd_locked(): as many references as PTEs."""
    machine = booted(version)
    mm, vma, head = huge(machine)
    mm.split_pmd(vma, 0)
    folio = machine.rmap.folios[head]
    assert machine.pages.refcount[head] == NR
    assert set(machine.pages.mapcount[folio.rows]) == {1}
    assert folio.entire_mapcount == 0
    assert not folio.double_map
    assert machine.rmap.mapcount(head) == NR
    agrees(machine)


@pytest.mark.parametrize("version", [(4, 19), (5, 15), (6, 1)])
def test_first_split_of_a_shared_pmd_double_maps_the_thp(version):
    """PageDoubleMap (4.5 to 6.1): each page is held at one more while others map the whole."""
    machine = booted(version)
    mm, vma, head = huge(machine)
    child = mm.fork(new_task(machine, "child"))
    mm.split_pmd(vma, 0)
    folio = machine.rmap.folios[head]
    assert folio.double_map
    assert set(machine.pages.mapcount[folio.rows]) == {2}
    assert folio.entire_mapcount == 1
    assert machine.rmap.mapcount(head) == NR + 1
    assert set(machine.rmap.page_mapcounts(head)) == {2}
    # It goes away with the last mapping of the whole.
    child.exit()
    assert not folio.double_map
    assert set(machine.pages.mapcount[folio.rows]) == {1}
    agrees(machine)


@pytest.mark.parametrize("version", [(6, 2), (6, 6), (6, 12), (7, 1)])
def test_pages_mapped_are_counted_beside_the_whole(version):
    """_nr_pages_mapped, before 6.3 subpages_mapcount."""
    machine = booted(version)
    mm, vma, head = huge(machine)
    folio = machine.rmap.folios[head]
    assert folio.nr_pages_mapped == COMPOUND_MAPPED
    child = mm.fork(new_task(machine, "child"))
    mm.split_pmd(vma, 0)
    assert folio.nr_pages_mapped == COMPOUND_MAPPED + NR
    mm.zap(vma, 0, 100)
    assert folio.nr_pages_mapped == COMPOUND_MAPPED + NR - 100
    assert head not in machine.rmap.deferred_split or not folio.partially_mapped
    child.exit()
    assert folio.nr_pages_mapped == NR - 100
    assert head in machine.rmap.deferred_split
    agrees(machine)


@pytest.mark.parametrize("version", [(6, 18), (7, 1)])
def test_large_folio_knows_two_mms(version):
    """folio_add_return_large_mapcount() and folio_sub_return_large_mapcount() (6.15)."""
    machine = booted(version)
    mm, vma, head = huge(machine)
    folio = machine.rmap.folios[head]
    assert (folio.mm_id, folio.mm_id_mapcount) == ([mm.mm_id, 0], [1, 0])
    assert not folio.maybe_mapped_shared
    child = mm.fork(new_task(machine, "child"))
    third = mm.fork(new_task(machine, "third"))
    assert (folio.mm_id, folio.mm_id_mapcount) == ([mm.mm_id, child.mm_id], [1, 1])
    assert folio.large_mapcount == 3
    assert folio.maybe_mapped_shared
    # The third is in no slot: as long as it maps the folio, no slot owns all mappings.
    mm.zap(vma)
    assert (folio.mm_id, folio.mm_id_mapcount) == ([0, child.mm_id], [0, 1])
    assert folio.maybe_mapped_shared
    third.exit()
    assert not folio.maybe_mapped_shared


@every_kernel
def test_partly_unmapped_thp_waits_for_its_split(version):
    """deferred_split_folio(), and deferred_split_scan() of reclaim."""
    machine = booted(version)
    mm, vma, head = huge(machine)
    free = free_pages(machine)
    mm.zap(vma, 100, 200)
    assert machine.rmap.partially_mapped(head)
    assert head in machine.rmap.deferred_split
    # Not a page of it is free yet.
    assert free_pages(machine) == free
    machine.batches.drain_all()
    assert deferred_split_scan(machine) == 1
    assert head not in machine.rmap.folios
    assert machine.pages.refcount[head + 99 : head + 101].tolist() == [1, 0]
    assert vma.mapped(300) == head + 300
    assert machine.pages.mapcount[head + 300] == 1
    assert free_pages(machine) >= free + 100
    agrees(machine)
    accounted(machine)


@every_kernel
def test_split_folio_makes_small_pages_of_it(version):
    """__split_huge_page(): flags, mapping and index go to the tails; page_owner records become parts."""
    machine = booted(version)
    _, vma, head = huge(machine)
    assert split_folio(machine, head)
    pages = machine.pages
    rows = slice(head, head + NR)
    assert not pages.tail[rows].any()
    assert set(pages.refcount[rows]) == {1}
    assert set(pages.mapcount[rows]) == {1}
    assert len(set(pages.mapping[rows])) == 1
    np.testing.assert_array_equal(np.diff(pages.index[rows].astype(np.int64)), 1)
    assert not (pages.flags[rows] & np.uint32(PageFlag.HEAD)).any()
    assert (pages.flags[rows] & np.uint32(PageFlag.LRU)).all()
    assert vma.pmds == {}
    agrees(machine)


@every_kernel
def test_held_folio_is_not_split(version):
    """can_split_folio(): mappings and caches must explain all references but the caller's."""
    machine = booted(version)
    _, _, head = huge(machine)
    machine.gup.get(head + 7)
    assert not split_folio(machine, head)
    assert machine.pages.refcount[head] == 2
    machine.gup.put(head + 7)
    assert split_folio(machine, head)


@pytest.mark.parametrize("version", [(6, 12), (7, 1)])
def test_mthp_is_mapped_page_by_page(version):
    """alloc_anon_folio() (6.8): a large folio smaller than a PMD."""
    machine = booted(version)
    mm = process(machine)
    vma = mm.mmap(64)
    pfn = mm.fault(vma, 21, order=4)
    head = machine.pages.head(pfn)
    assert pfn - head == 5
    folio = machine.rmap.folios[head]
    assert (folio.order, folio.entire_mapcount, folio.nr_pages_mapped) == (4, 0, 16)
    assert folio.large_mapcount == 16
    machine.batches.drain_all()
    assert machine.pages.refcount[head] == 16
    mm.zap(vma, 16, 17)
    assert folio.partially_mapped
    agrees(machine)
    accounted(machine)


@every_kernel
def test_small_anonymous_large_folios_exist_since_6_8(version):
    machine = booted(version)
    mm = process(machine)
    vma = mm.mmap(64)
    if version >= (6, 8):
        assert mm.fault(vma, 0, order=2) is not None
    else:
        with pytest.raises(ValueError, match=r"6\.8"):
            mm.fault(vma, 0, order=2)


@every_kernel
def test_page_cache_holds_a_reference_for_each_page(version):
    """filemap_add_folio(), shmem_add_to_page_cache(): of a large folio as many as it has pages."""
    machine = booted(version)
    file = PageCache(machine, "libc.so.6")
    shm = PageCache(machine, "shm", shmem=True)
    small, large = file.read(3), shm.read(0, HUGE)
    machine.batches.drain_all()
    assert machine.pages.refcount[small] == 1
    assert machine.pages.refcount[large] == NR
    assert machine.rmap.kind(small) is FolioKind.FILE
    assert machine.rmap.kind(large) is FolioKind.SHMEM
    file.attach_private(small, 0x1234)
    assert machine.pages.refcount[small] == 2
    accounted(machine)
    file.truncate()
    shm.truncate()
    assert machine.pages.refcount[small] == machine.pages.refcount[large] == 0


@every_kernel
def test_pmd_of_a_file_counts_in_every_page_up_to_6_1(version):
    """page_add_file_rmap(compound): unlike an anonymous THP."""
    machine = booted(version)
    shm = PageCache(machine, "shm", shmem=True)
    mm, other = process(machine), process(machine)
    vma = mm.mmap(NR, file=shm)
    head = mm.fault(vma, 0, order=HUGE)
    assert vma.pmds == {0: head}
    here = other.mmap(NR, file=shm)
    # A part of the file that is not aligned to a PMD is mapped page by page.
    there = other.mmap(100, file=shm, pgoff=50)
    other.fault(here, 7)
    other.fault(there, 10)
    double = machine.era.mapcounts is Mapcounts.DOUBLE_MAP
    folio = machine.rmap.folios[head]
    assert folio.entire_mapcount == 2
    assert machine.pages.mapcount[head + 7] == 2 * double
    assert machine.pages.mapcount[head + 60] == 2 * double + 1
    assert machine.rmap.mapcount(head) == 3
    assert machine.rmap.page_mapcounts(head)[60] == 3
    agrees(machine)
    accounted(machine)
    mm.split_pmd(vma, 0)
    # Of a file it is only taken away.
    assert not vma.ptes.any()
    assert folio.entire_mapcount == 1
    agrees(machine)
    accounted(machine)


@every_kernel
def test_written_private_file_page_is_a_copy(version):
    """do_cow_fault()."""
    machine = booted(version)
    file = PageCache(machine, "app")
    mm = process(machine)
    vma = mm.mmap(8, file=file, shared=False)
    shared = mm.fault(vma, 1, write=False)
    assert shared == file.find(1)
    copy = mm.fault(vma, 1, write=True)
    assert copy != shared
    assert machine.rmap.kind(copy) is FolioKind.ANON
    assert machine.pages.mapcount[shared] == 0
    agrees(machine)
    accounted(machine)


@every_kernel
def test_mlocked_page_is_unevictable(version):
    """mlock_folio(): after the batch is drained."""
    machine = booted(version)
    mm = process(machine)
    vma, locked = mm.mmap(4), mm.mmap(4, locked=True)
    pfn, new = mm.fault(vma, 0), mm.fault(locked, 0)
    machine.batches.drain_all()
    mm.mlock(vma)
    assert machine.pages.has(pfn, PageFlag.MLOCKED)
    accounted(machine)
    machine.batches.drain_all()
    for page in (pfn, new):
        assert machine.pages.has(page, PageFlag.UNEVICTABLE | PageFlag.LRU)
        assert page in machine.node_of(page).lru["unevictable"]
        assert machine.pages.refcount[page] == 1


@every_kernel
def test_swap_cache_holds_a_reference(version):
    """add_to_swap(): dropped with the last mapping."""
    machine = booted(version)
    mm = process(machine)
    vma = mm.mmap(4)
    pfn = mm.fault(vma, 0)
    machine.batches.drain_all()
    machine.swap_cache.add(pfn)
    assert machine.pages.refcount[pfn] == 2
    accounted(machine)
    mm.zap(vma)
    assert machine.pages.refcount[pfn] == 0


@every_kernel
def test_merged_page_is_copied_when_it_is_written(version):
    """try_to_merge_two_pages(): a KSM page, mapped at both places."""
    machine = booted(version)
    mm, other = process(machine), process(machine)
    here, there = mm.mmap(4), other.mmap(4)
    pfn, freed = mm.fault(here, 0), other.fault(there, 3)
    machine.batches.drain_all()
    assert merge(machine, here, 0, there, 3) == pfn
    assert machine.rmap.kind(pfn) is FolioKind.KSM
    assert (machine.pages.mapcount[pfn], machine.pages.refcount[freed]) == (2, 0)
    agrees(machine)
    accounted(machine)
    assert other.fault(there, 3) != pfn
    assert machine.pages.mapcount[pfn] == 1
    assert [place.vma for place in machine.rmap.walk(pfn)] == [here]


STEPS = st.lists(
    st.tuples(st.sampled_from(WHAT), st.integers(0, 1 << 16), st.integers(0, 1 << 16)), max_size=40
)


@every_kernel
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_references_and_mappings_add_up_whatever_happens(version, steps):
    """All references are explained, and the era's formulas give the mappings of the page tables."""
    life = Life(booted(version, cma=(("reserved", 8 << 20),)))
    for step in steps:
        life.do(*step)
        agrees(life.machine)
        accounted(life.machine)
    life.end()
    assert folio_mappings(life.machine) == {}
    assert not life.machine.pages.mapping.any()
    assert not any(map(len, life.machine.nodes[0].lru.values()))


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != (6, 2)])
def test_call_chains_have_functions_that_the_kernel_has(version, monkeypatch):
    """Pages are found by them, in the page_owner records and the page pinner's events."""
    called = set()
    calls = Machine.calls
    life = Life(booted(version, cma=(("reserved", 8 << 20),)))
    monkeypatch.setattr(Machine, "calls", lambda self, *names: called.update(names) or calls(self, *names))
    dice = random.Random(1)
    for _ in range(200):
        life.do(dice.choice(WHAT), dice.randrange(1 << 16), dice.randrange(1 << 16))
    life.end()
    known = {function.name for function in catalogue() if function.exists(version, "x86_64", Pinner.RFC)}
    assert len(called) > 30
    assert called <= known
