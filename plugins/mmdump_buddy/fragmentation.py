"""Memory is free, but not in one piece: the least order that no zone has, judged as the allocator does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmdump.amounts import bytes_text
from mmdump.result import Finding, Severity
from mmdump_buddy.account import ZoneAccount
from mmdump_buddy.index import fragmentation_index
from mmdump_buddy.want import REQUESTS, judge

__all__ = ["fragmentation_findings"]

#: PAGE_ALLOC_COSTLY_ORDER: up to this the allocator does not give up, and callers count on it.
_COSTLY_ORDER = 3
#: sysctl_extfrag_threshold: above, the kernel too says fragmentation and not lack of memory.
_THRESHOLD = 500


def fragmentation_findings(
    accounts: Sequence[ZoneAccount], zone_types: Mapping[str, int], most: int, page_size: int
) -> list[Finding]:
    """The least order, up to ``most``, of which fragmentation leaves no block to GFP_KERNEL in any zone.

    Of a zone below its watermark nothing is said: it is memory that is missing there.

    :param zone_types: ``enum zone_type``.
    :param most: ``pageblock_order``: larger blocks are not what the kernel keeps together.
    """
    request = REQUESTS[0]
    for order in range(1, most + 1):
        judged = [(each, judge(each, request, order, zone_types)) for each in accounts]
        known = [(each, verdict) for each, verdict in judged if verdict is not None]
        if not known or any(verdict.available != "no" for _, verdict in known):
            continue
        guilty = [
            each
            for each, verdict in known
            if verdict.usable > verdict.needed
            and not verdict.blocks
            and fragmentation_index(each.nr_free, order) > _THRESHOLD
        ]
        if not guilty:
            continue
        free = sum(each.pages for each in guilty) * page_size
        names = ", ".join(each.name for each in guilty)
        costly = order <= _COSTLY_ORDER
        why = (
            "the kernel takes orders up to 3 for granted (PAGE_ALLOC_COSTLY_ORDER)"
            if costly
            else "allocations above order 3 may fail for that, and huge pages need compaction"
        )
        return [
            Finding(
                "fragmented",
                Severity.WARNING if costly else Severity.NOTE,
                f"Fragmented: {bytes_text(free)} are free in {names}, yet no zone has a block of "
                f"order {order} ({bytes_text(page_size << order)}) for {request.name}: {why}.",
                "orders",
                f"order >= {order}",
            )
        ]
    return []
