"""``struct page`` as it is stored, in columns: words, counters and flags, without what they mean together.

Mirrors ``include/linux/page-flags.h`` and ``include/linux/mm_types.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from mmdump.kernel.arrays import I32, I64, U8, U64, Bools, Struct, blanked
from mmdump.kernel.page_layout import PageLayout
from mmdump.target.reader import ReadStatus

__all__ = ["StoredPages"]

T = TypeVar("T")

#: Rows are few when they are at most this part of a range: then a whole column need not be made for them.
_FEW = 8


class StoredPages:
    """What each ``struct page`` of [start, end) says of itself; :class:`~.page.PageRange` is all of it."""

    def __init__(self, start: int, raw: U8, status: U8, layout: PageLayout) -> None:
        self.start = start
        self.end = start + len(status)
        self.layout = layout
        #: What could be read of each row, ReadStatus, uint8.
        self.status = status
        self._raw = blanked(raw, status != ReadStatus.READ)
        self._rows: Struct = self._raw.view(layout.dtype)
        self._made: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self.status)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What more than one analysis makes of this range, made when first asked for.

        :param key: What it is, and all that it depends on but these pages. Nobody may write to the result.
        """
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found

    @cached_property
    def readable(self) -> Bools:
        """Rows whose ``struct page`` was in the dump."""
        return self.status == ReadStatus.READ

    @cached_property
    def initialised(self) -> Bools:
        """Rows whose ``struct page`` was in the dump, and was ever written.

        A debug kernel fills the page array with ones (``page_init_poison()``), and holes stay like that.
        """
        known: Bools = self.readable & (self.flags != np.uint64(0xFFFFFFFFFFFFFFFF))
        return known

    @cached_property
    def pfn(self) -> I64:
        """Page frame numbers, int64."""
        return np.arange(self.start, self.end, dtype=np.int64)

    @cached_property
    def flags(self) -> U64:
        """``page->flags``: the flag bits and, above them, zone and node."""
        return self._word("flags")

    @cached_property
    def compound_head(self) -> U64:
        """``page->compound_head`` as stored: the head's address with bit 0 set, in tail pages."""
        return self._word("compound_head")

    @cached_property
    def mapping(self) -> U64:
        """``page->mapping`` as stored, with its tag bits."""
        return self._word("mapping")

    @cached_property
    def private(self) -> U64:
        """``page->private``."""
        return self._word("private")

    @cached_property
    def index(self) -> U64:
        """``page->index``: the offset in its file, or in its anonymous mapping, in pages."""
        return self._optional_word("index")

    @cached_property
    def memcg_data(self) -> U64:
        """``page->memcg_data``; zeros without CONFIG_MEMCG, and before 5.11."""
        return self._optional_word("memcg_data")

    @cached_property
    def mem_cgroup(self) -> U64:
        """``page->mem_cgroup``, up to 5.10; zeros since."""
        return self._optional_word("mem_cgroup")

    @cached_property
    def lru_next(self) -> U64:
        """``page->lru.next``: of a free block, its link in a free list (``page->buddy_list`` since 6.0)."""
        return self._word("lru_next")

    @cached_property
    def lru_prev(self) -> U64:
        """``page->lru.prev``."""
        return self._word("lru_prev")

    @cached_property
    def refcount(self) -> I32:
        """``page->_refcount``. Tail pages have 0: references are counted in the head."""
        return np.ascontiguousarray(self._rows["_refcount"]).astype(np.int32, copy=False)

    @cached_property
    def referenced(self) -> I64:
        """Rows whose ``_refcount`` is not zero, ascending: neither free pages nor tails have references."""
        return np.flatnonzero(self.refcount)

    @cached_property
    def raw_mapcount(self) -> I32:
        """``page->_mapcount`` as stored: one less than the mappings of this page, or a page type."""
        return np.ascontiguousarray(self._rows["_mapcount"]).astype(np.int32, copy=False)

    def _optional_word(self, name: str) -> U64:
        return self._word(name) if name in (self.layout.dtype.names or ()) else np.zeros(len(self), np.uint64)

    def _word(self, name: str) -> U64:
        assert self.layout.dtype.fields is not None
        dtype, offset = self.layout.dtype.fields[name][:2]
        # What lies in one place, such as compound_head and lru.next, is one column.
        return self.once(
            ("word", dtype, offset),
            lambda: np.ascontiguousarray(self._rows[name]).astype(np.uint64, copy=False),
        )

    def _many(self, rows: I64) -> bool:
        """Whether what is told of all rows, and kept, is cheaper than telling it of these."""
        return len(rows) * _FEW > len(self)

    def word_at(self, name: str, rows: I64) -> U64:
        """The 64-bit member of that name, of some rows: no column is made where they are few.

        Zeros where this kernel lacks an optional one.
        """
        if name in self.__dict__ or self._many(rows):
            column: U64 = getattr(self, name)
            return column[rows]
        if name not in (self.layout.dtype.names or ()):
            return np.zeros(len(rows), np.uint64)
        return self._rows[name][rows].astype(np.uint64, copy=False)

    @cached_property
    def flagged(self) -> I64:
        """Rows with any page flag that has a name: free pages have none, and hardly a tail has."""
        return np.flatnonzero(self.flags & np.uint64(self.layout.all_flags))

    def has_flag(self, *names: str, at: I64 | None = None) -> Bools:
        """Rows with any of these page flags set.

        :param at: Only these rows.
        :return: Read-only for all rows: one array for all who ask.
        """
        mask = self.layout.mask(*names)
        if at is None:
            return self.once(("any flag", mask), lambda: self._flagged_with(mask))
        if self._many(at):
            return self.has_flag(*names)[at]
        return (self.flags[at] & np.uint64(mask)) != 0

    def _flagged_with(self, mask: int) -> Bools:
        """Rows with any of these bits, all of which are page flags."""
        rows = self.flagged
        if self._many(rows):
            found = (self.flags & np.uint64(mask)) != 0
        else:
            found = np.zeros(len(self), bool)
            found[rows] = (self.flags[rows] & np.uint64(mask)) != 0
        found.setflags(write=False)
        return found

    def has_all_flags(self, *names: str, at: I64 | None = None) -> Bools:
        """Rows with all of these page flags set; none where the kernel lacks one of them.

        :param at: Only these rows.
        """
        flags = self.flags if at is None else self.flags[at]
        if not all(name in self.layout.flags for name in names):
            return np.zeros(len(flags), bool)
        mask = np.uint64(self.layout.mask(*names))
        return (flags & mask) == mask
