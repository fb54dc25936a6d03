"""Invariants of free memory: blocks of the buddy allocator as their pages show them (mm/page_alloc.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError

from mmdump.checks import Check, Violations
from mmdump.kernel.layout import find_object

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64, U64
    from mmdump.kernel.names import FlagNames
    from mmdump.kernel.page import PageRange

__all__ = ["CHECKS"]


class BuddyOrder(Check):
    """``set_buddy_order()``, ``__find_buddy_pfn()``."""

    name = "buddy-order"
    summary = "a free block has an order that the allocator has, and begins at a multiple of its size"

    def scan(self, pages: PageRange, state: None) -> Sequence[Violations]:  # noqa: ARG002
        """First pages of free blocks with an impossible order, or in an impossible place for theirs."""
        rows = pages.buddies
        order = pages.word_at("private", rows)
        impossible = order > pages.layout.max_buddy_order
        size = np.left_shift(1, np.where(impossible, 0, order).astype(np.int64))
        misplaced = ((rows + pages.start) & (size - 1)) != 0
        if not (impossible | misplaced).any():
            return ()
        values = {"order": pages.private}
        return [
            Violations(
                "a free block of order {order}, which the allocator does not have", rows[impossible], values
            ),
            Violations(
                "a free block of order {order} that begins at no multiple of its size",
                rows[misplaced],
                values,
            ),
        ]


class BuddyOverlap(Check):
    """A free block is on one list, and all its pages are in it."""

    name = "buddy-overlap"
    summary = "free blocks do not overlap"

    def scan(self, pages: PageRange, state: None) -> Sequence[Violations]:  # noqa: ARG002
        """First pages of free blocks that lie in another one."""
        heads = pages.buddies
        ends = heads + np.left_shift(1, pages.buddy_order[heads].astype(np.int64))
        within = heads[1:] < np.maximum.accumulate(ends)[:-1]
        return [Violations("a free block within another", heads[1:][within])]


class FreeReferences(Check):
    """``page_expected_state()``, ``free_page_is_bad()``: checked on every free."""

    name = "free-refcount"
    summary = "a free page has no references"

    def scan(self, pages: PageRange, state: None) -> Sequence[Violations]:  # noqa: ARG002
        """Pages of free blocks with references."""
        rows = pages.referenced[pages.in_free_block[pages.referenced]]
        return [Violations("is free, and has a _refcount of {refcount}", rows, {"refcount": pages.refcount})]


class FreeFolio(Check):
    """``free_tail_page_prepare()`` takes folios apart."""

    name = "free-folio"
    summary = "a free page belongs to no folio"

    def scan(self, pages: PageRange, state: None) -> Sequence[Violations]:  # noqa: ARG002
        """Pages of free blocks that are heads or tails."""
        free = pages.in_free_block
        return [
            Violations("is free, and the head of a folio", pages.heads[free[pages.heads]]),
            Violations(
                "is free, and a tail: its compound_head is {head:#x}",
                pages.tails[free[pages.tails]],
                {"head": pages.compound_head},
            ),
        ]


@dataclass(frozen=True)
class _Flags:
    """Flags words as the names of some of their bits, for the rows that are shown."""

    words: U64
    mask: int
    names: FlagNames

    def __getitem__(self, row: int) -> str:
        return "|".join(self.names.split(int(self.words[row]) & self.mask))


class FreeFlags(Check):
    """PAGE_FLAGS_CHECK_AT_PREP: freeing a page clears its flags, but for PG_hwpoison."""

    name = "free-flags"
    summary = "a free page has no page flags, but for hwpoison, and reported on the first page of its block"

    def start(self, kernel: Kernel) -> FlagNames:
        """The names of flags."""
        return kernel.page_flag_names

    def scan(self, pages: PageRange, state: FlagNames) -> Sequence[Violations]:
        """Pages of free blocks with other flags. PG_reported is left to the check of that name."""
        layout = pages.layout
        count = layout.flags.get("__NR_PAGEFLAGS")
        if count is None:
            return ()
        mask = ((1 << count) - 1) & ~layout.mask("PG_hwpoison", "PG_reported")
        rows = pages.flagged[pages.in_free_block[pages.flagged]]
        rows = rows[(pages.flags[rows] & np.uint64(mask)) != 0]
        flags = _Flags(pages.flags, mask, state)
        return [Violations("is free, and has flags {flags}", rows, {"flags": flags})]


class Reported(Check):
    """PG_reported (5.7), an alias of PG_uptodate, is cleared by ``del_page_from_free_list()``."""

    name = "reported"
    summary = "only the first page of a free block says that the block was reported to the hypervisor"

    def why_not(self, kernel: Kernel) -> str | None:
        """Kernels before 5.7 have no free page reporting."""
        return None if "PG_reported" in kernel.page_layout.flags else "this kernel reports no free pages"

    def start(self, kernel: Kernel) -> tuple[bool, I64]:
        """Whether anything can have been reported, and the first pages of what is on per-CPU lists."""
        key = find_object(kernel.target.prog, "page_reporting_enabled")
        try:
            # Never switched off again, even when the device that wanted reports has gone.
            possible = key is not None and key.key.enabled.counter.value_() > 0
        except (FaultError, AttributeError):
            possible = True
        return possible, np.sort(kernel.per_cpu_pages.pfn)

    def scan(self, pages: PageRange, state: tuple[bool, I64]) -> Sequence[Violations]:
        """The bit on other free pages: there it means nothing else either, since free pages have no flags."""
        possible, per_cpu = state
        bit = pages.has_flag("PG_reported")
        reported = np.flatnonzero(bit)
        inside = pages.in_free_block[reported] & ~pages.is_buddy[reported]
        words = "is reported, and not the first page of its free block"
        found = [Violations(words, reported[inside])]
        rows = per_cpu[(per_cpu >= pages.start) & (per_cpu < pages.end)] - pages.start
        free = rows[(pages.refcount[rows] == 0) & ~pages.is_buddy[rows]]
        found.append(Violations("is reported, and on a per-CPU list", free[bit[free]]))
        if not possible:
            words = "is reported, though this kernel reports nothing"
            found.append(Violations(words, reported[pages.is_buddy[reported]]))
        return found


class PageblockType(Check):
    """``set_pageblock_migratetype()``."""

    name = "pageblock-type"
    summary = "a pageblock has a migratetype that the kernel has"

    def start(self, kernel: Kernel) -> tuple[int, int]:
        """How many migratetypes there are, and the order of pageblocks."""
        return len(kernel.pageblocks.names), kernel.pageblocks.order

    def scan(self, pages: PageRange, state: tuple[int, int]) -> Sequence[Violations]:
        """First pages of blocks with another one."""
        types, order = state
        first = np.arange(-pages.start % (1 << order), len(pages), 1 << order)
        if not types or not len(first):
            return ()
        found = pages.migratetype_of(first)
        # 255 could not be read.
        rows = first[(found >= types) & (found != 255)]
        if not len(rows):
            return ()
        return [Violations("its pageblock has migratetype {type}", rows, {"type": pages.migratetype})]


CHECKS: tuple[type[Check], ...] = (
    BuddyOrder,
    BuddyOverlap,
    FreeReferences,
    FreeFolio,
    FreeFlags,
    Reported,
    PageblockType,
)
