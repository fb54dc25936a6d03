"""The page array as the model keeps it: one numpy column per fact, one row per PFN.

Zero always means "free and never touched", so a column of a machine of 64 GiB costs memory only where
something happened. The writer lays these columns out as a kernel's ``struct page``, ``struct folio`` and
page_ext.
"""

from __future__ import annotations

import mmap
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["ExtFlag", "PageFlag", "PageType", "Pages", "column"]


class PageFlag(IntFlag):
    """Page flags that the model sets, named as the kernel's ``PG_*``; each profile knows their bits."""

    LOCKED = 1 << 0
    REFERENCED = 1 << 1
    UPTODATE = 1 << 2
    DIRTY = 1 << 3
    LRU = 1 << 4
    ACTIVE = 1 << 5
    WORKINGSET = 1 << 6
    HEAD = 1 << 7
    RESERVED = 1 << 8
    PRIVATE = 1 << 9
    WRITEBACK = 1 << 10
    RECLAIM = 1 << 11
    SWAPBACKED = 1 << 12
    UNEVICTABLE = 1 << 13
    MLOCKED = 1 << 14
    HWPOISON = 1 << 15
    SWAPCACHE = 1 << 16
    #: PG_double_map on the first tail of a folio (up to 6.1).
    DOUBLE_MAP = 1 << 17
    #: PG_reported: meaningful on the head of a buddy block (an alias of PG_uptodate).
    REPORTED = 1 << 18


class PageType(IntEnum):
    """What a page is when its ``_mapcount`` does not count mappings."""

    NONE = 0
    BUDDY = 1
    OFFLINE = 2
    TABLE = 3
    GUARD = 4
    HUGETLB = 5
    SLAB = 6


class ExtFlag(IntFlag):
    """page_ext flags that the model sets, named as the kernel's ``PAGE_EXT_*``."""

    OWNER = 1 << 0
    OWNER_ALLOCATED = 1 << 1
    PINNER = 1 << 2
    DEBUG_GUARD = 1 << 3
    #: Of the RFC's second version.
    PIN_OWNER = 1 << 4
    #: Of Android.
    GET = 1 << 5
    PINNER_MIGRATION_FAILED = 1 << 6


def column(rows: int, dtype: DTypeLike) -> NDArray[Any]:
    """A column of zeros that takes memory only page by page, as it is written.

    :return: A writable array of shape ``(rows,)``.
    """
    kind = np.dtype(dtype)
    memory = mmap.mmap(-1, max(rows * kind.itemsize, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, kind, rows)


class Pages:
    """What the kernel knows of every page. The rows are PFNs from 0 on; all arrays have shape (count,).

    :ivar flags: :class:`PageFlag` bits, uint32.
    :ivar type: :class:`PageType`, uint8.
    :ivar refcount: ``_refcount``, int32. Tails of compound pages have 0.
    :ivar mapcount: Mappings of this very page by PTEs, ``_mapcount + 1``, int32, in the era's own way.
    :ivar order: Order of the buddy block or guard block, or of the compound page, on its first page; uint8.
    :ivar tail: For a tail of a compound page its distance from the head, uint32; 0 otherwise.
    :ivar mapping: ``mapping``, uint64: physical address of the anon_vma or address_space, with the kernel's
        tag bits (1: anon, 3: KSM); 0 for none.
    :ivar index: ``index``, uint64.
    :ivar private: ``private`` of pages in use, uint64. (The order of free blocks is in ``order``.)
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.flags: NDArray[np.uint32] = column(count, np.uint32)
        self.type: NDArray[np.uint8] = column(count, np.uint8)
        self.refcount: NDArray[np.int32] = column(count, np.int32)
        self.mapcount: NDArray[np.int32] = column(count, np.int32)
        self.order: NDArray[np.uint8] = column(count, np.uint8)
        self.tail: NDArray[np.uint32] = column(count, np.uint32)
        self.mapping: NDArray[np.uint64] = column(count, np.uint64)
        self.index: NDArray[np.uint64] = column(count, np.uint64)
        self.private: NDArray[np.uint64] = column(count, np.uint64)

    def head(self, pfn: int) -> int:
        """``compound_head()``: the first page of a page's compound page; itself when it is not a tail."""
        return pfn - int(self.tail[pfn])

    def has(self, pfn: int, flag: PageFlag) -> bool:
        """Whether any of these flags is set."""
        return bool(self.flags[pfn] & flag)

    def set(self, pfn: int, flag: PageFlag) -> None:
        """Set flags."""
        self.flags[pfn] |= np.uint32(flag)

    def clear(self, pfn: int, flag: PageFlag) -> None:
        """Clear flags."""
        self.flags[pfn] &= np.uint32(~int(flag) & 0xFFFFFFFF)
