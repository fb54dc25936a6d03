"""References to folios: taken and dropped, and how many the kernel expects (include/linux/mm.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .folio import FolioKind
from .pages import PageFlag

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["cache_references", "expected_ref_count", "get_refs", "put_refs"]


def get_refs(machine: Machine, head: int, count: int) -> None:
    """``folio_ref_add()``."""
    machine.pages.refcount[head] += np.int32(count)


def put_refs(machine: Machine, head: int, count: int, *, one_by_one: bool = False) -> None:
    """``folio_put_refs()``: drop references at once; the folio is freed when none is left.

    :param one_by_one: ``put_page()`` as often: each is an event of its own when it is marked.
    """
    pinner = machine.page_pinner
    if one_by_one and pinner is not None and machine.page_ext.flags[head] & pinner.flag:
        for _ in range(count - 1):
            machine.put_page(head)
    else:
        machine.pages.refcount[head] -= np.int32(count - 1)
    machine.put_page(head)


def cache_references(machine: Machine, head: int) -> int:
    """References of the page cache, of the swap cache and of private data to a folio."""
    pages, kind = machine.pages, machine.rmap.kind(head)
    cached = kind in (FolioKind.FILE, FolioKind.SHMEM)
    swapcache = pages.has(head, PageFlag.SWAPCACHE) and pages.has(head, PageFlag.SWAPBACKED)
    private = pages.has(head, PageFlag.PRIVATE) and kind is not FolioKind.ANON
    return machine.rmap.nr_pages(head) * (cached or swapcache) + private


def expected_ref_count(machine: Machine, head: int) -> int:
    """``folio_expected_ref_count()`` (6.16; before, spread over mm/migrate.c): mappings and caches."""
    return machine.rmap.mapcount(head) + cache_references(machine, head)
