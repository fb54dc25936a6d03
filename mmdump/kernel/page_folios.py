"""Compound pages: heads and tails, the orders of folios, and what their first tails hold.

Mirrors ``include/linux/page-flags.h`` and ``include/linux/mm.h``.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from mmdump.kernel.arrays import I64, U8, Bools, quotients
from mmdump.kernel.page_columns import StoredPages
from mmdump.kernel.page_layout import FolioField

__all__ = ["CompoundPages"]

#: A folio of a larger order than this is not believed: 16 GiB hugetlb pages of 4 KiB base pages have 22.
_MAX_FOLIO_ORDER = 24


class CompoundPages(StoredPages):
    """Which pages of a range make one folio; :class:`~.page.PageRange` is all that is known of them."""

    @cached_property
    def is_tail(self) -> Bools:
        """Tail pages of compound pages, with the fake heads of optimised hugetlb pages."""
        tail = (self.compound_head & np.uint64(1)) != 0
        if self.layout.fake_heads:
            tail[self._fake_heads] = True
        return tail

    @cached_property
    def is_head(self) -> Bools:
        """Head pages of compound pages (large folios)."""
        return self.has_flag("PG_head") & ~self.is_tail

    @cached_property
    def tails(self) -> I64:
        """The rows of :attr:`is_tail`, ascending."""
        return np.flatnonzero(self.is_tail)

    @cached_property
    def heads(self) -> I64:
        """The rows of :attr:`is_head`, ascending."""
        return np.flatnonzero(self.is_head)

    @cached_property
    def _fake_heads(self) -> I64:
        """Rows that look like heads but are tails: ``page_fixed_fake_head()``.

        The hugetlb vmemmap optimisation (5.18 to 7.0) maps every page of a folio's memory map to its first,
        so that what lies there looks like the head again; its second page still names the real one.
        """
        # Only the first struct page of a page of the memory map can be one.
        step = (1 << self.layout.page_shift) // self.layout.dtype.itemsize
        first = -self.start % step
        rows = first + step * np.flatnonzero(
            self.flags[first:-1:step] & np.uint64(self.layout.mask("PG_head"))
        )
        named = self.compound_head[rows + 1]
        own = np.uint64(self.layout.vmemmap) + (self.start + rows).astype(np.uint64) * np.uint64(
            self.layout.dtype.itemsize
        )
        return rows[((named & np.uint64(1)) != 0) & (named - np.uint64(1) != own)]

    @cached_property
    def head_pfn(self) -> I64:
        """PFN of the folio's head; the page's own PFN where it is not a tail, or its head is garbage."""
        if not len(self.tails):
            return self.pfn
        head = self.pfn.copy()
        head[self.tails] = self.named_heads + self.start
        return head

    def head_rows(self, *, at: I64 | None = None) -> I64:
        """The row of each page's head, int64; its own where it is no tail, or its head is garbage.

        Also where the head lies in a range before, as a gigantic page's may: such a tail is judged by itself.

        :param at: Only these rows.
        :return: Read-only for all rows: one array for all who ask.
        """
        if at is None:
            return self._head_rows
        return self._head_rows[at] if len(self.tails) else at

    @cached_property
    def _head_rows(self) -> I64:
        rows = np.arange(len(self))
        rows[self.tails] = np.where(self.named_heads >= 0, self.named_heads, self.tails)
        rows.setflags(write=False)
        return rows

    @cached_property
    def named_heads(self) -> I64:
        """Row of the head that each of :attr:`tails` names, int64: its own row where that is garbage.

        Negative where the head lies in a range before: only gigantic hugetlb pages are that large.
        """
        rows = self.tails
        named = self.compound_head[rows]
        size = self.layout.dtype.itemsize
        base = np.uint64(self.layout.vmemmap)
        if self.layout.head_is_mask:
            named = (base + (self.start + rows).astype(np.uint64) * np.uint64(size)) & named
        else:
            fake = (named & np.uint64(1)) == 0
            if fake.any():
                named[fake] = self.compound_head[rows[fake] + 1]
            named -= np.uint64(1)
        pfn, rest = quotients((named - base).view(np.int64), size)
        pfn -= self.start
        good = (rest == 0) & (pfn >= -self.start) & (pfn < rows)
        return np.where(good, pfn, rows)

    @cached_property
    def tail_counts(self) -> I64:
        """How many tails each row has within its folio, int64: of a whole one, all of its pages but one.

        Tails in ranges after this one are not counted.
        """
        rows, heads = self.tails, self.named_heads
        inside = (heads >= 0) & (heads < rows)
        if not inside.all():
            rows, heads = rows[inside], heads[inside]
        near = rows - heads < np.left_shift(1, self.folio_order[heads].astype(np.int64))
        return np.bincount(heads[near], minlength=len(self))

    @cached_property
    def tails_in_place(self) -> bool:
        """Whether every tail names a head of this range, and lies where that head's order says."""
        return int(self.tail_counts.sum()) == len(self.tails)

    @cached_property
    def folio_order(self) -> U8:
        """Order of the folio, at its head; 0 elsewhere. An impossible order reads as 0."""
        order = np.zeros(len(self), np.uint8)
        heads = self.heads
        stored = self.stored_folio_order(heads)
        pfn = self.start + heads
        good = (stored <= _MAX_FOLIO_ORDER) & (pfn & ((1 << np.minimum(stored, 32)) - 1) == 0)
        order[heads[good]] = stored[good]
        return order

    def stored_folio_order(self, heads: I64) -> I64:
        """The order of a folio as it is stored, possible or not, for rows that are heads."""
        # In the low byte of the second page's flags since 6.6.
        name = "_folio_order" if "_folio_order" in self.layout.folio else "_flags_1"
        return self.folio_field(name, heads) & 0xFF

    def folio_field(self, name: str, heads: I64) -> I64:
        """A scalar of ``struct folio`` that lies beyond its first page, for rows that are heads.

        :param heads: Row numbers. A field past the end of the range reads as 0.
        """
        return self.folio_value(self.layout.folio[name], heads)

    def folio_value(self, field: FolioField, heads: I64) -> I64:
        """The same for a field that a plugin has found; unsigned 64-bit words wrap around."""
        if not len(heads):
            return np.zeros(0, np.int64)
        page, offset = divmod(field.offset, self.layout.dtype.itemsize)
        rows = heads + page
        inside = rows < len(self)
        column = np.ndarray(
            shape=(len(self),),
            dtype=field.dtype,
            buffer=self._raw.data,
            offset=offset,
            strides=(self.layout.dtype.itemsize,),
        )
        return np.where(inside, column[np.minimum(rows, len(self) - 1)].astype(np.int64), 0)
