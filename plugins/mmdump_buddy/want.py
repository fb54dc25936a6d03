"""Why no block of an order can be had: ``__zone_watermark_ok()`` (mm/page_alloc.c), with its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmdump.result import Column, Finding, Kind, Schema, Severity, Table
from mmdump_buddy.account import ZoneAccount
from mmdump_buddy.index import fragmentation_index
from mmdump_buddy.tables import size

__all__ = ["REQUESTS", "WANT", "Request", "Verdict", "judge", "want_findings", "want_table"]


@dataclass(frozen=True)
class Request:
    """An allocation, by what it may do.

    :param name: Its gfp mask.
    :param highest: The highest zone that it could use, of ``enum zone_type``.
    :param cma: ALLOC_CMA: it may use CMA areas, as movable pages do.
    :param atomic: It may use reserves, as it cannot wait (ALLOC_HIGHATOMIC, and what of the min watermark
        ALLOC_MIN_RESERVE and ALLOC_NON_BLOCK leave; ALLOC_HIGH and ALLOC_HARDER up to 6.2).
    """

    name: str
    highest: str
    cma: bool = False
    atomic: bool = False


REQUESTS = (
    Request("GFP_KERNEL", "ZONE_NORMAL"),
    Request("GFP_HIGHUSER_MOVABLE", "ZONE_MOVABLE", cma=True),
    Request("GFP_ATOMIC", "ZONE_NORMAL", atomic=True),
)

WANT = Schema(
    "want",
    (
        Column("node", Kind.ID, "NUMA node"),
        Column("zone", Kind.TEXT, "zone"),
        Column("request", Kind.TEXT, "what kind of allocation"),
        Column(
            "available", Kind.TEXT, "yes; reclaim: only below the low watermark, so that kswapd is woken; no"
        ),
        Column("why", Kind.TEXT, "why not, or why only after reclaim was woken"),
        Column("blocks", Kind.COUNT, "blocks of the order on lists that it may use, larger ones in parts"),
        Column("usable", Kind.BYTES, "free memory that counts for it"),
        Column("needed", Kind.BYTES, "what it has to leave: the min watermark and lowmem_reserve"),
        Column("cma_blocks", Kind.COUNT, "blocks of the order on lists of CMA", in_text=False),
        Column("highatomic_blocks", Kind.COUNT, "on lists of HighAtomic", in_text=False),
        Column("isolated_blocks", Kind.COUNT, "on lists of Isolate", in_text=False),
    ),
    "",
)


@dataclass(frozen=True)
class Verdict:
    """Whether a zone has a block for a request.

    :param available: ``yes``, ``reclaim`` (above the min watermark only) or ``no``.
    :param why: The reason if it is not ``yes``.
    :param usable: Pages that count for the request.
    :param needed: Pages that have to be left.
    :param blocks: Blocks on lists that the request may use.
    """

    available: str
    why: str | None
    usable: int
    needed: int
    blocks: int


def judge(
    account: ZoneAccount, request: Request, order: int, zone_types: Mapping[str, int]
) -> Verdict | None:
    """Judge as ``__zone_watermark_ok()`` does at the low and the min watermark.

    :param zone_types: ``enum zone_type``.
    :return: None where the zone is too high for the request, or its counters are unknown.
    """
    state = account.state
    highest = zone_types.get(request.highest, 0)
    if state is None or account.zone.index > highest:
        return None
    usable = state.usable(order, cma=request.cma, reserves=request.atomic)
    reserve = state.reserve(highest)
    low, least = state.watermark[1], _lowered(state.watermark[0], request)
    kinds = ["UNMOVABLE", "MOVABLE", "RECLAIMABLE"]
    kinds += ["CMA"] * request.cma + ["HIGHATOMIC"] * request.atomic
    blocks = sum(account.blocks_on(kind, order) for kind in kinds)
    available, why = "no", None
    if usable <= least + reserve:
        every = state.usable(order, cma=True, reserves=True)
        if usable > least:
            why = "what is above the min watermark is reserved for others (lowmem_reserve)"
        elif every > least + reserve:
            why = "below the min watermark without what is free in CMA areas or the HighAtomic reserve"
        else:
            why = "below the min watermark"
    elif not blocks and order:
        why = _no_block(account, kinds, order)
    elif state.usable(order, cma=request.cma, reserves=False) <= low + reserve:
        # The first try is without reserves for everyone.
        available, why = "reclaim", "below the low watermark"
    else:
        available = "yes"
    return Verdict(available, why, usable, least + reserve, blocks)


def _lowered(mark: int, request: Request) -> int:
    """The min watermark as it counts for a request."""
    if request.atomic:
        mark -= mark // 2
        mark -= mark // 4
    return mark


def _no_block(account: ZoneAccount, kinds: Sequence[str], order: int) -> str:
    """Why there is no block although enough is free."""
    others = {"CMA": "CMA", "HIGHATOMIC": "HighAtomic", "ISOLATE": "Isolate"}
    held = [name for kind, name in others.items() if kind not in kinds and account.blocks_on(kind, order)]
    if held:
        return f"blocks of this order are on lists of {' and '.join(held)} only"
    index = fragmentation_index(account.nr_free, order)
    # Compaction is tried above sysctl_extfrag_threshold, 500 unless changed.
    kind = "fragmentation" if index > _EXTFRAG_THRESHOLD else "lack of memory rather than fragmentation"
    return f"no block of this order: {kind} (index {index} of 1000)"


_EXTFRAG_THRESHOLD = 500


def want_table(
    accounts: Sequence[ZoneAccount], order: int, zone_types: Mapping[str, int], page_size: int
) -> Table:
    """One row for each zone and request that may use it."""
    rows: list[dict[str, object]] = []
    for each in accounts:
        for request in REQUESTS:
            verdict = judge(each, request, order, zone_types)
            if verdict is None:
                continue
            rows.append(
                {
                    "node": each.zone.node,
                    "zone": each.zone.name,
                    "request": request.name,
                    "available": verdict.available,
                    "why": verdict.why,
                    "blocks": verdict.blocks,
                    "usable": size(verdict.usable, page_size),
                    "needed": size(verdict.needed, page_size),
                    "cma_blocks": each.blocks_on("CMA", order),
                    "highatomic_blocks": each.blocks_on("HIGHATOMIC", order),
                    "isolated_blocks": each.blocks_on("ISOLATE", order),
                }
            )
    return Table.of_rows(WANT, rows)


def want_findings(table: Table, order: int) -> list[Finding]:
    """A finding for each request that no zone can serve."""
    found = []
    for request in REQUESTS:
        rows = [row for row in table.frame.to_dicts() if row["request"] == request.name]
        if rows and all(row["available"] == "no" for row in rows):
            reasons = "; ".join(f"node {row['node']} {row['zone']}: {row['why']}" for row in rows)
            found.append(
                Finding(
                    "no-block",
                    Severity.PROBLEM,
                    f"No block of order {order} can be had with {request.name}: {reasons}.",
                    WANT.name,
                    f"request == '{request.name}'",
                )
            )
    return found
