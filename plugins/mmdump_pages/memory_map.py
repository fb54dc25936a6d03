"""``mmdump map``: what physical memory is used for, pageblock by pageblock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.amounts import bytes_text
from mmdump.analysis import Analysis, Columns, Parts
from mmdump.kernel.arrays import counts
from mmdump.kernel.holes import hole_note, in_hole, zone_spans
from mmdump.kernel.page import MAPPING_MOVABLE
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
    :param block_order: Order of a pageblock.
    :param cma: The number of MIGRATE_CMA; -1 where there is none.
    :param stock: PFNs on per-CPU lists, which are free, ascending, int64.
    :param spans: Where zones are: PFN ranges, int64 of shape (n, 2); None where not all are known.
    """

    order: int
    block_order: int
    cma: int
    batches: FolioBatches
    stock: I64
    spans: I64 | None = None


@dataclass(frozen=True)
class MemoryMap(Analysis):
    """What physical memory is used for: a row for each pageblock, or for some on a large machine.

    A page counts as pinned if its folio is held (see mmdump pinned), as movable if it is user memory, as
    unmovable if it is the kernel's own.
    """

    name = "map"
    summary = "what physical memory is used for, pageblock by pageblock"
    report_rank = 10
    tables = (CELLS, TOTALS)

    def start(self, kernel: Kernel) -> State:
        """Choose the size of cells."""
        order = kernel.pageblocks.order
        while kernel.memmap.pages >> order > _MOST_CELLS:
            order += 1
        names = kernel.pageblocks.names
        return State(
            order,
            kernel.pageblocks.order,
            names.index("CMA") if "CMA" in names else -1,
            kernel.folio_batches,
            _stock(kernel),
            zone_spans(kernel),
        )

    def scan(self, pages: PageRange, state: State) -> Mapping[str, Columns]:
        """Count the pages of each cell by use."""
        pages, held = find_lasting(pages, state.batches)
        uses = uses_of(pages, held, state.cma, state.stock)
        starts = _edges(pages, state.order)
        where = _first_known(pages.readable, starts)
        known = pages.readable[where]
        lengths = np.diff(np.append(starts, len(pages)))
        hole = in_hole(pages, state.spans)
        outside = counts(hole, starts)
        uses[hole] = _UNREAD
        columns: dict[str, np.ndarray] = {
            "cell": (starts + pages.start) >> state.order,
            "pages": lengths - outside,
            "node": np.where(known, pages.node_of(where), -1),
            "zone": np.where(known, pages.zone_of(where), np.uint8(_NOWHERE)),
            "migratetype": _types(pages, starts, state.block_order),
        }
        columns |= _sums(uses, starts, lengths)
        memory = columns["pages"] > 0
        return {
            "cells": columns if memory.all() else {name: each[memory] for name, each in columns.items()},
            "outside": {"pages": np.array([outside.sum()])},
        }

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Sum the pieces of cells that are larger than a range; they come one after the other."""
        if part == "outside":
            return frame.sum()
        cell, kinds = frame["cell"], pl.col("migratetype")
        if not (cell == cell.shift()).any():
            return frame
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
        notes += hole_note(int(parts["outside"]["pages"].sum()), page_size)
        return Result(
            self.name,
            summary=[_headline(totals)],
            tables=tables,
            primary=CELLS.name,
            text_tables=[TOTALS.name],
            notes=notes,
        )


def _first_known(readable: Bools, starts: I64) -> I64:
    """The first page of each cell that can be read, and so says where the cell lies; or else its first."""
    if readable[starts].all():
        return starts
    known = np.append(np.flatnonzero(readable), len(readable))
    first = known[np.searchsorted(known, starts)]
    return np.where(first < np.append(starts[1:], len(readable)), first, starts)


def _edges(pages: PageRange, order: int) -> I64:
    """The first rows of blocks of an order; the first row of all is always one."""
    size = 1 << order
    return np.append(0, np.arange(size - pages.start % size, len(pages), size))


def _types(pages: PageRange, starts: I64, block_order: int) -> U8:
    """The migratetype of each cell."""
    blocks = _edges(pages, block_order)
    types = pages.migratetype_of(blocks)
    # Where a cell begins a pageblock does.
    first = np.searchsorted(blocks, starts)
    low, high = np.minimum.reduceat(types, first), np.maximum.reduceat(types, first)
    return np.where(low == high, low, np.uint8(_MIXED))


def _sums(uses: U8, starts: I64, lengths: I64) -> dict[str, I64]:
    """How many pages of each cell there are of each use."""
    if (uses == uses[0]).all():
        # As free memory is, by the gigabyte.
        return {use: lengths * (code == uses[0]) for code, use in enumerate(USES) if code}
    return {use: counts(uses == code, starts) for code, use in enumerate(USES) if code}


def uses_of(pages: PageRange, held: Held, cma: int, stock: I64) -> U8:
    """What each page of a range is used for: a code, the index into :data:`USES`, uint8.

    :param held: What is held in this range.
    :param cma: The number of MIGRATE_CMA; -1 where there is none.
    :param stock: PFNs on per-CPU lists, ascending.
    """
    # A page without references need not be free: of pages that are no folio only the first has some.
    used = ~pages.in_free_block
    used[_within(pages, stock)] = False
    uses = np.full(len(pages), _FREE, np.uint8)
    rows = np.flatnonzero(used)
    if len(rows):
        uses[rows] = _of_used(pages, rows, held, cma)
    reported = pages.buddies[pages.has_flag("PG_reported", at=pages.buddies)]
    if len(reported):
        uses[_blocks(pages, reported)] = _REPORTED
    uses[pages.has_flag("PG_reserved")] = _RESERVED
    uses[~pages.readable] = _UNREAD
    return uses


def _of_used(pages: PageRange, rows: I64, held: Held, cma: int) -> U8:
    """The same of some rows that are not free."""
    kinds = kind_codes(pages, rows, cma)
    uses = _OF_KIND[kinds]
    # Movable by its driver (a balloon, zsmalloc), or of a type that is not.
    other = np.flatnonzero(kinds == KINDS.index("other"))
    uses[other[(pages.mapping[rows[other]] & np.uint64(3)) == MAPPING_MOVABLE]] = _MOVABLE
    if held.held.any():
        blocked = np.zeros(len(pages), bool)
        blocked[held.heads[held.held]] = True
        uses[blocked[pages.head_rows(at=rows)]] = _PINNED
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


def _blocks(pages: PageRange, rows: I64) -> Bools:
    """The pages of the free blocks that begin in these rows."""
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
    parts = ", ".join(f"{bytes_text(sums[name])} {word}" for name, word in words.items() if sums[name])
    return f"{bytes_text(sums['size'])} of memory: {parts}."
