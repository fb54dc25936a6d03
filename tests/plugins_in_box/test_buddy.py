"""Free memory of machines that are known: what a decoder must find in their dumps, under every kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import polars as pl
import pytest

from mmdump.errors import UsageError
from mmdump.kernel import Kernel
from mmdump.kernelfile import KernelFile
from mmdump.render import Query
from mmdump.result import Result, Severity
from mmdump.scan import Ranges, run_one
from mmdump_buddy import DEBUG_GUARDPAGE, Buddy
from mmdump_buddy.files import FILES, _extfrag_show
from mmdump_buddy.index import fragmentation_index, unusable_free_index
from mmdump_buddy.pagetypeinfo import PAGETYPEINFO
from mmdump_buddy.want import REQUESTS, Request
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Machine
from mmdump_snapshots.model.gfp import GFP_HIGHUSER_MOVABLE
from mmdump_snapshots.model.truth import Truth
from mmdump_snapshots.model.zone import (
    ALLOC_CMA,
    ALLOC_HIGHATOMIC,
    ALLOC_MIN_RESERVE,
    ALLOC_NON_BLOCK,
    ZONE_NAMES,
    Zone,
)
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.image import Image, build
from tests.snapshots.machines import PROFILES, busy_machine

BUDDYINFO, EXTFRAG, UNUSABLE = FILES
SCENARIO = {scenario.name: scenario for scenario in SCENARIOS}


@contextmanager
def opened(image: Image) -> Iterator[Kernel]:
    with image.target() as target:
        yield Kernel(target, [DEBUG_GUARDPAGE])


@cache
def guarded(name: str) -> tuple[Machine, Image]:
    """A busy machine with guard pages, CMA areas and per-CPU pages."""
    machine = busy_machine(profile(name), seed=5, boot={"debug_pagealloc": True, "guard_order": 2})
    return machine, build(machine, profile(name), kaslr=5)


@cache
def fragmented(name: str) -> tuple[Machine, Image]:
    machine = SCENARIO["fragmentation"].play(profile(name), memory=48 << 20)
    return machine, build(machine, profile(name), kaslr=6)


def text(kernel: Kernel, file: KernelFile) -> str:
    assert file.why_not(kernel) is None
    return b"".join(file.read(kernel, Ranges(kernel))).decode()


def frame(result: Result, table: str) -> pl.DataFrame:
    return result.tables[table].frame


@pytest.mark.parametrize("name", PROFILES)
def test_free_blocks_are_on_the_lists_that_the_machine_has_them_on(name: str) -> None:
    machine, image = guarded(name)
    truth = Truth.of(machine).free
    with opened(image) as kernel:
        result = run_one(kernel, Buddy())
        free = frame(result, "free")
        ours = {
            (node, zone, order, kind.upper()): blocks
            for node, zone, order, kind, blocks in free.select(
                "node", "zone", "order", "migratetype", "blocks"
            ).rows()
        }
        assert ours == {where: len(pfns) for where, pfns in truth.free.items()}
        assert free["free"].sum() == truth.pages * kernel.target.page_size
        assert not [each for each in result.findings if each.severity is not Severity.NOTE]
        assert not result.incomplete
        orders = frame(result, "orders")
        assert (orders["blocks"] == orders["nr_free"]).all()
        assert (orders["blocks"] == orders["listed"]).all()


@pytest.mark.parametrize("name", PROFILES)
def test_pages_in_stock_are_those_of_each_cpu_in_list_order(name: str) -> None:
    machine, image = guarded(name)
    with opened(image) as kernel:
        pcp = kernel.per_cpu_pages
        assert not pcp.broken
        ours: dict[tuple[int, str, int], list[tuple[int, int]]] = {}
        for slot, cpu, pfn, order in zip(
            pcp.zone.tolist(), pcp.cpu.tolist(), pcp.pfn.tolist(), pcp.order.tolist(), strict=True
        ):
            zone = pcp.zones[slot]
            ours.setdefault((zone.node, zone.name, cpu), []).append((pfn, order))
    theirs = {
        where: list(zip(blocks.pfn.tolist(), blocks.order.tolist(), strict=True))
        for where, blocks in Truth.of(machine).free.pcp.items()
        if len(blocks)
    }
    assert theirs
    assert ours == theirs


@pytest.mark.parametrize("name", PROFILES)
def test_guard_pages_are_neither_free_nor_forgotten(name: str) -> None:
    machine, image = guarded(name)
    guards = Truth.of(machine).free.guards
    assert len(guards)
    with opened(image) as kernel:
        zones = frame(run_one(kernel, Buddy()), "zones")
        assert zones["guard"].sum() == guards.pages * kernel.target.page_size


@pytest.mark.parametrize("name", PROFILES)
def test_buddyinfo_and_pagetypeinfo_count_what_the_machine_has(name: str) -> None:
    machine, image = guarded(name)
    truth = Truth.of(machine).free
    with opened(image) as kernel:
        lines = text(kernel, BUDDYINFO).splitlines()
        page_types = text(kernel, PAGETYPEINFO).splitlines()
    for zone, line in zip(machine.zones, lines, strict=True):
        assert line == f"Node {zone.node}, zone {zone.name:>8} " + "".join(
            f"{area.nr_free:6} " for area in zone.free_area
        )
        for kind, blocks in truth.pageblocks[zone.node, zone.name].items():
            column = page_types[-len(machine.zones) - 1].split()[4:].index(_title(kind))
            row = next(row for row in page_types if row.startswith(f"Node {zone.node}, zone {zone.name:>8} "))
            assert int(row.split()[4 + column]) == blocks
    for (node, zone, order, kind), pfns in truth.free.items():
        start = f"Node {node:4}, zone {zone:>8}, type {_title(kind):>12} "
        [row] = [row for row in page_types if row.startswith(start)]
        assert int(row.removeprefix(start).split()[order]) == len(pfns)


def _title(kind: str) -> str:
    return {"HIGHATOMIC": "HighAtomic", "CMA": "CMA"}.get(kind, kind.title())


@pytest.mark.parametrize("name", PROFILES)
def test_a_block_is_wanted_in_vain_exactly_where_the_allocator_refuses_it(name: str) -> None:
    for machine, image in (guarded(name), fragmented(name)):
        with opened(image) as kernel:
            for order in (0, 1, 3, 6, len(machine.zones[0].free_area) - 1):
                want = frame(run_one(kernel, Buddy(want=order)), "want")
                for zone in machine.zones:
                    for request in REQUESTS:
                        _agrees(want, zone, request, order)


def _agrees(want: pl.DataFrame, zone: Zone, request: Request, order: int) -> None:
    rows = want.filter(
        (pl.col("node") == zone.node) & (pl.col("zone") == zone.name) & (pl.col("request") == request.name)
    ).to_dicts()
    # No kernel memory from ZONE_MOVABLE.
    assert len(rows) == (zone.index <= ZONE_NAMES.index("Movable" if request.cma else "Normal"))
    if not rows:
        return
    highest = ZONE_NAMES.index("Movable" if request.cma else "Normal")
    flags = ALLOC_CMA * request.cma
    reserves = (ALLOC_HIGHATOMIC | ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK) * request.atomic
    least = zone.watermark_ok(order, zone.watermark[0], highest, flags | reserves)
    assert (rows[0]["available"] != "no") == least
    if least and rows[0]["available"] == "reclaim":
        assert not zone.watermark_ok(0, zone.watermark[1] + (1 << order) - 1, highest, flags)
    assert (rows[0]["why"] is None) == (rows[0]["available"] == "yes")


def test_fragmentation_is_named_as_the_reason_when_memory_is_free_in_small_pieces() -> None:
    _, image = fragmented("6.12")
    with opened(image) as kernel:
        result = run_one(kernel, Buddy(want=10))
    rows = frame(result, "want").filter((pl.col("zone") == "DMA32") & (pl.col("request") == "GFP_KERNEL"))
    [row] = rows.to_dicts()
    assert row["available"] == "no"
    assert row["usable"] > row["needed"]
    assert row["why"].startswith("no block of this order: fragmentation (index 9")
    orders = frame(result, "orders").filter(pl.col("zone") == "DMA32")
    assert orders["fragmentation_index"][10] > 500
    assert orders["unusable_index"][10] == 1000


def test_a_block_that_no_zone_has_is_a_finding_with_each_zones_reason() -> None:
    machine = Machine(profile("6.12").era, memory=48 << 20)
    with machine.running(machine.task("hog", 9), "vfs_write"):
        while machine.alloc_pages(0, GFP_HIGHUSER_MOVABLE) is not None:
            pass
    with opened(build(machine, profile("6.12"))) as kernel:
        result = run_one(kernel, Buddy(want=3))
    found = [each for each in result.findings if each.key == "no-block"]
    for each, request in zip(found, REQUESTS, strict=False):
        assert request.name in each.message
    for each in found:
        for zone in machine.zones:
            assert f"node 0 {zone.name}: " in each.message
    assert found
    assert found[0].table == "want"
    assert Query(found[0].where).table(result.tables["want"]).frame["request"].unique().to_list() == [
        REQUESTS[0].name
    ]


def test_an_order_that_does_not_exist_is_refused() -> None:
    _, image = guarded("6.12")
    with opened(image) as kernel, pytest.raises(UsageError, match="no order 11"):
        run_one(kernel, Buddy(want=11))


def test_the_indices_are_the_kernels() -> None:
    # One free page: an order-1 block fails for lack of memory, not because of fragmentation.
    assert fragmentation_index([1, 0, 0], 1) == -500
    # A thousand single pages: order 3 fails because of fragmentation.
    assert fragmentation_index([1000, 0, 0, 0], 3) == 874
    assert fragmentation_index([1000, 0, 0, 1], 3) == -1000
    assert fragmentation_index([0, 0], 1) == 0
    assert unusable_free_index([2, 1, 0], 1) == 500
    assert unusable_free_index([0, 0], 0) == 1000


@pytest.mark.parametrize(
    ("nr_free", "line"),
    [
        ([1, 0, 0], "-1.000  0.-500  0.-250 "),
        ([1000, 0, 0, 1], "-1.000 -1.000 -1.000 -1.000 "),
        ([1000, 0, 0, 0], "-1.000  0.499  0.749  0.874 "),
    ],
)
def test_an_index_is_printed_as_c_divides(nr_free: list[int], line: str) -> None:
    assert _extfrag_show(nr_free) == line


def test_extfrag_files_are_a_line_for_each_zone() -> None:
    machine, image = fragmented("6.12")
    with opened(image) as kernel:
        lines = b"".join(EXTFRAG.read(kernel, Ranges(kernel))).decode().splitlines()
        unusable = b"".join(UNUSABLE.read(kernel, Ranges(kernel))).decode().splitlines()
    assert len(lines) == len(unusable) == len(machine.zones)
    assert lines[0].startswith("Node 0, zone      DMA -1.000 ")
    assert unusable[0].startswith("Node 0, zone      DMA 0.000 ")
