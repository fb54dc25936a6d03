"""Which vmalloc area, and which CPU's per-CPU memory, a physical page is part of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError

from mmdump.kernel.arrays import I64, U64
from mmdump.kernel.layout import byteorder, find_object
from mmdump.kernel.percpu import possible_cpus
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["Area", "Areas", "PerCpu"]

#: Areas, and pages of them, that are looked at.
_MAX_AREAS = 1 << 20
_MAX_PAGES = 1 << 24


@dataclass(frozen=True)
class Area:
    """A ``struct vm_struct``. Plain data.

    :param pages: Address of its array of pages; 0 for none.
    :param caller: Address of the code that made it.
    """

    start: int
    size: int
    pages: int
    count: int
    caller: int


class Areas:
    """The vmalloc areas, and their pages, read when first needed."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.complete = True

    @cached_property
    def rows(self) -> list[Area]:
        """All areas, in order of address."""
        from drgn.helpers.linux.mm import for_each_vmap_area

        found: dict[int, Area] = {}
        try:
            for number, vmap in enumerate(for_each_vmap_area(self._kernel.target.prog)):
                # A list that is a circle would go on for ever.
                if number > _MAX_AREAS or vmap.value_() in found:
                    self.complete = False
                    break
                vm = vmap.vm.read_()
                if vm:
                    vm = vm[0].read_()
                    found[vmap.value_()] = Area(
                        vm.addr.value_(),
                        vm.size.value_(),
                        vm.pages.value_(),
                        vm.nr_pages.value_(),
                        vm.caller.value_(),
                    )
        except (FaultError, LookupError, AttributeError):
            self.complete = False
        return sorted(found.values(), key=lambda area: area.start)

    @cached_property
    def _pages(self) -> tuple[I64, I64, I64]:
        """PFNs of all pages of areas, ascending; of each the area, and which page of it it is."""
        memmap, reader = self._kernel.memmap, self._kernel.target.reader
        word = byteorder(self._kernel.target.prog) + "u8"
        pfns, areas, places = [], [], []
        left = _MAX_PAGES
        for index, area in enumerate(self.rows):
            count = min(area.count, area.size >> self._kernel.target.page_shift, left)
            if not area.pages or not count:
                continue
            left -= count
            chunk = reader.read(area.pages, 8 * count)
            if len(chunk.data) != 8 * count or (chunk.status >= ReadStatus.UNREADABLE).any():
                self.complete = False
            pointers: U64 = chunk.data.view(word)
            offset = (pointers - np.uint64(memmap.vmemmap)).astype(np.int64)
            pfn = offset // memmap.page_size
            good = (pointers != 0) & (offset % memmap.page_size == 0) & memmap.valid(pfn)
            pfns.append(pfn[good])
            places.append(np.flatnonzero(good))
            areas.append(np.full(int(good.sum()), index))
        if left <= 0:
            self.complete = False
        pfn = np.concatenate([_NONE, *pfns])
        order = np.argsort(pfn, kind="stable")
        return pfn[order], np.concatenate([_NONE, *areas])[order], np.concatenate([_NONE, *places])[order]

    def of_page(self, pfn: int) -> tuple[Area, int] | None:
        """The area that a page is mapped in, and the virtual address of the page there."""
        pages, areas, places = self._pages
        at = int(np.searchsorted(pages, pfn))
        if at == len(pages) or pages[at] != pfn:
            return None
        area = self.rows[int(areas[at])]
        return area, area.start + (int(places[at]) << self._kernel.target.page_shift)

    def of_address(self, address: int) -> Area | None:
        """The area that a virtual address lies in."""
        at = int(np.searchsorted(self._starts, np.uint64(address), "right")) - 1
        area = self.rows[at] if at >= 0 else None
        return area if area is not None and address < area.start + area.size else None

    @cached_property
    def _starts(self) -> U64:
        return np.array([area.start for area in self.rows], np.uint64)


