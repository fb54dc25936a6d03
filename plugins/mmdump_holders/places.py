"""What a physical address belongs to: an object of a slab, a stack, a vmalloc area, a variable."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mmdump.holders import Place, State
from mmdump.kernel.arrays import printable
from mmdump.kernel.layout import find_object
from mmdump_holders.areas import Areas, PerCpu
from mmdump_holders.slabs import Slabs
from mmdump_holders.stacks import Stacks
from mmdump_page_owner.record import read_owners

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange
    from mmdump_page_owner.record import Owners

__all__ = ["Places"]

#: Pages that are read around one that is asked for: no slab or folio that matters crosses such a window.
_WINDOW = 1 << 10
#: Functions by which pages are allocated, whoever asks for them.
_OF_ALLOCATOR = re.compile(
    r"^(post_alloc_hook|prep_new_page|get_page_from_freelist|__alloc_|_*alloc_pages|_*alloc_frozen|folio_alloc"
    r"|_*get_free_page|get_zeroed_page|_*kmalloc_large|_*kmalloc|_*folio_alloc|alloc_page)"
)
#: Windows that are kept.
_KEPT = 256


class Places:
    """What memory is used for, by its physical address. What is needed is read when first asked for."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.areas = Areas(kernel)
        self.per_cpu = PerCpu(kernel)
        self.slabs = Slabs(kernel)
        self.stacks = Stacks(kernel)
        self._windows: dict[int, PageRange | None] = {}
        self._allocators: dict[int, str] = {}

    def locate(self, physical: int) -> tuple[int, Place]:
        """The virtual address by which the kernel knows a physical one, and what lies there."""
        try:
            return self._locate(physical)
        except Exception as error:  # whatever a damaged dump, or a kernel of another form, leads to
            why = f"could not be made out: {type(error).__name__}: {error}"
            return self.direct(physical), Place("unknown", why=why)

    def _locate(self, physical: int) -> tuple[int, Place]:
        shift = self.kernel.target.page_shift
        pfn, inside = physical >> shift, physical & ((1 << shift) - 1)
        direct = self.direct(physical)
        pages = self._pages(pfn)
        if pages is None:
            return direct, Place("unknown", why="no struct page describes it")
        row = pfn - pages.start
        rows = np.array([row])
        if not pages.readable[row]:
            return direct, Place("unknown", why="its struct page is not in the dump")
        head = int(pages.head_pfn[row])
        of_head = np.array([head - pages.start if head >= pages.start else row])
        image = self._image_address(physical)
        if image is not None and pages.has_flag("PG_reserved", at=rows)[0]:
            return image, self._named("image", image)
        if pages.in_free_block[row]:
            return direct, Place("free", state=State.STALE, why="a free block")
        if pages.is_type("slab", at=of_head)[0]:
            return direct, self.slabs.place(head, self.direct(head << shift), direct)
        found = self.per_cpu.of_address(direct)
        if found is not None:
            cpu, name, start = found
            name = f"{printable(name.encode())} of CPU {cpu}" if name else f"dynamic, of CPU {cpu}"
            return direct, Place("per-CPU", name, start, state=State.POSSIBLE, why="in use")
        area = self.areas.of_page(pfn)
        if area is not None:
            address = area[1] + inside
            return address, self.virtual(address) or Place("vmalloc")
        for kind in ("table", "pgtable"):
            if pages.is_type(kind, at=of_head)[0]:
                return direct, Place("page table", start=self.direct(pfn << shift), size=1 << shift)
        stack = self.stacks.place(direct)
        if stack is not None:
            return direct, stack
        return direct, self._pages_place(pages, row, int(of_head[0]))

    def _pages_place(self, pages: PageRange, row: int, head: int) -> Place:
        """What only its own struct page, or page_owner, tells of."""
        if pages.refcount[head] == 0 and self._freed(pages, row):
            return Place("free", state=State.STALE, why="a free page, not in a block")
        chunk = self.per_cpu.of_page(pages.start + row)
        if chunk is not None:
            return Place("per-CPU", f"dynamic, of CPU {chunk[0]}", state=State.POSSIBLE, why="in use")
        mapping = int(pages.mapping[head])
        if mapping or pages.has_flag("PG_lru", at=np.array([head]))[0]:
            return Place(
                "user", "anonymous memory" if mapping & 1 else "page cache", why="data of a process or file"
            )
        shift = self.kernel.target.page_shift
        start = self.direct((pages.start + head) << shift)
        size = (1 << shift) << int(pages.folio_order[head])
        stack = self._stack_id(pages, row)
        name = "" if stack is None else self._allocator(stack)
        return Place("pages", name, start, size, State.POSSIBLE, "allocated", stack_id=stack)

    @cached_property
    def _owners(self) -> Owners | None:
        return read_owners(self.kernel)

    def _freed(self, pages: PageRange, row: int) -> bool:
        """Whether a page without references is free, as on a per-CPU list: by page_owner's record."""
        owners = self._owners
        if owners is None or pages.ext is None:
            # Frozen pages have no references either (6.14).
            return find_object(self.kernel.target.prog, "free_frozen_pages") is None
        return not bool(owners.recorded(pages)[row])

    def _stack_id(self, pages: PageRange, row: int) -> int | None:
        owners = self._owners
        if owners is None or pages.ext is None:
            return None
        columns = owners.columns(pages, np.array([row]))
        return int(columns["stack_id"][0]) if columns and columns["owner_known"][0] else None

    def _allocator(self, stack_id: int) -> str:
        """The function that allocated pages: the innermost of their call chain outside of the allocator."""
        depot = self.kernel.stack_depot
        if depot is None:
            return ""
        if stack_id not in self._allocators:
            names = (self.kernel.symbols.text(frame) for frame in depot.stack(stack_id).frames)
            self._allocators[stack_id] = next((name for name in names if not _OF_ALLOCATOR.search(name)), "")
        return self._allocators[stack_id]

    def virtual(self, address: int) -> Place | None:
        """What a virtual address outside of the direct map belongs to: an area of vmalloc, or the image."""
        area = self.areas.of_address(address)
        if area is None:
            start, end, _physical = self._image
            return self._named("image", address) if start <= address < end else None
        stack = self.stacks.place(address)
        if stack is not None:
            return stack
        caller = self.kernel.symbols.text(area.caller) if area.caller else ""
        text = self.kernel.symbols.text(address)
        if text.endswith("]"):
            return Place("module", text, why="in use")
        return Place("vmalloc", caller, area.start, area.size, State.POSSIBLE, "in use")

    def _named(self, kind: str, address: int) -> Place:
        text = self.kernel.symbols.text(address)
        found = self._symbol(address)
        start, size = found if found is not None else (0, 0)
        return Place(kind, text, start, size, State.POSSIBLE, "in use")

    def _symbol(self, address: int) -> tuple[int, int] | None:
        try:
            symbol = self.kernel.target.prog.symbol(address)
        except LookupError:
            return None
        return symbol.address, symbol.size

    # Addresses.

    @cached_property
    def _direct_base(self) -> int | None:
        from drgn.helpers.linux.mm import phys_to_virt

        try:
            return int(phys_to_virt(self.kernel.target.prog, 0).value_())
        except Exception:  # an architecture that drgn does not know
            return None

    def direct(self, physical: int) -> int:
        """The direct map address of a physical one; 0 where the direct map is not known."""
        base = self._direct_base
        return 0 if base is None else (base + physical) % (1 << 64)

    def physical(self, address: int) -> int | None:
        """The physical address behind one of the direct map, or of the image; None for any other."""
        base = self._direct_base
        if base is not None:
            offset = (address - base) % (1 << 64)
            if offset >> self.kernel.target.page_shift < self.kernel.memmap.end_pfn:
                return offset
        start, end, physical = self._image
        return address - start + physical if start <= address < end else None

    @cached_property
    def _image(self) -> tuple[int, int, int]:
        """The kernel's image: virtual start and end, physical start. Zeros where it cannot be found."""
        from drgn.helpers.linux.mm import follow_phys

        prog = self.kernel.target.prog
        try:
            start, end = prog.symbol("_text").address, prog.symbol("_end").address
            physical = int(follow_phys(prog["init_mm"].address_of_(), start).value_())
        except Exception:  # no such symbols, or page tables that are not in the dump
            return 0, 0, 0
        return start, end, physical

    def _image_address(self, physical: int) -> int | None:
        start, end, first = self._image
        return physical - first + start if first <= physical < first + end - start else None

    def _pages(self, pfn: int) -> PageRange | None:
        """The pages around a PFN; None where it has no struct page."""
        window = pfn // _WINDOW
        if window not in self._windows:
            if len(self._windows) >= _KEPT:
                self._windows.pop(next(iter(self._windows)))
            self._windows[window] = self._read(pfn)
        pages = self._windows[window]
        # A window may hold the end of one valid range and the start of the next.
        if pages is None or not pages.start <= pfn < pages.end:
            return self._read(pfn)
        return pages

    def _read(self, pfn: int) -> PageRange | None:
        ranges = self.kernel.memmap.ranges
        at = int(np.searchsorted(ranges[:, 0], pfn, "right")) - 1
        if at < 0 or pfn >= ranges[at, 1]:
            return None
        first = pfn - pfn % _WINDOW
        start, end = max(first, int(ranges[at, 0])), min(first + _WINDOW, int(ranges[at, 1]))
        return self.kernel.pages(start, end, ext=self.kernel.page_ext.dtype is not None, blocks=False)
