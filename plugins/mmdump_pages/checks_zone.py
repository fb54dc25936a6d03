"""Invariants of zones and CMA areas: what they count, against their pages (mm/vmstat.c, mm/cma.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError

from mmdump.checks import Broken, Check, Violations, initialised
from mmdump.errors import IncompleteError
from mmdump.kernel.cma import CmaArea, read_cma_bitmap
from mmdump.kernel.zones import each_zone

if TYPE_CHECKING:
    import polars as pl
    from drgn import Object

    from mmdump.analysis import Columns
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64, Bools
    from mmdump.kernel.freelists import ListHeads
    from mmdump.kernel.page import PageRange
    from mmdump.kernel.zones import Zone

__all__ = ["CHECKS"]


class PageZone(Check):
    """``set_page_links()``."""

    name = "page-zone"
    summary = "a page lies in the zone and node that its flags name"

    def start(self, kernel: Kernel) -> tuple[Zone, ...]:
        """The zones.

        :raises IncompleteError: There are none, or some could not be read.
        """
        zones = tuple(kernel.zones)
        if not zones:
            raise IncompleteError("no zone could be read")
        return zones

    def scan(self, pages: PageRange, state: tuple[Zone, ...]) -> Sequence[Violations]:
        """Pages in use or free in another place. Reserved ones may be holes, that name any zone."""
        starts = pages.places
        lengths = np.diff(np.append(starts, len(pages)))
        if _spanned(pages, starts, lengths, state).all():
            return ()
        used = (pages.refcount != 0) | pages.is_buddy
        rows = np.flatnonzero(used & ~np.repeat(_spanned(pages, starts, lengths, state), lengths))
        rows = rows[~pages.has_flag("PG_reserved", at=rows)]
        rows = rows[~_spanned(pages, rows, np.ones(len(rows), np.int64), state)]
        if not len(rows):
            return ()
        return [
            Violations(
                "its flags name zone {zone} of node {node}, which does not span it",
                rows,
                {"zone": pages.zone, "node": pages.node},
            )
        ]


def _spanned(pages: PageRange, starts: I64, lengths: I64, zones: Sequence[Zone]) -> Bools:
    """Whether the zone that they name spans each of these runs of pages, all of it."""
    node, index, pfn = pages.node_of(starts), pages.zone_of(starts), starts + pages.start
    found = np.zeros(len(starts), bool)
    for zone in zones:
        inside = (pfn >= zone.start_pfn) & (pfn + lengths <= zone.start_pfn + zone.spanned)
        found |= inside & (index == zone.index) & (node == zone.node)
    return found


@dataclass(frozen=True)
class _FreeState:
    """The zones' lists, which of them somebody was changing, and the number of MIGRATE_ISOLATE."""

    heads: ListHeads
    locked: tuple[bool, ...]
    isolate: int


