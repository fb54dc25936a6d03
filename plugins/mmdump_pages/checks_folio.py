"""Invariants of folios: heads and tails (include/linux/page-flags.h), references, mappings and pins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmdump.amounts import counted
from mmdump.checks import Broken, Check, Values, Violations, initialised
from mmdump.kernel.layout import find_type, has_member
from mmdump.kernel.page import MAPPING_MOVABLE

if TYPE_CHECKING:
    import polars as pl

    from mmdump.analysis import Columns
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64, Bools
    from mmdump.kernel.page import PageRange

__all__ = ["CHECKS"]

#: Heads of gigantic folios that one range has tails of, and that are looked up in the end.
_MAX_HEADS = 16


class TailHead(Check):
    """``prep_compound_tail()``."""

    name = "tail-head"
    summary = "a tail page names the head of the folio that it lies in"
    keys = ("head_pfn",)

    def scan(self, pages: PageRange, state: None) -> Sequence[Violations]:  # noqa: ARG002
        """Tails without a head, or outside of what their head begins."""
        rows, heads = pages.tails, pages.named_heads
        if pages.tails_in_place:
            return ()
        nowhere = heads == rows
        inside = ~nowhere & (heads >= 0)
        rows_in, heads_in = rows[inside], heads[inside]
        known = initialised(pages)[heads_in]
        no_head = known & ~pages.is_head[heads_in]
        order = pages.folio_order[heads_in].astype(np.int64)
        beyond = known & ~no_head & (order > 0) & (rows_in - heads_in >= np.left_shift(1, order))
        values: Values = {"word": pages.compound_head, "head": pages.head_pfn}
        return [
            Violations("a tail whose compound_head {word:#x} names no page before it", rows[nowhere], values),
            Violations("a tail of page {head:#x}, which is no head", rows_in[no_head], values),
            Violations("a tail of page {head:#x}, whose folio ends before it", rows_in[beyond], values),
        ]

    def tally(self, pages: PageRange, state: None) -> Columns | None:  # noqa: ARG002
        """Heads in other ranges: those of gigantic folios."""
        before = pages.named_heads < 0
        if not before.any():
            return None
        before &= initialised(pages)[pages.tails]
        heads = pages.named_heads[before] + pages.start
        found, count = np.unique(heads, return_counts=True)
        return {"head_pfn": found[:_MAX_HEADS], "tails": count[:_MAX_HEADS].astype(np.int64)}

    def finish(self, kernel: Kernel, state: None, sums: pl.DataFrame | None) -> Sequence[Broken]:  # noqa: ARG002
        """Heads in other ranges must be heads, too."""
        broken = []
        for pfn, tails in sums.select("head_pfn", "tails").iter_rows() if sums is not None else ():
            if not kernel.memmap.valid(np.array([pfn, pfn + 1])).all():
                are = counted(tails, "page is a tail", "pages are tails")
                broken.append(Broken(f"{are} of page {pfn:#x}, which has no struct page"))
                continue
            head = kernel.pages(pfn, pfn + 2, blocks=False)
            if initialised(head).all() and not head.is_head[0]:
                are = counted(
                    tails, "page in another place is its tail", "pages in other places are its tails"
                )
                broken.append(Broken(f"is no head, but {are}", pfn))
        return broken


class HeadTails(Check):
    """``prep_compound_page()``."""

    name = "head-tails"
    summary = "a head page has an order, begins at a multiple of its folio's size, and its tails follow"

    def scan(self, pages: PageRange, state: None) -> Sequence[Violations]:  # noqa: ARG002
        """Heads without an order, or without their tails."""
        heads = pages.heads
        if not len(heads):
            return ()
        # The order is in the second page.
        heads = heads[heads + 1 < len(pages)]
        heads = heads[initialised(pages)[heads + 1]]
        order = pages.folio_order[heads].astype(np.int64)
        whole = heads[order > 0]
        size = np.left_shift(1, order[order > 0])
        ends = np.minimum(whole + size, len(pages))
        missing = np.maximum(ends - whole - 1 - pages.tail_counts[whole], 0)
        torn = _known(pages, whole, ends) & (missing > 0)
        if not (torn.any() or (order == 0).any()):
            return ()
        values: Values = {
            "order": _spread(pages, heads, pages.stored_folio_order(heads)),
            "missing": _spread(pages, whole, missing),
        }
        return [
            Violations(
                "the head of a folio of order {order}, which cannot be here", heads[order == 0], values
            ),
            Violations(
                "the head of a folio of order {order}, {missing} of whose pages are not its tails",
                whole[torn],
                values,
            ),
        ]


def _spread(pages: PageRange, rows: I64, values: I64) -> I64:
    """A column of the range with these values in these rows."""
    column = np.zeros(len(pages), np.int64)
    column[rows] = values
    return column


def _known(pages: PageRange, starts: I64, ends: I64) -> Bools:
    """Whether every page from one row up to another is known."""
    known = initialised(pages)
    if known.all():
        return np.ones(len(starts), bool)
    unknown = np.concatenate(([0], np.cumsum(~known)))
    return unknown[ends] == unknown[starts]


def _user_folios(pages: PageRange) -> I64:
    """Rows of user memory that begin a folio: its map count means something.

    Kernel memory uses the word for other things: zsmalloc up to 6.10 kept an offset in it.
    """
    return pages.once("user_folios", lambda: _find_user_folios(pages))


def _find_user_folios(pages: PageRange) -> I64:
    user = ((pages.mapping != 0) | pages.has_flag("PG_lru")) & ~pages.is_tail
    rows = np.flatnonzero(user)
    movable = (pages.mapping[rows] & np.uint64(3)) == MAPPING_MOVABLE
    usable = pages.has_flag("PG_lru", at=rows) | ~movable
    rows = rows[usable & ~pages.has_flag("PG_reserved", at=rows) & initialised(pages)[rows]]
    typed = pages.is_typed(at=rows) | pages.is_type("slab", at=rows)
    return rows[~typed | pages.is_type("hugetlb", at=rows)]


def _whole(pages: PageRange, heads: I64) -> Bools:
    """Folios of which every page is in the range, and known."""
    ends = heads + np.left_shift(1, pages.folio_order[heads].astype(np.int64))
    return (ends <= len(pages)) & _known(pages, heads, np.minimum(ends, len(pages)))


def _whole_user_folios(pages: PageRange) -> I64:
    """Those of which every page is in the range, and known."""

    def find() -> I64:
        rows = _user_folios(pages)
        return rows[_whole(pages, rows)]

    return pages.once("whole user folios", find)


class References(Check):
    """``page_ref_count()``."""

    name = "refcount"
    summary = "no page has fewer than no references"

    def scan(self, pages: PageRange, state: None) -> Sequence[Violations]:  # noqa: ARG002
        """Negative reference counts."""
        rows = np.flatnonzero(pages.refcount < 0)
        return [Violations("its _refcount is {refcount}", rows, {"refcount": pages.refcount})]


class MappingsHoldReferences(Check):
    """Every mapping takes a reference before it is counted, and gives it up after (mm/rmap.c)."""

    name = "mapcount-refcount"
    summary = "a folio of user memory has at least as many references as mappings"

    def scan(self, pages: PageRange, state: None) -> Sequence[Violations]:  # noqa: ARG002
        """Folios with more mappings than references, or fewer than none."""
        rows = _whole_user_folios(pages)
        count = pages.folio_mapcount(rows)
        more, less = rows[count > pages.refcount[rows]], rows[count < 0]
        if not (len(more) or len(less)):
            return ()
        values: Values = {"mapcount": _spread(pages, rows, count), "refcount": pages.refcount}
        return [
            Violations("is mapped {mapcount:time}, and has {refcount:reference}", more, values),
            Violations("is mapped {mapcount:time}", less, values),
        ]


class MapcountSum(Check):
    """``__folio_add_rmap()``: the counters of a large folio are kept side by side."""

    name = "mapcount-sum"
    summary = "the map counts of a large folio and of its pages add up"

    def why_not(self, kernel: Kernel) -> str | None:
        """Up to 6.1 there was no sum to compare with."""
        folio = kernel.page_layout.folio
        if "_large_mapcount" in folio or "_nr_pages_mapped" in folio:
            return None
        return "this kernel keeps no sum of map counts"

    def start(self, kernel: Kernel) -> bool:
        """Whether this kernel may leave the pages' own counts alone.

        CONFIG_NO_PAGE_MAPCOUNT, which debug info does not show, came with the folio's owners (6.15).
        """
        return has_member(find_type(kernel.target.prog, "struct folio"), "_mm_ids")

    def scan(self, pages: PageRange, state: bool) -> Sequence[Violations]:
        """Large folios whose counters disagree."""
        rows = _whole_user_folios(pages)
        rows = rows[(pages.folio_order[rows] > 0) & ~pages.is_type("hugetlb", at=rows)]
        if not len(rows):
            return ()
        ends = rows + np.left_shift(1, pages.folio_order[rows].astype(np.int64))
        sums = pages.mapcount_sums
        mapped = np.concatenate(([0], np.cumsum(pages.raw_mapcount >= 0)))
        total, number = sums[ends] - sums[rows], mapped[ends] - mapped[rows]
        entire = pages.folio_field("_entire_mapcount", rows) + 1
        uncounted = state & (number == 0)
        found = []
        if "_large_mapcount" in pages.layout.folio:
            large = pages.folio_field("_large_mapcount", rows) + 1
            found.append(
                _differ(
                    pages,
                    rows,
                    ~uncounted & (large != entire + total),
                    "its _large_mapcount says {says}, but the whole and its pages are mapped {is_:time}",
                    large,
                    entire + total,
                )
            )
        if "_nr_pages_mapped" in pages.layout.folio:
            # The number of mapped pages, and ENTIRELY_MAPPED (COMPOUND_MAPPED up to 6.6) above it.
            stored = pages.folio_field("_nr_pages_mapped", rows)
            found.append(
                _differ(
                    pages,
                    rows,
                    ~uncounted & ((stored & (_ENTIRELY_MAPPED - 1)) != number),
                    "its _nr_pages_mapped says {says:page}, but {is_} are mapped",
                    stored & (_ENTIRELY_MAPPED - 1),
                    number,
                )
            )
        return found


#: mm/internal.h.
_ENTIRELY_MAPPED = 0x800000


def _differ(pages: PageRange, rows: I64, where: Bools, what: str, says: I64, is_: I64) -> Violations:
    if not where.any():
        return Violations(what, rows[where])
    return Violations(
        what, rows[where], {"says": _spread(pages, rows, says), "is_": _spread(pages, rows, is_)}
    )


class PinsHoldReferences(Check):
    """``try_grab_folio()``: the reference comes first, and goes last."""

    name = "pincount-refcount"
    summary = "a large folio has at least as many references as FOLL_PIN pins"

    def why_not(self, kernel: Kernel) -> str | None:
        """Kernels before 5.7 count no pins."""
        return None if kernel.page_layout.pins_from_order >= 0 else "this kernel counts no pins"

    def scan(self, pages: PageRange, state: None) -> Sequence[Violations]:  # noqa: ARG002
        """Large folios with more pins than references, or fewer than none."""
        rows = _whole_user_folios(pages)
        rows = rows[pages.counts_pins(rows)]
        pins = pages.folio_pincount(rows)
        bad = rows[(pins < 0) | (pins > pages.refcount[rows])]
        if not len(bad):
            return ()
        values: Values = {"pins": _spread(pages, rows, pins), "refcount": pages.refcount}
        return [Violations("is pinned {pins:time}, and has {refcount:reference}", bad, values)]


CHECKS: tuple[type[Check], ...] = (
    TailHead,
    HeadTails,
    References,
    MappingsHoldReferences,
    MapcountSum,
    PinsHoldReferences,
)
