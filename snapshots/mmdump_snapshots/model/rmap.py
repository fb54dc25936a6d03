"""Mappings of pages by page tables, counted as each kernel counts them (mm/rmap.c).

A small page counts its mappings in ``_mapcount``. A large folio can be mapped as a whole (by a PMD) or page
by page (by PTEs), and where the two are counted changed four times; see :class:`~.era.Mapcounts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .era import Mapcounts
from .folio import (
    COMPOUND_MAPPED,
    MAPPING_ANON,
    MAPPING_KSM,
    MAPPING_TAGS,
    AnonVma,
    Folio,
    FolioKind,
    Place,
    StableNode,
)
from .pages import PageFlag, PageType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .machine import Machine
    from .mm import Mm
    from .pagecache import PageCache

__all__ = ["Rmap"]

_SIZEOF_ANON_VMA = 104
_SIZEOF_STABLE_NODE = 64


class Rmap:
    """All large folios by the PFN of their heads, and what maps them.

    :ivar folios: Every compound page in use.
    :ivar deferred_split: The deferred split queue, heads in order of arrival (``split_queue``).
    :ivar mms: Every address space.
    :ivar objects: :class:`AnonVma`, :class:`StableNode` and page cache mappings by their physical address.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._pages = machine.pages
        self._era = machine.era
        self._how = machine.era.mapcounts
        self.folios: dict[int, Folio] = {}
        self.deferred_split: dict[int, Folio] = {}
        self.objects: dict[int, AnonVma | StableNode | PageCache] = {}
        self.mms: list[Mm] = []
        self._mm_ids = 0

    def new_mm_id(self) -> int:
        """``mm_alloc_id()``: 1 and up (MM_ID_MIN)."""
        self._mm_ids += 1
        return self._mm_ids

    # Folios come and go.

    def prep_compound(self, pfn: int, order: int) -> Folio:
        """``prep_compound_page()``, the counters' part: none is mapped, none pinned."""
        folio = self.folios[pfn] = Folio(pfn, order)
        return folio

    def destroy(self, pfn: int) -> None:
        """``free_tail_page_prepare()`` for all tails: the compound page is gone."""
        folio = self.folios.pop(pfn)
        self.unqueue_deferred_split(folio)

    def folio(self, pfn: int) -> Folio | None:
        """``page_folio()`` where that is large."""
        return self.folios.get(self._pages.head(pfn))

    def nr_pages(self, head: int) -> int:
        """``folio_nr_pages()``."""
        folio = self.folios.get(head)
        return 1 if folio is None else folio.nr_pages

    def order(self, head: int) -> int:
        """``folio_order()``."""
        folio = self.folios.get(head)
        return 0 if folio is None else folio.order

    # Objects that page->mapping points to.

    def anon_vma(self) -> AnonVma:
        """``anon_vma_alloc()``."""
        found = AnonVma(self._machine.objects.alloc("anon_vma", _SIZEOF_ANON_VMA))
        self.objects[found.address] = found
        return found

    def stable_node(self) -> StableNode:
        """``alloc_stable_node()``."""
        found = StableNode(self._machine.objects.alloc("ksm_stable_node", _SIZEOF_STABLE_NODE))
        self.objects[found.address] = found
        return found

    def kind(self, head: int) -> FolioKind:
        """``folio_test_ksm()``, ``folio_test_anon()``, ``folio_mapping()`` and PG_swapbacked."""
        mapping = int(self._pages.mapping[head])
        if not mapping:
            return FolioKind.OTHER
        if mapping & MAPPING_TAGS == MAPPING_KSM:
            return FolioKind.KSM
        if mapping & MAPPING_ANON:
            return FolioKind.ANON
        return FolioKind.SHMEM if self._pages.has(head, PageFlag.SWAPBACKED) else FolioKind.FILE

    def is_anon(self, head: int) -> bool:
        """``folio_test_anon()``: KSM pages too."""
        return bool(int(self._pages.mapping[head]) & MAPPING_ANON)

    def set_anon(self, head: int, anon_vma: AnonVma, index: int) -> None:
        """``__folio_set_anon()``, ``__page_set_anon_rmap()``."""
        self._pages.mapping[head] = anon_vma.address | MAPPING_ANON
        self._pages.index[head] = index

    # Mappings are added.

    def add_ptes(self, pfn: int, count: int, mm: Mm) -> None:
        """``folio_add_anon_rmap_ptes()``, ``folio_add_file_rmap_ptes()``; before 6.8 page by page."""
        folio = self.folio(pfn)
        mapcount = self._pages.mapcount[pfn : pfn + count]
        first = count - int(np.count_nonzero(mapcount))
        mapcount += 1
        if folio is None:
            return
        if self._how is Mapcounts.DOUBLE_MAP:
            # page_add_file_rmap() marks files too, but nothing is counted by that.
            folio.double_map |= not self.is_anon(folio.head)
            return
        folio.nr_pages_mapped += first
        self._add_large(folio, count, mm)

    def add_pmd(self, head: int, mm: Mm) -> None:
        """``folio_add_new_anon_rmap()``, ``page_dup_rmap(compound)`` and ``folio_add_file_rmap_pmd()``."""
        folio = self.folios[head]
        first = folio.entire_mapcount == 0
        folio.entire_mapcount += 1
        if self._how is Mapcounts.DOUBLE_MAP:
            if not self.is_anon(head):
                # page_add_file_rmap(): mapping the whole counts in every page as well.
                mapcount = self._pages.mapcount[folio.rows]
                if first and not mapcount.any() and self._era.version >= (5, 18):
                    folio.double_map = False
                mapcount += 1
            return
        folio.nr_pages_mapped += COMPOUND_MAPPED * first
        self._add_large(folio, 1, mm)

    # Mappings are removed.

    def remove_ptes(self, pfn: int, count: int, mm: Mm) -> None:
        """``folio_remove_rmap_ptes()``, ``page_remove_rmap()``: the pages [pfn, pfn + count) of one folio."""
        folio = self.folio(pfn)
        mapcount = self._pages.mapcount[pfn : pfn + count]
        mapcount -= 1
        if folio is None:
            return
        last = count - int(np.count_nonzero(mapcount))
        if self._how is Mapcounts.DOUBLE_MAP:
            # Any page that nobody maps any more may be worth a split. With PG_double_map, none reaches 0.
            partially = last > 0
        else:
            folio.nr_pages_mapped -= last
            self._sub_large(folio, count, mm)
            entirely = folio.nr_pages_mapped >= COMPOUND_MAPPED
            # Since 6.10 only while others of its pages are mapped; before, any page unmapped would do.
            partially = last > 0 and not entirely
            if self._era.version >= (6, 10):
                partially &= folio.nr_pages_mapped > 0
        if partially and self.is_anon(folio.head):
            self.queue_deferred_split(folio, partially=True)

    def remove_pmd(self, head: int, mm: Mm) -> None:
        """``folio_remove_rmap_pmd()``, ``page_remove_anon_compound_rmap()``, ``page_remove_file_rmap()``."""
        folio = self.folios[head]
        folio.entire_mapcount -= 1
        last = folio.entire_mapcount == 0
        if self._how is Mapcounts.DOUBLE_MAP:
            mapcount = self._pages.mapcount[folio.rows]
            if not self.is_anon(head):
                mapcount -= 1
                return
            if not last or not folio.double_map:
                return
            folio.double_map = False
            mapcount -= 1
            mapped = int(np.count_nonzero(mapcount))
        else:
            folio.nr_pages_mapped -= COMPOUND_MAPPED * last
            self._sub_large(folio, 1, mm)
            mapped = folio.nr_pages_mapped if last else 0
        if 0 < mapped < folio.nr_pages and self.is_anon(head):
            self.queue_deferred_split(folio, partially=True)

    def split_pmd(self, head: int, mm: Mm) -> None:
        """``__split_huge_pmd_locked()`` of an anonymous folio: one PMD mapping becomes a PTE for every page.

        The references change by as many; see :meth:`.mm.Mm.split_pmd`.
        """
        folio = self.folios[head]
        mapcount = self._pages.mapcount[folio.rows]
        if self._how is not Mapcounts.DOUBLE_MAP:
            self.add_ptes(head, folio.nr_pages, mm)
            self.remove_pmd(head, mm)
            return
        mapcount += 1
        if folio.entire_mapcount > 1 and not folio.double_map:
            # The first split while others map the whole: every page is held at one more, so that the last
            # PTE of a page cannot look like its last mapping.
            folio.double_map = True
            mapcount += 1
        folio.entire_mapcount -= 1
        if folio.entire_mapcount == 0 and folio.double_map:
            folio.double_map = False
            mapcount -= 1

    # The sum of mappings, and whose they are.

    def _add_large(self, folio: Folio, count: int, mm: Mm) -> None:
        """``folio_add_return_large_mapcount()``."""
        if self._how is not Mapcounts.LARGE:
            return
        folio.large_mapcount += count
        if not self._era.mm_ids:
            return
        ids, mapcounts = folio.mm_id, folio.mm_id_mapcount
        if mm.mm_id in ids:
            mapcounts[ids.index(mm.mm_id)] += count
        elif 0 in ids:
            slot = ids.index(0)
            ids[slot], mapcounts[slot] = mm.mm_id, count
            folio.maybe_mapped_shared |= slot == 1 or folio.large_mapcount != count
        # A third mm has no slot: what it maps is only in the sum.

    def _sub_large(self, folio: Folio, count: int, mm: Mm) -> None:
        """``folio_sub_return_large_mapcount()``."""
        if self._how is not Mapcounts.LARGE:
            return
        folio.large_mapcount -= count
        if not self._era.mm_ids:
            return
        ids, mapcounts = folio.mm_id, folio.mm_id_mapcount
        if mm.mm_id in ids:
            slot = ids.index(mm.mm_id)
            mapcounts[slot] -= count
            if mapcounts[slot] > 0:
                return
            ids[slot], mapcounts[slot] = 0, 0
        if folio.large_mapcount in mapcounts:
            folio.maybe_mapped_shared = False

    # The deferred split queue (mm/huge_memory.c).

    def queue_deferred_split(self, folio: Folio, *, partially: bool) -> None:
        """``deferred_split_folio()``, ``deferred_split_huge_page()``: reclaim will split it to win pages."""
        if folio.order <= 1 or self._pages.has(folio.head, PageFlag.SWAPCACHE):
            return
        folio.partially_mapped |= partially and self._era.version >= (6, 12)
        folio.deferred = True
        self.deferred_split.setdefault(folio.head, folio)

    def unqueue_deferred_split(self, folio: Folio) -> None:
        """``folio_unqueue_deferred_split()``."""
        folio.deferred = folio.partially_mapped = False
        self.deferred_split.pop(folio.head, None)

    # Questions.

    def entire_mapcount(self, head: int) -> int:
        """``folio_entire_mapcount()``, ``compound_mapcount()``."""
        folio = self.folios.get(head)
        return 0 if folio is None else folio.entire_mapcount

    def page_mapcounts(self, head: int) -> NDArray[np.int32]:
        """``page_mapcount()``, ``folio_precise_page_mapcount()`` of every page of a folio.

        :return: int32, shape (pages of the folio,).
        """
        folio = self.folios.get(head)
        if folio is None:
            typed = self._pages.type[head] != PageType.NONE
            return np.zeros(1, np.int32) if typed else self._pages.mapcount[head : head + 1].copy()
        mapcount = self._pages.mapcount[folio.rows].copy()
        if self._pages.type[head] not in (PageType.NONE, PageType.HUGETLB):
            return np.zeros_like(mapcount)
        if self._how is Mapcounts.DOUBLE_MAP:
            if self.is_anon(head) or self._pages.type[head] == PageType.HUGETLB:
                mapcount += folio.entire_mapcount - folio.double_map
            return mapcount
        mapcount += folio.entire_mapcount
        return mapcount

    def mapcount(self, head: int) -> int:
        """``folio_mapcount()``, ``total_mapcount()``: all mappings of the folio and of its pages."""
        folio = self.folios.get(head)
        if folio is None:
            return int(self.page_mapcounts(head)[0])
        if self._pages.type[head] not in (PageType.NONE, PageType.HUGETLB):
            return 0
        if self._how is Mapcounts.LARGE:
            return folio.large_mapcount
        if self._pages.type[head] == PageType.HUGETLB:
            return folio.entire_mapcount
        total = folio.entire_mapcount + int(self._pages.mapcount[folio.rows].sum())
        if self._how is Mapcounts.DOUBLE_MAP:
            total -= folio.nr_pages * (folio.double_map if self.is_anon(head) else folio.entire_mapcount)
        return total

    def mapped(self, head: int) -> bool:
        """``folio_mapped()``."""
        return self.mapcount(head) > 0

    def partially_mapped(self, head: int) -> bool:
        """Whether some pages of a folio are mapped, and others not."""
        mapcounts = self.page_mapcounts(head)
        return bool(mapcounts.any() and not mapcounts.all())

    def walk(self, head: int) -> Iterator[Place]:
        """``rmap_walk()``: every place that maps a folio, PTEs side by side as one."""
        found = self.objects.get(int(self._pages.mapping[head]) & ~MAPPING_TAGS)
        if isinstance(found, StableNode):
            for vma, slot in found.items:
                yield Place(vma, slot, head, 1)
            return
        count, index = self.nr_pages(head), int(self._pages.index[head])
        for vma in tuple(() if found is None else found.vmas):
            base = index - vma.pgoff
            start, end = max(base, 0), min(base + count, vma.count)
            if start >= end:
                continue
            if vma.pmds.get(base) == head:
                yield Place(vma, base, head, count, pmd=True)
                continue
            pfns = vma.ptes[start:end]
            here = np.flatnonzero((pfns >= head) & (pfns < head + count))
            for run in np.split(here, np.flatnonzero(np.diff(here) != 1) + 1):
                if len(run):
                    yield Place(vma, start + int(run[0]), int(pfns[run[0]]), len(run))
