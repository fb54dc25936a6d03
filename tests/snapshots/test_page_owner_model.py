"""page_owner of the model against mm/page_owner.c, release by release."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdump_snapshots.model.era import Era
from mmdump_snapshots.model.gfp import Gfp
from mmdump_snapshots.model.machine import Boot, Machine
from mmdump_snapshots.model.pages import ExtFlag, PageFlag
from mmdump_snapshots.model.truth_owner import mixed_pageblocks, owner_truth
from mmdump_snapshots.model.zone import Migratetype

VERSIONS = [(4, 19), (5, 4), (5, 10), (5, 15), (6, 1), (6, 6), (6, 12), (6, 18), (7, 1)]
OWNER, ALLOCATED = ExtFlag.OWNER, ExtFlag.OWNER_ALLOCATED


def booted(version, **boot):
    return Machine(Era(version), memory=256 << 20, boot=Boot(**boot))


@pytest.fixture(params=VERSIONS, ids=str)
def machine(request):
    return booted(request.param)


def owners(machine):
    return machine.page_owner.owners


def flags(machine, pfn, count=1):
    return set((machine.page_ext.flags[pfn : pfn + count] & np.uint8(OWNER | ALLOCATED)).tolist())


_SYSCALL = ("ksys_read", "__x64_sys_read", "x64_sys_call", "do_syscall_64", "entry_SYSCALL_64_after_hwframe")


def allocate(machine, order=0, gfp=Gfp.KERNEL, caller="vfs_read"):
    with machine.running(machine.current, caller, *_SYSCALL):
        return machine.alloc_pages(order, gfp)


# Allocation.


def test_a_record_says_who_allocated_what_and_when(machine):
    """__set_page_owner()"""
    era = machine.era
    machine.clock.advance(1.5)
    before = machine.clock.now
    pfn = allocate(machine, 3, Gfp.KERNEL | Gfp.ZERO)
    rows = owners(machine)
    assert (rows.order[pfn], rows.gfp[pfn]) == (3, Gfp.KERNEL | Gfp.ZERO)
    frames = machine.stack_depot.fetch(int(rows.handle[pfn]))
    assert "vfs_read" in frames
    assert len(frames) <= 16
    assert frames[0] not in ("save_stack", "__set_page_owner")
    task = machine.current
    assert before < rows.ts[pfn] <= machine.clock.now if era.owner_has_pid else not rows.ts[pfn]
    assert rows.pid[pfn] == (task.pid if era.owner_has_pid else 0)
    if era.owner_has_comm:
        assert machine.comms[rows.comm[pfn]] == task.comm[:15]
        assert rows.tgid[pfn] == task.tgid


def test_up_to_5_3_only_the_first_page_of_an_allocation_has_a_record():
    """__set_page_owner_handle(), without its loop over 1 << order"""
    machine = booted((4, 19))
    pfn = allocate(machine, 2)
    assert flags(machine, pfn) == {OWNER}
    assert flags(machine, pfn + 1, 3) == {0}
    assert not owners(machine).handle[pfn + 1 : pfn + 4].any()
    sums = owner_truth(machine).by_stack[int(owners(machine).handle[pfn])]
    assert (sums.records, sums.pages, sums.allocations) == (1, 4, 1)


@pytest.mark.parametrize("version", VERSIONS[1:], ids=str)
def test_since_5_4_every_page_has_it_and_the_first_is_known_by_its_alignment(version):
    """__set_page_owner_handle(), read_page_owner()"""
    machine = booted(version)
    pfn = allocate(machine, 2)
    assert flags(machine, pfn, 4) == {OWNER | ALLOCATED}
    assert owners(machine).order[pfn : pfn + 4].tolist() == [2] * 4
    sums = owner_truth(machine).by_stack[int(owners(machine).handle[pfn])]
    assert (sums.records, sums.pages, sums.allocations) == (4, 4, 1)


# Free.


def test_up_to_5_3_a_freed_page_has_no_owner():
    """__reset_page_owner() clears PAGE_EXT_OWNER"""
    machine = booted((4, 19))
    pfn = allocate(machine, 1)
    machine.free_pages(pfn, 1)
    assert flags(machine, pfn, 2) == {0}
    assert pfn not in owner_truth(machine).freed.pfn


@pytest.mark.parametrize("version", VERSIONS[1:], ids=str)
def test_since_5_4_a_freed_page_keeps_its_record_as_history(version):
    """__reset_page_owner(), __update_page_owner_free_handle()"""
    machine = booted(version)
    era, rows = machine.era, owners(machine)
    # The stack of the free is known, so that the depot needs no memory, which 6.15 would not give it.
    machine.free_pages(allocate(machine, 2), 2)
    pfn = allocate(machine, 2)
    handle, machine_ts = int(rows.handle[pfn]), int(rows.ts[pfn])
    machine.clock.advance(2)
    with machine.running(machine.current, "do_exit"):
        machine.free_pages(pfn, 2)
    assert flags(machine, pfn, 4) == {OWNER}
    assert set(rows.handle[pfn : pfn + 4].tolist()) == {handle}
    assert rows.ts[pfn] == machine_ts
    [free_handle] = set(rows.free_handle[pfn : pfn + 4].tolist())
    assert "do_exit" in machine.stack_depot.fetch(free_handle)
    assert rows.free_ts[pfn + 3] == (machine.clock.now if era.owner_has_free_time else 0)
    assert rows.free_pid[pfn + 3] == (machine.current.pid if era.owner_has_free_pid else 0)
    truth = owner_truth(machine)
    assert set(range(pfn, pfn + 4)) <= set(truth.freed.pfn.tolist())
    assert not set(range(pfn, pfn + 4)) & set(truth.allocated.pfn.tolist())


# Split.


@pytest.mark.parametrize(
    ("version", "order"), [((4, 19), 0), ((5, 4), 0), ((6, 1), 0), ((6, 6), 0), ((6, 12), 1), ((7, 1), 1)]
)
def test_a_split_makes_single_pages_and_since_6_9_parts_of_their_order(version, order):
    """__split_page_owner()"""
    machine = booted(version)
    pfn = allocate(machine, 3)
    handle = int(owners(machine).handle[pfn])
    machine.page_owner.split(pfn, 3, 1)
    assert set(owners(machine).order[pfn : pfn + 8].tolist()) == {order}
    # Up to 5.3 the tails get their records only by this.
    assert set(owners(machine).handle[pfn : pfn + 8].tolist()) == {handle}
    assert flags(machine, pfn, 8) == {OWNER if version < (5, 4) else OWNER | ALLOCATED}
    assert owner_truth(machine).by_stack[handle].allocations == 8 >> order


# Migration.


def migrated(machine, order=2):
    """A folio and the one it was migrated to: their first pages, and the handles of both before that."""
    old = allocate(machine, order, Gfp.HIGHUSER_MOVABLE, "do_anonymous_page")
    machine.clock.advance(1)
    new = allocate(machine, order, Gfp.USER | Gfp.MOVABLE | Gfp.NOWARN, "migrate_pages")
    handles = int(owners(machine).handle[old]), int(owners(machine).handle[new])
    machine.clock.advance(1)
    machine.page_owner.copy(new, old, order)
    machine.page_owner.set_migrate_reason(new, 6)
    return old, new, *handles


@pytest.mark.parametrize("version", [(5, 4), (5, 15), (6, 1), (6, 6)], ids=str)
def test_up_to_6_8_only_the_first_record_migrates(version):
    """__folio_copy_owner(), __copy_page_owner()"""
    machine = booted(version)
    old, new, old_handle, new_handle = migrated(machine)
    rows = owners(machine)
    assert rows.handle[new : new + 4].tolist() == [old_handle, *[new_handle] * 3]
    assert rows.handle[old : old + 4].tolist() == [old_handle] * 4
    assert rows.gfp[new] == Gfp.HIGHUSER_MOVABLE
    assert rows.ts[new] == rows.ts[old]
    # The time when it was allocated, in the place of the time when it was freed.
    assert rows.free_ts[new] == (rows.ts[old] if machine.era.owner_has_free_time else 0)
    assert rows.migrate_reason[new : new + 4].tolist() == [7, 0, 0, 0]


@pytest.mark.parametrize("version", [(6, 12), (6, 18), (7, 1)], ids=str)
def test_since_6_9_all_records_migrate_and_the_old_pages_get_the_new_stack(version):
    """__folio_copy_owner()"""
    machine = booted(version)
    old, new, old_handle, new_handle = migrated(machine)
    rows = owners(machine)
    assert set(rows.handle[new : new + 4].tolist()) == {old_handle}
    assert set(rows.handle[old : old + 4].tolist()) == {new_handle}
    assert set(rows.ts[new : new + 4].tolist()) == {int(rows.ts[old])}
    # Given are the ids of who freed the old page before; written are those of who migrates.
    assert set(rows.free_pid[new : new + 4].tolist()) == {machine.current.pid}
    assert flags(machine, new, 4) == {OWNER | ALLOCATED}
    counts = stack_counts(machine)
    machine.free_pages(old, 2)
    assert stack_counts(machine)[old_handle] == counts[old_handle]
    assert stack_counts(machine)[new_handle] == counts[new_handle] - 4


def test_in_4_19_a_migrated_page_takes_its_owner_along():
    """__copy_page_owner()"""
    machine = booted((4, 19))
    _, new, old_handle, _ = migrated(machine, 0)
    assert owners(machine).handle[new] == old_handle
    assert owners(machine).migrate_reason[new] == 7


# What page_owner cannot tell.


def test_pages_from_before_page_owner_have_the_early_stack(machine):
    """init_pages_in_zone()"""
    truth = owner_truth(machine)
    early = truth.allocated.pfn[truth.allocated["handle"] == truth.special["early_handle"]]
    assert len(early) > 0
    assert truth.stacks[truth.special["early_handle"]][0] == "register_early_stack"
    assert not owners(machine).order[early].any()
    assert not owners(machine).gfp[early].any()
    assert not (machine.pages.flags[early] & np.uint32(PageFlag.RESERVED)).any()
    # The tables of page_ext are among them.
    tables = {address >> machine.era.page_shift for address in machine.page_ext.tables.values()}
    assert tables <= set(early.tolist())
    # Nothing that is in use and not reserved was missed, and nothing in a free block was taken.
    found = set(truth.allocated.pfn.tolist())
    for start, end in machine.ram:
        used = np.flatnonzero(
            (machine.pages.refcount[start:end] > 0)
            & ((machine.pages.flags[start:end] & np.uint32(PageFlag.RESERVED)) == 0)
        )
        assert {pfn for pfn in (used + start).tolist() if machine.pages.tail[pfn] == 0} <= found
    for zone in machine.zones:
        for order, area in enumerate(zone.free_area):
            for heads in area.free_list:
                for head in heads:
                    assert not found & {head, head + (1 << order) - 1}


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_memory_that_the_depot_needs_for_a_stack_has_the_dummy_stack(version):
    """save_stack(): current->in_page_owner"""
    machine = booted(version)
    depot = machine.stack_depot
    for number in range(500):
        machine.free_pages(allocate(machine, 0, Gfp.KERNEL, f"caller{number}+0x10"), 0)
    dummy = owner_truth(machine).special["dummy_handle"]
    assert len(depot.pools) > 2
    assert {int(owners(machine).handle[pfn]) for pfn in depot.pools[2:]} == {dummy}
    assert depot.fetch(dummy)[0] == "register_dummy_stack"


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_when_the_depot_is_full_pages_have_the_failure_stack(version):
    """save_stack(): if (!handle) handle = failure_handle"""
    machine = booted(version, stack_depot_max_pools=1)
    last = None
    for number in range(300):
        last = allocate(machine, 1, Gfp.KERNEL, f"caller{number}+0x10")
    truth = owner_truth(machine)
    failure = truth.special["failure_handle"]
    assert owners(machine).handle[last] == failure
    assert truth.bytes(failure) >= 2 * 4096 * 50
    assert machine.stack_depot.refused > 0
    assert len({*truth.special.values(), 0}) == 4


# Counts of stacks.


def stack_counts(machine):
    """What show_stacks would print: handle -> nr_base_pages."""
    return owner_truth(machine).listed


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_stacks_are_counted_since_6_9(version):
    """init_page_owner(): stack_list"""
    machine = booted(version)
    entries = machine.page_owner.stack_list
    if version < (6, 9):
        assert entries == []
        return
    # The oldest are the two that are variables of the kernel.
    assert [entry.handle for entry in entries[-2:]] == [
        machine.page_owner.dummy_handle,
        machine.page_owner.failure_handle,
    ]
    pfn = allocate(machine, 3, caller="first")
    assert machine.page_owner.stack_list[0].handle == owners(machine).handle[pfn]
    assert stack_counts(machine)[int(owners(machine).handle[pfn])] == 8
    assert machine.page_owner.early_handle not in stack_counts(machine)


def test_since_6_18_stacks_from_where_one_may_not_spin_are_not_listed():
    """add_stack_record_to_list(): !gfpflags_allow_spinning()"""
    machine = booted((6, 18))
    pfn = allocate(machine, 0, Gfp.NOWARN, "nmi_handle")
    assert owners(machine).handle[pfn] not in stack_counts(machine)


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["alloc", "free", "split", "migrate"]), st.integers(0, 4), st.integers(0, 9)),
    max_size=60,
)


@pytest.mark.parametrize("version", [(5, 4), (6, 1), (6, 12), (7, 1)], ids=str)
@settings(deadline=None, max_examples=8)
@given(steps=OPERATIONS)
def test_after_any_steps_the_records_account_for_all_that_is_held(version, steps):
    """Allocated pages by the records are the pages held, and since 6.9 the counts of stacks say the same."""
    machine = booted(version)
    before = set(owner_truth(machine).allocated.pfn.tolist())
    held: list[tuple[int, int]] = []
    for step, order, number in steps:
        if step == "alloc":
            held.append((allocate(machine, order, Gfp.KERNEL, f"step{number}"), order))
        elif held and step == "free":
            machine.free_pages(*held.pop(number % len(held)))
        elif held and step == "split":
            pfn, old = held.pop(number % len(held))
            machine.split_page(pfn, old)
            held += [(page, 0) for page in range(pfn, pfn + (1 << old))]
        elif held and step == "migrate":
            old_pfn, old = held.pop(number % len(held))
            new_pfn = allocate(machine, old, Gfp.USER | Gfp.MOVABLE, "migrate_pages")
            machine.page_owner.copy(new_pfn, old_pfn, old)
            machine.free_pages(old_pfn, old)
            held.append((new_pfn, old))
    truth = owner_truth(machine)
    allocated = set(truth.allocated.pfn.tolist())
    mine = {page for pfn, order in held for page in range(pfn, pfn + (1 << order))}
    assert mine <= allocated
    # The depot's pools and slab pages of the list's entries come on top.
    others = allocated - before - mine
    dummy = truth.special["dummy_handle"]
    assert {int(owners(machine).handle[pfn]) for pfn in others} <= {dummy}
    if machine.era.owner_counts_stacks:
        by_page = Counter(truth.allocated["handle"].tolist())
        listed = {handle: pages for handle, pages in truth.listed.items() if pages}
        early = truth.special["early_handle"]
        assert listed == {handle: pages for handle, pages in by_page.items() if handle != early}


# Mixed pageblocks.


def zone_of(machine, pfn):
    [zone] = [zone for zone in machine.zones if zone.start_pfn <= pfn < zone.start_pfn + zone.spanned]
    return zone


def test_a_pageblock_is_mixed_when_a_page_of_another_type_is_in_it(machine):
    """pagetypeinfo_showmixedcount_print()"""
    block_order = machine.era.pageblock_order
    pfn = machine.alloc_pages(block_order, Gfp.HIGHUSER_MOVABLE)
    block = pfn >> block_order
    zone = zone_of(machine, pfn)
    rest = Counter(mixed_pageblocks(machine, zone))
    assert machine.migratetype[block] == Migratetype.MOVABLE
    machine.page_owner.split(pfn, block_order)
    assert Counter(mixed_pageblocks(machine, zone)) == rest
    owners(machine).gfp[pfn + 5 : pfn + 9] = int(Gfp.KERNEL)
    assert Counter(mixed_pageblocks(machine, zone)) - rest == Counter(MOVABLE=1)
    machine.migratetype[block] = Migratetype.CMA
    assert Counter(mixed_pageblocks(machine, zone)) - rest == Counter(MOVABLE=1)
    machine.migratetype[block] = Migratetype.RECLAIMABLE
    assert Counter(mixed_pageblocks(machine, zone)) - rest == Counter(RECLAIMABLE=1)


def test_a_large_allocation_is_stepped_over_by_the_order_of_its_first_record():
    """As in pfn += (1UL << page_owner->order) - 1"""
    machine = booted((6, 6))
    order = machine.era.pageblock_order
    pfn = machine.alloc_pages(order, Gfp.HIGHUSER_MOVABLE)
    zone = zone_of(machine, pfn)
    rest = mixed_pageblocks(machine, zone)
    # As after the migration of a large folio up to 6.8: the records behind the first are another's.
    owners(machine).gfp[pfn + 1 : pfn + (1 << order)] = int(Gfp.KERNEL)
    assert mixed_pageblocks(machine, zone) == rest


def test_off_means_no_records():
    """page_owner_inited"""
    machine = booted((6, 12), page_owner=False)
    allocate(machine)
    truth = owner_truth(machine)
    assert not truth.enabled
    assert len(truth.allocated) == 0
    assert machine.stack_depot.records == []
