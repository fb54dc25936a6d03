"""Address spaces in the small: which task maps which page, and how (mm/memory.c, mm/mmap.c).

What the kernel does by several paths that lead to the same counters is one here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from .callchains import calls, page_fault
from .folio import FolioKind, Place, StableNode
from .gfp import Gfp
from .pages import PageFlag
from .references import get_refs
from .vma import Vma

if TYPE_CHECKING:
    from .machine import Machine, Task
    from .pagecache import PageCache

__all__ = ["Mm", "Vma"]

#: First virtual page of the first VMA, and the alignment of each: a PMD with the largest pages.
_MMAP_BASE = 0x7F0000000
_ALIGNMENT = 1 << 13


class Mm:
    """``struct mm_struct``: the address space of a task.

    :ivar mm_id: ``mm_id`` (6.15): never 0.
    """

    def __init__(self, machine: Machine, task: Task) -> None:
        self.machine = machine
        self.task = task
        self.vmas: list[Vma] = []
        self.mm_id = machine.rmap.new_mm_id()
        machine.rmap.mms.append(self)
        self._pmd_nr = 1 << machine.era.pmd_order
        self._next = _MMAP_BASE

    def pmd_slot(self, slot: int) -> int:
        """First slot of the PMD that a slot lies in; VMAs are aligned to PMDs."""
        return slot & -self._pmd_nr

    def mmap(
        self,
        count: int,
        *,
        file: PageCache | None = None,
        pgoff: int = 0,
        shared: bool = True,
        locked: bool = False,
    ) -> Vma:
        """``do_mmap()``, aligned as ``thp_get_unmapped_area()`` does.

        :param file: What to map; None for anonymous memory.
        :param shared: For files: whether writing changes the file's own pages.
        :param locked: MAP_LOCKED.
        """
        start = self._next
        self._next += -(-count // _ALIGNMENT) * _ALIGNMENT
        vma = Vma(
            self, start, count, start if file is None else pgoff, file, shared and file is not None, locked
        )
        if file is not None:
            file.vmas.append(vma)
        self.vmas.append(vma)
        return vma

    # Faults.

    def running(self) -> AbstractContextManager[object]:
        """Let a thread of this address space run, if none does."""
        if self.machine.current.tgid == self.task.tgid:
            return nullcontext()
        return self.machine.running(self.task)

    def fault(self, vma: Vma, slot: int, *, write: bool = True, order: int = 0) -> int | None:
        """``handle_mm_fault()``: map a page, and one of its own when it is written.

        :param order: Of the folio that is made when there is none: up to the PMD's.
        :return: The PFN mapped there now, or None without memory.
        """
        with self.running():
            return self._fault(vma, slot, write, order)

    def _fault(self, vma: Vma, slot: int, write: bool, order: int) -> int | None:
        pfn = vma.mapped(slot)
        if pfn:
            private_file = vma.file is not None and not vma.shared
            return self._wp_page(vma, slot, pfn) if write and (vma.file is None or private_file) else pfn
        if vma.file is None:
            return self._anonymous(vma, slot, order)
        if write and not vma.shared:
            return self._cow_file(vma, slot)
        return self._file(vma, slot, order)

    def populate(self, vma: Vma, start: int, end: int) -> None:
        """``populate_vma_page_range()``: fault in the slots [start, end) with small pages."""
        for slot in range(start, end):
            self.fault(vma, slot)

    def _anonymous(self, vma: Vma, slot: int, order: int) -> int | None:
        """``do_anonymous_page()``, ``do_huge_pmd_anonymous_page()``."""
        machine = self.machine
        huge = order == machine.era.pmd_order
        if order and not huge and machine.era.version < (6, 8):
            raise ValueError("anonymous folios smaller than a PMD exist since 6.8")
        base = slot & -(1 << order)
        if order and (base + (1 << order) > vma.count or vma.ptes[base : base + (1 << order)].any()):
            return self._anonymous(vma, slot, 0)
        gfp, name = Gfp.HIGHUSER_MOVABLE | Gfp.ZERO, "do_anonymous_page"
        if huge:
            gfp, name = Gfp.TRANSHUGE, "do_huge_pmd_anonymous_page"
        elif order:
            gfp |= Gfp.COMP
        with page_fault(machine, "vma_alloc_folio_noprof", name):
            head = machine.alloc_pages(order, gfp)
            if head is None:
                return self._anonymous(vma, slot, 0) if order else None
            self._new_anon(vma, base, head, order)
        return head + slot - base

    def _new_anon(self, vma: Vma, base: int, head: int, order: int) -> None:
        """``folio_add_new_anon_rmap()``, ``folio_add_lru_vma()``: the references become the mappings'."""
        machine = self.machine
        pages, rmap = machine.pages, machine.rmap
        rmap.set_anon(head, vma.anon_vma(), vma.index(base))
        pages.set(head, PageFlag.SWAPBACKED | PageFlag.UPTODATE | PageFlag.DIRTY)
        place = Place(vma, base, head, 1 << order, pmd=order == machine.era.pmd_order)
        get_refs(machine, head, place.references - 1)
        vma.map_place(place, head)
        self._add_lru(vma, head)
        if place.pmd and machine.era.version >= (6, 12):
            # Reclaim looks for THPs that were never used much (thp_underused()).
            rmap.queue_deferred_split(rmap.folios[head], partially=False)

    def _add_lru(self, vma: Vma, head: int) -> None:
        """``folio_add_lru_vma()``."""
        if vma.locked:
            self.machine.batches.mlock_folio(head)
        else:
            self.machine.batches.folio_add_lru(head)

    def _file(self, vma: Vma, slot: int, order: int) -> int | None:
        """``do_read_fault()``, ``do_shared_fault()``: map what the page cache has, or gets now."""
        assert vma.file is not None
        machine = self.machine
        with page_fault(machine, "__do_fault", "do_fault"):
            head = vma.file.read(vma.index(slot), order)
        if head is None:
            return None
        offset = vma.index(slot) - int(machine.pages.index[head])
        base = slot - offset
        count = machine.rmap.nr_pages(head)
        # do_set_pmd(): a whole PMD when nothing in it is mapped yet.
        whole = count == self._pmd_nr and base % count == 0 and 0 <= base <= vma.count - count
        if whole and not vma.ptes[base : base + count].any():
            place = Place(vma, base, head, count, pmd=True)
        else:
            place = Place(vma, slot, head + offset, 1)
        get_refs(machine, head, 1)
        vma.map_place(place, place.pfn)
        if vma.locked:
            machine.batches.mlock_folio(head)
        return head + offset

    def _cow_file(self, vma: Vma, slot: int) -> int | None:
        """``do_cow_fault()``: a private copy of a file's page is anonymous."""
        assert vma.file is not None
        with page_fault(self.machine, "do_cow_fault", "do_fault"):
            if vma.file.read(vma.index(slot)) is None:
                return None
            return self._copy(vma, slot)

    def _copy(self, vma: Vma, slot: int) -> int | None:
        pfn = self.machine.alloc_pages(0, Gfp.HIGHUSER_MOVABLE)
        if pfn is not None:
            self._new_anon(vma, slot, pfn, 0)
        return pfn

    def _wp_page(self, vma: Vma, slot: int, pfn: int) -> int | None:
        """``do_wp_page()``: pages of several address spaces are copied; a PMD is split for it."""
        machine = self.machine
        head = machine.pages.head(pfn)
        kind = machine.rmap.kind(head)
        if kind is FolioKind.ANON and all(place.vma is vma for place in machine.rmap.walk(head)):
            return pfn
        base = self.pmd_slot(slot)
        if base in vma.pmds:
            self.split_pmd(vma, base)
            if kind is not FolioKind.ANON:
                return self.fault(vma, slot)
        with page_fault(machine, "vma_alloc_folio_noprof", "wp_page_copy", "do_wp_page"):
            copy = machine.alloc_pages(0, Gfp.HIGHUSER_MOVABLE)
            if copy is None:
                return None
            vma.zap_place(Place(vma, slot, pfn, 1))
            self._new_anon(vma, slot, copy, 0)
        return copy

    # Page tables change.

    def split_pmd(self, vma: Vma, base: int) -> None:
        """``__split_huge_pmd()``: PTEs in the place of a PMD; of a file the PMD is only taken away."""
        machine = self.machine
        head = vma.pmds[base]
        if not machine.rmap.is_anon(head):
            with calls(machine, "__split_huge_pmd_locked", "__split_huge_pmd"):
                vma.zap_place(Place(vma, base, head, self._pmd_nr, pmd=True))
            return
        del vma.pmds[base]
        vma.set_ptes(base, head, self._pmd_nr)
        get_refs(machine, head, self._pmd_nr - 1)
        machine.rmap.split_pmd(head, self)

    def zap(self, vma: Vma, start: int = 0, end: int | None = None) -> None:
        """``zap_page_range()`` of madvise() and munmap(): unmap the slots [start, end).

        A PMD that lies only partly in them is split first.
        """
        end = vma.count if end is None else end
        with calls(
            self.machine, "free_pages_and_swap_cache", "tlb_flush_mmu", "zap_pte_range", "unmap_page_range"
        ):
            for base, head in list(vma.pmds.items()):
                if base >= end or base + self._pmd_nr <= start:
                    continue
                if start <= base and base + self._pmd_nr <= end:
                    vma.zap_place(Place(vma, base, head, self._pmd_nr, pmd=True))
                else:
                    self.split_pmd(vma, base)
            for place in list(vma.ptes_in(start, end)):
                vma.zap_place(place)

    def munmap(self, vma: Vma) -> None:
        """``do_munmap()`` of a whole VMA."""
        self.zap(vma)
        vma.unlink()
        self.vmas.remove(vma)

    def mlock(self, vma: Vma) -> None:
        """``mlock_fixup()``, ``mlock_vma_pages_range()``: what is mapped now, and later, is unevictable."""
        vma.locked = True
        pages = self.machine.pages
        heads = [pages.head(place.pfn) for place in vma.ptes_in(0, vma.count)]
        for head in dict.fromkeys([*vma.pmds.values(), *heads]):
            if not pages.has(head, PageFlag.MLOCKED):
                self.machine.batches.mlock_folio(head)

    # Tasks come and go.

    def fork(self, task: Task) -> Mm:
        """``dup_mmap()``: the child maps the same anonymous pages; files are faulted in again."""
        child = Mm(self.machine, task)
        child._next = self._next
        for vma in self.vmas:
            copy = vma.fork(child)
            child.vmas.append(copy)
            if vma.anon_vmas:
                self._copy_page_range(vma, copy)
        return child

    def _copy_page_range(self, vma: Vma, copy: Vma) -> None:
        """``copy_page_range()``. A pinned page stays the parent's; the child gets a copy (5.9)."""
        machine = self.machine
        careful = machine.era.version >= (5, 9)
        for base, head in list(vma.pmds.items()):
            if careful and machine.gup.maybe_dma_pinned(head) and machine.rmap.is_anon(head):
                self.split_pmd(vma, base)
                continue
            get_refs(machine, head, 1)
            copy.map_place(Place(copy, base, head, self._pmd_nr, pmd=True), head)
        for place in list(vma.ptes_in(0, vma.count)):
            head = machine.pages.head(place.pfn)
            kind = machine.rmap.kind(head)
            if careful and kind is FolioKind.ANON and machine.gup.maybe_dma_pinned(head):
                with calls(machine, "copy_present_page", "copy_pte_range", "copy_page_range", "dup_mmap"):
                    for slot in range(place.slot, place.slot + place.count):
                        copy.mm._copy(copy, slot)
                continue
            get_refs(machine, head, place.count)
            copy.map_place(Place(copy, place.slot, place.pfn, place.count), place.pfn)
            found = machine.rmap.objects.get(int(machine.pages.mapping[head]) & ~3)
            if isinstance(found, StableNode):
                found.items.append((copy, place.slot))

    def exit(self) -> None:
        """``exit_mmap()``."""
        with self.running(), calls(self.machine, "exit_mmap", "__mmput", "mmput", "do_exit"):
            for vma in tuple(self.vmas):
                self.munmap(vma)
        self.machine.rmap.mms.remove(self)
