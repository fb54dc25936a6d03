"""Tail pages whose head is gone: what is left when a compound page is freed or split as it is examined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.result import Column, Kind, Schema, Table

if TYPE_CHECKING:
    from mmdump.analysis import Columns
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["ORPHANS", "fold_orphans", "has_orphans", "orphan_rows", "orphan_table"]

ORPHANS = Schema(
    "orphans",
    (
        Column("head_pfn", Kind.PFN, "the page that the tails name as their head; null where that is none"),
        Column("first_pfn", Kind.PFN, "the first of the tails"),
        Column("pages", Kind.COUNT, "how many tails"),
        Column(
            "reason", Kind.TEXT, "no head: it names none; not a head: the page named is none; out of reach"
        ),
    ),
    "Tail pages without a head",
)

_REASONS = ("no head", "not a head", "out of reach", "elsewhere")
_NO_HEAD, _NOT_A_HEAD, _OUT_OF_REACH, _ELSEWHERE = range(4)
#: Groups kept apart; in a damaged dump every tail may name another head.
_MAX_GROUPS = 1 << 12


def orphan_rows(pages: PageRange) -> Columns:
    """Tails of a range by the head they name, where that is none, or lies in a range before this."""
    tails, named = pages.tails, pages.named_heads
    if pages.tails_in_place:
        return _NO_ORPHANS
    size = np.where(pages.is_head, np.left_shift(1, pages.folio_order.astype(np.int64)), 0)
    reason = np.full(len(tails), -1, np.int64)
    inside = np.maximum(named, 0)
    reason[tails - inside >= size[inside]] = _OUT_OF_REACH
    reason[~pages.is_head[inside]] = _NOT_A_HEAD
    # What a head says that could not be read is unknown.
    reason[~pages.readable[inside]] = -1
    reason[named < 0] = _ELSEWHERE
    # A head that is garbage reads as the page itself.
    reason[named == tails] = _NO_HEAD
    wrong = np.flatnonzero(reason >= 0)
    heads = np.where(reason[wrong] == _NO_HEAD, -1, named[wrong] + pages.start)
    keys, first, count = np.unique(heads * 4 + reason[wrong], return_index=True, return_counts=True)
    last = np.zeros(len(keys), np.int64)
    np.maximum.at(last, np.searchsorted(keys, heads * 4 + reason[wrong]), tails[wrong])
    return {
        "head_pfn": keys >> 2,
        "first_pfn": tails[wrong][first] + pages.start,
        "last_pfn": last + pages.start,
        "pages": count.astype(np.int64),
        "reason": keys & 3,
    }


_NO_ORPHANS: Columns = dict.fromkeys(
    ("head_pfn", "first_pfn", "last_pfn", "pages", "reason"), np.empty(0, np.int64)
)


def has_orphans(rows: Columns) -> bool:
    """Whether there are any that are not a gigantic page's, whose head may well be there."""
    return bool((rows["reason"] != _ELSEWHERE).any())


def fold_orphans(frame: pl.DataFrame) -> pl.DataFrame:
    """Put the tails of one head together; of too many heads those with the fewest tails are put together."""
    keys = ("head_pfn", "reason")
    sums = (pl.col("first_pfn").min(), pl.col("last_pfn").max(), pl.col("pages").sum())
    frame = frame.group_by(keys).agg(*sums)
    if len(frame) > _MAX_GROUPS:
        frame = frame.sort("pages", "first_pfn", descending=[True, False])
        rest = frame.tail(-(_MAX_GROUPS // 2)).with_columns(pl.lit(-1, pl.Int64).alias("head_pfn"))
        frame = pl.concat([frame.head(_MAX_GROUPS // 2), rest]).group_by(keys).agg(*sums)
    return frame.select("head_pfn", "first_pfn", "last_pfn", "pages", "reason")


def orphan_table(kernel: Kernel, found: pl.DataFrame) -> Table:
    """The tails without a head, after those that name one in another range have been asked for it."""
    rows = []
    for row in found.sort("first_pfn").iter_rows(named=True):
        reason = row["reason"]
        if reason == _ELSEWHERE:
            verdict = _ask_head(kernel, row["head_pfn"], row["last_pfn"])
            if verdict is None:
                continue
            reason = verdict
        head = row["head_pfn"] if row["head_pfn"] >= 0 else None
        rows.append((head, row["first_pfn"], row["pages"], _REASONS[reason]))
    dtypes = (pl.Int64, pl.Int64, pl.Int64, pl.String)
    schema = dict(zip(ORPHANS.names, dtypes, strict=True))
    return Table(ORPHANS, pl.DataFrame(rows, schema=schema, orient="row"))


def _ask_head(kernel: Kernel, head: int, last: int) -> int | None:
    """What is wrong with a head in another range; None where nothing is, or it cannot be read."""
    if head < 0:
        return _ELSEWHERE
    here = np.array([head, head + 1], np.int64)
    if not kernel.memmap.valid(here).all():
        return _NOT_A_HEAD
    pages = kernel.pages(head, head + 2, blocks=False)
    if not pages.readable.all():
        return None
    if not pages.is_head[0]:
        return _NOT_A_HEAD
    return None if last < head + (1 << int(pages.folio_order[0])) else _OUT_OF_REACH
