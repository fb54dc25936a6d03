"""What stands in the way of a CMA allocation: the areas page by page, condensed to runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mmdump.amounts import bytes_text
from mmdump.kernel.arrays import runs
from mmdump.kernel.cma import read_cma_bitmap
from mmdump.result import Column, Finding, Kind, Schema, Severity, Table
from mmdump_page_pinner.groups import who_holds
from mmdump_page_pinner.live import held_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmdump.analysis import Columns
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64, U8
    from mmdump.kernel.cma import CmaArea
    from mmdump.kernel.page import PageRange
    from mmdump_page_pinner.evidence import Held

__all__ = ["CMA", "area_of", "cma_findings", "cma_runs", "cma_table"]

CMA = Schema(
    "cma",
    (
        Column("area", Kind.TEXT, "name of the area"),
        Column("base_pfn", Kind.PFN, "its first page"),
        Column("size", Kind.BYTES, "its size"),
        Column("used", Kind.BYTES, "allocated by cma_alloc(), by the area's bitmap"),
        Column("free", Kind.BYTES, "free pages"),
        Column("movable", Kind.BYTES, "in use by others, and movable"),
        Column("blockers", Kind.COUNT, "pages of held folios: they make an allocation over them fail"),
        Column("longest_now", Kind.BYTES, "longest run that could be allocated now"),
        Column("longest_without", Kind.BYTES, "longest run if nothing were held"),
    ),
    "CMA areas",
)

#: What a page of an area is, leaving the area's bitmap aside.
_UNKNOWN, _FREE, _MOVABLE, _HELD = range(4)


def area_of(areas: Sequence[CmaArea], pfn: I64) -> I64:
    """The index of the area each PFN lies in, -1 for none (int64)."""
    found = np.full(len(pfn), -1, np.int64)
    for index, area in enumerate(areas):
        found[(pfn >= area.base_pfn) & (pfn < area.end_pfn)] = index
    return found


def cma_runs(pages: PageRange, held: Held, areas: Sequence[CmaArea]) -> Columns:
    """The pages of the areas that lie in this range, as runs of pages of the same state."""
    starts, lengths, states = [], [], []
    for area in areas:
        low, high = max(area.base_pfn, pages.start), min(area.end_pfn, pages.end)
        if low >= high:
            continue
        inside = slice(low - pages.start, high - pages.start)
        state = _states(pages, held, inside)
        first, length = runs(state)
        starts.append(first + low)
        lengths.append(length)
        states.append(state[first])
    return {
        "start": np.concatenate([*starts, _EMPTY]),
        "pages": np.concatenate([*lengths, _EMPTY]),
        "state": np.concatenate([*states, _EMPTY]).astype(np.uint8),
    }


_EMPTY = np.empty(0, np.int64)


def _states(pages: PageRange, held: Held, inside: slice) -> U8:
    state = np.full(inside.stop - inside.start, _MOVABLE, np.uint8)
    # Free pages have no references; nor have tails, whose folio's are in the head.
    free = (pages.refcount[inside] == 0) & ~pages.is_tail[inside]
    state[free] = _FREE
    blocked = np.zeros(len(pages), bool)
    blocked[held.heads[held.held]] = True
    heads = pages.head_pfn[inside] - pages.start
    # The head may lie in a range before; see find_held().
    heads = np.where(heads >= 0, heads, np.arange(inside.start, inside.stop))
    state[blocked[heads]] = _HELD
    state[~pages.readable[inside]] = _UNKNOWN
    return state


def cma_table(kernel: Kernel, areas: Sequence[CmaArea], found: pl.DataFrame) -> tuple[Table, list[str]]:
    """The areas as a table, and one sentence for each area whose bitmap could not be read."""
    page = kernel.target.page_size
    rows = []
    notes = []
    for area in areas:
        state = np.full(area.count, _UNKNOWN, np.uint8)
        inside = found.filter((pl.col("start") >= area.base_pfn) & (pl.col("start") < area.end_pfn))
        for start, length, what in inside.iter_rows():
            state[start - area.base_pfn : start - area.base_pfn + length] = what
        allocated = read_cma_bitmap(kernel.target.reader, area)
        if allocated is None:
            notes.append(f"the bitmap of CMA area {area.name} could not be read: what it has used is unknown")
            rows.append(
                (area.name, area.base_pfn, area.count * page, *[None] * 3, _blockers(state), None, None)
            )
            continue
        allocated = np.resize(allocated, area.count)
        blocked = (state == _HELD) & ~allocated
        rows.append(
            (
                area.name,
                area.base_pfn,
                area.count * page,
                int(allocated.sum()) * page,
                int(((state == _FREE) & ~allocated).sum()) * page,
                int(((state == _MOVABLE) & ~allocated).sum()) * page,
                int(blocked.sum()),
                _longest(~allocated & ~blocked & (state != _UNKNOWN)) * page,
                _longest(~allocated & (state != _UNKNOWN)) * page,
            )
        )
    types: list[type[pl.DataType]] = [pl.String, *[pl.Int64] * (len(CMA.columns) - 1)]
    frame = pl.DataFrame(rows, schema=dict(zip(CMA.names, types, strict=True)), orient="row")
    return Table(CMA, frame), notes


def _blockers(state: U8) -> int:
    return int(np.count_nonzero(state == _HELD))


def _longest(free: np.ndarray) -> int:
    first, length = runs(free)
    return int(length[free[first]].max(initial=0))


def cma_findings(
    table: Table, groups: pl.DataFrame, page_size: int, holders: pl.DataFrame | None = None
) -> list[Finding]:
    """One finding for each area that something blocks: it names who allocated what is in the way.

    :param groups: See :func:`mmdump_page_pinner.groups.fold_groups`.
    :param holders: Table ``holders`` of mmdump holders, where they were searched for.
    """
    found = []
    for row in table.frame.iter_rows(named=True):
        if not row["blockers"]:
            continue
        quoted = row["area"].replace("'", "''")
        runs_known = (
            f"longest run now {bytes_text(row['longest_now'])}, "
            f"without them {bytes_text(row['longest_without'])}"
            if row["longest_now"] is not None
            else "how long a run could be is unknown"
        )
        found.append(
            Finding(
                "cma-blocked",
                Severity.PROBLEM,
                f"CMA {row['area']}: {bytes_text(row['size'])}; {row['blockers']} "
                f"page{'s block' if row['blockers'] != 1 else ' blocks'} it{who_holds(groups, row['area'])}; "
                f"{_held_now(holders, groups, row, page_size)}{runs_known}.",
                "groups",
                f"cma = '{quoted}' AND state = 'held'",
                about=row["area"],
            )
        )
    return found


def _held_now(
    holders: pl.DataFrame | None, groups: pl.DataFrame, area: dict[str, Any], page_size: int
) -> str:
    """Who has to let go of the pages of an area, as a part of a sentence; empty where nobody looked."""
    if holders is None:
        return ""
    first = area["base_pfn"]
    inside = pl.col("pfn").is_between(first, first + area["size"] // page_size - 1)
    held = groups.filter((pl.col("state") == "held") & (pl.col("cma_area") == area["area"]))["folios"].sum()
    parts = held_now(holders.filter(inside), int(held))
    return f"now held: {', '.join(parts)}; " if parts else ""