class ZoneFree(Check):
    """``free_area.nr_free`` and NR_FREE_PAGES change under the zone's lock, together with the lists."""

    name = "zone-free"
    summary = "a zone has as many free blocks and pages as it counts"
    keys = ("zone", "order")

    def why_not(self, kernel: Kernel) -> str | None:
        """A live kernel's counters move while its pages are read."""
        return "the counters of a live kernel move while its pages are read" if kernel.target.live else None

    def start(self, kernel: Kernel) -> _FreeState:
        """What the zones count by order."""
        locked = tuple(_locked(where) for _, where in each_zone(kernel.target.prog))
        return _FreeState(kernel.list_heads, locked, kernel.pageblocks.isolate)

    def tally(self, pages: PageRange, state: _FreeState) -> Columns | None:
        """Free blocks by zone and order; with zone -1 pages that could not be read."""
        heads = pages.buddies
        heads = heads[pages.word_at("private", heads) <= pages.layout.max_buddy_order]
        zone = state.heads.slots(pages.node_of(heads), pages.zone_of(heads).astype(np.int64))
        heads, zone = heads[zone >= 0], zone[zone >= 0]
        orders = pages.layout.max_buddy_order + 1
        isolated = pages.migratetype_of(heads) == state.isolate
        key, inverse = np.unique(zone * orders + pages.buddy_order[heads], return_inverse=True)
        return {
            "zone": np.append(key // orders, -1),
            "order": np.append(key % orders, -1),
            "blocks": np.append(np.bincount(inverse, minlength=len(key)), np.count_nonzero(~pages.readable)),
            "isolated": np.append(np.bincount(inverse[isolated], minlength=len(key)), 0),
        }

    def finish(self, kernel: Kernel, state: _FreeState, sums: pl.DataFrame | None) -> Sequence[Broken]:
        """Where zones count other numbers.

        :raises IncompleteError: Some pages could not be read, so that nobody knows how many are free.
        """
        heads = state.heads
        blocks = np.zeros((len(heads.zones), heads.orders), np.int64)
        isolated = np.zeros_like(blocks)
        for zone, order, count, apart in sums.iter_rows() if sums is not None else ():
            if zone < 0 and count:
                raise IncompleteError(f"{count} pages could not be read, free ones perhaps")
            if zone >= 0:
                blocks[zone, order], isolated[zone, order] = count, apart
        broken = []
        sizes = np.left_shift(1, np.arange(heads.orders))
        for index, zone in enumerate(heads.zones):
            where = f"zone {zone.name} of node {zone.node}"
            # The CPU that holds the lock was in the middle of changing this.
            if state.locked[index] or not heads.readable[index]:
                continue
            different = np.flatnonzero(heads.nr_free[index] != blocks[index].astype(np.uint64))
            broken += [
                Broken(
                    f"{where} counts {heads.nr_free[index, order]} free blocks of order {order}, "
                    f"and {blocks[index, order]} are there"
                )
                for order in different.tolist()
            ]
            broken += self._pages(
                kernel, zone, where, int((blocks[index] * sizes).sum()), int((isolated[index] * sizes).sum())
            )
        return broken

    def _pages(self, kernel: Kernel, zone: Zone, where: str, free: int, isolated: int) -> list[Broken]:
        """NR_FREE_PAGES, with what CPUs have not added yet. Isolated blocks are free, but not counted.

        Memory that a confidential guest has not accepted yet (6.5) is counted as free.
        """
        state = next((each for each in kernel.zone_states if each.zone == zone), None)
        if state is None or not state.complete or "NR_FREE_PAGES" not in state.counted:
            return []
        counted = state.snapshot("NR_FREE_PAGES")
        unaccepted = max(state.snapshot("NR_UNACCEPTED"), 0)
        if free - isolated <= counted <= free + unaccepted:
            return []
        return [Broken(f"{where} counts {counted} free pages, and {free} are there")]


def _locked(zone: Object) -> bool:
    """Whether a CPU holds ``zone->lock``; False where the lock has a form that mmdump does not know."""
    try:
        raw = zone.lock.rlock.raw_lock
        return bool(raw.val.counter.value_())
    except (FaultError, AttributeError, LookupError):
        return False


class CmaBitmap(Check):
    """``cma_alloc()`` marks in the bitmap what it then takes from the free lists."""

    name = "cma-bitmap"
    summary = "what a CMA area has given out is not free, and the rest is movable memory in CMA pageblocks"

    def why_not(self, kernel: Kernel) -> str | None:
        """Not every kernel has an area."""
        if kernel.cma_areas:
            return None
        return "no CMA area could be read" if kernel.cma_garbage else "this kernel has no CMA area"

    def start(self, kernel: Kernel) -> tuple[list[tuple[CmaArea, Bools]], tuple[int, ...], int]:
        """The areas with their bitmaps, the migratetypes their pageblocks may have, and the isolated one.

        :raises IncompleteError: A bitmap is not in the dump.
        """
        areas = []
        for area in kernel.cma_areas:
            bitmap = read_cma_bitmap(kernel.target.reader, area)
            if bitmap is None:
                raise IncompleteError(f"the bitmap of CMA area {area.name} is not in the dump")
            areas.append((area, bitmap))
        names, isolate = kernel.pageblocks.names, kernel.pageblocks.isolate
        allowed = tuple(index for index, name in enumerate(names) if name == "CMA" or index == isolate)
        return areas, allowed, isolate

    def scan(
        self, pages: PageRange, state: tuple[list[tuple[CmaArea, Bools]], tuple[int, ...], int]
    ) -> Sequence[Violations]:
        """Pages of the areas that are in a state their bitmap does not allow."""
        areas, allowed, isolate = state
        found: list[Violations] = []
        for area, bitmap in areas:
            low, high = max(area.base_pfn, pages.start), min(area.end_pfn, pages.end)
            if low >= high:
                continue
            rows = np.arange(low - pages.start, high - pages.start)
            given = bitmap[low - area.base_pfn : high - area.base_pfn]
            types = pages.migratetype[rows]
            kernel_memory = (
                pages.is_type("slab", at=rows)
                | pages.is_type("table", at=rows)
                | pages.has_flag("PG_reserved", at=rows)
            )
            foreign = ~np.isin(types, [*allowed, 255])
            name = area.name.replace("{", "{{").replace("}", "}}")
            found += [
                # Between the mark and the isolation, and back, lies a moment; isolated blocks are that.
                Violations(
                    f"is free, though CMA area {name} has given it out",
                    rows[given & pages.in_free_block[rows] & (types != isolate)],
                ),
                Violations(
                    f"is the kernel's own, though CMA area {name} has not given it out",
                    rows[~given & kernel_memory & initialised(pages)[rows]],
                ),
                Violations(
                    f"lies in CMA area {name}, and its pageblock has migratetype {{type}}",
                    rows[foreign],
                    {"type": pages.migratetype},
                ),
            ]
        return found


CHECKS: tuple[type[Check], ...] = (PageZone, ZoneFree, CmaBitmap)
