"""Allocations that failed: by the kernel's log, for fragmentation, or because nobody reports free memory."""

from __future__ import annotations

import numpy as np
import pytest

from mmdump.kernel import Kernel
from mmdump.kernel.cma import CmaArea
from mmdump.kernel.log import log_seconds
from mmdump.result import Finding, Severity
from mmdump.scan import run_one
from mmdump_buddy import Buddy
from mmdump_buddy.failures import failure_findings, failure_table, failures_in
from mmdump_cma.failures import failure_findings as cma_findings
from mmdump_cma.failures import failures_in as cma_failures
from mmdump_page_reporting.analysis import _unreported
from mmdump_page_reporting.why import CODES
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Machine
from mmdump_snapshots.model.gfp import Gfp
from mmdump_snapshots.writer.image import build

#: As kernels of several ages print it; newest first.
CMA_LOG = [
    (9_000_000_000, b"cma: __cma_alloc: reserved: alloc failed, req-size: 16384 pages, ret: -16"),
    (8_000_000_000, b"cma: cma_alloc: it's: alloc failed, req-size: 8 pages, ret: -12"),
    (7_000_000_000, b"cma: __cma_alloc: reserved: alloc failed, req-size: 16384 pages, ret: -16"),
    (6_000_000_000, b"cma: __cma_alloc: reserved: alloc failed, req-size: 4 pages, ret: -12"),
    (5_000_000_000, b"cma: cma_alloc: alloc failed, req-size: 1 pages, ret: -4"),
    (4_500_000_000, b"cma: __cma_alloc_frozen: reserved: alloc failed, req-size: 2 pages, ret: -16"),
    (4_000_000_000, b"cma: Reserved 64 MiB at 0x000000001be00000 on node -1"),
]


def test_failed_allocations_of_cma_areas_are_told_by_area_the_last_first() -> None:
    first, second, third = cma_findings(cma_failures(iter(CMA_LOG)), [], 4096)
    assert first.message == (
        "CMA reserved: an allocation of 16,384 pages (64 MiB) failed with EBUSY: pages in the way could not "
        "be migrated; 9.000000 s after boot (and 3 before), by the kernel's log."
    )
    assert first.where == "area = 'reserved'"
    assert "CMA it's: " in second.message
    assert "ENOMEM: no run of that length" in second.message
    assert second.where == "area = 'it''s'"
    # Before 5.13 the log did not name the area.
    assert third.message.startswith("CMA: an allocation of 1 page (")
    assert third.where is None
    assert {each.severity for each in (first, second, third)} == {Severity.PROBLEM}


def test_the_areas_own_counts_say_what_the_log_does_not() -> None:
    def area(name: str, failed: int | None, number: int = 0) -> CmaArea:
        return CmaArea(f"{name}.{number}" if number else name, 0, 512, 0, 1, 0, number, failed=failed)

    areas = [area("reserved", 5), area("it's", 7), area("quiet", 2560), area("quiet", 2560, 1)]
    areas += [area("fine", 0), area("old", None), area("garbage", -1), area("vast", (1 << 63) - 1)]
    told = cma_findings(cma_failures(iter(CMA_LOG)), areas, 4096)
    assert [each.severity for each in told] == [Severity.PROBLEM] * 3 + [Severity.WARNING] * 2
    assert told[3].message == (
        "CMA quiet: allocations of 2,560 pages in all (10 MiB) failed since boot, by the area's own count; "
        "the kernel's log says nothing of them."
    )
    assert told[3].where == "area = 'quiet'"
    assert "MiB" not in told[4].message


PAGE_LOG = [
    (
        3_000_000_000,
        b"kworker/u8:2: page allocation failure: order:4, mode:0xcc0(GFP_KERNEL), nodemask=(null)",
    ),
    (
        2_000_000_000,
        b"a b: c: page allocation failure: order:4, mode:0xcc0(GFP_KERNEL), nodemask=(null),cpuset=/",
    ),
    (1_000_000_000, b"swapper/0: page allocation failure: order:0, mode:0x40a20(GFP_ATOMIC|__GFP_COMP)"),
    (500_000_000, b"something else: page allocation"),
]


