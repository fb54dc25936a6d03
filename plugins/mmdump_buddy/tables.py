"""The tables of ``mmdump buddy``."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mmdump.kernel.pcp import NO_CPU, PerCpuPages
from mmdump.result import Bars, Column, Kind, Schema, Table
from mmdump_buddy.account import MAX_PAGES, ZoneAccount
from mmdump_buddy.index import fragmentation_index, unusable_free_index

__all__ = ["FREE", "ORDERS", "PCP", "ZONES", "free_table", "order_table", "pcp_table", "zone_table"]

_WHERE = (Column("node", Kind.ID, "NUMA node"), Column("zone", Kind.TEXT, "zone"))

ZONES = Schema(
    "zones",
    (
        *_WHERE,
        Column("free", Kind.BYTES, "free blocks, by the page array"),
        Column("blocks", Kind.COUNT, "how many blocks that is"),
        Column("largest", Kind.ID, "order of the largest"),
        Column("cma", Kind.BYTES, "of the free blocks, those on lists of CMA"),
        Column("highatomic", Kind.BYTES, "those on lists of HighAtomic", in_text=False),
        Column("isolated", Kind.BYTES, "those on lists of Isolate: nobody gets them"),
        Column("pcp", Kind.BYTES, "free pages on per-CPU lists, beside the free blocks"),
        Column("guard", Kind.BYTES, "guard pages of debug_pagealloc, beside the free blocks"),
        Column("nr_free_pages", Kind.BYTES, "NR_FREE_PAGES, with the per-CPU counters", in_text=False),
        Column("nr_free_pages_pending", Kind.BYTES, "what the per-CPU counters add to it", in_text=False),
        Column("nr_free_cma", Kind.BYTES, "NR_FREE_CMA_PAGES, with the per-CPU counters", in_text=False),
        Column("min", Kind.BYTES, "the min watermark, boosted"),
        Column("low", Kind.BYTES, "the low watermark, boosted"),
        Column("high", Kind.BYTES, "the high watermark, boosted"),
        Column("boost", Kind.BYTES, "watermark_boost, which is in all of them", in_text=False),
        Column("nr_reserved_highatomic", Kind.BYTES, "pageblocks of the HighAtomic reserve", in_text=False),
        Column("managed", Kind.BYTES, "pages that the buddy allocator was given"),
        Column("present", Kind.BYTES, "pages that exist", in_text=False),
    ),
    "Zones",
)

ORDERS = Schema(
    "orders",
    (
        *_WHERE,
        Column("order", Kind.ID, "order of the blocks"),
        Column("blocks", Kind.COUNT, "free blocks, by the page array"),
        Column("nr_free", Kind.COUNT, "free blocks, as free_area counts them"),
        Column("listed", Kind.COUNT, "free blocks whose links lead to a list of this order"),
        Column("free", Kind.BYTES, "their size, by the page array"),
        Column(
            "fragmentation_index",
            Kind.ID,
            "-1000: there is one; else 0 for lack of memory, 1000 fragmentation",
        ),
        Column("unusable_index", Kind.ID, "thousandths of the free memory that are in smaller blocks"),
    ),
    "Free blocks by order",
    Bars("order", "free", ("node", "zone")),
)

FREE = Schema(
    "free",
    (
        *_WHERE,
        Column("order", Kind.ID, "order of the list"),
        Column("migratetype", Kind.TEXT, "migratetype of the list"),
        Column("blocks", Kind.COUNT, "blocks on it"),
        Column("free", Kind.BYTES, "their size"),
        Column("other_pageblocks", Kind.COUNT, "of them, those in pageblocks of another migratetype"),
    ),
    "Free lists",
)

PCP = Schema(
    "pcp",
    (
        *_WHERE,
        Column("cpu", Kind.ID, "CPU; absent for blocks freed where the zone's lock could not be had"),
        Column("order", Kind.ID, "order of the list"),
        Column("migratetype", Kind.TEXT, "migratetype of the list; absent where it serves several"),
        Column("blocks", Kind.COUNT, "blocks on it"),
        Column("free", Kind.BYTES, "their size"),
    ),
    "Per-CPU lists",
)


def zone_table(accounts: Sequence[ZoneAccount], page_size: int) -> Table:
    """One row for each zone."""
    rows: list[dict[str, object]] = []
    for each in accounts:
        state = each.state
        pages = {
            "free": each.pages,
            "cma": each.pages_on("CMA"),
            "highatomic": each.pages_on("HIGHATOMIC"),
            "isolated": each.pages_on("ISOLATE"),
            "pcp": each.pcp,
            "guard": each.guards,
            "present": each.zone.present,
        }
        if state is not None:
            low_marks = dict(zip(("min", "low", "high"), state.watermark, strict=True))
            pages |= low_marks | {
                "nr_free_pages": state.snapshot("NR_FREE_PAGES"),
                "nr_free_pages_pending": state.pending.get("NR_FREE_PAGES", 0),
                "nr_free_cma": state.snapshot("NR_FREE_CMA_PAGES"),
                "boost": state.boost,
                "nr_reserved_highatomic": state.nr_reserved_highatomic,
                "managed": state.managed,
            }
        rows.append(
            {
                "node": each.zone.node,
                "zone": each.zone.name,
                "blocks": sum(each.blocks),
                "largest": each.largest,
            }
            | {name: size(count, page_size) for name, count in pages.items()}
        )
    return Table.of_rows(ZONES, rows)


def size(pages: int, page_size: int) -> int:
    """A number of pages in bytes."""
    return max(-MAX_PAGES, min(pages, MAX_PAGES)) * page_size


def order_table(accounts: Sequence[ZoneAccount], page_size: int) -> Table:
    """One row for each zone and order; the indices by ``nr_free``, as the kernel computes them."""
    rows = [
        {
            "node": each.zone.node,
            "zone": each.zone.name,
            "order": order,
            "blocks": blocks,
            "nr_free": each.nr_free[order] if each.nr_free_intact else None,
            "listed": int(each.lists[order].sum()),
            "free": (blocks << order) * page_size,
            "fragmentation_index": fragmentation_index(each.nr_free, order) if each.nr_free_intact else None,
            "unusable_index": unusable_free_index(each.nr_free, order) if each.nr_free_intact else None,
        }
        for each in accounts
        for order, blocks in enumerate(each.blocks)
    ]
    return Table.of_rows(ORDERS, rows)


def free_table(accounts: Sequence[ZoneAccount], names: Sequence[str], page_size: int) -> Table:
    """One row for each list that is not empty."""
    rows = [
        {
            "node": each.zone.node,
            "zone": each.zone.name,
            "order": order,
            "migratetype": names[kind] if kind < len(names) else f"migratetype {kind}",
            "blocks": blocks,
            "free": (blocks << order) * page_size,
            "other_pageblocks": int(each.other_pageblocks[order, kind]),
        }
        for each in accounts
        for order in range(len(each.lists))
        for kind, blocks in enumerate(each.lists[order].tolist())
        if blocks
    ]
    return Table.of_rows(FREE, rows)


def pcp_table(pcp: PerCpuPages, names: Sequence[str], page_size: int) -> Table:
    """One row for each per-CPU list that is not empty."""
    frame = pl.DataFrame(
        {"slot": pcp.zone, "cpu": pcp.cpu, "order": pcp.order, "migratetype": pcp.migratetype}
    )
    rows = [
        {
            "node": pcp.zones[slot].node,
            "zone": pcp.zones[slot].name,
            "cpu": None if cpu == NO_CPU else cpu,
            "order": order,
            "migratetype": names[kind] if 0 <= kind < len(names) else None,
            "blocks": blocks,
            "free": (blocks << order) * page_size,
        }
        for slot, cpu, order, kind, blocks in frame.group_by(frame.columns)
        .len("blocks")
        .sort(frame.columns)
        .rows()
    ]
    return Table.of_rows(PCP, rows)
