"""The model's machine: memory map, zones, nodes, boot, tasks, time and objects."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import mmdump_snapshots
from mmdump_snapshots.model import Boot, Era, Gfp, Machine, Migratetype
from mmdump_snapshots.model.clock import Clock
from mmdump_snapshots.model.pages import PageFlag, PageType
from mmdump_snapshots.model.truth_free import free_truth

VERSIONS = [(4, 19), (5, 4), (5, 10), (5, 15), (6, 1), (6, 6), (6, 12), (6, 18), (7, 1)]
QUIET = Boot(page_owner=False, page_pinner=False)
GIB = 1 << 30


def zones(machine):
    return [(zone.node, zone.name) for zone in machine.zones]


# Memory.


def test_the_memory_of_a_small_pc():
    """e820: a hole below 1 MiB; all of the first MiB is reserved since 5.13"""
    machine = Machine(Era((6, 12)))
    assert machine.ram == ((0, 160), (256, 65536))
    assert zones(machine) == [(0, "DMA"), (0, "DMA32")]
    dma, dma32 = machine.zones
    assert (dma.start_pfn, dma.spanned, dma.present, dma.managed) == (0, 4096, 4000, 3840)
    assert (dma32.start_pfn, dma32.end_pfn) == (4096, 65536)
    assert machine.pages.has(0, PageFlag.RESERVED)
    assert Machine(Era((5, 4))).zones[0].managed == 3984


def test_the_memory_of_a_large_pc():
    """A hole for PCI in the fourth GiB"""
    machine = Machine(Era((6, 12)), memory=8 * GIB, boot=QUIET)
    assert machine.ram[1:] == ((256, 3 * GIB >> 12), (4 * GIB >> 12, 9 * GIB >> 12))
    assert zones(machine) == [(0, "DMA"), (0, "DMA32"), (0, "Normal")]
    assert machine.zone_of(4 * GIB >> 12).name == "Normal"
    with pytest.raises(LookupError):
        machine.zone_of(10 * GIB >> 12)


@pytest.mark.parametrize(("shift", "block"), [(12, 9), (14, 11)])
def test_an_arm64_machine(shift, block):
    """RAM begins at 1 GiB; with pages of 16 KiB a pageblock is as large as the largest block"""
    machine = Machine(Era((6, 12), shift), arch="aarch64", memory=512 << 20)
    assert machine.ram == ((GIB >> shift, (GIB + (512 << 20)) >> shift),)
    assert machine.reserved[0] == (GIB + (2 << 20)) >> shift
    assert zones(machine) == [(0, "DMA")]
    assert machine.era.pageblock_order == block
    pfn = machine.alloc_pages(2)
    machine.free_pages(pfn, 2)
    with pytest.raises(ValueError, match="riscv"):
        Machine(Era((6, 12)), arch="riscv")


def test_zones_of_several_nodes():
    """free_area_init(): shares of memory, at boundaries of sections"""
    machine = Machine(Era((6, 12)), memory=8 * GIB, nodes=2, boot=QUIET)
    assert zones(machine) == [(0, "DMA"), (0, "DMA32"), (0, "Normal"), (1, "Normal")]
    bound = machine.nodes[1].zones[0].start_pfn
    assert bound % (128 << 20 >> 12) == 0
    shares = [sum(zone.present for zone in node.zones) for node in machine.nodes]
    assert abs(shares[0] - shares[1]) <= 128 << 20 >> 12
    assert machine.node_of(bound - 1).number == 0
    assert machine.node_of(bound).number == 1


def test_without_movablecore_there_is_no_movable_zone_wherever_memory_ends() -> None:
    machine = Machine(Era((6, 12)), memory=98 << 20)
    assert [name for _, name in zones(machine)] == ["DMA", "DMA32"]


def test_a_movable_zone():
    """movablecore="""
    machine = Machine(Era((6, 12)), memory=512 << 20, boot=Boot(movablecore=128 << 20))
    assert zones(machine)[-1] == (0, "Movable")
    movable = machine.zones[-1]
    assert movable.present == 128 << 20 >> 12
    assert machine.zone_of(machine.alloc_pages(0, Gfp.HIGHUSER_MOVABLE)) is movable
    assert machine.zone_of(machine.alloc_pages(0, Gfp.KERNEL)) is not movable


def test_zonelists():
    """build_zonelists(): the own node from the highest zone down, then the other; none above the one asked"""
    machine = Machine(Era((6, 12)), memory=512 << 20, nodes=2, boot=QUIET)

    def names(gfp, node):
        return [(zone.node, zone.name) for zone in machine.page_alloc.zonelist(int(gfp), node)[0]]

    assert names(Gfp.KERNEL, 0) == [(0, "DMA32"), (0, "DMA"), (1, "DMA32")]
    assert names(Gfp.KERNEL, 1) == [(1, "DMA32"), (0, "DMA32"), (0, "DMA")]
    assert names(Gfp.DMA, 1) == [(0, "DMA")]
    assert names(Gfp.KERNEL | Gfp.THISNODE, 1) == [(1, "DMA32")]


def test_memory_of_another_node_is_used_when_the_own_is_short():
    """get_page_from_freelist(): CPUs are dealt out to nodes"""
    machine = Machine(Era((6, 12)), memory=512 << 20, nodes=2, boot=QUIET)
    assert machine.node_of(machine.alloc_pages(4)).number == 0
    with machine.running(machine.current, cpu=1):
        assert machine.node_of(machine.alloc_pages(4)).number == 1
    assert machine.node_of(machine.alloc_pages(4, node=1)).number == 1
    while (pfn := machine.alloc_pages(9, node=1)) is not None and machine.node_of(pfn).number == 1:
        pass
    assert machine.node_of(pfn).number == 0
    assert machine.alloc_pages(9, Gfp.KERNEL | Gfp.THISNODE, node=1) is None


def test_watermarks():
    """__setup_per_zone_wmarks(): in proportion to the zones"""
    machine = Machine(Era((6, 12)), memory=GIB, boot=QUIET)
    for zone in machine.zones:
        least, low, high = zone.watermark
        assert 0 < least < low < high < zone.managed
        assert high - low == low - least
    dma, dma32 = machine.zones
    assert dma.lowmem_reserve[2] == dma32.managed // 256
    assert dma32.lowmem_reserve == [0, 0, 0, 0]


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        Machine(Era((6, 12)), memory=32 << 20)
    with pytest.raises(ValueError, match="no room for the CMA area"):
        Machine(Era((6, 12)), boot=Boot(cma=(("too much", GIB),)))


# Boot.


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_cma_areas_are_lent_to_movable_pages(version):
    """cma_activate_area(), init_cma_reserved_pageblock()"""
    machine = Machine(Era(version), boot=Boot(cma=(("first", 8 << 20), ("second", 4 << 20))))
    first, second = machine.cma
    assert (first.name, first.count, second.name, second.count) == ("first", 2048, "second", 1024)
    assert second.base_pfn + second.count <= first.base_pfn
    for area in (first, second):
        rows = slice(area.base_pfn, area.base_pfn + area.count)
        assert not machine.pages.flags[rows].any()
        assert not machine.pages.refcount[rows].any()
        blocks = slice(area.base_pfn >> 9, (area.base_pfn + area.count) >> 9)
        assert (machine.migratetype[blocks] == Migratetype.CMA).all()
    assert machine.zone_of(first.base_pfn).free_cma == 2048 + 1024


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_what_was_allocated_before_page_owner_has_no_stack(version):
    """page_ext_init() comes after the first allocations"""
    machine = Machine(Era(version), boot=Boot(early_pages=100))
    early = machine.page_owner.early_handle
    found = np.flatnonzero(machine.page_owner.owners.handle == early)
    assert len(found) >= 100
    later = machine.alloc_pages(0)
    assert machine.page_owner.owners.handle[later] not in (0, early)


def test_who_runs_during_boot():
    """kernel_init() is called swapper/0 until it runs init"""
    machine = Machine(Era((6, 12)))
    assert [(task.comm, task.pid) for task in machine.tasks[:3]] == [
        ("swapper/0", 0),
        ("systemd", 1),
        ("kthreadd", 2),
    ]
    assert machine.current.pid == 1
    assert machine.stack() == ()
    assert machine.comms[:2] == ["", "swapper/0"]


def test_the_same_seed_is_the_same_machine():
    one, other = (Machine(Era((6, 12)), seed=5) for _ in range(2))
    assert {key: pfns.tolist() for key, pfns in free_truth(one).free.items()} == {
        key: pfns.tolist() for key, pfns in free_truth(other).free.items()
    }
    assert one.clock.now == other.clock.now


def test_a_large_machine_boots_fast_and_small():
    """memblock_free_all(): nothing is done page by page"""
    script = (
        "import resource, time; from mmdump_snapshots.model import *; at = time.process_time();"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "m = Machine(Era((6, 12)), memory=64 << 30, boot=Boot(page_owner=False, page_pinner=False));"
        "rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before;"
        "print(time.process_time() - at, rss >> 10, m.nr_free_pages())"
    )
    path = str(Path(mmdump_snapshots.__file__).parents[1])
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    ).stdout.split()
    assert float(out[0]) < 2
    assert int(out[1]) < 200
    assert int(out[2]) > 60 * GIB >> 12


def test_steps_are_cheap():
    """Thousands of steps in a test"""
    machine = Machine(Era((6, 12)), boot=QUIET)
    at = time.process_time()
    held = []
    for step in range(10_000):
        if step % 3 == 2:
            machine.free_pages(*held.pop(step * 7 % len(held)))
        else:
            order = (0, 0, 0, 1, 2, 4)[step % 6]
            held.append((machine.alloc_pages(order), order))
    assert time.process_time() - at < 5


# Tasks and call chains.


def test_call_chains():
    """Innermost first; another task has a stack of its own"""
    machine = Machine(Era((6, 12)))
    task, other = machine.new_task("app"), machine.new_task("other")
    with machine.running(task, "vfs_read", "ksys_read", cpu=1):
        with machine.calls("filemap_get_pages", "filemap_read"):
            assert machine.stack("alloc_pages") == (
                "alloc_pages",
                "filemap_get_pages",
                "filemap_read",
                "vfs_read",
                "ksys_read",
            )
            with machine.running(other, "do_exit"):
                assert (machine.current, machine.stack(), machine.cpu) == (other, ("do_exit",), 1)
        assert machine.stack() == ("vfs_read", "ksys_read")
        with pytest.raises(KeyError), machine.calls("broken"):
            raise KeyError
        assert machine.stack() == ("vfs_read", "ksys_read")
    assert (machine.current.pid, machine.cpu, machine.stack()) == (1, 0, ())


def test_tasks_by_name():
    machine = Machine(Era((6, 12)))
    task = machine.task("nic-irq", pid=80)
    assert machine.task("nic-irq") is task
    assert machine.task("nic-irq", pid=81) is not task
    assert machine.new_task("thread", tgid=80).tgid == 80
    assert machine.new_task("alone").pid == machine.tasks[-1].tgid == 83


# Time.


def test_work_runs_when_it_is_due():
    """schedule_delayed_work(), cancel_delayed_work_sync()"""
    clock, seen = Clock(), []
    clock.schedule(2, lambda: seen.append(("second", clock.now)))
    clock.schedule(1, lambda: clock.schedule(0.5, lambda: seen.append(("queued by work", clock.now))))
    gone = clock.schedule(1, lambda: seen.append(("cancelled", clock.now)))
    clock.cancel(gone)
    assert clock.pending == 2
    clock.advance(1.75)
    assert seen == [("queued by work", 1_500_000_000)]
    clock.tick(10)
    assert clock.now == 1_750_000_010
    clock.advance(1)
    assert seen[1:] == [("second", 2_000_000_000)]
    assert clock.now == 2_750_000_010


# Objects.


def test_objects_share_slabs():
    """kmem_cache_alloc(), kmem_cache_free()"""
    machine = Machine(Era((6, 12)), boot=QUIET)
    free = machine.nr_free_pages(pcp=True)
    addresses = [machine.objects.alloc("anon_vma", 104) for _ in range(39)]
    assert [b - a for a, b in pairwise(addresses)] == [104] * 38
    slab = addresses[0] >> 12
    assert machine.pages.type[slab] == PageType.SLAB
    assert machine.objects.alloc("anon_vma", 104) >> 12 != slab
    assert machine.objects.alloc("inode", 104) >> 12 not in {slab, addresses[0] >> 12}
    for address in addresses:
        machine.objects.free(address)
    assert machine.pages.type[slab] == PageType.NONE
    assert machine.nr_free_pages(pcp=True) == free - 2
    with pytest.raises(KeyError):
        machine.objects.free(addresses[0])


def test_large_objects_have_large_slabs():
    """slub_max_order"""
    machine = Machine(Era((6, 12)), boot=QUIET)
    head = machine.objects.alloc("task_struct", 8192) >> 12
    assert machine.pages.has(head, PageFlag.HEAD)
    assert machine.pages.order[head] == 3
    with pytest.raises(ValueError, match="no slab"):
        machine.objects.alloc("too large", 40000)
