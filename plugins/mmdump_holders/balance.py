"""The references of folios against the holders that were found: explained, found, missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.holders import Counted, Holder, State
from mmdump.kernel.page import GUP_PIN_COUNTING_BIAS
from mmdump.kernel.references import account_references
from mmdump.result import Column, Kind, Schema, Table

if TYPE_CHECKING:
    from mmdump.kernel.arrays import I64, Struct
    from mmdump.kernel.page import PageRange
    from mmdump.kernel.references import FolioBatches

__all__ = ["BALANCE", "SOUGHT", "balance_table", "sought_columns"]

BALANCE = Schema(
    "balance",
    (
        Column("pfn", Kind.PFN, "the first page of the folio"),
        Column("order", Kind.ID, "its order"),
        Column("refcount", Kind.COUNT, "references to it"),
        Column("mapped", Kind.COUNT, "those of page tables that map it"),
        Column("cache", Kind.COUNT, "those of the page cache or the swap cache"),
        Column("other", Kind.COUNT, "those of page->private, and of per-CPU batches"),
        Column(
            "owned", Kind.COUNT, "that of its allocation or isolation, as far as no holder was found for it"
        ),
        Column(
            "pins", Kind.COUNT, "FOLL_PIN pins that it counts, or that its references can be", in_text=False
        ),
        Column("found_pins", Kind.COUNT, "pins of holders that were found"),
        Column("found", Kind.COUNT, "other references of holders that were found"),
        Column("missing", Kind.COUNT, "references whose holder was not found"),
        Column("surplus", Kind.COUNT, "references that holders should have, and the folio has not"),
        Column("possible", Kind.COUNT, "places in use that nobody knows, where its address stands too"),
        Column("stale", Kind.COUNT, "places left behind where it stands"),
    ),
    "Balance",
)

#: Columns of folios as they are gathered, int64 each.
SOUGHT = (
    "pfn",
    "order",
    "refcount",
    "mapped",
    "cache",
    "private",
    "batched",
    "owned",
    "pins",
    "exact_pins",
)


def sought_columns(pages: PageRange, heads: I64, batches: FolioBatches) -> Mapping[str, Struct]:
    """What is known of the references of some folios at their heads: columns :data:`SOUGHT`."""
    account = account_references(pages, heads, batches)
    return {
        "pfn": heads + pages.start,
        "order": pages.folio_order[heads].astype(np.int64),
        "refcount": account.references,
        "mapped": account.mapcount,
        "cache": account.cache,
        "private": account.private,
        "batched": account.batched,
        "owned": account.owned,
        "pins": account.pincount,
        "exact_pins": account.exact_pins,
    }


def balance_table(sought: pl.DataFrame, holders: Sequence[Holder]) -> Table:
    """One row for each folio.

    Several holders of one place (a buffer that two rings share) have its reference together.
    """
    rows = {pfn: index for index, pfn in enumerate(sought["pfn"].to_list())}
    found = np.zeros((4, len(rows)), np.int64)
    seen: set[tuple[int, int]] = set()
    for holder in holders:
        row, place = rows[holder.hit.folio], (holder.hit.physical, holder.hit.folio)
        if holder.state is State.LIVE and holder.counted in (Counted.REFERENCE, Counted.PIN):
            if place not in seen:
                found[0 if holder.counted is Counted.PIN else 1, row] += holder.references
        elif holder.state is not State.LIVE and place not in seen:
            found[2 if holder.state is State.POSSIBLE else 3, row] += 1
        seen.add(place)
    weight = pl.when(pl.col("exact_pins") > 0).then(1).otherwise(GUP_PIN_COUNTING_BIAS)
    unexplained = (
        pl.col("refcount") - pl.col("mapped") - pl.col("cache") - pl.col("private") - pl.col("batched")
    )
    frame = (
        sought.with_columns(
            pl.Series("found_pins", found[0]),
            pl.Series("found", found[1]),
            pl.Series("possible", found[2]),
            pl.Series("stale", found[3]),
        )
        .with_columns(rest=unexplained - pl.col("found_pins") * weight - pl.col("found"))
        # Who allocated the page, or isolated it, has one: if nobody was found who may be it.
        .with_columns(owned=pl.when(pl.col("rest") > 0).then(pl.col("owned")).otherwise(0))
        .with_columns(rest=pl.col("rest") - pl.col("owned"))
        .with_columns(
            other=pl.col("private") + pl.col("batched"),
            missing=pl.col("rest").clip(lower_bound=0),
            surplus=(-pl.col("rest")).clip(lower_bound=0),
        )
    )
    return Table(BALANCE, frame.select(BALANCE.names).cast(dict.fromkeys(BALANCE.names, pl.Int64)))
