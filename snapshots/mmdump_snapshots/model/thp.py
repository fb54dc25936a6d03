"""Large folios split into small pages (mm/huge_memory.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .callchains import calls
from .folio import Place
from .pagecache import PageCache
from .pages import PageFlag
from .references import cache_references, get_refs

if TYPE_CHECKING:
    from .folio import Folio
    from .machine import Machine

__all__ = ["deferred_split_scan", "split_folio"]

#: Flags that every page of a split folio has from its head, ``__split_huge_page_tail()``.
_INHERITED = (
    PageFlag.REFERENCED
    | PageFlag.SWAPBACKED
    | PageFlag.SWAPCACHE
    | PageFlag.MLOCKED
    | PageFlag.UPTODATE
    | PageFlag.ACTIVE
    | PageFlag.WORKINGSET
    | PageFlag.UNEVICTABLE
    | PageFlag.DIRTY
)


def split_folio(machine: Machine, head: int, *, isolated: bool = False) -> bool:
    """``split_folio()``, ``split_huge_page()``: make small pages of a large folio.

    Anonymous pages stay mapped, by PTEs; files are unmapped. What nobody maps then is freed.

    :param isolated: The caller has taken the folio off the LRU, and then each of its pages
        (``split_folio_to_list()``).
    :return: False when something else holds a reference (``can_split_folio()``): nothing has changed then.
    """
    rmap, pages = machine.rmap, machine.pages
    folio = rmap.folios[head]
    machine.get_page(head)
    with calls(machine, "split_huge_page_to_list_to_order"):
        # Private data would have to be released first (filemap_release_folio()).
        caches = cache_references(machine, head) // folio.nr_pages
        if int(pages.refcount[head]) != rmap.mapcount(head) + caches * folio.nr_pages + 1 + isolated:
            machine.put_page(head)
            return False
        anon, places = rmap.is_anon(head), list(rmap.walk(head))
        for place in places:
            # unmap_folio(): the references go with the mappings.
            place.vma.unmap_place(place)
            pages.refcount[head] -= place.references
        _split(machine, folio, caches + isolated)
        if caches:
            _split_cache(machine, folio)
        if anon:
            for place in places:
                _remap(machine, place)
        for pfn in range(head + folio.nr_pages - 1, head - 1, -1):
            if pfn in machine.swap_cache.folios and not rmap.mapped(pfn):
                machine.swap_cache.delete(pfn)
            machine.put_page(pfn)
    return True


def _split(machine: Machine, folio: Folio, references: int) -> None:
    """``__split_huge_page()``: each page has a reference of the caller's, and these."""
    pages, head, rows = machine.pages, folio.head, folio.rows
    tails = slice(head + 1, rows.stop)
    machine.rmap.destroy(head)
    pages.clear(head, PageFlag.HEAD)
    pages.clear(head + 1, PageFlag.DOUBLE_MAP)
    pages.order[rows] = 0
    pages.tail[rows] = 0
    pages.flags[tails] |= np.uint32(int(pages.flags[head]) & int(_INHERITED))
    pages.mapping[tails] = pages.mapping[head]
    pages.index[tails] = int(pages.index[head]) + np.arange(1, folio.nr_pages, dtype=np.uint64)
    pages.refcount[rows] = 1 + references
    if pages.has(head, PageFlag.LRU):
        # lru_add_page_tail()
        pages.flags[tails] |= np.uint32(PageFlag.LRU)
        lru = machine.node_of(head).lru[machine.batches.list_of(head)]
        for pfn in range(head + 1, rows.stop):
            lru.add_tail(pfn)
    if machine.page_owner is not None:
        machine.page_owner.split(head, folio.order, 0)
    if machine.alloc_tags is not None:
        machine.alloc_tags.split(head, folio.order)


def _split_cache(machine: Machine, folio: Folio) -> None:
    """The part of ``__split_huge_page()`` that is about the page cache and the swap cache."""
    pages, head, rows = machine.pages, folio.head, folio.rows
    found = machine.rmap.objects.get(int(pages.mapping[head]))
    if isinstance(found, PageCache):
        # __xa_store(): each page is a folio of its own in the page cache.
        index = int(pages.index[head])
        found.folios.update((index + offset, head + offset) for offset in range(folio.nr_pages))
    if head in machine.swap_cache.folios:
        pages.private[rows] = int(pages.private[head]) + np.arange(folio.nr_pages, dtype=np.uint64)
        machine.swap_cache.folios.update(range(head, rows.stop))


def _remap(machine: Machine, place: Place) -> None:
    """``remap_page()``: PTEs for all that was mapped."""
    vma = place.vma
    vma.set_ptes(place.slot, place.pfn, place.count)
    machine.rmap.add_ptes(place.pfn, place.count, vma.mm)
    for pfn in range(place.pfn, place.pfn + place.count):
        get_refs(machine, pfn, 1)


def deferred_split_scan(machine: Machine) -> int:
    """``deferred_split_scan()``: reclaim splits folios that are partly unmapped.

    :return: How many were split.
    """
    done = 0
    underused_too = machine.era.version >= (6, 12)
    for head, folio in list(machine.rmap.deferred_split.items()):
        if underused_too and not folio.partially_mapped:
            # Not thp_underused(): its pages are full of data. It leaves the queue.
            machine.rmap.unqueue_deferred_split(folio)
            continue
        with calls(machine, "deferred_split_scan", "do_shrink_slab", "shrink_slab"):
            done += split_folio(machine, head)
    return done
