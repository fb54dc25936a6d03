"""A migratetype without free blocks: it claims pageblocks of others, or uses pages of them (mm/page_alloc.c).

Pages that cannot move are kept together, so that the rest of memory can be made contiguous. Whoever has to
take from another type takes the largest block there is, and the whole pageblock if enough of it is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .pages import PageFlag, PageType
from .zone import ALLOC_NOFRAGMENT, MIGRATE_PCPTYPES, Migratetype

if TYPE_CHECKING:
    from .buddy import Buddy
    from .zone import FreeArea, Zone

__all__ = [
    "FALLBACKS",
    "move_freepages_block",
    "reserve_highatomic",
    "rmqueue_fallback",
    "unreserve_highatomic",
]

#: ``fallbacks[]``: where a type takes from, in this order.
FALLBACKS = {
    Migratetype.UNMOVABLE: (Migratetype.RECLAIMABLE, Migratetype.MOVABLE),
    Migratetype.MOVABLE: (Migratetype.RECLAIMABLE, Migratetype.UNMOVABLE),
    Migratetype.RECLAIMABLE: (Migratetype.UNMOVABLE, Migratetype.MOVABLE),
}


def rmqueue_fallback(buddy: Buddy, zone: Zone, order: int, start_type: int, alloc_flags: int) -> int | None:
    """``__rmqueue_fallback()``; since 6.15 ``__rmqueue_claim()`` and ``__rmqueue_steal()``.

    :return: The first PFN of a block of this order, or None.
    """
    nofragment = alloc_flags & ALLOC_NOFRAGMENT
    min_order = buddy.pageblock_order if nofragment and order < buddy.pageblock_order else order
    for current in range(buddy.max_order, min_order - 1, -1):
        found = _find_suitable_fallback(zone.free_area[current], start_type)
        if found is None:
            continue
        can_claim = _can_claim(buddy, current, start_type)
        if not can_claim and start_type == Migratetype.MOVABLE and current > order:
            # Movable pages can be moved out of the way: the smallest block will do.
            break
        pfn = zone.free_area[current].free_list[found].first()
        if can_claim:
            claimed = _try_to_claim_block(buddy, zone, pfn, current, order, start_type, found)
            if claimed is not None:
                return claimed
        return _steal(buddy, zone, pfn, order, current, start_type, found)
    if nofragment:
        return None
    for current in range(order, buddy.max_order + 1):
        found = _find_suitable_fallback(zone.free_area[current], start_type)
        if found is not None:
            pfn = zone.free_area[current].free_list[found].first()
            return _steal(buddy, zone, pfn, order, current, start_type, found)
    return None


def _find_suitable_fallback(area: FreeArea, start_type: int) -> int | None:
    """``find_suitable_fallback()``."""
    for other in FALLBACKS[Migratetype(start_type)]:
        if area.free_list[other]:
            return int(other)
    return None


def _can_claim(buddy: Buddy, order: int, start_type: int) -> bool:
    """``can_steal_fallback()``, ``should_try_claim_block()``: not for a few movable pages."""
    return order >= buddy.pageblock_order // 2 or start_type in (
        Migratetype.RECLAIMABLE,
        Migratetype.UNMOVABLE,
    )


def _steal(
    buddy: Buddy, zone: Zone, pfn: int, order: int, current: int, start_type: int, block_type: int
) -> int:
    """Use part of a block, in a pageblock that stays another type's.

    Since 6.10 the rest goes back to the lists of the pageblock's type; before, to those of the new user.
    """
    return buddy.del_and_expand(zone, pfn, order, current, block_type if buddy.strict else start_type)


def _try_to_claim_block(
    buddy: Buddy, zone: Zone, pfn: int, current: int, order: int, start_type: int, block_type: int
) -> int | None:
    """``steal_suitable_fallback()``, ``try_to_claim_block()``: the pageblock becomes ours, if enough of it
    is.

    :return: A block of it, or None if it is not worth it.
    """
    if buddy.migratetype(pfn) == Migratetype.HIGHATOMIC:
        return None
    if current >= buddy.pageblock_order:
        buddy.del_page_from_free_list(zone, pfn, current)
        buddy.change_pageblock_range(pfn, current, start_type)
        buddy.expand(zone, pfn, order, current, start_type)
        return pfn
    start = _pageblock(buddy, zone, pfn)
    if start is None:
        return None
    free, movable = _count(buddy, start)
    if start_type == Migratetype.MOVABLE:
        alike = movable
    elif block_type == Migratetype.MOVABLE:
        # What is neither free nor movable must be unmovable or reclaimable.
        alike = buddy.pageblock_nr_pages - (free + movable)
    else:
        alike = 0
    enough = free + alike >= buddy.pageblock_nr_pages // 2
    if not enough and buddy.strict:
        return None
    # Up to 6.9 all that is free goes to our lists anyway, even if the pageblock keeps its type.
    move_freepages(buddy, zone, start, start_type)
    if enough:
        buddy.set_migratetype(start, start_type)
    return buddy.rmqueue_smallest(zone, order, start_type)


def _pageblock(buddy: Buddy, zone: Zone, pfn: int) -> int | None:
    """``prep_move_freepages_block()``: the start of a pageblock that is all in one zone."""
    start = pfn & -buddy.pageblock_nr_pages
    return start if zone.start_pfn <= start and start + buddy.pageblock_nr_pages <= zone.end_pfn else None


def _free_heads(buddy: Buddy, start: int) -> list[int]:
    """Free blocks that begin in a pageblock."""
    rows = buddy.pages.type[start : start + buddy.pageblock_nr_pages]
    return (np.flatnonzero(rows == np.uint8(PageType.BUDDY)) + start).tolist()


def _count(buddy: Buddy, start: int) -> tuple[int, int]:
    """How many pages of a pageblock are free, and how many can move as they are on the LRU."""
    free = sum(1 << buddy.pages.order.item(pfn) for pfn in _free_heads(buddy, start))
    flags = buddy.pages.flags[start : start + buddy.pageblock_nr_pages]
    heads = np.flatnonzero(flags & np.uint32(PageFlag.LRU)) + start
    orders = np.where(flags[heads - start] & np.uint32(PageFlag.HEAD) != 0, buddy.pages.order[heads], 0)
    movable = int((1 << orders.astype(np.int64)).sum())
    return free, min(movable, buddy.pageblock_nr_pages - free)


def move_freepages(buddy: Buddy, zone: Zone, start: int, migratetype: int) -> int:
    """``__move_freepages_block()``: the free blocks of a pageblock, to another type's lists.

    :return: How many pages.
    """
    moved = 0
    for pfn in _free_heads(buddy, start):
        order = buddy.pages.order.item(pfn)
        buddy.move_to_free_list(zone, pfn, order, migratetype)
        moved += 1 << order
    return moved


def move_freepages_block(buddy: Buddy, zone: Zone, pfn: int, migratetype: int) -> int | None:
    """``move_freepages_block()``: and the pageblock itself becomes of that type.

    :return: How many pages; None where the pageblock is not all in the zone.
    """
    start = _pageblock(buddy, zone, pfn)
    if start is None:
        return None
    moved = move_freepages(buddy, zone, start, migratetype)
    buddy.set_migratetype(start, migratetype)
    return moved


def reserve_highatomic(buddy: Buddy, zone: Zone, pfn: int) -> None:
    """``reserve_highatomic_pageblock()``: keep up to 1% of the zone for high orders that cannot wait."""
    limit = zone.managed // 100
    if limit < buddy.pageblock_nr_pages or zone.nr_reserved_highatomic >= limit:
        return
    if buddy.migratetype(pfn) >= MIGRATE_PCPTYPES:
        return
    if move_freepages_block(buddy, zone, pfn, Migratetype.HIGHATOMIC) is not None:
        zone.nr_reserved_highatomic += buddy.pageblock_nr_pages


def unreserve_highatomic(buddy: Buddy, zone: Zone, migratetype: int, *, force: bool = False) -> bool:
    """``unreserve_highatomic_pageblock()``: memory is short; give a pageblock of the reserve to this type.

    :param force: Even the last one.
    """
    if not zone.nr_reserved_highatomic:
        return False
    if not force and zone.nr_reserved_highatomic <= buddy.pageblock_nr_pages:
        return False
    for order, area in enumerate(zone.free_area):
        free_list = area.free_list[Migratetype.HIGHATOMIC]
        if not free_list:
            continue
        pfn = free_list.first()
        if order < buddy.pageblock_order:
            move_freepages_block(buddy, zone, pfn, migratetype)
        else:
            buddy.move_to_free_list(zone, pfn, order, migratetype)
            buddy.change_pageblock_range(pfn, order, migratetype)
        zone.nr_reserved_highatomic -= max(buddy.pageblock_nr_pages, 1 << order)
        return True
    return False
