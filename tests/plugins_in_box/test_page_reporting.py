"""What the hypervisor was told on machines that are known, and why it was told no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import polars as pl
import pytest

from mmdump.errors import UnsupportedError
from mmdump.kernel import Kernel
from mmdump.render import Query
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump_page_reporting import Reported
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Boot, Machine
from mmdump_snapshots.model.gfp import GFP_HIGHUSER_MOVABLE
from mmdump_snapshots.model.page_isolation import start_isolate_page_range
from mmdump_snapshots.model.page_reporting import ReportingState
from mmdump_snapshots.model.pages import PageFlag
from mmdump_snapshots.model.truth import Truth
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.image import Image, build
from tests.snapshots.machines import PROFILES

[BALLOON] = [scenario for scenario in SCENARIOS if scenario.name == "balloon"]
HAVE_REPORTING = [name for name in PROFILES if profile(name).version >= BALLOON.since]


@cache
def balloon(name: str) -> tuple[Machine, Image]:
    # Pages of 16 KiB make a report of 1 GiB, and so much must be free besides.
    memory = 4 << 30 if profile(name).page_shift == 14 else None
    machine = BALLOON.play(profile(name), memory=memory)
    return machine, build(machine, profile(name), kaslr=4)


@contextmanager
def opened(image: Image) -> Iterator[Kernel]:
    with image.target() as target:
        yield Kernel(target)


def reported(machine: Machine, name: str = "6.12") -> Result:
    with opened(build(machine, profile(name))) as kernel:
        return run_one(kernel, Reported())


def blocks(result: Result, why: str) -> pl.DataFrame:
    return result.tables["blocks"].frame.filter(pl.col("why") == why)


def keys(result: Result) -> list[str]:
    return [each.key for each in result.findings]


def small_machine(*, device: bool = True, name: str = "6.12", **boot: object) -> Machine:
    machine = Machine(profile(name).era, memory=512 << 20, boot=Boot(page_reporting=device, **boot))
    for _ in range(10):
        machine.clock.advance(2.5)
    return machine


@pytest.mark.parametrize("name", HAVE_REPORTING)
def test_reported_blocks_are_those_that_the_machine_reported(name: str) -> None:
    machine, image = balloon(name)
    truth = Truth.of(machine).free
    assert len(truth.reported)
    with opened(image) as kernel:
        result = run_one(kernel, Reported())
        page_size = kernel.target.page_size
    told = blocks(result, "reported")
    assert told["blocks"].sum() == len(truth.reported)
    assert told["size"].sum() == truth.reported.pages * page_size
    assert told["order"].min() >= machine.page_reporting.min_order
    # Every block is in the table once.
    assert result.tables["blocks"].frame["size"].sum() == truth.pages * page_size
    zones = result.tables["zones"].frame
    assert zones["free"].sum() == truth.pages * page_size
    assert zones["reported"].sum() == told["size"].sum()
    assert result.findings == []
    assert not result.incomplete


@pytest.mark.parametrize("name", HAVE_REPORTING)
def test_what_was_freed_last_waits_for_the_worker(name: str) -> None:
    machine, image = balloon(name)
    with opened(image) as kernel:
        result = run_one(kernel, Reported())
    device = machine.page_reporting.pr_dev_info
    assert device is not None
    assert device.state is ReportingState.REQUESTED
    [row] = result.tables["device"].frame.to_dicts()
    assert row["registered"]
    assert row["enabled"]
    assert row["state"] == "requested"
    assert row["page_reporting_order"] == machine.page_reporting.min_order
    waiting = blocks(result, "requested")
    assert len(waiting)
    assert waiting["order"].min() >= machine.page_reporting.min_order
    small = blocks(result, "below_order")
    assert small["order"].max() < machine.page_reporting.min_order


@pytest.mark.parametrize("name", [name for name in PROFILES if name not in HAVE_REPORTING])
def test_a_kernel_without_free_page_reporting_says_so(name: str) -> None:
    machine = Machine(profile(name).era, memory=64 << 20)
    with pytest.raises(UnsupportedError, match=r"Linux 5\.7"):
        reported(machine, name)


def test_a_zone_near_its_low_watermark_is_left_alone() -> None:
    result = reported(small_machine())
    low = result.tables["zones"].frame.filter(pl.col("low_on_memory"))["zone"].to_list()
    # 16 MiB of DMA are less than one report of 32 blocks.
    assert low == ["DMA"]
    assert blocks(result, "watermark")["zone"].unique().to_list() == ["DMA"]
    assert blocks(result, "reported")["zone"].unique().to_list() == ["DMA32"]


def test_without_a_device_nothing_is_reported_and_the_reason_is_that() -> None:
    result = reported(small_machine(device=False))
    assert result.tables["blocks"].frame["why"].unique().to_list() == ["no_device"]
    assert "none ever was" in result.summary[1]


def test_what_a_device_was_told_stays_reported_when_it_is_gone() -> None:
    machine = small_machine()
    device = machine.page_reporting.pr_dev_info
    assert device is not None
    machine.page_reporting.unregister(device)
    result = reported(machine)
    assert blocks(result, "reported")["blocks"].sum() == len(Truth.of(machine).free.reported) > 0
    assert set(result.tables["blocks"].frame["why"]) == {"reported", "no_device"}
    assert "one was before" in result.summary[1]
    assert keys(result) == []


def test_isolated_blocks_are_not_reported() -> None:
    machine = small_machine()
    pfn = next(
        int(pfns[0])
        for (_, zone, order, _), pfns in Truth.of(machine).free.free.items()
        if zone == "DMA32" and order == 10
    )
    machine.pages.flags[pfn] &= ~int(PageFlag.REPORTED) & 0xFFFFFFFF
    assert start_isolate_page_range(machine, pfn, pfn + 1024)
    isolated = blocks(reported(machine), "isolated")
    assert isolated["blocks"].sum() > 0
    assert isolated["migratetype"].unique().to_list() == ["Isolate"]


def test_an_idle_worker_that_left_blocks_says_so() -> None:
    machine = small_machine()
    device = machine.page_reporting.pr_dev_info
    assert device is not None
    device.report = lambda _: -5
    with machine.running(machine.task("cc1", 5), "vfs_write"):
        held = machine.alloc_pages(10, GFP_HIGHUSER_MOVABLE)
        machine.free_pages(held, 10)
    machine.clock.advance(2.5)
    machine.clock.advance(2.5)
    assert device.state is ReportingState.IDLE
    result = reported(machine)
    assert blocks(result, "idle")["blocks"].sum() > 0


def _mark(machine: Machine, chosen: Callable[[int], bool], *, inside: int = 0) -> int:
    pfn = next(
        int(pfns[0])
        for (_, zone, order, _), pfns in Truth.of(machine).free.free.items()
        if zone == "DMA32" and chosen(order)
    )
    machine.pages.flags[pfn + inside] |= int(PageFlag.REPORTED)
    return pfn + inside


def test_a_reported_bit_inside_of_a_free_block_is_a_finding() -> None:
    machine = small_machine()
    pfn = _mark(machine, lambda order: order >= 2, inside=3)
    result = reported(machine)
    [finding] = result.findings
    assert finding.key == "reported-inside"
    assert "1 page has" in finding.message
    assert f"{pfn:#x}" in finding.message


def test_a_reported_block_below_the_reporting_order_is_a_finding() -> None:
    machine = small_machine()
    with machine.running(machine.task("cc1", 5), "vfs_write"):
        machine.alloc_pages(2, GFP_HIGHUSER_MOVABLE)
    _mark(machine, lambda order: order < 9)
    result = reported(machine)
    [finding] = result.findings
    assert finding.key == "reported-below-order"
    rows = Query(finding.where).table(result.tables[finding.table]).frame
    assert rows["blocks"].sum() == 1


def test_a_reported_block_where_there_never_was_a_device_is_a_finding() -> None:
    machine = small_machine(device=False)
    _mark(machine, lambda order: order == 10)
    result = reported(machine)
    [finding] = result.findings
    assert finding.key == "reported-without-device"


def test_uptodate_pages_in_use_are_not_reported() -> None:
    machine = small_machine(device=False)
    with machine.running(machine.task("cc1", 5), "vfs_write"):
        pfn = machine.alloc_pages(3, GFP_HIGHUSER_MOVABLE)
    machine.pages.flags[pfn : pfn + 8] |= int(PageFlag.REPORTED)
    assert reported(machine).findings == []
