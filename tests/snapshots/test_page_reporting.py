"""Free page reporting of the model against mm/page_reporting.c: states, passes, and what is marked."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdump_snapshots.model import Boot, Era, Gfp, Machine, Migratetype
from mmdump_snapshots.model.page_isolation import start_isolate_page_range
from mmdump_snapshots.model.page_reporting import (
    PAGE_REPORTING_CAPACITY,
    PageReportingDevice,
    ReportingState,
)
from mmdump_snapshots.model.pages import PageFlag, PageType
from mmdump_snapshots.model.truth_free import free_truth

IDLE, REQUESTED, ACTIVE = ReportingState
VERSIONS = [(5, 10), (5, 15), (6, 1), (6, 12), (7, 1)]
every_kernel = pytest.mark.parametrize("version", VERSIONS, ids=str)
MOVABLE = Gfp.HIGHUSER_MOVABLE


def quiet(version=(6, 12), memory=256 << 20, **boot):
    boot = {"page_owner": False, "page_pinner": False, "early_pages": 0, **boot}
    return Machine(Era(version), memory=memory, reserved=28 << 20, boot=Boot(**boot))


def registered(version=(6, 12), memory=256 << 20, report=None, **device):
    """A machine with a device, before its first pass."""
    machine = quiet(version, memory)
    assert machine.page_reporting.register(report, **device) == 0
    return machine, machine.page_reporting.pr_dev_info


def reported(machine):
    blocks = free_truth(machine).reported
    return dict(zip(blocks.pfn.tolist(), blocks.order.tolist(), strict=True))


def unreported(machine):
    """Blocks that are large enough, and not reported."""
    least, done = machine.page_reporting.min_order, reported(machine)
    return [
        (pfn, order)
        for (_, _, order, name), pfns in free_truth(machine).free.items()
        for pfn in pfns.tolist()
        if order >= least and name != "ISOLATE" and pfn not in done
    ]


# States.


@pytest.mark.parametrize(
    ("before", "after", "queued"),
    [(IDLE, REQUESTED, 1), (REQUESTED, REQUESTED, 0), (ACTIVE, REQUESTED, 0)],
    ids=lambda state: getattr(state, "name", state),
)
def test_a_request(before, after, queued):
    """__page_reporting_request(): the work is queued only from idle; who is active looks at the end"""
    machine, device = registered()
    machine.clock.cancel(device.work)
    device.state = before
    machine.page_reporting.notify_free(9)
    assert (device.state, machine.clock.pending) == (after, queued)


@pytest.mark.parametrize(
    ("during", "after", "queued"),
    [(None, IDLE, 0), (9, REQUESTED, 1), (8, IDLE, 0)],
    ids=["nothing", "a large block", "a small block"],
)
def test_the_end_of_a_pass(during, after, queued):
    """page_reporting_process(), atomic_cmpxchg(): active becomes idle, unless somebody freed meanwhile"""
    seen = []

    def report(blocks):
        seen.append(device.state)
        if during is not None:
            machine.page_reporting.notify_free(during)
        return 0

    machine, device = registered(report=report)
    assert device.state == REQUESTED
    machine.clock.advance(2)
    assert seen[0] == ACTIVE
    assert (device.state, machine.clock.pending) == (after, queued)


def test_the_worker_waits_two_seconds():
    """PAGE_REPORTING_DELAY"""
    machine, device = registered()
    machine.clock.advance(1.999)
    assert (device.state, machine.page_reporting.reports) == (REQUESTED, [])
    machine.clock.advance(0.001)
    assert device.state == IDLE
    assert machine.page_reporting.reports


# What is reported.


@every_kernel
def test_all_large_blocks_are_reported_in_the_end(version):
    """page_reporting_process_zone(), page_reporting_drain()"""
    machine, device = registered(version)
    before = machine.nr_free_pages()
    machine.clock.advance(10)
    assert device.state == IDLE
    # The DMA zone is too small for it: a report's worth of blocks must be left above the watermark.
    assert {machine.zone_of(pfn).name for pfn, _ in unreported(machine)} <= {"DMA"}
    assert {machine.zone_of(pfn).name for pfn in reported(machine)} == {"DMA32"}
    assert machine.nr_free_pages() == before
    told = [block for blocks in machine.page_reporting.reports for block in blocks]
    assert dict(told) == reported(machine)
    assert len(told) == len(dict(told))
    assert all(len(blocks) <= PAGE_REPORTING_CAPACITY for blocks in machine.page_reporting.reports)


def test_what_is_left_over_is_reported_too():
    """page_reporting_process_zone(): the last report has what is there"""
    machine, _ = registered(memory=512 << 20)
    machine.clock.advance(10)
    lengths = [len(blocks) for blocks in machine.page_reporting.reports]
    assert lengths[0] == PAGE_REPORTING_CAPACITY
    assert 0 < lengths[-1] <= PAGE_REPORTING_CAPACITY
    assert sum(lengths) == len(reported(machine))


def test_what_is_reported_is_not_reported_again():
    """page_reporting_cycle(): PageReported blocks are passed over"""
    machine, device = registered()
    machine.clock.advance(10)
    count = len(machine.page_reporting.reports)
    machine.page_reporting.notify_free(10)
    machine.clock.advance(10)
    assert device.state == IDLE
    assert len(machine.page_reporting.reports) == count


@pytest.mark.parametrize("order", [10, 4])
def test_who_is_allocated_is_not_reported_any_more(order):
    """del_page_from_free_list()"""
    machine, _ = registered()
    machine.clock.advance(10)
    pfn = machine.alloc_pages(order, MOVABLE)
    assert not machine.pages.has(pfn, PageFlag.REPORTED)
    assert pfn not in reported(machine)
    # The halves of a reported block are not: nobody kept track.
    assert not any(pfn <= at < pfn + 1024 for at in reported(machine))
    machine.free_pages(pfn, order)
    assert pfn not in reported(machine)
    machine.clock.advance(10)
    assert pfn in reported(machine)


def test_small_blocks_are_nobodys_business():
    """page_reporting_notify_free(), PAGE_REPORTING_MIN_ORDER"""
    machine, device = registered()
    machine.clock.advance(10)
    pair = [machine.alloc_pages(4, MOVABLE) for _ in range(3)]
    machine.free_pages(pair[0], 4)
    assert device.state == IDLE
    machine.free_pages(pair[1], 4)
    machine.free_pages(pair[2], 4)
    # Now it has merged to the largest order.
    assert device.state == REQUESTED


def test_a_block_that_merged_meanwhile_is_not_marked():
    """page_reporting_drain(): it is reported again, as the larger block that it is"""
    machine, device = registered()
    machine.clock.advance(10)
    first = machine.alloc_pages(10, MOVABLE)
    machine.split_page(first, 10)
    machine.pages.refcount[first + 1 : first + 512] = 0
    machine.pages.refcount[first + 513 : first + 1024] = 0
    machine.drain_all_pages()
    machine.buddy.free_range(machine.zone_of(first), first, 9)
    machine.pages.refcount[first] = 0
    told = []

    def report(blocks):
        told.append(blocks)
        if blocks == [(first, 9)]:
            machine.pages.refcount[first + 512] = 0
            machine.buddy.free_range(machine.zone_of(first), first + 512, 9)
        return 0

    device.report = report
    machine.clock.advance(2)
    assert told == [[(first, 9)]]
    # Both halves were apart when it came back, and merged then.
    assert machine.buddy.block_of(first) == (first, 10)
    assert first not in reported(machine)
    assert device.state == REQUESTED
    machine.clock.advance(2)
    assert told[-1] == [(first, 10)]
    assert reported(machine)[first] == 10


def test_isolated_blocks_are_left_alone():
    """page_reporting_process_zone(): not MIGRATE_ISOLATE"""
    machine, _ = registered()
    pfn = machine.alloc_pages(10, MOVABLE)
    machine.free_pages(pfn, 10)
    assert start_isolate_page_range(machine, pfn, pfn + 1024)
    machine.clock.advance(10)
    assert not any(pfn <= at < pfn + 1024 for at in reported(machine))


@pytest.mark.parametrize(("spare", "told"), [(0, False), (1, True)], ids=["at the mark", "above it"])
def test_with_little_memory_nothing_is_reported(spare, told):
    """page_reporting_process_zone(): low_wmark_pages() + (PAGE_REPORTING_CAPACITY << order)"""
    machine, _ = registered()
    zone = machine.zones[-1]
    zone.watermark = zone.watermark[0], zone.free_pages - (32 << 9) - spare, zone.watermark[2]
    machine.clock.advance(2)
    assert bool(machine.page_reporting.reports) is told


@every_kernel
def test_a_report_that_fails(version):
    """page_reporting_cycle(), page_reporting_drain(): the blocks go back unmarked, and the pass ends"""
    calls = []

    def report(blocks):
        calls.append(len(blocks))
        return -errno.ENOSPC

    machine, device = registered(version, 512 << 20, report)
    before = machine.nr_free_pages()
    machine.clock.advance(60)
    assert calls == [PAGE_REPORTING_CAPACITY]
    assert device.state == IDLE
    assert reported(machine) == {}
    assert machine.nr_free_pages() == before


def test_while_a_report_runs_its_blocks_are_nobodys():
    """__isolate_free_page()"""

    def report(blocks):
        for pfn, _ in blocks:
            assert machine.pages.type[pfn] == PageType.NONE
            assert machine.buddy.block_of(pfn) is None
        assert machine.nr_free_pages() == before - sum(1 << order for _, order in blocks)
        assert machine.current.comm.startswith("kworker")
        assert "page_reporting_process" in machine.stack()
        return 0

    machine, device = registered(report=report)
    before = machine.nr_free_pages()
    machine.clock.advance(2)
    assert device.state == IDLE


# The budget.


def test_the_budget_of_a_pass_and_where_the_next_one_begins():
    """page_reporting_cycle(): DIV_ROUND_UP(nr_free, 32 * 16) reports, then list_rotate_to_front()"""
    machine, device = registered(memory=2 << 30)
    zone = machine.zones[-1]
    movable = zone.free_area[10].free_list[Migratetype.MOVABLE]
    assert len(movable) < 512
    machine.clock.advance(2)
    # A budget of 1: two reports until it is below zero, and a third block list that waits for the end.
    assert [len(blocks) for blocks in machine.page_reporting.reports] == [32, 32]
    assert (device.state, machine.clock.pending) == (REQUESTED, 1)
    assert not machine.pages.has(movable.first(), PageFlag.REPORTED)
    machine.clock.advance(60)
    assert device.state == IDLE
    assert {machine.zone_of(pfn).name for pfn, _ in unreported(machine)} <= {"DMA"}


# Devices.


def test_there_is_one_device():
    """page_reporting_register(): -EBUSY"""
    machine, device = registered()
    assert machine.page_reporting.register() == -errno.EBUSY
    assert machine.page_reporting.pr_dev_info is device
    machine.page_reporting.unregister(PageReportingDevice(len))
    assert machine.page_reporting.pr_dev_info is device


def test_without_a_device_nobody_is_told():
    """page_reporting_unregister(): the work is cancelled; the static key stays on"""
    machine, device = registered()
    machine.page_reporting.unregister(device)
    machine.clock.advance(10)
    machine.free_pages(machine.alloc_pages(10, MOVABLE), 10)
    machine.clock.advance(10)
    assert (machine.page_reporting.pr_dev_info, machine.page_reporting.reports) == (None, [])
    assert machine.page_reporting.enabled
    assert machine.page_reporting.register() == 0


def test_a_device_that_leaves_forgets_no_mark():
    """page_reported(): cleared by del_page_from_free_list() as ever"""
    machine, device = registered()
    machine.clock.advance(10)
    machine.page_reporting.unregister(device)
    pfn = machine.alloc_pages(10, MOVABLE)
    assert not machine.pages.has(pfn, PageFlag.REPORTED)


@pytest.mark.parametrize(
    ("version", "asked", "order"),
    [
        ((5, 10), 5, 9),
        ((5, 15), 5, 5),
        ((5, 15), None, 9),
        ((6, 12), 5, 5),
        ((6, 12), 0, 9),
        ((6, 12), 11, 9),
        ((7, 1), 0, 0),
        ((7, 1), None, 9),
    ],
    ids=str,
)
def test_the_smallest_order(version, asked, order):
    """page_reporting_order: a variable since 5.14; 0 is an order since 7.1"""
    machine, _ = registered(version, order=asked)
    assert machine.page_reporting.min_order == order
    assert (machine.page_reporting.order is None) == (version < (5, 14))


@pytest.mark.parametrize(("version", "order"), [((5, 15), 7), ((6, 12), 5)], ids=str)
def test_a_second_device_with_another_order(version, order):
    """page_reporting_register(): since 6.2 the order stays what it was"""
    machine, device = registered(version, order=5)
    machine.page_reporting.unregister(device)
    machine.page_reporting.register(order=7)
    assert machine.page_reporting.min_order == order


def test_a_device_with_short_reports():
    """page_reporting_dev_info.capacity (7.2)"""
    machine, _ = registered((7, 2), capacity=8)
    machine.clock.advance(60)
    assert max(len(blocks) for blocks in machine.page_reporting.reports) == 8


def test_kernels_without():
    """CONFIG_PAGE_REPORTING came in 5.7"""
    with pytest.raises(ValueError, match=r"5\.7"):
        quiet((5, 4)).page_reporting.register()
    assert quiet((6, 12), page_reporting=True).page_reporting.enabled


# Anything at all.


@every_kernel
@settings(max_examples=15, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["alloc", "free", "wait"]), st.integers(0, 10)), min_size=5, max_size=60
    )
)
def test_marks_are_on_free_blocks_only(version, steps):
    """PG_reported is an alias: on a page in use it would say something else"""
    machine, device = registered(version, order=5)
    held = []
    for what, number in steps:
        if what == "alloc" and (pfn := machine.alloc_pages(number, MOVABLE)) is not None:
            held.append((pfn, number))
        elif what == "free" and held:
            machine.free_pages(*held.pop(number % len(held)))
        elif what == "wait":
            machine.clock.advance(number / 2)
    marks = machine.pages.flags & int(PageFlag.REPORTED) != 0
    assert set(marks.nonzero()[0].tolist()) == set(reported(machine))
    for pfn, order in held:
        machine.free_pages(pfn, order)
    machine.drain_all_pages()
    machine.clock.advance(60)
    assert device.state == IDLE
    assert {machine.zone_of(pfn).name for pfn, _ in unreported(machine)} <= {"DMA"}
