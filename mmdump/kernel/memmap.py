"""Which PFNs have a ``struct page``, and where: memory sections, valid ranges, the page array.

Mirrors ``include/linux/mmzone.h`` and ``mm/sparse.c`` for SPARSEMEM_VMEMMAP.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import TypeKind, offsetof, sizeof

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump.kernel.arrays import I64, U64, Bools, Struct
from mmdump.kernel.layout import byteorder, find_object, find_type, has_member, struct_dtype
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.target import Target

__all__ = ["RANGE_PAGES", "MemMap", "Sections", "read_memmap"]

#: Pages in one range: few enough for the caches, so many that what a range costs whatever its length hardly
#: matters; and no folio of the buddy allocator crosses one.
RANGE_PAGES = 1 << 17

#: Sub-sections are 2 MiB whatever the page size (SUBSECTION_SHIFT).
_SUBSECTION_SHIFT = 21
#: LENGTH(mem_section) where VMCOREINFO is silent: 2**46 bytes in 128 MiB sections, 128 to a root.
_DEFAULT_ROOTS = 4096
#: Sections of 1 GiB are the largest there are (arm64 with 64 KiB pages has 512 MiB).
_MAX_SECTION_BITS = 34
#: More than any configuration has; beyond, the table is garbage.
_MAX_ROOTS = 1 << 20
_MAX_SECTIONS = 1 << 22


@dataclass(frozen=True)
class Sections:
    """The present memory sections, as columns in ascending order of section number.

    :param number: Section numbers, int64.
    :param page_ext: Value of ``mem_section.page_ext`` (biased, see :mod:`mmdump.kernel.page_ext`), uint64.
    :param pageblock_flags: Address of the section's pageblock bitmap, uint64; 0 where there is none.
    :param pages: Pages per section.
    """

    number: I64
    page_ext: U64
    pageblock_flags: U64
    pages: int

    def index(self, pfn: int) -> int:
        """The row of the section that holds a PFN, or -1 where it is not present."""
        wanted = pfn // self.pages
        row = int(np.searchsorted(self.number, wanted))
        return row if row < len(self.number) and self.number[row] == wanted else -1

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Cut [start, end) at section boundaries: (row or -1, first PFN, end PFN)."""
        while start < end:
            stop = min(end, (start // self.pages + 1) * self.pages)
            yield self.index(start), start, stop
            start = stop


@dataclass(frozen=True)
class MemMap:
    """The page array. Plain data: reading it needs no debug info.

    :param vmemmap: Address of the ``struct page`` of PFN 0.
    :param page_size: ``sizeof(struct page)``, the stride of the array.
    :param ranges: Valid PFN ranges, ascending and disjoint, int64 of shape (n, 2): start and end.
    :param sections: The memory sections behind them.
    :param unreadable_sections: Parts of the section table that could not be read (roots, and maps of
        sub-sections); their pages are unknown.
    """

    vmemmap: int
    page_size: int
    ranges: I64
    sections: Sections
    unreadable_sections: int = 0

    @property
    def pages(self) -> int:
        """How many pages have a ``struct page``."""
        return int((self.ranges[:, 1] - self.ranges[:, 0]).sum())

    @property
    def end_pfn(self) -> int:
        """One past the highest valid PFN; 0 where there is none."""
        return int(self.ranges[-1, 1]) if len(self.ranges) else 0

    def address(self, pfn: int) -> int:
        """The address of a PFN's ``struct page``."""
        return self.vmemmap + pfn * self.page_size

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Cut the valid ranges at multiples of :data:`RANGE_PAGES`: (start PFN, end PFN)."""
        for first, last in self.ranges.tolist():
            start = first
            while start < last:
                end = min(last, (start // RANGE_PAGES + 1) * RANGE_PAGES)
                yield start, end
                start = end

    def valid(self, pfn: I64) -> Bools:
        """Which PFNs have a ``struct page``, for an array of PFNs of any shape."""
        if not len(self.ranges):
            return np.zeros(np.shape(pfn), bool)
        row = np.searchsorted(self.ranges[:, 0], pfn, side="right") - 1
        return (row >= 0) & (pfn < self.ranges[row, 1])


def read_memmap(target: Target) -> MemMap:
    """Read the section table of a kernel with SPARSEMEM_VMEMMAP.

    Mirrors ``pfn_valid()``.

    :raises UnsupportedError: This kernel has another memory model.
    :raises IncompleteError: The section table is not in the dump.
    """
    prog = target.prog
    page = find_type(prog, "struct page")
    if page is None:
        raise UnsupportedError("the debug info describes no struct page", "Is it the kernel's vmlinux?")
    section = find_type(prog, "struct mem_section")
    vmemmap = find_object(prog, "vmemmap")
    if section is not None and vmemmap is None and find_object(prog, "vmemmap_populate") is not None:
        raise IncompleteError("the kernel's memory section table is damaged: it leads to no page array")
    if section is None or vmemmap is None:
        raise UnsupportedError(
            "this kernel's memory model is not SPARSEMEM with a virtual memory map, the only one mmdump reads"
        )
    fields = {
        "section_mem_map": ("section_mem_map",),
        "usage": ("usage",),  # 5.3
        "pageblock_flags": ("pageblock_flags",),  # up to 5.2
        "page_ext": ("page_ext",),  # only with CONFIG_PAGE_EXTENSION
    }
    dtype = struct_dtype(prog, section, fields, optional=("usage", "pageblock_flags", "page_ext"))
    number, rows, unreadable = _section_table(target, dtype)
    # Section flags are an enum since 6.0; macros of the same values before.
    valid = rows["section_mem_map"] & (1 << _constant(prog, "SECTION_HAS_MEM_MAP_BIT", 1)) != 0
    section_pages = _section_pages(target)
    if target.dump is not None:
        # The kernel knows of no memory beyond what the dump knows of. Garbage does.
        valid &= number * section_pages < _end_pfn(target)
    number, rows = number[valid], rows[valid]
    early = rows["section_mem_map"] & (1 << _constant(prog, "SECTION_IS_EARLY_BIT", 3)) != 0
    ext = rows["page_ext"] if "page_ext" in (dtype.names or ()) else np.zeros(len(rows))

    # 5.3 put the section's bitmaps behind mem_section.usage.
    usage = find_type(prog, "struct mem_section_usage") if "usage" in (dtype.names or ()) else None
    bitmap = rows["pageblock_flags" if usage is None else "usage"].astype(np.uint64)
    if usage is not None:
        bitmap[bitmap != 0] += np.uint64(offsetof(usage, "pageblock_flags"))
    sections = Sections(
        number,
        ext.astype(np.uint64),
        bitmap,
        section_pages,
    )
    if usage is not None and has_member(usage, "subsection_map"):
        maps = offsetof(usage, "subsection_map")
        ranges, lost = _valid_ranges(
            target, sections, early, rows["usage"].astype(np.uint64) + np.uint64(maps)
        )
        unreadable += lost
    else:
        ranges = _merge(number * sections.pages, (number + 1) * sections.pages)
    return MemMap(vmemmap.value_(), sizeof(page), ranges, sections, unreadable)


def _section_pages(target: Target) -> int:
    """PAGES_PER_SECTION.

    :raises IncompleteError: SECTION_SIZE_BITS is nothing that a kernel has.
    """
    bits = _constant(target.prog, "SECTION_SIZE_BITS")
    if not _SUBSECTION_SHIFT + 3 <= bits <= _MAX_SECTION_BITS:
        raise IncompleteError(f"the dump says that memory sections have 2**{bits} bytes, which is garbage")
    return 1 << (bits - target.page_shift)


def _end_pfn(target: Target) -> int:
    """One past the last PFN that the dump knows of."""
    assert target.dump is not None
    coverage = target.dump.coverage
    return coverage.end_pfn * coverage.page_size // target.page_size


def _constant(prog: Program, name: str, default: int | None = None) -> int:
    found = find_object(prog, name)
    if found is not None:
        return int(found.value_())
    if default is None:
        raise UnsupportedError(f"neither the dump nor its debug info says {name}")
    return default


def _section_table(target: Target, dtype: np.dtype[np.void]) -> tuple[I64, Struct, int]:
    """Every row of the section table: numbers, structures, and how many roots could not be read.

    With SPARSEMEM_EXTREME ``mem_section`` points to an array of pointers (since 4.15) to roots, each of
    SECTIONS_PER_ROOT sections.
    """
    mem_section = target.prog["mem_section"]
    if mem_section.type_.unaliased().kind != TypeKind.POINTER:
        raise UnsupportedError("this kernel's section table is a static array, which mmdump cannot read yet")
    per_root = _constant(target.prog, "SECTIONS_PER_ROOT")
    # The number of roots is a macro; makedumpfile needs it too, so it is in VMCOREINFO.
    try:
        roots = int(target.vmcoreinfo["LENGTH(mem_section)"])
    except (KeyError, ValueError):
        roots = 0
    if not 0 < roots <= _MAX_ROOTS:
        roots = _DEFAULT_ROOTS
    table = target.reader.read(mem_section.value_(), roots * target.prog.type("void *").size)
    pointers = table.data.view(byteorder(target.prog) + "u8")
    numbers = []
    parts = []
    missing = int((table.status == ReadStatus.UNREADABLE).sum())
    for root in np.flatnonzero(pointers).tolist():
        chunk = target.reader.read(int(pointers[root]), per_root * dtype.itemsize)
        missing += bool((chunk.status == ReadStatus.UNREADABLE).any())
        numbers.append(np.arange(root * per_root, (root + 1) * per_root))
        parts.append(chunk.data.view(dtype))
        if len(parts) * per_root > _MAX_SECTIONS:
            raise IncompleteError("the kernel's memory section table is garbage: it has no end")
    if not parts:
        raise IncompleteError("the kernel's memory section table is not in the dump")
    return np.concatenate(numbers), np.concatenate(parts), missing


def _valid_ranges(target: Target, sections: Sections, early: Bools, maps: U64) -> tuple[I64, int]:
    """PFN ranges of the sections: whole for early ones, by their map of 2 MiB sub-sections for others.

    Mirrors ``pfn_section_valid()``. A sub-section map that cannot be read leaves its section out.

    :return: The ranges, and how many maps could not be read.
    """
    pages = sections.pages
    starts = [sections.number[early] * pages]
    ends = [(sections.number[early] + 1) * pages]
    sub = 1 << (_SUBSECTION_SHIFT - target.page_shift)
    lost = 0
    for row in np.flatnonzero(~early).tolist():
        chunk = target.reader.read(int(maps[row]), pages // sub // 8)
        lost += bool((chunk.status == ReadStatus.UNREADABLE).any())
        bits = np.unpackbits(chunk.data, bitorder="little")
        present = int(sections.number[row]) * pages + np.flatnonzero(bits) * sub
        starts.append(present)
        ends.append(present + sub)
    return _merge(np.concatenate(starts), np.concatenate(ends)), lost


def _merge(starts: I64, ends: I64) -> I64:
    """Join ranges that touch; the ranges do not overlap."""
    if not len(starts):
        return np.empty((0, 2), np.int64)
    order = np.argsort(starts)
    starts, ends = starts[order], ends[order]
    first = np.concatenate(([True], starts[1:] != ends[:-1]))
    last = np.concatenate((first[1:], [True]))
    return np.stack([starts[first], ends[last]], axis=1)
