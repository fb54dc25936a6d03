"""The tables of ``mmdump stackdepot``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.kernel.depot_gaps import REASONS, SATURATED
from mmdump.result import Column, Kind, Schema, Table
from mmdump_page_owner.chains import special_handles
from mmdump_page_owner.frames import Frames

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64, Bools
    from mmdump.kernel.depot_records import DepotRecords
    from mmdump.kernel.depot_state import DepotState
    from mmdump.kernel.depot_table import Chains
    from mmdump_page_owner.stack_list import StackList

__all__ = ["BROKEN", "CHAINS", "STACKS", "Depot", "broken_table", "chain_table", "stack_rows"]

STACKS = Schema(
    "stacks",
    (
        Column("pages", Kind.COUNT, "pages allocated by this stack and not freed", weight=True),
        Column("bytes", Kind.BYTES, "the same in bytes", weight=True),
        Column(
            "counted_pages", Kind.COUNT, "pages by the kernel's own counter (6.9 and newer)", in_text=False
        ),
        Column(
            "scanned_pages", Kind.COUNT, "pages by page_owner's records, if they were read", in_text=False
        ),
        Column("freed_pages", Kind.COUNT, "pages last freed by this stack, if the records were read", False),
        Column("stack_id", Kind.ID, "stack depot handle"),
        Column(
            "used_by", Kind.TEXT, "page_owner; a special handle; refcounted (KASAN); free; else uncounted"
        ),
        Column("listed", Kind.BOOL, "whether page_owner lists it (6.9 and newer)", in_text=False),
        Column("depth", Kind.COUNT, "frames"),
        Column("record_bytes", Kind.BYTES, "what it takes in the depot", in_text=False),
        Column("frames", Kind.STACK, "call chain, innermost first"),
    ),
    "Stacks by pages",
)
CHAINS = Schema(
    "chains",
    (
        Column("length", Kind.COUNT, "records in one bucket of the hash table"),
        Column("buckets", Kind.COUNT, "buckets of that length"),
    ),
    "Hash chains",
)
BROKEN = Schema(
    "broken",
    (
        Column("what", Kind.TEXT, "what is wrong"),
        Column("stack_id", Kind.ID, "stack depot handle that belongs to this place"),
        Column("pool", Kind.ID, "index of the pool"),
        Column("offset", Kind.BYTES, "place in the pool"),
        Column("address", Kind.ADDRESS, "where that is"),
        Column("pages", Kind.COUNT, "pages whose record names it, if the records were read"),
    ),
    "Broken records",
)


@dataclass(frozen=True)
class Depot:
    """All that is known of the depot before any page is looked at.

    :param chains: None where the hash table was not found.
    :param stack_list: None where page_owner does not count (up to 6.8).
    :param wrong_hash: Rows of records whose frames have another hash than they say, int64.
    """

    state: DepotState
    records: DepotRecords
    chains: Chains | None
    stack_list: StackList | None
    wrong_hash: I64

    @property
    def listed(self) -> Bools:
        """Which records are in page_owner's list, bool."""
        listed = np.zeros(len(self.records), np.bool_)
        if self.stack_list is not None:
            rows = self.records.find(self.stack_list.records)
            listed[rows[rows >= 0]] = True
        return listed

    @property
    def counted(self) -> Bools:
        """Which records page_owner counts the pages of (6.9), bool.

        Since 6.18 a stack that was first seen where page_owner may not wait for a lock is counted, but not
        listed: those of huge pages are, with GFP_TRANSHUGE_LIGHT. A reference count is not page_owner's when
        the record can be given back: it takes as much room as the largest then.
        """
        records = self.records
        if self.stack_list is None or records.count is None:
            return np.zeros(len(records), np.bool_)
        counts = (records.count != SATURATED) & (records.count > 0)
        return counts & (self.listed | ~records.returnable)


def stack_rows(kernel: Kernel, depot: Depot, scanned: pl.DataFrame | None) -> Table:
    """All records, those with most pages first.

    :param scanned: ``stack_id``, ``pages``, ``freed`` by page_owner's records; None when they were not read.
    """
    records = depot.records
    frame = pl.DataFrame(
        {
            "stack_id": records.handle.astype(np.int64),
            "depth": records.size,
            "record_bytes": records.room,
            "used_by": _users(kernel, depot),
            "listed": pl.Series(depot.listed) if depot.stack_list is not None else None,
            "counted_pages": _counted(depot),
            "frames": _frames(kernel, records),
        },
        schema_overrides={"frames": pl.List(pl.String), "listed": pl.Boolean},
    )
    nothing = pl.lit(None, dtype=pl.Int64)
    if scanned is None:
        frame = frame.with_columns(nothing.alias("scanned_pages"), nothing.alias("freed_pages"))
    else:
        found = scanned.rename({"pages": "scanned_pages", "freed": "freed_pages"})
        frame = frame.join(found, on="stack_id", how="left").with_columns(
            pl.col("scanned_pages", "freed_pages").fill_null(0)
        )
        if depot.stack_list is None:
            # What pages name is page_owner's; before 6.9 nothing else says so.
            named = (pl.col("scanned_pages") + pl.col("freed_pages") > 0) & (pl.col("used_by") == "uncounted")
            frame = frame.with_columns(
                pl.when(named).then(pl.lit("page_owner")).otherwise("used_by").alias("used_by")
            )
    pages = pl.coalesce("counted_pages", "scanned_pages").alias("pages")
    frame = frame.with_columns(pages).with_columns((pl.col("pages") * kernel.target.page_size).alias("bytes"))
    frame = frame.sort(["pages", "stack_id"], descending=[True, False], nulls_last=True)
    return Table(STACKS, frame.select(STACKS.names))


