"""CMA areas: memory for contiguous allocations (mm/cma.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np

from .callchains import calls
from .contig import alloc_contig_range, free_contig_range
from .gfp import Gfp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .machine import Machine

__all__ = ["CmaArea", "cma_alloc", "cma_release"]


class CmaArea:
    """``struct cma``: memory kept for contiguous allocations, and lent to movable pages until then.

    :ivar order_per_bit: Each bit of the bitmap stands for ``1 << order_per_bit`` pages.
    :ivar bitmap: Which of them are allocated; bool, shape (count >> order_per_bit,).
    :ivar succeeded: Pages that were given out, ever.
    :ivar failed: Pages that were asked for in vain.
    """

    def __init__(
        self, machine: Machine, name: str, base_pfn: int, count: int, order_per_bit: int = 0
    ) -> None:
        self.machine = machine
        self.name = name
        self.base_pfn = base_pfn
        self.count = count
        self.order_per_bit = order_per_bit
        self.bitmap: NDArray[np.bool_] = np.zeros(count >> order_per_bit, np.bool_)
        self.succeeded = 0
        self.failed = 0

    @property
    def end_pfn(self) -> int:
        """One past the last page."""
        return self.base_pfn + self.count

    def bits(self, count: int) -> int:
        """``cma_bitmap_pages_to_bits()``."""
        return -(-count >> self.order_per_bit)

    def range(self, pfn: int, count: int) -> slice:
        """The bits of some of its pages."""
        first = (pfn - self.base_pfn) >> self.order_per_bit
        return slice(first, first + self.bits(count))

    def find(self, start: int, bits: int, align: int) -> int | None:
        """``bitmap_find_next_zero_area_off()``: the first free run of bits from a bit on.

        :param align: log2 of the alignment of its first PFN.
        """
        mask = (1 << max(align - self.order_per_bit, 0)) - 1
        offset = (self.base_pfn & ((1 << align) - 1)) >> self.order_per_bit
        while True:
            start = ((start + offset + mask) & ~mask) - offset
            if start + bits > len(self.bitmap):
                return None
            used = np.flatnonzero(self.bitmap[start : start + bits])
            if not len(used):
                return start
            start += int(used[-1]) + 1


def cma_alloc(machine: Machine, area: CmaArea, count: int, align: int = 0) -> int | None:
    """``cma_alloc()``: contiguous pages from an area; where a place is busy, the next is tried.

    :param align: log2 of the alignment, in pages.
    :return: The first PFN, or None. Each page has a reference.
    """
    bits, start = area.bits(count), 0
    names = ("__cma_alloc", "cma_alloc") if machine.era.version >= (6, 12) else ("cma_alloc",)
    with calls(machine, *names):
        while (bit := area.find(start, bits, align)) is not None:
            pfn = area.base_pfn + (bit << area.order_per_bit)
            area.bitmap[bit : bit + bits] = True
            error = alloc_contig_range(machine, pfn, pfn + count, Gfp.KERNEL)
            if not error:
                area.succeeded += count
                return pfn
            area.bitmap[bit : bit + bits] = False
            if error != errno.EBUSY:
                break
            start = bit + (1 << max(align - area.order_per_bit, 0))
    area.failed += count
    return None


def cma_release(machine: Machine, area: CmaArea, pfn: int, count: int) -> None:
    """``cma_release()``: give back what :func:`cma_alloc` returned."""
    if not area.base_pfn <= pfn <= pfn + count <= area.end_pfn:
        raise ValueError(f"pages {pfn} to {pfn + count} are not of CMA area {area.name}")
    with calls(machine, "cma_release"):
        free_contig_range(machine, pfn, count)
    area.bitmap[area.range(pfn, count)] = False
