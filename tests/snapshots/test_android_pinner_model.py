"""The model of Android's page pinner against its source (mm/page_pinner.c of several branches)."""

from __future__ import annotations

import pytest

from mmdump_snapshots.model import Boot, Era, Gfp, Machine
from mmdump_snapshots.model.android_pinner import AndroidPinner, PpState
from mmdump_snapshots.model.era import Pinner
from mmdump_snapshots.model.pages import ExtFlag, PageFlag

ANDROID = [each for each in Pinner if each >= Pinner.A0]
WITH_GETS = [each for each in ANDROID if each < Pinner.B1]
WITH_FAILURES = [each for each in ANDROID if each >= Pinner.A1]
WITH_STATES = [each for each in ANDROID if each >= Pinner.B0]
FAILED = ExtFlag.PINNER_MIGRATION_FAILED
PUT, FREE, DETECTED = PpState


def android(generation: Pinner, **boot: object) -> tuple[Machine, AndroidPinner]:
    machine = Machine(Era((5, 10), 12, generation), memory=128 << 20, boot=Boot(**boot))
    assert isinstance(machine.page_pinner, AndroidPinner)
    return machine, machine.page_pinner


def page(machine: Machine, order: int = 0) -> int:
    pfn = machine.alloc_pages(order, Gfp.HIGHUSER_MOVABLE | (Gfp.COMP if order else Gfp(0)))
    assert pfn is not None
    return pfn


def states(pinner: AndroidPinner) -> list[PpState]:
    """Oldest first."""
    return [record.state for record in reversed(pinner.failures.newest_first)]


