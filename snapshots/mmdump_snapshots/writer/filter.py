"""Which pages a dump leaves out: makedumpfile's dump levels (-d), decided as it decides, from struct page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmdump_snapshots.writer.addresses import AddressSpace
from mmdump_snapshots.writer.facts import TypeFacts, constant, mapcount_value, offset_of
from mmdump_snapshots.writer.memory import Bytes, PhysicalMemory

__all__ = [
    "CACHE", "CACHE_PRIVATE", "FREE", "NOTHING", "USER", "ZERO",
    "Excluded", "Filter", "PageArray", "page_filter", "ram_pages", "zero_pages", "zero_rows",
]  # fmt: skip

#: Bits of the dump level.
ZERO, CACHE, CACHE_PRIVATE, USER, FREE = 1, 2, 4, 8, 16

#: Of PFNs [start, end), those to leave out: boolean array of shape (end - start,).
Excluded = Callable[[int, int], NDArray[np.bool_]]

#: No free block or small folio crosses a multiple of this many pages (orders up to 12).
WINDOW = 1 << 14
#: compound_dtor of hugetlb pages (up to 6.5).
HUGETLB_PAGE_DTOR = 2
#: Where the masks begin that compound_info may hold.
COMPOUND_MASKS = 0xFFFFFFFFC0000000


@dataclass(frozen=True)
class Filter:
    """What a dump leaves out.

    :param level: makedumpfile's dump level, 0 to 31, to be noted in the dump. Pages of zeros (1) are found by
        the containers themselves.
    :param excluded: The pages that the other bits mean.
    """

    level: int = 0
    excluded: Excluded | None = None

    def pages(self, start_pfn: int, end_pfn: int) -> NDArray[np.bool_]:
        """The pages that bits other than :data:`ZERO` leave out."""
        if self.excluded is None or not self.level & ~ZERO:
            return np.zeros(end_pfn - start_pfn, np.bool_)
        out = self.excluded(start_pfn, end_pfn)
        if out.dtype != np.bool_ or out.shape != (end_pfn - start_pfn,):
            raise ValueError(
                f"a filter gave {out.dtype} of shape {out.shape} for {end_pfn - start_pfn} pages"
            )
        return out


NOTHING = Filter()


def ram_pages(memory: PhysicalMemory, page_shift: int) -> Iterator[tuple[int, int]]:
    """(start PFN, end PFN) of RAM, whole pages only."""
    for start, end in memory.ram:
        first, last = -(-start >> page_shift), end >> page_shift
        if first < last:
            yield first, last


def zero_rows(rows: Bytes) -> NDArray[np.bool_]:
    """Which rows of an array of shape (rows, bytes) are all zero."""
    words = np.ascontiguousarray(rows).view(np.uint64)
    return np.equal(words.max(axis=1, initial=0), 0)


def zero_pages(memory: PhysicalMemory, page_shift: int, start_pfn: int, end_pfn: int) -> NDArray[np.bool_]:
    """The pages of [start_pfn, end_pfn), all RAM, that are all zeros."""
    out = np.ones(end_pfn - start_pfn, np.bool_)
    page = 1 << page_shift
    step = 1024
    for first in range(start_pfn, end_pfn, step):
        last = min(end_pfn, first + step)
        if not memory.is_empty(first * page, last * page):
            rows = memory.array(first * page, (last - first) * page).reshape(-1, page)
            out[first - start_pfn : last - start_pfn] = zero_rows(rows)
    return out


class PageArray:
    """The raw struct pages in a memory.

    :param parts: (start PFN, end PFN, physical address) of where struct pages are. PFNs in none have no page.
    :param version: The kernel's release, where its page types cannot be told from ``types`` alone.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        space: AddressSpace,
        types: TypeFacts,
        parts: Sequence[tuple[int, int, int]],
        version: tuple[int, int],
    ) -> None:
        self._memory = memory
        self.space = space
        self.types = types
        self.version = version
        self.size = types.sizeof("struct page")
        self._parts = sorted(parts)

    def rows(self, start_pfn: int, end_pfn: int) -> Bytes:
        """The struct pages of [start_pfn, end_pfn): shape (pages, size), uint8; zeros where none are."""
        out = np.zeros((end_pfn - start_pfn, self.size), np.uint8)
        for first, last, phys in self._parts:
            low, high = max(first, start_pfn), min(last, end_pfn)
            if low < high:
                raw = self._memory.array(phys + (low - first) * self.size, (high - low) * self.size)
                out[low - start_pfn : high - start_pfn] = raw.reshape(-1, self.size)
        return out

    def word(self, rows: Bytes, member: str, kind: str = "<u8") -> NDArray[Any]:
        """A member of struct page as an array of shape (pages,)."""
        offset = offset_of(self.types, "struct page", member)
        assert offset is not None, member
        width = np.dtype(kind).itemsize
        return np.ascontiguousarray(rows[:, offset : offset + width]).view(kind).reshape(-1)

    def heads(self, rows: Bytes, start_pfn: int) -> NDArray[np.int64]:
        """``compound_head()`` of each row, as PFNs; its own PFN when it is not a tail."""
        pfns = np.arange(start_pfn, start_pfn + len(rows), dtype=np.int64)
        base = np.uint64(self.space.vmemmap)
        size = np.uint64(self.size)
        if offset_of(self.types, "struct page", "compound_info") is None:
            word = self.word(rows, "compound_head")
            heads = word & ~np.uint64(1)
        else:
            # Since 7.1 it may be a mask for the page's own address; page arrays are not as high as masks.
            word = self.word(rows, "compound_info")
            heads = word & ~np.uint64(1)
            own = base + pfns.astype(np.uint64) * size
            heads = np.where(heads >= np.uint64(COMPOUND_MASKS), own & heads, heads)
        tail = (word & np.uint64(1)).astype(np.bool_)
        return np.where(tail, ((heads - base) // size).astype(np.int64), pfns)


def page_filter(level: int, pages: PageArray) -> Filter:
    """The filter of a dump level, as makedumpfile's ``__exclude_unnecessary_pages()`` decides by struct page.

    Pages of a large folio go with its head. Pages that are offline or poisoned are left out at any level that
    looks at pages at all.
    """
    return Filter(level, _Decision(level, pages).excluded)


class _Decision:
    """What to leave out, and the numbers it depends on."""

    def __init__(self, level: int, pages: PageArray) -> None:
        self._level = level
        self._pages = pages
        types, version = pages.types, pages.version
        self._values = {
            name: mapcount_value(types, version, name) for name in ("buddy", "offline", "hugetlb", "slab")
        }

        def bit(name: str) -> np.uint64:
            number = constant(types, name)
            return np.uint64(0 if number is None else 1 << number)

        self._lru, self._private = bit("PG_lru"), bit("PG_private")
        self._swapcache, self._swapbacked = bit("PG_swapcache"), bit("PG_swapbacked")
        self._hwpoison, self._head, self._slab = bit("PG_hwpoison"), bit("PG_head"), bit("PG_slab")

    def excluded(self, start_pfn: int, end_pfn: int) -> NDArray[np.bool_]:
        """See :data:`Excluded`."""
        out = np.zeros(end_pfn - start_pfn, np.bool_)
        for window in range(start_pfn // WINDOW * WINDOW, end_pfn, WINDOW):
            low, high = max(window, start_pfn), min(window + WINDOW, end_pfn)
            decided = self._window(window, window + WINDOW)
            out[low - start_pfn : high - start_pfn] = decided[low - window : high - window]
        return out

    def _window(self, start: int, end: int) -> NDArray[np.bool_]:
        rows = self._pages.rows(start, end)
        heads = self._pages.heads(rows, start)
        own = np.arange(start, end)
        single = self._decide(rows)
        out = np.where(heads == own, single, False)
        inside = (heads != own) & (heads >= start) & (heads < end)
        out[inside] = single[heads[inside] - start]
        # Folios larger than a window have their head in another one.
        for head in np.unique(heads[(heads < start) | (heads >= end)]).tolist():
            out[heads == head] = self._decide(self._pages.rows(head, head + 2))[0] if head >= 0 else False
        if self._level & FREE:
            out |= self._free(rows)
        return out

    def _type(self, mapcount: NDArray[np.int32], name: str) -> NDArray[np.bool_]:
        value = self._values[name]
        return np.zeros(len(mapcount), np.bool_) if value is None else mapcount == value

    def _free(self, rows: Bytes) -> NDArray[np.bool_]:
        """The pages of buddy blocks."""
        mapcount = self._pages.word(rows, "_mapcount", "<i4")
        order = self._pages.word(rows, "private")
        heads = np.flatnonzero(self._type(mapcount, "buddy") & (order < np.uint64(WINDOW.bit_length())))
        steps = np.zeros(len(rows) + 1, np.int32)
        np.add.at(steps, heads, 1)
        np.add.at(steps, np.minimum(heads + (1 << order[heads].astype(np.int64)), len(rows)), -1)
        return np.cumsum(steps[:-1]) > 0

    def _decide(self, rows: Bytes) -> NDArray[np.bool_]:
        """Each page by its own struct page, whatever it is part of; free blocks apart."""
        flags = self._pages.word(rows, "flags")
        mapcount = self._pages.word(rows, "_mapcount", "<i4")
        slab = self._type(mapcount, "slab") | ((flags & self._slab) != 0)
        anon = ((self._pages.word(rows, "mapping") & np.uint64(1)) != 0) & ~slab
        swap = ((flags & self._swapcache) != 0) & ((flags & self._swapbacked) != 0)
        cache = (((flags & self._lru) != 0) | swap) & ~anon
        out = self._type(mapcount, "offline") | ((flags & self._hwpoison) != 0)
        if self._level & CACHE_PRIVATE:
            out |= cache
        elif self._level & CACHE:
            out |= cache & ((flags & self._private) == 0)
        if self._level & USER:
            out |= anon | self._hugetlb(rows, mapcount, flags)
        return out & ~self._type(mapcount, "buddy")

    def _hugetlb(
        self, rows: Bytes, mapcount: NDArray[np.int32], flags: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Heads of hugetlb pages: by page type, or by what the first tail says (up to 6.8)."""
        types = self._pages.types
        found = self._type(mapcount, "hugetlb")
        marker = constant(types, "PG_hugetlb") if self._pages.version < (6, 9) else None
        dtor = offset_of(types, "struct page", "compound_dtor")
        if dtor is None and (of_folio := offset_of(types, "struct folio", "_folio_dtor")) is not None:
            dtor = of_folio - self._pages.size
        heads = np.flatnonzero((flags & self._head) != 0)
        heads = heads[heads + 1 < len(rows)]
        if dtor is not None:
            found[heads] |= rows[heads + 1, dtor] == HUGETLB_PAGE_DTOR
        elif marker is not None and self._pages.version >= (6, 6):
            found[heads] |= (flags[heads + 1] >> np.uint64(marker)) & np.uint64(1) != 0
        return found
