"""One mapping of an address space, and the page tables below it (mm/rmap.c, mm/mmap.c)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from .folio import AnonVma, Place, StableNode
from .references import put_refs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .mm import Mm
    from .pagecache import PageCache

__all__ = ["Vma"]


@dataclass(eq=False)
class Vma:
    """``struct vm_area_struct`` and the page tables below it. Slots are pages from its start.

    :ivar start: First virtual page number.
    :ivar count: Pages.
    :ivar pgoff: ``vm_pgoff``: index of its first page in the file; anonymous: virtual page number.
    :ivar shared: VM_SHARED; a private mapping of a file copies pages that are written.
    :ivar locked: VM_LOCKED.
    :ivar ptes: PFN mapped in each slot by a PTE, 0 for none; int64, shape (count,).
    :ivar pmds: Heads mapped by a PMD, by their first slot.
    :ivar anon_vmas: ``anon_vma_chain``: the VMA's own first, then those of the parents it was forked from.
    """

    mm: Mm
    start: int
    count: int
    pgoff: int
    file: PageCache | None = None
    shared: bool = False
    locked: bool = False
    ptes: NDArray[np.int64] = field(init=False)
    pmds: dict[int, int] = field(default_factory=dict)
    anon_vmas: list[AnonVma] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ptes = np.zeros(self.count, np.int64)

    def index(self, slot: int) -> int:
        """``linear_page_index()``."""
        return self.pgoff + slot

    def mapped(self, slot: int) -> int:
        """``follow_page()``: the PFN that a slot maps, 0 for none."""
        if pfn := int(self.ptes[slot]):
            return pfn
        base = self.mm.pmd_slot(slot)
        head = self.pmds.get(base)
        return 0 if head is None else head + slot - base

    def anon_vma(self) -> AnonVma:
        """``anon_vma_prepare()``: the VMA's own, made when it gets its first anonymous page."""
        if not self.anon_vmas:
            self._link(self.mm.machine.rmap.anon_vma())
        return self.anon_vmas[0]

    def _link(self, anon_vma: AnonVma) -> None:
        """``anon_vma_chain_link()``."""
        self.anon_vmas.append(anon_vma)
        anon_vma.vmas.append(self)

    def fork(self, mm: Mm) -> Vma:
        """``vm_area_dup()`` and ``anon_vma_fork()``, without the page tables. VM_LOCKED is not inherited."""
        child = Vma(mm, self.start, self.count, self.pgoff, self.file, self.shared)
        if self.anon_vmas:
            child._link(mm.machine.rmap.anon_vma())
            for anon_vma in self.anon_vmas:
                child._link(anon_vma)
        if self.file is not None:
            self.file.vmas.append(child)
        return child

    def unlink(self) -> None:
        """``unlink_anon_vmas()``, ``unlink_file_vma()``: the reverse map forgets it."""
        for anon_vma in self.anon_vmas:
            anon_vma.vmas.remove(self)
        if self.file is not None:
            self.file.vmas.remove(self)

    def ptes_in(self, start: int, end: int) -> Iterator[Place]:
        """PTEs of the slots [start, end), by runs of pages of one folio that lie side by side."""
        pages = self.mm.machine.pages
        slots = start + np.flatnonzero(self.ptes[start:end])
        pfns = self.ptes[slots]
        heads = pfns - pages.tail[pfns].astype(np.int64)
        breaks = (np.diff(heads) != 0) | (np.diff(slots) != 1) | (np.diff(pfns) != 1)
        firsts = np.concatenate(([0], np.flatnonzero(breaks) + 1, [len(slots)])).tolist()
        for first, last in pairwise(firsts):
            if last > first:
                yield Place(self, int(slots[first]), int(pfns[first]), last - first)

    def set_ptes(self, slot: int, pfn: int, count: int) -> None:
        """``set_ptes()``."""
        self.ptes[slot : slot + count] = np.arange(pfn, pfn + count)

    def unmap_place(self, place: Place) -> None:
        """``folio_remove_rmap_ptes()``, ``folio_remove_rmap_pmd()`` and the page table; references stay."""
        rmap = self.mm.machine.rmap
        if place.pmd:
            del self.pmds[place.slot]
            rmap.remove_pmd(place.pfn, self.mm)
            return
        self.ptes[place.slot : place.slot + place.count] = 0
        rmap.remove_ptes(place.pfn, place.count, self.mm)

    def map_place(self, place: Place, pfn: int) -> None:
        """``remove_migration_pte()``: map pages where others were; the references are the caller's."""
        rmap = self.mm.machine.rmap
        if place.pmd:
            self.pmds[place.slot] = pfn
            rmap.add_pmd(pfn, self.mm)
            return
        self.set_ptes(place.slot, pfn, place.count)
        rmap.add_ptes(pfn, place.count, self.mm)

    def zap_place(self, place: Place) -> None:
        """``zap_present_folio_ptes()``, ``zap_huge_pmd()``, ``free_pages_and_swap_cache()``."""
        machine = self.mm.machine
        head = machine.pages.head(place.pfn)
        self.unmap_place(place)
        found = machine.rmap.objects.get(int(machine.pages.mapping[head]) & ~3)
        if isinstance(found, StableNode):
            found.items = [item for item in found.items if item != (self, place.slot)]
        if head in machine.swap_cache.folios and not machine.rmap.mapped(head):
            machine.swap_cache.delete(head)
        # Batched as encoded folios with their counts since 6.9.
        put_refs(machine, head, place.references, one_by_one=machine.era.version < (6, 9))