@pytest.mark.parametrize("generation", WITH_GETS)
def test_a_get_is_recorded_for_every_page_of_the_folio(generation):
    """__set_page_pinner()"""
    machine, pinner = android(generation)
    head = page(machine, order=2)
    machine.clock.advance(1.0)
    with machine.running(machine.current, "get_user_pages_fast", "vb2_dc_get_userptr"):
        machine.gup.get(head + 1)
    machine.gup.get(head)
    rows = slice(head, head + 4)
    assert pinner.records.count[rows].tolist() == [2] * 4
    assert len(set(pinner.records.handle[rows].tolist())) == 1
    assert pinner.records.ts_usec[rows].tolist() == [machine.clock.now // 1000] * 4
    assert all(machine.page_ext.has(pfn, ExtFlag.GET) for pfn in range(head, head + 4))


@pytest.mark.parametrize("generation", [each for each in ANDROID if each >= Pinner.B1])
def test_since_android_13_nobody_records_gets(generation):
    machine, pinner = android(generation)
    head = page(machine)
    machine.gup.get(head)
    assert not pinner.records.handle.any()
    assert not pinner.records.count.any()


@pytest.mark.parametrize("generation", WITH_GETS)
@pytest.mark.parametrize("seconds", [0.2, 0.5])
def test_a_page_that_was_got_for_longer_than_the_threshold_is_listed(generation, seconds):
    """check_longterm_pin()"""
    machine, pinner = android(generation)
    head = page(machine)
    with machine.running(machine.current, "get_user_pages_fast"):
        machine.gup.get(head)
    machine.clock.advance(seconds)
    machine.gup.put_user(head)
    found = pinner.longterm.newest_first
    assert [(each.pfn, each.elapsed, each.count) for each in found] == [(head, True, 2)] * (seconds > 0.3)
    for each in found:
        assert each.usec >= 500_000
        assert machine.stack_depot.fetch(each.handle) == ("get_user_pages_fast",)
    assert not machine.page_ext.has(head, ExtFlag.GET)
    # put_page() alone would have left the flag.
    machine.gup.get(head)
    machine.gup.put(head)
    assert machine.page_ext.has(head, ExtFlag.GET)


@pytest.mark.parametrize("generation", WITH_STATES)
def test_a_failure_a_put_and_the_free_leave_a_record_each(generation):
    """__page_pinner_failure_detect(), __page_pinner_put_page(), __free_page_pinner()"""
    machine, pinner = android(generation)
    head = page(machine)
    machine.get_page(head)
    machine.clock.advance(1.0)
    failed_at = machine.clock.now // 1000
    pinner.not_migrated([head])
    pinner.not_migrated([head])
    machine.clock.advance(2.0)
    machine.put_page(head)
    assert pinner.records.ts_usec[head] == failed_at
    machine.put_page(head)
    records = pinner.failures.newest_first[::-1]
    # The last put is one as well, before the page is freed.
    assert [each.state for each in records] == [DETECTED, PUT, PUT, FREE]
    assert [each.count for each in records] == [2, 1, 0, 0]
    assert [each.elapsed for each in records] == [False, True, True, False]
    assert records[0].usec == failed_at
    assert 2_000_000 <= records[1].usec < 2_000_100
    assert records[3].usec > failed_at
    assert records[3].flags == PageFlag(0)
    assert not machine.page_ext.has(head, FAILED)
    assert pinner.records.ts_usec[head] == 0


@pytest.mark.parametrize("generation", [Pinner.A1, Pinner.A2])
def test_before_android_13_records_of_all_sorts_look_the_same(generation):
    """__page_pinner_migration_failed()"""
    machine, pinner = android(generation)
    head = page(machine)
    machine.get_page(head)
    pinner.not_migrated([head])
    assert len(pinner.failures.slots) == (generation == Pinner.A2)
    machine.put_page(head)
    machine.put_page(head)
    found = [machine.stack_depot.fetch(each.handle)[0] for each in pinner.failures.newest_first[::-1]]
    if generation == Pinner.A2:
        assert found[0] == "__page_pinner_mark_migration_failed_pages"
        assert found[-1] == "__reset_page_pinner"
        assert not machine.page_ext.has(head, FAILED)
    else:
        # What was not got is not looked at when it is freed: the flag outlives the page.
        assert machine.page_ext.has(head, FAILED)


@pytest.mark.parametrize("generation", WITH_FAILURES)
def test_a_page_that_only_the_migration_holds_is_not_in_the_way(generation):
    machine, pinner = android(generation)
    head = page(machine)
    pinner.not_migrated([head])
    assert not machine.page_ext.has(head, FAILED)
    assert not pinner.failures.slots


@pytest.mark.parametrize("generation", WITH_FAILURES)
def test_nothing_is_recorded_while_failure_tracking_is_off(generation):
    machine, pinner = android(generation)
    pinner.failure_tracking = False
    head = page(machine)
    machine.get_page(head)
    pinner.not_migrated([head])
    pinner.not_isolated(head)
    machine.put_page(head)
    assert not pinner.failures.slots
    assert pinner.marked() == []


@pytest.mark.parametrize(
    ("generation", "marked", "left", "frees"),
    [
        (Pinner.B2, [0, 1, 3], [3], 2),
        (Pinner.B2, [0, 1, 2, 3], [], 4),
        (Pinner.B2, [1], [1], 0),
        # These go back to the first entry each time: the second stays, and is seen for every page.
        (Pinner.B1, [0, 1, 3], [1, 3], 4),
        (Pinner.B0, [0, 1, 3], [1, 3], 4),
        (Pinner.B1, [0, 2], [2], 1),
        # The head's flag is gone after the first.
        (Pinner.A2, [0, 1, 3], [3], 1),
        (Pinner.A2, [0, 1, 2, 3], [], 1),
    ],
)
def test_how_far_a_block_is_cleared_when_it_is_freed(generation, marked, left, frees):
    """__free_page_pinner(), __reset_page_pinner(): continue, without the next entry"""
    machine, pinner = android(generation)
    head = machine.alloc_pages(2, Gfp.KERNEL)
    for offset in marked:
        machine.page_ext.set(head + offset, FAILED)
    before = len(pinner.failures.slots)
    pinner.reset(head, 2)
    assert [pfn - head for pfn in pinner.marked()] == left
    records = pinner.failures.newest_first[: len(pinner.failures.slots) - before]
    # Every record is of the head.
    assert [each.pfn for each in records] == [head] * frees


def test_the_ring_of_b1_comes_late_in_boot_and_that_of_b2_with_page_ext():
    """init_page_pinner(), page_pinner_init(): kvmalloc_array()"""
    for generation in (Pinner.B1, Pinner.B2):
        machine, pinner = android(generation)
        pfn = pinner.failures.buffer >> 12
        assert pfn
        assert machine.pages.refcount[pfn] == 1
        assert 1 << int(machine.pages.order[pfn]) >= 4096 * 56 >> 12
    machine, pinner = android(Pinner.B2, page_pinner=False)
    assert pinner.failures.buffer == 0
    assert not pinner.inited


def test_a_ring_comes_around():
    """add_record()"""
    machine, pinner = android(Pinner.B2)
    pinner.failures.size = 8
    heads = [page(machine) for _ in range(11)]
    for head in heads:
        machine.get_page(head)
        pinner.not_migrated([head])
    assert pinner.failures.index == 3
    assert [each.pfn for each in pinner.failures.newest_first] == heads[:2:-1]


def test_android_numbers_cma_before_highatomic_and_caches_its_pages_apart():
    """MIGRATE_PCPTYPES is 4"""
    machine = Machine(Era((5, 10), 12, Pinner.A2), boot=Boot(cma=(("reserved", 16 << 20),)))
    pcp = machine.zones[-1].pcp[0]
    assert len(pcp.lists) == 4
    area = machine.cma[0]
    zone = machine.zone_of(area.base_pfn)
    pfn = machine.buddy.rmqueue_smallest(zone, 0, machine.buddy.migratetype(area.base_pfn))
    machine.page_alloc.prep_new_page(pfn, 0, Gfp.HIGHUSER_MOVABLE)
    machine.put_page(pfn)
    assert zone.pcp[machine.cpu].lists[3].first() == pfn
