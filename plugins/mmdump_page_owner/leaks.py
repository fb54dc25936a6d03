"""Which call chains look like leaks.

One dump cannot prove a leak: it does not show what would still have been freed. A chain is a *suspect* when
all of these hold:

- its pages are the kernel's own: no slab, not on an LRU, no page cache or anonymous memory, no page table,
  not reserved (see :mod:`mmdump_page_owner.kinds`);
- they were made all the time: since the first of them, in the first half of the time that the machine ran,
  allocations of three quarters of all sixteenths of that time are still there, of the last sixteenth too;
- there are many, bursts left out: at least 256 allocations, and 1 MiB. Of each sixteenth, what is beyond
  twice the middle one since the first counts as a burst. (A chain is not one user's: a large burst, such as a
  buffer filled once, must not hide what somebody else leaks by the same chain.)
- what it allocated is not freed: for ten of its pages there is at most one that lies free now and whose
  record says that this chain had allocated it last.

A cache that grows with use and never shrinks looks the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.amounts import bytes_text
from mmdump.kernel.arrays import I64, runs
from mmdump.result import Column, Finding, Kind, Schema, Severity, Table
from mmdump_page_owner.chains import BROKEN, Chains
from mmdump_page_owner.kinds import kernels_own

if TYPE_CHECKING:
    from mmdump.analysis import Columns
    from mmdump_page_owner.codes import Rows

__all__ = [
    "age_rows",
    "candidates",
    "fold_ages",
    "fold_frees",
    "free_rows",
    "leak_finding",
    "suspect_table",
    "why_no_leaks",
]

#: Parts that the machine's time is divided into.
_PARTS = 16
_LEAST_ALLOCATIONS = 256
_LEAST_BYTES = 1 << 20
_LEAST_FILLED = 0.75
#: Of the middle part since the first: what a part has beyond is a burst.
_EVENLY = 2
_PAGES_FOR_ONE_FREED = 10
#: Chains kept at most; a real depot has some thousands.
_MAX_CHAINS = 1 << 16

SUSPECTS = Schema(
    "suspects",
    (
        Column("pages", Kind.COUNT, "the kernel's own pages that the chain allocated", weight=True),
        Column("bytes", Kind.BYTES, "the same in bytes", weight=True),
        Column("allocations", Kind.COUNT, "how many allocations they are"),
        Column("evenly", Kind.COUNT, "how many of them were made evenly, bursts left out"),
        Column("oldest_ts_nsec", Kind.NSEC, "when the oldest was made"),
        Column("newest_ts_nsec", Kind.NSEC, "when the newest was made"),
        Column("freed_pages", Kind.COUNT, "pages that lie free and were last allocated by the chain"),
        Column("stack_id", Kind.ID, "stack depot handle of the chain"),
        Column("frames", Kind.STACK, "call chain, innermost first"),
    ),
    "Suspected leaks",
)


def why_no_leaks(*, has_ts: bool) -> str:
    """Why leaks could not be looked for, in one sentence.

    :param has_ts: Whether the records say when a page was allocated (5.11).
    """
    if not has_ts:
        return (
            "This kernel does not record when pages were allocated (Linux 5.11 and newer do): "
            "leaks were not looked for."
        )
    return "When the dump was taken is not in it: leaks were not looked for."


def age_rows(rows: Rows, handle_mask: int, now: int) -> Columns:
    """Allocations of the kernel's own memory, by the part of the machine's time that they were made in.

    :param rows: First pages of allocations.
    :param now: When the dump was taken, nanoseconds.
    """
    rows = rows.only(kernels_own(rows.pages, rows.rows))
    ts, handles, pages = (
        rows.code("ts"),
        _allocated_by(rows, handle_mask),
        np.left_shift(1, rows.code("order")),
    )
    ends = np.arange(1, _PARTS, dtype=np.uint64) * np.uint64(now // _PARTS + 1)
    part = np.searchsorted(ends, ts, side="right").astype(np.uint8)
    # Neighbours often were allocated one after the other.
    starts, lengths = runs(handles << 8 | part)
    return {
        "stack_id": handles[starts],
        "part": part[starts],
        "pages": np.add.reduceat(pages, starts),
        "allocations": lengths,
        "oldest": np.minimum.reduceat(ts, starts),
        "newest": np.maximum.reduceat(ts, starts),
    }


def free_rows(rows: Rows, handle_mask: int) -> Columns:
    """Pages that lie free, by the chain that had allocated them.

    :param rows: Of freed pages.
    """
    handles = _allocated_by(rows, handle_mask)
    starts, lengths = runs(handles)
    return {"stack_id": handles[starts], "freed_pages": lengths}


def _allocated_by(rows: Rows, handle_mask: int) -> I64:
    """The chains that allocated the pages, whether they are allocated now or not."""
    return (rows.column("handle") & np.uint32(handle_mask)).astype(np.int64)


def fold_ages(frame: pl.DataFrame) -> pl.DataFrame:
    """Sum by chain and part."""
    summed = frame.group_by("stack_id", "part").agg(
        pl.col("pages").sum(), pl.col("allocations").sum(), pl.col("oldest").min(), pl.col("newest").max()
    )
    if len(summed) <= _MAX_CHAINS * _PARTS:
        return summed
    # Only garbage has so many; chains of few allocations are no suspects.
    total = pl.col("allocations").sum().over("stack_id")
    return summed.sort(total, descending=True).head(_MAX_CHAINS * _PARTS // 2)


def fold_frees(frame: pl.DataFrame) -> pl.DataFrame:
    """Sum by chain. Beyond a limit all chains count as such that free, so that none is wrongly suspected."""
    summed = frame.group_by("stack_id").agg(pl.col("freed_pages").sum())
    if len(summed) <= _MAX_CHAINS:
        return summed
    return pl.DataFrame({"stack_id": [-1], "freed_pages": [1]}, schema=summed.schema)


def candidates(ages: pl.DataFrame, frees: pl.DataFrame, page_size: int) -> pl.DataFrame:
    """The chains that the rule above suspects, by handle, those with most pages made evenly first."""
    if frees["stack_id"].eq(-1).any():
        return ages.clear().select("stack_id")
    chains = ages.group_by("stack_id").agg(
        pl.col("pages").sum(),
        pl.col("allocations").sum(),
        pl.col("oldest").min().alias("oldest_ts_nsec"),
        pl.col("newest").max().alias("newest_ts_nsec"),
        pl.col("part").n_unique().alias("filled"),
        pl.col("part").min().alias("first"),
        pl.col("part").max().alias("last"),
        pl.col("allocations").sort(descending=True).alias("parts"),
    )
    # Of so many parts since the first, those without an allocation last, the middle one.
    middle = (_PARTS - pl.col("first").cast(pl.Int64)) // 2
    chains = chains.with_columns(
        pl.col("parts").list.get(middle, null_on_oob=True).fill_null(0).alias("middle")
    )
    share = (pl.col("middle") * _EVENLY / pl.col("allocations")).clip(0, 1)
    evenly = (
        ages.join(chains.select("stack_id", "middle"), on="stack_id")
        .group_by("stack_id")
        .agg(
            (pl.col("allocations") * share).sum().round().cast(pl.Int64).alias("evenly"),
            (pl.col("pages") * share).sum().alias("even_pages"),
        )
    )
    chains = (
        chains.join(evenly, on="stack_id")
        .join(frees, on="stack_id", how="left")
        .with_columns(pl.col("freed_pages").fill_null(0), (pl.col("pages") * page_size).alias("bytes"))
    )
    return chains.filter(
        (pl.col("evenly") >= _LEAST_ALLOCATIONS) & (pl.col("even_pages") * page_size >= _LEAST_BYTES),
        (pl.col("first") < _PARTS // 2) & (pl.col("last") == _PARTS - 1),
        pl.col("filled") >= _LEAST_FILLED * (_PARTS - pl.col("first").cast(pl.Int64)),
        pl.col("freed_pages") * _PAGES_FOR_ONE_FREED <= pl.col("pages"),
    ).sort("even_pages", "pages", "stack_id", descending=[True, True, False])


def suspect_table(found: pl.DataFrame, chains: Chains) -> Table | None:
    """The suspects with their call chains; None when there are none.

    :param found: Of :func:`candidates`.
    """
    status = chains.of(found["stack_id"], "status")
    special = chains.of(found["stack_id"], "special")
    # What page_owner could not attribute comes from anywhere.
    found = found.filter(~status.is_in(BROKEN) & special.is_null())
    if not len(found):
        return None
    frames = chains.of(found["stack_id"], "frames").alias("frames")
    return Table(SUSPECTS, found.with_columns(frames).select(SUSPECTS.names))


def leak_finding(suspects: Table) -> Finding:
    """That there are suspects, and why one looks like a leak."""
    largest = suspects.frame.row(0, named=True)
    count = len(suspects.frame)
    size = bytes_text(int(suspects.frame["bytes"].sum()))
    others = f", and {count - 1} more {'chain' if count == 2 else 'chains'}" if count > 1 else ""
    return Finding(
        "page-owner-leak",
        Severity.WARNING,
        f"Suspected leak in {_function(largest['frames'])}: call chain {largest['stack_id']}{others} "
        f"allocated kernel memory all the time the machine ran and hardly freed any ({size} in all). "
        "One dump cannot prove it: a cache that only grows looks the same.",
        SUSPECTS.name,
    )


#: What call chains of pages begin with: the page allocator and what stands before it.
_ALLOCATORS = re.compile(
    r"_*(?:(?:post_|re)?alloc|get_page_from_freelist|get_free_pages|free_page|folio_|page_frag|new_slab|allocate_slab|"
    r"slab_|kmem_cache|kmalloc|kvmalloc|kzalloc|vmalloc|vzalloc|__slab|___slab|set_page_owner|save_stack|"
    r"prep_new_page|krealloc|register_.*stack|stack_)"
)


def _function(frames: Sequence[str]) -> str:
    """The first function of a chain that is no allocator's, as it is printed, without its offset."""
    names = [re.sub(r"\+0x[0-9a-f]+/0x[0-9a-f]+", "", str(frame)) for frame in frames]
    return next(
        (name for name in names if not _ALLOCATORS.match(name)), names[0] if names else "an unknown one"
    )
