"""The tables of ``mmdump reported``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.kernel.arrays import U8
from mmdump.kernel.freelists import NO_ORDER
from mmdump.result import Column, Kind, Schema, Table
from mmdump_page_reporting.device import Reporting, low_on_memory
from mmdump_page_reporting.why import BELOW_ORDER, REASONS, REPORTED

if TYPE_CHECKING:
    from mmdump.kernel.freelists import FreeLists
    from mmdump.kernel.zonestate import ZoneState

__all__ = ["BLOCKS", "block_table", "device_table", "zone_table"]

_WHERE = (Column("node", Kind.ID, "NUMA node"), Column("zone", Kind.TEXT, "zone"))

ZONES = Schema(
    "zones",
    (
        *_WHERE,
        Column("free", Kind.BYTES, "free blocks"),
        Column("reported", Kind.BYTES, "of them, those that the hypervisor has back"),
        *(
            Column(reason.name, Kind.BYTES, reason.text)
            for code, reason in enumerate(REASONS)
            if code != REPORTED
        ),
        Column("low_on_memory", Kind.BOOL, "whether the zone is too near its low watermark to be reported"),
    ),
    "Zones",
)

BLOCKS = Schema(
    "blocks",
    (
        *_WHERE,
        Column("order", Kind.ID, "order of the blocks"),
        Column("migratetype", Kind.TEXT, "migratetype of their list"),
        Column(
            "why",
            Kind.TEXT,
            "reported, or why not: " + ", ".join(reason.name for reason in REASONS[1:]),
            values=tuple(reason.name for reason in REASONS),
        ),
        Column("blocks", Kind.COUNT, "how many"),
        Column("size", Kind.BYTES, "their size"),
        Column("first_pfn", Kind.PFN, "the first of them", in_text=False),
    ),
    "Free blocks",
)

DEVICE = Schema(
    "device",
    (
        Column("registered", Kind.BOOL, "whether pr_dev_info points to a device"),
        Column("enabled", Kind.BOOL, "page_reporting_enabled: a device is registered, or once was"),
        Column("state", Kind.TEXT, "of the worker: idle, requested, active"),
        Column("page_reporting_order", Kind.ID, "the least order that is reported"),
        Column("device_order", Kind.ID, "the order that the device asked for, 0 for none"),
        Column("capacity", Kind.COUNT, "blocks in one report"),
        Column("report", Kind.TEXT, "the function that takes them"),
    ),
    "Device",
)


def _frame(lists: FreeLists, why: U8) -> pl.DataFrame:
    """The blocks of a known zone, with their sizes in pages."""
    order = lists.order
    pages = np.where(order == NO_ORDER, 1, np.left_shift(np.int64(1), np.where(order == NO_ORDER, 0, order)))
    kind = np.where(lists.list >= 0, lists.list % max(lists.heads.migratetypes, 1), lists.migratetype)
    return pl.DataFrame(
        {
            "slot": lists.zone,
            "order": order.astype(np.int64),
            "kind": kind.astype(np.int64),
            "why": why,
            "pages": pages.astype(np.int64),
            "pfn": lists.pfn,
        }
    ).filter(pl.col("slot") >= 0)


def zone_table(
    lists: FreeLists,
    why: U8,
    zones: Sequence[ZoneState | None],
    reporting: Reporting,
    page_size: int,
) -> Table:
    """One row for each zone."""
    sums = _frame(lists, why).group_by("slot", "why").agg(pl.col("pages").sum())
    pages = {(slot, code): count for slot, code, count in sums.rows()}
    rows: list[dict[str, object]] = []
    for slot, zone in enumerate(lists.heads.zones):
        sizes = {reason.name: pages.get((slot, code), 0) * page_size for code, reason in enumerate(REASONS)}
        state = zones[slot]
        rows.append(
            {"node": zone.node, "zone": zone.name, "free": sum(sizes.values())}
            | sizes
            | {"low_on_memory": None if state is None else low_on_memory(state, reporting)}
        )
    # A reason that no block has needs no column on the screen.
    shown = {reason.name for code, reason in enumerate(REASONS) if any(key[1] == code for key in pages)}
    reasons = {reason.name for reason in REASONS[1:]}
    columns = [replace(each, in_text=each.name not in reasons - shown) for each in ZONES.columns]
    return Table.of_rows(replace(ZONES, columns=tuple(columns)), rows)


def block_table(lists: FreeLists, why: U8, names: Sequence[str], page_size: int) -> Table:
    """One row for each zone, order, migratetype and reason."""
    keys = ["slot", "order", "kind", "why"]
    sums = (
        _frame(lists, why)
        .group_by(keys)
        .agg(pl.len().alias("blocks"), pl.col("pages").sum(), pl.col("pfn").min())
        # Small blocks last: they are many, and the reason is always the same.
        .with_columns(small=pl.col("why") == BELOW_ORDER)
        .sort("slot", "small", "why", "order", "kind", descending=[False, False, False, True, False])
    )
    zones = lists.heads.zones
    rows = [
        {
            "node": zones[slot].node,
            "zone": zones[slot].name,
            "order": None if order == NO_ORDER else order,
            "migratetype": names[kind] if kind < len(names) else None,
            "why": REASONS[code].name,
            "blocks": blocks,
            "size": pages * page_size,
            "first_pfn": pfn,
        }
        for slot, order, kind, code, blocks, pages, pfn in sums.select(*keys, "blocks", "pages", "pfn").rows()
    ]
    return Table.of_rows(BLOCKS, rows)


def device_table(reporting: Reporting) -> Table:
    """One row: the device and its state."""
    row = {
        "registered": reporting.registered,
        "enabled": reporting.enabled,
        "state": reporting.state,
        "page_reporting_order": reporting.order,
        "device_order": reporting.device_order,
        "capacity": reporting.capacity if reporting.registered else None,
        "report": reporting.report,
    }
    return Table.of_rows(DEVICE, [row])
