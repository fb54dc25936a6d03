"""A guest that tells its hypervisor which memory is free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.mm import Mm
from .frames import syscall

if TYPE_CHECKING:
    from ..model import Machine

__all__ = ["balloon"]


def balloon(machine: Machine) -> None:
    """A process frees much, which is reported; then another frees more, just before the dump."""
    order = machine.era.pmd_order
    size = 1 << order
    first, second = machine.task("make", pid=500), machine.task("cc1plus", pid=733)
    before, after = Mm(machine, first), Mm(machine, second)
    with machine.running(first):
        vma = before.mmap(40 * size)
        for number in range(40):
            before.fault(vma, number * size, order=order)
    with machine.running(second):
        late = after.mmap(12 * size)
        for number in range(12):
            after.fault(late, number * size, order=order)
    with machine.running(first, *syscall(machine, "exit_group")):
        before.exit()
    # The worker waits two seconds, and comes again while there is more.
    for _ in range(10):
        machine.clock.advance(2.5)
    with machine.running(second, *syscall(machine, "exit_group")):
        after.exit()