def _users(kernel: Kernel, depot: Depot) -> list[str]:
    """Who uses each record."""
    records = depot.records
    users = np.full(len(records), "uncounted", dtype="U16")
    if records.count is not None:
        users[records.count != SATURATED] = "refcounted"
        users[records.count == 0] = "free"
    users[depot.counted] = "page_owner"
    special = special_handles(kernel)
    rows = records.find_handles(np.array(list(special), np.uint32))
    for row, name in zip(rows.tolist(), special.values(), strict=True):
        if row >= 0:
            users[row] = name
    return [str(user) for user in users.tolist()]


def _counted(depot: Depot) -> pl.Series:
    """Pages of each stack by the kernel's counters; null where it does not count."""
    records = depot.records
    if depot.stack_list is None or records.count is None:
        return pl.Series([None] * len(records), dtype=pl.Int64)
    # One reference is no page's.
    return pl.Series(records.count - 1).set(pl.Series(~depot.counted), None)


def _frames(kernel: Kernel, records: DepotRecords) -> pl.Series:
    """The frames of each record as text, each address looked up once."""
    if not len(records):
        return pl.Series([], dtype=pl.List(pl.String))
    frames = Frames(kernel)
    addresses, inverse = np.unique(records.frames, return_inverse=True)
    texts = pl.Series([frames.plain(each) for each in addresses.tolist()], dtype=pl.String)
    flat = pl.DataFrame(
        {"row": np.repeat(np.arange(len(records)), records.size), "frame": texts.gather(inverse)}
    )
    return flat.group_by("row", maintain_order=True).agg("frame")["frame"]


def chain_table(chains: Chains) -> Table:
    """How many buckets there are of each length."""
    length, buckets = np.unique(chains.lengths, return_counts=True)
    return Table(CHAINS, pl.DataFrame({"length": length, "buckets": buckets.astype(np.int64)}))


def broken_table(kernel: Kernel, depot: Depot, scanned: pl.DataFrame | None) -> Table:
    """Everything in the depot that is not as it must be."""
    records, chains = depot.records, depot.chains
    assert kernel.stack_depot is not None
    layout = kernel.stack_depot.layout
    rows: list[dict[str, object]] = []
    for place in records.broken[:_MAX_BROKEN]:
        pool, offset = int(place["pool"]), int(place["offset"])
        what, address = REASONS[int(place["reason"])], layout.pools[pool] + offset
        rows.append({"what": what, "pool": pool, "offset": offset, "address": address})
    said: list[tuple[str, I64]] = [("frames that are not those of its hash", depot.wrong_hash)]
    if chains is not None:
        rows += [
            {"what": "the hash table leads here, and this is no record", "address": each}
            for each in chains.stray[:_MAX_BROKEN].tolist()
        ]
        said.append(("in the chain of another bucket than its hash's", chains.misplaced))
        # What was given back is in no chain.
        gone = ~chains.reached if not chains.lost else np.zeros(len(records), np.bool_)
        if records.count is not None:
            gone &= records.count != 0
        said.append(("in no chain of the hash table", np.flatnonzero(gone)))
    for what, which in said:
        for row in which[:_MAX_BROKEN].tolist():
            place = {"pool": int(records.pool[row]), "offset": int(records.offset[row])}
            handle, address = int(records.handle[row]), int(records.address[row])
            rows.append({"what": what, "stack_id": handle, "address": address, **place})
    frame = pl.DataFrame(rows, schema=_BROKEN_TYPES)
    if scanned is not None:
        known = records.find_handles(scanned["stack_id"].to_numpy().astype(np.uint32)) >= 0
        missing = scanned.filter(pl.Series(~known)).filter((pl.col("pages") + pl.col("freed")) > 0)
        frame = pl.concat(
            [
                frame,
                missing.select(
                    pl.lit("pages name this handle, and there is no record of it").alias("what"),
                    "stack_id",
                    (pl.col("pages") + pl.col("freed")).alias("pages"),
                ),
            ],
            how="diagonal",
        )
    return Table(BROKEN, frame.select(BROKEN.names))


#: Rows of each sort of damage that are shown.
_MAX_BROKEN = 1 << 12
_BROKEN_TYPES = {
    "what": pl.String,
    "stack_id": pl.Int64,
    "pool": pl.Int64,
    "offset": pl.Int64,
    "address": pl.UInt64,
    "pages": pl.Int64,
}
