"""Invariants of page_owner: its records against the pages that they are of (mm/page_owner.c)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError

from mmdump.checks import Broken, Check, Violations
from mmdump.kernel.arrays import runs
from mmdump.kernel.layout import find_object
from mmdump.kernel.stackdepot import StackStatus
from mmdump.target.reader import ReadStatus
from mmdump_page_owner.record import Owners, on_every_page, read_owners, why_no_owner

if TYPE_CHECKING:
    import polars as pl

    from mmdump.analysis import Columns
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["CHECKS"]

#: Distinct handles of a range that are looked up; a machine has some thousands in all.
_MAX_HANDLES = 1 << 14


class _OwnerCheck(Check):
    """What checks of records have in common."""

    page_ext = ("page_owner",)

    def why_not(self, kernel: Kernel) -> str | None:
        """Not every kernel has owners."""
        return why_no_owner(kernel)

    def start(self, kernel: Kernel) -> object:
        """What reading the records needs."""
        return read_owners(kernel)


class OwnerFree(_OwnerCheck):
    """``__reset_page_owner()`` runs before a page becomes free, ``__set_page_owner()`` after it was taken."""

    name = "owner-free"
    summary = "a free page has no owner, but for one made up at boot"

    def start(self, kernel: Kernel) -> tuple[Owners | None, int]:
        """What reading the records needs, and the handle of the records made up at boot."""
        return read_owners(kernel), _early_handle(kernel)

    def scan(self, pages: PageRange, state: tuple[Owners, int]) -> Sequence[Violations]:
        """Free pages whose record says that they are allocated."""
        if pages.ext is None:
            return ()
        owners, early = state
        rows = np.flatnonzero(owners.recorded(pages) & pages.in_free_block)
        if not len(rows):
            return ()
        handle = pages.ext["page_owner"]["handle"]
        rows = rows[(handle[rows] != early) & (pages.ext.status[rows] == ReadStatus.READ)]
        what = "is free, and page_owner says it is allocated (handle {handle:#x})"
        return [Violations(what, rows, {"handle": handle})]


def _early_handle(kernel: Kernel) -> int:
    """``early_handle``: ``init_pages_in_zone()`` gives it to all that is not in the buddy allocator then.

    Those on per-CPU lists are free, and keep the record when they go back to the buddy allocator.
    """
    prog = kernel.target.prog
    found = find_object(prog, "early_handle", "mm/page_owner.c")
    try:
        return int(found.value_()) if found is not None else 0
    except FaultError:
        return 0


class OwnerUsed(_OwnerCheck):
    """Since 5.4 records outlive the allocation, and say so."""

    name = "owner-used"
    summary = "a page with references has not been freed"

    def scan(self, pages: PageRange, state: Owners) -> Sequence[Violations]:  # noqa: ARG002
        """Pages in use whose record says that they were freed. Poisoned ones are taken out of use so."""
        if pages.ext is None or not on_every_page(pages.ext["page_owner"].names):
            return ()
        freed = pages.ext.has_flag("PAGE_EXT_OWNER") & ~pages.ext.has_flag("PAGE_EXT_OWNER_ALLOCATED")
        rows = np.flatnonzero(freed & ~pages.in_free_block)
        rows = rows[(pages.ext.status[rows] == ReadStatus.READ) & (pages.refcount[rows] > 0)]
        rows = rows[~pages.has_flag("PG_reserved", "PG_hwpoison", at=rows)]
        return [
            Violations(
                "has {refcount:reference}, and page_owner says it was freed",
                rows,
                {"refcount": pages.refcount},
            )
        ]


class OwnerRecord(_OwnerCheck):
    """``struct page_owner``."""

    name = "owner-record"
    summary = "an owner's record has an order that can be, and the handle of a call chain"
    keys = ("handle",)
    least = ("pfn",)

    def scan(self, pages: PageRange, state: Owners) -> Sequence[Violations]:
        """Records of an order that no allocation has."""
        if pages.ext is None:
            return ()
        rows = np.flatnonzero(state.garbage(pages, state.allocated(pages)))
        if not len(rows):
            return ()
        order = pages.ext["page_owner"]["order"]
        return [Violations("page_owner says it was allocated with order {order}", rows, {"order": order})]

    def tally(self, pages: PageRange, state: Owners) -> Columns | None:
        """The handles there are, and the first page of each."""
        if pages.ext is None:
            return None
        allocated = state.allocated(pages)
        rows = np.flatnonzero(allocated & ~state.garbage(pages, allocated))
        if not len(rows):
            return None
        # Neighbours often are of one allocation.
        handles = pages.ext["page_owner"].at("handle", rows) & np.uint32(state.handle_mask)
        starts, lengths = runs(handles)
        found, first, which = np.unique(handles[starts], return_index=True, return_inverse=True)
        count = np.zeros(len(found), np.int64)
        np.add.at(count, which, lengths)
        return {
            "handle": found[:_MAX_HANDLES].astype(np.int64),
            "pages": count[:_MAX_HANDLES],
            "pfn": rows[starts[first[:_MAX_HANDLES]]] + pages.start,
        }

    def finish(
        self,
        kernel: Kernel,
        state: Owners,  # noqa: ARG002
        sums: pl.DataFrame | None,
    ) -> Sequence[Broken]:
        """Handles that lead to no call chain. Where their place is not in the dump, nobody knows."""
        depot = kernel.stack_depot
        if depot is None or sums is None:
            return ()
        broken = []
        for handle, pages, pfn in sums.select("handle", "pages", "pfn").iter_rows():
            status = depot.stack(handle).status
            if status in (StackStatus.BAD_HANDLE, StackStatus.NOT_A_RECORD):
                of = (
                    f"its handle {handle:#x}"
                    if pages == 1
                    else f"the handle that {pages} pages have, {handle:#x},"
                )
                broken.append(Broken(f"{of} leads to no call chain: {status.value}", pfn))
        return broken


CHECKS: tuple[type[Check], ...] = (OwnerFree, OwnerUsed, OwnerRecord)