def test_failed_allocations_of_pages_are_told_by_order_and_mode() -> None:
    failures = failures_in(PAGE_LOG)
    rows = failure_table(failures).frame.select("order", "gfp_flags", "comm", "times", "last_nsec").rows()
    assert rows == [
        (4, "GFP_KERNEL", "kworker/u8:2", 2, 3_000_000_000),
        (0, "GFP_ATOMIC|__GFP_COMP", "swapper/0", 1, 1_000_000_000),
    ]
    [finding] = failure_findings(failures)
    assert finding.message == (
        "The kernel had no block of order 4 for GFP_KERNEL at 3.000000 s, the last of 3 in the log."
    )
    assert failure_findings([]) == []


@pytest.mark.parametrize("garbage", [b"", b"\xff" * 300, b": page allocation failure: order:999, mode:0x0"])
def test_other_lines_of_a_log_say_nothing(garbage: bytes) -> None:
    assert failures_in([(1, garbage)]) == []
    assert cma_failures(iter([(1, garbage)])) == []


def buddy_findings(machine: Machine) -> list[Finding]:
    with build(machine, profile("6.12")).target() as target:
        return list(run_one(Kernel(target), Buddy()).findings)


def full_machine() -> tuple[Machine, list[int]]:
    """A machine all of whose memory is allocated page by page, and these pages."""
    machine = Machine(profile("6.12").era, memory=64 << 20)
    pages = []
    # To the last: also what is kept for those who free memory.
    while (pfn := machine.alloc_pages(0, Gfp.KERNEL | Gfp.MEMALLOC)) is not None:
        pages.append(pfn)
    return machine, sorted(pages)


def test_free_memory_without_a_block_of_four_pages_is_fragmentation() -> None:
    machine, pages = full_machine()
    for pfn in pages:
        if pfn % 2:
            machine.free_pages(pfn, 0)
    [finding] = [each for each in buddy_findings(machine) if each.key == "fragmented"]
    assert finding.severity is Severity.WARNING
    assert "no zone has a block of order 2 (16 KiB) for GFP_KERNEL" in finding.message
    assert "PAGE_ALLOC_COSTLY_ORDER" in finding.message


def test_fragmentation_of_large_blocks_alone_is_worth_a_note() -> None:
    machine, pages = full_machine()
    for pfn in pages:
        # One page of every 64 stays: no block of order 6 can form.
        if pfn % 64:
            machine.free_pages(pfn, 0)
    [finding] = [each for each in buddy_findings(machine) if each.key == "fragmented"]
    assert finding.severity is Severity.NOTE
    assert "a block of order 6 " in finding.message


def test_what_is_not_free_is_no_fragmentation() -> None:
    machine, _ = full_machine()
    assert "fragmented" not in {each.key for each in buddy_findings(machine)}
    assert buddy_findings(Machine(profile("6.12").era, memory=64 << 20)) == []


def test_much_that_an_idle_worker_left_is_not_reported() -> None:
    order = np.array([9] * 100 + [9] * 10 + [3] * 10)
    why = np.array([CODES["reported"]] * 100 + [CODES["idle"]] * 10 + [CODES["below_order"]] * 10)
    # 20 MiB of 220: less than a tenth.
    assert _unreported(order, why, 4096) == []
    why[:50] = CODES["idle"]
    [finding] = _unreported(order, why, 4096)
    assert finding.severity is Severity.WARNING
    assert finding.message.startswith("120 MiB of 220.3 MiB free could be reported")
    why[:] = CODES["requested"]
    assert _unreported(order, why, 4096) == []


def test_times_of_the_log_are_cut_as_the_log_cuts_them() -> None:
    assert log_seconds(7_168_146_999) == "7.168146"
    assert log_seconds(999_999_999) == "0.999999"