_NONE = np.empty(0, np.int64)

#: Chunks of per-CPU memory, and pages of them, whose page tables are asked.
_MAX_CHUNKS = 1 << 10
_MAX_ASKED = 1 << 15


class PerCpu:
    """Per-CPU memory: the first chunk in the direct map, others wherever vmalloc put them (mm/percpu.c)."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._prog = kernel.target.prog

    @cached_property
    def _units(self) -> tuple[int, int, int, dict[int, int]]:
        """Base of the first chunk, bytes of one CPU's part, of the static variables, and parts by CPU."""
        base, size = find_object(self._prog, "pcpu_base_addr"), find_object(self._prog, "pcpu_unit_size")
        offsets = find_object(self._prog, "pcpu_unit_offsets")
        if base is None or size is None or offsets is None:
            return 0, 0, 0, {}
        try:
            start = self._prog.symbol("__per_cpu_start").address
            static = self._prog.symbol("__per_cpu_end").address - start
            parts = {cpu: int(offsets[cpu].value_()) for cpu in possible_cpus(self._prog)}
            return int(base.value_()), int(size.value_()), static, parts
        except (FaultError, LookupError):
            return 0, 0, 0, {}

    def of_address(self, address: int) -> tuple[int, str, int] | None:
        """The CPU, what lies there, and the address where that begins, for an address of the first chunk."""
        base, size, static, parts = self._units
        for cpu, part in parts.items():
            offset = address - base - part
            if 0 <= offset < size:
                if offset >= static:
                    return cpu, "", 0
                name, inside = self._variable(offset)
                return cpu, name, address - inside
        return None

    def _variable(self, offset: int) -> tuple[str, int]:
        """The static variable at an offset into the section, and the offset into it."""
        try:
            start = self._prog.symbol("__per_cpu_start").address
            symbol = self._prog.symbol(start + offset)
        except LookupError:
            # x86-64 up to 6.14: the section is linked at 0, and not moved with the rest.
            return self._kernel.symbols.per_cpu(offset) or ("", 0)
        return symbol.name, start + offset - symbol.address

    @cached_property
    def _chunks(self) -> dict[int, tuple[int, int]]:
        """PFNs of pages of other chunks: the CPU, and the virtual address of the page there."""
        from drgn import container_of
        from drgn.helpers.linux.mm import follow_phys

        found: dict[int, tuple[int, int]] = {}
        # pcpu_slot up to 5.13; 5.14 and newer call it pcpu_chunk_lists.
        lists = find_object(self._prog, "pcpu_chunk_lists") or find_object(self._prog, "pcpu_slot")
        slots = find_object(self._prog, "pcpu_nr_slots")
        base, size, _static, parts = self._units
        if lists is None or slots is None:
            return found
        init_mm = self._prog["init_mm"].address_of_().read_()
        page, shift = self._kernel.target.page_size, self._kernel.target.page_shift
        asked = chunks = 0
        try:
            for slot in range(min(int(slots.value_()), 64)):
                head = lists[slot].address_of_().value_()
                link = lists[slot].next.read_()
                while link.value_() != head and chunks < _MAX_CHUNKS:
                    chunks += 1
                    chunk = container_of(link, "struct pcpu_chunk", "list")
                    start = chunk.base_addr.value_()
                    for cpu, part in parts.items() if start != base else ():
                        for at in range(start + part, start + part + size, page):
                            asked += 1
                            if asked > _MAX_ASKED:
                                return found
                            try:
                                physical = int(follow_phys(init_mm, at).value_())
                            except Exception:  # not populated  # noqa: S112
                                continue
                            found[physical >> shift] = cpu, at
                    link = chunk.list.next.read_()
        except (FaultError, LookupError, AttributeError):
            pass
        return found

    def of_page(self, pfn: int) -> tuple[int, int] | None:
        """The CPU and the virtual address of a page that lies in another chunk."""
        return self._chunks.get(pfn)
