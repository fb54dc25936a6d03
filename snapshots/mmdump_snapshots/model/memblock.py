"""Boot: memory before the buddy allocator, and how it gets there (mm/memblock.c, mm/mm_init.c, init/main.c).

What is reserved early stays reserved; the rest is handed over in the largest blocks that fit. Nothing is
done for each page, so that a machine of 64 GiB boots as one of 64 MiB.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

import numpy as np

from .cma import CmaArea
from .gfp import Gfp
from .pages import PageFlag, PageType
from .pcp import PerCpuPages, setup_pageset
from .zone import ZONE_NAMES, Migratetype, Node, Zone

if TYPE_CHECKING:
    from .era import Era
    from .machine import Machine

__all__ = ["boot", "nodes", "ram", "reserved_range"]

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
#: sizeof(struct page).
_STRUCT_PAGE = 64
#: ``sysctl_lowmem_reserve_ratio``, by zone.
_LOWMEM_RESERVE_RATIO = (256, 256, 32, 0)

_Ranges = tuple[tuple[int, int], ...]


def ram(era: Era, arch: str, memory: int) -> _Ranges:
    """The memory map: PFN ranges [start, end) of memory.

    A PC has holes below 1 MiB, and for PCI in the fourth GiB; arm64 machines begin at 1 GiB here.

    :param memory: Bytes.
    """
    if arch == "x86_64":
        low = min(memory, 3 * _GIB)
        ranges = [(0, 640 * _KIB), (_MIB, low)]
        if memory > low:
            ranges.append((4 * _GIB, 4 * _GIB + memory - low))
    elif arch == "aarch64":
        ranges = [(_GIB, _GIB + memory)]
    else:
        raise ValueError(f"no memory map for {arch}")
    return tuple((start >> era.page_shift, end >> era.page_shift) for start, end in ranges)


def reserved_range(era: Era, arch: str, memory: _Ranges, size: int | None) -> tuple[int, int]:
    """Where the kernel image is, and with it all that the kernel allocates before it has an allocator.

    :param size: Bytes; by default enough for the page array of every section, page tables and the rest.
    :raises ValueError: It does not fit.
    """
    if size is None:
        order = era.section_shift - era.page_shift
        sections = {n for start, end in memory for n in range(start >> order, ((end - 1) >> order) + 1)}
        size = 24 * _MIB + (len(sections) * (_STRUCT_PAGE << order)) * 102 // 100
    base = 16 * _MIB if arch == "x86_64" else _GIB + 2 * _MIB
    start = base >> era.page_shift
    end = start + -(-size >> era.page_shift)
    if not any(low <= start and end <= high for low, high in memory):
        raise ValueError(f"{size >> 20} MiB reserved at {base >> 20} MiB do not fit into memory")
    return start, end


def nodes(machine: Machine, count: int) -> list[Node]:
    """``free_area_init()``: nodes of about as much memory each, and their zones."""
    blocks = _clip(machine.ram, 0, machine.ram[-1][1])
    total = sum(end - start for start, end in blocks)
    section = 1 << (machine.era.section_shift - machine.era.page_shift)
    align = section if total // count >= section else 1 << machine.era.max_order
    bounds = [0]
    for number in range(1, count):
        # As many pages before it as its share, rounded down.
        at, left = 0, total * number // count
        for start, end in blocks:
            at = start + min(left, end - start)
            left -= min(left, end - start)
            if not left:
                break
        bounds.append(max(at & -align, bounds[-1] + align))
    bounds.append(machine.ram[-1][1])
    limits = _zone_limits(machine)
    return [
        Node(
            number,
            [
                Zone(number, name, found, machine.era.max_order + 1)
                for name, low, high in limits
                if (found := _clip(machine.ram, max(low, bounds[number]), min(high, bounds[number + 1])))
            ],
        )
        for number in range(count)
    ]


def _zone_limits(machine: Machine) -> list[tuple[str, int, int]]:
    """Which PFNs belong to which zone: (name, start, end)."""
    shift, end = machine.era.page_shift, machine.ram[-1][1]
    movable = end
    if machine.boot.movablecore:
        movable = (end - (machine.boot.movablecore >> shift)) & -(1 << machine.era.max_order)
    if machine.arch == "x86_64":
        dma, dma32 = 16 * _MIB >> shift, 4 * _GIB >> shift
    else:
        # All that 32 bits reach is in DMA (5.5), so that nothing is left for DMA32.
        dma = dma32 = 4 * _GIB >> shift
    points = [0, dma, dma32, movable, max(end, movable)]
    if movable < dma32:
        points[1:3] = min(dma, movable), movable
    return list(zip(ZONE_NAMES, points[:-1], points[1:], strict=True))


def _clip(ranges: _Ranges, low: int, high: int) -> _Ranges:
    """What of some ranges lies in [low, high)."""
    return tuple(
        (max(start, low), min(end, high)) for start, end in ranges if max(start, low) < min(end, high)
    )


def boot(machine: Machine) -> None:
    """``mm_core_init()`` and what follows, in the order that decides what page_owner gets to see."""
    areas = _reserve_cma(machine)
    machine.clock.tick(40_000_000)
    with machine.running(machine.current, "start_kernel", cpu=0):
        _memblock_free_all(machine, [(area.base_pfn, area.end_pfn) for area in areas])
        _init_per_zone_wmark_min(machine)
        for zone in machine.zones:
            zone.pcp = [PerCpuPages(machine, zone) for _ in range(machine.cpus)]
            setup_pageset(machine, zone)
        _early_allocations(machine)
    init = machine.new_task("swapper/0", pid=1)
    machine.current = init
    with machine.running(init, "kernel_init_freeable", "kernel_init", "ret_from_fork", cpu=0):
        machine.clock.tick(200_000_000)
        machine.page_ext.init()
        machine.clock.tick(50_000_000)
        for area in areas:
            _cma_activate_area(machine, area)
        machine.cma = areas
        for zone in machine.zones:
            setup_pageset(machine, zone)
        _init_per_zone_wmark_min(machine)
        machine.new_task("kthreadd", pid=2)
        machine.kworker = machine.new_task("kworker/0:1", pid=9)
        if machine.boot.page_reporting:
            with machine.calls("virtballoon_probe", "virtio_dev_probe"):
                machine.page_reporting.register()
    machine.clock.tick(1_000_000_000)
    # run_init_process()
    init.comm = "systemd"


def _early_allocations(machine: Machine) -> None:
    """What is allocated before page_ext is there: slabs for the first caches, tables, kernel stacks."""
    left = machine.boot.early_pages
    with machine.calls("mm_core_init" if machine.era.version >= (6, 4) else "mm_init"):
        while left > 0:
            order = min(machine.rng.choice((0, 0, 0, 1, 2, 3)), left.bit_length() - 1)
            if machine.alloc_pages(order, Gfp.KERNEL | (Gfp.COMP if order else Gfp(0))) is None:
                return
            left -= 1 << order


def _memblock_free_all(machine: Machine, kept: list[tuple[int, int]]) -> None:
    """``memblock_free_all()``: what nobody reserved goes to the buddy allocator."""
    held = sorted([*_reserved(machine), *kept])
    pages = machine.pages
    for start, end in held:
        for low, high in _clip(machine.ram, start, end):
            # reserve_bootmem_region()
            pages.flags[low:high] |= np.uint32(PageFlag.RESERVED)
            pages.refcount[low:high] = 1
    for zone in machine.zones:
        for start, end in zone.ram:
            at = start
            for low, high in held:
                if low < end and high > at:
                    _free_memory_core(machine, zone, at, max(low, at))
                    at = min(max(high, at), end)
            _free_memory_core(machine, zone, at, end)


def _reserved(machine: Machine) -> list[tuple[int, int]]:
    """``memblock.reserved``, without CMA. Page 0 is never allocated."""
    held = [machine.reserved]
    if machine.arch == "x86_64":
        # All of the first MiB since 5.13, for the sake of the BIOS; 64 KiB before.
        low = _MIB if machine.era.version >= (5, 13) else 64 * _KIB
        held.append((0, low >> machine.era.page_shift))
    return held


def _free_memory_core(machine: Machine, zone: Zone, start: int, end: int) -> None:
    """``__free_pages_memory()``: [start, end) in blocks as large as alignment and length allow.

    Blocks of the largest order have nothing to merge with: they are listed all at once.
    """
    if start >= end:
        return
    buddy = machine.buddy
    whole = 1 << buddy.max_order
    first, last = min(-(-start // whole) * whole, end), max(end & -whole, start)
    zone.managed += end - start
    at = start
    while at < end:
        if at == first and first < last:
            heads = slice(first, last, whole)
            machine.pages.type[heads] = PageType.BUDDY
            machine.pages.order[heads] = buddy.max_order
            zone.free_area[buddy.max_order].free_list[Migratetype.MOVABLE].extend(range(first, last, whole))
            zone.account_freepages(last - first, Migratetype.MOVABLE)
            at = last
            continue
        order = min((at & -at).bit_length() - 1 if at else buddy.max_order, buddy.max_order)
        order = min(order, (end - at).bit_length() - 1)
        buddy.free_one(zone, at, order, Migratetype.MOVABLE, tail=True, report=False)
        at += 1 << order


def _init_per_zone_wmark_min(machine: Machine) -> None:
    """``init_per_zone_wmark_min()``: how much is kept for those who cannot wait."""
    shift = machine.era.page_shift - 10
    low = [zone for zone in machine.zones if zone.name != "Movable"]
    managed = sum(zone.managed for zone in low)
    kbytes = min(max(isqrt((managed << shift) * 16), 128), 262144 if machine.era.version >= (5, 9) else 65536)
    for zone in machine.zones:
        share = (kbytes >> shift) * zone.managed // max(managed, 1)
        least = share if zone in low else min(max(zone.managed // 1024, 32), 128)
        step = max(share >> 2, zone.managed * 10 // 10000)
        zone.watermark = least, least + step, least + 2 * step
    for node in machine.nodes:
        for number, zone in enumerate(node.zones):
            above = node.zones[number + 1 :]
            ratio = _LOWMEM_RESERVE_RATIO[zone.index]
            for highest in range(zone.index + 1, len(ZONE_NAMES)):
                pages = sum(other.managed for other in above if other.index <= highest)
                zone.lowmem_reserve[highest] = pages // ratio if ratio else 0


def _reserve_cma(machine: Machine) -> list[CmaArea]:
    """``cma_declare_contiguous()``: from the end of memory down, each in one zone."""
    era = machine.era
    # CMA_MIN_ALIGNMENT: a pageblock; up to 5.17 the largest block, so that none could be of two types.
    align = 1 << (era.pageblock_order if era.version >= (5, 18) else max(era.max_order, era.pageblock_order))
    held = _reserved(machine)
    areas = []
    for name, size in machine.boot.cma:
        count = -(-(size >> era.page_shift) // align) * align
        base = next(
            (
                base
                for zone in reversed(machine.zones)
                for start, end in reversed(zone.ram)
                for base in range((end - count) & -align, start - 1, -align)
                if not any(low < base + count and base < high for low, high in held)
            ),
            None,
        )
        if base is None:
            raise ValueError(f"no room for the CMA area {name} of {size >> 20} MiB")
        held.append((base, base + count))
        areas.append(CmaArea(machine, name, base, count))
    return areas


def _cma_activate_area(machine: Machine, area: CmaArea) -> None:
    """``cma_activate_area()``: the area is lent to movable allocations."""
    zone = machine.zone_of(area.base_pfn)
    pages, buddy = machine.pages, machine.buddy
    with machine.calls("init_cma_reserved_pageblock", "cma_init_reserved_areas", "do_one_initcall"):
        for pfn in range(area.base_pfn, area.end_pfn, buddy.pageblock_nr_pages):
            rows = slice(pfn, pfn + buddy.pageblock_nr_pages)
            pages.flags[rows] &= np.uint32(~int(PageFlag.RESERVED) & 0xFFFFFFFF)
            pages.refcount[rows] = 0
            buddy.set_migratetype(pfn, Migratetype.CMA)
            pages.refcount[pfn] = 1
            zone.managed += buddy.pageblock_nr_pages
            machine.free_pages(pfn, buddy.pageblock_order)
        # free_pages() keeps one pageblock in stock, as it would a THP.
        machine.drain_all_pages()
