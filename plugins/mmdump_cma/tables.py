"""The tables of ``mmdump cma``: areas, their ranges, and what blocks them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from mmdump.result import Column, Kind, Schema, Table
from mmdump_cma.files import longest_clear
from mmdump_page_pinner.cma import CMA, cma_table
from mmdump_page_pinner.evidence import EVIDENCE

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import Bools
    from mmdump.kernel.cma import CmaArea

__all__ = ["AREAS", "BLOCKERS", "RANGES", "area_table", "blocker_table", "range_table"]

_SHARED = CMA.columns[2:7]
_LONGEST = CMA.columns[7:]
_CLEAR = Column(
    "longest_clear", Kind.BYTES, "longest run that is not allocated by the bitmap (the kernel's maxchunk)"
)
_STRAY = Column(
    "free_allocated", Kind.COUNT, "pages allocated by the bitmap, but on the free lists", in_text=False
)

RANGES = Schema(
    "ranges",
    (
        CMA.columns[0],
        Column("range", Kind.ID, "number of the range in its area (several since 6.15)"),
        CMA.columns[1],
        *_SHARED,
        _CLEAR,
        *_LONGEST,
        Column(
            "order_per_bit", Kind.ID, "a bit of the bitmap stands for 2**order_per_bit pages", in_text=False
        ),
        _STRAY,
        Column("free_allocated_pfn", Kind.PFN, "the first of these", in_text=False),
    ),
    "Ranges",
)

AREAS = Schema(
    "areas",
    (
        CMA.columns[0],
        Column("ranges", Kind.COUNT, "ranges that it consists of"),
        *_SHARED,
        Column(
            "counted",
            Kind.BYTES,
            "allocated, by the kernel's count (available_count, since 6.15)",
            in_text=False,
        ),
        _CLEAR,
        *_LONGEST,
        _STRAY,
        Column(
            "succeeded",
            Kind.COUNT,
            "pages given out since boot, by the area's own count (CONFIG_CMA_SYSFS, since 5.13)",
            in_text=False,
        ),
        Column("failed", Kind.COUNT, "pages asked for in vain since boot, likewise", in_text=False),
    ),
    "CMA areas",
)

BLOCKERS = Schema(
    "blockers",
    (
        CMA.columns[0],
        Column("range", Kind.ID, "number of the range"),
        Column("evidence", Kind.TEXT, "why it is held: page_pinner, foll_pin, excess, as in mmdump pinned"),
        Column("folios", Kind.COUNT, "held folios that reach into what is not allocated"),
        Column("size", Kind.BYTES, "their pages there"),
    ),
    "What is in the way",
)


def _frame(schema: Schema, rows: Sequence[Sequence[object]]) -> Table:
    types = {column.name: pl.String if column.kind is Kind.TEXT else pl.Int64 for column in schema.columns}
    return Table(schema, pl.DataFrame(rows, schema=types, orient="row"))


def range_table(
    kernel: Kernel,
    areas: Sequence[CmaArea],
    allocated: Sequence[Bools | None],
    runs: pl.DataFrame,
    stray: pl.DataFrame | None,
) -> tuple[Table, list[str]]:
    """One row for each range, and one sentence for each whose bitmap could not be read.

    :param allocated: For each range, one truth value per page.
    :param runs: Runs of pages of one state, of all ranges.
    :param stray: Free pages that are given out: area (its index in ``areas``), pages, pfn.
    """
    table, notes = cma_table(kernel, areas, runs)
    strays = {} if stray is None else {area: (pages, pfn) for area, pages, pfn in stray.iter_rows()}
    rows = []
    for index, (row, area, bits) in enumerate(zip(table.frame.iter_rows(), areas, allocated, strict=True)):
        clear = None if bits is None else longest_clear(bits) * kernel.target.page_size
        count, first = strays.get(index, (None if bits is None else 0, None))
        _, base, *shared = row[:7]
        rows.append(
            (area.area, area.number, base, *shared, clear, *row[7:], area.order_per_bit, count, first)
        )
    return _frame(RANGES, rows), notes


def area_table(areas: Sequence[CmaArea], ranges: pl.DataFrame, page_size: int) -> Table:
    """One row for each area: the sums of its ranges, and the longest of their runs.

    What is unknown of one range is unknown of the area.
    """
    of: dict[int, list[int]] = {}
    for row, area in enumerate(areas):
        of.setdefault(area.index, []).append(row)
    rows = []
    for members in of.values():
        first, part = areas[members[0]], ranges[members]

        def total(name: str, part: pl.DataFrame = part) -> int | None:
            return None if part[name].null_count() else int(part[name].sum())

        def longest(name: str, part: pl.DataFrame = part) -> int | None:
            values = part[name].to_list()
            return None if None in values else max(values)

        size = int(part["size"].sum())
        rows.append(
            (
                first.area,
                len(members),
                size,
                *(total(column.name) for column in _SHARED[1:]),
                None if first.available is None else _signed(size - first.available * page_size),
                *(longest(column.name) for column in (_CLEAR, *_LONGEST)),
                total(_STRAY.name),
                first.succeeded,
                first.failed,
            )
        )
    return _frame(AREAS, rows)


def _signed(value: int) -> int:
    """As an int64: a count that is garbage may be anything."""
    return max(min(value, (1 << 63) - 1), -(1 << 63))


def blocker_table(areas: Sequence[CmaArea], found: pl.DataFrame | None, page_size: int) -> Table:
    """Held folios by range and evidence, the most pages first."""
    rows = []
    if found is not None:
        for index, code, folios, pages in (
            found.sort("pages", "area", "evidence", descending=[True, False, False])
            .select("area", "evidence", "folios", "pages")
            .iter_rows()
        ):
            names = ", ".join(name for bit, name in enumerate(EVIDENCE) if code >> bit & 1)
            rows.append((areas[index].area, areas[index].number, names, folios, pages * page_size))
    return _frame(BLOCKERS, rows)
