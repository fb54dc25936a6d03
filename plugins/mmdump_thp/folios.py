"""The large folios of a range of pages: state, kind, and every count of their mappings (mm/rmap.c).

A page may be freed, split or allocated while it is examined: a head may have lost its tails, a tail its head.
That is a state with a name here, as it has been for ``stable_page_flags()`` since 4.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.arrays import I64, U8, Bools
from mmdump.kernel.page import MAPPING_ANON, MAPPING_MOVABLE
from mmdump.kernel.references import KIND_NAMES, folio_kinds
from mmdump_thp.layout import ENTIRELY_MAPPED, FOLIO_PAGES_MAPPED

if TYPE_CHECKING:
    from mmdump.kernel.page import PageRange
    from mmdump_thp.layout import LargeLayout

__all__ = ["COUNTERS", "FREE", "FROZEN", "KINDS", "STATES", "TORN", "UNREADABLE", "WHOLE", "LargeFolios"]

#: States of a folio, by code.
STATES = ("whole", "frozen", "torn", "unreadable", "free")
WHOLE, FROZEN, TORN, UNREADABLE, FREE = range(len(STATES))

#: Kinds of folios, by code.
KINDS = (*KIND_NAMES, "hugetlb", "huge_zero")
_HUGETLB, _HUGE_ZERO = len(KIND_NAMES), len(KIND_NAMES) + 1

#: Counters that can contradict the others, in the order of the bits of ``wrong``.
COUNTERS = ("_large_mapcount", "_nr_pages_mapped", "_mm_id_mapcount", "_mapcount")


@dataclass(frozen=True)
class LargeFolios:
    """Large folios, one row each. All arrays have one value per folio.

    :ivar rows: Row of the head within the range, int64, ascending.
    :ivar order: int64; 0 where it is garbage.
    :ivar pages: Pages of it that lie in this range and before the next head, int64.
    :ivar state: Index into :data:`STATES`.
    :ivar kind: Index into :data:`KINDS`.
    :ivar mapcount: ``folio_mapcount()``, int64.
    :ivar entire: Mappings of the whole, by PMDs (or PUDs), int64.
    :ivar ptes: Mappings of single pages, by PTEs: the sum over its pages, int64.
    :ivar pages_mapped: Pages that are mapped at all; -1 where this kernel does not count them, int64.
    :ivar wrong: Bits of :data:`COUNTERS` that contradict the others, uint8.
    :ivar uncounted: Whether mappings by PTEs are not counted by page (CONFIG_NO_PAGE_MAPCOUNT).
    """

    rows: I64
    order: I64
    pages: I64
    state: U8
    kind: U8
    mapcount: I64
    entire: I64
    ptes: I64
    pages_mapped: I64
    wrong: U8
    uncounted: Bools

    @classmethod
    def find(cls, pages: PageRange, layout: LargeLayout, huge_zero_pfn: int, *, hugetlb: bool) -> LargeFolios:
        """The large folios of user memory in a range."""
        heads = pages.heads
        if not len(heads):
            none, codes = np.zeros(0, np.int64), np.zeros(0, np.uint8)
            return cls(none, none, none, codes, codes, none, none, none, none, codes, codes.view(bool))
        order = pages.folio_order[heads].astype(np.int64)
        extent = _extent(pages, heads, order)
        huge = pages.is_type("hugetlb", at=heads)
        kind = folio_kinds(pages, heads).codes()
        kind[huge] = _HUGETLB
        kind[(heads + pages.start == huge_zero_pfn) & ~huge] = _HUGE_ZERO
        state = _state(pages, heads, order, extent)
        wanted = _is_user(pages, heads, state) | (kind == _HUGE_ZERO)
        wanted = np.where(huge, hugetlb, wanted)

        heads, order, extent, kind = heads[wanted], order[wanted], extent[wanted], kind[wanted]
        state, huge = state[wanted], huge[wanted]
        # The pool's free pages have no references.
        state[huge & (state == FROZEN)] = FREE
        entire = pages.folio_field("_entire_mapcount", heads) + 1
        own_sum, own_pages, negative = _page_mapcounts(pages, heads, extent, entire, huge)
        mapcount = pages.folio_mapcount(heads)
        counted = (state == WHOLE) & ~huge
        entire = np.where(state == TORN, 0, entire)
        wrong = np.zeros(len(heads), np.uint8)
        uncounted = np.zeros(len(heads), bool)
        if "_large_mapcount" in pages.layout.folio:
            # 6.10. With CONFIG_NO_PAGE_MAPCOUNT (6.15) pages do not count, and neither does _nr_pages_mapped.
            nothing = (own_sum == 0) & (_nr_pages_mapped(pages, layout, heads) == 0)
            uncounted = counted & (mapcount > entire) & nothing
            wrong |= np.uint8(1) * (counted & ~uncounted & (mapcount != entire + own_sum))
            own_sum = np.where(uncounted, mapcount - entire, own_sum)
        if layout.has("_nr_pages_mapped"):
            stored = _nr_pages_mapped(pages, layout, heads)
            expected = own_pages + np.where(entire > 0, ENTIRELY_MAPPED, 0)
            # The kernel keeps nothing but the count in the bits below.
            mismatch = (stored & (ENTIRELY_MAPPED | FOLIO_PAGES_MAPPED)) != expected
            wrong |= np.uint8(2) * (counted & ~uncounted & mismatch)
        if layout.has("_mm_id_mapcount_0"):
            wrong |= np.uint8(4) * (counted & (_of_mm_ids(pages, layout, heads) > mapcount))
        wrong |= np.uint8(8) * (counted & (negative | (entire < 0) | (mapcount < 0)))
        count = np.left_shift(1, order)
        mapped = np.where(entire > 0, count, own_pages)
        mapped = np.where(huge, np.where(mapcount > 0, count, 0), mapped)
        unknown = (uncounted & (entire <= 0)) | ((state != WHOLE) & (state != FREE))
        return cls(
            rows=heads,
            order=order,
            pages=extent,
            state=state,
            kind=kind,
            mapcount=np.where(state == TORN, 0, mapcount),
            entire=entire,
            ptes=np.where(huge | (state == TORN), 0, own_sum),
            pages_mapped=np.where(unknown, -1, mapped),
            wrong=wrong,
            uncounted=uncounted,
        )

    def __len__(self) -> int:
        return len(self.rows)


def _extent(pages: PageRange, heads: I64, order: I64) -> I64:
    """How many pages of each folio can be looked at: up to the next head, and to the end of the range.

    A gigantic page goes on in the next range; an order that is garbage must not cost memory.
    """
    following = np.append(heads[1:], len(pages))
    return np.minimum(np.left_shift(1, order), following - heads)


def _state(pages: PageRange, heads: I64, order: I64, extent: I64) -> U8:
    """Whether each head has its tails, and its folio its references."""
    # Tails that name a head of this range, and lie where its order says that they are.
    count = pages.tail_counts[heads]
    expected = np.minimum(np.left_shift(1, order), len(pages) - heads) - 1
    state = np.full(len(heads), WHOLE, np.uint8)
    state[pages.refcount[heads] == 0] = FROZEN
    state[(count != expected) | (order == 0)] = TORN
    if not pages.readable.all():
        lost = np.concatenate(([0], np.cumsum(~pages.readable)))
        state[lost[heads + extent] != lost[heads]] = UNREADABLE
    return state


def _is_user(pages: PageRange, heads: I64, state: U8) -> Bools:
    """Heads of folios of user memory; other compound pages are the kernel's own."""
    mapping = pages.mapping[heads]
    cached = (mapping != 0) & ((mapping & np.uint64(3)) != MAPPING_MOVABLE)
    user = cached | pages.has_flag("PG_lru", at=heads)
    bit = pages.layout.flags.get("PG_large_rmappable")
    if bit is not None:
        # 6.6, in the second page's flags: what the reverse map knows, with a mapping or (any more) without.
        # Where the tails are gone, that page may be anybody's.
        user |= (pages.folio_field("_flags_1", heads) >> bit & 1 != 0) & (state != TORN)
    # A head whose tails are gone is worth a row, whosever it was.
    user |= state == TORN
    kernel = pages.is_typed(at=heads) | pages.is_type("slab", at=heads)
    return user & ~kernel & ~pages.has_flag("PG_reserved", at=heads)


