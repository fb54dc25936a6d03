"""``struct page`` as columns: flags, page type, compound head and order, reference, map and pin counts.

A :class:`PageRange` is one bulk read, its columns decoded when first asked for. Mirrors
``include/linux/page-flags.h`` and ``include/linux/mm.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mmdump.kernel.arrays import I32, I64, U8, U64, Bools, Struct, blanked, runs
from mmdump.kernel.page_layout import FolioField, PageLayout
from mmdump.kernel.pageblock import UNKNOWN
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from mmdump.kernel.page_ext import PageExtRange
    from mmdump.kernel.pageblock import PageblockRange
    from mmdump.kernel.zones import ZoneBits

__all__ = [
    "GUP_PIN_COUNTING_BIAS",
    "MAPPING_ANON",
    "MAPPING_KSM",
    "MAPPING_MOVABLE",
    "PageRange",
]

T = TypeVar("T")

#: Tag bits of page->mapping, macros PAGE_MAPPING_* (both bits: KSM).
MAPPING_ANON = 1
MAPPING_MOVABLE = 2
MAPPING_KSM = 3

#: FOLL_PIN adds this to the reference count of a small folio, in every kernel that has it (5.6 and newer).
GUP_PIN_COUNTING_BIAS = 1024

#: Rows are few when they are at most this part of a range: then a whole column need not be made for them.
_FEW = 8

#: A folio of a larger order than this is not believed: 16 GiB hugetlb pages of 4 KiB base pages have 22.
_MAX_FOLIO_ORDER = 24


def _divmod(offset: I64, size: int) -> tuple[I64, I64]:
    """``np.divmod()``, which takes ten times as long by the usual power of two."""
    if size & (size - 1):
        return np.divmod(offset, size)
    return offset >> (size.bit_length() - 1), offset & (size - 1)


class PageRange:
    """The pages [start, end): at most 2**16, starting at a multiple of it or where memory starts.

    Every column is an array of one value per page, decoded when first used. Rows that could not be read
    hold zeros (or False) in every column; :attr:`readable` tells them apart.
    """

    def __init__(
        self,
        start: int,
        raw: U8,
        status: U8,
        layout: PageLayout,
        zone_bits: ZoneBits,
        blocks: PageblockRange | None = None,
        ext: PageExtRange | None = None,
        again: Callable[[], PageRange] | None = None,
    ) -> None:
        self.start = start
        self.end = start + len(status)
        self.layout = layout
        #: What could be read of each row, ReadStatus, uint8.
        self.status = status
        #: The page_ext entries of these pages; None where this kernel or the analysis has none.
        self.ext = ext
        #: Reads these pages once more, where memory moves while it is read (a live kernel); None in a dump.
        self.again = again
        self._raw = blanked(raw, status != ReadStatus.READ)
        self._rows: Struct = self._raw.view(layout.dtype)
        self._zone_bits = zone_bits
        self._blocks = blocks
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

    # Page types (6.12: the top byte of page_type, which shares its word with _mapcount).

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

    # Compound pages.

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
        pfn, rest = _divmod((named - base).view(np.int64), size)
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
    def mapcount_sums(self) -> I64:
        """Sums of ``_mapcount + 1`` of all rows before each row, and last of all rows, int64."""
        return np.concatenate(([0], np.cumsum(self.raw_mapcount.astype(np.int64) + 1)))

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

    def folio_mapcount(self, heads: I64) -> I64:
        """How often the folio is mapped, ``folio_mapcount()``, for rows that are heads or small folios."""
        if not len(heads):
            return np.zeros(0, np.int64)
        large = self.is_head[heads]
        typed = ~self.readable[heads] | self.is_typed(at=heads) | self.is_type("slab", at=heads)
        small = np.where(typed, 0, self.raw_mapcount[heads].astype(np.int64) + 1)
        if not large.any():
            return small
        if "_large_mapcount" in self.layout.folio:
            # 6.10: the sum of all mappings, less one.
            small[large] = self.folio_field("_large_mapcount", heads[large]) + 1
        else:
            small[large] = self._summed_mapcount(heads[large])
        return small

    def _summed_mapcount(self, heads: I64) -> I64:
        """``folio_mapcount()`` of large folios up to 6.9: of the whole, and of every page."""
        entire = self.folio_field("_entire_mapcount", heads) + 1
        count = np.left_shift(1, self.folio_order[heads].astype(np.int64))
        total = self.mapcount_sums
        pages = total[np.minimum(heads + count, len(self))] - total[heads]
        if "PG_double_map" in self.layout.flags:
            # Up to 6.1 mapping the whole counted in each page too, for files always, for anonymous folios
            # once they were mapped both ways.
            anon = (self.mapping[heads] & np.uint64(MAPPING_ANON)) != 0
            double = self.folio_field("_flags_1", heads) >> self.layout.flags["PG_double_map"] & 1
            pages -= np.where(anon, double * count, entire * count)
        mapcount = entire + pages
        return np.where(
            self.is_type("hugetlb", at=heads), entire, np.where(self.is_type("slab", at=heads), 0, mapcount)
        )

    def counts_pins(self, heads: I64) -> Bools:
        """Whether folios count their FOLL_PIN pins exactly, for rows that are heads or small folios.

        Large ones do; from 5.7 to 5.17 only those above order 1.
        """
        least = self.layout.pins_from_order
        if least < 0:
            return np.zeros(len(heads), bool)
        return self.is_head[heads] & (self.folio_order[heads] >= least)

    def folio_pincount(self, heads: I64) -> I64:
        """FOLL_PIN pins of the folio, ``folio_maybe_dma_pinned()``, for rows that are heads or small folios.

        Exact for folios that count them. Others carry :data:`GUP_PIN_COUNTING_BIAS` references for each pin,
        so 1024 plain references look like one. Kernels up to 5.6 have no FOLL_PIN.
        """
        if self.layout.pins_from_order < 0:
            return np.zeros(len(heads), np.int64)
        exact = self.counts_pins(heads)
        pins = (self.refcount[heads].astype(np.int64) & 0xFFFFFFFF) // GUP_PIN_COUNTING_BIAS
        pins[exact] = self.folio_field("_pincount", heads[exact])
        return pins

    # What surrounds the page.

    def zone_of(self, rows: I64) -> U8:
        """Zone index within the node of some rows, ``page_zonenum()``."""
        return self._zone_bits.zone(self.flags[rows])

    def node_of(self, rows: I64) -> I64:
        """NUMA node of some rows, ``page_to_nid()``."""
        return self._zone_bits.node(self.flags[rows])

    def migratetype_of(self, rows: I64) -> U8:
        """Migratetype of some rows' pageblock, ``get_pageblock_migratetype()``; 255 where unreadable."""
        if self._blocks is None:
            return np.full(len(rows), UNKNOWN, np.uint8)
        if self._many(rows):
            return self.migratetype[rows]
        return self._blocks.of_pages(rows + self.start)

    @cached_property
    def zone(self) -> U8:
        """Zone index within the node of every row."""
        return self._zone_bits.zone(self.flags)

    @cached_property
    def node(self) -> I64:
        """NUMA node of every row."""
        return self._zone_bits.node(self.flags)

    @cached_property
    def migratetype(self) -> U8:
        """Migratetype of every row's pageblock; 255 where unreadable."""
        if self._blocks is None:
            return np.full(len(self), UNKNOWN, np.uint8)
        return self._blocks.of_range(self.start, self.end)

    @cached_property
    def places(self) -> I64:
        """First rows of the runs of pages whose flags name one zone of one node, ascending."""
        bits = self._zone_bits
        mask = bits.zone_mask << bits.zone_shift | bits.node_mask << bits.node_shift
        return runs(self.flags & np.uint64(mask))[0]
