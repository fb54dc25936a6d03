"""The scenario of fragmented memory: what mmdump says of it, and that the machine is really so."""

from __future__ import annotations

from functools import cache

import pytest

from mmdump.kernel import Kernel
from mmdump.scan import run_one
from mmdump_buddy import DEBUG_GUARDPAGE, Buddy
from mmdump_page_owner import PAGE_OWNER, Pageblocks
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Machine
from mmdump_snapshots.model.gfp import Gfp
from mmdump_snapshots.model.zone import Migratetype
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.image import build
from tests.snapshots.machines import PROFILES

[SCENARIO] = [scenario for scenario in SCENARIOS if scenario.name == "fragmentation"]


@cache
def played(name: str, memory: int | None = None) -> Machine:
    return SCENARIO.play(profile(name), memory=memory)


def largest_free(machine: Machine) -> int:
    """The order of the largest block that is free, once nothing is in stock."""
    machine.drain_all_pages()
    return max(order for zone in machine.zones for order, area in enumerate(zone.free_area) if area.nr_free)


@pytest.mark.parametrize("name", PROFILES)
def test_no_pageblock_is_free_although_most_of_memory_is(name: str) -> None:
    machine = played(name)
    assert largest_free(machine) < machine.era.pageblock_order
    assert machine.nr_free_pages() > sum(zone.managed for zone in machine.zones) * 0.8
    assert not machine.page_alloc.failures


@pytest.mark.parametrize("name", ["4.19", "6.12", "6.12-arm64-16k"])
def test_a_larger_machine_is_as_fragmented(name: str) -> None:
    machine = played(name, 256 << 20)
    assert largest_free(machine) < machine.era.pageblock_order
    assert machine.alloc_pages(machine.era.pageblock_order, Gfp.KERNEL) is None


@pytest.mark.parametrize("name", PROFILES)
def test_nearly_every_movable_pageblock_has_pages_of_the_kernel(name: str) -> None:
    """Stolen one by one: the pageblocks stay Movable, as no more than a few of their pages were free."""
    machine, order = played(name), profile(name).era.pageblock_order
    with build(machine, profile(name)).target() as target:
        kernel = Kernel(target, [DEBUG_GUARDPAGE, PAGE_OWNER])
        asked = run_one(kernel, Buddy(want=order))
        blocks = run_one(kernel, Pageblocks())
    want = asked.tables["want"].frame.filter(request="GFP_KERNEL")
    assert want["available"].to_list() == ["no"] * len(machine.zones)
    assert all("fragmentation" in why for why in want["why"])
    assert "fragmented" in {each.key for each in asked.findings}
    found = blocks.tables["blocks"].frame.filter(migratetype="Movable")
    # All but those that boot, or what was left in one piece, took more of.
    whole = sum(zone.managed for zone in machine.zones) >> order
    polluted = int((found["polluting"] > 0).sum())
    assert polluted >= whole - 3
    # One call chain did it, whatever the type of its pages.
    rows = blocks.tables["polluters"].frame.filter(block_type="Movable").sort("blocks", descending=True)
    assert rows["blocks"][0] > polluted // 2
    assert any("d_alloc_parallel" in frame for frame in rows["frames"][0])
    kinds = machine.migratetype.tolist()
    assert kinds.count(Migratetype.UNMOVABLE) + kinds.count(Migratetype.RECLAIMABLE) <= 4
