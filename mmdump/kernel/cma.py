"""CMA areas (kernel: mm/cma.c, struct cma)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError

from mmdump.kernel.arrays import Bools
from mmdump.kernel.layout import c_string, find_object, has_member
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from drgn import Object, Program

    from mmdump.target import Reader

__all__ = ["CmaArea", "read_cma_areas", "read_cma_bitmap"]

#: No configuration has more areas (CONFIG_CMA_AREAS is at most 1000).
_MAX_AREAS = 1000
#: A bit stands for a pageblock at most.
_MAX_ORDER_PER_BIT = 13
#: 2**46 bytes in pages of 4 KiB.
_MAX_PAGES = 1 << 34


@dataclass(frozen=True)
class CmaArea:
    """An area reserved for contiguous allocation.

    :param base_pfn: Its first PFN.
    :param count: Its size in pages.
    :param order_per_bit: Each bit of the bitmap stands for 2**order_per_bit pages.
    :param bitmap: Address of the bitmap; a set bit is allocated.
    :param index: Its number in ``cma_areas``.
    :param number: The number of this range among those of the area; 0 before there were several.
    :param available: Pages of the whole area that are not allocated, as the kernel counts them
        (``available_count``); None where it does not.
    :param succeeded: Pages that the whole area gave out since boot, by its own count.
    :param failed: Pages that were asked of the whole area in vain since boot, by its own count; both are None
        where it has none (CONFIG_CMA_SYSFS).
    """

    name: str
    base_pfn: int
    count: int
    order_per_bit: int
    bitmap: int
    index: int = 0
    number: int = 0
    available: int | None = None
    succeeded: int | None = None
    failed: int | None = None

    @property
    def area(self) -> str:
        """The name of the area that it is a range of."""
        return self.name.removesuffix(f".{self.number}") if self.number else self.name

    @property
    def end_pfn(self) -> int:
        """One past its last PFN."""
        return self.base_pfn + self.count


def read_cma_areas(prog: Program, end_pfn: int) -> tuple[list[CmaArea], int]:
    """The areas of this kernel, and how many are left out because they are garbage or could not be read.

    An area of several ranges (6.15) is one for each, named NAME, NAME.1 and so on.

    :param end_pfn: One past the highest valid PFN.
    """
    table, count = find_object(prog, "cma_areas"), find_object(prog, "cma_area_count")
    if table is None or count is None:
        return [], 0
    several = has_member(prog.type("struct cma"), "nranges")
    # 6.15 counts what is not allocated.
    counted = has_member(prog.type("struct cma"), "available_count")
    # 5.13: "mm: cma: support sysfs".
    witness = has_member(prog.type("struct cma"), "nr_pages_failed")
    areas: list[CmaArea] = []
    garbage = 0
    for index in range(min(count.value_(), table.type_.length or 0, _MAX_AREAS)):
        try:
            area = table[index].read_()
            order, name = area.order_per_bit.value_(), c_string(area.name) or f"cma{index}"
            # 6.15 gave areas several ranges, each with a bitmap.
            parts = area.ranges[: _ranges(area)] if several else [area]
            available = area.available_count.value_() if counted else None
            succeeded = area.nr_pages_succeeded.counter.value_() if witness else None
            failed = area.nr_pages_failed.counter.value_() if witness else None
        except FaultError:
            garbage += 1
            continue
        for number, part in enumerate(parts):
            base, pages, bitmap = part.base_pfn.value_(), part.count.value_(), part.bitmap.value_()
            whole = order <= _MAX_ORDER_PER_BIT and pages % (1 << order) == 0
            if 0 < pages <= _MAX_PAGES and base + pages <= end_pfn and whole and bitmap:
                full = f"{name}.{number}" if number else name
                area_counts = available, succeeded, failed
                areas.append(CmaArea(full, base, pages, order, bitmap, index, number, *area_counts))
            else:
                # An area that failed at boot has no pages (count 0).
                garbage += pages != 0
    return areas, garbage


def _ranges(area: Object) -> int:
    """How many ranges an area has, as far as that can be believed."""
    return min(max(area.nranges.value_(), 0), area.ranges.type_.length or 0)


def read_cma_bitmap(reader: Reader, area: CmaArea) -> Bools | None:
    """Which pages of an area are allocated, one truth value per page; None where it is not in the dump."""
    bits = area.count >> area.order_per_bit
    chunk = reader.read(area.bitmap, (bits + 63) // 64 * 8)
    if (chunk.status != ReadStatus.READ).any():
        return None
    allocated = np.unpackbits(chunk.data, bitorder="little")[:bits].astype(bool)
    return np.repeat(allocated, 1 << area.order_per_bit)