def _page_mapcounts(
    pages: PageRange, heads: I64, extent: I64, entire: I64, huge: Bools
) -> tuple[I64, I64, Bools]:
    """Mappings by PTEs: their sum, the pages that have any, and whether one has less than none."""
    if not len(heads):
        nothing = np.empty(0, np.int64)
        return nothing, nothing, np.empty(0, bool)
    own = pages.raw_mapcount.astype(np.int64) + 1
    own[pages.is_typed() | ~pages.readable] = 0
    # Page after page of all the folios.
    starts = np.cumsum(extent) - extent
    rows = np.repeat(heads - starts, extent) + np.arange(int(extent.sum()))
    mapped = own[rows] - np.repeat(_counted_in_pages(pages, heads, entire), extent)
    mapped[np.repeat(huge, extent)] = 0
    return (
        np.add.reduceat(mapped, starts),
        np.add.reduceat((mapped > 0).astype(np.int64), starts),
        np.minimum.reduceat(mapped, starts) < 0,
    )


def _counted_in_pages(pages: PageRange, heads: I64, entire: I64) -> I64:
    """How much of every page's ``_mapcount`` is due to mappings of the whole.

    Up to 6.1: all of them in a file's folio; one in an anonymous one with PG_double_map. None since.
    """
    bit = pages.layout.flags.get("PG_double_map")
    if bit is None:
        return np.zeros(len(heads), np.int64)
    anon = (pages.mapping[heads] & np.uint64(MAPPING_ANON)) != 0
    double = pages.folio_field("_flags_1", heads) >> bit & 1
    return np.where(anon, double, np.maximum(entire, 0))


def _nr_pages_mapped(pages: PageRange, layout: LargeLayout, heads: I64) -> I64:
    field = layout.fields.get("_nr_pages_mapped")
    return np.zeros(len(heads), np.int64) if field is None else pages.folio_value(field, heads)


def _of_mm_ids(pages: PageRange, layout: LargeLayout, heads: I64) -> I64:
    """Mappings that belong to the two address spaces the folio knows by number."""
    return sum(
        (pages.folio_value(layout.fields[f"_mm_id_mapcount_{slot}"], heads) + 1 for slot in (0, 1)),
        start=np.zeros(len(heads), np.int64),
    )
