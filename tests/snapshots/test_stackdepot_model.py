"""The stack depot of the model against lib/stackdepot.c: what is true of handles, records and pools."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdump_snapshots.model.era import Era
from mmdump_snapshots.model.gfp import Gfp
from mmdump_snapshots.model.stackdepot import REFCOUNT_SATURATED, StackDepot, default_max_pools

ERAS = [
    Era((4, 19)),
    Era((5, 4)),
    Era((5, 10)),
    Era((5, 15)),
    Era((6, 1)),
    Era((6, 6)),
    Era((6, 12)),
    Era((6, 18)),
    Era((7, 1)),
    Era((6, 12), page_shift=14),
]

_FRAMES = ("post_alloc_hook", "get_page_from_freelist", "__alloc_pages", "vfs_read", "ksys_read", "do_exit")
STACKS = st.lists(st.lists(st.sampled_from(_FRAMES), min_size=1, max_size=16).map(tuple), max_size=200)


class Allocator:
    """A machine as far as the depot needs one: it hands out pages, for as long as it has any."""

    def __init__(self, era: Era, pools: int | None = None, limit: int | None = None) -> None:
        self.era = era
        self.ram = ((256, 65536),)
        self.boot = SimpleNamespace(stack_depot_max_pools=pools)
        self.limit = limit
        self.allocated: list[tuple[int, Gfp]] = []
        self.freed: list[int] = []

    def calls(self, *_names: str) -> nullcontext[None]:
        return nullcontext()

    def alloc_pages(self, order: int, gfp: Gfp) -> int | None:
        assert order == 2
        if self.limit is not None and len(self.allocated) >= self.limit:
            return None
        self.allocated.append((1024 + 4 * len(self.allocated), gfp))
        return self.allocated[-1][0]

    def free_pages(self, pfn: int, order: int) -> None:
        assert order == 2
        self.freed.append(pfn)


def depot(era: Era, pools: int | None = None, limit: int | None = None) -> tuple[StackDepot, Allocator]:
    machine = Allocator(era, pools, limit)
    return StackDepot(machine), machine  # type: ignore[arg-type]


def distinct(number: int, depth: int = 16) -> tuple[str, ...]:
    return (f"function_{number}", *("caller",) * (depth - 1))


@pytest.mark.parametrize("era", ERAS, ids=str)
@settings(deadline=None, max_examples=30)
@given(stacks=STACKS)
def test_every_handle_leads_to_its_record_and_no_two_records_overlap(era: Era, stacks):
    """stack_depot_save(), stack_depot_fetch()"""
    saved, _ = depot(era)
    handles = [saved.save(stack, Gfp.KERNEL) for stack in stacks]
    ends: dict[int, int] = {}
    for stack, handle in zip(stacks, handles, strict=True):
        assert 0 < handle < 1 << 32
        assert saved.fetch(handle) == stack
    for record in saved.records:
        assert saved.place(record.handle) == (record.pool, record.offset)
        assert record.offset % 16 == 0
        assert record.offset == ends.get(record.pool, 0)
        ends[record.pool] = record.offset + saved.record_size(record.size)
        assert ends[record.pool] <= saved.pool_size
        assert record.pool < len(saved.pools)


@pytest.mark.parametrize("era", ERAS, ids=str)
@settings(deadline=None, max_examples=30)
@given(stacks=STACKS)
def test_a_stack_that_is_saved_twice_has_one_handle(era: Era, stacks):
    """find_stack()"""
    saved, _ = depot(era)
    first = {stack: saved.save(stack, Gfp.KERNEL) for stack in stacks}
    assert {stack: saved.save(stack, Gfp.KERNEL) for stack in reversed(stacks)} == first
    assert len(set(first.values())) == len(saved.records) == len(set(stacks))


@pytest.mark.parametrize("era", ERAS, ids=str)
def test_the_extra_bits_of_a_handle_are_not_part_of_its_place(era: Era):
    """Of union handle_parts: five bits at the top since 6.1"""
    saved, _ = depot(era)
    handle = saved.save(("do_exit",), Gfp.KERNEL)
    *_, extra = era.depot_handle_bits
    assert handle >> (32 - extra) == 0 if extra else True
    assert saved.place(handle | ((1 << extra) - 1) << (32 - extra)) == (0, 0)


@pytest.mark.parametrize(
    ("version", "shift", "handle"),
    [
        # slabindex 21 bits, offset 10, valid 1
        ((5, 10), 12, 1 << 31 | 3 << 21 | 0),
        # 16, 10, 1, extra 5
        ((6, 1), 12, 1 << 26 | 3 << 16 | 0),
        # pool_index_plus_1 17, 10, extra 5: no valid bit
        ((6, 12), 12, 3 << 17 | 1),
        # pages of 16 KiB: the offset has two bits more
        ((6, 12), 14, 3 << 15 | 1),
    ],
)
def test_handles_are_laid_out_as_each_kernel_does(version, shift, handle):
    """Of union handle_parts"""
    saved, _ = depot(Era(version, shift))
    assert saved.handle(0, 48) == handle
    assert saved.place(handle) == (0, 48)


def test_the_header_of_a_record_grew_when_it_got_a_list_and_a_count():
    """Of struct stack_record, 6.8"""
    before, _ = depot(Era((6, 6)))
    since, _ = depot(Era((6, 12)))
    assert before.record_size(16) == 160  # 24 + 128, in steps of 16
    assert since.record_size(16) == 160  # 32 + 128
    assert (before.record_size(1), since.record_size(1)) == (32, 48)


@pytest.mark.parametrize("era", ERAS, ids=str)
def test_a_pool_is_allocated_ahead_of_need_and_none_is_lost(era: Era):
    """depot_init_pool(), depot_keep_new_pool(): one pool ahead once there is a second record"""
    saved, machine = depot(era)
    saved.save(distinct(0), Gfp.KERNEL)
    assert len(machine.allocated) == 1
    number = 1
    while saved.pool_index < 2:
        saved.save(distinct(number), Gfp.KERNEL)
        number += 1
        ahead = len(saved.pools) - 1 - saved.pool_index + (saved.spare is not None)
        assert ahead == (0 if saved.pool_offset == saved.record_size(16) else 1)
    assert not machine.freed
    kept = [*saved.pools, *([saved.spare] if saved.spare is not None else [])]
    assert kept == [pfn for pfn, _ in machine.allocated]


@pytest.mark.parametrize("era", ERAS, ids=str)
def test_a_full_depot_refuses_what_is_new_and_knows_what_it_has(era: Era):
    """'Stack depot reached limit capacity'"""
    saved, machine = depot(era, pools=2)
    handles = [saved.save(distinct(number), Gfp.KERNEL) for number in range(3 * saved.pool_size // 160)]
    room = 2 * (saved.pool_size // saved.record_size(16))
    assert all(handles[:room])
    assert not any(handles[room:])
    assert saved.refused == len(handles) - room
    assert saved.save(distinct(7), Gfp.KERNEL) == handles[7]
    assert len(saved.pools) == 2
    assert len(machine.allocated) - len(machine.freed) <= 3


@pytest.mark.parametrize("era", ERAS, ids=str)
def test_without_memory_for_a_pool_the_depot_goes_on_when_there_is_some_again(era: Era):
    """alloc_pages() fails in stack_depot_save()"""
    saved, machine = depot(era, limit=0)
    assert saved.save(distinct(0), Gfp.KERNEL) == 0
    machine.limit = None
    assert saved.fetch(saved.save(distinct(0), Gfp.KERNEL)) == distinct(0)


def test_since_6_15_a_mask_that_may_not_reclaim_gets_no_pool():
    """gfpflags_allow_spinning()"""
    saved, machine = depot(Era((6, 18)))
    assert saved.save(distinct(0), Gfp.NOWARN) == 0
    assert not machine.allocated
    older, _ = depot(Era((6, 12)))
    assert older.save(distinct(0), Gfp.NOWARN)


def test_the_depot_allocates_with_the_caller_s_reclaim_and_without_his_zone():
    """gfp_nested_mask(), 6.10"""
    saved, machine = depot(Era((6, 12)))
    saved.save(distinct(0), Gfp.HIGHUSER_MOVABLE | Gfp.COMP)
    [(_, gfp)] = machine.allocated
    assert gfp == Gfp.KERNEL | Gfp.NOWARN | Gfp.NORETRY | Gfp.NOMEMALLOC
    older, machine = depot(Era((6, 1)))
    older.save(distinct(0), Gfp.HIGHUSER_MOVABLE | Gfp.COMP)
    [(_, gfp)] = machine.allocated
    assert gfp == Gfp.KERNEL | Gfp.NOWARN


def test_records_are_in_the_bucket_of_their_hash_the_newest_first():
    """stack_table"""
    saved, _ = depot(Era((6, 12)))
    saved.hash_mask = 3
    for number in range(40):
        saved.save(distinct(number), Gfp.KERNEL)
    assert sum(map(len, saved.table.values())) == 40
    for bucket, chain in saved.table.items():
        assert {record.hash & 3 for record in chain} == {bucket}
        order = [saved.records.index(record) for record in chain]
        assert order == sorted(order, reverse=True)


@pytest.mark.parametrize(("version", "order"), [((5, 10), 20), ((5, 15), 20), ((6, 1), 14), ((6, 12), 14)])
def test_the_hash_table_is_sized_by_memory_since_6_0(version, order):
    """stack_depot_early_init(): a bucket for each 16 KiB, of 256 MiB here"""
    saved, _ = depot(Era(version))
    assert saved.hash_mask == (1 << order) - 1


def test_how_many_pools_there_can_be():
    """DEPOT_MAX_POOLS"""
    assert default_max_pools(Era((6, 1))) == 8192
    assert default_max_pools(Era((6, 12))) == 8192
    assert default_max_pools(Era((6, 12), page_shift=16)) == 8191


def test_a_new_record_is_counted_by_nobody():
    """refcount_set(REFCOUNT_SATURATED)"""
    saved, _ = depot(Era((6, 12)))
    handle = saved.save(("do_exit",), Gfp.KERNEL)
    assert saved.by_handle[handle].count == REFCOUNT_SATURATED
