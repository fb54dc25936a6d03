"""Huge pages in every state that they can be mapped in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.mm import Mm
from ..model.pipe import Driver
from .frames import named, syscall

if TYPE_CHECKING:
    from ..model import Machine

__all__ = ["thp"]


def thp(machine: Machine) -> None:
    """Twenty of one process: some half unmapped, some shared with a child, mapped both ways, or pinned."""
    parent, child = machine.task("redis-server", pid=640), machine.task("redis-bgsave", pid=655)
    order = machine.era.pmd_order
    size = 1 << order
    mm = Mm(machine, parent)
    with machine.running(parent):
        vma = mm.mmap(20 * size)
        for number in range(20):
            mm.fault(vma, number * size, order=order)
    machine.clock.advance(5.0)
    with machine.running(
        parent, named(machine, (5, 10), "kernel_clone", "_do_fork"), *syscall(machine, "clone")
    ):
        forked = mm.fork(child)
    copy = forked.vmas[0]
    with machine.running(parent, "zap_page_range_single", *syscall(machine, "madvise")):
        # Half of each is given back: what remains keeps the whole.
        for number in range(4):
            mm.zap(vma, number * size, number * size + size // 2)
            forked.zap(copy, number * size, number * size + size // 2)
    with machine.running(child, "change_protection", *syscall(machine, "mprotect")):
        # Mapped by PMD here, page by page there.
        for number in range(4, 8):
            forked.split_pmd(copy, number * size)
    with machine.running(child, "unmap_vmas", *syscall(machine, "munmap")):
        forked.zap(copy, 12 * size, 20 * size)
    with machine.running(parent, "io_sqe_buffers_register", *syscall(machine, "io_uring_register")):
        Driver(machine).pin_user_pages(vma.mapped(19 * size + slot) for slot in range(8))
