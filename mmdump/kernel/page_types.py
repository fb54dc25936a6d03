"""What kind of page each is: page types, and the free blocks of the buddy allocator.

A type is in the top byte of ``page_type`` since 6.12, a cleared bit of it before; either way the word is
``_mapcount``'s too. Mirrors ``include/linux/page-flags.h`` and ``mm/internal.h``.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from mmdump.kernel.arrays import I64, U8, Bools
from mmdump.kernel.page_folios import CompoundPages

__all__ = ["TypedPages"]


class TypedPages(CompoundPages):
    """What the pages of a range are; :class:`~.page.PageRange` is all that is known of them."""

    def is_typed(self, *, at: I64 | None = None) -> Bools:
        """Rows whose ``_mapcount`` word is a page type, ``page_has_type()``.

        :param at: Only these rows.
        :return: Read-only for all rows: one array for all who ask.
        """
        if at is None:
            return self._is_typed
        return self._is_typed[at] if self._many(at) else self.raw_mapcount[at] < self.layout.types_below

    @cached_property
    def _is_typed(self) -> Bools:
        found: Bools = self.raw_mapcount < self.layout.types_below
        found.setflags(write=False)
        return found

    def is_type(self, name: str, *, at: I64 | None = None) -> Bools:
        """Rows of a page type, such as ``buddy``, ``slab`` or ``hugetlb``: ``PageBuddy()`` and so on.

        :param at: Only these rows.
        :return: Read-only for all rows: one array for all who ask.
        """
        if at is None:
            return self.once(("type", name), lambda: self._typed(name))
        return self.is_type(name)[at] if self._many(at) else self._of_type(name, at)

    def _typed(self, name: str) -> Bools:
        found = self._of_type(name, None)
        found.setflags(write=False)
        return found

    def _of_type(self, name: str, at: I64 | None) -> Bools:
        if name == "hugetlb" and (self.layout.hugetlb_dtor is not None or "PG_hugetlb" in self.layout.flags):
            return self._is_hugetlb_by_folio if at is None else self._is_hugetlb_by_folio[at]
        if name == "slab" and "PG_slab" in self.layout.flags:
            # A page flag, up to 6.9.
            return self.has_flag("PG_slab", at=at)
        words = self.raw_mapcount if at is None else self.raw_mapcount[at]
        if name not in self.layout.types:
            return np.zeros(len(words), bool)
        base = self.layout.types_base
        if base:
            bits = np.uint32(base | self.layout.types[name])
            return (words.view(np.uint32) & bits) == np.uint32(base)
        return (words >> 24) == self.layout.types[name] - 256

    @cached_property
    def _is_hugetlb_by_folio(self) -> Bools:
        """Heads of hugetlb folios where the first tail says so: a destructor (up to 6.5), a flag (to 6.8)."""
        found = np.zeros(len(self), bool)
        heads = self.heads
        if self.layout.hugetlb_dtor is not None:
            found[heads] = self.folio_field("_folio_dtor", heads) == self.layout.hugetlb_dtor
        else:
            bit = self.layout.flags["PG_hugetlb"]
            found[heads] = self.folio_field("_flags_1", heads) >> bit & 1 != 0
        return found

    # Free blocks.

    @cached_property
    def is_buddy(self) -> Bools:
        """First pages of free blocks in the buddy allocator."""
        return self.is_type("buddy")

    @cached_property
    def buddy_order(self) -> U8:
        """Order of the free block a row begins; 0 elsewhere. An impossible order reads as 0."""
        found = np.zeros(len(self), np.uint8)
        order = self.word_at("private", self.buddies)
        found[self.buddies] = np.where(order <= self.layout.max_buddy_order, order, 0)
        return found

    @cached_property
    def buddies(self) -> I64:
        """The rows of :attr:`is_buddy`, ascending."""
        return np.flatnonzero(self.is_buddy)

    @cached_property
    def in_free_block(self) -> Bools:
        """Pages of free blocks in the buddy allocator, ``is_free_buddy_page()``: first pages and the rest."""
        heads = self.buddies
        if not len(heads):
            return np.zeros(len(self), bool)
        ends = np.minimum(heads + np.left_shift(1, self.buddy_order[heads].astype(np.int64)), len(self))
        following = np.append(heads[1:], len(self))
        # In a damaged dump a block may lie in another, or begin in one and end beyond it.
        ends = np.minimum(np.maximum.accumulate(ends), following)
        # By turns pages that are in none, and pages of a block.
        lengths = np.empty(2 * len(heads) + 1, np.int64)
        lengths[0], lengths[1::2], lengths[2::2] = heads[0], ends - heads, following - ends
        return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
