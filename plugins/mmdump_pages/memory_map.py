"""``mmdump map``: what physical memory is used for, pageblock by pageblock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.analysis import Analysis, Columns, Parts
from mmdump.kernel.page import MAPPING_MOVABLE
from mmdump.kernel.pageblock import UNKNOWN
from mmdump.result import Column, Kind, Map, Result, Schema, Table
from mmdump_page_owner.kinds import KINDS, kind_codes
from mmdump_page_pinner.evidence import find_lasting

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64, U8, Bools
    from mmdump.kernel.page import PageRange
    from mmdump.kernel.references import FolioBatches
    from mmdump_page_pinner.evidence import Held

__all__ = ["USES", "MemoryMap", "uses_of"]

#: What a page is used for, by code; 0 is a page that could not be read.
USES = ("unread", "pinned", "unmovable", "cma", "movable", "free", "reported", "reserved")
_UNREAD, _PINNED, _UNMOVABLE, _CMA, _MOVABLE, _FREE, _REPORTED, _RESERVED = range(len(USES))

_PARTS = (
    Column("pinned", Kind.COUNT, "user memory that something holds, so that it cannot be moved"),
    Column("unmovable", Kind.COUNT, "memory that the kernel itself uses"),
    Column("cma", Kind.COUNT, "in CMA pageblocks, and given out by cma_alloc()"),
    Column("movable", Kind.COUNT, "user memory: anonymous, page cache, hugetlb, and what drivers can move"),
    Column("free", Kind.COUNT, "free"),
    Column("reported", Kind.COUNT, "free, and given back to the hypervisor"),
    Column("reserved", Kind.COUNT, "PG_reserved: the kernel's image, its page array, firmware"),
)
CELLS = Schema(
    "cells",
    (
        Column("start_pfn", Kind.PFN, "first page"),
        Column("pages", Kind.COUNT, "pages of it that exist"),
        Column("node", Kind.ID, "NUMA node"),
        Column("zone", Kind.TEXT, "zone"),
        Column("migratetype", Kind.TEXT, "migratetype of the pageblock; mixed where several differ"),
        *_PARTS,
    ),
    "Pageblocks",
    Map("start_pfn", "pages", tuple(each.name for each in _PARTS), ("node", "zone", "migratetype")),
)
TOTALS = Schema(
    "totals",
    (
        Column("node", Kind.ID, "NUMA node"),
        Column("zone", Kind.TEXT, "zone"),
        Column("size", Kind.BYTES, "memory that exists"),
        *(Column(each.name, Kind.BYTES, each.description) for each in _PARTS),
    ),
    "Memory by use",
)

#: Cells at most: of a larger machine each is more than one pageblock.
_MOST_CELLS = 1 << 17
#: Stands for pageblocks of several migratetypes, and for a zone that is not known.
_MIXED, _NOWHERE = 254, 255


@dataclass(frozen=True)
class State:
    """What the scan needs. Plain data.

    :param order: Order of a cell, at least that of a pageblock.
    :param cma: The number of MIGRATE_CMA; -1 where there is none.
    :param stock: PFNs on per-CPU lists, which are free, ascending, int64.
    """

    order: int
    cma: int
    batches: FolioBatches
    stock: I64


@dataclass(frozen=True)
class MemoryMap(Analysis):
    """What physical memory is used for: a row for each pageblock, or for some on a large machine.

    A page counts as pinned if its folio is held (see mmdump pinned), as movable if it is user memory, as
    unmovable if it is the kernel's own.
    """

    name = "map"
    summary = "what physical memory is used for, pageblock by pageblock"
    report_rank = 10

    def start(self, kernel: Kernel) -> State:
        """Choose the size of cells."""
        order = kernel.pageblocks.order
        while kernel.memmap.pages >> order > _MOST_CELLS:
            order += 1
        names = kernel.pageblocks.names
        return State(
            order, names.index("CMA") if "CMA" in names else -1, kernel.folio_batches, _stock(kernel)
        )

    def scan(self, pages: PageRange, state: State) -> Mapping[str, Columns]:
        """Count the pages of each cell by use."""
        pages, held = find_lasting(pages, state.batches)
        uses = uses_of(pages, held, state.cma, state.stock)
        first = pages.start >> state.order
        cell = (pages.pfn >> state.order) - first
        cells = int(cell[-1]) + 1
        counts = np.bincount(cell * len(USES) + uses, minlength=cells * len(USES)).reshape(cells, len(USES))
        starts = np.flatnonzero(np.diff(cell, prepend=-1))
        known = pages.readable
        # The first page of a cell that can be read says where it lies.
        where = starts + np.array([known[low:high].argmax() for low, high in _spans(starts, len(pages))])
        types = np.where(pages.migratetype == UNKNOWN, np.uint8(UNKNOWN), pages.migratetype)
        low, high = np.minimum.reduceat(types, starts), np.maximum.reduceat(types, starts)
        columns: dict[str, np.ndarray] = {
            "cell": np.arange(first, first + cells),
            "pages": counts.sum(axis=1),
            "node": np.where(known[where], pages.node[where], -1),
            "zone": np.where(known[where], pages.zone[where], np.uint8(_NOWHERE)),
            "migratetype": np.where(low == high, low, np.uint8(_MIXED)),
        }
        return {"cells": columns | {use: counts[:, code] for code, use in enumerate(USES) if code}}

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:  # noqa: ARG002
        """Sum the pieces of cells that are larger than a range."""
        kinds = pl.col("migratetype")
        return frame.group_by("cell", maintain_order=True).agg(
            pl.col("pages").sum(),
            pl.col("node").max(),
            pl.col("zone").min(),
            pl.when(kinds.n_unique() == 1).then(kinds.first()).otherwise(pl.lit(_MIXED, pl.UInt8)).first(),
            *(pl.col(use).sum() for use in USES[1:]),
        )

    def finish(self, kernel: Kernel, state: State, parts: Parts) -> Result:
        """The cells, and their sums by zone."""
        page_size, order = kernel.target.page_size, state.order
        zones = {zone.index: zone.name for zone in kernel.zones}
        types = dict(enumerate(kernel.pageblocks.names)) | {_MIXED: "mixed"}
        cells = parts["cells"].with_columns(
            (pl.col("cell") * (1 << order)).cast(pl.Int64).alias("start_pfn"),
            pl.col("node").replace(-1, None).cast(pl.Int64),
            pl.col("zone").replace_strict(zones, default=None, return_dtype=pl.String),
            pl.col("migratetype").replace_strict(types, default=None, return_dtype=pl.String),
        )
        totals = (
            cells.group_by("node", "zone", maintain_order=True)
            .agg(pl.col("pages").sum().alias("size"), *(pl.col(use).sum() for use in USES[1:]))
            .with_columns((pl.col(name) * page_size).cast(pl.Int64) for name in ("size", *USES[1:]))
        )
        tables = {
            "totals": Table(TOTALS, totals.select(TOTALS.names)),
            "cells": Table(CELLS, cells.select(CELLS.names)),
        }
        notes = []
        if order > kernel.pageblocks.order:
            blocks = 1 << order - kernel.pageblocks.order
            notes.append(f"A row is {blocks} pageblocks: the machine has too many to show each.")
        return Result(
            self.name,
            summary=[_headline(totals)],
            tables=tables,
            primary=CELLS.name,
            text_tables=[TOTALS.name],
            notes=notes,
        )


def _spans(starts: I64, end: int) -> list[tuple[int, int]]:
    return list(zip(starts.tolist(), [*starts[1:].tolist(), end], strict=True))


def uses_of(pages: PageRange, held: Held, cma: int, stock: I64) -> U8:
    """What each page of a range is used for: a code, the index into :data:`USES`, uint8.

    :param held: What is held in this range.
    :param cma: The number of MIGRATE_CMA; -1 where there is none.
    :param stock: PFNs on per-CPU lists, ascending.
    """
    rows = np.arange(len(pages))
    kinds = kind_codes(pages, rows, cma)
    uses = _OF_KIND[kinds]
    # Movable by its driver (a balloon, zsmalloc), or of a type that is not.
    other = np.flatnonzero(kinds == KINDS.index("other"))
    uses[other[(pages.mapping[other] & np.uint64(3)) == MAPPING_MOVABLE]] = _MOVABLE
    # The head of a gigantic page may lie in a range before: such a tail is judged by itself.
    heads = pages.head_pfn - pages.start
    heads = np.where(heads >= 0, heads, rows)
    blocked = np.zeros(len(pages), bool)
    blocked[held.heads[held.held]] = True
    uses[blocked[heads]] = _PINNED
    # A page without references need not be free: of pages that are no folio only the first has some.
    uses[pages.in_free_block] = _FREE
    uses[_within(pages, stock)] = _FREE
    uses[_reported(pages)] = _REPORTED
    uses[pages.has_flag("PG_reserved")] = _RESERVED
    uses[~pages.readable] = _UNREAD
    return uses


#: By the code of a kind: what is not named here the kernel keeps where it is.
_OF_KIND = np.array(
    [
        {
            **dict.fromkeys(("anon", "ksm", "file", "shmem", "hugetlb"), _MOVABLE),
            "cma": _CMA,
            "reserved": _RESERVED,
        }.get(kind, _UNMOVABLE)
        for kind in KINDS
    ],
    np.uint8,
)


def _stock(kernel: Kernel) -> I64:
    """The pages on per-CPU lists."""
    pcp = kernel.per_cpu_pages
    sizes = np.left_shift(1, np.minimum(pcp.order, 16).astype(np.int64))
    first = np.repeat(pcp.pfn.astype(np.int64), sizes)
    within = np.arange(len(first)) - np.repeat(sizes.cumsum() - sizes, sizes)
    return np.unique(first + within)


def _within(pages: PageRange, pfns: I64) -> I64:
    """Rows of those PFNs that lie in a range."""
    low, high = np.searchsorted(pfns, [pages.start, pages.end]).tolist()
    return pfns[low:high] - pages.start


def _reported(pages: PageRange) -> Bools:
    """The pages of free blocks that were reported to the hypervisor."""
    rows = np.flatnonzero(pages.is_buddy & pages.has_flag("PG_reported"))
    steps = np.zeros(len(pages) + 1, np.int64)
    ends = np.minimum(rows + np.left_shift(np.int64(1), pages.buddy_order[rows].astype(np.int64)), len(pages))
    np.add.at(steps, rows, 1)
    np.add.at(steps, ends, -1)
    return steps.cumsum()[:-1] > 0


def _headline(totals: pl.DataFrame) -> str:
    sums = {name: int(totals[name].sum()) for name in ("size", *USES[1:])}
    words = {
        "pinned": "pinned",
        "unmovable": "unmovable",
        "cma": "given out by CMA",
        "movable": "movable",
        "free": "free",
        "reported": "free and reported",
        "reserved": "reserved",
    }
    parts = ", ".join(f"{_mib(sums[name])} {word}" for name, word in words.items() if sums[name])
    return f"{_mib(sums['size'])} of memory: {parts}."


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
