"""What the stack depot costs, and what it saves against a stack in every page's page_ext."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from mmdump.amounts import bytes_text
from mmdump.kernel.depot_gaps import MAX_FRAMES
from mmdump.result import Column, Finding, Kind, Schema, Severity, Table
from mmdump_page_owner.record import why_no_owner

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump_page_owner.depot_tables import Depot

__all__ = ["COSTS", "cost_table", "full", "summary"]

COSTS = Schema(
    "depot",
    (
        Column("pools", Kind.COUNT, "pools in use"),
        Column("pool_limit", Kind.COUNT, "pools that there may be"),
        Column("bytes", Kind.BYTES, "memory of these pools"),
        Column("used_bytes", Kind.BYTES, "of this, records"),
        Column("limit_bytes", Kind.BYTES, "memory that the depot may take"),
        Column("table_bytes", Kind.BYTES, "memory of the hash table"),
        Column("buckets", Kind.COUNT, "buckets of the hash table"),
        Column("longest_chain", Kind.COUNT, "records in the fullest bucket"),
        Column("records", Kind.COUNT, "stacks"),
        Column("deepest", Kind.COUNT, "frames of the deepest stack"),
        Column("deeper_than_8", Kind.COUNT, "stacks of more than eight frames"),
        Column("pages", Kind.COUNT, "pages whose allocation has a stack"),
        Column("stacks_of_pages", Kind.COUNT, "stacks that they have"),
        Column("duplicates", Kind.COUNT, "pages whose stack was there already"),
        Column("slot_bytes", Kind.BYTES, "what eight frames in the page_ext entry of every page would take"),
        Column("saved_bytes", Kind.BYTES, "of this, what handles, pools and hash table do not take"),
    ),
    "The stack depot",
)
#: page_owner up to 4.7 kept so many frames for each page; now it keeps a handle.
_SLOTS, _WORD, _HANDLE = 8, 8, 4
#: Of its pools in use, the share from which on a depot is nearly full.
_NEARLY = 0.9


def cost_table(kernel: Kernel, depot: Depot, stacks: Table) -> Table:
    """One row: what there is, and what it costs."""
    state, records, chains = depot.state, depot.records, depot.chains
    assert kernel.stack_depot is not None
    pool_size = kernel.stack_depot.layout.pool_size
    buckets = len(chains.lengths) if chains is not None else None
    table_bytes = None if buckets is None else buckets * (16 if state.lists else 8)
    pages = stacks.frame.filter(pl.col("pages") > 0)["pages"]
    known = pages.len() > 0
    every_page = kernel.memmap.pages if why_no_owner(kernel) is None else None
    slots = None if every_page is None else every_page * _SLOTS * _WORD
    saved = None
    if slots is not None and every_page is not None:
        saved = slots - every_page * _HANDLE - state.used * pool_size - (table_bytes or 0)
    row = {
        "pools": state.used,
        "pool_limit": state.limit,
        "bytes": state.used * pool_size,
        "used_bytes": int(records.room.sum()),
        "limit_bytes": state.limit * pool_size,
        "table_bytes": table_bytes,
        "buckets": buckets,
        "longest_chain": int(chains.lengths.max(initial=0)) if chains is not None else None,
        "records": len(records),
        "deepest": int(records.size.max(initial=0)),
        "deeper_than_8": int((records.size > _SLOTS).sum()),
        "pages": int(pages.sum()) if known else None,
        "stacks_of_pages": pages.len() if known else None,
        "duplicates": int(pages.sum()) - pages.len() if known else None,
        "slot_bytes": slots,
        "saved_bytes": saved,
    }
    return Table(COSTS, pl.DataFrame([row], schema=dict.fromkeys(COSTS.names, pl.Int64)))


def summary(costs: Table) -> list[str]:
    """The costs in a few lines."""
    row = costs.frame.row(0, named=True)
    pools = f"{row['pools']:,} of at most {row['pool_limit']:,} pools"
    used = f"{bytes_text(row['used_bytes'])} used of {bytes_text(row['bytes'])}"
    lines = [f"{row['records']:,} stacks in {pools}: {used}, at most {bytes_text(row['limit_bytes'])}"]
    if row["buckets"] is not None:
        lines.append(
            f"hash table of {row['buckets']:,} buckets ({bytes_text(row['table_bytes'])}), "
            f"longest chain {row['longest_chain']}; deepest stack {row['deepest']} frames, "
            f"{row['deeper_than_8']:,} stacks deeper than 8"
        )
    if row["pages"] is not None:
        lines.append(
            f"{row['pages']:,} allocated pages share {row['stacks_of_pages']:,} stacks: "
            f"{row['duplicates']:,} duplicates avoided"
        )
    if row["slot_bytes"] is not None:
        saved = row["saved_bytes"]
        lines.append(
            f"eight frames for every page would take {bytes_text(row['slot_bytes'])}: "
            + (f"{bytes_text(saved)} saved" if saved >= 0 else f"{bytes_text(-saved)} less than the depot")
        )
    return lines


def full(costs: Table, depot: Depot) -> Sequence[Finding]:
    """A depot that is full, or nearly so, loses the stacks of what comes next."""
    row = costs.frame.row(0, named=True)
    if not row["pool_limit"]:
        return []
    share = row["pools"] / row["pool_limit"]
    offset, pool_size = depot.state.pool_offset, row["limit_bytes"] // row["pool_limit"]
    entries = 8 * MAX_FRAMES
    if share >= 1 and (offset is None or offset + entries > pool_size):
        text = f"The stack depot is full: all {row['pool_limit']:,} pools are in use, new stacks are lost."
        return [Finding("stackdepot-full", Severity.PROBLEM, text, "depot")]
    if share >= _NEARLY:
        text = f"The stack depot is nearly full: {row['pools']:,} of {row['pool_limit']:,} pools are in use."
        return [Finding("stackdepot-nearly-full", Severity.WARNING, text, "depot")]
    return []
