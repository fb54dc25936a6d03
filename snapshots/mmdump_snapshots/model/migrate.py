"""Pages moved to other places (mm/migrate.c), and taken off the LRU for that (mm/compaction.c)."""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from .callchains import calls
from .folio import MAPPING_ANON, FolioKind, StableNode
from .gfp import Gfp
from .pagecache import PageCache
from .pages import PageFlag
from .references import cache_references, get_refs, put_refs
from .thp import split_folio

if TYPE_CHECKING:
    from .machine import Machine

__all__ = [
    "COMPACT_CLUSTER_MAX",
    "MigrateReason",
    "alloc_migration_target",
    "isolate_migratepages",
    "migrate_folio",
    "migrate_pages",
]

#: Pages that are isolated at a time.
COMPACT_CLUSTER_MAX = 32
_LRU = int(PageFlag.LRU)

#: Flags that the new folio has from the old one, ``folio_migrate_flags()``.
_MIGRATED = (
    PageFlag.REFERENCED
    | PageFlag.UPTODATE
    | PageFlag.ACTIVE
    | PageFlag.UNEVICTABLE
    | PageFlag.WORKINGSET
    | PageFlag.DIRTY
    | PageFlag.SWAPBACKED
    | PageFlag.SWAPCACHE
    | PageFlag.MLOCKED
)


class MigrateReason(IntEnum):
    """``enum migrate_reason``, as far as all kernels agree on the numbers."""

    COMPACTION = 0
    MEMORY_FAILURE = 1
    MEMORY_HOTPLUG = 2
    SYSCALL = 3
    MEMPOLICY_MBIND = 4
    NUMA_MISPLACED = 5
    CONTIG_RANGE = 6
    LONGTERM_PIN = 7


def isolate_migratepages(machine: Machine, start: int, end: int) -> tuple[list[int], int]:
    """``isolate_migratepages_range()``: take what could move in [start, end) off the LRU, with a reference.

    Left alone are pages off the LRU, and anonymous ones with a reference too many: they cannot move.

    :return: Heads, at most :data:`COMPACT_CLUSTER_MAX` pages; and where to go on. A folio that reaches into
        the range is one of them.
    """
    pages, rmap = machine.pages, machine.rmap
    isolated: list[int] = []
    count, pfn = 0, start
    while pfn < end and count < COMPACT_CLUSTER_MAX:
        head = pages.head(pfn)
        if not pages.flags.item(head) & _LRU:
            # Free blocks and what is of no use here are long: find the next page on the LRU.
            pfn = _next_lru(machine, max(head + rmap.nr_pages(head), pfn + 1), end)
            continue
        pfn = head + rmap.nr_pages(head)
        machine.get_page(head)
        anon = rmap.is_anon(head) and not pages.has(head, PageFlag.SWAPCACHE)
        if anon and int(pages.refcount[head]) - 1 > rmap.mapcount(head):
            with calls(machine, "isolate_migratepages_block", "isolate_migratepages_range"):
                if machine.page_pinner is not None:
                    machine.page_pinner.not_isolated(head)
                machine.put_page(head)
            continue
        machine.batches.isolate(head)
        isolated.append(head)
        count += rmap.nr_pages(head)
    return isolated, pfn


def _next_lru(machine: Machine, start: int, end: int) -> int:
    """The next page on the LRU, or the end."""
    found = (machine.pages.flags[start:end] & np.uint32(_LRU)) != 0
    return start + int(np.argmax(found)) if found.any() else end


def alloc_migration_target(machine: Machine, head: int) -> int | None:
    """``alloc_migration_target()``: a folio as large, from where nothing is isolated."""
    order = machine.rmap.order(head)
    gfp = Gfp.USER | Gfp.MOVABLE | Gfp.RETRY_MAYFAIL
    if order:
        gfp = (gfp & ~Gfp.RECLAIM) | Gfp.TRANSHUGE
    with calls(machine, "alloc_migration_target", "migrate_pages"):
        return machine.alloc_pages(order, gfp)


