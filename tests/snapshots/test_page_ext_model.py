"""page_ext of the model against mm/page_ext.c, and guard pages as its client (mm/page_alloc.c)."""

import pytest

from mmdump_snapshots.model.era import Era
from mmdump_snapshots.model.gfp import Gfp
from mmdump_snapshots.model.machine import Boot, Machine
from mmdump_snapshots.model.pages import ExtFlag, PageType
from mmdump_snapshots.model.truth_owner import owner_truth

MEMORY = 256 << 20
OFF = Boot(page_owner=False, page_pinner=False)
SIZES = [
    ((4, 19), 20),  # 8 + 12: flags words are not aligned
    ((5, 4), 24),
    ((5, 10), 24),
    ((5, 15), 48),
    ((6, 1), 64),
    ((6, 6), 64),
    ((6, 12), 72),
    ((7, 1), 72),
]


@pytest.mark.parametrize("version", [version for version, _ in SIZES])
def test_no_client_no_memory(version):
    """invoke_need_callbacks(): 'it avoids allocating memory at all'"""
    machine = Machine(Era(version), memory=MEMORY, boot=OFF)
    assert machine.page_ext.enabled == ()
    assert machine.page_ext.stride == 0
    assert machine.page_ext.tables == {}
    assert not machine.page_ext.flags.any()


@pytest.mark.parametrize(("version", "stride"), SIZES)
def test_an_entry_is_the_flags_word_and_the_record_of_page_owner(version, stride):
    """page_ext_size; 8 + extra_mem up to 5.3"""
    machine = Machine(Era(version), memory=MEMORY)
    assert machine.page_ext.enabled == ("page_owner", "page_pinner")
    assert machine.page_ext.stride == stride
    assert machine.page_ext.has_flags
    assert machine.page_ext.offsets == {"page_owner": 8, "page_pinner": stride}


def test_the_pinner_alone_costs_a_flags_word():
    """.need_shared_flags = true"""
    machine = Machine(Era((6, 12)), memory=MEMORY, boot=Boot(page_owner=False, page_pinner=True))
    assert machine.page_ext.enabled == ("page_pinner",)
    assert machine.page_ext.stride == 8


def test_since_6_3_there_is_no_flags_word_that_nobody_uses():
    """page_table_check does not need the shared flags; its data is at offset 0"""
    boot = Boot(page_owner=False, page_pinner=False, page_table_check=True)
    machine = Machine(Era((6, 12)), memory=MEMORY, boot=boot)
    assert (machine.page_ext.has_flags, machine.page_ext.stride) == (False, 8)
    assert machine.page_ext.offsets == {"page_table_check": 0}
    machine = Machine(Era((6, 1)), memory=MEMORY, boot=boot)
    assert (machine.page_ext.has_flags, machine.page_ext.stride) == (True, 16)
    assert machine.page_ext.offsets == {"page_table_check": 8}


def test_data_follows_in_the_order_of_the_clients():
    """page_ext_ops[]"""
    boot = Boot(page_table_check=True, mem_profiling=True)
    machine = Machine(Era((6, 12)), memory=MEMORY, boot=boot)
    assert machine.page_ext.offsets == {
        "page_owner": 8,
        "page_alloc_tagging": 72,
        "page_table_check": 80,
        "page_pinner": 88,
    }
    assert machine.page_ext.stride == 88


@pytest.mark.parametrize("era", [Era((4, 19)), Era((6, 12)), Era((6, 12), page_shift=14)], ids=str)
def test_every_section_has_a_table_from_the_buddy_allocator(era):
    """init_section_page_ext(), alloc_pages_exact()"""
    machine = Machine(era, memory=MEMORY)
    shift = era.section_shift - era.page_shift
    sections = {pfn >> shift for start, end in machine.ram for pfn in (start, end - 1)}
    assert set(machine.page_ext.tables) == sections
    pages = -(-(machine.page_ext.stride << shift) // era.page_size)
    taken = set()
    for address in machine.page_ext.tables.values():
        first = address >> era.page_shift
        table = slice(first, first + pages)
        assert (machine.pages.refcount[table] == 1).all()
        assert (machine.pages.type[table] == PageType.NONE).all()
        taken |= set(range(first, first + pages))
    assert len(taken) == pages * len(sections)


def test_guard_pages_need_page_ext_up_to_5_2():
    """debug_guardpage_ops"""
    boot = Boot(page_owner=False, page_pinner=False, debug_pagealloc=True, guard_order=1)
    machine = Machine(Era((4, 19)), memory=MEMORY, boot=boot)
    assert machine.page_ext.enabled == ("debug_guardpage",)
    assert machine.page_ext.stride == 8
    assert Machine(Era((5, 4)), memory=MEMORY, boot=boot).page_ext.enabled == ()


@pytest.mark.parametrize("boot", [Boot(debug_pagealloc=True, guard_order=0), Boot(guard_order=2)])
def test_guards_need_both_switches(boot):
    """need_debug_guardpage()"""
    machine = Machine(Era((4, 19)), memory=MEMORY, boot=boot)
    assert "debug_guardpage" not in machine.page_ext.enabled
    machine.alloc_pages(0, Gfp.KERNEL)
    assert owner_truth(machine).guards == {}


@pytest.mark.parametrize("version", [(4, 19), (5, 4), (6, 12)])
def test_a_split_leaves_small_halves_as_guards_and_a_merge_takes_them_back(version):
    """set_page_guard() in expand(), clear_page_guard() in __free_one_page()"""
    boot = Boot(page_owner=False, page_pinner=False, debug_pagealloc=True, guard_order=2)
    machine = Machine(Era(version), memory=MEMORY, boot=boot)
    before = owner_truth(machine).guards
    # Until one block had to be split for a page.
    held = []
    while owner_truth(machine).guards == before:
        held.append(machine.alloc_pages(0, Gfp.KERNEL))
        assert len(held) < 5000
    guards = owner_truth(machine).guards
    assert set(guards.values()) <= {0, 1}
    for pfn in guards:
        in_ext = machine.page_ext.has(pfn, ExtFlag.DEBUG_GUARD)
        assert in_ext == (version < (5, 3))
        assert (machine.pages.type[pfn] == PageType.GUARD) == (version >= (5, 3))
        assert machine.debug_pagealloc.is_guard(pfn)
    for pfn in held:
        machine.free_pages(pfn, 0)
    machine.drain_all_pages()
    assert set(owner_truth(machine).guards) <= set(before)


@pytest.mark.parametrize("version", [(4, 19), (6, 12)])
def test_only_orders_below_the_minimum_are_guarded(version):
    """debug_guardpage_minorder()"""
    boot = Boot(debug_pagealloc=True, guard_order=2)
    machine = Machine(Era(version), memory=MEMORY, boot=boot)
    pfn = machine.alloc_pages(3, Gfp.KERNEL)
    assert not machine.debug_pagealloc.set_guard(pfn, 2)
    assert machine.debug_pagealloc.set_guard(pfn, 1)
    assert owner_truth(machine).guards[pfn] == 1
    machine.debug_pagealloc.clear_guard(pfn, 1)
    assert pfn not in owner_truth(machine).guards
