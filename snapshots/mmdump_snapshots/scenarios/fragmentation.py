"""Memory in pieces: nearly every block that movable pages leave has a page of the kernel's in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.gfp import Gfp
from ..model.mm import Mm
from .frames import syscall

if TYPE_CHECKING:
    from ..model import Machine

__all__ = ["fragmentation"]

#: Of so many movable pages one makes room for the kernel's.
_ONE_IN = 200


def fragmentation(machine: Machine) -> None:
    """A process takes all memory; the kernel takes pages among its own; then the process is gone."""
    hog, lister = machine.task("cc1", pid=411), machine.task("find", pid=420)
    mm = Mm(machine, hog)
    count = sum(zone.free_pages for zone in machine.zones) - 600
    vma = mm.mmap(count)
    with machine.running(hog):
        mm.populate(vma, 0, count)
    for number, slot in enumerate(range(0, count, _ONE_IN)):
        machine.clock.advance(0.01)
        with machine.running(hog, "zap_page_range_single", *syscall(machine, "madvise")):
            mm.zap(vma, slot, slot + 1)
        machine.drain_all_pages()
        with machine.running(lister, "d_alloc_parallel", "__lookup_slow", "iterate_dir",
                             *syscall(machine, "getdents64")):  # fmt: skip
            machine.alloc_pages(0, Gfp.KERNEL | Gfp.RECLAIMABLE if number % 3 else Gfp.KERNEL)
    machine.clock.advance(60.0)
    with machine.running(hog, *syscall(machine, "exit_group")):
        mm.exit()