def migrate_folio(machine: Machine, head: int, reason: int = MigrateReason.CONTIG_RANGE) -> int | None:
    """``migrate_folio_unmap()`` and ``migrate_folio_move()``: move a folio that is isolated from the LRU.

    :return: The new head, or None: -EAGAIN, as somebody else holds a reference. The folio is mapped as before
        then, and still isolated.
    :raises MemoryError: -ENOMEM: there is no place for it.
    """
    pages, rmap = machine.pages, machine.rmap
    new = alloc_migration_target(machine, head)
    if new is None:
        raise MemoryError(f"no memory to migrate the folio at {head} to")
    places = list(rmap.walk(head))
    one_by_one = machine.era.version < (6, 9)
    with calls(machine, "try_to_migrate_one", "rmap_walk_anon", "try_to_migrate", "migrate_pages"):
        for place in places:
            # Migration entries take the place of the mappings, and have no reference.
            place.vma.unmap_place(place)
            put_refs(machine, head, place.references, one_by_one=one_by_one)
    moved = int(pages.refcount[head]) == cache_references(machine, head) + 1 + rmap.mapcount(head)
    moved = moved and not rmap.mapped(head)
    if moved:
        _move_to_new_folio(machine, head, new, reason)
    target = new if moved else head
    for place in places:
        # remove_migration_ptes()
        place.vma.map_place(place, target + place.pfn - head)
        get_refs(machine, target, place.references)
    if not moved:
        machine.put_page(new)
        return None
    machine.batches.folio_add_lru(new)
    with calls(machine, "migrate_pages"):
        machine.put_page(new)
        machine.put_page(head)
    return new


def _move_to_new_folio(machine: Machine, old: int, new: int, reason: int) -> None:
    """``move_to_new_folio()``: the caches, private data, flags and the page_owner record."""
    pages, kind, count = machine.pages, machine.rmap.kind(old), machine.rmap.nr_pages(old)
    found = machine.rmap.objects.get(int(pages.mapping[old]) & ~3)
    pages.index[new] = pages.index[old]
    pages.mapping[new] = pages.mapping[old]
    cached = False
    if kind in (FolioKind.FILE, FolioKind.SHMEM) and isinstance(found, PageCache):
        found.replace(old, new)
        cached = True
        if pages.has(old, PageFlag.PRIVATE):
            # buffer_migrate_folio(): the reference goes with it.
            pages.private[new], pages.private[old] = pages.private[old], 0
            pages.clear(old, PageFlag.PRIVATE)
            pages.set(new, PageFlag.PRIVATE)
            get_refs(machine, new, 1)
            get_refs(machine, old, -1)
    if old in machine.swap_cache.folios:
        machine.swap_cache.replace(old, new)
        cached = True
    if cached:
        get_refs(machine, new, count)
        get_refs(machine, old, -count)
    pages.flags[new] |= np.uint32(int(pages.flags[old]) & int(_MIGRATED))
    pages.clear(old, PageFlag.SWAPCACHE | PageFlag.ACTIVE | PageFlag.UNEVICTABLE | PageFlag.DIRTY)
    if isinstance(found, StableNode):
        # folio_migrate_ksm(): the items name places, the walk names the page.
        assert int(pages.mapping[new]) & MAPPING_ANON
    else:
        # Anonymous pages keep their mapping until they are freed.
        pages.mapping[old] = pages.mapping[old] if kind is FolioKind.ANON else 0
    folio = machine.rmap.folios.get(old)
    if folio is not None:
        machine.rmap.unqueue_deferred_split(folio)
    if machine.page_owner is not None:
        machine.page_owner.copy(new, old, machine.rmap.order(old))
        machine.page_owner.set_migrate_reason(new, reason)
    if machine.alloc_tags is not None:
        machine.alloc_tags.migrate(new, old, machine.rmap.order(old))


def migrate_pages(
    machine: Machine, heads: list[int], reason: int = MigrateReason.CONTIG_RANGE
) -> tuple[list[int], bool]:
    """``migrate_pages()``: move isolated folios. A large one that finds no place is split first.

    :return: Those that could not move, still isolated; and whether memory ran out (-ENOMEM).
    """
    left: list[int] = []
    waiting = deque(heads)
    while waiting:
        head = waiting.popleft()
        if int(machine.pages.refcount[head]) == 1:
            # Freed by everyone else meanwhile; ours is the last reference.
            with calls(machine, "migrate_pages"):
                machine.put_page(head)
            continue
        try:
            if migrate_folio(machine, head, reason) is None:
                left.append(head)
        except MemoryError:
            count = machine.rmap.nr_pages(head)
            if count == 1:
                return [*left, head, *waiting], True
            if split_folio(machine, head, isolated=True):
                waiting.extendleft(range(head + count - 1, head - 1, -1))
            else:
                left.append(head)
    return left, False
