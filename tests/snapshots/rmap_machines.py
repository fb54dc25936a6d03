"""Machines and shorthand for the tests of mappings, pins and contiguous allocation."""

from __future__ import annotations

from mmdump_snapshots.model.era import Era
from mmdump_snapshots.model.machine import Boot, Machine, Task
from mmdump_snapshots.model.mm import Mm

#: One release of every way to count mappings and pins.
VERSIONS = (
    (4, 19),
    (5, 4),
    (5, 10),
    (5, 15),
    (6, 1),
    (6, 2),
    (6, 6),
    (6, 12),
    (6, 18),
    (7, 1),
)


def booted(version: tuple[int, int], **boot: object) -> Machine:
    return Machine(Era(version), memory=192 << 20, boot=Boot(**boot))


def process(machine: Machine, comm: str = "app") -> Mm:
    return Mm(machine, new_task(machine, comm))


def new_task(machine: Machine, comm: str) -> Task:
    return machine.task(comm)


def free_pages(machine: Machine) -> int:
    """Free pages, those on per-CPU lists among them."""
    return sum(
        zone.nr_free(order) << order for zone in machine.zones for order in range(machine.era.max_order + 1)
    ) + sum(pcp.count for zone in machine.zones for pcp in zone.pcp)
