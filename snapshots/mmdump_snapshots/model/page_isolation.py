"""Pageblocks set aside: what is free in them stays free, as nobody is given it (mm/page_isolation.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import fallback
from .pages import PageFlag
from .zone import Migratetype

if TYPE_CHECKING:
    from .machine import Machine
    from .zone import Zone

__all__ = [
    "has_unmovable_pages",
    "set_migratetype_isolate",
    "start_isolate_page_range",
    "undo_isolate_page_range",
    "unset_migratetype_isolate",
]


def _pageblocks(machine: Machine, start: int, end: int) -> range:
    """First PFNs of the pageblocks that [start, end) touches.

    Up to 5.18 whole blocks of the largest order were isolated, so that no free block reached out of the
    range.
    """
    step = machine.buddy.pageblock_nr_pages
    align = step if machine.era.version >= (5, 19) else max(1 << machine.era.max_order, step)
    return range(start & -align, (end + align - 1) & -align, step)


def start_isolate_page_range(machine: Machine, start: int, end: int, migratetype: int | None = None) -> bool:
    """``start_isolate_page_range()``: isolate all pageblocks of [start, end).

    :param migratetype: For what: CMA or MOVABLE; by default as the first pageblock is.
    :return: Whether that was possible. If not, none is isolated.
    """
    if migratetype is None:
        migratetype = _usual(machine, start)
    done: list[int] = []
    for pfn in _pageblocks(machine, start, end):
        if not set_migratetype_isolate(machine, pfn, migratetype):
            for other in done:
                unset_migratetype_isolate(machine, other, migratetype)
            return False
        done.append(pfn)
    return True


def undo_isolate_page_range(machine: Machine, start: int, end: int, migratetype: int | None = None) -> None:
    """``undo_isolate_page_range()``.

    :param migratetype: What the pageblocks are from now on; by default CMA in CMA areas, and MOVABLE
        elsewhere. Since 6.17 they are what they were.
    """
    for pfn in _pageblocks(machine, start, end):
        unset_migratetype_isolate(machine, pfn, _usual(machine, pfn) if migratetype is None else migratetype)


def _usual(machine: Machine, pfn: int) -> int:
    in_cma = any(area.base_pfn <= pfn < area.end_pfn for area in machine.cma)
    return int(Migratetype.CMA if in_cma else Migratetype.MOVABLE)


def has_unmovable_pages(machine: Machine, pfn: int, migratetype: int) -> bool:
    """``has_unmovable_pages()``: whether a pageblock has a page that will never move.

    In CMA areas that question is not asked: what cannot move has no business there.
    """
    buddy, pages = machine.buddy, machine.pages
    if buddy.migratetype(pfn) == Migratetype.CMA:
        return migratetype != Migratetype.CMA
    rows = np.arange(pfn, pfn + buddy.pageblock_nr_pages)
    if (pages.flags[rows] & np.uint32(PageFlag.RESERVED)).any():
        return True
    if machine.zone_of(pfn).name == "Movable":
        return False
    heads = rows - pages.tail[rows].astype(np.int64)
    on_lru = pages.flags[heads] & np.uint32(PageFlag.LRU) != 0
    return bool(((pages.refcount[heads] > 0) & ~on_lru).any())


def set_migratetype_isolate(machine: Machine, pfn: int, migratetype: int) -> bool:
    """``set_migratetype_isolate()``: isolate a pageblock.

    :param migratetype: For what: CMA or MOVABLE.
    :return: False where it is isolated already, or has pages that will never move.
    """
    try:
        zone = machine.zone_of(pfn)
    except LookupError:
        return False
    if pfn + machine.buddy.pageblock_nr_pages > zone.end_pfn or machine.isolated[_block(machine, pfn)]:
        return False
    if has_unmovable_pages(machine, pfn, migratetype):
        return False
    _move_freepages_block_isolate(machine, zone, pfn, isolate=True)
    zone.nr_isolate_pageblock += 1
    return True


def unset_migratetype_isolate(machine: Machine, pfn: int, migratetype: int) -> None:
    """``unset_migratetype_isolate()``: and let its free block merge with one that was not isolated.

    :param migratetype: Of the pageblock from now on (up to 6.16).
    """
    if not machine.isolated[_block(machine, pfn)]:
        return
    zone, buddy = machine.zone_of(pfn), machine.buddy
    found = buddy.block_of(pfn)
    if found is not None and found[0] == pfn and buddy.pageblock_order <= found[1] < buddy.max_order:
        other, order = pfn ^ (1 << found[1]), found[1]
        if buddy.is_buddy(zone, other, order) and buddy.migratetype(other) != Migratetype.ISOLATE:
            buddy.isolate_free_page(zone, pfn, order)
            _set_pageblock(machine, pfn, migratetype)
            zone.nr_isolate_pageblock -= 1
            buddy.putback_isolated_page(zone, pfn, order, buddy.migratetype(pfn))
            return
    _move_freepages_block_isolate(machine, zone, pfn, isolate=False, migratetype=migratetype)
    zone.nr_isolate_pageblock -= 1


def _move_freepages_block_isolate(
    machine: Machine, zone: Zone, pfn: int, *, isolate: bool, migratetype: int = Migratetype.ISOLATE
) -> None:
    """``move_freepages_block_isolate()``: a free block that is larger than the pageblock is split first.

    Up to 5.18 it went as a whole with its first pageblock (``move_freepages_block()``); the others followed.
    """
    buddy = machine.buddy
    found = buddy.block_of(pfn)
    if found is None or found[1] <= buddy.pageblock_order or machine.era.version < (5, 19):
        _set_pageblock(machine, pfn, migratetype, isolate=isolate)
        fallback.move_freepages(buddy, zone, pfn, buddy.migratetype(pfn))
        return
    head, order = found
    buddy.del_page_from_free_list(zone, head, order)
    _set_pageblock(machine, pfn, migratetype, isolate=isolate)
    for start in range(head, head + (1 << order), buddy.pageblock_nr_pages):
        buddy.free_one(zone, start, buddy.pageblock_order, buddy.migratetype(start))


def _set_pageblock(machine: Machine, pfn: int, migratetype: int, *, isolate: bool = False) -> None:
    """``set_pageblock_migratetype()``, or since 6.17 the bit beside it."""
    block = _block(machine, pfn)
    machine.isolated[block] = isolate
    if not machine.era.isolate_is_a_bit:
        machine.migratetype[block] = migratetype


def _block(machine: Machine, pfn: int) -> int:
    return pfn >> machine.era.pageblock_order
