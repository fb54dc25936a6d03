"""Contiguous ranges emptied and allocated: alloc_contig_range() (mm/page_alloc.c, mm/page_isolation.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .callchains import calls
from .gfp import Gfp
from .migrate import isolate_migratepages, migrate_pages
from .page_isolation import start_isolate_page_range, undo_isolate_page_range
from .pages import PageType

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["alloc_contig_range", "free_contig_range", "test_pages_isolated"]

#: How often folios that are isolated are tried to be migrated.
_TRIES = 5


def alloc_contig_range(machine: Machine, start: int, end: int, gfp: Gfp = Gfp.KERNEL) -> int:
    """``alloc_contig_range()``: take exactly the pages [start, end), each with a reference.

    Their pageblocks are isolated, so that what is freed there stays there; whatever can move is moved; then
    every page must be free. Nobody waits for what cannot move: that is -EBUSY, and the page pinner hears of
    the first page in the way.

    :return: 0, or errno.EBUSY or errno.ENOMEM.
    """
    with calls(machine, "alloc_contig_range_noprof"):
        if not start_isolate_page_range(machine, start, end):
            return errno.EBUSY
        try:
            machine.drain_all_pages()
            if _migrate_range(machine, start, end) == errno.ENOMEM:
                return errno.ENOMEM
            # What was busy may be free by now: only the test tells.
            block = machine.buddy.block_of(start)
            outer_start = start if block is None else block[0]
            if test_pages_isolated(machine, outer_start, end) is not None:
                return errno.EBUSY
            outer_end = _isolate_freepages_range(machine, outer_start, end, gfp)
            free_contig_range(machine, outer_start, start - outer_start)
            free_contig_range(machine, end, outer_end - end)
        finally:
            undo_isolate_page_range(machine, start, end)
    return 0


def _migrate_range(machine: Machine, start: int, end: int) -> int:
    """``__alloc_contig_migrate_range()``: move what is on the LRU, some pages at a time.

    :return: 0, errno.EBUSY where folios resisted :data:`_TRIES` times, or errno.ENOMEM.
    """
    batches = machine.batches
    batches.disable()
    error, pfn = 0, start
    left: list[int] = []
    while pfn < end and not error:
        left, pfn = isolate_migratepages(machine, pfn, end)
        for _ in range(_TRIES):
            left, out_of_memory = migrate_pages(machine, left)
            if out_of_memory:
                error = errno.ENOMEM
            if out_of_memory or not left:
                break
        else:
            error = errno.EBUSY
    batches.enable()
    if error == errno.EBUSY and machine.page_pinner is not None:
        machine.page_pinner.not_migrated(left)
    # putback_movable_pages()
    for head in left:
        batches.putback(head)
    return error


def test_pages_isolated(machine: Machine, start: int, end: int) -> int | None:
    """``test_pages_isolated()``: whether all of [start, end) is free. The page pinner's hook is here.

    :param start: Where a free block begins, unless that page is busy.
    :return: None, or the first page that is not free.
    """
    pages, pfn = machine.pages, start
    while pfn < end and pages.type.item(pfn) == PageType.BUDDY:
        pfn += 1 << pages.order.item(pfn)
    if pfn >= end:
        return None
    if machine.page_pinner is not None:
        with calls(machine, "test_pages_isolated"):
            machine.page_pinner.failure(pfn)
    return pfn


def _isolate_freepages_range(machine: Machine, start: int, end: int, gfp: Gfp) -> int:
    """``isolate_freepages_range()``, ``split_map_pages()``: take free blocks, and make single pages of them.

    :return: Where the last block ends.
    """
    zone, pfn = machine.zone_of(start), start
    # Of the kernel's own choice up to 6.11.
    flags = gfp if machine.era.version >= (6, 12) else Gfp.MOVABLE
    while pfn < end:
        order = machine.pages.order.item(pfn)
        machine.buddy.isolate_free_page(zone, pfn, order)
        machine.page_alloc.post_alloc_hook(pfn, order, flags)
        if order:
            machine.split_page(pfn, order)
        pfn += 1 << order
    return pfn


def free_contig_range(machine: Machine, pfn: int, count: int) -> None:
    """``free_contig_range()``: page by page."""
    with calls(machine, "free_contig_range"):
        for page in range(pfn, pfn + count):
            machine.free_pages(page, 0)
