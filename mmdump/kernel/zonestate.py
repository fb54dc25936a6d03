"""What a zone counts of itself: free pages, watermarks, reserves.

Mirrors include/linux/mmzone.h, include/linux/vmstat.h and mm/vmstat.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.kernel.layout import enumerators, has_member
from mmdump.kernel.percpu import at_each_cpu
from mmdump.kernel.zones import Zone, each_zone

if TYPE_CHECKING:
    from drgn import Object, Program

__all__ = ["ZoneState", "read_zone_states"]

#: Counters of ``enum zone_stat_item`` that are read; NR_UNACCEPTED since 6.5.
_COUNTERS = ("NR_FREE_PAGES", "NR_FREE_CMA_PAGES", "NR_UNACCEPTED")
_WATERMARKS = ("WMARK_MIN", "WMARK_LOW", "WMARK_HIGH")


@dataclass(frozen=True)
class ZoneState:
    """Counters and watermarks of a zone, all in pages. Plain data.

    :param managed: Pages that the buddy allocator was given.
    :param watermark: min, low and high, ``wmark_pages()``: boosted.
    :param boost: ``watermark_boost``, which is in all of them (5.0).
    :param lowmem_reserve: What is left to those who can use no higher zone, by the index of the highest zone
        that an allocation could use.
    :param nr_reserved_highatomic: Pages of pageblocks reserved for high orders that cannot wait.
    :param nr_free_highatomic: How many of these are free; None before that was counted.
    :param counted: ``zone->vm_stat`` by the names of ``enum zone_stat_item``.
    :param pending: What CPUs have not added to it yet: the sum of ``vm_stat_diff``.
    :param complete: Whether every CPU's counters could be read.
    """

    zone: Zone
    managed: int
    watermark: tuple[int, int, int]
    boost: int
    lowmem_reserve: tuple[int, ...]
    nr_reserved_highatomic: int
    nr_free_highatomic: int | None
    counted: Mapping[str, int]
    pending: Mapping[str, int]
    complete: bool = True

    def page_state(self, item: str) -> int:
        """``zone_page_state()``: what the allocator believes; per-CPU counters are not in it."""
        return max(self.counted.get(item, 0), 0)

    def snapshot(self, item: str) -> int:
        """``zone_page_state_snapshot()`` (but for its floor at 0): with the per-CPU counters."""
        return self.counted.get(item, 0) + self.pending.get(item, 0)

    @property
    def unusable_highatomic(self) -> int:
        """What ``__zone_watermark_unusable_free()`` takes off for those without access to the reserve.

        The free pages of the reserve; all its pages in kernels that do not count the free ones (up to 6.12).
        """
        if self.nr_free_highatomic is None:
            return self.nr_reserved_highatomic
        return self.nr_free_highatomic

    def usable(self, order: int, *, cma: bool, reserves: bool) -> int:
        """Free pages less ``__zone_watermark_unusable_free()``: those that count; may be negative.

        :param cma: Whether it may use CMA areas (ALLOC_CMA).
        :param reserves: Whether it may use what is below the min watermark (ALLOC_RESERVES).
        """
        free = self.page_state("NR_FREE_PAGES") - ((1 << order) - 1)
        if not reserves:
            free -= self.unusable_highatomic
        if not cma:
            free -= self.page_state("NR_FREE_CMA_PAGES")
        return free

    def reserve(self, highest: int) -> int:
        """``lowmem_reserve`` against an allocation that could use zones up to that index."""
        return self.lowmem_reserve[highest] if 0 <= highest < len(self.lowmem_reserve) else 0


def read_zone_states(prog: Program) -> list[ZoneState]:
    """The state of the populated zones. Zones that are not in the dump are left out."""
    items = enumerators(prog, "enum zone_stat_item")
    items = {name: items[name] for name in _COUNTERS if name in items}
    marks = enumerators(prog, "enum zone_watermarks")
    states = []
    for zone, where in each_zone(prog):
        try:
            copy = where.read_()
            states.append(_state(prog, zone, copy, items, [marks[name] for name in _WATERMARKS]))
        except FaultError:
            continue
    return states


def _state(prog: Program, zone: Zone, copy: Object, items: Mapping[str, int], marks: list[int]) -> ZoneState:
    kind = copy.type_
    # Watermarks got a boost, and a name of their own, in 5.0.
    boosted = has_member(kind, "_watermark")
    boost = copy.watermark_boost.value_() if boosted else 0
    stored = copy.member_("_watermark" if boosted else "watermark").value_()
    managed = copy.managed_pages
    pending, complete = _pending(prog, copy, items)
    return ZoneState(
        zone,
        # An atomic counter since 5.0.
        int(managed.counter.value_() if has_member(kind, "managed_pages.counter") else managed.value_()),
        (stored[marks[0]] + boost, stored[marks[1]] + boost, stored[marks[2]] + boost),
        boost,
        tuple(copy.lowmem_reserve.value_()),
        copy.nr_reserved_highatomic.value_(),
        # 6.13, and later 6.12.
        copy.nr_free_highatomic.value_() if has_member(kind, "nr_free_highatomic") else None,
        {name: copy.vm_stat[number].counter.value_() for name, number in items.items()},
        pending,
        complete,
    )


def _pending(prog: Program, copy: Object, items: Mapping[str, int]) -> tuple[dict[str, int], bool]:
    """The sum of all CPUs' ``vm_stat_diff``, and whether all could be read."""
    total = dict.fromkeys(items, 0)
    # Beside the per-CPU pages up to 5.13.
    pointer = copy.per_cpu_zonestats if has_member(copy.type_, "per_cpu_zonestats") else copy.pageset
    try:
        for _, counters in at_each_cpu(prog, pointer):
            differences = counters.vm_stat_diff.value_()
            for name, number in items.items():
                total[name] += differences[number]
    except FaultError:
        return total, False
    return total, True
