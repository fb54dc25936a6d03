"""The page pinner of the model against the RFC, "[RFC] mm: introduce page pinner" (mm/page_pinner.c)."""

import re

import numpy as np
import pytest

from mmdump_snapshots.model.era import Era
from mmdump_snapshots.model.gfp import Gfp
from mmdump_snapshots.model.machine import Boot, Machine
from mmdump_snapshots.model.page_pinner import PinnerEvent, hashed_pointer, print_trace
from mmdump_snapshots.model.pages import ExtFlag, PageFlag
from mmdump_snapshots.model.truth_owner import owner_truth


@pytest.fixture(params=[(4, 19), (5, 15), (6, 12)])
def machine(request):
    return Machine(Era(request.param), memory=256 << 20)


def test_a_failure_marks_the_page_and_leaves_an_event(machine):
    """__page_pinner_failure()"""
    pfn = machine.alloc_pages(0, Gfp.HIGHUSER_MOVABLE)
    with machine.running(machine.current, "cma_alloc", "cma_heap_allocate"):
        machine.page_pinner.failure(pfn)
    [event] = machine.page_pinner.events
    assert (event.name, event.pfn, event.count, event.mapcount) == ("page_pinner_failure", pfn, 1, 0)
    assert event.stack[0] == "__page_pinner_failure"
    assert event.stack[1:3] == ("cma_alloc", "cma_heap_allocate")
    assert machine.page_ext.has(pfn, ExtFlag.PINNER)
    assert owner_truth(machine).marked.tolist() == [pfn]


def test_every_put_of_a_marked_page_is_an_event_with_the_count_that_is_left(machine):
    """put_page_testzero(): the hook is after page_ref_dec_and_test()"""
    pfn = machine.alloc_pages(0, Gfp.HIGHUSER_MOVABLE)
    machine.get_page(pfn)
    machine.get_page(pfn)
    machine.put_page(pfn)
    machine.page_pinner.failure(pfn)
    with machine.running(machine.current, "pipe_release"):
        machine.put_page(pfn)
    machine.put_page(pfn)
    events = machine.page_pinner.events
    assert [(event.name, event.count) for event in events] == [
        ("page_pinner_failure", 2),
        ("page_pinner_put", 1),
        ("page_pinner_put", 0),
    ]
    assert events[1].stack[0] == "__page_pinner_put"
    assert "pipe_release" in events[1].stack


def test_a_page_that_is_freed_is_no_longer_marked(machine):
    """__reset_page_pinner() in free_pages_prepare()"""
    pfn = machine.alloc_pages(0, Gfp.HIGHUSER_MOVABLE)
    machine.page_pinner.failure(pfn)
    machine.put_page(pfn)
    assert not machine.page_ext.has(pfn, ExtFlag.PINNER)
    assert owner_truth(machine).marked.tolist() == []


@pytest.mark.parametrize(
    ("marked", "left"),
    [
        ([0], []),
        ([0, 1, 2, 3], []),
        ([0, 1, 3], [3]),  # the loop ends at page 2
        ([2], [2]),  # and here before it began
    ],
)
def test_the_clearing_loop_ends_at_the_first_page_without_a_mark(machine, marked, left):
    """__reset_page_pinner(): break"""
    pfn = machine.alloc_pages(2, Gfp.KERNEL)
    for page in marked:
        machine.page_pinner.failure(pfn + page)
    machine.free_pages(pfn, 2)
    assert owner_truth(machine).marked.tolist() == [pfn + page for page in left]


def test_a_put_of_a_large_folio_is_one_of_its_head(machine):
    """put_page(): page = compound_head(page)"""
    pfn = machine.alloc_pages(2, Gfp.HIGHUSER_MOVABLE | Gfp.COMP)
    machine.get_page(pfn)
    machine.page_pinner.failure(pfn + 1)
    machine.put_page(pfn + 1)
    assert [event.name for event in machine.page_pinner.events] == ["page_pinner_failure"]


def test_off_means_no_marks_and_no_events():
    """page_pinner_inited"""
    machine = Machine(Era((6, 12)), memory=256 << 20, boot=Boot(page_pinner=False))
    pfn = machine.alloc_pages(0, Gfp.KERNEL)
    if machine.page_pinner is not None:
        machine.page_pinner.failure(pfn)
        machine.put_page(pfn)
        assert machine.page_pinner.events == []
    assert not (machine.page_ext.flags & np.uint8(ExtFlag.PINNER)).any()


def event(name, time, pid, cpu, count, *stack):
    return PinnerEvent(
        name,
        time,
        comm="<...>",
        pid=pid,
        cpu=cpu,
        pfn=0x9F0BB0,
        flags=PageFlag.SWAPBACKED | PageFlag.UPTODATE | PageFlag.LRU,
        count=count,
        mapcount=0,
        mapping=0x12345671,
        mt=5,
        stack=(f"__{name}", *stack),
    )


def test_the_trace_reads_like_the_one_in_the_mail():
    """trace_page_pinner_failure(), trace_page_pinner_put(), with the option stacktrace"""
    text = print_trace(
        [
            event("page_pinner_failure", 33306_301621_000, 498, 6, 1, "test_pages_isolated", "el0_sync"),
            event("page_pinner_put", 33306_392836_000, 24965, 1, 0, "release_pages", "work_pending"),
        ]
    )
    text = re.sub(r"mapping=[0-9a-f]{16} ", "mapping=00000000aec7812a ", text)
    assert text == (
        "           <...>-498     [006] .... 33306.301621: page_pinner_failure: pfn=0x9f0bb0 "
        "flags=uptodate|lru|swapbacked count=1 mapcount=0 mapping=00000000aec7812a mt=5\n"
        "           <...>-498     [006] .... 33306.301625: <stack trace>\n"
        " => __page_pinner_failure\n"
        " => test_pages_isolated\n"
        " => el0_sync\n"
        "           <...>-24965   [001] .... 33306.392836: page_pinner_put: pfn=0x9f0bb0 "
        "flags=uptodate|lru|swapbacked count=0 mapcount=0 mapping=00000000aec7812a mt=5\n"
        "           <...>-24965   [001] .... 33306.392840: <stack trace>\n"
        " => __page_pinner_put\n"
        " => release_pages\n"
        " => work_pending\n"
    )


def test_a_mapping_is_hashed_into_32_bits_and_always_into_the_same():
    """%p"""
    assert re.fullmatch("0{8}[0-9a-f]{8}", hashed_pointer(0xFFFF888012345678))
    assert hashed_pointer(0xFFFF888012345678) == hashed_pointer(0xFFFF888012345678)
    assert hashed_pointer(0xFFFF888012345678, b"boot") != hashed_pointer(0xFFFF888012345678)
    assert hashed_pointer(0) == "0" * 16
