"""How often each page is mapped, by the page tables alone: what every kernel's counters must add up to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .folio import FolioKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .machine import Machine

__all__ = ["FolioMappings", "Mappings", "folio_mappings", "page_table_mappings"]


@dataclass(frozen=True)
class Mappings:
    """Page table entries of all processes, by the page they map.

    :param pte_pfns: Pages mapped by PTEs, ascending and distinct, int64.
    :param pte_counts: How many PTEs map each, int64.
    :param pmds: How many PMDs map a folio as a whole, by its head.
    """

    pte_pfns: NDArray[np.int64]
    pte_counts: NDArray[np.int64]
    pmds: dict[int, int]

    def ptes(self, start: int, count: int) -> NDArray[np.int64]:
        """PTEs of each page in [start, start + count): int64, shape (count,)."""
        found = np.zeros(count, np.int64)
        first, last = np.searchsorted(self.pte_pfns, (start, start + count))
        found[self.pte_pfns[first:last] - start] = self.pte_counts[first:last]
        return found


def page_table_mappings(machine: Machine) -> Mappings:
    """Read the page tables of every process."""
    tables = [vma.ptes[vma.ptes != 0] for mm in machine.rmap.mms for vma in mm.vmas]
    pfns, counts = np.unique(np.concatenate([np.empty(0, np.int64), *tables]), return_counts=True)
    pmds: dict[int, int] = {}
    for mm in machine.rmap.mms:
        for vma in mm.vmas:
            for head in vma.pmds.values():
                pmds[head] = pmds.get(head, 0) + 1
    return Mappings(pfns, counts, pmds)


@dataclass(frozen=True)
class FolioMappings:
    """One folio that is mapped, or is large.

    :param kind: As ``folio->mapping`` tells.
    :param mapcount: ``folio_mapcount()``: all mappings, of the whole and of single pages.
    :param entire_mapcount: Mappings of the whole by PMDs.
    :param page_mapcounts: Mappings of each page, by PTEs and PMDs: int64, shape (2**order,).
    :param partially_mapped: Some pages are mapped, others are not.
    :param double_map: Mapped both as a whole and page by page.
    :param mms: How many address spaces map it.
    :param deferred_split: On the queue of folios to split.
    """

    head_pfn: int
    order: int
    kind: FolioKind
    mapcount: int
    entire_mapcount: int
    page_mapcounts: NDArray[np.int64]
    partially_mapped: bool
    double_map: bool
    mms: int
    deferred_split: bool


def folio_mappings(machine: Machine) -> dict[int, FolioMappings]:
    """Every folio that is mapped, and every large folio of user memory, by the PFN of its head, ascending."""
    mappings, pages, rmap = page_table_mappings(machine), machine.pages, machine.rmap
    heads = np.unique(mappings.pte_pfns - pages.tail[mappings.pte_pfns].astype(np.int64))
    large = [head for head in rmap.folios if int(pages.mapping[head])]
    return {
        head: _folio(machine, head, mappings) for head in sorted({*heads.tolist(), *mappings.pmds, *large})
    }


def _folio(machine: Machine, head: int, mappings: Mappings) -> FolioMappings:
    rmap = machine.rmap
    ptes, entire = mappings.ptes(head, rmap.nr_pages(head)), mappings.pmds.get(head, 0)
    counts = ptes + entire
    return FolioMappings(
        head_pfn=head,
        order=rmap.order(head),
        kind=rmap.kind(head),
        mapcount=int(ptes.sum()) + entire,
        entire_mapcount=entire,
        page_mapcounts=counts,
        partially_mapped=bool(counts.any() and not counts.all()),
        double_map=bool(entire and ptes.any()),
        mms=len({place.vma.mm for place in rmap.walk(head)}),
        deferred_split=head in rmap.deferred_split,
    )
