"""Memory in pieces: nearly every block that movable pages leave has a page of the kernel's in it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ..model.gfp import Gfp
from ..model.mm import Mm
from .frames import syscall

if TYPE_CHECKING:
    from ..model import Machine
    from ..model.vma import Vma

__all__ = ["fragmentation"]

#: How many pages the kernel comes to have in each pageblock, at least.
_WANTED = 4


def fragmentation(machine: Machine) -> None:
    """A process takes all memory; the kernel takes pages among its own; then the process is gone.

    The kernel takes from the largest free block there is. Only when nothing is left but the single pages
    that the process lets go of here and there does it take those, in pageblocks that stay Movable, as hardly
    anything in them is free: none is worth claiming. (Up to 6.9 it then uses up what is free in that
    pageblock before it looks at another.)
    """
    hog, lister = machine.task("cc1", pid=411), machine.task("find", pid=420)
    mm = Mm(machine, hog)
    count = _spare(machine)
    vma = mm.mmap(count)
    with machine.running(hog):
        mm.populate(vma, 0, count)
    slots = _by_pageblock(machine, vma)
    taken: Counter[int] = Counter()
    while slots:
        machine.clock.advance(0.1)
        with machine.running(hog, "zap_page_range_single", *syscall(machine, "madvise")):
            for each in slots.values():
                slot = each.pop()
                mm.zap(vma, slot, slot + 1)
        machine.drain_all_pages()
        with machine.running(lister, "d_alloc_parallel", "__lookup_slow", "iterate_dir",
                             *syscall(machine, "getdents64")):  # fmt: skip
            for number in range(_spare(machine)):
                pfn = machine.alloc_pages(0, Gfp.KERNEL | Gfp.RECLAIMABLE if number % 3 else Gfp.KERNEL)
                if pfn is not None:
                    taken[pfn >> machine.era.pageblock_order] += 1
        slots = {block: left for block, left in slots.items() if left and taken[block] < _WANTED}
    machine.clock.advance(60.0)
    with machine.running(hog, *syscall(machine, "exit_group")):
        mm.exit()


def _spare(machine: Machine) -> int:
    """How many pages can be had before only those who cannot wait get any."""
    return sum(
        max(zone.free_pages - zone.watermark[0] - zone.lowmem_reserve[-1], 0) for zone in machine.zones
    )


def _by_pageblock(machine: Machine, vma: Vma) -> dict[int, list[int]]:
    """The slots of a VMA by the pageblock that they are mapped to, in no order."""
    slots: dict[int, list[int]] = {}
    for slot in range(vma.count):
        if pfn := vma.mapped(slot):
            slots.setdefault(pfn >> machine.era.pageblock_order, []).append(slot)
    for each in slots.values():
        machine.rng.shuffle(each)
    return slots
