"""``mmdump cma``: the areas, what is in them, and how long a run could be allocated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.amounts import bytes_text, counted
from mmdump.analysis import Analysis, Columns, Parts
from mmdump.errors import IncompleteError, MmdumpError
from mmdump.kernel.cma import read_cma_bitmap
from mmdump.kernel.layout import find_object
from mmdump.result import Result
from mmdump_cma.failures import failure_findings, read_failures
from mmdump_cma.findings import findings_of
from mmdump_cma.tables import AREAS, BLOCKERS, RANGES, area_table, blocker_table, range_table
from mmdump_page_pinner.cma import cma_runs
from mmdump_page_pinner.evidence import find_lasting
from mmdump_page_pinner.marks import CLIENTS, why_no_marks

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import Bools
    from mmdump.kernel.cma import CmaArea
    from mmdump.kernel.page import PageRange
    from mmdump.kernel.references import FolioBatches
    from mmdump_page_pinner.evidence import Held

__all__ = ["Cma"]


@dataclass(frozen=True)
class State:
    """What the scan needs. Plain data.

    :param areas: The ranges of all areas.
    :param allocated: For each of them, one truth value per page; None where the bitmap is not in the dump.
    :param isolate: The number of MIGRATE_ISOLATE.
    """

    areas: tuple[CmaArea, ...]
    allocated: tuple[Bools | None, ...]
    batches: FolioBatches
    isolate: int


@dataclass(frozen=True)
class Cma(Analysis):
    """CMA areas: allocated, free, movable, and what stands in the way of an allocation."""

    name = "cma"
    summary = "CMA areas: what is in them, and what stands in the way of an allocation"
    report_rank = 30
    tables = (RANGES, AREAS, BLOCKERS)
    page_ext = tuple(client.name for client in CLIENTS)

    def why_not(self, kernel: Kernel) -> str | None:
        """Not every kernel has an area."""
        if find_object(kernel.target.prog, "cma_areas") is None:
            return "this kernel was built without CONFIG_CMA"
        try:
            if kernel.cma_areas:
                return None
            return "no CMA area could be read" if kernel.cma_garbage else "this kernel has no CMA area"
        except MmdumpError as error:
            return error.message

    def start(self, kernel: Kernel) -> State:
        """The areas with their bitmaps.

        :raises IncompleteError: The areas are garbage.
        """
        areas = tuple(kernel.cma_areas)
        # Each has its own memory: only garbage makes them overlap that much.
        if sum(area.count for area in areas) > kernel.memmap.end_pfn:
            raise IncompleteError("the CMA areas are garbage: together they are larger than memory")
        allocated = tuple(read_cma_bitmap(kernel.target.reader, area) for area in areas)
        return State(areas, allocated, kernel.folio_batches, kernel.pageblocks.isolate)

    def scan(self, pages: PageRange, state: State) -> Mapping[str, Columns]:
        """The areas in runs of pages of one state, their blockers, and free pages that are given out."""
        inside = [
            (index, max(area.base_pfn, pages.start) - pages.start, min(area.end_pfn, pages.end) - pages.start)
            for index, area in enumerate(state.areas)
            if area.base_pfn < pages.end and area.end_pfn > pages.start
        ]
        if not inside:
            return {}
        pages, held = find_lasting(pages, state.batches)
        return {
            "runs": cma_runs(pages, held, [state.areas[index] for index, _, _ in inside]),
            "blockers": _blockers(pages, held, state, inside),
            "stray": _stray(pages, state, inside),
        }

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Sum blockers and free pages; runs are kept."""
        if part == "blockers":
            return frame.group_by("area", "evidence").agg(pl.col("folios", "pages").sum())
        if part == "stray":
            return frame.group_by("area").agg(pl.col("pages").sum(), pl.col("pfn").min())
        return frame

    def finish(self, kernel: Kernel, state: State, parts: Parts) -> Result:
        """Areas, ranges and blockers."""
        runs = parts.get("runs", _NO_RUNS)
        ranges, incomplete = range_table(kernel, state.areas, state.allocated, runs, parts.get("stray"))
        areas = area_table(state.areas, ranges.frame, kernel.target.page_size)
        if kernel.cma_garbage:
            incomplete.append(f"{kernel.cma_garbage} CMA areas are garbage or could not be read")
        notes = []
        marks = why_no_marks(kernel)
        if marks is not None:
            notes.append(f"No page_pinner evidence: {marks}.")
        if not state.batches.complete:
            notes.append("Some per-CPU folio batches could not be read: what they hold shows as excess.")
        blockers = blocker_table(state.areas, parts.get("blockers"), kernel.target.page_size)
        return Result(
            self.name,
            summary=[_headline(areas.frame)],
            tables={"areas": areas, RANGES.name: ranges, BLOCKERS.name: blockers},
            primary=RANGES.name,
            text_tables=["areas", *([RANGES.name] if len(ranges.frame) > len(areas.frame) else ())]
            + ([BLOCKERS.name] if len(blockers.frame) else []),
            findings=[
                *failure_findings(read_failures(kernel), state.areas, kernel.target.page_size),
                *findings_of(areas, ranges, moving=kernel.target.live),
            ],
            notes=notes,
            incomplete=incomplete,
        )


