"""Which memory is searched: not what is free, nor what holds the data of users, nor the page array itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.kernel.arrays import I64, Bools
from mmdump.kernel.page import MAPPING_MOVABLE

if TYPE_CHECKING:
    from mmdump.analysis import Columns
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["Own", "left_out", "read_own", "runs_of"]

#: Step in which the page tables of the page array are asked.
_STEP = 2 << 20
#: Steps that are asked at most: an array for 16 TiB. What lies beyond is searched too.
_MAX_STEPS = 1 << 17


@dataclass(frozen=True)
class Own:
    """Where the page array itself lies, as ranges of PFNs. Plain data.

    :param start: First PFNs, ascending, int64.
    :param end: One past the last, int64.
    :param complete: Whether its page tables could be read.
    """

    start: I64
    end: I64
    complete: bool = True

    def mask(self, first: int, count: int) -> Bools:
        """Which of the pages [first, first + count) are part of it."""
        edges = np.zeros(count + 1, np.int32)
        low = int(np.searchsorted(self.end, first, "right"))
        high = int(np.searchsorted(self.start, first + count, "left"))
        np.add.at(edges, np.maximum(self.start[low:high] - first, 0), 1)
        np.add.at(edges, np.minimum(self.end[low:high] - first, count), -1)
        return np.cumsum(edges[:-1]) > 0


def read_own(kernel: Kernel) -> Own:
    """Ask the kernel's page tables where the page array lies."""
    from drgn.helpers.linux.mm import follow_phys

    memmap, target = kernel.memmap, kernel.target
    starts, ends = [], []
    steps = failed = 0
    init_mm = target.prog["init_mm"].address_of_().read_()
    # A section's part of the array is contiguous; one entry for 2 MiB says where all of it is.
    for first, last in memmap.ranges.tolist():
        low = memmap.address(first)
        high = memmap.address(last)
        at = low
        while at < high and steps < _MAX_STEPS:
            steps += 1
            stop = min(high, (at // _STEP + 1) * _STEP)
            try:
                physical = int(follow_phys(init_mm, at).value_())
                end = int(follow_phys(init_mm, stop - 1).value_()) + 1
            except Exception:  # the page tables are not in the dump, or drgn does not know them
                failed += 1
                at = stop
                continue
            if end - physical == stop - at:
                starts.append(physical >> target.page_shift)
                ends.append(-(-end // target.page_size))
            else:
                failed += 1
            at = stop
    if not starts:
        return Own(_NONE, _NONE, complete=False)
    start, end_pfn = _merged(np.array(starts, np.int64), np.array(ends, np.int64))
    return Own(start, end_pfn, complete=not failed and steps < _MAX_STEPS)


_NONE = np.empty(0, np.int64)


def _merged(start: I64, end: I64) -> tuple[I64, I64]:
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    first = np.concatenate(([True], start[1:] > end[:-1]))
    last = np.concatenate((first[1:], [True]))
    return start[first], end[last]


def left_out(pages: PageRange, own: Own, *, users: bool = False, free: bool = False) -> Bools:
    """Pages of a range that are not searched.

    :param users: Search what holds users' data too: anonymous memory and the page cache.
    :param free: Search free blocks too.
    """
    skipped = own.mask(pages.start, len(pages))
    if not free:
        skipped |= pages.in_free_block
    if not users:
        skipped |= _users(pages)
    return skipped


def _users(pages: PageRange) -> Bools:
    """Pages whose bytes are those of processes or files: their folio has a mapping, or is on the LRU."""
    mapping = pages.mapping
    of_user = ((mapping != 0) & ((mapping & np.uint64(3)) != MAPPING_MOVABLE)) | pages.has_flag("PG_lru")
    of_user &= ~pages.is_typed() & ~pages.is_type("slab") & (pages.refcount > 0)
    of_user |= pages.is_type("hugetlb")
    of_user &= ~pages.has_flag("PG_reserved") & ~pages.is_tail & pages.readable
    # What a tail's words mean is another matter: it is what its head is.
    tails = np.flatnonzero(pages.is_tail)
    heads = pages.head_pfn[tails] - pages.start
    inside = heads >= 0
    of_user[tails[inside]] = of_user[heads[inside]]
    return of_user


def runs_of(pages: PageRange, skipped: Bools) -> Columns:
    """What is searched of a range, as runs of pages: columns start (PFN) and pages; and how many are not."""
    edges = np.flatnonzero(np.diff(np.concatenate(([True], skipped, [True])).astype(np.int8)))
    return {"start": edges[::2] + pages.start, "pages": edges[1::2] - edges[::2]}


def joined_runs(runs: pl.DataFrame) -> pl.DataFrame:
    """Runs that touch, made one: associative, so that they can be folded."""
    start, pages = runs["start"].to_numpy(), runs["pages"].to_numpy()
    if len(start) < 2:
        return runs
    first = np.concatenate(([True], start[1:] != (start + pages)[:-1]))
    index = np.flatnonzero(first)
    return pl.DataFrame({"start": start[index], "pages": np.add.reduceat(pages, index)})
