"""The page cache and the swap cache (mm/filemap.c, mm/swap_state.c)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .callchains import calls
from .folio import MAPPING_ANON
from .gfp import Gfp
from .pages import PageFlag
from .references import get_refs, put_refs

if TYPE_CHECKING:
    from .machine import Machine
    from .vma import Vma

__all__ = ["PageCache", "SwapCache"]

_SIZEOF_ADDRESS_SPACE = 192


@dataclass(eq=False)
class PageCache:
    """``struct address_space`` of a file or of shmem: its folios by index. Each page holds a reference.

    :ivar address: Physical address of the structure.
    :ivar folios: Heads by the index of each of their pages.
    :ivar vmas: VMAs that map the file.
    """

    machine: Machine
    name: str
    shmem: bool = False
    address: int = field(init=False)
    folios: dict[int, int] = field(default_factory=dict)
    vmas: list[Vma] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.address = self.machine.objects.alloc("address_space", _SIZEOF_ADDRESS_SPACE)
        self.machine.rmap.objects[self.address] = self

    def find(self, index: int) -> int | None:
        """``filemap_get_folio()`` without its reference.

        :return: The PFN of the page at this index, or None.
        """
        head = self.folios.get(index)
        return None if head is None else head + index - int(self.machine.pages.index[head])

    def read(self, index: int, order: int = 0) -> int | None:
        """``page_cache_ra_order()``, ``shmem_alloc_and_add_folio()``: bring a folio into the cache.

        :param order: Of the folio, which is aligned to it; where a part of it is there already, 0.
        :return: The head of the folio with this index, which may be there already; None without memory.
        """
        if index in self.folios:
            return self.folios[index]
        first = index & -(1 << order)
        if any(i in self.folios for i in range(first, first + (1 << order))):
            first, order = index, 0
        machine = self.machine
        names = ("shmem_alloc_folio", "shmem_alloc_and_add_folio", "shmem_get_folio_gfp")
        if not self.shmem:
            names = ("filemap_alloc_folio_noprof", "page_cache_ra_unbounded", "filemap_get_pages")
        with calls(machine, *names):
            head = machine.alloc_pages(order, Gfp.HIGHUSER_MOVABLE | (Gfp.COMP if order else Gfp(0)))
            if head is None:
                return None
            self.add(head, first)
            machine.pages.set(head, PageFlag.UPTODATE | PageFlag.REFERENCED)
            put_refs(machine, head, 1)
        return head

    def add(self, head: int, index: int) -> None:
        """``filemap_add_folio()``, ``shmem_add_to_page_cache()``: a reference for each page."""
        machine = self.machine
        count = machine.rmap.nr_pages(head)
        get_refs(machine, head, count)
        machine.pages.mapping[head] = self.address
        machine.pages.index[head] = index
        if self.shmem:
            machine.pages.set(head, PageFlag.SWAPBACKED)
        self.folios.update(dict.fromkeys(range(index, index + count), head))
        machine.batches.folio_add_lru(head)

    def replace(self, old: int, new: int) -> None:
        """``__folio_migrate_mapping()``, ``xas_store()``: another folio in the place of one."""
        index = int(self.machine.pages.index[old])
        count = self.machine.rmap.nr_pages(old)
        self.folios.update(dict.fromkeys(range(index, index + count), new))

    def attach_private(self, head: int, private: int) -> None:
        """``folio_attach_private()``: the file system's own data, such as buffers, hold a reference."""
        pages = self.machine.pages
        if pages.has(head, PageFlag.PRIVATE):
            raise ValueError(f"folio {head} has private data already")
        get_refs(self.machine, head, 1)
        pages.private[head] = private
        pages.set(head, PageFlag.PRIVATE)

    def detach_private(self, head: int) -> None:
        """``folio_detach_private()``."""
        pages = self.machine.pages
        pages.clear(head, PageFlag.PRIVATE)
        pages.private[head] = 0
        put_refs(self.machine, head, 1)

    def remove(self, head: int) -> None:
        """``truncate_inode_folio()``: unmap a folio, and take it out of the cache."""
        machine = self.machine
        pages = machine.pages
        index, count = int(pages.index[head]), machine.rmap.nr_pages(head)
        with calls(machine, "truncate_inode_pages_range", "truncate_inode_pages_final", "evict"):
            for place in machine.rmap.walk(head):
                place.vma.zap_place(place)
            if pages.has(head, PageFlag.PRIVATE):
                self.detach_private(head)
            for i in range(index, index + count):
                del self.folios[i]
            # filemap_remove_folio(); page->index stays.
            pages.mapping[head] = 0
            put_refs(machine, head, count)

    def truncate(self) -> None:
        """``truncate_inode_pages()``: the file is gone."""
        for head in dict.fromkeys(self.folios.values()):
            self.remove(head)


class SwapCache:
    """``swap_address_space()``: anonymous folios that have a place in swap. Each page holds a reference."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._next = 1
        self.folios: set[int] = set()

    def add(self, head: int) -> None:
        """``add_to_swap()``, ``folio_alloc_swap()``: the entry is in ``page->private``."""
        pages = self._machine.pages
        if not int(pages.mapping[head]) & MAPPING_ANON or head in self.folios:
            raise ValueError(f"folio {head} cannot be added to the swap cache")
        count = self._machine.rmap.nr_pages(head)
        get_refs(self._machine, head, count)
        pages.set(head, PageFlag.SWAPCACHE | PageFlag.DIRTY)
        entry = self._next
        self._next += count
        if self._machine.era.version < (6, 5) or count == 1:
            # Before 6.5 every page of a THP kept its own entry.
            pages.private[head : head + count] = np.arange(entry, entry + count, dtype=np.uint64)
        else:
            pages.private[head] = entry
        self.folios.add(head)

    def delete(self, head: int) -> None:
        """``delete_from_swap_cache()``."""
        pages = self._machine.pages
        count = self._machine.rmap.nr_pages(head)
        self.folios.remove(head)
        pages.clear(head, PageFlag.SWAPCACHE)
        pages.private[head : head + count] = 0
        put_refs(self._machine, head, count)

    def replace(self, old: int, new: int) -> None:
        """The part of ``__folio_migrate_mapping()``."""
        pages, count = self._machine.pages, self._machine.rmap.nr_pages(old)
        pages.private[new : new + count] = pages.private[old : old + count]
        pages.private[old : old + count] = 0
        self.folios.remove(old)
        self.folios.add(new)