_NO_RUNS = pl.DataFrame(schema={"start": pl.Int64, "pages": pl.Int64, "state": pl.UInt8})


def _headline(areas: pl.DataFrame) -> str:
    size, blockers = int(areas["size"].sum()), int(areas["blockers"].sum())
    return f"{counted(len(areas), 'CMA area')} of {bytes_text(size)}; {counted(blockers, 'page')} in the way"


def _blockers(
    pages: PageRange, held: Held, state: State, inside: Sequence[tuple[int, int, int]]
) -> dict[str, np.ndarray]:
    """Held folios of the areas by evidence, with their pages that are not given out."""
    found: list[tuple[int, int, int, int]] = []
    heads = held.heads[held.held & held.counted]
    evidence = held.folio_evidence[held.held & held.counted]
    ends = np.minimum(heads + (1 << pages.folio_order[heads].astype(np.int64)), len(pages))
    for index, low, high in inside:
        clear = np.zeros(len(pages) + 1, np.int64)
        clear[low + 1 : high + 1] = 1
        allocated, area = state.allocated[index], state.areas[index]
        if allocated is not None:
            first = pages.start - area.base_pfn
            clear[low + 1 : high + 1] = ~allocated[low + first : high + first]
        before = np.cumsum(clear)
        count = before[ends] - before[heads]
        for code in np.unique(evidence).tolist():
            blocking = (evidence == code) & (count > 0)
            if blocking.any():
                found.append((index, code, int(blocking.sum()), int(count[blocking].sum())))
    rows = np.array(found, np.int64).reshape(-1, 4)
    return dict(zip(("area", "evidence", "folios", "pages"), rows.T.copy(), strict=True))


def _stray(pages: PageRange, state: State, inside: Sequence[tuple[int, int, int]]) -> dict[str, np.ndarray]:
    """Pages of free blocks that the bitmap says are given out.

    Between the bit and the isolation lies a moment, and back as well; isolated blocks are that.
    """
    found = []
    for index, low, high in inside:
        allocated, first = state.allocated[index], pages.start - state.areas[index].base_pfn
        if allocated is None:
            continue
        rows = np.flatnonzero(allocated[low + first : high + first] & pages.in_free_block[low:high]) + low
        rows = rows[pages.migratetype_of(rows) != state.isolate]
        if len(rows):
            found.append((index, len(rows), pages.start + int(rows[0])))
    table = np.array(found, np.int64).reshape(-1, 3)
    return dict(zip(("area", "pages", "pfn"), table.T.copy(), strict=True))
