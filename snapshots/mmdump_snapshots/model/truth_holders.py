"""Which place in memory has which reference to a page: the truth of ``mmdump holders``.

A driver's array of pages (:class:`.pipe.Driver`) is in no memory: nobody can find it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["PageHolder", "page_holders"]


@dataclass(frozen=True)
class PageHolder:
    """What holds one page.

    :param kind: ``pipe`` or ``bio``.
    :param pid: The process that has it; None for nobody.
    :param disk: That a bio is for; empty for others.
    :param counted: ``reference`` or ``pin``.
    :param count: How many it has.
    """

    pfn: int
    kind: str
    pid: int | None
    comm: str | None
    disk: str
    counted: str
    count: int


def page_holders(machine: Machine) -> list[PageHolder]:
    """All that hold pages, by PFN."""
    counted = "pin" if machine.era.direct_io_pins else "reference"
    found: Counter[tuple[int, str, int | None, str | None, str, str]] = Counter()
    for pipe in machine.pipes:
        pid, comm = (None, None) if pipe.task is None else (pipe.task.tgid, pipe.task.comm)
        found.update((pfn, "pipe", pid, comm, "", "reference") for pfn in pipe.buffers)
    for each in machine.direct_io:
        if not each.done:
            found.update(
                (pfn, "bio", each.task.tgid, each.task.comm, each.disk.name, counted)
                for bio in each.bios
                for pfn in bio.pfns
            )
    rows = sorted(found.items(), key=lambda row: (row[0][0], row[0][1], row[0][2] or 0, row[0][4]))
    return [PageHolder(*key, count) for key, count in rows]
