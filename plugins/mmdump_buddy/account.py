"""What is free in each zone, from every source: the page array, the lists, the zone's own counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmdump.kernel.arrays import I64
from mmdump.kernel.freelists import FreeLists
from mmdump.kernel.pcp import PerCpuPages
from mmdump.kernel.zones import Zone
from mmdump.kernel.zonestate import ZoneState

__all__ = ["MAX_PAGES", "ZoneAccount", "zone_accounts"]

#: No machine has more pages; a counter beyond is garbage, and is cut here so that sizes stay numbers.
MAX_PAGES = 1 << 44


@dataclass(frozen=True)
class ZoneAccount:
    """Free memory of a zone.

    :param slot: Index of the zone among the heads of the free lists.
    :param nr_free: ``free_area.nr_free`` by order; no more than the zone has pages.
    :param blocks: Free blocks by order, from the page array.
    :param lists: Blocks on each list, int64 of shape (orders, migratetypes).
    :param other_pageblocks: Of these, those in pageblocks of another migratetype, of the same shape.
    :param kinds: Numbers of the lists by the names that ``enum migratetype`` gives them, without MIGRATE_.
    :param state: The zone's counters; None where they could not be read.
    :param pcp: Pages on per-CPU lists.
    :param guards: Pages of guards.
    """

    zone: Zone
    slot: int
    nr_free: tuple[int, ...]
    nr_free_intact: bool
    blocks: tuple[int, ...]
    lists: I64
    other_pageblocks: I64
    kinds: Mapping[str, int]
    state: ZoneState | None
    pcp: int
    guards: int

    @property
    def pages(self) -> int:
        """Pages in free blocks, by the page array."""
        return sum(count << order for order, count in enumerate(self.blocks))

    def pages_on(self, kind: str) -> int:
        """Pages on the lists of a migratetype such as ``CMA``; 0 where this kernel has none."""
        number = self.kinds.get(kind)
        if number is None:
            return 0
        return sum(count << order for order, count in enumerate(self.lists[:, number].tolist()))

    def blocks_on(self, kind: str, order: int) -> int:
        """Blocks of an order that those on the lists of a migratetype hold, larger ones counted in parts."""
        number = self.kinds.get(kind)
        if number is None:
            return 0
        counts = self.lists[order:, number].tolist()
        return sum(count << above for above, count in enumerate(counts))

    @property
    def largest(self) -> int | None:
        """Order of the largest free block; None where nothing is free."""
        orders = [order for order, count in enumerate(self.blocks) if count]
        return orders[-1] if orders else None

    @property
    def name(self) -> str:
        """The zone in a sentence."""
        return f"zone {self.zone.name} of node {self.zone.node}"


def zone_accounts(
    lists: FreeLists,
    migratetypes: Mapping[str, int],
    states: Sequence[ZoneState],
    pcp: PerCpuPages,
    guards: Mapping[int, int],
) -> list[ZoneAccount]:
    """The accounts of all zones.

    :param migratetypes: ``enum migratetype``.
    :param guards: Pages of guards by index of the zone.
    """
    heads = lists.heads
    kinds = {
        name.removeprefix("MIGRATE_"): number
        for name, number in migratetypes.items()
        if 0 <= number < heads.migratetypes
    }
    by_zone = {(state.zone.node, state.zone.index): state for state in states}
    counts, blocks, others = lists.counts, lists.blocks, _other_pageblocks(lists)
    stocks = {(zone.node, zone.index): pcp.pages(slot) for slot, zone in enumerate(pcp.zones)}
    found = []
    for slot, zone in enumerate(heads.zones):
        key = (zone.node, zone.index)
        stored = heads.nr_free[slot].tolist()
        found.append(
            ZoneAccount(
                zone,
                slot,
                tuple(min(count, zone.spanned) for count in stored),
                bool(heads.readable[slot]),
                tuple(blocks[slot].tolist()),
                counts[slot],
                others[slot],
                kinds,
                by_zone.get(key),
                stocks.get(key, 0),
                guards.get(slot, 0),
            )
        )
    return found


def _other_pageblocks(lists: FreeLists) -> I64:
    """Blocks on each list whose pageblock has another migratetype, of the shape of ``lists.counts``."""
    heads = lists.heads
    other = (lists.list >= 0) & (lists.migratetype != lists.list % max(heads.migratetypes, 1))
    counts = np.bincount(lists.list[other], minlength=len(heads.address))
    return counts.reshape(len(heads.zones), heads.orders, heads.migratetypes)
